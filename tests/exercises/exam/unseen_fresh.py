"""Answers of a reader who knew the tasks' texts alone, neither the lists of mistakes nor the other papers."""

import itertools
import math

import torch
import torch.nn.functional as F

from tests.exercises.exam.formulas import back, like, small
from tests.exercises.exam.paper import paper

wrong, right, ANSWERS = paper()


# --- chapter 1 ---


@wrong("ddpm.q_sample", "1 - root for root of 1 - ", r"\beps\b|1 - a|root|sqrt|variance")
def rest_of_root(x0, t, alpha_bar, eps):
    a = like(alpha_bar[t].sqrt(), x0)
    return a * x0 + (1 - a) * eps


@wrong(
    "ddpm.posterior_mean", "x_t's root is that of abar_t alone", r"\bx_t\b.*(too|times|wrong)|abar_t / abar_s"
)
def root_of_abar_t(x0, x_t, abar_s, abar_t):
    a = abar_t / abar_s
    return (abar_s.sqrt() * (1 - a) * x0 + abar_t.sqrt() * (1 - abar_s) * x_t) / (1 - abar_t)


@wrong("ddpm.best_guess", "the exponent lacks its 2", r"\b2\b|\bhalf|1 - abar|variance")
def no_two_below(x_t, abar, points, weights):
    far = (x_t[:, None] - abar.sqrt() * points) ** 2
    p = (weights.log() - far / (1 - abar)).softmax(-1)
    return p @ points


@wrong("ddpm.simple_loss", "the network hears (t - 1) / T", r"\bu\b|t / T|\bhear|\btime")
def one_earlier(model, x0, t, alpha_bar):
    eps = torch.randn_like(x0)
    a = like(alpha_bar[t], x0)
    said = model(a.sqrt() * x0 + (1 - a).sqrt() * eps, (t - 1) / (len(alpha_bar) - 1))
    return (said - eps).square().flatten(1).mean(1)


@wrong("ddpm.ancestral", "the network hears where the step goes", r"\bu\b|\bs / T|\bhear|\btime|asked")
def hears_s(model, x_T, times, alpha_bar):
    x, T = x_T, len(alpha_bar) - 1
    for t, s in itertools.pairwise(times):
        eps = model(x, torch.full((len(x),), s / T))
        x0 = (x - (1 - alpha_bar[t]).sqrt() * eps) / alpha_bar[t].sqrt()
        x = back(x0, x, alpha_bar[s], alpha_bar[t]) + small(
            alpha_bar[s], alpha_bar[t]
        ).sqrt() * torch.randn_like(x)
    return x


@wrong("ddpm.bits_per_dim", "L_T is not divided by the dimensions", r"prior|L_T")
def prior_whole(terms, prior_term, dims):
    return (terms.sum() / dims + prior_term) / math.log(2)


@wrong("ddpm.score_from_guess", "the guess is multiplied by abar, not its root", r"x0_hat|root|sqrt")
def abar_for_root(x0_hat, x_t, abar):
    return (abar * x0_hat - x_t) / (1 - abar)


@wrong("ddpm.schedule", "alpha_bar falls evenly", r"0\.5|beta.*(rise|rising)|always")
def even_fall(T):
    return torch.linspace(1, 1e-4, T + 1)


@wrong("ddpm.gaussian_kl", "the logarithm is upside down", r"\blog|\bln\b|logarithm|sign|upside")
def log_turned(mean1, var1, mean2, var2):
    return 0.5 * (var1 / var2 + (mean1 - mean2) ** 2 / var2 - 1 + (var1 / var2).log()).sum(-1)


@wrong("ddpm.gap", "the paths are summed, not averaged", r"\bN\b|mean|how many|paths")
def no_mean(log_q, log_p):
    return (log_q - log_p).mean() + torch.logsumexp(log_p - log_q, 0)


# --- chapter 2 ---


@wrong("optimal_variance.ddim_step", "eps without the root at x0_hat", r"x0_hat|\beps\b|root|sqrt")
def guess_as_it_is(x0_hat, x_t, abar_s, abar_t, eta, z):
    eps = (x_t - x0_hat) / (1 - abar_t).sqrt()
    var = eta**2 * small(abar_s, abar_t)
    return abar_s.sqrt() * x0_hat + (1 - abar_s - var).sqrt() * eps + var.sqrt() * z


@wrong("optimal_variance.best_variance", "lambda2 is left out of w", r"lambda2|\bw\b|lambda|λ")
def w_without_lambda(lambda2, spread, abar_s, abar_t):
    w = abar_s.sqrt() - (abar_t * (1 - abar_s) / (1 - abar_t)).sqrt()
    return lambda2 + w**2 * spread


@wrong("optimal_variance.spread_from_eps", "no limit above", r"data_var|above|upper|larger|limit|at most")
def no_roof(eps2, abar, data_var):
    return ((1 - abar) / abar * (1 - eps2)).clamp(min=0)


@wrong("optimal_variance.learned_variance", "v itself is the share", r"v \+ 1|1 \+ v|\bf\b|-1\b|\bv\b.*(0|1)")
def v_as_share(v, beta, beta_tilde):
    return (v * beta.log() + (1 - v) * beta_tilde.log()).exp()


@wrong("optimal_variance.pairs", "the last step goes below 0", r"negative|below 0|ends? at 0|\blast\b|left")
def below_nothing(T, gap):
    return [(t, t - gap) for t in range(T, 0, -gap)]


@wrong("optimal_variance.variance_after", "starts at the data's variance", r"first time|start|begin|x_t")
def starts_at_data(times, alpha_bar, r2, eta):
    var = torch.as_tensor(r2, dtype=alpha_bar.dtype)
    for t, s in itertools.pairwise(times):
        a, b = alpha_bar[t], alpha_bar[s]
        k0 = a.sqrt() * r2 / (a * r2 + 1 - a)
        ke = (1 - a.sqrt() * k0) / (1 - a).sqrt()
        lam = eta**2 * small(b, a)
        var = (b.sqrt() * k0 + (1 - b - lam).sqrt() * ke) ** 2 * var + lam
    return var


# --- chapter 3 ---


@wrong("sde.moments", "all steps as long as the first", r"even|uneven|\bdt\b|steps? .*(long|length|same)")
def first_step_for_all(f, g2, times):
    m, V, dt = torch.tensor(1.0), torch.tensor(0.0), times[1] - times[0]
    for t in times[:-1]:
        m, V = m + f(t) * m * dt, V + (2 * f(t) * V + g2(t)) * dt
    return torch.stack([m, V])


@wrong("sde.reverse_step", "the noise does not know the step's length", r"\bz\b|\bdt\b")
def noise_without_dt(x, score, f, g2, dt, z):
    return x - (f * x - g2 * score) * dt + g2.sqrt() * z


@wrong("sde.ode_velocity", "divided by the variance", r"\bstd\b|eps_hat")
def by_variance(x, eps_hat, f, g2, std):
    return f * x + g2 / 2 * eps_hat / std**2


@wrong("sde.hutchinson", "the probe stands outside alone", r"probe|inside|twice|once|e\^T")
def probe_outside(field, x, probe):
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(field(x).sum(), x)
    return (g * probe).flatten(1).sum(1)


@wrong(
    "sde.dpm_step",
    "the ratio of the steps is upside down",
    r"ratio|upside|x0_last|before|\br\b|last step|turned",
)
def ratio_turned(x, x0, x0_last, before, now, then):
    lam = [math.log(float(m) / float(std)) for m, std in (before, now, then)]
    h, h_last = lam[2] - lam[1], lam[1] - lam[0]
    D = x0 + (x0 - x0_last) * h_last / (2 * h)
    return then[1] / now[1] * x + then[0] * (1 - math.exp(-h)) * D


@wrong("sde.heun", "the second slope is taken at t again", r"\btime\b|\bs\b")
def same_time(velocity, x, t, s):
    a = velocity(x, t)
    return x + (s - t) / 2 * (a + velocity(x + (s - t) * a, t))


@wrong(
    "sde.log_likelihood", "the left end of each interval", r"left|trapez|both ends|\bend|interval|neighbour"
)
def left_ends(log_prior, divergence, times):
    return log_prior + (divergence[:-1] * times.diff()[:, None]).sum(0)


# --- chapters 4 and 5 ---


@wrong("diffusion_lm.rounding", "nearest by angle", r"length|norm|cosine|long|direction|angle|square")
def by_angle(x, table):
    return (x @ F.normalize(table, dim=-1).T).argmax(-1)


@wrong("diffusion_lm.known_word", "x_t without the root", r"\bx_t\b|root|sqrt")
def x_t_without_root(e, x_t, abar, spread):
    precision = 1 / spread + abar / (1 - abar)
    return (e / spread + x_t * abar / (1 - abar)) / precision, (1 / precision).expand_as(e)


@wrong("diffusion_lm.free", "the other convention", r"1 \+ weight|weight|convention|scale")
def libraries(told, untold, weight):
    return untold + weight * (told - untold)


@wrong("diffusion_lm.variance_cost", "standard deviations for variances", r"square|root|variance|sqrt")
def squared_ratio(true, used):
    r = (true / used) ** 2
    return (r - 1 - r.log()) / 2


@wrong("diffusion_lm.sharpen", "not normalised", r"normali|sum|distribution")
def unnormalised(both, alone, power):
    return alone + power * (both - alone)


@wrong("diffusion_lm.mbr", "candidate and reference are exchanged", r"order|exchang|argument|first|reference")
def exchanged(candidates, similarity):
    n = range(len(candidates))
    total = [sum(similarity(candidates[j], candidates[i]) for j in n if j != i) for i in n]
    return max(n, key=lambda i: total[i])


@wrong("diffuseq.partial_noise", "source and target are exchanged", r"source|target")
def source_noised(x0, target, alpha_bar, noise):
    a = alpha_bar[:, None, None]
    return torch.where(target[..., None], x0, a.sqrt() * x0 + (1 - a).sqrt() * noise)


@wrong("diffuseq.target_loss", "the mean over all L", r"\bL\b|divid|how many|each row has|number of|count")
def all_positions(loss, target):
    return (loss * target).mean(-1)


@wrong("diffuseq.word_loss", "divided by all positions", r"\bwords\b|divid|lengths|\bL\b")
def per_position(reported, pad_loss, lengths, L):
    everything = reported * L * len(lengths)
    return (everything - pad_loss * (L * len(lengths) - sum(lengths))) / (L * len(lengths))


@wrong("diffuseq.importance", "the weights have mean 1 over the times", r"under p|\bmean\b|\bT\b|sum")
def mean_one(p, T):
    return 1 / p / (1 / p).mean()


@wrong("diffuseq.shifted_mean", "m is added whole", r"\bm\b")
def m_whole(x0, x_t, m, a_t, a_s):
    return back(x0, x_t, a_s, a_t) + m


@wrong("diffuseq.wrong_share", "the truth is drawn from the power too", r"truth|drawn from p|power")
def both_sharp(p, power):
    q = p**power / (p**power).sum(-1, keepdim=True)
    return 1 - (q * q).sum(-1)


# --- chapters 6 and 7 ---


@wrong("d3pm.uniform_marginal", "K - 1 others share the rest", r"K - 1|itself|diagonal|\bK\b|others")
def others_share(x0, alpha_bar, K):
    there = F.one_hot(x0, K)
    return alpha_bar * there + (1 - alpha_bar) * (1 - there) / (K - 1)


@wrong(
    "d3pm.independence",
    "KL the other way round",
    r"revers|other way|round|which of|exchang|mean over|turned|weigh",
)
def turned(p):
    q = p.sum(1, keepdim=True) * p.sum(0)
    return (q * (q / p).log()).sum()


@wrong("d3pm.absorbing_loss", "the mean over positions", r"\bL\b|mean|sum|positions")
def mean_over_positions(log_p0, x0, x_t, t, T):
    nll = -log_p0.gather(-1, x0[..., None])[..., 0]
    return T / t * (nll * (x_t == log_p0.shape[-1])).mean(-1)


@wrong(
    "d3pm.leave_one_out", "the mass of the token there is put to 0", r"x_t|divid|q\(x_t|counted|\b0\b|zero"
)
def token_out(post, x_t, alpha_bar_t):
    rest = post * (1 - F.one_hot(x_t, post.shape[-1]))
    return rest / rest.sum(-1, keepdim=True)


@wrong("d3pm.hybrid", "T at the cross-entropy alone", r"\bkl\b|\bT\b")
def t_at_ce(kl, ce, ce_weight, T):
    return kl + T * ce_weight * ce


@wrong("d3pm.ce_weight", "a share of the bound, not of the sum", r"1 - share|sum of both|\bshare\b|whole")
def of_the_bound(bound, ce, T, share):
    return share * bound / (T * ce)


@wrong(
    "sedd.masks_loss", "the logarithm of the sum, as in cross-entropy", r"cross-entropy|logarithm|log|mean"
)
def cross_entropy(f, x0, x_t, weight):
    nll = F.cross_entropy(f.transpose(1, 2), x0, reduction="none")
    return weight * (nll * (x_t == f.shape[-1])).sum(-1)


@wrong("sedd.least_loss", "x stands below in both", r"R_|\bR\b|transpos|turned|\bx\b|column|row")
def rates_turned(p0, Q, R):
    p, total = p0 @ Q, torch.zeros((), dtype=p0.dtype)
    for x in range(len(p)):
        for y in range(len(p)):
            if x != y:
                s = p[y] / p[x]
                r = Q[:, y] / Q[:, x]
                total = total + (p0 * Q[:, x] * R[x, y] * (s - r * s.log() + r * (r.log() - 1))).sum()
    return total


@wrong("sedd.next_level", "1 - u for u", r"1 - u|u = 1|\bu\b")
def other_end(level, masks, u):
    return level * (1 - u) ** (1 / masks)


# --- chapters 8, 9 and A1 ---


@wrong(
    "side_by_side.any_order", "the mean over the numbers of masks", r"\bn\b|masks|one of|divid|weight|next"
)
def mean_cost(cost):
    return cost.mean(-1)


@wrong("side_by_side.renoised_variance", "the draw's variance", r"draw|mean|\bv\b|large|abar_t")
def of_a_draw(v, abar_t, abar_s):
    return abar_s * v + 1 - abar_s


@wrong("side_by_side.draft_weights", "likely drafts win twice", r"log_gap|twice|draft|already")
def twice(log_left, log_gap, log_right):
    return (log_gap + log_right).softmax(-1)


@wrong("after_sedd.how_many", "not sorted", r"sort|order|rising")
def as_they_come(H, gamma):
    return int((H.cumsum(0) - H.cummax(0).values <= gamma).sum())


@wrong("after_sedd.opens", "what is masked again is added whole", r"sigma|alpha_t")
def sigma_added(alpha_t, alpha_s, sigma):
    return (alpha_s - alpha_t + sigma) / (1 - alpha_t)


@wrong("after_sedd.who_sees", "a noisy position sees its own clean block", r"noisy|own|clean|answer")
def sees_answer(length, block):
    of = torch.arange(length) // block
    same, up_to = of[:, None] == of[None, :], of[:, None] >= of[None, :]
    top = torch.cat([up_to, torch.zeros_like(same)], 1)
    return torch.cat([top, torch.cat([up_to, same], 1)], 0)


@wrong("after_sedd.mask_rates", "not per mask", r"1 - kappa|per mask|share of masks|divid|factor|kappa")
def not_per_mask(p, kappa, slope, eta):
    out = p * (slope + eta * kappa)
    return torch.cat([out, -out.sum(-1, keepdim=True)], -1)


@wrong("side_notes.positions", "the largest scores", r"small|large|highest|lowest")
def largest(scores, L):
    return scores.topk(L).indices.sort().values


@wrong("side_notes.estimated", "the mean over the wrong axis of R", r"axis|mean|row|column|candidates|\bR\b")
def c_averaged(C, R, rows):
    return C.mean(0) @ torch.linalg.pinv(C[rows]) @ R


# --- right ones, in other forms ---


@right("ddpm.posterior_mean", "as a correction of x_t's share")
def by_share(x0, x_t, abar_s, abar_t):
    a = abar_t / abar_s
    w = (1 - abar_s) / (1 - abar_t)
    return abar_s.sqrt() * x0 + w * a.sqrt() * (x_t - abar_t.sqrt() * x0)


@right("sde.log_likelihood", "by numpy's trapezoid, written out")
def written_out(log_prior, divergence, times):
    middle = (divergence[1:] + divergence[:-1]) / 2
    return log_prior + torch.einsum("te,t->e", middle, times[1:] - times[:-1])


@right("diffusion_lm.rounding", "by cdist")
def by_cdist(x, table):
    return torch.cdist(x, table).argmin(1)


@right("d3pm.independence", "as a difference of entropies")
def entropies(p):
    def H(q):
        return -(q * q.log()).sum()

    return H(p.sum(0)) + H(p.sum(1)) - H(p)


@right("side_by_side.any_order", "by matmul")
def by_matmul(cost):
    return cost @ (1 / torch.arange(1, cost.shape[1] + 1, dtype=cost.dtype))


@right("after_sedd.residual", "by relu and normalize")
def by_relu(p, q):
    return F.normalize(F.relu(p - q), p=1, dim=-1)


@right("sedd.tweedie", "entry by entry of the two factors")
def two_factors(s, x_t, D):
    K, up = s.shape[-1], math.exp(D)
    total = s.sum(-1, keepdim=True)
    back_in_time = up * s - (up - 1) * total / K
    stays = torch.full_like(s, (1 - 1 / up) / K)
    return back_in_time * stays.scatter_add(-1, x_t[:, None], torch.full_like(total, 1 / up))
