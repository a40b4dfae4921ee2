"""DPM-Solver++ against its paper's formulas, exact flows and diffusers, in float64."""

import itertools
import math

import pytest
import torch
from numpy.polynomial.legendre import leggauss

from course_lib import schedules as S
from course_lib.data import eight_gaussians, two_bumps
from course_lib.dpm_solver import DPMSolver, moments, ratio
from course_lib.oracle import MixtureOracle
from course_lib.process import last, sample
from course_lib.sde import VE, VP, SubVP
from tests.helpers import f64, one, same

NODES, WEIGHTS = (torch.from_numpy(v) for v in leggauss(40))  # of an integral over [-1, 1]
SDES = [VP(S.linear(), (2,)), VP(S.cosine(), (2,)), SubVP(S.linear(), (2,)), VE((2,))]


def walk(way, model, x, times):
    for t, s in itertools.pairwise(times):
        x = way.step(model, x, one(t, len(x)), one(s, len(x)))
    return x


def lagrange(x, node, points):
    """The polynomial that is 1 at this node and 0 at the others."""
    others = [b for b, _ in points if b != node]
    return torch.stack([torch.ones_like(x), *((x - b) / (node - b) for b in others)]).prod(0)


@pytest.mark.parametrize("sde", SDES)
def test_order_3_is_a_parabola_through_the_last_estimates(sde):
    """x_s = (std_s / std_t) x + std_s integral of e^lambda x_0(lambda), by quadrature of that parabola."""
    model, way, times = (
        MixtureOracle(sde, eight_gaussians()),
        DPMSolver(sde, order=3),
        [0.9, 0.7, 0.55, 0.3, 0.1],
    )
    x, known = torch.randn(3, 2, dtype=torch.float64), []
    for t, s in itertools.pairwise(times):
        (now,), (then,) = sde.coefficients(f64(t)), sde.coefficients(f64(s))
        lam_t, lam_s = -now.log_sigma.item(), -then.log_sigma.item()
        known.append((lam_t, sde.predict_x0(model, x, one(t, 3))))
        lam = lam_t + (NODES + 1) / 2 * (lam_s - lam_t)
        x0 = sum(lagrange(lam, a, known[-3:])[:, None, None] * y for a, y in known[-3:])
        got = way.step(model, x, one(t, 3), one(s, 3))
        integral = (WEIGHTS[:, None, None] * lam.exp()[:, None, None] * x0).sum(0) * (lam_s - lam_t) / 2
        if (
            len(known) != 2
        ):  # the second step is the paper's 2M, whose slope has another weight of the same order
            same(got, then.std / now.std * x + then.std * integral, rtol=1e-8, atol=1e-9)
        x = got


@pytest.mark.parametrize("order, rough", [(1, 20), (2, 20), (3, 20)])
@pytest.mark.parametrize("sde", SDES[:3])
def test_half_the_step_is_an_error_less_by_2_to_the_order(order, rough, sde):
    """On a mixture, whose perfect network bends, from where x_0 is hardly known, by steps even in lambda."""
    model, x = MixtureOracle(sde, eight_gaussians(0.5)), torch.randn(6, 2, dtype=torch.float64)

    def run(steps, order):
        times = sde.time_at(torch.linspace(5.0, 0.5, steps + 1, dtype=torch.float64))
        return walk(DPMSolver(sde, order), model, x, times.tolist())

    errors = [(run(k, order) - run(400, 3)).abs().max() for k in (rough, 2 * rough)]
    assert 0.8 * 2**order < errors[0] / errors[1] < 1.25 * 2**order


def test_order_3_beats_order_2_and_that_order_1():
    sde = VP(S.linear(), (1,))
    model, x = MixtureOracle(sde, two_bumps()), torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    times = torch.linspace(0.9, 0.2, 41, dtype=torch.float64).tolist()
    exact = walk(DPMSolver(sde, 3), model, x, torch.linspace(0.9, 0.2, 401, dtype=torch.float64).tolist())
    errors = [(walk(DPMSolver(sde, k), model, x, times) - exact).abs().max() for k in (1, 2, 3)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


class HalfTheBend(DPMSolver):
    """Order 3 as diffusers and the authors' code have it."""

    def derivatives(self, x0, h, past):
        D1, D2 = super().derivatives(x0, h, past)
        return D1, D2 / 2


class FromTable(VP):
    """VP whose schedule is a table, as theirs: no rate, which this solver does not need."""

    def drift(self, t):
        return 0 * t

    diffusion2 = drift


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("order", [1, 2, 3])
def test_parity_with_diffusers(order):
    """The same times, the same table, a network that is not trivial: equal up to their float32 table.

    Order 3 is equal only with half the second derivative, with which the error falls like h^2.
    """
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DPMSolverMultistepScheduler(
        1000, beta_schedule="linear", solver_order=order, lower_order_final=False, final_sigmas_type="zero"
    )
    theirs.set_timesteps(20)
    log = torch.cat([torch.ones(1), theirs.alphas_cumprod]).double().log()
    steps = S.Schedule("table", lambda u: log[(u * 1000).round().long()])
    sde = FromTable(steps, (3,), t_min=1e-3, t_max=1.0)
    ours = HalfTheBend(sde, order)
    x = state = torch.randn(50, 3, dtype=torch.float64)
    times = [*((t.item() + 1) / 1000 for t in theirs.timesteps), 0.0]
    for t, s in itertools.pairwise(times[:-1]):
        x = ours.step(lambda x, u: torch.tanh(x), x, one(t, 50), one(s, 50))
    for t in theirs.timesteps[:-1]:
        state = theirs.step(torch.tanh(state), t, state).prev_sample
    same(x, state, rtol=1e-3, atol=1e-3)
    assert x.std() > 0.1


def test_the_moments_of_the_exponential():
    """h^-k times the integral of e^(tau - h) tau^k / k!: by quadrature, on both sides of where the series begins."""
    h = f64(1e-9, 1e-3, 0.049, 0.051, 0.5, 3.0)
    tau = h[:, None] * (NODES + 1) / 2
    for k, got in zip((1, 2), moments(h), strict=True):
        values = torch.exp(tau - h[:, None]) * (tau / h[:, None]) ** k / math.factorial(k)
        same(got, (values * WEIGHTS).sum(1) * h / 2, rtol=2e-8, atol=0)
    ends = moments(f64(0.0, math.inf))
    same(ends[0], f64(0.0, 1.0))
    same(ends[1], f64(0.0, 0.5))


def test_no_slope_is_taken_where_there_is_none():
    """For the infinite step to s = 0, and after one so short that rounding made the slope, or of no length."""
    h, h_last = f64(0.4, math.inf, 0.4, 0.4, 0.0, 0.0), f64(0.2, 0.2, 0.0, 1e-6, 0.1, 0.0)
    same(ratio(h, h_last), f64(2.0, 0.0, 0.0, 0.0, 0.0, 0.0))


@pytest.mark.parametrize("order", [2, 3])
def test_a_step_far_longer_than_the_last_one_is_of_first_order(order):
    """5 times its length in lambda is as far as a slope is trusted."""
    sde, x = VP(S.linear(), (2,)), torch.randn(3, 2, dtype=torch.float64)
    model = MixtureOracle(sde, eight_gaussians())
    for far, alone in ((4.9, False), (5.1, True)):
        times = sde.time_at(f64(2.0, 1.9, 1.8, 1.8 - 0.1 * far)).tolist()
        way = DPMSolver(sde, order)
        y = walk(way, model, x, times[:3])
        got, first = (walk(p, model, y, times[2:]) for p in (way, DPMSolver(sde)))
        assert torch.allclose(got, first, rtol=1e-9) == alone


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("sde", SDES)
def test_a_last_step_too_short_for_a_slope_changes_nothing(order, sde):
    """A step of 1e-9 somewhere on the way, in float32: its slope would be all rounding."""
    sde = VE((2,)) if isinstance(sde, VE) else sde
    model, x = MixtureOracle(sde, eight_gaussians()), sde.prior(200)
    times = torch.linspace(0.9, 0.1, 17, dtype=torch.float64).tolist()
    cut = [*times[:9], times[8] - 1e-9, *times[9:]]
    run = lambda times: walk(DPMSolver(sde, order), model, x, times)  # noqa: E731
    assert (run(cut) - run(times)).abs().max() < 0.3


@pytest.mark.parametrize("order", [1, 2, 3])
def test_any_number_of_first_times_may_lie_beyond_t_max(order):
    """600 even times of the cosine clock by hand: the first two are both read as t_max, a step of no length."""
    sde = VP(S.cosine(), (1,))
    model, way = MixtureOracle(sde, two_bumps()), DPMSolver(sde, order)
    runs = []
    for steps in (600, torch.linspace(1, 0, 601), torch.linspace(1, 0, 601, dtype=torch.float64)):
        torch.manual_seed(0)
        runs.append(last(sample(way, model, 100, steps))[1])
    same(runs[1], runs[0], rtol=0, atol=0.05)
    same(runs[2], runs[1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("order", [2, 3])
def test_what_is_not_finite_is_not_remembered(order):
    """The error caught and the step tried again, with what was known before it: as if it had not happened."""
    sde = VP(S.linear(), (2,))
    good, x = MixtureOracle(sde, eight_gaussians()), torch.randn(3, 2, dtype=torch.float64)
    times = [0.9, 0.8, 0.65, 0.5, 0.3]
    want, way = walk(DPMSolver(sde, order), good, x, times), DPMSolver(sde, order)
    for t, s in itertools.pairwise(times):
        for bad in (math.nan, math.inf):
            with pytest.raises(FloatingPointError, match=f"at t = {t:g}"):
                way.step(lambda x, u, bad=bad: torch.full_like(x, bad), x, one(t, 3), one(s, 3))
            assert all(step.x0.isfinite().all() for step in way.past)
        x = way.step(good, x, one(t, 3), one(s, 3))
    same(x, want)


def test_an_estimate_that_overflows_is_not_remembered():
    """The network's output is finite, x_0 made of it is not."""
    sde, x = VP(S.cosine(), (2,)), torch.randn(3, 2)
    way = DPMSolver(sde)
    with pytest.raises(FloatingPointError, match="the estimate of x_0 must be finite"):
        way.step(
            lambda x, u: torch.full_like(x, 3e38), x, torch.tensor(0.9).expand(3), torch.tensor(0.8).expand(3)
        )
    assert way.past == ()


def test_what_a_device_did_not_notice_counts_as_unknown():
    """Off the CPU a NaN may be remembered; then the next step is of first order there."""
    sde, model = VP(S.linear(), (2,)), lambda x, u: 0.3 * x
    x, way = torch.randn(3, 2, dtype=torch.float64), DPMSolver(sde)
    y = way.step(model, x, one(0.8, 3), one(0.6, 3))
    way.past[0].x0[0] = math.nan
    got, first = (p.step(model, y, one(0.6, 3), one(0.4, 3)) for p in (way, DPMSolver(sde)))
    same(got[0], first[0])
    assert not torch.allclose(got[1:], first[1:])


def test_the_last_step_shows_the_estimate_whatever_the_order():
    sde, x = VP(S.linear(), (2,)), torch.randn(3, 2, dtype=torch.float64)
    model = MixtureOracle(sde, eight_gaussians())
    for order in (1, 2, 3):
        way = DPMSolver(sde, order)
        y = walk(way, model, x, [0.9, 0.6, 0.4, 0.2])
        same(walk(way, model, y, [0.2, 0.0]), sde.predict_x0(model, y, one(0.2, 3)))
        assert len(way.past) == order - 1


@pytest.mark.parametrize(
    "order, error", [(0, ValueError), (4, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_order_is_checked(order, error, unchecked):
    with pytest.raises(error, match="order must be"):
        DPMSolver(VE((2,)), order)
