"""Chapter 3, SDEs and ODEs: the reference answers, what is asked of an answer, and the classic wrong ones.

Every check has an exact truth: integrals, a Jacobian written out, a sum of trapezoids, the flow of Gaussian data. A
network's or a field's answer is given by a function of x and t.
A wrong answer in quotes is the reference with that text changed.
"""

import itertools

import torch
from torch import Tensor

from ..cases import normal, numbers, uniform
from ..checks import close, entries, falling, stands_at
from ..exercise import define

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


def by_integrals(f, g2, times):
    """m = exp(int f), and each moment's noise, g^2 dr, shrunk by the square of what f leaves of it."""
    r = torch.linspace(times[0], times[-1], 2001, dtype=torch.float64)
    log = torch.cat([numbers(0.0), torch.cumulative_trapezoid(f(r), r)])
    noise = torch.trapezoid(g2(r) * (2 * (log[-1] - log)).exp(), r)
    return torch.stack([log[-1].exp(), noise])


def _even(first, last, n):
    return torch.linspace(first, last, n, dtype=torch.float64)


def pair(got, a):
    """Two numbers, of which the second is no variance below 0."""
    shape = tuple(torch.as_tensor(got).shape)
    if shape != (2,):
        return f"the shape is {shape}, expected (2,): mean and variance, stacked"
    if got[1] < 0:
        return f"your variance is {got[1].item():.3g}: noise adds to it, and none is taken away"
    return None


define(
    moments,
    truth=by_integrals,
    cases=lambda: [
        (lambda t: -1.1 - 0.5 * t, lambda t: 1.4 + t, _even(0.0, 0.35, 15)),
        # a long first and last step: one too many or too few shows
        (
            lambda t: -1.1 - 0.2 * t,
            lambda t: 0.9 + 0.2 * t,
            torch.cat([numbers(0.0), _even(0.08, 0.92, 60), numbers(1.0)]),
        ),
        (lambda t: 0.1 - 0.4 * t, lambda t: 2.5 - 0.4 * t, _even(0.0, 1.1, 61) ** 2),
    ],
    limits={
        "without noise (g2 = 0) the mean is what f leaves of 1, and the variance stays 0": {
            "g2": lambda a: lambda t: 0 * t
        },
        "without drift (f = 0) the mean stays 1, and the variance is the integral of g2": {
            "f": lambda a: lambda t: 0 * t
        },
    },
    properties=(pair,),
    tol=0.02,
    mistakes="""
    f V without the 2
        2 * f(t) * V -> f(t) * V ; 2 * f(s) * ahead[1] -> f(s) * ahead[1]
        your variance shrinks at the rate of the mean. x is multiplied by 1 + f dt: by what is its square
        multiplied?
    g instead of g^2
        + g2(t) -> + g2(t).sqrt() ; + g2(s) -> + g2(s).sqrt()
        the variance grows by the standard deviation of the noise, g. Which power of g has the units of a
        variance?
    g2 squared
        + g2(t) -> + g2(t) ** 2 ; + g2(s) -> + g2(s) ** 2
        the variance grows by the square of g2, which is g^2 already
    no drift in the variance
        2 * f(t) * V + g2(t) -> g2(t) ; 2 * f(s) * ahead[1] + g2(s) -> g2(s)
        your variance only adds up the noise: what was added early is also pulled towards 0 by f
    the standard deviation
        [m, V] -> [m, V.sqrt()]
        the second number is the standard deviation, and the variance is asked for
    the second moment
        torch.zeros( -> torch.ones(
        your variance starts at 1: given x_0 there is no uncertainty at t = 0. Is this E x^2?
    the drift's sign
        = moments(lambda t: -f(t), g2, times)
        f enters with the wrong sign: where f is negative x shrinks, and yours grows
    steps as if they were even
        dt = s - t -> dt = times[1] - times[0]
        every step of yours is as long as the first: the times need not be evenly spaced
    one step too few
        pairwise(times) -> pairwise(times[:-1])
        the last step is missing: from the last time but one to the last
    """,
)


# --- reverse_step ---


def reverse_step(x, score, f, g2, dt, z):
    """Euler-Maruyama on the reverse SDE, from t to t - dt: what the forward drift did is undone, the score followed."""
    drift = f * x - g2 * score
    return x - dt * drift + (g2 * dt).sqrt() * z


def _backwards():
    for shape, at in (
        ((3,), (-0.7, 1.6, 0.05)),
        ((2, 4), (-1.3, 0.7, 0.3)),
        ((5, 1), (0.4, 2.5, 0.12)),
    ):
        x, score, z = normal(3, *shape)
        yield x, score, *numbers(*at), z


define(
    reverse_step,
    cases=lambda: list(_backwards()),
    limits={
        "a step of no length (dt = 0) leaves x where it is": {"dt": numbers(0.0)[0]},
        "without noise in the process (g2 = 0) the drift alone is undone": {
            "g2": numbers(0.0)[0]
        },
        "without drift (f = 0) the step follows the score, with noise": {
            "f": numbers(0.0)[0]
        },
    },
    linear_in=("x", "score", "z"),
    mistakes="""
    forwards
        x - dt * drift -> x + dt * drift
        you walk forwards in time: x_{t - dt} = x - dt (...)
    the ODE's half
        g2 * score -> g2 * score / 2
        half of the score belongs to the ODE, which adds no noise. With noise the whole score is needed
    noise without the root of dt
        (g2 * dt).sqrt() -> g2.sqrt() * dt
        the noise is multiplied by dt: its variance is proportional to dt, so what is its standard deviation?
    g^2 for g before z
        (g2 * dt).sqrt() -> g2 * dt.sqrt()
        z is multiplied by g2 sqrt(dt): then the noise has the variance g^4 dt. Which factor gives g^2 dt?
    the other sign of z
        + (g2 * dt).sqrt() -> - (g2 * dt).sqrt()
        your step has the right distribution, since -z is as likely as z. Add the noise all the same, as in (3.7),
        so that the two can be compared draw by draw
    """,
)


# --- heun ---


def heun(velocity, x, t, s):
    """From t to s along dx/dt = velocity(x, t): the mean of the slopes at both ends."""
    k1 = velocity(x, t)
    k2 = velocity(x + (s - t) * k1, s)
    return x + (s - t) / 2 * (k1 + k2)


def _flows():
    for shape, t, s in (((3,), 0.8, 0.5), ((2, 4), 0.3, 0.35), ((5, 1), 1.0, 0.2)):
        x = normal(*shape)
        yield ((lambda x, t: torch.sin(2 * x) * (1 + t) - x * t**2), x, *numbers(t, s))


define(
    heun,
    cases=lambda: list(_flows()),
    limits={
        "a step of no length leaves x where it is": {"s": lambda a: a.t},
        "where the velocity is the same everywhere, x moves by s - t times it": {
            "velocity": lambda a: lambda x, t: 2 + 0 * x + 0 * t
        },
        "where the velocity depends on the time alone, the mean of the two ends is taken": {
            "velocity": lambda a: lambda x, t: 0 * x + t**2
        },
    },
    mistakes="""
    Euler
        (s - t) / 2 * (k1 + k2) -> (s - t) * k1
        this is Euler's step, of first order: where is the slope at the other end?
    no predictor
        velocity(x + (s - t) * k1, s) -> velocity(x, s)
        the second slope is taken at the new time but at the old place: go there first
    half a step ahead
        x + (s - t) * k1, s -> x + (s - t) / 2 * k1, s
        the second slope is taken at the place where half a step leads, and at the time of the whole one: go the
        whole step before you ask again
    wrong direction
        = heun(velocity, x, t, 2 * t - s)
        you go from t away from s: the step is s - t, which is negative on the way to the data
    the midpoint rule
        = x + (s - t) * velocity(x + (s - t) / 2 * velocity(x, t), (s + t) / 2)
        a good method of second order, but the midpoint rule: Heun's uses both ends
    the second slope alone
        (s - t) / 2 * (k1 + k2) -> (s - t) * k2
        you take the slope at the far end for the whole step: Heun's takes the mean of both
    """,
)


# --- hutchinson ---


def hutchinson(field, x, probe):
    """probe . J probe of each example: J^T probe is one backward pass."""
    x = x.detach().requires_grad_()
    (pulled,) = torch.autograd.grad((field(x) * probe).sum(), x)
    return (pulled * probe).flatten(1).sum(1)


def written_out(field, x, probe):
    """Entry by entry: the sum of e_i J_ij e_j over the whole Jacobian of each example."""
    x = x.detach().requires_grad_()
    v, e, total = field(x).flatten(1), probe.flatten(1), 0
    for i in range(v.shape[1]):
        (row,) = torch.autograd.grad(v[:, i].sum(), x, retain_graph=True)
        total = total + e[:, i] * (row.flatten(1) * e).sum(1)
    return total


def _probed(
    finish=lambda pulled, probe: (pulled * probe).sum(1),
    grad_of=lambda v, probe: (v * probe).sum(),
):
    def wrong(field, x, probe):
        x = x.detach().requires_grad_()
        (pulled,) = torch.autograd.grad(grad_of(field(x), probe), x)
        return finish(pulled.flatten(1), probe.flatten(1))

    return wrong


def _fields():
    """Fields whose Jacobians are not symmetric, on vectors and on pictures."""
    for B, d in ((2, 3), (4, 5)):
        W = normal(d, d)
        x = normal(B, d)
        yield ((lambda x, W=W: torch.tanh(x @ W.T)), x, normal(B, d).sign())
    x = normal(3, 1, 2, 4)
    yield (lambda x: x.square() * x.flip(-1)), x, torch.randn_like(x).sign()


define(
    hutchinson,
    truth=written_out,
    cases=lambda: list(_fields()),
    limits={
        "for v = 3 x every probe finds the whole divergence, 3 times the number of dimensions": {
            "field": lambda a: lambda x: 3 * x
        }
    },
    once=("field",),
    mistakes="""
    the sum of all entries
        _probed(lambda pulled, probe: pulled.sum(1), lambda v, probe: v.sum())
        without the probe this adds up the whole Jacobian, not its diagonal: only random signs cancel the rest
    the field itself
        = (field(x) * probe).flatten(1).sum(1)
        this is the field along the probe; its derivative along the probe is needed
    squared
        _probed(lambda pulled, probe: pulled.square().sum(1))
        this is |J^T probe|^2, whose mean is the sum of all squared entries
    not summed
        (pulled * probe).flatten(1).sum(1) -> pulled * probe
        each dimension's part is still apart: the estimate is their sum, one number per example
    """,
)


# --- log_likelihood ---


def log_likelihood(log_prior, divergence, times):
    """log p(x_0) = log prior(x_T) + integral of the divergence over t from 0 to T, by the trapezoid rule."""
    volume = torch.trapezoid(divergence, times, dim=0)
    return log_prior + volume


def trapezoids(log_prior, divergence, times):
    """One trapezoid after the other."""
    total = log_prior.clone()
    for k in range(1, len(times)):
        width, heights = times[k] - times[k - 1], divergence[k] + divergence[k - 1]
        total = total + width * heights / 2
    return total


def _curves():
    for n, B in ((4, 2), (9, 3), (6, 5)):
        times = torch.linspace(0, 1, n, dtype=torch.float64) ** 2 * (0.5 + B / 4)
        noise = normal(n, B).square()
        prior = -2 * uniform(B) - 1
        yield prior, 0.5 + noise * (1 + times[:, None]), times


define(
    log_likelihood,
    truth=trapezoids,
    cases=lambda: list(_curves()),
    limits={
        "where the flow moves without spreading out (divergence 0), the density is the prior's": {
            "divergence": lambda a: 0 * a.divergence
        },
        "for a divergence of 1 everywhere the integral is the length of the whole path in time": {
            "divergence": lambda a: 0 * a.divergence + 1
        },
    },
    linear_in=("log_prior", "divergence"),
    mistakes="""
    left as it is
        log_prior + volume -> log_prior - volume
        the sign: where the flow towards the noise spreads out (div > 0), the data was denser than the noise
    a sum without dt
        torch.trapezoid(divergence, times, dim=0) -> divergence.sum(0)
        you add up divergences: an integral needs the length of each step
    steps as if they were equal
        torch.trapezoid(divergence, times, dim=0) -> divergence.mean(0) * (times[-1] - times[0])
        you take the plain mean of the divergence, but the times are not evenly spaced
    trapezoids of equal width
        torch.trapezoid(divergence, times, dim=0) -> torch.trapezoid(divergence, dim=0) * (times[-1] -
            times[0]) / (len(times) - 1)
        your trapezoids are all equally wide, and the times are not evenly spaced: how wide is each?
    all as wide as the first
        torch.trapezoid(divergence, times, dim=0) -> torch.trapezoid(divergence, dim=0) * (times[1] - times[0])
        each of your trapezoids is as wide as the first one: dt is not the same between all times
    the left value of each step
        torch.trapezoid(divergence, times, dim=0) -> (divergence[:-1] * times.diff()[:, None]).sum(0)
        you take the value at the left end of each step. The trapezoid rule takes the mean of both ends
    the right value of each step
        torch.trapezoid(divergence, times, dim=0) -> (divergence[1:] * times.diff()[:, None]).sum(0)
        you take the value at the right end of each step. The trapezoid rule takes the mean of both ends
    summed over examples
        log_prior + volume -> log_prior + volume.sum()
        you add the divergences of all examples to each
    only the first slope
        torch.trapezoid(divergence, times, dim=0) -> divergence[0] * (times[-1] - times[0])
        the divergence changes along the curve: one value does not stand for all
    """,
)


# --- dpm_step ---


def dpm_step(x, x0, x0_last, before, now, then):
    """DPM-Solver++(2M); before, now, then are (m, std) at the last time, at x's time, and where the step goes."""
    lam = [torch.log(m / std) for m, std in (before, now, then)]
    h, h_last = lam[2] - lam[1], lam[1] - lam[0]
    guess = x0 + h / (2 * h_last) * (x0 - x0_last)  # where the estimate will be halfway
    return then[1] / now[1] * x - then[0] * torch.expm1(-h) * guess


def by_slope(x, x0, x0_last, before, now, then):
    """The noise of x carried along, and the signal that is missing then made of the estimate at half the step."""
    ratios = [m / std for m, std in (before, now, then)]
    slope = (x0 - x0_last) / torch.log(ratios[1] / ratios[0])
    halfway = x0 + slope * torch.log(ratios[2] / ratios[1]) / 2
    carried = then[1] / now[1]
    return carried * x + (then[0] - carried * now[0]) * halfway


def _solver_steps():
    for shape, points in (
        ((3,), ((0.2, 0.98), (0.5, 0.87), (0.9, 0.44))),
        ((2, 4), ((0.1, 1.0), (0.3, 0.9), (0.35, 0.8))),
        ((5, 1), ((0.6, 0.5), (0.7, 0.45), (0.97, 0.1))),
    ):
        x, x0, x0_last = normal(3, *shape)
        yield x, x0, x0_last, *(tuple(numbers(*v)) for v in points)


define(
    dpm_step,
    truth=by_slope,
    cases=lambda: list(_solver_steps()),
    limits={
        "where the estimate has not moved (x0_last = x0) this is DDIM's step": {
            "x0_last": lambda a: a.x0
        },
        "a step of no length (then = now) leaves x where it is": {
            "then": lambda a: a.now
        },
    },
    linear_in=("x", "x0", "x0_last"),
    mistakes="""
    first order
        h / (2 * h_last) -> 0
        this is DDIM: the last estimate is not used. How did the estimate move since then?
    the ratio of steps inverted
        h / (2 * h_last) -> h_last / (2 * h)
        the extrapolation is weighted by h_last / h: a long step ahead needs more of it, not less
    no half
        h / (2 * h_last) -> h / h_last
        you extrapolate to the end of the step. Its mean over the step is wanted, which is about its middle: half
        of the way
    equal steps
        h / (2 * h_last) -> 0.5
        the weights 3/2 and -1/2 are right where both steps are equally long in lambda: how long are h and h_last?
    looking back
        x0 + h / -> x0 - h /
        you average with the last estimate instead of going on in its direction: look at the sign
    1 - e^h
        - then[0] * torch.expm1(-h) -> + then[0] * torch.expm1(h)
        the share of the estimate must lie between 0 and 1 however long the step: which sign has h in the
        exponent?
    lambda from variances
        torch.log(m / std) -> 2 * torch.log(m / std)
        your lambda is the log of a ratio of variances, twice too large: it is log(m / std)
    x scaled by the means
        then[1] / now[1] * x -> then[0] / now[0] * x
        x is scaled as if it were signal. In this form the noise is what is carried along: std_s / std_t
    """,
)


# --- grid ---


def grid(n):
    """n + 1 times from 1 to 0, finer towards the data, where the velocity changes fastest."""
    return torch.linspace(1, 0, n + 1, dtype=torch.float64) ** 2


def even(n):
    """n + 1 times from 1 to 0, as far from each other."""
    return torch.linspace(1, 0, n + 1, dtype=torch.float64)


def grid_error(times: Tensor, s: float = 0.3) -> float:
    """|x_0 - exact| of Heun's method on the linear schedule with data N(0, s^2), from x_1 = 1; last step to E x_0."""

    def kernel(t):
        log = -0.1 * t - 9.95 * t**2
        # alpha_bar, 1 - alpha_bar, beta.
        return (
            torch.exp(log),
            -torch.expm1(log),
            0.1 + 19.9 * t,
        )

    def velocity(x, t):
        abar, lost, beta = kernel(t)
        # score = -x / (variance of x_t).
        return -beta / 2 * (x - x / (abar * s**2 + lost))

    x = torch.ones((), dtype=torch.float64)
    for t, u in itertools.pairwise(times[:-1]):
        x = heun(velocity, x, t, u)
    abar, lost, _ = kernel(times[-2])
    x = abar.sqrt() * s**2 / (abar * s**2 + lost) * x
    abar, lost, _ = kernel(times[0])
    return abs(x - s / (abar * s**2 + lost).sqrt()).item()


def gain(times):
    """How many times smaller the error is than that of the even grid."""
    return grid_error(even(len(times) - 1)) / grid_error(times)


define(
    grid,
    cases=lambda: [(8,), (16,)],
    read=lambda got, a: torch.as_tensor(got).double(),
    properties=(
        entries(lambda a: a.n + 1, "n steps visit n + 1 times"),
        stands_at(0, lambda a: 1, "sampling starts where the noise is"),
        stands_at(-1, lambda a: 0, "that is where the data is"),
        falling,
    ),
    shows={
        "even": lambda t, a: close(t, even(a.n), 1e-9),
        "all at the end": lambda t, a: gain(t) < 1 and t[1] < even(a.n)[1],
        "finer at the noise": lambda t, a: gain(t) < 1,
        "better than the even grid, but not by a factor of 2": lambda t, a: gain(t) < 2,
    },
    mistakes="""
    n entries
        = grid(n)[1:]
        n steps need n + 1 times: the first is 1, where the noise is
    rising
        = grid(n).flip(0)
        the times must fall: sampling starts at the noise, t = 1
    not down to 0
        = grid(n).clamp(min=0.001)
        the last time must be 0, where the data is
    even
        = even(n)
        this is the even grid, which is to be beaten by a factor of 2: where does the velocity change fastest?
    finer at the noise
        = even(n).sqrt()
        worse than the even grid: the small steps are near the noise, where the flow is nearly straight
    all at the end
        = even(n) ** 12
        worse than the even grid: the first steps are now so long that what they lose cannot be mended
    one time twice
        = torch.cat([grid(n)[:-2], grid(n)[-3:-2], grid(n)[-1:]])
        two of your times are equal: each must be before the last
    """,
)


# --- ode_velocity ---


def ode_velocity(x, eps_hat, f, g2, std):
    """v = f x - g^2 / 2 grad ln q, the score being -eps_hat / std."""
    score = -eps_hat / std
    return f * x - g2 / 2 * score


def by_guesses(x, eps_hat, f, g2, std):
    """(3.9) with m = 1 at this time: m' x0_hat + std' eps_hat, m' = f m, std' = f std + g^2 / (2 std)."""
    x0_hat = x - std * eps_hat
    return f * x0_hat + (f * std + g2 / (2 * std)) * eps_hat


def _moments_now():
    for shape, at in (
        ((3,), (-0.7, 1.6, 0.4)),
        ((2, 4), (0.3, 0.5, 2.5)),
        ((5, 1), (-2.0, 3.0, 0.9)),
    ):
        yield *torch.randn(2, *shape, dtype=torch.float64), *numbers(*at)


define(
    ode_velocity,
    truth=by_guesses,
    cases=lambda: list(_moments_now()),
    limits={
        "without noise in the process (g2 = 0) the drift is left": {
            "g2": numbers(0.0)[0]
        },
        "without drift (f = 0) the score alone moves the particle": {
            "f": numbers(0.0)[0]
        },
    },
    linear_in=("x", "eps_hat"),
    mistakes="""
    the whole g^2
        g2 / 2 -> g2
        the whole score belongs to the equation with noise, (3.6); without noise half of it is enough
    the sign of the score
        -eps_hat / std -> eps_hat / std
        the score is minus the noise over its standard deviation: it points where the density rises
    the noise for the score
        -eps_hat / std -> -eps_hat
        this is minus the noise. The score is that, divided by the noise's standard deviation
    divided by the variance
        eps_hat / std -> eps_hat / std**2
        eps has variance 1: one division by std makes the score of it, and you divide twice
    g for g^2
        g2 / 2 -> g2.sqrt() / 2
        the score is multiplied by g / 2, and it must be g^2 / 2
    the way back
        f * x - g2 / 2 * score -> g2 / 2 * score - f * x
        the sign of all is turned: v is dx/dt for time that runs forwards; whoever walks back takes steps ds < 0
    f for f x
        f * x - -> f -
        without the score your velocity is f, the same for every x. The drift is a pull in proportion to x
    """,
)
