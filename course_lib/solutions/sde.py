"""Chapter 3, SDEs and ODEs: the reference answers, their checks and the classic wrong answers.

Every check has an exact truth: moment equations with a known solution, the flow of Gaussian data, a matrix whose trace
is known. A network's or a field's answer is given by a function of x and t.
"""

import itertools
import math

import torch
from torch import Tensor

from ..checks import Mistakes, close, compare, hints_of
from ..exercise import define


def double(*values: float) -> Tensor:
    """The values as a float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


# --- moments ---


def moments(f, g2, times):
    """Mean and variance of x_t given x_0 = 1, by Heun's rule on m' = f m and V' = 2 f V + g^2."""
    m, V = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for t, s in itertools.pairwise(times):
        dt = s - t
        slope = (f(t) * m, 2 * f(t) * V + g2(t))
        ahead = (m + dt * slope[0], V + dt * slope[1])
        m = m + dt / 2 * (slope[0] + f(s) * ahead[0])
        V = V + dt / 2 * (slope[1] + 2 * f(s) * ahead[1] + g2(s))
    return torch.stack([m, V])


def _moments(
    pull=2.0, noise=lambda g2: g2, sign=1.0, pick=lambda m, V: (m, V), start=0.0
):
    """Moments with a mistake in the equation of the variance, or in what is returned."""

    def wrong(f, g2, times):
        m, V = (
            torch.ones((), dtype=torch.float64),
            torch.full((), start, dtype=torch.float64),
        )
        for t, s in itertools.pairwise(times):
            a, b = (f(t) + f(s)) / 2, (noise(g2(t)) + noise(g2(s))) / 2
            kept = torch.exp(a * (s - t) * pull)
            V = V * kept + sign * b * (s - t) * torch.exp(a * (s - t) * pull / 2)
            m = m * torch.exp(a * (s - t))
        return torch.stack(pick(m, V))

    return wrong


MOMENTS: Mistakes = {
    "f V without the 2": (
        _moments(pull=1.0),
        "your variance shrinks at the rate of the mean. x is multiplied by 1 + f dt: by what is its square multiplied?",
    ),
    "g instead of g^2": (
        _moments(noise=torch.sqrt),
        "the variance grows by the standard deviation of the noise, g. Which power of g has the units of a variance?",
    ),
    "no drift in the variance": (
        _moments(pull=0.0),
        "your variance only adds up the noise: what was added early is also pulled towards 0 by f",
    ),
    "the standard deviation": (
        _moments(pick=lambda m, V: (m, V.sqrt())),
        "the second number is the standard deviation, and the variance is asked for",
    ),
    "the second moment": (
        _moments(start=1.0),
        "your variance starts at 1: given x_0 there is no uncertainty at t = 0. Is this E x^2?",
    ),
    "noise taken away": (
        _moments(sign=-1.0),
        "your variance is negative: the noise adds to it",
    ),
}


def check_moments(fn):
    def f(t):
        return -0.5 - t

    def g2(t):
        return 1.5 + 2 * t

    times = torch.linspace(0, 1, 201, dtype=torch.float64)
    got, want = torch.as_tensor(fn(f, g2, times)), moments(f, g2, times)
    if got.shape != (2,):
        return f"the shape is {tuple(got.shape)}, expected (2,): mean and variance, stacked"
    got = got.double()
    if abs(got[0] - math.exp(-1.0)) > 2e-2:
        return "the mean is off: m' = f m gives exp of the integral of f, here exp(-1) at t = 1"
    if close(got, want, 2e-2):
        return None
    for wrong, hint in MOMENTS.values():
        if close(got, wrong(f, g2, times), 1e-2):
            return hint
    return f"the variance is {got[1].item():.3g}, expected {want[1].item():.3g}"


define(moments, check_moments, MOMENTS)


# --- reverse_step ---


def reverse_step(x, score, f, g2, dt, z):
    """Euler-Maruyama on the reverse SDE, from t to t - dt: what the forward drift did is undone, the score followed."""
    return x - dt * (f * x - g2 * score) + (g2 * dt).sqrt() * z


REVERSE_STEP: Mistakes = {
    "forwards": (
        lambda x, s, f, g2, dt, z: x + dt * (f * x - g2 * s) + (g2 * dt).sqrt() * z,
        "you walk forwards in time: x_{t - dt} = x - dt (...)",
    ),
    "the ODE's half": (
        lambda x, s, f, g2, dt, z: x - dt * (f * x - g2 * s / 2) + (g2 * dt).sqrt() * z,
        "half of the score belongs to the ODE, which adds no noise. With noise the whole score is needed",
    ),
    "noise without the root of dt": (
        lambda x, s, f, g2, dt, z: x - dt * (f * x - g2 * s) + g2.sqrt() * dt * z,
        "the noise is multiplied by dt: its variance is proportional to dt, so what is its standard deviation?",
    ),
    "the score with the wrong sign": (
        lambda x, s, f, g2, dt, z: x - dt * (f * x + g2 * s) + (g2 * dt).sqrt() * z,
        "your drift runs away from where the density is high: look at the sign of the score",
    ),
    "g for g^2": (
        lambda x, s, f, g2, dt, z: (
            x - dt * (f * x - g2.sqrt() * s) + (g2 * dt).sqrt() * z
        ),
        "the score is multiplied by g, and Anderson's formula has g^2",
    ),
    "no noise": (
        lambda x, s, f, g2, dt, z: x - dt * (f * x - g2 * s),
        "there is no noise in your step: this is a stochastic equation",
    ),
}


def check_reverse_step(fn):
    x, score, z = torch.randn(3, 5, 2, dtype=torch.float64)
    return compare(
        fn, reverse_step, REVERSE_STEP, x, score, *double(-0.7, 1.6, 0.05), z
    )


define(reverse_step, check_reverse_step, REVERSE_STEP)


# --- heun ---


def heun(velocity, x, t, s):
    """From t to s along dx/dt = velocity(x, t): the mean of the slopes at both ends."""
    k1 = velocity(x, t)
    k2 = velocity(x + (s - t) * k1, s)
    return x + (s - t) / 2 * (k1 + k2)


HEUN: Mistakes = {
    "Euler": (
        lambda v, x, t, s: x + (s - t) * v(x, t),
        "this is Euler's step, of first order: where is the slope at the other end?",
    ),
    "no predictor": (
        lambda v, x, t, s: x + (s - t) / 2 * (v(x, t) + v(x, s)),
        "the second slope is taken at the new time but at the old place: go there first",
    ),
    "the old time twice": (
        lambda v, x, t, s: x + (s - t) / 2 * (v(x, t) + v(x + (s - t) * v(x, t), t)),
        "the second slope is taken at the new place but at the old time",
    ),
    "wrong direction": (
        lambda v, x, t, s: heun(v, x, t, 2 * t - s),
        "you go from t away from s: the step is s - t, which is negative on the way to the data",
    ),
    "slopes added": (
        lambda v, x, t, s: x + (s - t) * (v(x, t) + v(x + (s - t) * v(x, t), s)),
        "the slopes are added, so the step is twice too long: take their mean",
    ),
    "the midpoint rule": (
        lambda v, x, t, s: x + (s - t) * v(x + (s - t) / 2 * v(x, t), (s + t) / 2),
        "a good method of second order, but the midpoint rule: Heun's uses both ends",
    ),
}


def check_heun(fn):
    x = torch.randn(6, 2, dtype=torch.float64)
    t, s = double(0.8, 0.5)
    return compare(
        fn, heun, HEUN, lambda x, t: torch.sin(2 * x) * (1 + t) - x * t**2, x, t, s
    )


define(heun, check_heun, HEUN)


# --- hutchinson ---


def hutchinson(field, x, probe):
    """probe . J probe of each example: J^T probe is one backward pass."""
    x = x.detach().requires_grad_()
    (pulled,) = torch.autograd.grad(field(x), x, probe)
    return (pulled * probe).flatten(1).sum(1)


def _probed(
    finish=lambda pulled, probe: (pulled * probe).sum(1),
    grad_of=lambda v, probe: (v * probe).sum(),
):
    def wrong(field, x, probe):
        x = x.detach().requires_grad_()
        (pulled,) = torch.autograd.grad(grad_of(field(x), probe), x)
        return finish(pulled.flatten(1), probe.flatten(1))

    return wrong


HUTCHINSON: Mistakes = {
    "the sum of all entries": (
        _probed(lambda pulled, probe: pulled.sum(1), lambda v, probe: v.sum()),
        "without the probe this adds up the whole Jacobian, not its diagonal: only random signs cancel the rest",
    ),
    "probe on one side only": (
        _probed(lambda pulled, probe: pulled.sum(1)),
        "J^T probe is right, but it must be multiplied by the probe again: the estimate is probe . J probe",
    ),
    "the mean over dimensions": (
        _probed(lambda pulled, probe: (pulled * probe).mean(1)),
        "too small by the number of dimensions: a trace is a sum",
    ),
    "one number for the batch": (
        _probed(lambda pulled, probe: (pulled * probe).sum()),
        "one number for the whole batch: each example has its own divergence",
    ),
    "the field itself": (
        lambda field, x, probe: (field(x) * probe).flatten(1).sum(1),
        "this is the field along the probe; its derivative along the probe is needed",
    ),
    "squared": (
        _probed(lambda pulled, probe: pulled.square().sum(1)),
        "this is |J^T probe|^2, whose mean is the sum of all squared entries",
    ),
}


def check_hutchinson(fn):
    W = double(1.0, 2.0, 0.5, -1.5, 0.7, 0.3, 0.2, -0.4, -1.1).reshape(3, 3)
    x = torch.randn(4, 3, dtype=torch.float64)
    probe = double(1.0, -1.0, 1.0).expand(4, 3)
    if torch.as_tensor(fn(lambda x: torch.tanh(x @ W.T), x, probe)).ndim == 0:
        return HUTCHINSON["one number for the batch"][1]
    hint = compare(fn, hutchinson, HUTCHINSON, lambda x: torch.tanh(x @ W.T), x, probe)
    if hint:
        return hint
    images = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    return compare(
        fn, hutchinson, {}, lambda x: x.square() * x.flip(-1), images, images.sign()
    )


define(hutchinson, check_hutchinson, HUTCHINSON)


# --- log_likelihood ---


def log_likelihood(log_prior, divergence, times):
    """log p(x_0) = log prior(x_T) + integral of the divergence over t from 0 to T, by the trapezoid rule."""
    return log_prior + torch.trapezoid(divergence, times, dim=0)


LOG_LIKELIHOOD: Mistakes = {
    "left as it is": (
        lambda p, div, t: p - torch.trapezoid(div, t, dim=0),
        "the sign: where the flow towards the noise spreads out (div > 0), the data was denser than the noise",
    ),
    "a sum without dt": (
        lambda p, div, t: p + div.sum(0),
        "you add up divergences: an integral needs the length of each step",
    ),
    "steps as if they were equal": (
        lambda p, div, t: p + div.mean(0) * (t[-1] - t[0]),
        "you take the plain mean of the divergence, but the times are not evenly spaced",
    ),
    "without the volume": (
        lambda p, div, t: p + 0 * div[0],
        "the prior's density alone: a flow that squeezes space changes densities, and by how much is the divergence",
    ),
    "summed over examples": (
        lambda p, div, t: p + torch.trapezoid(div, t, dim=0).sum(),
        "you add the divergences of all examples to each",
    ),
    "only the first slope": (
        lambda p, div, t: p + div[0] * (t[-1] - t[0]),
        "the divergence changes along the curve: one value does not stand for all",
    ),
}


def check_log_likelihood(fn):
    times = torch.linspace(0, 1, 9, dtype=torch.float64).square()
    divergence = 0.5 + torch.randn(9, 3, dtype=torch.float64).square() * (
        1 + times[:, None]
    )
    return compare(
        fn, log_likelihood, LOG_LIKELIHOOD, double(-1.0, -2.0, -4.0), divergence, times
    )


define(log_likelihood, check_log_likelihood, LOG_LIKELIHOOD)


# --- dpm_step ---


def dpm_step(x, x0, x0_last, before, now, then):
    """DPM-Solver++(2M); before, now, then are (m, std) at the last time, at x's time, and where the step goes."""
    lam = [torch.log(m / std) for m, std in (before, now, then)]
    h, h_last = lam[2] - lam[1], lam[1] - lam[0]
    guess = x0 + h / (2 * h_last) * (x0 - x0_last)  # where the estimate will be halfway
    return then[1] / now[1] * x - then[0] * torch.expm1(-h) * guess


def _dpm(
    weight=lambda h, last: h / (2 * last),
    shrink=lambda h: -torch.expm1(-h),
    scale=1,
    ratio=None,
):
    def wrong(x, x0, x0_last, before, now, then):
        lam = [scale * torch.log(m / std) for m, std in (before, now, then)]
        h, last = lam[2] - lam[1], lam[1] - lam[0]
        guess = x0 + weight(h, last) * (x0 - x0_last)
        keep = (ratio or (lambda now, then: then[1] / now[1]))(now, then)
        return keep * x + then[0] * shrink(h) * guess

    return wrong


DPM_STEP: Mistakes = {
    "first order": (
        _dpm(weight=lambda h, last: 0 * h),
        "this is DDIM: the last estimate is not used. How did the estimate move since then?",
    ),
    "the ratio of steps inverted": (
        _dpm(weight=lambda h, last: last / (2 * h)),
        "the extrapolation is weighted by h_last / h: a long step ahead needs more of it, not less",
    ),
    "no half": (
        _dpm(weight=lambda h, last: h / last),
        "you extrapolate to the end of the step. Its mean over the step is wanted, which is about its middle",
    ),
    "looking back": (
        _dpm(weight=lambda h, last: -h / (2 * last)),
        "you average with the last estimate instead of going on in its direction: look at the sign",
    ),
    "1 - e^h": (
        _dpm(shrink=lambda h: torch.expm1(h)),
        "the share of the estimate must lie between 0 and 1 however long the step: which sign has h in the exponent?",
    ),
    "lambda from variances": (
        _dpm(scale=2),
        "your lambda is the log of a ratio of variances, twice too large: it is log(m / std)",
    ),
    "x scaled by the means": (
        _dpm(ratio=lambda now, then: then[0] / now[0]),
        "x is scaled as if it were signal. In this form the noise is what is carried along: std_s / std_t",
    ),
}


def check_dpm_step(fn):
    x, x0, x0_last = torch.randn(3, 4, 2, dtype=torch.float64)
    points = [tuple(double(*v)) for v in ((0.2, 0.98), (0.5, 0.87), (0.9, 0.44))]
    return compare(fn, dpm_step, DPM_STEP, x, x0, x0_last, *points)


define(dpm_step, check_dpm_step, DPM_STEP)


# --- grid ---


def grid(n):
    """n + 1 times from 1 to 0, finer towards the data, where the velocity changes fastest."""
    return torch.linspace(1, 0, n + 1, dtype=torch.float64) ** 2


GRID: Mistakes = {
    "n entries": (
        lambda n: grid(n)[1:],
        "n steps need n + 1 times: the first is 1, where the noise is",
    ),
    "rising": (
        lambda n: grid(n).flip(0),
        "the times must fall: sampling starts at the noise, t = 1",
    ),
    "not down to 0": (
        lambda n: grid(n).clamp(min=1e-3),
        "the last time must be 0, where the data is",
    ),
    "even": (
        lambda n: torch.linspace(1, 0, n + 1, dtype=torch.float64),
        "this is the even grid, which is to be beaten by a factor of 2: where does the velocity change fastest?",
    ),
    "finer at the noise": (
        lambda n: torch.linspace(1, 0, n + 1, dtype=torch.float64).sqrt(),
        "worse than the even grid: the small steps are near the noise, where the flow is nearly straight",
    ),
    "all at the end": (
        lambda n: torch.linspace(1, 0, n + 1, dtype=torch.float64) ** 12,
        "worse than the even grid: the first steps are now so long that what they lose cannot be mended",
    ),
    "one time twice": (
        lambda n: torch.cat([grid(n)[:-2], grid(n)[-3:-2], grid(n)[-1:]]),
        "two of your times are equal: each must be before the last",
    ),
}


def grid_error(times: Tensor, s: float = 0.3) -> float:
    """|x_0 - exact| of Heun's method on the linear schedule with data N(0, s^2), from x_1 = 1; last step to E x_0."""

    def kernel(t):
        log = -0.1 * t - 9.95 * t**2
        return (
            torch.exp(log),
            -torch.expm1(log),
            0.1 + 19.9 * t,
        )  # alpha_bar, 1 - alpha_bar, beta

    def velocity(x, t):
        abar, lost, beta = kernel(t)
        return (
            -beta / 2 * (x - x / (abar * s**2 + lost))
        )  # score = -x / (variance of x_t)

    x = torch.ones((), dtype=torch.float64)
    for t, u in itertools.pairwise(times[:-1]):
        x = heun(velocity, x, t, u)
    abar, lost, _ = kernel(times[-2])
    x = abar.sqrt() * s**2 / (abar * s**2 + lost) * x
    abar, lost, _ = kernel(times[0])
    return abs(x - s / (abar * s**2 + lost).sqrt()).item()


def check_grid(fn):
    hints = hints_of(GRID)
    for n in (8, 16):
        t = torch.as_tensor(fn(n)).double()
        if t.shape != (n + 1,):
            same = t.shape == (n,)
            return (
                hints["n entries"]
                if same
                else f"the shape is {tuple(t.shape)}, expected ({n + 1},)"
            )
        if t[0] < t[-1]:
            return hints["rising"]
        if t[0] != 1:
            return f"the first time is {t[0].item():g}, expected 1"
        if t[-1] != 0:
            return hints["not down to 0"]
        if not (t.diff() < 0).all():
            return hints["one time twice"]
        if hint := _compare_grids(t, GRID["even"][0](n), hints):
            return hint
    return None


def _compare_grids(t, even, hints):
    """None when the error is at most half of the even grid's, else what is wrong with the spacing."""
    error, base = grid_error(t), grid_error(even)
    if close(t, even, 1e-9):
        return hints["even"]
    if error <= base / 2:
        return None
    if error <= base:
        return f"better than the even grid, but not by a factor of 2: {error:.3g} against {base:.3g}"
    first = t[0] - t[1] > even[0] - even[1]
    return hints["all at the end" if first else "finer at the noise"]


define(grid, check_grid, GRID)
