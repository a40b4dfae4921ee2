"""SDEs and ODEs against moment equations, Fokker-Planck, closed flows and exact densities, in float64: no training."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from scipy.integrate import solve_ivp

from course_lib import schedules as S
from course_lib.data import GaussianMixture, eight_gaussians, two_bumps
from course_lib.ddpm import DDPM
from course_lib.dpm_solver import DPMSolver
from course_lib.evaluate import bound
from course_lib.grey_levels import log_prob_of_level
from course_lib.infilling import approximately
from course_lib.likelihood import ProbabilityFlow, bits_per_dim, dequantise, rademacher, with_divergence
from course_lib.nets import MLP
from course_lib.oracle import MixtureOracle
from course_lib.process import Process, last, sample
from course_lib.sde import LEAST, SDE, VE, VP, SubVP, last_time
from course_lib.solvers import RK4, Ancestral, Heun, PredictorCorrector, Renoise, Solver
from tests.helpers import f64, one, same

SDES = {
    "vp, linear": lambda **k: VP(S.linear(), **k),
    "vp, cosine": lambda **k: VP(S.cosine(), **k),
    "sub-vp": lambda **k: SubVP(S.linear(), **k),
    "ve": lambda **k: VE(**k),
}
THREE = GaussianMixture([0.2, 0.5, 0.3], [[0.0, 1.0], [2.0, -1.0], [-1.5, 0.3]], [0.5, 1.0, 0.2])
KINDS = ["eps", "x0", "v", "score"]
WAYS = [lambda s: s, Ancestral, Renoise, PredictorCorrector, Heun, RK4, DPMSolver, ProbabilityFlow]


@pytest.fixture(params=SDES)
def make(request):
    return SDES[request.param]


def marginal(sde, mixture, t):
    """The exact law of x_t: a mixture again."""
    mean, std = sde.marginal(f64(t))
    return GaussianMixture(mixture.weights, mean * mixture.means, (mean**2 * mixture.sds**2 + std**2).sqrt())


@dataclass
class Gauss:
    """The perfect network for data N(0, s^2), in closed form, for any kind of prediction."""

    sde: SDE
    s: float

    def __call__(self, x, u):
        mean, std = (v.reshape(-1, *[1] * (x.ndim - 1)) for v in self.sde.marginal(u))
        x0 = mean * self.s**2 / (mean**2 * self.s**2 + std**2) * x.double()
        eps = (x - mean * x0) / std
        said = {"x0": x0, "eps": eps, "v": mean * eps - std * x0, "score": -eps / std}
        return said[self.sde.predicts].to(x.dtype)


def spread_at(sde, s, t):
    """Standard deviation of x_t for data N(0, s^2)."""
    mean, std = sde.marginal(f64(t))
    return (mean**2 * s**2 + std**2).sqrt().item()


# Forward


def test_kernels_solve_the_moment_equations(make):
    """m' = f m and (std^2)' = 2 f std^2 + g^2, integrated from m = 1, std = 0."""
    sde = make(shape=(1,))

    def rhs(t, y):
        t = f64(t)
        f, g2 = sde.drift(t).item(), sde.diffusion2(t).item()
        return [f * y[0], 2 * f * y[1] + g2]

    hours = [0.01, 0.3, 0.7, 0.98]
    got = solve_ivp(rhs, (0, 0.98), [1.0, 0.0], t_eval=hours, rtol=1e-10, atol=1e-14).y
    mean, std = sde.marginal(f64(*hours))
    same(mean, torch.from_numpy(got[0]), rtol=1e-7, atol=1e-10)
    same(std.square(), torch.from_numpy(got[1]), rtol=1e-6, atol=1e-10)


def test_kernels_in_closed_form():
    t = f64(0.0, 0.2, 1.0)
    abar = torch.exp(-0.1 * t - 9.95 * t**2)
    mean, std = VP(S.linear(), (1,)).marginal(t)
    same(mean, abar.sqrt())
    same(std, (1 - abar).sqrt())
    mean, std = SubVP(S.linear(), (1,)).marginal(t)
    same(mean, abar.sqrt())
    same(std, 1 - abar)
    mean, std = VE((1,)).marginal(t)
    same(mean, torch.ones_like(t))
    same(std, 0.01 * (5000 ** (2 * t) - 1).sqrt())
    assert VP(S.linear(), (1,)).marginal(f64(1.0))[0].square().item() == pytest.approx(math.exp(-10.05))
    assert VP(S.linear(), (1,)).marginal(f64(1e-9))[1].item() == pytest.approx(
        1e-5, rel=1e-6
    )  # no cancellation


def test_vp_is_ddpm_with_infinitely_many_steps():
    errors = []
    for T in (100, 1000, 10000):
        mean, _ = VP(S.linear(), (1,)).marginal(torch.linspace(0, 1, T + 1, dtype=torch.float64))
        errors.append((mean.square() - S.ddpm_table(T)).abs().max().item())
    assert errors[1] < 5e-3 and errors[2] < 5e-4
    assert 8 < errors[0] / errors[1] < 12 and 9 < errors[1] / errors[2] < 11


def test_corrupt_is_the_kernel(make):
    sde = make(shape=(3,))
    x0, eps = torch.randn(2, 4, 3, dtype=torch.float64)
    t = f64(0.0, 0.1, 0.5, 0.9)
    mean, std = sde.marginal(t)
    same(sde.corrupt(x0, t, eps), mean[:, None] * x0 + std[:, None] * eps)
    assert torch.equal(sde.corrupt(x0, one(0.0, 4)), x0)
    noise = sde.corrupt(torch.zeros(20000, 3), torch.full((20000,), 0.5)).double()
    half = sde.marginal(f64(0.5))[1].item()
    assert abs(noise.std() / half - 1) < 0.01 and abs(noise.mean()) < 0.02 * half


def test_prior_has_the_spread_of_the_end(make):
    sde = make(shape=(2, 3))
    x = sde.prior(5000)
    assert x.shape == (5000, 2, 3) and x.dtype == torch.float32
    assert abs(x.std() / sde.prior_std - 1) < 0.02 and abs(x.mean()) < 0.02 * sde.prior_std
    z = torch.randn(4, 2, 3, dtype=torch.float64)
    want = torch.distributions.Normal(f64(0.0), f64(sde.prior_std)).log_prob(z).flatten(1).sum(1)
    same(sde.log_prior(z), want)
    assert sde.log_prior(z.float()).dtype == torch.float64


def test_prior_widths():
    assert VP(S.cosine(), (1,)).prior_std == SubVP(S.linear(), (1,)).prior_std == 1.0
    assert VE((1,)).prior_std == pytest.approx(math.sqrt(50**2 - 0.01**2))
    assert VE((1,), 0.1, 3.0).prior_std == pytest.approx(math.sqrt(9 - 0.01))


def test_a_schedule_that_ends_at_0_is_read_up_to_a_little():
    for schedule in (S.cosine(), S.sqrt()):
        sde = VP(schedule, (1,))
        assert 0.9 < sde.t_max < 1
        assert sde.marginal(f64(sde.t_max))[0].square().item() == pytest.approx(LEAST)
        same(sde.marginal(f64(1.0)), sde.marginal(f64(sde.t_max)))
        ends = [sde.velocity(Gauss(sde, 2.0), f64(1.0)[:, None], one(t)) for t in (1.0, sde.t_max)]
        same(*ends)
    assert LEAST == 1e-5 and last_time(S.linear()) == 1.0 and VE((1,)).t_max == 1.0
    assert VP(S.cosine(), (1,), t_max=0.9).t_max == 0.9
    assert S.cosine()(f64(last_time(S.cosine()))).item() >= LEAST


@pytest.mark.parametrize("way", WAYS)
def test_times_are_even_below_t_max(way):
    """The first is called 1 and read as t_max: all steps are equally long, for every way back."""
    times = way(VP(S.linear(), (2,), t_max=0.6)).times(4)
    same(times, torch.tensor([1.0, 0.45, 0.3, 0.15, 0.0]))
    same(way(VE((2,))).times(2), torch.tensor([1.0, 0.5, 0.0]))


def test_dpm_solver_bears_an_end_that_is_cut():
    """t_max just above a time of the even grid: the first two steps are alike all the same."""
    runs = []
    for t_max in (0.9, 0.91):
        sde = VP(S.cosine(), (1,), t_max=t_max)
        torch.manual_seed(0)
        x = last(sample(DPMSolver(sde), lambda x, u: x * u[:, None], 200, 10))[1]
        runs.append(x.std().item())
    assert abs(runs[0] / runs[1] - 1) < 0.1


def test_a_network_of_chapter_1_fits_as_it_is():
    """alpha_bar(t / T) of the table is that of the SDE, and the network is asked at the same u."""
    ddpm, sde = DDPM(S.table(S.cosine(), 1000), (2,)), VP(S.cosine(), (2,))
    t = torch.tensor([1, 2, 40, 500, 990])
    x0, eps, heard = torch.randn(5, 2), torch.randn(5, 2), []
    same(sde.corrupt(x0, t / 1000, eps), ddpm.corrupt(x0, t, eps), atol=1e-5, rtol=1e-5)
    model = lambda x, u: heard.append(u) or 0.3 * x  # noqa: E731
    same(sde.predict_x0(model, x0, t / 1000), ddpm.predict_x0(model, x0, t), rtol=1e-4, atol=1e-4)
    assert torch.equal(heard[0], heard[1])


def test_time_keeps_its_precision():
    t = torch.rand(3, dtype=torch.float64)
    assert VP(S.linear(), (1,)).u(t) is t


# What the network says


@pytest.mark.parametrize("kind", KINDS)
def test_estimates_from_each_kind(kind, make):
    sde = make(shape=(3,), predicts=kind)
    x0, eps = torch.randn(2, 4, 3, dtype=torch.float64)
    for t in (f64(0.01, 0.2, 0.6, 0.9), one(0.3, 4)):
        mean, std = (v[:, None] for v in sde.marginal(t))
        x = mean * x0 + std * eps
        truth = {"x0": x0, "eps": eps, "v": mean * eps - std * x0, "score": -eps / std}
        said = lambda x, u: truth[kind]  # noqa: B023, E731
        same(sde.estimate(said, x, t)[0], x0, rtol=1e-6, atol=1e-8)
        same(sde.estimate(said, x, t)[1], eps, rtol=1e-6, atol=1e-8)
        same(sde.predict_x0(said, x, t), x0, rtol=1e-6, atol=1e-8)
        same(sde.score(said, x, t), -eps / std, rtol=1e-6, atol=1e-8)


def test_clip_cuts_x0_and_eps_follows(make):
    sde = make(shape=(2,), clip=0.5)
    x, t = torch.randn(6, 2, dtype=torch.float64), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    x0, eps = sde.estimate(lambda x, u: -x, x, t)
    mean, std = (v[:, None] for v in sde.marginal(t))
    same(x0, ((x + std * x) / mean).clamp(-0.5, 0.5))
    same(mean * x0 + std * eps, x)
    same(sde.predict_x0(lambda x, u: -x, x, t), x0)
    assert (x0.abs() == 0.5).any()


def test_the_score_is_the_gradient_of_the_log_density(make):
    mixture, sde = eight_gaussians(0.3), make(shape=(2,))
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    for t in (0.02, 0.3, 0.9):
        (want,) = torch.autograd.grad(marginal(sde, mixture, t).log_prob(x).sum(), x)
        same(sde.score(MixtureOracle(sde, mixture), x.detach(), one(t, 5)), want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_oracle_in_continuous_time_by_quadrature(kind, make):
    sde, mixture, x0 = make(shape=(1,), predicts=kind), two_bumps(), torch.linspace(-7, 7, 20001).double()
    x, t = f64(-1.0, 0.0, 0.4, 2.0), f64(0.05, 0.2, 0.5, 0.8)
    mean, std = sde.marginal(t)
    far = (x[:, None] - mean[:, None] * x0) / std[:, None]
    p = (mixture.log_prob(x0[:, None]) - far.square() / 2).softmax(1)
    best = (p * x0).sum(1)
    eps = (x - mean * best) / std
    want = {"x0": best, "eps": eps, "v": mean * eps - std * best, "score": -eps / std}[kind]
    same(MixtureOracle(sde, mixture)(x[:, None], t)[:, 0], want, rtol=1e-5, atol=1e-6)
    assert MixtureOracle(sde, mixture)(x[:, None].float(), t.float()).dtype == torch.float32


# Fokker-Planck


def test_the_marginals_solve_the_fokker_planck_equation(make):
    """d_t q + d_x (f x q) - g^2 / 2 d_xx q = 0, and the continuity equation d_t q + d_x (v q) = 0 of the ODE."""
    sde, mixture = make(shape=(1,)), two_bumps()
    x = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    for hour in (0.05, 0.3, 0.8):
        t = f64(hour).requires_grad_()
        mean, std = sde.log_mean(t).exp(), sde.log_std(t).exp()
        var = mean**2 * mixture.sds**2 + std**2
        far = (x[:, None] - mean * mixture.means[:, 0]).square() / (2 * var)
        q = (mixture.weights * (2 * math.pi * var).rsqrt() * torch.exp(-far)).sum(1)
        grad = lambda y, of: torch.autograd.grad(y.sum(), of, create_graph=True)[0]  # noqa: E731
        q_t = torch.stack([grad(v, t)[0] for v in q])
        f, g2 = sde.drift(t).detach(), sde.diffusion2(t).detach()
        q_x = grad(q, x)
        residual = q_t + grad(f * x * q, x) - g2 / 2 * grad(q_x, x)
        scale = g2 * q.max()
        assert (residual / scale).abs().max() < 1e-9
        v = sde.velocity(MixtureOracle(sde, mixture), x[:, None], one(hour, 9))[:, 0]
        same(v.detach(), (f * x - g2 / 2 * q_x / q).detach(), rtol=1e-6, atol=1e-8)
        assert ((q_t + grad(v * q, x)) / scale).abs().max() < 1e-7


# Reverse SDE


def affine(process, model, t, s):
    """step is a x + c z here: a and c at each pair of times, with the noise of one seed, and that noise."""
    t, s = (
        torch.as_tensor(t, dtype=torch.float64).reshape(-1),
        torch.as_tensor(s, dtype=torch.float64).reshape(-1),
    )
    ends = []
    for x in (torch.zeros(len(t), 1), torch.ones(len(t), 1)):
        torch.manual_seed(3)
        ends.append(process.step(model, x.double(), t, s))
    torch.manual_seed(3)
    z = torch.randn(len(t), 1, dtype=torch.float64)
    return (ends[1] - ends[0])[:, 0], (ends[0] / z)[:, 0]


def test_step_is_euler_maruyama(make):
    sde = make(shape=(2,))
    model = lambda x, u: 0.3 * x - 0.1  # noqa: E731
    x, t, s = torch.randn(4, 2, dtype=torch.float64), f64(0.1, 0.4, 0.9, 0.3), f64(0.0, 0.3, 0.5, 0.29)
    torch.manual_seed(1)
    got = sde.step(model, x, t, s)
    torch.manual_seed(1)
    z, dt = torch.randn_like(x), (t - s)[:, None]
    f, g2, std = sde.drift(t)[:, None], sde.diffusion2(t)[:, None], sde.marginal(t)[1][:, None]
    score = -model(x, t) / std
    want = x - dt * (f * x - g2 * score) + (g2 * dt).sqrt() * z * (s > 0)[:, None]
    same(got, want)


@pytest.mark.parametrize("s", [0.5, 1.0, 2.0])
def test_the_reverse_sde_of_gaussian_data_has_the_right_marginals(s, make):
    """The variance of the sampler, a linear recursion, comes to the exact one like 1 / K."""
    sde, errors = make(shape=(1,), t_max=0.95), []
    for K in (500, 1000):
        hours = torch.linspace(0.95, 0.2, K + 1, dtype=torch.float64)
        var = spread_at(sde, s, 0.95) ** 2
        for a, c in zip(
            *(v.tolist() for v in affine(sde, Gauss(sde, s), hours[:-1], hours[1:])), strict=True
        ):
            var = a**2 * var + c**2
        errors.append(var / spread_at(sde, s, 0.2) ** 2 - 1)
    assert abs(errors[1]) < 0.04
    assert 1.7 < errors[0] / errors[1] < 2.3 or abs(errors[1]) < 1e-3


def test_ancestral_is_ddpms_step_draw_by_draw():
    """Any s < t, one time for all or many: DDPM with the small variance, whose table the schedule reads."""
    table = S.ddpm_table(50)
    steps = S.Schedule("table", lambda u: table.log()[(u * 50).round().long()])
    ddpm = DDPM(table, (2,), clip=1.5)
    sde = Ancestral(FromTable(steps, clip=1.5))
    model = lambda x, u: 0.4 * x + u[:, None]  # noqa: E731
    x = torch.randn(4, 2, dtype=torch.float64)
    many = (torch.tensor([50, 50, 9, 1]), torch.tensor([49, 0, 3, 0]))
    for t, s in (many, (torch.tensor(7).expand(4), torch.tensor(2).expand(4))):
        torch.manual_seed(2)
        want = ddpm.step(model, x, t, s)
        torch.manual_seed(2)
        got = sde.step(model, x, (t.double() / 50), (s.double() / 50))
        same(got, want, rtol=1e-6, atol=1e-6)


class FromTable(VP):
    """VP whose schedule is a table: no rate."""

    def __init__(self, schedule, **settings):
        super().__init__(schedule, (2,), t_min=0.02, t_max=1.0, **settings)

    def drift(self, t):
        return torch.zeros_like(t)

    def diffusion2(self, t):
        return torch.zeros_like(t)


def test_ancestral_is_k_diffusions_step_in_ve(make):
    """sigma_down = sigma_s^2 / sigma_t, sigma_up^2 = sigma_s^2 (sigma_t^2 - sigma_s^2) / sigma_t^2, in y = x / m."""
    sde, model = make(shape=(1,)), lambda x, u: 0.3 * x
    t, s = 0.7, 0.35
    (m_t, std_t), (m_s, std_s) = (tuple(v.item() for v in sde.marginal(f64(hour))) for hour in (t, s))
    sigma_t, sigma_s = std_t / m_t, std_s / m_s
    down, up = sigma_s**2 / sigma_t, math.sqrt(sigma_s**2 * (sigma_t**2 - sigma_s**2)) / sigma_t
    a, c = affine(Ancestral(sde), model, t, s)
    y_s = 1 / m_t + (down - sigma_t) * 0.3  # Euler in sigma from y = 1 / m_t, eps = 0.3
    assert a.item() == pytest.approx(m_s * y_s, rel=1e-9) and c.item() == pytest.approx(m_s * up, rel=1e-9)


@pytest.mark.parametrize("s", [0.5, 2.0])
def test_ancestral_with_known_data_keeps_every_marginal(s, make):
    """x_0 known: from q(x_t | x_0) one step of any length lands in q(x_s | x_0)."""
    sde = make(shape=(1,), predicts="x0")
    for t, hour in ((0.9, 0.8), (0.9, 0.05), (0.4, 0.2)):
        (m_t, std_t), (m_s, std_s) = (tuple(v.item() for v in sde.marginal(f64(h))) for h in (t, hour))
        know = lambda x, u: torch.full_like(x, s)  # noqa: E731
        torch.manual_seed(3)
        moved = Ancestral(sde).step(know, f64(m_t * s)[:, None], one(t), one(hour)).item()
        a, _ = affine(Ancestral(sde), know, t, hour)
        torch.manual_seed(3)
        c = (moved - m_s * s) / torch.randn(1, 1, dtype=torch.float64).item()
        assert a.item() ** 2 * std_t**2 + c**2 == pytest.approx(std_s**2, rel=1e-9)


def test_the_last_ancestral_step_shows_x0(make):
    sde, x = make(shape=(2,)), torch.randn(3, 2, dtype=torch.float64)
    for t, s in ((one(0.3, 3), one(0.0, 3)), (f64(0.3, 0.2, 0.1), f64(0.0, 0.0, 0.0))):
        same(Ancestral(sde).step(lambda x, u: 0.2 * x, x, t, s), sde.predict_x0(lambda x, u: 0.2 * x, x, t))


def test_corrector_is_a_langevin_step_that_keeps_the_law(make):
    sde, x = make(shape=(2,)), torch.randn(5, 2, dtype=torch.float64)
    way, model, t = PredictorCorrector(Ancestral(sde), ratio=0.2), Gauss(sde, 1.5), one(0.4, 5)
    torch.manual_seed(1)
    got = way.correct(model, x, t)
    torch.manual_seed(1)
    size = 2 * (0.2 * sde.marginal(t)[1]).square()[:, None]
    same(got, x + size * sde.score(model, x, t) + (2 * size).sqrt() * torch.randn_like(x))
    var = spread_at(sde, 1.5, 0.4) ** 2
    slope = (1 - size[0] / var).item()
    assert slope**2 * var + 2 * size[0].item() == pytest.approx(var, rel=3e-3)  # the law stays, up to size^2


def test_predictor_corrector_predicts_then_corrects_but_not_at_0():
    sde, x, heard = VP(S.linear(), (1,)), torch.randn(4, 1), []
    model = lambda x, u: heard.append(u) or 0.1 * x  # noqa: E731
    way = PredictorCorrector(Ancestral(sde), corrections=2)
    assert way.ratio == 0.16 and PredictorCorrector(sde).corrections == 1
    t, s, zero = (torch.tensor(v).expand(4) for v in (0.5, 0.4, 0.0))
    torch.manual_seed(1)
    got = way.step(model, x, t, s)
    assert [round(u[0].item(), 5) for u in heard] == [0.5, 0.4, 0.4]
    torch.manual_seed(1)
    same(got, way.correct(model, way.correct(model, Ancestral(sde).step(model, x, t, s), s), s))
    heard.clear()
    same(way.step(model, x, s, zero), Ancestral(sde).step(model, x, s, zero))
    assert len(heard) == 2
    mixed = way.step(model, x, t, torch.tensor([0.0, 0.4, 0.0, 0.4]))
    same(mixed[::2], sde.predict_x0(model, x, t)[::2])
    torch.manual_seed(1)
    plain = PredictorCorrector(sde).step(model, x, t, s)
    torch.manual_seed(1)
    same(plain, way.correct(model, sde.step(model, x, t, s), s))


# Estimate x_0, then noise it again


class Draws(Gauss):
    """Answers with a draw from p(x_0 | x_t) for data N(0, s^2) instead of its mean."""

    def __call__(self, x, u):
        mean, std = (v[:, None] for v in self.sde.marginal(u))
        var = self.s**2 * std**2 / (mean**2 * self.s**2 + std**2)
        return super().__call__(x, u) + var.sqrt() * torch.randn_like(x)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_renoise_is_what_it_says(share, make):
    sde, model = make(shape=(2,)), lambda x, u: 0.3 * x - 0.1
    x, t, s = torch.randn(4, 2, dtype=torch.float64), f64(0.1, 0.4, 0.9, 0.3), f64(0.0, 0.3, 0.5, 0.01)
    torch.manual_seed(1)
    got = Renoise(sde, share).step(model, x, t, s)
    torch.manual_seed(1)
    z, (m_t, std_t), (m_s, std_s) = (
        torch.randn_like(x),
        *([v[:, None] for v in sde.marginal(h)] for h in (t, s)),
    )
    eps = model(x, t)
    x0 = (x - std_t * eps) / m_t
    same(got, m_s * x0 + std_s * (math.sqrt(1 - share) * eps + math.sqrt(share) * z))
    same(got[0], x0[0])


def test_renoise_spans_from_ddim_to_ancestral(make):
    sde, x = make(shape=(1,)), torch.randn(3, 1, dtype=torch.float64)
    model, t, s = MixtureOracle(sde, two_bumps()), one(0.7, 3), one(0.35, 3)
    same(Renoise(sde, 0.0).step(model, x, t, s), DPMSolver(sde).step(model, x, t, s))
    (m_t, std_t), (m_s, std_s) = (tuple(v.item() for v in sde.marginal(f64(h))) for h in (0.7, 0.35))
    share = 1 - (std_s * m_t / (m_s * std_t)) ** 2
    runs = []
    for way in (Renoise(sde, share), Ancestral(sde)):
        torch.manual_seed(0)
        runs.append(way.step(model, x, t, s))
    same(*runs)
    assert Renoise(sde).share == 1.0


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_renoising_a_draw_keeps_the_marginal_and_the_mean_loses_variance(share, make):
    """Data N(0, s^2), where x_s = a x_t + b (draw's own noise) + c z: its variance in closed form, at any step."""
    sde, S2 = make(shape=(1,)), 0.8**2
    way = Renoise(sde, share)
    for t, s in ((0.9, 0.7), (0.9, 0.05), (0.4, 0.2)):
        (m_t, std_t), (m_s, std_s) = (tuple(v.item() for v in sde.marginal(f64(h))) for h in (t, s))
        marginal = m_s**2 * S2 + std_s**2
        posterior = S2 * std_t**2 / (m_t**2 * S2 + std_t**2)  # Var(x_0 | x_t)
        a, c = (v.item() for v in affine(way, Gauss(sde, 0.8), t, s))
        lost = way.lost(f64(t), f64(s)).item()
        mean_only = a**2 * (m_t**2 * S2 + std_t**2) + c**2
        assert mean_only == pytest.approx(marginal - lost * posterior, rel=1e-9)
        at, ends = Renoise(make(shape=(1,), predicts="x0"), share), []
        for x0 in (0.0, 1.0):
            torch.manual_seed(3)
            ends.append(at.step(lambda x, u: 0 * x + x0, one(0.5)[:, None], one(t), one(s)))  # noqa: B023
        assert (ends[1] - ends[0]).item() ** 2 == pytest.approx(lost, rel=1e-9)  # the weight of x_0
    assert way.lost(f64(0.9), f64(0.0)).item() == 1.0


def test_a_chain_of_renoised_draws_ends_in_the_data(make):
    """Three steps, drawn: with draws the standard deviation of the data, with means far less."""
    sde, n = make(shape=(1,), t_max=0.9, predicts="x0"), 40000
    spread = {}
    for name, model in (("draws", Draws(sde, 0.8)), ("means", Gauss(sde, 0.8))):
        torch.manual_seed(0)
        x = spread_at(sde, 0.8, 0.9) * torch.randn(n, 1, dtype=torch.float64)
        for t, s in ((0.9, 0.5), (0.5, 0.2), (0.2, 0.0)):
            x = Renoise(sde).step(model, x, one(t, n), one(s, n))
        spread[name] = x.std().item()
    assert abs(spread["draws"] / 0.8 - 1) < 0.02 and spread["means"] < 0.9 * spread["draws"]


def test_what_renoising_loses_in_vp_is_alpha_bar():
    t, s = f64(0.5, 0.9), f64(0.2, 0.1)
    same(Renoise(VP(S.cosine(), (1,))).lost(t, s), S.cosine()(s))


# Fixed-step ODE solvers


def solve(way, model, x, hours):
    for t, s in itertools.pairwise(hours):
        x = way.step(model, x, one(t, len(x)), one(s, len(x)))
    return x


@pytest.mark.parametrize("way, order, rough", [(Heun, 2, 40), (RK4, 4, 12), (DPMSolver, 2, 40)])
def test_orders_of_convergence(way, order, rough, make):
    """Half the step, error / 2^order: against the flow of Gaussian data, x_s = x_t sd_s / sd_t."""
    sde, errors = make(shape=(1,)), []
    for K in (rough, 2 * rough):
        hours = torch.linspace(0.9, 0.3, K + 1, dtype=torch.float64).tolist()
        x = solve(way(sde).fresh(), Gauss(sde, 0.6), f64(1.0)[:, None], hours).item()
        errors.append(x - spread_at(sde, 0.6, 0.3) / spread_at(sde, 0.6, 0.9))
    assert 0.8 * 2**order < errors[0] / errors[1] < 1.25 * 2**order


def test_heun_and_rk4_are_the_textbooks(make):
    sde, mixture = make(shape=(2,)), eight_gaussians()
    model, x = MixtureOracle(sde, mixture), torch.randn(3, 2, dtype=torch.float64)
    v = lambda y, t: sde.velocity(model, y, one(t, 3))  # noqa: E731
    t, s, h = 0.5, 0.4, -0.1
    k1 = v(x, t)
    same(Heun(sde).step(model, x, one(t, 3), one(s, 3)), x + h / 2 * (k1 + v(x + h * k1, s)))
    k2 = v(x + h / 2 * k1, 0.45)
    k3 = v(x + h / 2 * k2, 0.45)
    k4 = v(x + h * k3, s)
    same(RK4(sde).step(model, x, one(t, 3), one(s, 3)), x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))


@pytest.mark.parametrize(
    "way, calls", [(Heun, 2), (RK4, 4), (DPMSolver, 1), (Ancestral, 1), (Renoise, 1), (lambda s: s, 1)]
)
def test_calls_of_the_network(way, calls):
    sde, heard = VP(S.linear(), (2,)), []
    model = lambda x, u: heard.append(u) or x  # noqa: E731
    way(sde).step(model, torch.randn(3, 2), torch.tensor(0.5).expand(3), torch.tensor(0.4).expand(3))
    assert len(heard) == calls
    heard.clear()
    way(sde).step(model, torch.randn(3, 2), torch.tensor(0.5).expand(3), torch.tensor(0.0).expand(3))
    assert len(heard) == 1


def test_dpm_solver_begins_as_ddim():
    """sqrt(abar_s) x0 + sqrt(1 - abar_s) eps: DDIM with eta = 0, written out."""
    sde, x = VP(S.cosine(), (2,)), torch.randn(4, 2, dtype=torch.float64)
    model = lambda x, u: 0.3 * x + 0.1  # noqa: E731
    for t, s in ((one(0.8, 4), one(0.5, 4)), (f64(0.9, 0.5, 0.3, 0.2), f64(0.1, 0.4, 0.0, 0.19))):
        a_t, a_s = (S.cosine()(v)[:, None] for v in (t, s))
        eps = model(x, t)
        x0 = (x - (1 - a_t).sqrt() * eps) / a_t.sqrt()
        same(DPMSolver(sde).step(model, x, t, s), a_s.sqrt() * x0 + (1 - a_s).sqrt() * eps)


def test_ddim_is_euler_in_sigma(make):
    """y_s = y_t + (sigma_s - sigma_t) eps in y = x / m, for each SDE."""
    sde, x = make(shape=(2,)), torch.randn(3, 2, dtype=torch.float64)
    model = lambda x, u: 0.3 * x + 0.1  # noqa: E731
    (m_t, std_t), (m_s, std_s) = (sde.marginal(f64(h)) for h in (0.6, 0.2))
    y = x / m_t + (std_s / m_s - std_t / m_t) * model(x, None)
    same(DPMSolver(sde).step(model, x, one(0.6, 3), one(0.2, 3)), m_s * y)


def test_dpm_solver_goes_on_with_the_last_estimate(make):
    """Algorithm 2 of the paper, written with lambda = log(m / std) and r = h_last / h."""
    sde, x = make(shape=(2,)), torch.randn(3, 2, dtype=torch.float64)
    model, way = MixtureOracle(sde, eight_gaussians()), DPMSolver(sde)
    hours = [0.9, 0.6, 0.4, 0.15]
    kernel = {h: sde.marginal(f64(h)) for h in hours}
    lam = {h: (m / std).log().item() for h, (m, std) in kernel.items()}
    y, old, got = x, None, x
    for i, (t, s) in enumerate(itertools.pairwise(hours)):
        x0, h = sde.predict_x0(model, y, one(t, 3)), lam[s] - lam[t]
        r = (lam[t] - lam[hours[i - 1]]) / h if i else 1.0
        D = x0 if old is None else (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * old
        y = kernel[s][1] / kernel[t][1] * y - kernel[s][0] * math.expm1(-h) * D
        old, got = x0, way.step(model, got, one(t, 3), one(s, 3))
        same(got, y, rtol=1e-8, atol=1e-9)


def test_dpm_solver_remembers_only_what_belongs_to_the_run():
    sde, model = VP(S.linear(), (1,)), lambda x, u: torch.sin(x) * u[:, None]
    x = torch.randn(3, 1, dtype=torch.float64)
    way = DPMSolver(sde)
    first = lambda x, t, s: DPMSolver(sde).step(model, x, one(t, len(x)), one(s, len(x)))  # noqa: E731
    second = way.step(model, way.step(model, x, one(0.9, 3), one(0.7, 3)), one(0.7, 3), one(0.5, 3))
    assert not torch.allclose(second, first(first(x, 0.9, 0.7), 0.7, 0.5))
    same(way.step(model, x, one(0.9, 3), one(0.7, 3)), first(x, 0.9, 0.7))  # starts elsewhere: begins again
    same(way.step(model, x[:2], one(0.7, 2), one(0.5, 2)), first(x[:2], 0.7, 0.5))  # other examples
    way.step(model, x, one(0.9, 3), one(0.7, 3))
    narrow = way.step(model, x.float(), one(0.7, 3).float(), one(0.5, 3).float())
    same(narrow, first(x, 0.7, 0.5).float(), rtol=1e-5, atol=1e-5)
    way.step(model, x, one(0.9, 3), one(0.7, 3))
    assert way.fresh().past == () and len(way.past) == 1 and way.fresh().sde is sde
    same(way.fresh().step(model, x, one(0.7, 3), one(0.5, 3)), first(x, 0.7, 0.5))


def test_runs_of_dpm_solver_do_not_mix():
    """Two interleaved runs give what each gives alone, also inside a predictor-corrector."""
    sde = VP(S.linear(), (2,))
    way, model = DPMSolver(sde), MixtureOracle(sde, eight_gaussians())
    starts = torch.randn(2, 3, 2)
    runs = itertools.cycle(starts)
    sde.prior = lambda n: next(runs)
    alone = [list(sample(way, model, 3, 6)), list(sample(way, model, 3, 6))]
    together = list(zip(sample(way, model, 3, 6), sample(way, model, 3, 6), strict=True))
    for k, pair in enumerate(together):
        for run in (0, 1):
            same(pair[run][1], alone[run][k][1])
    assert way.past == ()
    inside = PredictorCorrector(way, 0.3, 2).fresh()
    assert inside.predictor is not way and (inside.ratio, inside.corrections) == (0.3, 2)


def test_dpm_solver_keeps_its_memory_under_a_clamp():
    sde = VP(S.linear(), (2,))
    model, start = MixtureOracle(sde, eight_gaussians()), torch.randn(3, 2)
    sde.prior = lambda n: start
    runs = [last(sample(DPMSolver(sde), model, 3, 8, clamp)) for clamp in (None, approximately(torch.clone))]
    same(*runs)


@pytest.mark.parametrize("way", WAYS[:-1])
def test_one_time_for_all_equals_a_time_for_each(way, make):
    """Plain floats and tensors of times give the same step, on two steps in a row and in both precisions."""
    sde = make(shape=(2,))
    x = torch.randn(4, 2, dtype=torch.float64)
    model = lambda x, u: 0.2 * x + u.to(x)[:, None]  # noqa: E731
    for hours in ((0.8, 0.6, 0.3), (0.8, 0.1, 0.0)):
        for dtype in (torch.float64, torch.float32):
            results = []
            for spread in (lambda t: t.expand(4), lambda t: t.repeat(4)):
                torch.manual_seed(0)
                p, y = way(sde).fresh(), x.to(dtype)
                for t, s in itertools.pairwise(hours):
                    y = p.step(model, y, *(spread(torch.tensor(v, dtype=dtype)) for v in (t, s)))
                results.append(y)
            same(*results)
            assert results[0].dtype == dtype
    torch.manual_seed(0)
    mixed = way(sde).fresh().step(model, x, one(0.5, 4) * 1, f64(0.0, 0.2, 0.4, 0.0))
    assert mixed.isfinite().all()
    if way is not PredictorCorrector:
        torch.manual_seed(0)
        end = way(sde).fresh().step(model, x, one(0.5, 4), one(0.0, 4))
        same(mixed[::3], end[::3])


@pytest.mark.parametrize("way", WAYS[:-1])
def test_one_start_for_all_and_an_end_for_each(way):
    """t held once and s not, and the other way round: the same as both written out."""
    sde, x = VP(S.linear(), (2,)), torch.randn(3, 2, dtype=torch.float64)
    model = lambda x, u: 0.2 * x + u.to(x)[:, None]  # noqa: E731
    for t, s in ((one(0.8, 3), f64(0.1, 0.4, 0.7)), (f64(0.9, 0.5, 0.3), one(0.2, 3))):
        results = []
        for copy in (lambda v: v, lambda v: torch.stack([*v])):
            torch.manual_seed(0)
            results.append(way(sde).fresh().step(model, x, copy(t), copy(s)))
        same(*results)


@pytest.mark.parametrize("way", [w for w in WAYS if w not in (PredictorCorrector, Renoise)])
def test_perfect_networks_give_the_data(way):
    """All ways back lead to the law of the data: two bumps, moments of each."""
    sde = VP(S.linear(), (1,))
    steps = 1 if way is ProbabilityFlow else 100
    _, x = last(sample(way(sde), MixtureOracle(sde, two_bumps()), 4000, steps))
    right = x[x > -0.3].double()
    assert abs(len(right) / 4000 - 0.7) < 0.03
    assert abs(right.mean() - 0.8) < 0.04 and abs(right.std() - 0.4) < 0.04


# The adaptive solver and its likelihood


def test_the_flow_of_gaussian_data_in_closed_form(make):
    sde, x = make(shape=(1,), t_min=1e-2), f64(-1.0, 0.3, 2.0)[:, None]
    ode, model = ProbabilityFlow(sde, 1e-7, 1e-7, "DOP853"), Gauss(sde, 0.6)
    low, high = (spread_at(sde, 0.6, t) for t in (sde.t_min, sde.t_max))
    same(ode.latent(model, x), x * high / low, rtol=1e-6, atol=1e-6)
    same(ode.data(model, x), x * low / high, rtol=1e-6, atol=1e-6)
    ratio = spread_at(sde, 0.6, 0.3) / spread_at(sde, 0.6, 0.8)
    same(ode.step(model, x, one(0.8, 3), one(0.3, 3)), x * ratio, rtol=1e-6, atol=1e-6)
    same(ode.step(model, x, one(1.0, 3), one(0.0, 3)), ode.data(model, x), rtol=1e-6, atol=1e-6)
    assert ode.calls > 10


def test_latent_and_data_are_inverse(make):
    sde, x = make(shape=(2,), t_min=1e-2), eight_gaussians().sample(20).double()
    ode, model = ProbabilityFlow(sde, 1e-7, 1e-7, "DOP853"), MixtureOracle(sde, eight_gaussians())
    z = ode.latent(model, x)
    same(ode.data(model, z), x, rtol=0, atol=1e-6)
    assert (z - x).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_ode_likelihood_is_the_exact_density(kind, make):
    """To 1e-6 of the mixture's own density at t_min, with the exact law at t_max in place of the prior."""
    sde, mixture = make(shape=(2,), predicts=kind), THREE
    ode, x = ProbabilityFlow(sde, 1e-8, 1e-8, "DOP853"), mixture.sample(6).double()
    end = marginal(sde, mixture, sde.t_max).log_prob
    got = ode.log_prob(MixtureOracle(sde, mixture), x, log_prior=end)
    assert got.dtype == torch.float64 and got.shape == (6,)
    same(got, marginal(sde, mixture, sde.t_min).log_prob(x), rtol=0, atol=1e-6)


def test_ode_likelihood_of_the_data_itself():
    """t_min small: 1e-6 of the data's density; with N(0, I) at t_max what is left is the mismatch of the prior."""
    sde, x = VP(S.linear(), (1,), t_min=1e-8), two_bumps().sample(6).double()
    ode, model = ProbabilityFlow(sde, 1e-9, 1e-9, "DOP853"), MixtureOracle(sde, two_bumps())
    exact_end = ode.log_prob(model, x, log_prior=marginal(sde, two_bumps(), 1.0).log_prob)
    same(exact_end, two_bumps().log_prob(x), rtol=0, atol=1e-6)
    usual = ode.log_prob(model, x)
    assert 1e-4 < (usual - exact_end).abs().max() < 2e-2


def test_standard_normal_data_needs_no_flow():
    sde, x = VP(S.linear(), (3,)), torch.randn(5, 3, dtype=torch.float64)
    got = ProbabilityFlow(sde).log_prob(Gauss(sde, 1.0), x)
    same(got, torch.distributions.Normal(f64(0.0), f64(1.0)).log_prob(x).sum(1), rtol=0, atol=1e-9)
    images = VP(S.linear(), (1, 2, 2))
    y = torch.randn(5, 1, 2, 2)
    want = torch.distributions.Normal(0.0, 1.0).log_prob(y).flatten(1).sum(1)
    same(ProbabilityFlow(images).log_prob(Gauss(images, 1.0), y), want.double(), rtol=0, atol=1e-4)


def test_a_schedule_that_ends_early_is_read_to_where_something_is_left():
    """alpha_bar = e^{-50 u} is 1e-5 at u = ln(1e5) / 50, long before the middle."""
    steep = VP(S.Schedule("steep", lambda u: -50 * u), (2,))
    assert steep.t_max == pytest.approx(math.log(1e5) / 50, abs=1e-9)
    assert VP(S.linear(), (2,)).t_max == 1.0


def test_divergence_comes_with_the_field_from_one_call():
    d, calls = 6, []
    W = torch.randn(d, d, dtype=torch.float64)
    field = lambda x: calls.append(1) or torch.tanh(x @ W.T)  # noqa: E731
    x = torch.randn(4, d, dtype=torch.float64)
    v, div = with_divergence(field, x)
    assert len(calls) == 1 and not v.requires_grad and not div.requires_grad
    same(v, torch.tanh(x @ W.T))
    want = ((1 - v.square()) * W.diagonal()).sum(1)  # diagonal of d tanh(W x) / dx
    same(div, want)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=d)), dtype=torch.float64)
    mean = torch.stack([with_divergence(field, x, e.expand(4, d))[1] for e in signs]).mean(0)
    same(mean, want)  # Hutchinson: unbiased, over all 2^d probes


@pytest.mark.parametrize("probed", [False, True])
def test_divergence_in_inference_mode(probed):
    """Tensors made there may be added; where they are multiplied no gradient can flow, and that is said."""
    net, t = MLP((2,), 8, 1), torch.full((3,), 0.5)
    sde, x = VP(S.linear(), (2,)), torch.randn(3, 2)
    probe = rademacher(x) if probed else None
    want = with_divergence(lambda z: sde.velocity(net, z, t), x, probe)
    with torch.inference_mode():
        made, t, y = MLP((2,), 8, 1), t + 0, x + 0
        got = with_divergence(lambda z: sde.velocity(net, z, t), y, None if probe is None else probe + 0)
        for field in (lambda z: z.square() * t[:, None], lambda z: sde.velocity(made, z, t)):
            with pytest.raises(
                RuntimeError, match="field must not use tensors made inside torch.inference_mode"
            ):
                with_divergence(field, y)
    for a, b in zip(got, want, strict=True):
        same(a, b, rtol=0, atol=1e-6)


def test_a_field_without_a_gradient_has_no_divergence():
    """The network was left out of it, without a word."""
    net, sde, x = MLP((2,), 8, 1), VP(S.linear(), (2,)), torch.randn(3, 2)
    net.leave.weight.data.normal_()  # which starts at 0, whatever x is
    with pytest.raises(RuntimeError, match="field must pass a gradient on to x"):
        with_divergence(lambda z: z.detach(), x)
    with pytest.raises(RuntimeError, match="model must pass a gradient on to x"):
        ProbabilityFlow(sde, 1e-2, 1e-2).log_prob(lambda x, u: net(x, u).detach(), x)
    constant = ProbabilityFlow(sde, 1e-2, 1e-2).log_prob(lambda x, u: torch.ones_like(x).detach(), x)
    assert constant.isfinite().all()


def test_hutchinson_along_the_curve():
    """Exact in one dimension; in two its mean over all sign vectors is, since the probe does not change the curve."""
    sde, x = VP(S.linear(), (1,), t_min=0.01), two_bumps().sample(5).double()
    ode, model = ProbabilityFlow(sde, 1e-7, 1e-7, "DOP853"), MixtureOracle(sde, two_bumps())
    same(ode.log_prob(model, x, rademacher(x)), ode.log_prob(model, x), rtol=0, atol=1e-6)
    sde = VP(S.linear(), (2,), t_min=0.03)
    ode, x = ProbabilityFlow(sde, 1e-6, 1e-6, "DOP853"), torch.randn(4, 2, dtype=torch.float64)
    model = MixtureOracle(sde, eight_gaussians(0.4))
    signs = [f64(*e).expand(4, 2) for e in itertools.product((-1.0, 1.0), repeat=2)]
    mean = torch.stack([ode.log_prob(model, x, e) for e in signs]).mean(0)
    same(mean, ode.log_prob(model, x), rtol=0, atol=1e-5)
    assert (ode.log_prob(model, x, signs[0]) - ode.log_prob(model, x)).abs().max() > 1e-3


def test_the_likelihood_calls_the_network_once_per_right_hand_side():
    sde, heard = VP(S.linear(), (2,)), []
    oracle = MixtureOracle(sde, eight_gaussians())
    ode, x = ProbabilityFlow(sde), torch.randn(3, 2)
    ode.log_prob(lambda x, u: heard.append(u) or oracle(x, u), x, rademacher(x))
    assert len(heard) == ode.calls > 10
    assert (ode.rtol, ode.atol, ode.method) == (1e-5, 1e-5, "RK45")
    assert all(u.dtype == torch.float32 and u.shape == (3,) for u in heard)
    ode.latent(lambda x, u: heard.append(u) or oracle(x, u), x)
    fine = ProbabilityFlow(sde, 1e-7, 1e-7, "DOP853")
    fine.latent(oracle, x.double())
    assert fine.calls > ode.calls


def test_rademacher_draws_signs():
    e = rademacher(torch.zeros(2000, 3))
    assert e.dtype == torch.float32 and (e.abs() == 1).all() and abs(e.mean()) < 0.05


def test_ode_works_where_gradients_are_off():
    sde, x = VP(S.linear(), (2,)), torch.randn(3, 2)
    with torch.no_grad():
        assert ProbabilityFlow(sde).log_prob(Gauss(sde, 0.5), x).isfinite().all()


# Loss and bound


@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_the_error_of_the_noise(kind, make):
    sde, x0, seen = make(shape=(3,), predicts=kind), torch.randn(5, 3, dtype=torch.float64), {}
    t = f64(0.02, 0.1, 0.4, 0.7, 0.9)

    def model(x, u):
        seen.update(x=x, u=u)
        return torch.full_like(x, 0.7)

    loss = sde.loss(model, x0, t)
    mean, std = (v[:, None] for v in sde.marginal(t))
    eps = (seen["x"] - mean * x0) / std
    x = seen["x"]
    x0_hat = {
        "x0": 0.7 + 0 * x0,
        "eps": (x - std * 0.7) / mean,
        "score": (x + std**2 * 0.7) / mean,
        "v": (mean * x - std * 0.7) / (mean**2 + std**2),
    }[kind]
    said = (seen["x"] - mean * x0_hat) / std
    same(loss.double(), (eps - said).square().mean(1), rtol=1e-4, atol=1e-4)
    assert torch.equal(seen["u"], t) and loss.dtype == torch.float32


def test_likelihood_weighting_is_simple_at_other_times(make):
    """loss = scale |error|^2 at importance_times(t), and scale is the integral of g^2 / std^2."""
    plain, sde = make(shape=(2,), t_min=1e-3), make(shape=(2,), weighting="likelihood", t_min=1e-3)
    x0, t = torch.randn(4, 2, dtype=torch.float64), f64(0.1, 0.4, 0.6, 1.0)
    model = lambda x, u: 0.3 * x  # noqa: E731
    torch.manual_seed(0)
    got = sde.loss(model, x0, t)
    torch.manual_seed(0)
    same(got, sde.scale * plain.loss(model, x0, sde.importance_times(t)))
    u = torch.linspace(math.log(sde.t_min), math.log(sde.t_max), 40001, dtype=torch.float64).exp()
    rate = 2 * sde.weight(u)
    assert sde.scale == pytest.approx(torch.trapezoid(rate, u).item(), rel=1e-4)


def test_importance_times_are_even_in_log_sigma(make):
    sde = make(shape=(1,), t_min=1e-4)
    t = f64(1e-12, 0.25, 0.5, 1.0)
    hours = sde.importance_times(t)
    assert hours[0].item() == pytest.approx(1e-4, rel=1e-6) and hours[-1].item() == pytest.approx(sde.t_max)
    mean, std = sde.marginal(hours)
    lam = (std / mean).log()
    same((lam - lam[0]) / (lam[-1] - lam[0]), t, rtol=1e-6, atol=1e-6)
    same(sde.time_at(lam), hours, rtol=1e-9, atol=1e-12)


def test_weight_is_the_rate_of_log_sigma(make):
    """g^2 / (2 std^2) = d log sigma / dt = -SNR' sigma^2 / 2."""
    sde, t = make(shape=(1,)), f64(0.03, 0.2, 0.5, 0.9).requires_grad_()
    (rate,) = torch.autograd.grad((sde.log_std(t) - sde.log_mean(t)).sum(), t)
    same(sde.weight(t.detach()), rate, rtol=1e-7, atol=1e-9)


def test_bound_is_the_sum_of_its_three_parts(make):
    sde, x0, t = make(shape=(2,), t_min=1e-3), torch.randn(5, 2, dtype=torch.float64), torch.rand(5).double()
    model = lambda x, u: 0.4 * x  # noqa: E731
    torch.manual_seed(2)
    got = sde.bound(model, x0, t)
    torch.manual_seed(2)
    hours, eps = sde.importance_times(t), torch.randn_like(x0)
    mean, std = (v[:, None] for v in sde.marginal(hours))
    error = (eps - 0.4 * (mean * x0 + std * eps)).square().sum(1)
    first = sde.reconstruction(model, x0)
    same(got, sde.prior_term(x0) + sde.scale / 2 * error + first, rtol=1e-5, atol=1e-5)
    assert got.dtype == torch.float64


def test_reconstruction(make):
    sde, x0 = make(shape=(2,), t_min=0.01), torch.randn(5, 2, dtype=torch.float64)
    mean, std = (v.item() for v in sde.marginal(f64(0.01)))
    assert sde.decoder_var == pytest.approx(std**2 / mean**2)
    assert make(shape=(1,)).t_min == 1e-5
    model = lambda x, u: 0.4 * x + 0 * u[:, None]  # noqa: E731
    torch.manual_seed(2)
    got = sde.reconstruction(model, x0)
    torch.manual_seed(2)
    x = mean * x0 + std * torch.randn_like(x0)
    said = (x - std * 0.4 * x) / mean
    same(got, -torch.distributions.Normal(said, math.sqrt(sde.decoder_var)).log_prob(x0).sum(1))
    grey = make(shape=(2,), t_min=0.01, levels=5, decoder_var=0.3)
    x0 = torch.tensor([[-1.0, 0.5], [1.0, 0.0]], dtype=torch.float64)
    torch.manual_seed(2)
    got = grey.reconstruction(model, x0)
    torch.manual_seed(2)
    x = mean * x0 + std * torch.randn_like(x0)
    same(got, -log_prob_of_level(x0, (x - std * 0.4 * x) / mean, math.sqrt(0.3), 5).sum(1))


def test_prior_term_is_a_kl(make):
    sde, x0 = make(shape=(3,)), torch.randn(4, 3, dtype=torch.float64)
    mean, std = sde.marginal(f64(sde.t_max))
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(mean * x0, std), normal(0 * x0, sde.prior_std)).sum(1)
    same(sde.prior_term(x0), kl, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("s", [0.5, 2.0])
def test_the_bound_of_gaussian_data_in_closed_form(s, make):
    """Its three parts by exact means: they add up to the entropy, and no more than the prior's and decoder's shares."""
    sde = make(shape=(1,), t_min=0.02)
    first, last = sde.ends
    lam = torch.linspace(first.log_sigma.item(), last.log_sigma.item(), 20001, dtype=torch.float64)
    error = s**2 / (s**2 + torch.exp(2 * lam))  # E Var(eps | x_t)
    integral = torch.trapezoid(error, lam).item()  # weight dt = d log sigma
    mean, std = (v.item() / sde.prior_std for v in (last.mean, last.std))
    sigma2 = sde.decoder_var
    prior = 0.5 * (mean**2 * s**2 + std**2 - 1 - math.log(std**2))
    left = s**2 * sigma2 / (s**2 + sigma2)  # Var(x_0 | x_{t_min})
    decoder = 0.5 * math.log(2 * math.pi * sigma2) + left / (2 * sigma2)
    entropy = 0.5 * math.log(2 * math.pi * math.e * s**2)
    exact = prior + integral + decoder
    assert 0 <= exact - entropy < 5e-3
    x0 = s * torch.randn(4000, 1)
    drawn = bound(sde, Gauss(sde, s), x0, batch=4000)
    assert abs(drawn.mean - exact) < 4 * drawn.se and drawn.se < 0.2


def test_the_bound_meets_the_entropy_and_a_wrong_network_pays():
    sde = VP(S.cosine(), (1,))
    oracle, x0 = MixtureOracle(sde, two_bumps()), two_bumps().sample(5000)
    best = bound(sde, oracle, x0, repeats=4, batch=5000)
    assert abs(best.mean - two_bumps().entropy()) < 4 * best.se and best.se < 0.12
    worse = bound(sde, lambda x, u: oracle(x, u) + 0.3, x0, repeats=4, batch=5000)
    assert worse.mean > best.mean + 0.3


# Grey levels


def test_dequantised_data_fills_its_cell():
    x = torch.randint(0, 17, (4000, 2)) / 8 - 1
    y = dequantise(x, 17)
    assert ((y - x).abs() <= 1 / 16).all() and abs((y - x).std() - 1 / 8 / math.sqrt(12)) < 1e-3
    assert abs((y - x).mean()) < 2e-3 and y.dtype == x.dtype


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_only_grey_levels_are_dequantised(levels, dtype, unchecked):
    grid = (torch.arange(levels).double() * 2 / (levels - 1) - 1).to(dtype)
    dequantise(grid, levels)
    if dtype is torch.bfloat16 and levels > 100:
        return  # its numbers are further apart than these levels
    for off in (1.0 / levels, -0.4 / levels):
        with pytest.raises(
            ValueError, match=f"x must lie on the even grid of {levels} levels over .-1, 1., but holds"
        ):
            dequantise(grid[1:2] + off, levels)
    with pytest.raises(ValueError, match="but holds 3"):
        dequantise(grid[:1] + 4, levels)
    with pytest.raises(TypeError, match="x must be a float tensor, not "):
        dequantise(grid.long(), levels)


def test_bits_per_dim_of_known_densities():
    """Uniform over all cells costs log2 K bits; the mass of one cell costs none."""
    K, d = 17, 3
    everywhere = f64(-d * math.log(2 + 2 / (K - 1)))
    same(bits_per_dim(everywhere, d, K), f64(math.log2(K)))
    same(bits_per_dim(f64(-d * math.log(2 / (K - 1))), d, K), f64(0.0), rtol=0, atol=1e-12)


# Types, devices, bad input


def test_float32_in_float32_out_on_every_device(device):
    sde = VP(S.cosine(), (2,)).to(device)
    assert sde.span.dtype == (torch.float32 if device == "mps" else torch.float64)
    x, model = torch.randn(4, 2, device=device), lambda x, u: 0.1 * x
    for way in WAYS:
        p = way(sde).to(device)
        assert p.device.type == device
        for t, out in sample(p, model, 4, 4):
            assert out.dtype == torch.float32 and out.device.type == device and out.isfinite().all(), t
        t = p.sample_t(4)
        assert t.device.type == device and p.loss(model, x, t).dtype == torch.float32
        assert p.bound(model, x, t).isfinite().all() and p.corrupt(x, t).dtype == torch.float32
        assert p.prior(3).shape == (3, 2)


def test_moving_keeps_the_digits():
    sampler = DPMSolver(VP(S.linear(), (2,)))
    assert sampler.half() is sampler and sampler.sde.span.dtype == torch.float64
    assert sampler.sde.span.tolist() == [1e-5, 1.0]
    assert Ancestral(sampler.sde).T == 1.0 and (sampler.shape, sampler.dims) == ((2,), 2)


X = torch.zeros(2, 2)


@pytest.mark.parametrize("call, error, words", [
    (lambda: VP(S.linear(), (2,), predicts="mu"), ValueError, "predicts must be one of x0, eps, v, score"),
    (lambda: VP(S.linear(), (2,), weighting="g2"), ValueError, "weighting must be one of simple, likelihood"),
    (lambda: VP(S.linear(), (2,), levels=1), ValueError, "levels must be at least 2, not 1"),
    (lambda: VP(S.linear(), (2,), clip=0.0), ValueError, "clip must be > 0, not 0.0"),
    (lambda: VP(S.linear(), (2,), decoder_var=-1.0), ValueError, "decoder_var must be > 0, not -1.0"),
    (lambda: VP(S.linear(), (2,), t_min=0.0), ValueError, "0 < t_min < t_max <= 1 must hold, not t_min = 0.0"),
    (lambda: VP(S.linear(), (2,), t_min=0.5, t_max=0.5), ValueError, "0 < t_min < t_max"),
    (lambda: VP(S.linear(), (2,), t_max=1.1), ValueError, "t_max = 1.1"),
    (lambda: VP(S.geometric(), (2,)), ValueError, r"must start at alpha_bar\(0\) = 1, but geometric.* starts at"),
    (lambda: VE((2,), 1.0, 1.0), ValueError, "sigma_max must be > 1, not 1.0"),
    (lambda: VE((2,), 0.0, 1.0), ValueError, "sigma_min must be > 0, not 0.0"),
    (lambda: Heun(DDPM(S.ddpm_table(50), (2,))), TypeError, "sde must be an SDE, .*, not DDPM"),
    (lambda: PredictorCorrector(VE((2,)), corrections=0), ValueError, "corrections must be at least 1"),
    (lambda: PredictorCorrector(VE((2,)), ratio=0.0), ValueError, "ratio must be > 0, not 0.0"),
    (lambda: Renoise(VE((2,)), 1.1), ValueError, r"share must lie in \[0, 1\], not 1.1"),
    (lambda: Renoise(VE((2,)), -0.1), ValueError, r"share must lie in \[0, 1\], not -0.1"),
    (lambda: Renoise(VE((2,))).lost(torch.tensor([0.1]), torch.tensor([0.2])), ValueError, "s must be before t"),
    (lambda: ProbabilityFlow(VE((2,)), rtol=0.0), ValueError, "rtol must be > 0, not 0.0"),
    (lambda: ProbabilityFlow(VE((2,)), atol=-1.0), ValueError, "atol must be > 0, not -1.0"),
    (lambda: ProbabilityFlow(VE((2,)), method="euler"), ValueError, "method must be one of RK45, RK23"),
    (lambda: dequantise(X, 1), ValueError, "levels must be at least 2"),
    (lambda: bits_per_dim(torch.zeros(2), 0, 2), ValueError, "dims must be at least 1"),
    (lambda: bits_per_dim(torch.zeros(2), 1, 1), ValueError, "levels must be at least 2"),
    (lambda: VE((2,)).corrupt(X, torch.tensor([1, 0])), TypeError, "t must hold floats, not torch.int64"),
    (lambda: VE((2,)).corrupt(X, torch.tensor([1.5, 0.0])), ValueError, r"t must lie in \[0, 1.0\]"),
    (lambda: VE((3,)).corrupt(X, torch.tensor([0.5, 0.5])), ValueError, r"x0 must have shape \(B >= 1, 3\)"),
    (lambda: VE((2,)).corrupt(X.long(), torch.tensor([0.5, 0.5])), TypeError, "x0 must be a float tensor"),
    (lambda: VE((2,)).weight(torch.tensor([0.0, 0.5])), ValueError, "t = 0 in example 0"),
    (lambda: VE((3,)).prior_term(X), ValueError, "x0 must have shape"),
    (lambda: VE((3,)).reconstruction(None, X), ValueError, "x0 must have shape"),
    (lambda: ProbabilityFlow(VE((3,))).latent(None, X), ValueError, "x must have shape"),
    (lambda: ProbabilityFlow(VE((3,))).data(None, X), ValueError, "z must have shape"),
    (lambda: ProbabilityFlow(VE((3,))).log_prob(None, X), ValueError, "x must have shape"),
])  # fmt: skip
def test_bad_input_is_named(call, error, words, unchecked):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("way", WAYS)
def test_bad_steps_are_named(way, unchecked):
    p, half = way(VP(S.linear(), (2,))), torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="s must be before t, but s = 0.5 and t = 0.5 in example 0"):
        p.step(None, X, half, half)
    with pytest.raises(ValueError, match=r"x must have shape \(B >= 1, 2\)"):
        p.step(None, torch.zeros(2, 3), half, 0 * half)
    with pytest.raises(TypeError, match="t must hold floats"):
        p.step(None, X, torch.tensor([1, 1]), torch.tensor([0, 0]))
    for call in (p.loss, p.bound):
        with pytest.raises(ValueError, match="t = 0 in example 0: there is no noise there"):
            call(None, X, 0 * half)
        with pytest.raises(ValueError, match="x0 must have shape"):
            call(None, torch.zeros(2, 3), half)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_drift_that_is_not_finite_names_its_time(way, value):
    p = way(VP(S.linear(), (2,)))
    bad = lambda x, u: torch.where(u[:, None] < 0.45, value, 0 * x)  # noqa: E731
    t = "0.4" if way in (WAYS[0], Ancestral, Renoise, DPMSolver) else r"0\.\d+"
    with pytest.raises(
        FloatingPointError, match=rf"must be finite, but at t = {t} it is not in 2 of 2 examples"
    ):
        x = p.step(bad, X + 0.1, torch.tensor(0.8).expand(2), torch.tensor(0.4).expand(2))
        p.step(bad, x, torch.tensor(0.4).expand(2), torch.tensor(0.2).expand(2))


def test_a_large_but_finite_state_is_no_error():
    x = torch.full((2, 2), 2e38)
    still = Renoise(VP(S.linear(), (2,), predicts="x0"))
    assert still.step(lambda x, u: x, x, torch.tensor([0.5, 0.5]), torch.tensor([0.0, 0.0])).equal(x)


def test_only_bad_examples_are_counted():
    p = VP(S.linear(), (2,))
    with pytest.raises(FloatingPointError, match=r"at t = 0.3 it is not in 1 of 2 examples"):
        said = torch.tensor([[0.0, 0.0], [math.nan, 0.0]])
        p.step(lambda x, u: said, X, torch.tensor([0.5, 0.3]), torch.tensor([0.1, 0.1]))


def test_flow_needs_one_time_for_all():
    p = ProbabilityFlow(VP(S.linear(), (2,)))
    for t, s in (([0.5, 0.6], [0.1, 0.1]), ([0.5, 0.5], [0.1, 0.2])):
        with pytest.raises(ValueError, match="t and s must each hold one value for all examples"):
            p.step(lambda x, u: x, X, torch.tensor(t), torch.tensor(s))


def test_a_solver_that_gives_up_says_where(monkeypatch):
    sde = VP(S.linear(), (1,))
    rough = lambda x, u: torch.sign(torch.sin(1e9 * x.double())) * 1e12  # noqa: E731
    with pytest.raises(FloatingPointError, match="t = "):
        ProbabilityFlow(sde, 1e-13, 1e-13).latent(rough, torch.ones(1, 1, dtype=torch.float64))


def test_an_sde_must_say_what_it_is(unchecked):
    for name in ("log_mean", "log_std", "drift", "diffusion2"):
        with pytest.raises(NotImplementedError):
            getattr(SDE, name)(None, None)
    with pytest.raises(NotImplementedError):
        Solver(VE((2,))).step(None, X, torch.tensor([0.5, 0.5]), torch.tensor([0.1, 0.1]))
    assert isinstance(VE((2,)).fresh(), Process)
