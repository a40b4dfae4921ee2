"""Answers to the exercises of chapter 1."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

from tests.exercises.exam.formulas import back, like, small
from tests.exercises.exam.paper import paper

wrong, right, ANSWERS = paper()


# --- q_sample ---


@wrong("ddpm.q_sample", "the noise's factor is 1 - sqrt(alpha_bar)", r"\beps\b|noise")
def root_inside(x0, t, alpha_bar, eps):
    root = like(alpha_bar[t].sqrt(), x0)
    return (root * x0 + (1 - root) * eps).to(x0.dtype)


@wrong(
    "ddpm.q_sample",
    "the first example's time for all",
    r"batch of one|each example|its own|one time per|first example",
)
def first_time(x0, t, alpha_bar, eps):
    a = alpha_bar[t[0]]
    return (a.sqrt() * x0 + (1 - a).sqrt() * eps).to(x0.dtype)


@right("ddpm.q_sample", "one example at a time")
def looped(x0, t, alpha_bar, eps):
    rows = [
        alpha_bar[k] ** 0.5 * x + (1 - alpha_bar[k]) ** 0.5 * e for x, k, e in zip(x0, t, eps, strict=True)
    ]
    return torch.stack(rows).to(x0.dtype)


@right("ddpm.q_sample", "axes moved: the batch last")
def transposed(x0, t, alpha_bar, eps):
    a = alpha_bar[t].to(x0.dtype)
    x, e = x0.movedim(0, -1), eps.movedim(0, -1)
    return (torch.sqrt(a) * x + torch.sqrt(1 - a) * e).movedim(-1, 0)


# --- schedule ---


@wrong("ddpm.schedule", "the last beta is 1: the line ends at 0", r"0\.5|half", untrue=r"good schedule")
def parabola(T):
    return torch.linspace(1, 0, T + 1, dtype=torch.float64) ** 2


@wrong(
    "ddpm.schedule",
    "the first step is done before the first entry",
    r"start|first|entry 0|alpha_bar\[0\]|exactly 1",
)
def starts_late(T):
    beta = 1 - 1e-4 ** (1 / T)
    return (1 - beta) ** torch.arange(1, T + 2, dtype=torch.float64)


@right("ddpm.schedule", "two betas in turn, multiplied up in a loop")
def two_betas(T):
    table = [1.0]
    for t in range(T):
        table.append(table[-1] * (0.75 if t % 2 else 0.8))
    return torch.tensor(table, dtype=torch.float64)


@right("ddpm.schedule", "betas that fall, by a cumulative product")
def falling_betas(T):
    beta = torch.linspace(0.4, 0.1, T, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - beta).cumprod(0)])


# --- posterior_mean ---


@wrong("ddpm.posterior_mean", "no root on alpha_ts before x_t", r"\bx_t\b")
def no_root(x0, x_t, abar_s, abar_t):
    ats = abar_t / abar_s
    return (abar_s.sqrt() * (1 - ats) * x0 + ats * (1 - abar_s) * x_t) / (1 - abar_t)


@wrong("ddpm.posterior_mean", "divided by 1 - abar_s", r"abar_s|divi|denominator")
def over_s(x0, x_t, abar_s, abar_t):
    ats = abar_t / abar_s
    return (abar_s.sqrt() * (1 - ats) * x0 + ats.sqrt() * (1 - abar_s) * x_t) / (1 - abar_s)


@right("ddpm.posterior_mean", "through eps, as the paper's algorithm has it")
def by_eps(x0, x_t, abar_s, abar_t):
    ats = abar_t / abar_s
    eps = (x_t - abar_t.sqrt() * x0) / (1 - abar_t).sqrt()
    return (x_t - (1 - ats) / (1 - abar_t).sqrt() * eps) / ats.sqrt()


# --- gaussian_kl ---


@wrong("ddpm.gaussian_kl", "the sign of the logarithm", r"\blog")
def log_added(mean1, var1, mean2, var2):
    r = var1 / var2
    return 0.5 * (r + (mean1 - mean2) ** 2 / var2 - 1 + r.log()).sum(-1)


@wrong("ddpm.gaussian_kl", "the distance of the means over var1", r"\bmeans?\b|var2")
def over_var1(mean1, var1, mean2, var2):
    r = var1 / var2
    return 0.5 * (r + (mean1 - mean2) ** 2 / var1 - 1 - r.log()).sum(-1)


@right("ddpm.gaussian_kl", "torch.distributions")
def by_torch(mean1, var1, mean2, var2):
    normal = torch.distributions.Normal
    return torch.distributions.kl_divergence(normal(mean1, var1.sqrt()), normal(mean2, var2.sqrt())).sum(-1)


@right("ddpm.gaussian_kl", "differences of logarithms")
def by_logs(mean1, var1, mean2, var2):
    l1, l2 = torch.log(var1), torch.log(var2)
    d = mean1 - mean2
    return ((l2 - l1 + torch.exp(l1 - l2) + d * d * torch.exp(-l2) - 1) / 2).sum(dim=-1)


# --- simple_loss ---


@wrong("ddpm.simple_loss", "the root of the mean square", r"\broot\b|square")
def rooted(model, x0, t, alpha_bar):
    eps = torch.randn_like(x0)
    a = like(alpha_bar[t], x0)
    x_t = (a.sqrt() * x0 + (1 - a).sqrt() * eps).to(x0.dtype)
    return (eps - model(x_t, t / (len(alpha_bar) - 1))).square().flatten(1).mean(1).sqrt()


@wrong("ddpm.simple_loss", "sum over dimensions", r"\bsum|\bmean\b|dimensions")
def summed(model, x0, t, alpha_bar):
    eps = torch.randn_like(x0)
    a = like(alpha_bar[t], x0)
    x_t = (a.sqrt() * x0 + (1 - a).sqrt() * eps).to(x0.dtype)
    return (eps - model(x_t, t / (len(alpha_bar) - 1))).square().flatten(1).sum(1)


@wrong("ddpm.simple_loss", "no gradient: the network is called under no_grad", r"gradient|detach|no_grad")
def cut(model, x0, t, alpha_bar):
    eps = torch.randn_like(x0)
    a = like(alpha_bar[t], x0)
    with torch.no_grad():
        guess = model((a.sqrt() * x0 + (1 - a).sqrt() * eps).to(x0.dtype), t / (len(alpha_bar) - 1))
    return F.mse_loss(guess, eps, reduction="none").flatten(1).mean(1)


@right("ddpm.simple_loss", "the noise of each example drawn by itself")
def drawn_apart(model, x0, t, alpha_bar):
    T = len(alpha_bar) - 1
    eps = torch.stack([torch.randn(x.shape, dtype=x0.dtype) for x in x0])
    a = like(alpha_bar[t], x0)
    x_t = (a.sqrt() * x0 + (1 - a).sqrt() * eps).to(x0.dtype)
    error = model(x_t, t / T) - eps
    return torch.stack([(e * e).sum() / e.numel() for e in error])


# --- ancestral ---


@wrong(
    "ddpm.ancestral",
    "the predicted noise stands where x_0 should",
    r"\bx_?0\b|predicted noise|\beps\b",
    untrue=r"variance must vanish",
)
def eps_as_x0(model, x_T, times, alpha_bar):
    x, T = x_T, len(alpha_bar) - 1
    for t, s in pairwise(times):
        eps = model(x, torch.full((len(x),), t / T))
        x = back(eps, x, alpha_bar[s], alpha_bar[t]) + small(
            alpha_bar[s], alpha_bar[t]
        ).sqrt() * torch.randn_like(x)
        x = x.to(x_T.dtype)
    return x


@wrong("ddpm.ancestral", "the same noise in every step", r"every step|each step|fresh|anew|same (noise|draw)")
def noise_once(model, x_T, times, alpha_bar):
    x, T, z = x_T, len(alpha_bar) - 1, torch.randn_like(x_T)
    for t, s in pairwise(times):
        a, b = alpha_bar[t], alpha_bar[s]
        eps = model(x, torch.full((len(x),), t / T))
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x = (back(x0, x, b, a) + small(b, a).sqrt() * z).to(x_T.dtype)
    return x


@right("ddpm.ancestral", "DDIM's form with eta 1, no noise drawn at the end")
def as_ddim(model, x_T, times, alpha_bar):
    x, T = x_T, len(alpha_bar) - 1
    for k in range(len(times) - 1):
        a, b = alpha_bar[times[k]], alpha_bar[times[k + 1]]
        eps = model(x, torch.full((len(x),), times[k] / T))
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        var = small(b, a)
        x = b.sqrt() * x0 + (1 - b - var).clamp(min=0).sqrt() * eps
        if times[k + 1] > 0:
            x = x + var.sqrt() * torch.randn_like(x)
        x = x.to(x_T.dtype)
    return x


# --- repair ---


@wrong("ddpm.repair", "z times the variance, without its root", r"\bz\b|standard deviation|\broot\b")
def variance_times_z(x0_hat, x_t, abar_s, abar_t, z):
    return back(x0_hat, x_t, abar_s, abar_t) + small(abar_s, abar_t) * z


@wrong(
    "ddpm.repair",
    "the variance lacks its factor 1 - abar_s",
    r"\bz\b|1 - abar_s|variance",
    untrue=r"1 - abar_t / abar_s does not vanish",
)
def factor_missing(x0_hat, x_t, abar_s, abar_t, z):
    var = (1 - abar_t / abar_s) / (1 - abar_t)
    return back(x0_hat, x_t, abar_s, abar_t) + var.sqrt() * z


@right("ddpm.repair", "signal, old noise, fresh noise")
def three_parts(x0_hat, x_t, abar_s, abar_t, z):
    var = small(abar_s, abar_t)
    eps = (x_t - abar_t.sqrt() * x0_hat) / (1 - abar_t).sqrt()
    return abar_s.sqrt() * x0_hat + (1 - abar_s - var).clamp(min=0).sqrt() * eps + var.sqrt() * z


# --- bits_per_dim ---


@wrong("ddpm.bits_per_dim", "the prior term is left in nats", r"prior")
def prior_in_nats(terms, prior_term, dims):
    return terms.sum() / (dims * math.log(2)) + prior_term


@wrong("ddpm.bits_per_dim", "the prior term is added to every term", r"prior")
def prior_each_time(terms, prior_term, dims):
    return (terms + prior_term).sum() / dims / math.log(2)


@right("ddpm.bits_per_dim", "changed to bits first")
def bits_first(terms, prior_term, dims):
    bits = torch.stack([*terms, torch.as_tensor(prior_term)]) * math.log2(math.e)
    return bits.sum() / dims


# --- best_guess ---


@wrong(
    "ddpm.best_guess",
    "the noise's standard deviation for its variance",
    r"1 - abar|\babar\b|\broot\b|variance",
)
def deviation_for_variance(x_t, abar, points, weights):
    fit = -((x_t[:, None] - abar**0.5 * points) ** 2) / (2 * (1 - abar) ** 0.5)
    return (weights.log() + fit).softmax(1) @ points


@wrong("ddpm.best_guess", "normalised over the batch", r"\baxis\b|\bpoints\b|batch|\bsums?\b|normali")
def over_the_batch(x_t, abar, points, weights):
    fit = -((x_t[:, None] - abar**0.5 * points) ** 2) / (2 * (1 - abar))
    return (weights.log() + fit).softmax(0) @ points


@right("ddpm.best_guess", "densities and a quotient of sums")
def quotient(x_t, abar, points, weights):
    joint = weights * torch.exp(-((x_t.unsqueeze(1) - abar.sqrt() * points) ** 2) / 2 / (1 - abar))
    return (joint * points).sum(-1) / joint.sum(-1)


# --- score_from_guess ---


@wrong("ddpm.score_from_guess", "abar without its root", r"\bx0_hat\b|\broot\b|abar")
def no_root_of_abar(x0_hat, x_t, abar):
    return (abar * x0_hat - x_t) / (1 - abar)


@wrong("ddpm.score_from_guess", "the variance of the signal below", r"\babar\b|divi|variance")
def over_abar(x0_hat, x_t, abar):
    return (abar**0.5 * x0_hat - x_t) / abar


@right("ddpm.score_from_guess", "two weights")
def two_weights(x0_hat, x_t, abar):
    lost = 1 - abar
    return torch.sqrt(abar) / lost * x0_hat - x_t / lost


# --- from_v ---


@wrong("ddpm.from_v", "the noise divided by its variance", r"\beps\b|noise|1 - abar")
def noise_by_variance(v, x_t, abar):
    x0 = abar**0.5 * x_t - (1 - abar) ** 0.5 * v
    return x0, (x_t - abar**0.5 * x0) / (1 - abar)


@wrong("ddpm.from_v", "v added to the data's share", r"\bv\b|sign|x_0")
def v_added(v, x_t, abar):
    return abar**0.5 * x_t + (1 - abar) ** 0.5 * v, (1 - abar) ** 0.5 * x_t + abar**0.5 * v


@right("ddpm.from_v", "the noise from x_0, by (1.3)")
def noise_from_data(v, x_t, abar):
    x0 = torch.sqrt(abar) * x_t - torch.sqrt(1 - abar) * v
    eps = v * torch.sqrt(abar) + torch.sqrt(1 - abar) * x_t
    return x0, eps


# --- gap ---


@wrong("ddpm.gap", "the truth minus the bound, with the mean of p / q", r"sign|negative|below")
def truth_minus_bound(log_q, log_p):
    return (log_p - log_q).mean() - ((log_p - log_q).exp().mean()).log()


@wrong("ddpm.gap", "bits in place of nats", r"factor|ratio|0\.69|1\.44|times|ln|\blog")
def gap_in_bits(log_q, log_p):
    r = log_p - log_q
    return (r.exp().mean().log() - r.mean()) / math.log(2)


@right("ddpm.gap", "plain means of p / q")
def plain_gap(log_q, log_p):
    r = log_p - log_q
    return r.exp().mean().log() - r.mean()


# --- vae_bound ---


@wrong("ddpm.vae_bound", "var taken for the standard deviation", r"\bvar\b")
def var_as_sd(x0, mean, var, x0_hat, decoder_var):
    kl = -torch.log(var) + (var**2 + mean**2 - 1) / 2
    log_p = torch.distributions.Normal(x0_hat, decoder_var**0.5).log_prob(x0)
    return kl.sum(-1) - log_p.sum(-1)


@wrong("ddpm.vae_bound", "decoder_var taken for the standard deviation", r"decoder_var")
def decoder_as_sd(x0, mean, var, x0_hat, decoder_var):
    kl = (var + mean**2 - 1 - torch.log(var)) / 2
    log_p = torch.distributions.Normal(x0_hat, decoder_var).log_prob(x0)
    return kl.sum(-1) - log_p.sum(-1)


@right("ddpm.vae_bound", "by torch's multivariate normal")
def all_at_once(x0, mean, var, x0_hat, decoder_var):
    normal = torch.distributions.MultivariateNormal
    q = normal(mean, torch.diag_embed(var))
    prior = normal(torch.zeros_like(mean), torch.eye(mean.shape[-1]).to(mean))
    p = normal(x0_hat, torch.eye(x0.shape[-1]).to(x0) * decoder_var)
    return torch.distributions.kl_divergence(q, prior) - p.log_prob(x0)
