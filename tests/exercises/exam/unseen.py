"""A second paper: the diagnosis was written before anybody but its author had seen it."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

from tests.exercises.exam.formulas import back, like, small
from tests.exercises.exam.paper import paper

wrong, right, ANSWERS = paper()


# --- chapter 1 ---


@wrong("ddpm.q_sample", "made for pictures alone: three axes are added", r"shape|\baxis|\baxes|dimension")
def pictures_only(x0, t, alpha_bar, eps):
    a = alpha_bar[t][:, None, None, None]
    return (a.sqrt() * x0 + (1 - a).sqrt() * eps).to(x0.dtype)


@wrong(
    "ddpm.q_sample",
    "signal and noise have each other's factor",
    r"swap|exchang|each other|\bx0\b.*\beps\b|1 - t",
)
def factors_swapped(x0, t, alpha_bar, eps):
    a = like(alpha_bar[t], x0)
    return ((1 - a).sqrt() * x0 + a.sqrt() * eps).to(x0.dtype)


@wrong("ddpm.schedule", "a constant beta made for T = 100", r"T = 50|\blast|\bends?\b|1e-3|0\.001")
def constant(T):
    return (1 - 0.07) ** torch.arange(T + 1, dtype=torch.float64)


@wrong("ddpm.posterior_mean", "x0 and x_t change places", r"swap|exchang|each other|places|x_t.*x0|x0.*x_t")
def places_changed(x0, x_t, abar_s, abar_t):
    return back(x_t, x0, abar_s, abar_t)


@wrong(
    "ddpm.posterior_mean",
    "beta of one step, abar_t over its neighbour, without the root of abar_s",
    r"\bx0\b",
)
def x0_without_root(x0, x_t, abar_s, abar_t):
    ats = abar_t / abar_s
    return (abar_s * (1 - ats) * x0 + ats.sqrt() * (1 - abar_s) * x_t) / (1 - abar_t)


@wrong(
    "ddpm.gaussian_kl", "the mean over dimensions", r"\bmean\b.{0,40}(sum|dim)|\bsum\b|dimensions?|times d\b"
)
def averaged(mean1, var1, mean2, var2):
    r = var1 / var2
    return 0.5 * (r + (mean1 - mean2) ** 2 / var2 - 1 - r.log()).mean(-1)


@wrong("ddpm.simple_loss", "half of the square", r"half|1/2|0\.5|twice|factor (of )?2\b|2 times")
def halved(model, x0, t, alpha_bar):
    eps = torch.randn_like(x0)
    a = like(alpha_bar[t], x0)
    x_t = (a.sqrt() * x0 + (1 - a).sqrt() * eps).to(x0.dtype)
    return 0.5 * (eps - model(x_t, t / (len(alpha_bar) - 1))).square().flatten(1).mean(1)


@wrong("ddpm.simple_loss", "time as a share of the table's length", r"\bu\b|t / T|\bT\b|time|len\(")
def time_over_length(model, x0, t, alpha_bar):
    eps = torch.randn_like(x0)
    a = like(alpha_bar[t], x0)
    x_t = (a.sqrt() * x0 + (1 - a).sqrt() * eps).to(x0.dtype)
    return (eps - model(x_t, t / len(alpha_bar))).square().flatten(1).mean(1)


@wrong("ddpm.ancestral", "the network is told the time it goes to", r"time|\bu\b|t / T|\bs\b")
def told_s(model, x_T, times, alpha_bar):
    x, T = x_T, len(alpha_bar) - 1
    for t, s in pairwise(times):
        a, b = alpha_bar[t], alpha_bar[s]
        eps = model(x, torch.full((len(x),), s / T))
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x = (back(x0, x, b, a) + small(b, a).sqrt() * torch.randn_like(x)).to(x_T.dtype)
    return x


@wrong("ddpm.ancestral", "stops one step before the data", r"\blast\b|\bends?\b|stops?|one step|\b0\b")
def stops_early(model, x_T, times, alpha_bar):
    x, T = x_T, len(alpha_bar) - 1
    for t, s in pairwise(times[:-1]):
        a, b = alpha_bar[t], alpha_bar[s]
        eps = model(x, torch.full((len(x),), t / T))
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x = (back(x0, x, b, a) + small(b, a).sqrt() * torch.randn_like(x)).to(x_T.dtype)
    return x


@wrong("ddpm.repair", "no noise at all", r"\bz\b|noise")
def no_noise(x0_hat, x_t, abar_s, abar_t, z):
    return back(x0_hat, x_t, abar_s, abar_t)


@wrong("ddpm.bits_per_dim", "multiplied by ln 2", r"ln 2|log\(2\)|nats|\bbits\b")
def times_ln2(terms, prior_term, dims):
    return (terms.sum() + prior_term) * math.log(2) / dims


# --- chapter 2 ---


@wrong("optimal_variance.ddim_step", "z times the variance", r"\bz\b|\broot\b|lambda")
def variance_for_std(x0_hat, x_t, abar_s, abar_t, eta, z):
    lambda2 = eta**2 * small(abar_s, abar_t)
    eps = (x_t - abar_t.sqrt() * x0_hat) / (1 - abar_t).sqrt()
    return abar_s.sqrt() * x0_hat + (1 - abar_s - lambda2).clamp(min=0).sqrt() * eps + lambda2 * z


@wrong("optimal_variance.pairs", "gap is taken for the number of steps", r"\bgap\b|number of steps")
def gap_steps(T, gap):
    times = torch.linspace(T, 0, gap + 1).round().int().tolist()
    return list(pairwise(times))


@wrong(
    "optimal_variance.best_variance",
    "lambda2 is not added",
    r"lambda2|lambda\^2|spread = 0|known|added|c_t = 0",
)
def no_lambda(lambda2, spread, abar_s, abar_t):
    w = abar_s.sqrt() - ((1 - abar_s - lambda2) * abar_t / (1 - abar_t)).sqrt()
    return w**2 * spread


@wrong(
    "optimal_variance.spread_from_eps",
    "cut at 1 in place of the data's variance",
    r"data_var|data variance|variance of the data|data's variance|upper",
)
def cut_at_one(eps2, abar, data_var):
    return ((1 - abar) / abar * (1 - eps2)).clamp(0, 1)


@wrong(
    "optimal_variance.learned_variance",
    "beta and beta-tilde change places",
    r"swap|exchang|each other|places|v = -?1|beta_tilde",
)
def ends_swapped(v, beta, beta_tilde):
    f = (v + 1) / 2
    return (f * beta_tilde.log() + (1 - f) * beta.log()).exp()


@wrong("optimal_variance.grid", "the times rise", r"\bfall|\brise|order|turned|from T|start")
def rising(T, steps):
    times = [0]
    for k in range(1, steps + 1):
        wanted = max(times[-1] + 1, round(T * (k / steps) ** 2))
        times.append(min(wanted, T - (steps - k)))
    return times


# --- chapter 3 ---


@wrong(
    "sde.moments", "the standard deviation in place of the variance", r"\broot\b|standard deviation|square"
)
def std_for_variance(f, g2, times):
    m, V = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    for t, s in pairwise(times):
        m, V = m + (s - t) * f(t) * m, V + (s - t) * (2 * f(t) * V + g2(t))
    return torch.stack([m, V.sqrt()])


@wrong("sde.moments", "the variance starts at 1", r"start|V.{0,20}\b0\b|variance.{0,60}\b(0|1)\b|begins")
def starts_at_one(f, g2, times):
    m = V = torch.tensor(1.0, dtype=torch.float64)
    for t, s in pairwise(times):
        m, V = m + (s - t) * f(t) * m, V + (s - t) * (2 * f(t) * V + g2(t))
    return torch.stack([m, V])


@wrong("sde.reverse_step", "the score is subtracted", r"\bscore\b")
def score_off(x, score, f, g2, dt, z):
    return x - dt * (f * x + g2 * score) + (g2 * dt).sqrt() * z


@wrong("sde.heun", "the slopes are added, not averaged", r"half|\bmean\b|twice|\b2\b")
def added(velocity, x, t, s):
    k1 = velocity(x, t)
    return x + (s - t) * (k1 + velocity(x + (s - t) * k1, s))


@wrong("sde.hutchinson", "the probe is used once", r"probe")
def probe_once(field, x, probe):
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(field(x), x, probe)
    return g.flatten(1).sum(1)


@wrong("sde.log_likelihood", "the integral is subtracted", r"\bsign\b|minus|subtract|\badd")
def subtracted(log_prior, divergence, times):
    return log_prior - torch.trapezoid(divergence, times, dim=0)


@wrong("sde.dpm_step", "the estimate goes back in place of on", r"x0_last|sign|moved|\bgoes? on\b")
def goes_back(x, x0, x0_last, before, now, then):
    lam = [torch.log(m / std) for m, std in (before, now, then)]
    h, h_last = lam[2] - lam[1], lam[1] - lam[0]
    guess = x0 - h / (2 * h_last) * (x0 - x0_last)
    return then[1] / now[1] * x - then[0] * torch.expm1(-h) * guess


@wrong("sde.grid", "the grid is even", r"\beven\b|half|error")
def even(n):
    return torch.linspace(1, 0, n + 1, dtype=torch.float64)


# --- chapter 4 ---


@wrong("diffusion_lm.rounding", "the argmax over the wrong axis", r"\baxis|\bdim|shape|\(N|\(K|one number")
def wrong_axis(x, table):
    return (x @ table.T - table.square().sum(-1) / 2).argmax(0)


@wrong(
    "diffusion_lm.known_word", "the standard deviation is returned", r"\broot\b|standard deviation|variance"
)
def std_returned(e, x_t, abar, spread):
    var = 1 / (1 / spread + abar / (1 - abar))
    return var * (e / spread + abar.sqrt() * x_t / (1 - abar)), var.sqrt()


@wrong(
    "diffusion_lm.variance_cost", "the ratio of standard deviations", r"\broot\b|standard deviation|square"
)
def ratio_of_std(true, used):
    r = (true / used).sqrt()
    return (r - 1 - r.log()) / 2


@wrong("diffusion_lm.collapsed_loss", "the network knows nothing of x_t", r"\bx_t\b|SNR|4\.5|knows|alpha_bar")
def nothing_known(alpha_bar):
    spread, T = 1 - alpha_bar[1], len(alpha_bar) - 1
    return spread * (T - 1) / T


@wrong("diffusion_lm.e2e_loss", "the target is the word at every time", r"target|t = 1|t > 1|\bx0\b|every t")
def always_the_word(model, tokens, x0, x_t, t, T):
    error = (model.embed(tokens) - model(x_t, t / T)).square().mean((1, 2))
    return error + F.cross_entropy(model.logits(x0).transpose(1, 2), tokens, reduction="none").mean(1)


@wrong(
    "diffusion_lm.e2e_loss",
    "the cross-entropy does not train the embeddings: x0 is detached",
    r"gradient|detach|\bcut\b",
)
def x0_detached(model, tokens, x0, x_t, t, T):
    target = torch.where((t == 1)[:, None, None], model.embed(tokens), x0)
    error = (target - model(x_t, t / T)).square().mean((1, 2))
    nll = F.cross_entropy(model.logits(x0.detach()).transpose(1, 2), tokens, reduction="none")
    return error + nll.mean(1)


@wrong("diffusion_lm.clamped_step", "alpha_bar of s without its root", r"abar_s|\broot\b|\bx0\b")
def no_root_at_s(x0_hat, x_t, abar_s, abar_t, table):
    x0 = table[(x0_hat @ table.T - table.square().sum(-1) / 2).argmax(-1)]
    eps = (x_t - abar_t.sqrt() * x0) / (1 - abar_t).sqrt()
    return abar_s * x0 + (1 - abar_s).sqrt() * eps


@wrong(
    "diffusion_lm.free",
    "told and untold change places",
    r"swap|exchang|each other|places|direction|weight 0|weight = 0|told.*untold",
)
def told_swapped(told, untold, weight):
    return (1 + weight) * untold - weight * told


@wrong("diffusion_lm.mbr", "equal texts do not vote for each other", r"equal|same|twice|vote|place|text")
def equal_texts(candidates, similarity):
    scores = [sum(similarity(a, b) for b in candidates if b != a) for a in candidates]
    return scores.index(max(scores))


# --- chapter 5 ---


@wrong("diffuseq.partial_noise", "the mask is turned round", r"source|target|mask|turned|inver")
def mask_turned(x0, target, alpha_bar, noise):
    a = alpha_bar[:, None, None]
    return torch.where(target[..., None], x0, a.sqrt() * x0 + (1 - a).sqrt() * noise)


@wrong(
    "diffuseq.target_loss",
    "positions with loss 0 are not counted",
    r"\bzero\b|\b0\b|count|number of target|divi",
)
def zero_not_counted(loss, target):
    kept = loss * target
    return kept.sum(1) / (kept != 0).sum(1)


@wrong("diffuseq.word_loss", "per position in place of per word", r"per word|words|\bL\b|divi|positions")
def per_position(reported, pad_loss, lengths, L):
    places, words = len(lengths) * L, sum(lengths)
    return (places * reported - (places - words) * pad_loss) / places


@wrong(
    "diffuseq.misaligned",
    "steps to the data alone, where all are right",
    r"s = 0|\bs\b.*\b0\b|last step|data|between|other times",
)
def to_the_data(samplers, alpha_bar):
    t = len(alpha_bar) // 2
    x0, eps = torch.randn(2, 40, dtype=torch.float64)
    x_t = alpha_bar[t].sqrt() * x0 + (1 - alpha_bar[t]).sqrt() * eps
    off = {name: float((step(x_t, x0, t, 0) - x0).abs().max()) for name, step in samplers.items()}
    return max(off, key=off.get)


@wrong("diffuseq.shifted_mean", "only x_0 is shifted", r"\bx_t\b|\bm\b")
def x0_shifted(x0, x_t, m, a_t, a_s):
    c0 = a_s.sqrt() * (1 - a_t / a_s) / (1 - a_t)
    c1 = (a_t / a_s).sqrt() * (1 - a_s) / (1 - a_t)
    return m + c0 * (x0 - m) + c1 * x_t


@wrong("diffuseq.least_risk", "the last of equals", r"\bfirst\b|\blast\b|equal|\btie")
def last_of_equals(risk, weights):
    costs = risk @ weights
    return max(i for i in range(len(costs)) if costs[i] == costs.min())


@wrong("diffuseq.importance", "made to sum to 1", r"\bsum|normali|add up|mean under|\bmean\b")
def normalised(p, T):
    w = 1 / (T * p)
    return w / w.sum()


@wrong("diffuseq.interleave", "the target's words come first", r"order|first|swap|turned|source")
def target_first(source, target, end):
    n = max(len(source), len(target))
    source, target = source + [end] * (n - len(source)), target + [end] * (n - len(target))
    return [word for pair in zip(target, source, strict=True) for word in pair]


# --- chapter 6 ---


@wrong("d3pm.uniform_marginal", "the root of alpha_bar, as for Gaussians", r"\broot\b|sqrt|alpha_bar")
def root_taken(x0, alpha_bar, K):
    return alpha_bar**0.5 * F.one_hot(x0, K).double() + (1 - alpha_bar**0.5) / K


@wrong(
    "d3pm.multinomial_posterior",
    "x_t and x_0 change brackets",
    r"swap|exchang|each other|places|bracket|x_t.*x_?0|x_?0.*x_t",
)
def brackets_swapped(x_t, x0, alpha, alpha_bar_s, K):
    back = alpha * F.one_hot(x0, K).double() + (1 - alpha) / K
    there = alpha_bar_s * F.one_hot(x_t, K).double() + (1 - alpha_bar_s) / K
    return back * there / (back * there).sum(-1, keepdim=True)


@wrong("d3pm.absorbing_step", "the matrix is transposed", r"transpos|column|\brows?\b")
def transposed(K, beta):
    Q = (1 - beta) * torch.eye(K + 1, dtype=torch.float64)
    Q[K] += beta
    return Q


@wrong("d3pm.gaussian_step", "K in place of K - 1 in the exponent", r"K - 1|\bK\b|exponent|beta")
def width_K(K, beta):
    i = torch.arange(K, dtype=torch.float64)
    n = torch.arange(-(K - 1), K, dtype=torch.float64)
    Q = (-4 * (i[:, None] - i) ** 2 / (K**2 * beta)).exp() / (-4 * n**2 / (K**2 * beta)).exp().sum()
    Q.fill_diagonal_(0)
    return Q + torch.diag(1 - Q.sum(1))


@wrong("d3pm.absorbing_loss", "the mean over positions", r"\bmean\b|\bsum\b|\bL\b")
def mean_over_L(log_p0, x0, x_t, t, T):
    nll = -log_p0.gather(-1, x0[..., None]).squeeze(-1)
    return T / t * torch.where(x_t == log_p0.shape[-1], nll, 0).mean(1)


@wrong("d3pm.leave_one_out", "multiplied by q(x_t | k)", r"multipl|divi|twice|counted")
def multiplied(post, x_t, alpha_bar_t):
    K = post.shape[-1]
    loo = post * (alpha_bar_t * F.one_hot(x_t, K).to(post) + (1 - alpha_bar_t) / K)
    return loo / loo.sum(-1, keepdim=True)


@wrong("d3pm.hybrid", "the small weight is on the KL", r"weight|\bkl\b|\bce\b|cross-entropy")
def weight_on_kl(kl, ce, ce_weight, T):
    return T * (ce_weight * kl + ce)


@wrong("d3pm.fault", "columns are taken for rows", r"\brows?\b|column|\baxis|transpos")
def columns_for_rows(Q, uniform_in_the_end):
    if (Q < 0).any():
        return "negative"
    if ((Q.sum(0) - 1).abs() > 1e-6).any():
        return "rows"
    return "law" if uniform_in_the_end and ((Q.sum(1) - 1).abs() > 1e-6).any() else "none"


@wrong(
    "d3pm.reveal", "one coin for a sentence", r"\bcoin|own|together|each (mask|position)|sentence|same time"
)
def one_coin(p0, x_t, chance, mask):
    opens = (x_t == mask) & (torch.rand(len(x_t), 1) < chance)
    tokens = torch.multinomial(p0.flatten(0, 1), 1).reshape(x_t.shape)
    return torch.where(opens, tokens, x_t)


# --- chapter 7 ---


@wrong("sedd.concrete_score", "the new token comes first in the result", r"\baxis|\baxes|order|transpos|s\[a")
def axes_turned(p):
    return (p.T[None, :, :] / p[:, :, None]).permute(2, 0, 1)


@wrong("sedd.score_entropy", "rho is missing before log_s", r"\brho\b|log_s|log s\b")
def rho_missing(log_s, rho):
    return log_s.exp() - log_s + rho * (rho.log() - 1)


@wrong("sedd.reverse_rates", "the row of R", r"column|\brow|R\[y|R_yx|transpos|R\[x")
def row_of_R(R, s, x):
    rates = s * R[x]
    rates[x] = 0
    return rates


@wrong("sedd.tweedie", "the second factor is forgotten", r"second|factor|there|exp\(D R\)|x_t|\bsum")
def one_factor(s, x_t, D):
    K = s.shape[-1]
    return math.exp(D) * s + (1 - math.exp(D)) / K * s.sum(-1, keepdim=True)


@wrong("sedd.masks_loss", "log V is missing", r"log\(?\s?V|ln V|constant|log V")
def no_log_V(f, x0, x_t, weight):
    each = f.exp().mean(-1) - 1 - f.gather(-1, x0[..., None]).squeeze(-1)
    return weight * torch.where(x_t == f.shape[-1], each, 0).sum(1)


@wrong(
    "sedd.euler_steps",
    "one step more than needed",
    r"one (step )?(more|too many|fewer|less)|least|too many|by 1\b|whole",
)
def one_more(rate, K):
    return int(rate * (K - 1) / K) + 1


@wrong("sedd.next_level", "u is divided, not rooted", r"\broot\b|power|1 / masks|u \*\*|invert")
def divided_by_masks(level, masks, u):
    return level * (1 - (1 - u) / masks)
