"""Chapter 2, the reverse variance: the reference answers, what is asked of an answer, and the classic wrong ones.

abar is alpha_bar; spread is E Var(x_0 | x_t) per dimension; lambda^2 = eta^2 beta-tilde is the variance of
q(x_s | x_t, x_0). The truths do not trust the formulas: they add up precisions, or see where two values of x_0 lead.
A wrong answer in quotes is the reference with that text changed.
"""

import math
from itertools import pairwise

import torch

from ..cases import normal, numbers
from ..checks import at_least, close, falling, stands_at
from ..exercise import define

# --- ddim_step ---


def small(abar_s, abar_t):
    """beta-tilde, the variance of q(x_s | x_t, x_0) in DDPM."""
    return (1 - abar_s) * (1 - abar_t / abar_s) / (1 - abar_t)


def ddim_step(x0_hat, x_t, abar_s, abar_t, eta, z):
    """x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - lambda^2) eps + lambda z, with the eps that belongs to x0_hat."""
    lambda2 = eta**2 * small(abar_s, abar_t)
    eps = (x_t - abar_t.sqrt() * x0_hat) / (1 - abar_t).sqrt()  # the noise in x_t
    left = (1 - abar_s - lambda2).clamp(min=0)  # for the old noise
    return abar_s.sqrt() * x0_hat + left.sqrt() * eps + lambda2.sqrt() * z


def by_precision(x0_hat, x_t, abar_s, abar_t, eta, z):
    """DDPM's variance from two precisions, of x_s given x_0 and of x_t given x_s; then what it leaves to the old noise.

    The two noises together have the variance 1 - abar_s.
    """
    kept = abar_t / abar_s
    std = eta * (1 / (1 - abar_s) + kept / (1 - kept)) ** -0.5
    share = ((1 - abar_s - std**2).clamp(min=0) / (1 - abar_t)) ** 0.5
    return abar_s**0.5 * x0_hat + share * (x_t - abar_t**0.5 * x0_hat) + std * z


def _steps():
    for shape, at in (
        ((3,), (0.8, 0.3, 0.5)),
        ((2, 4), (0.99, 0.9, 0.8)),
        ((2,), (0.6, 0.1, 0.0)),
    ):
        x0, x_t, z = normal(3, *shape)
        yield x0, x_t, *numbers(*at), z


define(
    ddim_step,
    truth=by_precision,
    cases=lambda: list(_steps()),
    limits={
        "at abar_s = 1 the step has arrived: nothing but x0_hat is left": {
            "abar_s": numbers(1.0)[0]
        },
        "at eta = 0 the step is deterministic": {"eta": numbers(0.0)[0]},
        "at eta = 1 this is DDPM's step with the small variance": {
            "eta": numbers(1.0)[0]
        },
    },
    linear_in=("x0_hat", "x_t", "z"),
    mistakes="""
    noise added on top
        1 - abar_s - lambda2 -> 1 - abar_s
        there is too much noise at time s: the fresh part lambda z must take its share from sqrt(1 - abar_s) eps
    beta for beta-tilde
        small(abar_s, abar_t) -> (1 - abar_t / abar_s)
        at eta = 1 this is not DDPM: lambda^2 is eta^2 times beta-tilde, not beta
    eta never used
        eta**2 -> 0
        this is the deterministic step whatever eta is
    x_t for eps
        left.sqrt() * eps -> left.sqrt() * x_t
        x_t stands where the noise in it should: which eps makes x_t = sqrt(abar_t) x0_hat + sqrt(1 - abar_t) eps?
    DDPM's mean with less noise
        1 - abar_s - lambda2 -> 1 - abar_s - small(abar_s, abar_t)
        this is DDPM's mean, with eta times its noise: at eta < 1 x_s has too little variance. What the fresh
        noise gives up must stay with the old one: which term takes it?
    """,
)


# --- pairs ---


def pairs(T, gap):
    """(t, s) of each step: from T down in jumps of `gap` (the last one shorter, if need be), each to the next visit."""
    times = [*range(T, 0, -gap), 0]
    return list(pairwise(times))


def chained(got, a):
    """Down from T to 0, each step from where the last one arrived."""
    for t, s in got:
        if t <= s:
            return f"your step {(t, s)} goes from {t} to {s}: sampling goes down, from noise to data"
    if not got or got[0][0] != a.T:
        start = got[0][0] if got else "nowhere"
        return f"your first step starts at {start}, and pure noise is at T = {a.T}"
    for (_, s), (t, _) in pairwise(got):
        if s != t:
            return (
                f"one step arrives at {s} and the next starts at {t}: in between, the network is told a time that x "
                "does not have"
            )
    last = got[-1][1]
    if last:
        return f"your last step ends at {last}, and the data is at 0: what comes out is not finished"
    return None


define(
    pairs,
    cases=lambda: [(20, 5), (7, 1), (20, 6), (1000, 100), (5, 9)],
    read=lambda got, a: [(int(t), int(s)) for t, s in got],
    properties=(chained,),
    mistakes="""
    always to t - 1
        = [(t, t - 1) for t in range(T, 0, -gap)]
        each step says that it arrives at t - 1, and the next one starts gap earlier: in between, the network is
        told a time that x does not have
    the rest left out
        [*range(T, 0, -gap), 0] -> [*range(T, -1, -gap)]
        where gap does not divide T the last, shorter step is missing: what is left of the way to 0?
    a step for every t
        range(T, 0, -gap) -> range(T, 0, -1)
        you visit every t: with jumps of gap there are T / gap steps, rounded up
    """,
)


# --- best_variance ---


def best_variance(lambda2, spread, abar_s, abar_t):
    """lambda^2 + w^2 E Var(x_0 | x_t), w the weight of x_0 in the mean of q(x_s | x_t, x_0)."""
    left = 1 - abar_s - lambda2
    w = abar_s.sqrt() - (left * abar_t / (1 - abar_t)).sqrt()
    return lambda2 + w**2 * spread


def two_values(lambda2, spread, abar_s, abar_t):
    """x_0 is one of two values, as likely as the other, with this variance: how far apart are the means of x_s?"""
    share = ((1 - abar_s - lambda2) / (1 - abar_t)) ** 0.5
    ends = [
        abar_s**0.5 * x0 - share * abar_t**0.5 * x0
        for x0 in (spread**0.5, -(spread**0.5))
    ]
    return lambda2 + ((ends[0] - ends[1]) / 2) ** 2


def _variances():
    for eta, spread, abar_s, abar_t in (
        (0.5, numbers(0.2, 0.4), numbers(0.8, 0.7), numbers(0.3, 0.4)),
        (
            0.8,
            numbers(0.05, 0.7, 0.3),
            numbers(0.99, 0.3, 0.6),
            numbers(0.9, 0.05, 0.2),
        ),
    ):
        yield eta**2 * small(abar_s, abar_t), spread, abar_s, abar_t


define(
    best_variance,
    truth=two_values,
    cases=lambda: list(_variances()),
    limits={
        "where x_0 is known (spread 0), lambda^2 is all the variance there is": {
            "spread": numbers(0.0, 0.0)
        },
        "for DDPM (lambda^2 = beta-tilde) and data N(0, 1), where the spread is 1 - abar_t, "
        "the best variance is beta = 1 - abar_t / abar_s": {
            "lambda2": lambda a: small(a.abar_s, a.abar_t),
            "spread": lambda a: 1 - a.abar_t,
        },
    },
    linear_in=("spread",),
    properties=(at_least(0.0, "it is a variance"),),
    mistakes="""
    sqrt(abar_s) alone
        w**2 -> abar_s
        x_0 enters the mean a second time: the eps computed from x_t holds it too, with a minus sign
    the spread of x_s
        w**2 * spread -> spread
        the spread is that of x_0: how much of it arrives in x_s?
    DDPM's weight for every lambda
        left = 1 - abar_s - lambda2 -> left = 1 - abar_s - small(abar_s, abar_t)
        right for DDPM only: the weight of x_0 depends on lambda
    eps not divided
        abar_t / (1 - abar_t) -> abar_t
        the second part of your w lacks its denominator: eps is (x_t - sqrt(abar_t) x_0) over sqrt(1 - abar_t), so
        how much of x_0 does it hold?
    """,
)


# --- spread_from_eps ---


def spread_from_eps(eps2, abar, data_var):
    """E Var(x_0 | x_t) from the mean square eps2 of a perfect network's eps, cut to [0, data variance]."""
    spread = (1 - abar) / abar * (1 - eps2)  # what it misses of eps, in units of x_0
    return spread.clamp(min=0).minimum(data_var)


def at_most_the_data_s(got, a):
    """No spread above the variance of the data."""
    if isinstance(got, torch.Tensor) and (got > a.data_var + 1e-6).any():
        return (
            f"your answer holds {got.max().item():.4g}, and on average over x_t the spread of x_0 cannot exceed "
            f"data_var = {a.data_var.item():g}, the variance of the data"
        )
    return None


define(
    spread_from_eps,
    cases=lambda: [
        (numbers(0.7, 0.9), numbers(0.6, 0.2), numbers(30.0)),
        (numbers(0.2, 0.7, 0.99), numbers(0.9, 0.4, 0.05), numbers(30.0)),
        (numbers(0.4, 1.02), numbers(0.3, 0.1), numbers(30.0)),
        (numbers(0.5, 0.4), numbers(0.1, 0.45), numbers(4.0)),
        (numbers(0.5, 0.3, 0.6), numbers(0.1, 0.9, 0.3), numbers(0.25)),
    ],
    limits={
        "where the network finds all the noise (eps2 = 1), x_0 is known": {
            "eps2": numbers(1.0, 1.0)
        }
    },
    properties=(at_least(0.0, "it is a variance"), at_most_the_data_s),
    mistakes="""
    the ratio upside down
        (1 - abar) / abar -> abar / (1 - abar)
        the factor is upside down: an error in eps is an error in x_0 that is sqrt((1 - abar) / abar) times as
        large
    E eps_hat^2 itself
        (1 - eps2) -> eps2
        E eps_hat^2 is what the network knows of the noise. What it does not know is 1 minus that
    the score's formula
        (1 - eps2) -> (1 - (1 - abar) * eps2)
        that factor 1 - abar belongs to the squared score; eps_hat^2 is (1 - abar) score^2 already
    """,
)


# --- learned_variance ---


def learned_variance(v, beta, beta_tilde):
    """exp(f ln beta + (1 - f) ln beta_tilde), f = (v + 1) / 2."""
    f = (v + 1) / 2
    return (f * beta.log() + (1 - f) * beta_tilde.log()).exp()


define(
    learned_variance,
    truth=lambda v, beta, beta_tilde: beta_tilde * (beta / beta_tilde) ** ((v + 1) / 2),
    cases=lambda: [
        (numbers(0.2, -0.4), numbers(0.3, 0.2), numbers(0.1, 0.15)),
        (
            numbers(-1.7, 0.3, 1.5),
            numbers(1e-2, 2e-2, 3e-2),
            numbers(2e-3, 1e-2, 2.9e-2),
        ),
    ],
    limits={
        "at v = 1 it is beta": {"v": numbers(1.0, 1.0)},
        "at v = -1 it is beta_tilde": {"v": numbers(-1.0, -1.0)},
        "at v = 0 it is the geometric mean of the two, the root of their product": {
            "v": numbers(0.0, 0.0)
        },
    },
    properties=(at_least(0.0, "it is a variance"),),
    tol=1e-6,
    mistakes="""
    linear, not in logs
        (f * beta.log() + (1 - f) * beta_tilde.log()).exp() -> f * beta + (1 - f) * beta_tilde
        the ends are right, but between them you take the arithmetic mean: the two differ by orders of magnitude
        for a long step that ends close to the data, so the interpolation is between their logarithms
    v taken for f
        (v + 1) / 2 -> v
        the network's v = -1 stands for beta-tilde and v = 1 for beta: which f in [0, 1] is that?
    f cut to [0, 1]
        (v + 1) / 2 -> ((v + 1) / 2).clamp(0, 1)
        right between the ends, but the network may go beyond them, and sometimes should: data of variance above 1
        needs more than beta
    """,
)


# --- grid ---


def grid(T, steps):
    """Quadratic from the data up, then pushed apart: from below by one each, from above to leave room for the rest."""
    times = [0]
    for k in range(1, steps + 1):
        wanted = max(times[-1] + 1, round(T * (k / steps) ** 2))
        times.append(min(wanted, T - (steps - k)))
    return times[::-1]


def evenly(T, steps):
    """T, ..., 0 in steps of one length."""
    return T - T * torch.arange(steps + 1, dtype=torch.float64) / steps


def near_the_data(times, a):
    """The share of times in the lower half; all of them where the grid is hardly coarser than the table."""
    coarse = 10 * a.steps <= a.T
    return (times <= a.T / 2).double().mean() if coarse else 1


define(
    grid,
    cases=lambda: [(1000, 10), (1000, 50), (100, 95), (20, 20), (7, 1)],
    read=lambda got, a: torch.tensor([float(t) for t in got]).double(),
    shows={
        "one time short": lambda t, a: len(t) != a.steps + 1,
        "rising": lambda t, a: (t.diff() > 0).all(),
        "not whole": lambda t, a: (t != t.round()).any(),
        "ends at 1": lambda t, a: t[-1] != 0,
        "rounded onto each other": lambda t, a: (t.diff() == 0).any(),
        "even": lambda t, a: (
            near_the_data(t, a) < 0.6 and close(t, evenly(a.T, a.steps), 1.0)
        ),
        "dense at the wrong end": lambda t, a: near_the_data(t, a) < 0.45,
        "fewer than 60 % of your times lie in the lower half: make them more": lambda t, a: (
            near_the_data(t, a) < 0.6
        ),
    },
    properties=(
        stands_at(0, lambda a: a.T, "that is where pure noise is"),
        falling,
    ),
    mistakes="""
    one time short
        = [*grid(T, steps)[:-2], 0] if steps > 1 else [T]
        K steps visit K + 1 times, both ends counted: how many does yours visit?
    rising
        = grid(T, steps)[::-1]
        your times rise: sampling goes down, the first time is T and the last is 0
    ends at 1
        = [*grid(T, steps)[:-1], 1 if grid(T, steps)[-2] > 1 else 0.5]
        the last time must be 0: that is where data is
    rounded onto each other
        = [round(T * (k / steps) ** 2) for k in range(steps, -1, -1)]
        two of your times are equal: a step from t to t is none. Did rounding do that? Try steps near T
    even
        = [round(T * k / steps) for k in range(steps, -1, -1)]
        evenly spaced: the task is to spend more of the steps near the data
    dense at the wrong end
        = [T - t for t in reversed(grid(T, steps))]
        you have more times above T / 2 than below: the short steps are near the noise, where there is little to
        decide
    not whole
        = [T * (k / steps) ** 2 for k in range(steps, -1, -1)]
        these times are not whole numbers, and the table alpha_bar has no entries between its rows
    """,
)


# --- variance_after ---


def variance_after(times, alpha_bar, r2, eta):
    """Variance of DDIM's samples of N(0, r2) with a perfect network, from the exact x_T: one line for each step."""
    v = alpha_bar[times[0]] * r2 + 1 - alpha_bar[times[0]]
    for t, s in pairwise(times):
        a_t, a_s = alpha_bar[t], alpha_bar[s]
        fresh = eta**2 * small(a_s, a_t)
        keep = ((1 - a_s - fresh) / (1 - a_t)) ** 0.5  # of the noise in x_t
        guess = a_t**0.5 * r2 / (a_t * r2 + 1 - a_t)  # E[x_0 | x_t] / x_t
        v = ((a_s**0.5 - keep * a_t**0.5) * guess + keep) ** 2 * v + fresh
    return v


def by_factors(times, alpha_bar, r2, eta):
    """The same from x_T's standard deviation on: each draw's factor at the end, their squares added."""
    factors = [math.sqrt(alpha_bar[times[0]] * r2 + 1 - alpha_bar[times[0]])]
    for t, s in pairwise(times):
        a_t, a_s = float(alpha_bar[t]), float(alpha_bar[s])
        fresh = float(eta) ** 2 * (1 - a_s) * (1 - a_t / a_s) / (1 - a_t)
        x0 = math.sqrt(a_t) * float(r2) / (a_t * float(r2) + 1 - a_t)
        eps = (1 - math.sqrt(a_t) * x0) / math.sqrt(1 - a_t)
        step = math.sqrt(a_s) * x0 + math.sqrt(1 - a_s - fresh) * eps
        factors = [step * f for f in factors] + [math.sqrt(fresh)]
    return numbers(sum(f * f for f in factors))[0]


def _walks():
    """Few steps of uneven length, down to the data."""
    for T, times, r2, eta in (
        (8, [8, 5, 3], 0.4, 0.6),
        (8, [8, 6, 2, 1], 2.5, 0.3),
        (10, [7, 3, 2, 0], 0.7, 0.8),
    ):
        table = torch.linspace(0, 1, T + 1, dtype=torch.float64).cos() ** 3
        yield times, table, *numbers(r2, eta)


define(
    variance_after,
    truth=by_factors,
    cases=lambda: list(_walks()),
    limits={
        "without a step it is the variance of x_t": {"times": [5]},
        "without fresh noise (eta = 0) each step is a factor": {"eta": numbers(0.0)[0]},
        "where the data is one point (r2 = 0) the noise that is left is that of (1.3)": {
            "r2": numbers(0.0)[0]
        },
    },
    properties=(at_least(0.0, "it is a variance"),),
    tol=1e-6,
    mistakes="""
    the factor without its square
        + keep) ** 2 * v -> + keep) * v
        x is multiplied by a factor in each step: by what is its variance multiplied?
    eta without its square
        eta**2 -> eta
        eta counts standard deviations: lambda^2 = eta^2 beta-tilde (2.3)
    the fresh noise forgotten
         * v + fresh -> * v
        the noise that each step draws is not in your variance: it is independent, so it adds lambda^2
    fresh noise on top
        ((1 - a_s - fresh) / -> ((1 - a_s) /
        the fresh noise must take its share from the old one: 1 - abar_s - lambda^2 is left for it
    x_0 only once
        (a_s**0.5 - keep * a_t**0.5) * guess -> a_s**0.5 * guess
        x_0 stands twice in (2.1): directly, and with a minus sign in eps
    a start from N(0, 1)
        alpha_bar[times[0]] * r2 + 1 - alpha_bar[times[0]] -> 1 + 0 * r2
        you start from variance 1: the exact x_t of the first time has abar r2 + 1 - abar
    a guess without a prior
        a_t**0.5 * r2 / (a_t * r2 + 1 - a_t) -> a_t**-0.5
        your guess is x_t / sqrt(abar), which takes all of x_t for data. A perfect network knows that part of it is
        noise: how much?
    """,
)
