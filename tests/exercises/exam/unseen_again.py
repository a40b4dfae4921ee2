"""A fourth paper: two wrong answers and a right one to each of twenty exercises, written from the notebooks' cells."""

import math
from itertools import pairwise, zip_longest

import torch
import torch.nn.functional as F

from tests.exercises.exam.paper import paper

wrong, right, ANSWERS = paper()

# --- chapter 1 ---


@wrong(
    "ddpm.best_guess",
    "the likeliest point in place of the mean",
    r"likeliest|\bmode\b|argmax|one of the points",
)
def likeliest_point(x_t, abar, points, weights):
    off = x_t[:, None] - abar**0.5 * points
    return points[(weights.log() - off**2 / (2 * (1 - abar))).argmax(-1)]


@wrong(
    "ddpm.best_guess",
    "x_t is compared with the points before they shrink",
    r"\babar\b|\bpoints\b|shrink|scale",
)
def unshrunk_points(x_t, abar, points, weights):
    off = x_t[:, None] - points
    return (weights.log() - off**2 / (2 * (1 - abar))).softmax(-1) @ points


@right("ddpm.best_guess", "densities of torch.distributions, an x_t at a time")
def guess_by_densities(x_t, abar, points, weights):
    noisy = torch.distributions.Normal(math.sqrt(float(abar)) * points, math.sqrt(1 - float(abar)))
    joint = [weights * noisy.log_prob(x).exp() for x in x_t]
    return torch.stack([(j * points).sum() / j.sum() for j in joint])


def tables(alpha_bar, t, s):
    a, b = alpha_bar[t], alpha_bar[s]
    return a, b, a / b


@wrong("ddpm.ancestral", "the network is given t, not t / T", r"\bu\b|t / T|\btime\b")
def time_as_it_is(model, x_T, times, alpha_bar):
    x = x_T
    for t, s in pairwise(times):
        at, as_, ats = tables(alpha_bar, t, s)
        eps = model(x.float(), torch.full((len(x),), float(t)))
        mean = (x - (1 - ats) / (1 - at).sqrt() * eps) / ats.sqrt()
        x = mean + ((1 - as_) / (1 - at) * (1 - ats)).sqrt() * torch.randn_like(x)
    return x


@wrong(
    "ddpm.ancestral",
    "1 / sqrt(alpha_ts) is forgotten in the mean",
    r"alpha|scale|mean|shrink|small|signal|divid",
)
def not_scaled_up(model, x_T, times, alpha_bar):
    x, T = x_T, len(alpha_bar) - 1
    for t, s in pairwise(times):
        at, as_, ats = tables(alpha_bar, t, s)
        eps = model(x.float(), torch.full((len(x),), t / T))
        mean = x - (1 - ats) / (1 - at).sqrt() * eps
        x = mean + ((1 - as_) / (1 - at) * (1 - ats)).sqrt() * torch.randn_like(x)
    return x


@right("ddpm.ancestral", "through the estimate of x_0 and the two weights, coefficients as plain numbers")
def through_x0(model, x_T, times, alpha_bar):
    x, table = x_T, alpha_bar.tolist()
    for k in range(1, len(times)):
        t, s = times[k - 1], times[k]
        at, as_ = table[t], table[s]
        ats = at / as_
        eps = model(x, torch.ones(x.shape[0]) * (t / (len(table) - 1)))
        x0 = (x - math.sqrt(1 - at) * eps) / math.sqrt(at)
        x = (math.sqrt(as_) * (1 - ats) * x0 + math.sqrt(ats) * (1 - as_) * x) / (1 - at)
        if s > 0:
            x = x + math.sqrt((1 - ats) * (1 - as_) / (1 - at)) * torch.randn(x.shape)
    return x


@wrong("ddpm.repair", "the large variance, without noise where s = 0", r"large|variance|small|\bz\b")
def large_but_last(x0_hat, x_t, abar_s, abar_t, z):
    ats = abar_t / abar_s
    mean = (abar_s.sqrt() * (1 - ats) * x0_hat + ats.sqrt() * (1 - abar_s) * x_t) / (1 - abar_t)
    return mean + (1 - ats).sqrt() * z * (abar_s < 1)


@wrong("ddpm.repair", "the noise is left out everywhere", r"\bz\b|noise")
def no_noise(x0_hat, x_t, abar_s, abar_t, z):
    ats = abar_t / abar_s
    return (abar_s.sqrt() * (1 - ats) * x0_hat + ats.sqrt() * (1 - abar_s) * x_t) / (1 - abar_t)


@right("ddpm.repair", "DDIM's step with eta = 1")
def ddim_of_eta_1(x0_hat, x_t, abar_s, abar_t, z):
    eps = (x_t - abar_t**0.5 * x0_hat) / (1 - abar_t) ** 0.5
    var = (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)
    return abar_s**0.5 * x0_hat + torch.clamp(1 - abar_s - var, min=0.0) ** 0.5 * eps + var**0.5 * z


# --- chapter 3 ---


@wrong("sde.moments", "the variance is multiplied by 1 + f dt, once", r"variance|2 f|square|\bf\b")
def once_for_the_variance(f, g2, times):
    m, V = 1.0, 0.0
    for t, s in pairwise(times):
        m, V = m * (1 + f(t) * (s - t)), V * (1 + f(t) * (s - t)) + g2(t) * (s - t)
    return torch.tensor([float(m), float(V)])


@wrong("sde.moments", "the standard deviation is returned", r"root|standard deviation")
def deviation(f, g2, times):
    m, V = 1.0, 0.0
    for t, s in pairwise(times):
        dt = s - t
        m, V = m + f(t) * m * dt, V + (2 * f(t) * V + g2(t)) * dt
    return torch.tensor([float(m), float(V) ** 0.5])


@right("sde.moments", "Heun's method on the pair")
def heun_moments(f, g2, times):
    def slope(t, y):
        return torch.stack([f(t) * y[0], 2 * f(t) * y[1] + g2(t)])

    y = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for t, s in pairwise(times):
        a = slope(t, y)
        b = slope(s, y + (s - t) * a)
        y = y + (s - t) * (a + b) / 2
    return y


def lam(pair):
    m, std = pair
    return torch.log(torch.as_tensor(m / std))


@wrong("sde.dpm_step", "extrapolates a whole step, not half of one", r"half|twice|\b2\b|middle|x0_last")
def a_whole_step(x, x0, x0_last, before, now, then):
    h, last = lam(then) - lam(now), lam(now) - lam(before)
    aimed = x0 + h / last * (x0 - x0_last)
    return then[1] / now[1] * x + then[0] * (1 - torch.exp(-h)) * aimed


@wrong(
    "sde.dpm_step",
    "the steps are measured in the noise, not in lambda",
    r"lambda|logarithm|\bstep|\bh\b|equal",
)
def in_std(x, x0, x0_last, before, now, then):
    h = lam(then) - lam(now)
    share = (then[1] - now[1]) / (now[1] - before[1])
    return then[1] / now[1] * x + then[0] * (1 - torch.exp(-h)) * (x0 + share / 2 * (x0 - x0_last))


@right("sde.dpm_step", "with expm1 and torch.lerp")
def lerped(x, x0, x0_last, before, now, then):
    (mb, sb), (mn, sn), (mt, st) = ([float(v) for v in pair] for pair in (before, now, then))
    h, last = math.log(mt * sn / (st * mn)), math.log(mn * sb / (sn * mb))
    middle = torch.lerp(x0_last, x0, 1 + h / (2 * last))
    return x * (st / sn) - mt * math.expm1(-h) * middle


@wrong("sde.grid", "quadratic, dense at the noise", r"dense|data|noise|wrong end|worse|near")
def dense_at_noise(n):
    return 1 - (torch.arange(n + 1, dtype=torch.float64) / n) ** 2


@wrong("sde.grid", "quadratic, from 0 to 1", r"fall|rise|down")
def from_data(n):
    return (torch.arange(n + 1, dtype=torch.float64) / n) ** 2


@right("sde.grid", "a list, by a cosine")
def cosine_grid(n):
    return [1 - math.sin(math.pi / 2 * k / n) for k in range(n)] + [0.0]


# --- chapter 4 ---


@wrong(
    "diffusion_lm.variance_cost",
    "used stands above true",
    r"swap|exchang|places|upside|wrong way|KL\(|above|\bq\b",
)
def used_above(true, used):
    r = used / true
    return (r - 1 - r.log()) / 2


@wrong("diffusion_lm.variance_cost", "the ratio without its root", r"root|log|half|1/2|0\.5")
def logarithm_whole(true, used):
    return (true / used - 1) / 2 + (used / true).log()


@right("diffusion_lm.variance_cost", "the KL of torch.distributions")
def by_distributions(true, used):
    zero = torch.zeros_like(true)
    p, q = (torch.distributions.Normal(zero, v**0.5) for v in (true, used))
    return torch.distributions.kl_divergence(p, q)


@wrong("diffusion_lm.e2e_loss", "at t = 1 the target is x0 as well", r"t = 1|t == 1|embed")
def drawn_everywhere(model, tokens, x0, x_t, t, T):
    error = ((model(x_t, t / T) - x0) ** 2).mean((1, 2))
    return error + F.cross_entropy(model.logits(x0).mT, tokens, reduction="none").mean(1)


@wrong(
    "diffusion_lm.e2e_loss",
    "the square is summed over D",
    r"\bD\b|sum|mean|times too large|first term|square",
)
def summed_over_D(model, tokens, x0, x_t, t, T):
    target = torch.where((t == 1)[:, None, None], model.embed(tokens), x0)
    error = ((model(x_t, t / T) - target) ** 2).sum(-1).mean(-1)
    return error + F.cross_entropy(model.logits(x0).mT, tokens, reduction="none").mean(1)


@right("diffusion_lm.e2e_loss", "the target by a mask of numbers, the likelihood by logsumexp")
def masked_target(model, tokens, x0, x_t, t, T):
    first = t.eq(1).to(x0.dtype).view(-1, 1, 1)
    gap = first * model.embed(tokens) + (1 - first) * x0 - model(x_t, t.float() / T)
    z = model.logits(x0)
    nll = z.logsumexp(-1) - (z * F.one_hot(tokens, z.shape[-1])).sum(-1)
    return gap.pow(2).flatten(1).mean(-1) + nll.mean(-1)


@wrong(
    "diffusion_lm.free",
    "pulls towards the estimate without the label",
    r"sign|direction|wrong way|minus|-weight|towards",
)
def wrong_direction(told, untold, weight):
    return told + weight * (untold - told)


@wrong(
    "diffusion_lm.free", "the scale of other libraries: from untold", r"1 \+|convention|scale|weight|untold"
)
def other_scale(told, untold, weight):
    return untold + weight * (told - untold)


@right("diffusion_lm.free", "torch.lerp")
def lerp_guidance(told, untold, weight):
    return torch.lerp(untold, told, 1 + weight)


# --- chapter 5 ---


@wrong(
    "diffuseq.partial_noise", "the source is noised, the target kept", r"source|target|wrong way|not target"
)
def source_noised(x0, target, alpha_bar, noise):
    a = alpha_bar[:, None, None]
    return torch.where(target[..., None], x0, a.sqrt() * x0 + (1 - a).sqrt() * noise)


@wrong("diffuseq.partial_noise", "only the noise is masked", r"source|shorter|shrink|sqrt|factor|\bx0\b")
def noise_masked(x0, target, alpha_bar, noise):
    a = alpha_bar[:, None, None]
    return a.sqrt() * x0 + (1 - a).sqrt() * noise * target[..., None]


@right("diffuseq.partial_noise", "a table of alpha_bar for each place, 1 at the source")
def a_level_for_each(x0, target, alpha_bar, noise):
    a = torch.ones(target.shape, dtype=alpha_bar.dtype)
    a = torch.where(target, alpha_bar[:, None].expand_as(a), a).unsqueeze(-1)
    return (a**0.5 * x0 + (1 - a) ** 0.5 * noise).to(x0.dtype)


@wrong("diffuseq.misaligned", "tries the step to the data alone", r"s = 0|to 0|data|\bT\b|one step|pair")
def to_the_data(samplers, alpha_bar):
    T = len(alpha_bar) - 1
    x0, eps = torch.randn(2, 500, dtype=torch.float64)
    x_t = alpha_bar[T].sqrt() * x0 + (1 - alpha_bar[T]).sqrt() * eps
    return max(samplers, key=lambda name: (samplers[name](x_t, x0, T, 0) - x0).abs().mean())


@wrong("diffuseq.misaligned", "compares the mean alone", r"mean|variance|spread|noise|each|same eps|name")
def by_the_mean(samplers, alpha_bar):
    T = len(alpha_bar) - 1
    t, s = T, T // 2
    x0, eps = torch.zeros(500, dtype=torch.float64), torch.randn(500, dtype=torch.float64)
    x_t = alpha_bar[t].sqrt() * x0 + (1 - alpha_bar[t]).sqrt() * eps
    return max(samplers, key=lambda name: abs(samplers[name](x_t, x0, t, s).mean()))


@right("diffuseq.misaligned", "which sampler's two half ways differ from its whole one")
def two_halves(samplers, alpha_bar):
    T = len(alpha_bar) - 1
    t, r, s = T - 1, T // 2, T // 4
    x0, eps = torch.randn(2, 100, dtype=torch.float64)
    x_t = alpha_bar[t].sqrt() * x0 + (1 - alpha_bar[t]).sqrt() * eps
    worst, found = -1.0, ""
    for name, step in samplers.items():
        off = (step(x_t, x0, t, s) - step(step(x_t, x0, t, r), x0, r, s)).norm().item()
        if off > worst:
            worst, found = off, name
    return found


@wrong("diffuseq.interleave", "zip stops at the shorter", r"short|missing|zip|\bend\b")
def stops_early(source, target, end):
    return [word for two in zip(source, target, strict=False) for word in two]


@wrong(
    "diffuseq.interleave", "what is left of the longer is put behind, without end", r"\bend\b|fill|short|rest"
)
def rest_behind(source, target, end):
    n = min(len(source), len(target))
    both = [word for two in zip(source[:n], target[:n], strict=True) for word in two]
    return both + source[n:] + target[n:]


@right("diffuseq.interleave", "zip_longest and slices")
def by_slices(source, target, end):
    both = list(zip_longest(source, target, fillvalue=end))
    braided = [end] * (2 * len(both))
    braided[::2], braided[1::2] = [a for a, _ in both], [b for _, b in both]
    return braided


# --- chapter 6 ---


@wrong(
    "d3pm.uniform_marginal",
    "the other faces share the rest",
    r"K - 1|diagonal|other|that was there|all K",
)
def among_the_others(x0, alpha_bar, K):
    own = F.one_hot(x0, K)
    return alpha_bar * own + (1 - alpha_bar) / (K - 1) * (1 - own)


@wrong("d3pm.uniform_marginal", "the uniform share is not weighted", r"1 - alpha_bar|sum|weight|factor")
def unweighted_share(x0, alpha_bar, K):
    return alpha_bar * F.one_hot(x0, K) + torch.full((K,), 1 / K)


@right("d3pm.uniform_marginal", "rows of the matrix, float64")
def by_the_matrix(x0, alpha_bar, K):
    Q = (
        alpha_bar * torch.eye(K, dtype=torch.float64)
        + (1 - alpha_bar) * torch.ones(K, K, dtype=torch.float64) / K
    )
    return Q[x0]


@wrong("d3pm.absorbing_step", "MASK is left as often as it is reached", r"MASK|last row|stays")
def mask_leaves(K, beta):
    Q = (1 - beta) * torch.eye(K + 1)
    Q[:, K] = beta
    Q[K, K] = 1 - beta
    Q[K, :K] = beta / K
    return Q


@wrong("d3pm.absorbing_step", "a column for each token: transposed", r"transpos|column|row")
def columns(K, beta):
    Q = (1 - beta) * torch.eye(K + 1)
    Q[K, :] = beta
    Q[K, K] = 1.0
    return Q


@right("d3pm.absorbing_step", "an interpolation of the identity and MASK's rows")
def interpolated(K, beta):
    eye = torch.eye(K + 1, dtype=torch.float64)
    return torch.lerp(eye, eye[K].expand(K + 1, K + 1), torch.tensor(float(beta), dtype=torch.float64))


@wrong("d3pm.hybrid", "the weight is on the KL", r"ce_weight|\bkl\b|weight")
def weight_on_kl(kl, ce, ce_weight, T):
    return T * (ce_weight * kl + ce)


@wrong("d3pm.hybrid", "divided by T", r"\bT\b")
def divided_by_T(kl, ce, ce_weight, T):
    return (kl + ce_weight * ce) / T


@right("d3pm.hybrid", "torch.addcmul and torch.stack")
def stacked(kl, ce, ce_weight, T):
    weights = torch.tensor([T, T * ce_weight], dtype=kl.dtype)
    return torch.einsum("kb,k->b", torch.stack([kl, ce]), weights)


# --- chapter 7 ---


@wrong("sedd.reverse_rates", "a row in place of the column", r"column|row|transpos")
def a_row(R, s, x):
    rates = R[x] * s
    rates[x] = 0
    return rates


@wrong("sedd.reverse_rates", "divided by the ratios", r"divid|multipl|\bs\b|upside")
def divided_by_s(R, s, x):
    rates = R[:, x] / s
    rates[x] = 0
    return rates


@right("sedd.reverse_rates", "a product with a basis vector, the own entry masked")
def basis_vector(R, s, x):
    e = torch.zeros(len(s), dtype=R.dtype)
    e[x] = 1
    return (R @ e * s).masked_fill(torch.arange(len(s)) == x, 0.0)


@wrong("sedd.score_entropy", "log_s is taken for s in the first term", r"log_s|exp|\bs\b")
def log_for_s(log_s, rho):
    return log_s - rho * log_s + rho * (rho.log() - 1)


@wrong(
    "sedd.score_entropy",
    "the constant lacks its - rho",
    r"\brho\b|constant|s = r|minimum|least|\b0\b",
)
def half_the_constant(log_s, rho):
    return log_s.exp() - rho * log_s + rho * rho.log()


@right("sedd.score_entropy", "a Bregman divergence of x log x")
def bregman(log_s, rho):
    s = torch.exp(log_s)
    return torch.special.xlogy(rho, rho / s) - rho + s


# --- chapter 9 ---


@wrong(
    "after_sedd.keep_the_likelier",
    "the product of the two",
    r"independ|product|twice|order|\bp\b.*\bq\b",
)
def product(p, q):
    return p[:, None] * q[None]


@wrong(
    "after_sedd.keep_the_likelier",
    "the second stays where both are equal, too",
    r"equal|\btie|\bsum",
)
def both_stay(p, q):
    first = (q[None] <= p[:, None]).double() @ q.double()
    second = (p[:, None] <= q[None]).double().T @ p.double()
    return p[:, None] * q[None] * (first[:, None] + second[None])


@right("after_sedd.keep_the_likelier", "every pair of draws in a loop")
def every_pair(p, q):
    out = torch.zeros(len(p), len(q), dtype=torch.float64)
    for a, pa in enumerate(p.tolist()):
        for b, qb in enumerate(q.tolist()):
            if pa >= qb:
                out[a] += pa * qb * q
            else:
                out[:, b] += pa * qb * p
    return out.to(p.dtype)


@wrong(
    "after_sedd.who_sees",
    "noisy positions see their own block's clean tokens",
    r"own block|answer|earlier|same",
)
def sees_the_answer(length, block):
    of = torch.arange(length) // block
    before, same = of[None] <= of[:, None], of[None] == of[:, None]
    return torch.cat(
        [torch.cat([before, torch.zeros_like(same)], 1), torch.cat([before, same], 1)],
    )


@wrong(
    "after_sedd.who_sees", "clean positions look at earlier tokens only", r"token|position|block|clean|causal"
)
def causal_clean(length, block):
    of = torch.arange(length) // block
    earlier, same = of[None] < of[:, None], of[None] == of[:, None]
    causal = torch.ones(length, length).tril().bool()
    return torch.cat(
        [torch.cat([causal, torch.zeros_like(same)], 1), torch.cat([earlier, same], 1)],
    )


@right("after_sedd.who_sees", "an entry at a time")
def entry_by_entry(length, block):
    sees = torch.zeros(2 * length, 2 * length, dtype=torch.bool)
    for i in range(2 * length):
        for j in range(2 * length):
            bi, bj = i % length // block, j % length // block
            if i < length:
                sees[i, j] = j < length and bj <= bi
            else:
                sees[i, j] = bj < bi if j < length else bj == bi
    return sees


@wrong("after_sedd.residual", "the sum goes over the whole batch", r"row|batch|axis|sum")
def one_sum(p, q):
    left = (p - q).clamp(min=0)
    return left / left.sum()


@wrong("after_sedd.residual", "what the draft has too much of", r"q - p|swap|exchang|places|wrong way")
def draft_s_surplus(p, q):
    left = (q - p).clamp(min=0)
    return left / left.sum(-1, keepdim=True)


@right("after_sedd.residual", "p without the minimum, F.normalize in L1")
def without_the_minimum(p, q):
    return F.normalize(p - torch.minimum(p, q), p=1, dim=-1)
