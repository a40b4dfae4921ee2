"""A fourth paper: thirty exercises drawn at random, two wrong answers to each, and right ones in other forms."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

from tests.exercises.exam.formulas import back, like, small
from tests.exercises.exam.paper import paper

wrong, right, ANSWERS = paper()


@wrong("after_sedd.who_sees", "noisy positions see earlier noisy blocks", r"noisy")
def sees_earlier_noise(length, block):
    of = torch.arange(length) // block
    same, earlier = of[:, None] == of, of[:, None] > of
    clean = torch.cat([same | earlier, torch.zeros_like(same)], 1)
    return torch.cat([clean, torch.cat([earlier, same | earlier], 1)])


@wrong(
    "after_sedd.who_sees", "noisy positions come first", r"order|first|flip|roll|half|halves|exchanged|noisy"
)
def noisy_first(length, block):
    of = torch.arange(length) // block
    same, earlier = of[:, None] == of, of[:, None] > of
    noisy = torch.cat([same, earlier], 1)
    return torch.cat([noisy, torch.cat([torch.zeros_like(same), same | earlier], 1)])


@wrong("side_by_side.renoised_variance", "fresh noise of time t", r"abar_t|noise")
def noise_of_t(v, abar_t, abar_s):
    return abar_s * abar_t * v**2 / (abar_t * v + 1 - abar_t) + 1 - abar_t


@wrong("side_by_side.renoised_variance", "the standard deviation", r"root|sqrt|standard|square")
def deviation(v, abar_t, abar_s):
    return (abar_s * abar_t * v**2 / (abar_t * v + 1 - abar_t) + 1 - abar_s).sqrt()


@wrong("diffuseq.partial_noise", "the source is scaled, too", r"source|x_?0|target")
def scaled_everywhere(x0, target, alpha_bar, noise):
    a = alpha_bar[:, None, None]
    return a.sqrt() * x0 + (1 - a).sqrt() * noise * target[..., None]


@wrong("diffuseq.partial_noise", "noise on top of the whole x_0", r"\bx_?0\b")
def noise_on_top(x0, target, alpha_bar, noise):
    a = alpha_bar[:, None, None]
    return torch.where(target[..., None], x0 + (1 - a).sqrt() * noise, x0)


@wrong("diffuseq.least_risk", "a softmax of the weights", r"softmax|exp|weights")
def softmax_of_counts(risk, weights):
    return int((risk @ weights.softmax(0)).argmin())


@wrong("diffuseq.least_risk", "costs squared", r"\brisk\b|square")
def squared_costs(risk, weights):
    return int((risk**2 @ weights).argmin())


@wrong("sedd.tweedie", "exp(-2 D)", r"\bD\b|\b2\b|twice")
def twice_the_noise(s, x_t, D):
    K, kept = s.shape[-1], math.exp(-2 * D)
    before = s / kept + (1 - 1 / kept) / K * s.sum(-1, keepdim=True)
    return before * (kept * F.one_hot(x_t, K) + (1 - kept) / K)


@wrong("sedd.tweedie", "s made into a law first", r"sum|\blaw\b|distribution|normal")
def score_normalised(s, x_t, D):
    K, kept = s.shape[-1], math.exp(-D)
    s = s / s.sum(-1, keepdim=True)
    before = s / kept + (1 - 1 / kept) / K
    return before * (kept * F.one_hot(x_t, K) + (1 - kept) / K)


@wrong("d3pm.hybrid", "T on the KL alone", r"\bce\b|cross-entropy")
def bound_and_one_ce(kl, ce, ce_weight, T):
    return T * kl + ce_weight * ce


@wrong("d3pm.hybrid", "divided by T", r"\bT\b")
def mean_over_steps(kl, ce, ce_weight, T):
    return (kl + ce_weight * ce) / T


@wrong("ddpm.q_sample", "the table one entry early", r"t - 1|earlier|before|\bentry\b|step")
def one_early(x0, t, alpha_bar, eps):
    a = like(alpha_bar[(t - 1).clamp(min=0)], x0)
    return (a.sqrt() * x0 + (1 - a).sqrt() * eps).to(x0.dtype)


@wrong("ddpm.q_sample", "the signal's factor on the noise, too", r"\beps\b|noise")
def factor_on_both(x0, t, alpha_bar, eps):
    a = like(alpha_bar[t], x0)
    return (a.sqrt() * (x0 + (1 - a).sqrt() * eps)).to(x0.dtype)


@wrong(
    "diffuseq.misaligned",
    "a threshold that is far too high",
    r"let one|threshold|small|get away|how far|by how",
)
def high_threshold(samplers, alpha_bar):
    x0, eps = torch.randn(2, 9, dtype=torch.float64)
    t, s = 3 * len(alpha_bar) // 4, len(alpha_bar) // 4
    x_t, x_s = (alpha_bar[k].sqrt() * x0 + (1 - alpha_bar[k]).sqrt() * eps for k in (t, s))
    off = [n for n, step in samplers.items() if (step(x_t, x0, t, s) - x_s).abs().max() > 1]
    return (off or list(samplers))[0]


@wrong("diffuseq.misaligned", "fresh noise in x_s", r"first|noise|eps")
def fresh_noise(samplers, alpha_bar):
    x0 = torch.randn(9, dtype=torch.float64)
    t, s = 3 * len(alpha_bar) // 4, len(alpha_bar) // 4
    x_t, x_s = (
        alpha_bar[k].sqrt() * x0 + (1 - alpha_bar[k]).sqrt() * torch.randn(9).double() for k in (t, s)
    )
    off = [n for n, step in samplers.items() if (step(x_t, x0, t, s) - x_s).abs().max() > 1e-3]
    return (off or list(samplers))[0]


@wrong("optimal_variance.pairs", "upwards", r"goes from|down|falls?|reversed|order")
def upwards(T, gap):
    times = [*range(T, 0, -gap), 0][::-1]
    return list(pairwise(times))


@wrong("optimal_variance.pairs", "not to 0", r"\bends? at\b|finished|\bto 0|\b0\b.*data")
def not_to_the_data(T, gap):
    return list(pairwise(range(T, 0, -gap))) or [(T, 1)]


@wrong("ddpm.score_from_guess", "alpha_bar without its root", r"root|x0_hat")
def no_root(x0_hat, x_t, abar):
    return (abar * x0_hat - x_t) / (1 - abar)


@wrong("ddpm.score_from_guess", "measured in units of x_0", r"sqrt\(abar\)|factor|abar")
def in_units_of_x0(x0_hat, x_t, abar):
    return (x0_hat - x_t / abar.sqrt()) / (1 - abar)


@wrong("diffuseq.target_loss", "divided by the whole length", r"length|shape|L\b|mean|positions|number of")
def over_all_positions(loss, target):
    return (loss * target).mean(1)


@wrong("diffuseq.target_loss", "one mean for the batch", r"batch|row|example|shape")
def of_the_batch(loss, target):
    return (loss[target].mean()).expand(len(loss))


@wrong("d3pm.leave_one_out", "kept and lost swapped", r"swap|exchanged|1 - alpha_bar|alpha_bar")
def chances_swapped(post, x_t, alpha_bar_t):
    K = post.shape[-1]
    evidence = (1 - alpha_bar_t) * F.one_hot(x_t, K) + alpha_bar_t / K
    loo = post / evidence
    return loo / loo.sum(-1, keepdim=True)


@wrong("d3pm.leave_one_out", "a softmax at the end", r"softmax|exponent|exp")
def softmax_at_the_end(post, x_t, alpha_bar_t):
    K = post.shape[-1]
    return (post / (alpha_bar_t * F.one_hot(x_t, K) + (1 - alpha_bar_t) / K)).softmax(-1)


@wrong("d3pm.reveal", "always the same number of masks", r"together|of its own|own coin|number|each")
def a_fixed_number(p0, x_t, chance, mask):
    hidden = x_t == mask
    order = torch.where(hidden, torch.rand(x_t.shape), 2.0).argsort(1).argsort(1)
    opens = hidden & (order < (chance * hidden.sum(1, keepdim=True)).round())
    drawn = torch.multinomial(p0.flatten(0, 1), 1).reshape(x_t.shape)
    return torch.where(opens, drawn, x_t)


@wrong("d3pm.reveal", "p0 sharpened", r"p0|token \d|temperature|sharp")
def sharpened(p0, x_t, chance, mask):
    opens = (x_t == mask) & (torch.rand(x_t.shape) < chance)
    drawn = torch.multinomial((p0**2).flatten(0, 1), 1).reshape(x_t.shape)
    return torch.where(opens, drawn, x_t)


@wrong("sde.hutchinson", "mean over the dimensions", r"mean|sum|number of|shape|dimensions")
def mean_of_dimensions(field, x, probe):
    x = x.detach().requires_grad_()
    (pulled,) = torch.autograd.grad((field(x) * probe).sum(), x)
    return (pulled * probe).flatten(1).mean(1)


@wrong("sde.hutchinson", "one of the two probes forgotten", r"probe")
def half_probed(field, x, probe):
    x = x.detach().requires_grad_()
    (pulled,) = torch.autograd.grad(field(x).sum(), x)
    return (pulled * probe).flatten(1).sum(1)


@wrong("side_notes.estimated", "the crossing transposed", r"transpos|\bC\b|pinv|turned")
def crossing_transposed(C, R, rows):
    W = C[rows]
    P = torch.linalg.pinv(W @ W.T)
    return C @ W.T @ P.T @ P @ R.mean(1)


@wrong("side_notes.estimated", "divided by the number of rows", r"len\(rows\)|R\.shape|factor|number")
def over_rows(C, R, rows):
    return C @ torch.linalg.pinv(C[rows]) @ R.sum(1) / len(rows)


@wrong("sedd.uniform_ratio", "K - 1 for K", r"\bK\b")
def one_token_less(sigma, K):
    e1 = torch.expm1(sigma)
    return e1 / (e1 + K - 1)


@wrong("sedd.uniform_ratio", "first order in sigma", r"exp|sigma")
def first_order(sigma, K):
    return sigma / (sigma + K)


@wrong("ddpm.ancestral", "x_0 not divided by the root of alpha_bar", r"\bx_0\b")
def not_divided(model, x_T, times, alpha_bar):
    x, T = x_T, len(alpha_bar) - 1
    for t, s in pairwise(times):
        at, as_ = alpha_bar[t], alpha_bar[s]
        x0 = x - (1 - at).sqrt() * model(x, torch.full((len(x),), t / T))
        x = (back(x0, x, as_, at) + small(as_, at).sqrt() * torch.randn_like(x)).to(x_T.dtype)
    return x


@wrong("ddpm.ancestral", "the last step is left out", r"last|hears|ends|\b0\b")
def stops_early(model, x_T, times, alpha_bar):
    x, T = x_T, len(alpha_bar) - 1
    for t, s in pairwise(times[:-1]):
        at, as_ = alpha_bar[t], alpha_bar[s]
        x0 = (x - (1 - at).sqrt() * model(x, torch.full((len(x),), t / T))) / at.sqrt()
        x = (back(x0, x, as_, at) + small(as_, at).sqrt() * torch.randn_like(x)).to(x_T.dtype)
    return x


@wrong("after_sedd.others_only", "only x itself is divided", r"where|only|\bx\b|alpha")
def only_at_x(posterior, x, alpha):
    K = posterior.shape[-1]
    hot = F.one_hot(x, K).bool()
    left = torch.where(hot, posterior / (alpha + (1 - alpha) / K), posterior)
    return left / left.sum(-1, keepdim=True)


@wrong("after_sedd.others_only", "not normalised", r"sums? to")
def not_normalised(posterior, x, alpha):
    K = posterior.shape[-1]
    return posterior / (alpha * F.one_hot(x, K) + (1 - alpha) / K)


@wrong("sde.grid", "finer at the noise, by a cosine", r"noise|data|worse")
def cosine(n):
    return torch.cos(torch.linspace(0, math.pi / 2, n + 1, dtype=torch.float64)).clamp(min=0).sqrt()


@wrong("sde.grid", "geometric, and never 0", r"\b0\b")
def geometric(n):
    return 1e-4 ** torch.linspace(0, 1, n + 1, dtype=torch.float64)


@wrong("d3pm.ce_weight", "1 + share below", r"share")
def plus_for_minus(bound, ce, T, share):
    return share / (1 + share) * bound / (T * ce)


@wrong("d3pm.ce_weight", "T twice", r"\bT\b")
def T_twice(bound, ce, T, share):
    return share / (1 - share) * bound / T / (T * ce)


@wrong("diffusion_lm.e2e_loss", "cross-entropy summed over words", r"\bL\b|sum|mean|words|shape|number of")
def words_summed(model, tokens, x0, x_t, t, T):
    target = torch.where((t == 1)[:, None, None], model.embed(tokens), x0)
    error = (target - model(x_t, t / T)).square().mean((1, 2))
    nll = F.cross_entropy(model.logits(x0).transpose(1, 2), tokens, reduction="none")
    return error + nll.sum(1)


@wrong("diffusion_lm.e2e_loss", "words read off x_t", r"\bx_t\b")
def words_of_x_t(model, tokens, x0, x_t, t, T):
    target = torch.where((t == 1)[:, None, None], model.embed(tokens), x0)
    error = (target - model(x_t, t / T)).square().mean((1, 2))
    nll = F.cross_entropy(model.logits(x_t).transpose(1, 2), tokens, reduction="none")
    return error + nll.mean(1)


@wrong("sedd.concrete_score", "its logarithm", r"\blog")
def log_ratio(p):
    return p.T.log()[None] - p.log()[:, :, None]


@wrong("sedd.concrete_score", "a difference", r"differ|ratio|not 1|divided|minus")
def difference(p):
    return p.T[None] - p[:, :, None]


@wrong("optimal_variance.best_variance", "the weight not squared", r"square|root|spread|\bw\b")
def not_squared(lambda2, spread, abar_s, abar_t):
    w = abar_s.sqrt() - ((1 - abar_s - lambda2) * abar_t / (1 - abar_t)).sqrt()
    return lambda2 + w * spread


@wrong("optimal_variance.best_variance", "lambda^2 itself left out", r"lambda2|lambda\^2")
def no_lambda(lambda2, spread, abar_s, abar_t):
    w = abar_s.sqrt() - ((1 - abar_s - lambda2) * abar_t / (1 - abar_t)).sqrt()
    return w**2 * spread


@wrong("optimal_variance.grid", "rounded down onto each other", r"equal|twice|rounding")
def rounded_down(T, steps):
    return [int(T * (k / steps) ** 3) for k in range(steps, -1, -1)]


@wrong("optimal_variance.grid", "doubles removed", r"visit|how many|number")
def doubles_removed(T, steps):
    return sorted({round(T * (k / steps) ** 2) for k in range(steps + 1)}, reverse=True)


@wrong("after_sedd.how_many", "strictly below gamma", r"equal|<=|exactly|tie|<")
def strictly(H, gamma):
    sure = H.sort().values
    return max(1, int((sure.cumsum(0) - sure < gamma).sum()))


@wrong("after_sedd.how_many", "the largest of all, not of the chosen", r"largest|max")
def largest_of_all(H, gamma):
    sure = H.sort().values
    return max(1, int((sure.cumsum(0) - sure[-1] <= gamma).sum()))


@wrong("after_sedd.accept", "not cut at 1", r"above 1|\b1\b")
def not_cut(w_x, w_y, i):
    rows = torch.arange(len(i))
    return w_y[rows, i] / w_x[rows, i]


@wrong("after_sedd.accept", "Barker's rule", r"1 \+|\bsum|half|ratio|r /|relat")
def barker(w_x, w_y, i):
    rows = torch.arange(len(i))
    there, home = w_x[rows, i], w_y[rows, i]
    return home / (home + there)


@wrong("ddpm.bits_per_dim", "the mean over t", r"mean|number of|len|shape")
def mean_of_terms(terms, prior_term, dims):
    return (terms.mean() + prior_term) / (dims * math.log(2))


@wrong("ddpm.bits_per_dim", "the prior term left in nats per example", r"prior_term")
def prior_in_nats(terms, prior_term, dims):
    return terms.sum() / (dims * math.log(2)) + prior_term


@wrong("optimal_variance.variance_after", "eta for its square", r"\beta\b")
def eta_itself(times, alpha_bar, r2, eta):
    v = alpha_bar[times[0]] * r2 + 1 - alpha_bar[times[0]]
    for t, s in pairwise(times):
        at, as_ = alpha_bar[t], alpha_bar[s]
        fresh = eta * small(as_, at)
        keep = ((1 - as_ - fresh) / (1 - at)).sqrt()
        guess = at.sqrt() * r2 / (at * r2 + 1 - at)
        v = ((as_.sqrt() - keep * at.sqrt()) * guess + keep) ** 2 * v + fresh
    return v


@wrong("optimal_variance.variance_after", "x_T taken for N(0, 1)", r"start|x_T|\bfirst\b|r2|times\[0\]|begin")
def from_pure_noise(times, alpha_bar, r2, eta):
    v = torch.ones((), dtype=torch.float64)
    for t, s in pairwise(times):
        at, as_ = alpha_bar[t], alpha_bar[s]
        fresh = eta**2 * small(as_, at)
        keep = ((1 - as_ - fresh) / (1 - at)).sqrt()
        guess = at.sqrt() * r2 / (at * r2 + 1 - at)
        v = ((as_.sqrt() - keep * at.sqrt()) * guess + keep) ** 2 * v + fresh
    return v


@wrong("side_notes.shorter", "the mean of the ways", r"mean|small|short|min")
def mean_of_ways(D, W):
    return (D[:, :, None] + W[None]).mean(1)


@wrong("side_notes.shorter", "the longest edge of a way", r"add|sum|\+|max|larger|longest")
def bottleneck(D, W):
    return torch.maximum(D[:, :, None], W[None]).amin(1)


@wrong("side_notes.positions", "one too many", r"shape|\bL\b|how many")
def one_too_many(scores, L):
    limit = scores.sort().values[min(L, len(scores) - 1)]
    return (scores <= limit).nonzero()[:, 0]


@wrong("side_notes.positions", "in falling order", r"order|rise|flip|revers|other way|turned")
def falling_order(scores, L):
    return scores.argsort()[:L].sort(descending=True).values


@right("ddpm.q_sample", "a loop over the examples")
def example_by_example(x0, t, alpha_bar, eps):
    a = [alpha_bar[k].item() for k in t]
    return torch.stack([v**0.5 * x + (1 - v) ** 0.5 * e for v, x, e in zip(a, x0, eps, strict=True)])


@right("sde.hutchinson", "J probe, from the derivative of J^T v by v: one call of field")
def forward_mode(field, x, probe):
    _, moved = torch.autograd.functional.jvp(field, x, probe)
    return (moved * probe).flatten(1).sum(1)


@wrong("sedd.tweedie", "right, but by matrices, which the task does without", r"matrix")
def with_matrices(s, x_t, D):
    K = s.shape[-1]
    one = torch.full((K, K), 1 / K, dtype=s.dtype)
    eye = torch.eye(K, dtype=s.dtype)
    back_in_time = math.exp(D) * eye + (1 - math.exp(D)) * one
    ahead = math.exp(-D) * eye + (1 - math.exp(-D)) * one
    return (s @ back_in_time) * ahead[x_t]


@right("d3pm.leave_one_out", "in logarithms")
def in_logs(post, x_t, alpha_bar_t):
    K = post.shape[-1]
    hot = F.one_hot(x_t, K).double()
    return (post.log() - (alpha_bar_t * hot + (1 - alpha_bar_t) / K).log()).softmax(-1)


@right("after_sedd.who_sees", "four quadrants of a larger table")
def by_tables(length, block):
    i = torch.arange(2 * length)
    of, noisy = i % length // block, i >= length
    own = (of[:, None] == of) & (noisy[:, None] == noisy)
    return own | ((of[:, None] > of) & ~noisy[None])


@right("optimal_variance.best_variance", "with the deviation of eps")
def with_eps(lambda2, spread, abar_s, abar_t):
    missed = (1 - abar_s - lambda2).clamp(min=0).sqrt() * (abar_t / (1 - abar_t)).sqrt()
    return lambda2 + (abar_s.sqrt() * spread.sqrt() - missed * spread.sqrt()) ** 2


@right("side_notes.positions", "topk")
def by_topk(scores, L):
    return scores.topk(L, largest=False).indices.sort().values


@right("side_notes.shorter", "in float64, one k at a time")
def one_k_at_a_time(D, W):
    best = D[:, :1] + W[:1]
    for k in range(1, len(W)):
        best = torch.minimum(best, D[:, k : k + 1] + W[k : k + 1])
    return best


@right("diffusion_lm.e2e_loss", "log_softmax, and a loss of flattened words")
def by_log_softmax(model, tokens, x0, x_t, t, T):
    first = (t == 1).to(x0.dtype)[:, None, None]
    target = first * model.embed(tokens) + (1 - first) * x0
    error = F.mse_loss(model(x_t, t / T), target, reduction="none").flatten(1).mean(1)
    log_p = model.logits(x0).log_softmax(-1)
    return error - log_p.gather(-1, tokens[..., None]).squeeze(-1).mean(1)


@right("after_sedd.accept", "rows picked, and torch.minimum")
def by_minimum(w_x, w_y, i):
    rows = torch.arange(len(i))
    ratio = w_y[rows, i] / w_x[rows, i]
    return torch.minimum(ratio, torch.ones_like(ratio))


@right("after_sedd.how_many", "a loop that stops")
def until_too_much(H, gamma):
    spent, n = 0.0, 0
    for h in sorted(H.tolist()):
        if n and spent > gamma + 1e-12:
            break
        n, spent = n + 1, spent + h
    return n


@right("optimal_variance.pairs", "a while loop, and lists")
def while_above(T, gap):
    found = []
    while T > 0:
        found.append([T, max(T - gap, 0)])
        T = max(T - gap, 0)
    return found


@right("ddpm.ancestral", "from eps directly, the last step without noise")
def from_eps(model, x_T, times, alpha_bar):
    x, T = x_T, len(alpha_bar) - 1
    for t, s in pairwise(times):
        at, as_ = alpha_bar[t].item(), alpha_bar[s].item()
        kept = at / as_
        eps = model(x, torch.ones(len(x)) * (t / T))
        x = (x - (1 - kept) / (1 - at) ** 0.5 * eps) / kept**0.5
        if s > 0:
            x = x + ((1 - as_) * (1 - kept) / (1 - at)) ** 0.5 * torch.randn_like(x)
    return x


@right("optimal_variance.variance_after", "plain numbers: gain and fresh noise of a step")
def plain_numbers(times, alpha_bar, r2, eta):
    table = [float(a) for a in alpha_bar]
    r2, eta = float(r2), float(eta)
    v = table[times[0]] * r2 + 1 - table[times[0]]
    for t, s in pairwise(times):
        at, as_ = table[t], table[s]
        fresh = eta * eta * small(as_, at)
        weight = math.sqrt(max(1 - as_ - fresh, 0)) / math.sqrt(1 - at)
        wiener = math.sqrt(at) * r2 / (at * r2 + 1 - at)
        gain = math.sqrt(as_) * wiener + weight * (1 - math.sqrt(at) * wiener)
        v = gain * gain * v + fresh
    return v


@right("d3pm.reveal", "Gumbel noise picks the token")
def by_gumbel(p0, x_t, chance, mask):
    noise = -torch.log(-torch.log(torch.rand_like(p0).clamp(1e-12, 1 - 1e-12)))
    drawn = (p0.log() + noise).argmax(-1)
    coins = torch.bernoulli(torch.full(x_t.shape, float(chance))).bool()
    return torch.where((x_t == mask) & coins, drawn, x_t)


@right("diffuseq.target_loss", "a loop over the rows")
def row_after_row(loss, target):
    return torch.stack([row[where].mean() for row, where in zip(loss, target, strict=True)])


@right("ddpm.bits_per_dim", "base two from the start")
def base_two(terms, prior_term, dims):
    return torch.cat([terms, torch.as_tensor(prior_term).reshape(1)]).sum() * math.log2(math.e) / dims


@wrong("diffusion_lm.sharpen", "a mean of the two sources, power as the weight", r"\bpower\b|alone|both")
def weighted_mean(both, alone, power):
    return ((power * both + alone) / (1 + power)).log_softmax(-1)


@wrong("diffusion_lm.sharpen", "normalised over the positions", r"axis|sum|add up|normal")
def over_positions(both, alone, power):
    return (power * (both - alone) + alone).log_softmax(0)


@right("diffusion_lm.sharpen", "probabilities, and a logarithm at the end")
def by_probabilities(both, alone, power):
    p = alone.exp() ** (1 - power) * both.exp() ** power
    return (p / p.sum(-1, keepdim=True)).log()


@wrong("diffuseq.wrong_share", "the chance that two fair draws differ, to the power", r"\bpower\b")
def power_of_the_share(p, power):
    return (1 - (p * p).sum(-1)) ** power


@wrong("diffuseq.wrong_share", "normalised over the batch", r"axis|sum|normal|batch|\bp\b|cannot be")
def over_the_batch(p, power):
    q = p**power / (p**power).sum(0, keepdim=True)
    return 1 - (p * q).sum(-1)


@right("diffuseq.wrong_share", "a softmax of the logarithms, and an expectation over the truth")
def by_softmax(p, power):
    q = (power * p.log()).softmax(-1)
    return (p * (1 - q)).sum(-1)
