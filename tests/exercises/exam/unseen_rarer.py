"""A third paper, unseen as the second: rarer mistakes, one for each exercise."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

from tests.exercises.exam.formulas import back, like, small
from tests.exercises.exam.paper import paper

wrong, right, ANSWERS = paper()


@wrong("ddpm.q_sample", "the noise is centred per example first", r"\beps\b|noise|mean")
def centred(x0, t, alpha_bar, eps):
    a = like(alpha_bar[t], x0)
    eps = eps - eps.flatten(1).mean(1).reshape(a.shape)
    return (a.sqrt() * x0 + (1 - a).sqrt() * eps).to(x0.dtype)


@wrong("ddpm.schedule", "zig-zag that rises between", r"\bfalls?\b|rise|monotone|decreas|beta")
def zigzag(T):
    a = (1 - (1 - 1e-4 ** (1 / T))) ** torch.arange(T + 1, dtype=torch.float64)
    a = a.clone()
    a[2:-2:5] *= 1.3
    return a.clamp(max=1)


@wrong("ddpm.posterior_mean", "mean of q(x_s | x_0): x_t is not read", r"\bx_t\b")
def of_x0_alone(x0, x_t, abar_s, abar_t):
    return abar_s.sqrt() * x0 + 0 * x_t


@wrong(
    "ddpm.gaussian_kl",
    "the 1 is subtracted once, after the sum over dimensions",
    r"- ?1\b|dimension|equal|\bsum|constant|d - 1|\bzero\b|\b0\b",
)
def one_too_late(mean1, var1, mean2, var2):
    r = var1 / var2
    return 0.5 * ((r + (mean1 - mean2) ** 2 / var2 - r.log()).sum(-1) - 1)


@wrong(
    "ddpm.simple_loss",
    "the network's guess is clamped to [-1, 1]",
    r"clamp|clip|\[-1, 1\]|guess|model|predict|large",
)
def clamped(model, x0, t, alpha_bar):
    eps = torch.randn_like(x0)
    a = like(alpha_bar[t], x0)
    x_t = (a.sqrt() * x0 + (1 - a).sqrt() * eps).to(x0.dtype)
    return (eps - model(x_t, t / (len(alpha_bar) - 1)).clamp(-1, 1)).square().flatten(1).mean(1)


@wrong(
    "ddpm.ancestral",
    "each step goes by one entry of the table: t - 1 for s",
    r"t - 1|next time|list|neighbour|\bs\b|spacing|jump",
)
def neighbour(model, x_T, times, alpha_bar):
    x, T = x_T, len(alpha_bar) - 1
    for t in times[:-1]:
        a, b = alpha_bar[t], alpha_bar[t - 1]
        eps = model(x, torch.full((len(x),), t / T))
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x = (back(x0, x, b, a) + small(b, a).sqrt() * torch.randn_like(x)).to(x_T.dtype)
    return x


@wrong("ddpm.repair", "x0_hat is clipped to [-1, 1] first", r"\bx0_hat\b|clip|clamp")
def clipped(x0_hat, x_t, abar_s, abar_t, z):
    return back(x0_hat.clamp(-1, 1), x_t, abar_s, abar_t) + small(abar_s, abar_t).sqrt() * z


@wrong(
    "ddpm.bits_per_dim",
    "divided by log2 of e in place of ln 2",
    r"ln 2|log|\bbits\b|nats|0\.48|2\.08|1\.44|0\.69",
)
def by_log2e(terms, prior_term, dims):
    return (terms.sum() + prior_term) / (dims * math.log2(math.e))


@wrong(
    "optimal_variance.ddim_step",
    "DDPM's mean, with eta times its noise",
    r"\bx_t\b|\bx0_hat\b|\beps\b|\bmean\b|eta = 0|eta",
)
def ddpm_scaled(x0_hat, x_t, abar_s, abar_t, eta, z):
    return back(x0_hat, x_t, abar_s, abar_t) + eta * small(abar_s, abar_t).sqrt() * z


@wrong(
    "optimal_variance.pairs",
    "also a step from 0 to 0 when gap divides T",
    r"0 to 0|twice|equal|\bempty|too many|divides|last|extra",
)
def empty_step(T, gap):
    return [(t, max(t - gap, 0)) for t in range(T, -1, -gap)]


@wrong(
    "optimal_variance.best_variance",
    "the denominator of w is left out",
    r"\bw\b|1 - abar_t|denominator|spread|N\(0, 1\)",
)
def no_denominator(lambda2, spread, abar_s, abar_t):
    w = abar_s.sqrt() - ((1 - abar_s - lambda2) * abar_t).sqrt()
    return lambda2 + w**2 * spread


@wrong(
    "optimal_variance.spread_from_eps",
    "the lower limit is 1e-3 and not 0",
    r"lower|\b0\b|negative|limit|0\.001|1e-3|eps2 = 1|least",
)
def lower_limit(eps2, abar, data_var):
    return ((1 - abar) / abar * (1 - eps2)).clamp(min=1e-3).minimum(data_var)


@wrong("optimal_variance.learned_variance", "the arithmetic mean", r"arithmetic|geometric|\blog|exp")
def arithmetic(v, beta, beta_tilde):
    f = (v + 1) / 2
    return f * beta + (1 - f) * beta_tilde


@wrong(
    "optimal_variance.grid", "one time too many", r"steps \+ 1|number of times|\d+ times|too many|how many"
)
def one_more(T, steps):
    times = sorted({0, T, *(round(T * (k / (steps + 1)) ** 2) for k in range(1, steps + 1))}, reverse=True)
    return times


@wrong("sde.moments", "the last time is left out", r"last|one step|\bend")
def one_step_short(f, g2, times):
    m, V = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    for t, s in pairwise(times[: len(times) * 9 // 10]):
        m, V = m + (s - t) * f(t) * m, V + (s - t) * (2 * f(t) * V + g2(t))
    return torch.stack([m, V])


@wrong("sde.reverse_step", "the drift is f and not f x", r"\bx\b|\bf\b")
def f_alone(x, score, f, g2, dt, z):
    return x - dt * (f - g2 * score) + (g2 * dt).sqrt() * z


@wrong("sde.heun", "both slopes at the new time", r"first slope|\btimes?\b|\bt\b")
def new_time(velocity, x, t, s):
    k1 = velocity(x, s)
    return x + (s - t) / 2 * (k1 + velocity(x + (s - t) * k1, s))


@wrong("sde.hutchinson", "the norm of the probe is divided out twice", r"probe|\bd\b|dimension|mean")
def over_norm(field, x, probe):
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(field(x), x, probe)
    return (g * probe).flatten(1).sum(1) / probe.flatten(1).norm(dim=1)


@wrong("sde.log_likelihood", "the prior is averaged over examples", r"log_prior|each example|\bmean\b|batch")
def prior_averaged(log_prior, divergence, times):
    return log_prior.mean() + torch.trapezoid(divergence, times, dim=0)


@wrong("sde.dpm_step", "m and std exchanged in the factors in front", r"\bx\b|then|\bm\b|std")
def m_ratio(x, x0, x0_last, before, now, then):
    lam = [torch.log(m / std) for m, std in (before, now, then)]
    h, h_last = lam[2] - lam[1], lam[1] - lam[0]
    guess = x0 + h / (2 * h_last) * (x0 - x0_last)
    return then[0] / now[0] * x - then[0] * torch.expm1(-h) * guess


@wrong("sde.grid", "it ends above 0", r"\bends?\b|last|\b0\b")
def ends_above(n):
    return torch.linspace(1, 0.05, n + 1, dtype=torch.float64) ** 2


@wrong("diffusion_lm.rounding", "the length is added, not taken off", r"length|sign|\blong|minus|square|\|e")
def length_added(x, table):
    return (x @ table.T + table.square().sum(-1) / 2).argmax(-1)


@wrong("diffusion_lm.known_word", "spread is taken for a standard deviation", r"spread|variance|standard")
def spread_squared(e, x_t, abar, spread):
    var = 1 / (1 / spread**2 + abar / (1 - abar))
    return var * (e / spread**2 + abar.sqrt() * x_t / (1 - abar)), var


@wrong(
    "diffusion_lm.variance_cost",
    "the difference in place of the ratio",
    r"ratio|difference|true / used|divi|used",
)
def difference(true, used):
    return (true - used - torch.log(true / used)) / 2


@wrong(
    "diffusion_lm.collapsed_loss",
    "alpha_bar without its SNR: 1 - a for a / (1 - a)",
    r"SNR|a / \(1|alpha_bar|\bx_t\b|4\.5",
)
def no_snr(alpha_bar):
    spread, a = 1 - alpha_bar[1], alpha_bar[2:]
    return (1 / (1 / spread + a)).sum() / (len(alpha_bar) - 1)


@wrong(
    "diffusion_lm.e2e_loss",
    "the target at t = 1 for the whole batch as soon as one is there",
    r"t = 1|each example|its own|where|batch",
)
def any_first(model, tokens, x0, x_t, t, T):
    target = model.embed(tokens) if bool((t == 1).any()) else x0
    error = (target - model(x_t, t / T)).square().mean((1, 2))
    return error + F.cross_entropy(model.logits(x0).transpose(1, 2), tokens, reduction="none").mean(1)


@wrong(
    "diffusion_lm.clamped_step",
    "fresh noise in place of the implied one",
    r"noise|random|draw|same arguments|\beps\b|\bx_t\b",
)
def fresh_noise(x0_hat, x_t, abar_s, abar_t, table):
    x0 = table[(x0_hat @ table.T - table.square().sum(-1) / 2).argmax(-1)]
    return abar_s.sqrt() * x0 + (1 - abar_s).sqrt() * torch.randn_like(x_t)


@wrong("diffusion_lm.free", "divided by 1 + 2 weight, so that weights sum to 1", r"weight|told|agree")
def renormalised(told, untold, weight):
    return ((1 + weight) * told + weight * untold) / (1 + 2 * weight)


@wrong(
    "diffusion_lm.mbr", "the middle of the sums in place of the highest", r"highest|\bmost\b|largest|best|sum"
)
def median(candidates, similarity):
    scores = [
        sum(similarity(a, b) for j, b in enumerate(candidates) if j != i) for i, a in enumerate(candidates)
    ]
    return scores.index(sorted(scores)[len(scores) // 2])


@wrong("diffuseq.partial_noise", "noise is added and x_0 not scaled", r"\bx0\b|\bx_0\b|signal|scal|sqrt")
def unscaled(x0, target, alpha_bar, noise):
    a = alpha_bar[:, None, None]
    return torch.where(target[..., None], x0 + (1 - a).sqrt() * noise, x0)


@wrong(
    "diffuseq.target_loss",
    "divided by one more than there are targets",
    r"divi|number of target|\+ 1|mean|too small|cost 2|one more",
)
def one_more_target(loss, target):
    return (loss * target).sum(1) / (target.sum(1) + 1)


@wrong("diffuseq.word_loss", "PAD's cost is taken off once for a row", r"pad_loss|\bPAD|position")
def pad_once(reported, pad_loss, lengths, L):
    return (len(lengths) * (L * reported - pad_loss)) / sum(lengths)


@wrong("diffuseq.misaligned", "the first name in the dictionary", r"first|order|always|whatever|name")
def first_name(samplers, alpha_bar):
    return next(iter(samplers))


@wrong("diffuseq.shifted_mean", "m - x in place of x - m", r"sign|\bm\b|x_0 - m|beyond|other side|away")
def turned(x0, x_t, m, a_t, a_s):
    c0 = a_s.sqrt() * (1 - a_t / a_s) / (1 - a_t)
    c1 = (a_t / a_s).sqrt() * (1 - a_s) / (1 - a_t)
    return m + c0 * (m - x0) + c1 * (m - x_t)


@wrong("diffuseq.importance", "the square root of the weights", r"\broot\b|square")
def rooted(p, T):
    return (1 / (T * p)).sqrt()


@wrong("diffuseq.interleave", "end is put after both at the close", r"\bend\b|extra|length|too many|one more")
def closes(source, target, end):
    n = max(len(source), len(target))
    source, target = source + [end] * (n - len(source)), target + [end] * (n - len(target))
    return [w for pair in zip(source, target, strict=True) for w in pair] + [end]


@wrong(
    "d3pm.uniform_marginal",
    "the share of noise is not scaled by 1 - alpha_bar",
    r"1 - alpha_bar|\bsums?\b|noise|share",
)
def unscaled_noise(x0, alpha_bar, K):
    return alpha_bar * F.one_hot(x0, K).double() + 1 / K


@wrong(
    "d3pm.multinomial_posterior",
    "sum of the brackets in place of the product",
    r"product|multipl|\bsum|added|average",
)
def mixture(x_t, x0, alpha, alpha_bar_s, K):
    back = alpha * F.one_hot(x_t, K).double() + (1 - alpha) / K
    there = alpha_bar_s * F.one_hot(x0, K).double() + (1 - alpha_bar_s) / K
    return (back + there) / 2


@wrong("d3pm.absorbing_step", "MASK returns to a random token", r"MASK|stays|last row|row")
def mask_returns(K, beta):
    Q = (1 - beta) * torch.eye(K + 1, dtype=torch.float64)
    Q[:K, K] = beta
    Q[K, :K] = beta / K
    return Q


@wrong("d3pm.gaussian_step", "the offset is not squared", r"square|offset|exponent|\(i - j\)")
def not_squared(K, beta):
    i, n = torch.arange(K, dtype=torch.float64), torch.arange(-(K - 1), K, dtype=torch.float64)
    scale = (K - 1) ** 2 * beta / 4
    Q = (-(i[:, None] - i).abs() / scale).exp() / (-n.abs() / scale).exp().sum()
    Q.fill_diagonal_(0)
    return Q + torch.diag(1 - Q.sum(1))


@wrong("d3pm.absorbing_loss", "1 - t / T for the weight's denominator", r"weight|T / t|t / T|alpha_bar|\bt\b")
def visible_share(log_p0, x0, x_t, t, T):
    nll = -log_p0.gather(-1, x0[..., None]).squeeze(-1)
    return torch.where(x_t == log_p0.shape[-1], nll, 0).sum(1) / (1 - t / (T + 1))


@wrong(
    "d3pm.leave_one_out",
    "alpha_bar_t is taken for the chance of noise",
    r"alpha_bar_t|1 - alpha|complement|1 - a",
)
def complement(post, x_t, alpha_bar_t):
    K = post.shape[-1]
    loo = post / ((1 - alpha_bar_t) * F.one_hot(x_t, K).to(post) + alpha_bar_t / K)
    return loo / loo.sum(-1, keepdim=True)


@wrong("d3pm.hybrid", "divided by 1 + the weight", r"ce_weight|1 \+|weight|divi")
def convex(kl, ce, ce_weight, T):
    return T * (kl + ce_weight * ce) / (1 + ce_weight)


@wrong("d3pm.fault", "asks for the rows before the sign", r"order|negative|first|both|before")
def rows_first(Q, uniform_in_the_end):
    if ((Q.sum(1) - 1).abs() > 1e-6).any():
        return "rows"
    if (Q < 0).any():
        return "negative"
    return "law" if uniform_in_the_end and ((Q.sum(0) - 1).abs() > 1e-6).any() else "none"


@wrong(
    "d3pm.reveal",
    "the token's number comes from the coin's uniform number",
    r"same (number|draw|uniform)|depend|independent|coin|together|joint|p0",
)
def one_number(p0, x_t, chance, mask):
    u = torch.rand(x_t.shape, dtype=p0.dtype)
    tokens = (u[..., None] > p0.cumsum(-1)).sum(-1).clamp(max=p0.shape[-1] - 1)
    return torch.where((x_t == mask) & (u < chance), tokens, x_t)


@wrong(
    "sedd.concrete_score",
    "minus 1, as if it were a gradient",
    r"\b1\b|minus|difference|constant|y = a|itself",
)
def less_one(p):
    return p.T[None, :, :] / p[:, :, None] - 1


@wrong("sedd.score_entropy", "the sum over the last axis", r"shape|elementwise|\bsum|axis")
def summed(log_s, rho):
    return (log_s.exp() - rho * log_s + rho * (rho.log() - 1)).sum(-1)


@wrong("sedd.reverse_rates", "s is normalised first", r"\bs\b|normal|sum")
def normalised(R, s, x):
    rates = s / s.sum() * R[:, x]
    rates[x] = 0
    return rates


@wrong(
    "sedd.uniform_ratio", "sigma in place of expm1(sigma)", r"expm1|exp\b|\bsigma\b|large sigma|small sigma"
)
def linear(sigma, K):
    return sigma / (sigma + K)


@wrong("sedd.tweedie", "normalised after leaving out the sum", r"\bsum\b|before|factor|\bs\b|share|normali")
def normalised_product(s, x_t, D):
    K = s.shape[-1]
    p = s * (math.exp(-D) * F.one_hot(x_t, K) + (1 - math.exp(-D)) / K)
    return p / p.sum(-1, keepdim=True)


@wrong("sedd.masks_loss", "the weight is squared", r"weight")
def weight_squared(f, x0, x_t, weight):
    V = f.shape[-1]
    each = f.exp().mean(-1) - 1 - f.gather(-1, x0[..., None]).squeeze(-1) + math.log(V)
    return weight**2 * torch.where(x_t == V, each, 0).sum(1)


@wrong("sedd.euler_steps", "K / (K - 1) for its inverse", r"K - 1|\bK\b|upside|invers|reciprocal|others")
def inverse_share(rate, K):
    return math.ceil(rate * K / (K - 1))


@wrong("sedd.next_level", "the masks count one too many", r"masks|\+ 1|one more|M = 1|single mask|one mask")
def one_more_mask(level, masks, u):
    return level * u ** (1 / (masks + 1))
