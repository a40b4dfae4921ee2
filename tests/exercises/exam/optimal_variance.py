"""Answers to the exercises of chapter 2."""

from itertools import pairwise

import torch

from tests.exercises.exam.formulas import small
from tests.exercises.exam.paper import paper

wrong, right, ANSWERS = paper()


# --- ddim_step ---


@wrong("optimal_variance.ddim_step", "beta in place of beta-tilde", r"lambda|beta|variance|\bz\b")
def large_variance(x0_hat, x_t, abar_s, abar_t, eta, z):
    lambda2 = eta**2 * (1 - abar_t / abar_s)
    eps = (x_t - abar_t.sqrt() * x0_hat) / (1 - abar_t).sqrt()
    return abar_s.sqrt() * x0_hat + (1 - abar_s - lambda2).clamp(min=0).sqrt() * eps + lambda2.sqrt() * z


@wrong(
    "optimal_variance.ddim_step",
    "the part of x0_hat is taken out of x_t without a root",
    r"\beps\b|abar_t|\bx0_hat\b",
)
def eps_without_root(x0_hat, x_t, abar_s, abar_t, eta, z):
    lambda2 = eta**2 * small(abar_s, abar_t)
    eps = (x_t - abar_t * x0_hat) / (1 - abar_t).sqrt()
    return abar_s.sqrt() * x0_hat + (1 - abar_s - lambda2).clamp(min=0).sqrt() * eps + lambda2.sqrt() * z


@right("optimal_variance.ddim_step", "sorted by x0_hat, x_t and z")
def by_weights(x0_hat, x_t, abar_s, abar_t, eta, z):
    std = eta * torch.sqrt((1 - abar_s) * (abar_s - abar_t) / (abar_s * (1 - abar_t)))
    c = torch.sqrt(torch.clamp(1 - abar_s - std**2, min=0) / (1 - abar_t))
    return (abar_s.sqrt() - c * abar_t.sqrt()) * x0_hat + c * x_t + std * z


# --- pairs ---


@wrong("optimal_variance.pairs", "the last short step is lost", r"\bends?\b|last|reach|divide")
def loses_the_rest(T, gap):
    return [(t, t - gap) for t in range(T, gap - 1, -gap)]


@wrong("optimal_variance.pairs", "each pair turned round", r"order|swap|turned|\(t, s\)|\(s, t\)|falls|down")
def turned(T, gap):
    return [(max(t - gap, 0), t) for t in range(T, 0, -gap)]


@right("optimal_variance.pairs", "a while loop")
def counted(T, gap):
    steps, t = [], T
    while t > 0:
        s = t - gap if t > gap else 0
        steps.append((t, s))
        t = s
    return steps


# --- best_variance ---


@wrong("optimal_variance.best_variance", "the root covers one factor only", r"\bw\b|spread|\broot\b")
def root_too_short(lambda2, spread, abar_s, abar_t):
    w = abar_s.sqrt() - (1 - abar_s - lambda2).sqrt() * abar_t / (1 - abar_t)
    return lambda2 + w**2 * spread


@wrong("optimal_variance.best_variance", "w as if lambda were 0", r"\bw\b|lambda2")
def w_without_lambda(lambda2, spread, abar_s, abar_t):
    w = abar_s.sqrt() - ((1 - abar_s) * abar_t / (1 - abar_t)).sqrt()
    return lambda2 + w**2 * spread


@right("optimal_variance.best_variance", "the square multiplied out")
def multiplied_out(lambda2, spread, abar_s, abar_t):
    q = (1 - abar_s - lambda2) * abar_t / (1 - abar_t)
    return (abar_s - 2 * (abar_s * q).sqrt() + q) * spread + lambda2


# --- spread_from_eps ---


@wrong(
    "optimal_variance.spread_from_eps",
    "the upper limit is missing",
    r"data_var|data variance|data's variance|upper",
)
def no_upper_limit(eps2, abar, data_var):
    return ((1 - abar) / abar * (1 - eps2)).clamp(min=0)


@wrong("optimal_variance.spread_from_eps", "the root of the factor", r"\broot\b|square")
def root_of_the_factor(eps2, abar, data_var):
    return (((1 - abar) / abar).sqrt() * (1 - eps2)).clamp(min=0).minimum(data_var)


@right("optimal_variance.spread_from_eps", "1 / abar - 1, limits by torch.where")
def by_where(eps2, abar, data_var):
    spread = (1 / abar - 1) * (1 - eps2)
    spread = torch.where(spread > data_var, data_var, spread)
    return torch.where(spread < 0, torch.zeros_like(spread), spread)


# --- learned_variance ---


@wrong("optimal_variance.learned_variance", "f is v itself", r"\bf\b|\bv\b")
def v_is_f(v, beta, beta_tilde):
    return (v * beta.log() + (1 - v) * beta_tilde.log()).exp()


@wrong("optimal_variance.learned_variance", "the exponential is missing", r"\bexp|\blog")
def still_a_log(v, beta, beta_tilde):
    f = (v + 1) / 2
    return f * beta.log() + (1 - f) * beta_tilde.log()


@right("optimal_variance.learned_variance", "powers")
def by_powers(v, beta, beta_tilde):
    return (beta * beta_tilde).sqrt() * (beta / beta_tilde) ** (v / 2)


# --- grid ---


@wrong("optimal_variance.grid", "rounding makes two times equal", r"equal|twice|distinct|repeat|\bfall")
def rounded(T, steps):
    return [round(T * (k / steps) ** 2) for k in range(steps, -1, -1)]


@wrong("optimal_variance.grid", "finer towards T", r"lower half|more of them|towards T|upper half|\bdata\b")
def wrong_end(T, steps):
    times = [T]
    for k in range(1, steps + 1):
        wanted = min(times[-1] - 1, T - round(T * (k / steps) ** 2))
        times.append(max(wanted, steps - k))
    return times


@right("optimal_variance.grid", "a power, filled up with the smallest free numbers")
def filled_up(T, steps):
    chosen = {0, T}
    for k in range(1, steps):
        chosen.add(round(T * (k / steps) ** 2.5))
    free = (t for t in range(T + 1) if t not in chosen)
    while len(chosen) < steps + 1:
        chosen.add(next(free))
    return sorted(chosen, reverse=True)


# --- variance_after ---


@wrong(
    "optimal_variance.variance_after",
    "all marginals taken for granted",
    r"guess|perfect|r2|x_t|step|times|\beta\b",
)
def marginal(times, alpha_bar, r2, eta):
    a = alpha_bar[times[-1]]
    return a * r2 + 1 - a + 0 * eta


@wrong("optimal_variance.variance_after", "the guess is x_t / sqrt(abar)", r"r2|guess|x_0")
def guess_of_no_prior(times, alpha_bar, r2, eta):
    v = alpha_bar[times[0]] * r2 + 1 - alpha_bar[times[0]]
    for t, s in pairwise(times):
        a_t, a_s = alpha_bar[t], alpha_bar[s]
        fresh = eta**2 * (1 - a_s) * (1 - a_t / a_s) / (1 - a_t)
        keep = ((1 - a_s - fresh) / (1 - a_t)) ** 0.5
        v = ((a_s**0.5 - keep * a_t**0.5) / a_t**0.5 + keep) ** 2 * v + fresh
    return v


@right("optimal_variance.variance_after", "by x_0 and eps")
def by_parts(times, alpha_bar, r2, eta):
    v = alpha_bar[times[0]] * r2 + 1 - alpha_bar[times[0]]
    for k in range(len(times) - 1):
        a_t, a_s = alpha_bar[times[k]], alpha_bar[times[k + 1]]
        fresh = eta * eta * (1 - a_s) * (1 - a_t / a_s) / (1 - a_t)
        x0 = a_t.sqrt() * r2 / (a_t * r2 + 1 - a_t)
        eps = (1 - a_t.sqrt() * x0) / (1 - a_t).sqrt()
        v = (a_s.sqrt() * x0 + (1 - a_s - fresh).sqrt() * eps).square() * v + fresh
    return v
