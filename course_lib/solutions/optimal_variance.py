"""Chapter 2, the reverse variance: the reference answers, their checks and the classic wrong answers.

abar is alpha_bar; spread is E Var(x_0 | x_t) per dimension; lambda^2 = eta^2 beta-tilde is the variance of
q(x_s | x_t, x_0). All checks compare with closed forms, in float64.
"""

from itertools import pairwise

import torch

from ..checks import Mistakes, compare, diagnose, hints_of
from ..exercise import define


def numbers(*values: float) -> torch.Tensor:
    """The values as a float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


# --- ddim_step ---


def small(abar_s, abar_t):
    """beta-tilde, the variance of q(x_s | x_t, x_0) in DDPM."""
    return (1 - abar_s) * (1 - abar_t / abar_s) / (1 - abar_t)


def ddim_step(x0_hat, x_t, abar_s, abar_t, eta, z):
    """x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - lambda^2) eps + lambda z, with the eps that belongs to x0_hat."""
    lambda2 = eta**2 * small(abar_s, abar_t)
    eps = (x_t - abar_t.sqrt() * x0_hat) / (
        1 - abar_t
    ).sqrt()  # so that x_t = sqrt(abar_t) x0_hat + ... eps
    return (
        abar_s.sqrt() * x0_hat
        + (1 - abar_s - lambda2).clamp(min=0).sqrt() * eps
        + lambda2.sqrt() * z
    )


def _ddim(x0, x, s, t, eta, z, room=None, lam2=None, eps_at=None):
    """The step with one part replaced: the share left for eps, lambda^2, or the time that eps is read at."""
    lam2 = eta**2 * small(s, t) if lam2 is None else lam2
    at = t if eps_at is None else eps_at
    eps = (x - at.sqrt() * x0) / (1 - at).sqrt()
    room = 1 - s - lam2 if room is None else room
    return s.sqrt() * x0 + room.clamp(min=0).sqrt() * eps + lam2.sqrt() * z


DDIM_STEP: Mistakes = {
    "noise added on top": (
        lambda x0, x, s, t, eta, z: _ddim(x0, x, s, t, eta, z, room=1 - s),
        "there is too much noise at time s: the fresh part lambda z must take its share from sqrt(1 - abar_s) eps",
    ),
    "eta instead of its square": (
        lambda x0, x, s, t, eta, z: _ddim(x0, x, s, t, eta, z, lam2=eta * small(s, t)),
        "right at eta = 0 and 1 and wrong between: lambda is eta times a standard deviation, so lambda^2 has eta^2",
    ),
    "beta for beta-tilde": (
        lambda x0, x, s, t, eta, z: _ddim(x0, x, s, t, eta, z, lam2=eta**2 * (1 - t / s)),
        "at eta = 1 this is not DDPM: lambda^2 is eta^2 times beta-tilde, not beta",
    ),
    "the variance for the standard deviation": (
        lambda x0, x, s, t, eta, z: ddim_step(x0, x, s, t, eta, 0 * z) + eta**2 * small(s, t) * z,
        "z is multiplied by lambda^2: a draw needs the standard deviation",
    ),
    "eta never used": (
        lambda x0, x, s, t, eta, z: ddim_step(x0, x, s, t, 0 * eta, z),
        "this is the deterministic step whatever eta is",
    ),
    "x_t for eps": (
        lambda x0, x, s, t, eta, z: _ddim(x0, x, s, t, eta, z) + (1 - s - eta**2 * small(s, t)).clamp(min=0).sqrt()
        * (x - (x - t.sqrt() * x0) / (1 - t).sqrt()),
        "x_t stands where the noise in it should: which eps makes x_t = sqrt(abar_t) x0_hat + sqrt(1 - abar_t) eps?",
    ),
}  # fmt: skip


def check_ddim_step(fn):
    x0, x, z = torch.randn(3, 20, dtype=torch.float64)
    for eta in (0.0, 1.0, 0.5):
        for s, t in ((0.8, 0.3), (0.99, 0.9), (1.0, 0.7)):
            if hint := compare(fn, ddim_step, DDIM_STEP, x0, x, *numbers(s, t, eta), z):
                return hint
    return None


define(ddim_step, check_ddim_step, DDIM_STEP)


# --- pairs ---


def pairs(T, gap):
    """(t, s) of each step: from T down in jumps of `gap` (the last one shorter, if need be), each to the next visit."""
    times = [*range(T, 0, -gap), 0]
    return list(pairwise(times))


PAIRS: Mistakes = {
    "always to t - 1": (
        lambda T, gap: [(t, t - 1) for t in range(T, 0, -gap)],
        "each step says that it arrives at t - 1, and the next one starts gap earlier: in between, the network is "
        "told a time that x does not have",
    ),
    "stops before the data": (
        lambda T, gap: list(
            zip(range(T, 0, -gap), range(T - gap, 0, -gap), strict=False)
        ),
        "the last step does not arrive at 0: what comes out still holds noise",
    ),
    "below zero": (
        lambda T, gap: [(t, t - gap) for t in range(T, 0, -gap)],
        "where gap does not divide T your last step goes below 0: it must end at 0 exactly",
    ),
    "does not start at T": (
        lambda T, gap: [(t, max(t - gap, 0)) for t in range(T - gap, 0, -gap)],
        "the first step does not start at T, where pure noise is",
    ),
    "upwards": (
        lambda T, gap: [(s, t) for t, s in reversed(pairs(T, gap))],
        "these steps go from the data to noise: sampling goes down",
    ),
}


def check_pairs(fn):
    hints = hints_of(PAIRS)
    for T, gap in ((20, 5), (1000, 100), (7, 1), (20, 6), (5, 9)):
        got = [(int(t), int(s)) for t, s in fn(T, gap)]
        if not got or any(t <= s for t, s in got):
            return hints["upwards"]
        if got[0][0] != T:
            return hints["does not start at T"]
        if any(s != t for (_, s), (t, _) in pairwise(got)):
            return hints["always to t - 1"]
        if got[-1][1] < 0:
            return hints["below zero"]
        if got[-1][1] != 0:
            return hints["stops before the data"]
        if got != pairs(T, gap):
            return f"for T = {T}, gap = {gap} the steps are {got[:3]}..., expected {pairs(T, gap)[:3]}..."
    return None


define(pairs, check_pairs, PAIRS)


# --- best_variance ---


def best_variance(lambda2, spread, abar_s, abar_t):
    """lambda^2 + w^2 E Var(x_0 | x_t), w the weight of x_0 in the mean of q(x_s | x_t, x_0)."""
    w = abar_s.sqrt() - ((1 - abar_s - lambda2) * abar_t / (1 - abar_t)).sqrt()
    return lambda2 + w**2 * spread


def _weight(lambda2, abar_s, abar_t):
    return abar_s.sqrt() - ((1 - abar_s - lambda2) * abar_t / (1 - abar_t)).sqrt()


BEST_VARIANCE: Mistakes = {
    "the weight not squared": (
        lambda l2, c, s, t: l2 + _weight(l2, s, t) * c,
        "the weight of x_0 is not squared: Var(w x_0) = w^2 Var(x_0)",
    ),
    "lambda forgotten": (
        lambda l2, c, s, t: _weight(l2, s, t) ** 2 * c,
        "only the spread of x_0 is left: even for a known x_0 there is the variance lambda^2",
    ),
    "sqrt(abar_s) alone": (
        lambda l2, c, s, t: l2 + s * c,
        "x_0 enters the mean a second time: the eps computed from x_t holds it too, with a minus sign",
    ),
    "the spread of x_s": (
        lambda l2, c, s, t: l2 + c,
        "the spread is that of x_0: how much of it arrives in x_s?",
    ),
    "DDPM's weight for every lambda": (
        lambda l2, c, s, t: l2 + s * (1 - t / s) ** 2 / (1 - t) ** 2 * c,
        "right for DDPM only: the weight of x_0 depends on lambda",
    ),
    "a plus for the minus": (
        lambda l2, c, s, t: l2 + (2 * s.sqrt() - _weight(l2, s, t)) ** 2 * c,
        "the two ways in which x_0 enters have opposite signs: eps = (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t)",
    ),
}


def check_best_variance(fn):
    abar_s, abar_t = numbers(0.8, 0.99, 0.3), numbers(0.3, 0.9, 0.05)
    spread = numbers(0.2, 0.05, 0.7)
    for eta in (1.0, 0.5, 0.0):
        lambda2 = eta**2 * small(abar_s, abar_t)
        order = sorted(BEST_VARIANCE, key=lambda label: eta == 1 and "DDPM's" in label)
        suspects = {label: BEST_VARIANCE[label] for label in order}
        if hint := compare(
            fn, best_variance, suspects, lambda2, spread, abar_s, abar_t
        ):
            return hint
    return None


define(best_variance, check_best_variance, BEST_VARIANCE)


# --- spread_from_eps ---


def spread_from_eps(eps2, abar, data_var):
    """E Var(x_0 | x_t) from the mean square eps2 of a perfect network's eps, cut to [0, data variance]."""
    return ((1 - abar) / abar * (1 - eps2)).clamp(min=0).minimum(data_var)


SPREAD_FROM_EPS: Mistakes = {
    "the ratio upside down": (
        lambda e, a, v: (a / (1 - a) * (1 - e)).clamp(min=0).minimum(v),
        "the factor is upside down: an error in eps is an error in x_0 that is sqrt((1 - abar)/abar) times as large",
    ),
    "E eps_hat^2 itself": (
        lambda e, a, v: ((1 - a) / a * e).minimum(v),
        "E eps_hat^2 is what the network knows of the noise. What it does not know is 1 minus that",
    ),
    "negative values left": (
        lambda e, a, v: ((1 - a) / a * (1 - e)).minimum(v),
        "a variance below zero: where the estimate of E eps_hat^2 comes out above 1, yours must be cut to 0",
    ),
    "cut at 1": (
        lambda e, a, v: ((1 - a) / a * (1 - e)).clamp(0, 1),
        "cut at 1: the limit is the variance of the data, whatever its units are (law of total variance)",
    ),
    "no upper limit": (
        lambda e, a, v: ((1 - a) / a * (1 - e)).clamp(min=0),
        "no upper limit: on average over x_t the spread of x_0 cannot exceed the variance of the data",
    ),
    "the score's formula": (
        lambda e, a, v: ((1 - a) / a * (1 - (1 - a) * e)).clamp(min=0).minimum(v),
        "that factor 1 - abar belongs to the squared score; eps_hat^2 is (1 - abar) score^2 already",
    ),
}


def check_spread_from_eps(fn):
    eps2, abar = numbers(0.2, 0.7, 0.9, 0.99), numbers(0.9, 0.5, 0.2, 0.05)
    wide = numbers(30.0)
    cut = {
        k: v
        for k, v in SPREAD_FROM_EPS.items()
        if k in ("negative values left", "cut at 1", "no upper limit")
    }
    whole = {k: v for k, v in SPREAD_FROM_EPS.items() if k not in cut}
    for probe, suspects in (
        ((eps2, abar, wide), whole),
        (
            (numbers(1.02, 0.5), numbers(0.1, 0.5), wide),
            {"n": SPREAD_FROM_EPS["negative values left"]},
        ),
        ((numbers(0.5, 0.5), numbers(0.1, 0.5), numbers(4.0)), cut),
        ((numbers(0.5, 0.5), numbers(0.1, 0.9), numbers(0.25)), cut),
    ):
        if hint := compare(fn, spread_from_eps, suspects, *probe):
            return hint
    return None


define(spread_from_eps, check_spread_from_eps, SPREAD_FROM_EPS)


# --- learned_variance ---


def learned_variance(v, beta, beta_tilde):
    """exp(f ln beta + (1 - f) ln beta_tilde), f = (v + 1) / 2."""
    f = (v + 1) / 2
    return (f * beta.log() + (1 - f) * beta_tilde.log()).exp()


LEARNED_VARIANCE: Mistakes = {
    "linear, not in logs": (
        lambda v, b, bt: (v + 1) / 2 * b + (1 - v) / 2 * bt,
        "the ends are right, but between them you take the arithmetic mean: the two differ by orders of magnitude near "
        "t = 1, so the interpolation is between their logarithms",
    ),
    "v taken for f": (
        lambda v, b, bt: (v * b.log() + (1 - v) * bt.log()).exp(),
        "the network's v = -1 stands for beta-tilde and v = 1 for beta: which f in [0, 1] is that?",
    ),
    "the ends swapped": (
        lambda v, b, bt: learned_variance(-v, b, bt),
        "v = 1 gives beta-tilde: the two ends are swapped",
    ),
    "the log variance": (
        lambda v, b, bt: learned_variance(v, b, bt).log(),
        "this is the logarithm of the variance",
    ),
    "f cut to [0, 1]": (
        lambda v, b, bt: learned_variance(v.clamp(-1, 1), b, bt),
        "right between the ends, but the network may go beyond them, and sometimes should: data of variance above 1 "
        "needs more than beta",
    ),
    "a standard deviation": (
        lambda v, b, bt: learned_variance(v, b, bt).sqrt(),
        "this is the standard deviation: the two ends are variances",
    ),
}


def check_learned_variance(fn):
    beta, beta_tilde = numbers(1e-2, 0.3, 0.02), numbers(1e-4, 0.1, 0.019)
    for v in (-1.0, 1.0, 0.2, -1.7, 1.5):
        want = learned_variance(numbers(v), beta, beta_tilde)
        suspects = {
            hint: wrong(numbers(v), beta, beta_tilde)
            for wrong, hint in LEARNED_VARIANCE.values()
        }
        got = fn(numbers(v).expand(3), beta, beta_tilde)
        if hint := diagnose(got, want, suspects, tol=1e-6):
            return hint
    return None


define(learned_variance, check_learned_variance, LEARNED_VARIANCE)


# --- grid ---


def grid(T, steps):
    """Quadratic from the data up, then pushed apart: from below by one each, from above to leave room for the rest."""
    times = [0]
    for k in range(1, steps + 1):
        wanted = max(times[-1] + 1, round(T * (k / steps) ** 2))
        times.append(min(wanted, T - (steps - k)))
    return times[::-1]


GRID: Mistakes = {
    "one time short": (
        lambda T, K: [*grid(T, K)[:-2], 0] if K > 1 else [T],
        "K steps visit K + 1 times, both ends counted",
    ),
    "rising": (
        lambda T, K: grid(T, K)[::-1],
        "sampling goes down: the first time is T and the last is 0",
    ),
    "ends at 1": (
        lambda T, K: (
            [*grid(T, K)[:-1], 1] if grid(T, K)[-2] > 1 else [*grid(T, K)[:-1], 0.5]
        ),
        "the last time must be 0: that is where data is",
    ),
    "rounded onto each other": (
        lambda T, K: [round(T * (k / K) ** 2) for k in range(K, -1, -1)],
        "two of your times are the same after rounding: a step from t to t is none. Try K near T",
    ),
    "even": (
        lambda T, K: [round(T * k / K) for k in range(K, -1, -1)],
        "evenly spaced: the task is to spend more of the steps near the data",
    ),
    "dense at the wrong end": (
        lambda T, K: [T - t for t in reversed(grid(T, K))],
        "the short steps are near the noise, where there is little to decide",
    ),
    "not whole": (
        lambda T, K: [T * (k / K) ** 2 for k in range(K, -1, -1)],
        "these times are not whole numbers, and the table alpha_bar has no entries between its rows",
    ),
}


def check_grid(fn):
    hints = hints_of(GRID)
    for T, K in ((1000, 10), (1000, 50), (100, 95), (20, 20), (7, 1)):
        times = [v.item() if isinstance(v, torch.Tensor) else v for v in fn(T, K)]
        first, last, gaps = times[0], times[-1], [t - s for t, s in pairwise(times)]
        broken = {
            "rising": first == 0,
            "one time short": len(times) != K + 1,
            "ends at 1": first == T and last != 0,
            "not whole": any(t != int(t) for t in times),
            "rounded onto each other": any(g == 0 for g in gaps),
        }
        for label, fault in broken.items():
            if fault:
                return hints[label]
        if first != T or any(g < 0 for g in gaps):
            return f"the times must fall from T = {T} to 0, but are {times[:4]}..."
        half = sum(t <= T / 2 for t in times) / len(times)
        if T >= 10 * K and half < 0.6:
            return hints["even"] if half > 0.45 else hints["dense at the wrong end"]
    return None


define(grid, check_grid, GRID)
