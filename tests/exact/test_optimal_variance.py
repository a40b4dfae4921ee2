"""DDIM, learned, analytic and predicted variances against Bayes, quadrature, enumeration and closed forms."""

import functools
import itertools
import math

import pytest
import torch

from course_lib import schedules as S
from course_lib.data import GaussianMixture, two_bumps
from course_lib.ddim import DDIM, Renoise
from course_lib.ddpm import DDPM
from course_lib.diagonal_variance import DiagonalVariance, halves
from course_lib.distances import wasserstein
from course_lib.learned_variance import Learned, LossAware
from course_lib.nets import MLP, TwoHeads, UNet
from course_lib.optimal_variance import Analytic, costs, optimal_times
from course_lib.optimal_variance import estimate_conditional_variance as estimate_variance
from course_lib.oracle import MixtureOracle, PosteriorDraw, VarianceOracle
from course_lib.process import last, sample
from course_lib.sn_npr import NPR, SN
from course_lib.train import train
from tests.helpers import I, close, pairs, randn64

TABLES = {
    "linear": S.ddpm_table(60),
    "cosine": S.table(S.cosine(), 50),
    "sqrt": S.table(S.sqrt(), 40),
}
KINDS = ["eps", "x0", "v", "score"]
LINEAR = S.ddpm_table(1000)


@pytest.fixture(params=TABLES)
def table(request):
    return TABLES[request.param]


def numbers(process, t, s):
    """The step's four numbers, as floats."""
    return tuple(v.item() for v in process.transition(I([t]), I([s])))


class NoisyEnd(DDPM):
    """DDPM with the large variance at s = 0, too."""

    def transition(self, t, s):
        return super().transition(t, s)._replace(p_var=1 - self.alpha_bar[t] / self.alpha_bar[s])


def beta_tilde(a, t, s):
    return (1 - a[s]) / (1 - a[t]) * (1 - a[t] / a[s])


def all_times(process):
    return torch.arange(1, process.T + 1)


# DDIM


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_step_is_the_paper_s_formula(eta, table):
    """sqrt(abar_s) x0_hat + sqrt(1 - abar_s - lambda^2) eps_hat + lambda z, for any s < t."""
    process, (t, s) = DDIM(table, (2,), eta=eta), pairs(len(table) - 1)
    x, model = randn64(len(t), 2), lambda x, u: 0.3 * x + 0.2
    torch.manual_seed(0)
    got = process.step(model, x, t, s)
    torch.manual_seed(0)
    z, a_t, a_s = torch.randn_like(x), table[t][:, None], table[s][:, None]
    eps, lambda2 = 0.3 * x + 0.2, (eta**2 * beta_tilde(table, t, s))[:, None]
    x0 = (x - (1 - a_t).sqrt() * eps) / a_t.sqrt()
    want = a_s.sqrt() * x0 + (1 - a_s - lambda2).clamp(min=0).sqrt() * eps + lambda2.sqrt() * z
    close(got, want, rtol=1e-6, atol=1e-6)


def test_ddim_with_eta_1_is_ddpm(table):
    """Draw by draw, weight by weight, term by term; eta = 0 is the default."""
    t, s = pairs(len(table) - 1)
    ddim, ddpm = DDIM(table, (1,), eta=1.0), DDPM(table, (1,))
    for mine, theirs in zip(ddim.transition(t, s), ddpm.transition(t, s), strict=True):
        close(mine, theirs, rtol=1e-11, atol=1e-15)
    x0, t, values = randn64(len(table) - 1, 1), all_times(ddpm), []
    for process in (ddim, ddpm):
        torch.manual_seed(0)
        values.append(process.bound(lambda x, u: 0.3 * x, x0, t))
    close(*values)
    assert DDIM(table, (1,)).eta == 0


def test_ddim_kernel_keeps_its_digits():
    """Neighbouring times, 4000 steps: the weight of x_0 against 50-digit arithmetic."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 50
    a = S.table(S.cosine(), 4000)
    for eta in (0.0, 0.5):
        process = DDIM(a, (1,), eta=eta)
        for t, s in [(2, 1), (3, 2), (700, 699), (3999, 3998), (4000, 3999), (5, 0)]:
            A, B = (mpmath.exp(mpmath.mpf(process.log_alpha_bar[k].item())) for k in (t, s))
            lambda2 = mpmath.mpf(eta) ** 2 * (1 - B) / (1 - A) * (1 - A / B)
            k = mpmath.sqrt((1 - B - lambda2) / (1 - A))
            want = [float(mpmath.sqrt(B) - k * mpmath.sqrt(A)), float(k), float(lambda2)]
            assert numbers(process, t, s)[:3] == pytest.approx(want, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_parity_with_diffusers_on_an_aligned_grid(eta):
    """Its "leading" times of 10 steps are t = 901, 801, ..., 1 in our count, each going to the next; float32 tables."""
    import diffusers

    theirs = diffusers.DDIMScheduler(1000, trained_betas=None, beta_schedule="linear", clip_sample=False)
    theirs.set_timesteps(10)
    ours = DDIM(LINEAR, (3,), eta=eta)
    visited = theirs.timesteps.tolist()
    for t, s in itertools.pairwise([*visited, -1]):
        x, out = torch.randn(2, 5, 3)
        got = ours.step(lambda x, u, out=out: out, x, I(t + 1).expand(5), I(s + 1).expand(5))
        if eta == 0:
            close(got, theirs.step(out, t, x).prev_sample, rtol=1e-4, atol=1e-4)
            continue
        z = torch.randn(5, 3)
        want = theirs.step(out, t, x, eta=eta, variance_noise=z).prev_sample
        mean, lambda2 = ours.posterior(ours.convert(out, x, I(t + 1).expand(5), "x0"), x,
                                       I(t + 1).expand(5), I(s + 1).expand(5))  # fmt: skip
        close(mean + lambda2[:, None].sqrt().float() * z, want, rtol=1e-4, atol=1e-4)


def test_where_diffusers_grid_is_misaligned():
    """The chapter's counts: steps of its DDIM that do not arrive where the next one starts. Ours always do."""
    import diffusers

    counts = {}
    for spacing in ("leading", "linspace", "trailing"):
        for n in (10, 30):
            theirs = diffusers.DDIMScheduler(1000, beta_schedule="linear", timestep_spacing=spacing)
            theirs.set_timesteps(n)
            t = theirs.timesteps.tolist()
            arrives = [max(v - 1000 // n, -1) for v in t]  # -1 is the data
            counts[spacing, n] = sum(a != b for a, b in zip(arrives, [*t[1:], -1], strict=True))
            ours = [(t, s) for t, s in itertools.pairwise(DDIM(LINEAR, (1,)).times(n).tolist())]
            assert all(a[1] == b[0] for a, b in itertools.pairwise(ours)) and ours[-1][1] == 0
    assert counts == {
        ("leading", 10): 0, ("leading", 30): 0, ("linspace", 10): 9, ("linspace", 30): 29,
        ("trailing", 10): 0, ("trailing", 30): 10,
    }  # fmt: skip


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_every_member_keeps_the_marginals(eta, table):
    """Push q(x_t | x_0) through the step with the true x_0: mean sqrt(abar_s) x_0, variance 1 - abar_s."""
    t, s = pairs(len(table) - 1)
    one = torch.ones(len(t), 1, dtype=torch.float64)
    for process in (DDIM(table, (1,), eta=eta), Renoise(table, (1,))):
        from_x0, var = process.posterior(one, 0 * one, t, s)
        from_xt, _ = process.posterior(0 * one, one, t, s)
        close(from_x0[:, 0] + from_xt[:, 0] * table[t].sqrt(), table[s].sqrt())
        close(from_xt[:, 0].square() * (1 - table[t]) + var, 1 - table[s])


def test_deterministic_ddim_is_euler_in_ve_coordinates(table):
    """With xbar = x / sqrt(abar), sigma = sqrt((1 - abar) / abar): xbar_s = xbar_t + (sigma_s - sigma_t) eps_hat."""
    process, (t, s) = DDIM(table, (1,)), pairs(len(table) - 1)
    x, sigma = randn64(len(t), 1), ((1 - table) / table).sqrt()[:, None]
    root = table.sqrt()[:, None]
    got = process.step(lambda x, u: x.tanh(), x, t, s)
    close(got / root[s], x / root[t] + (sigma[s] - sigma[t]) * x.tanh(), rtol=1e-8, atol=1e-7)
    torch.manual_seed(1)
    assert torch.equal(got, process.step(lambda x, u: x.tanh(), x, t, s))  # no noise whatever the seed


def test_ancestral_step_of_k_diffusion_is_eta_1(table):
    """sigma_up^2 = sigma_s^2 (sigma_t^2 - sigma_s^2) / sigma_t^2, sigma_down = sigma_s^2 / sigma_t."""
    process, (t, s) = DDIM(table, (1,), eta=1.0), pairs(len(table) - 1)
    x, sigma, root = randn64(len(t), 1), ((1 - table) / table).sqrt()[:, None], table.sqrt()[:, None]
    torch.manual_seed(0)
    got = process.step(lambda x, u: x.tanh(), x, t, s)
    torch.manual_seed(0)
    up = sigma[s] * (sigma[t] ** 2 - sigma[s] ** 2).sqrt() / sigma[t]
    down = sigma[s] ** 2 / sigma[t]
    want = x / root[t] + (down - sigma[t]) * x.tanh() + up * torch.randn_like(x)
    close(got / root[s], want, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("make", [
    lambda a, **k: DDIM(a, (1,), eta=0.4, **k),
    lambda a, **k: Analytic(a, (1,), eta=0.4, conditional_variance=torch.linspace(0, 1, len(a)), **k),
    lambda a, **k: Renoise(a, (1,), **k),
])  # fmt: skip
@pytest.mark.parametrize("clip", [None, 0.5])
def test_clip_derives_eps_anew_and_shared_times_change_nothing(make, clip, table):
    """The step is mean(clipped x0, x) + sd z with the weights of q(x_s | x_t, x_0): x0 and eps agree with x_t."""
    process = make(table, clip=clip)
    x, model = 3 * randn64(50, 1), lambda x, u: 0.3 * x - 0.5
    for t, s in [(process.T, 9), (20, 19), (20, 5), (7, 0)]:
        t_, s_ = torch.full((50,), t), torch.full((50,), s)
        values = []
        for times in ((t_, s_), (I(t).expand(50), I(s).expand(50))):
            torch.manual_seed(0)
            values.append(process.step(model, x, *times))
        close(*values, rtol=1e-12, atol=1e-12)
        torch.manual_seed(0)
        x0 = process.predict_x0(model, x, t_)
        assert clip is None or x0.abs().max() <= clip
        mean, lambda2 = process.posterior(x0, x, t_, s_)
        eps = (x - table[t].sqrt() * x0) / (1 - table[t]).sqrt()  # from the x0 in use
        a_s = table[s]
        close(mean, a_s.sqrt() * x0 + (1 - a_s - lambda2[:1]).clamp(min=0).sqrt() * eps, rtol=1e-7, atol=1e-7)
        sd = numbers(process, t, s)[3] ** 0.5
        close(values[0], mean + sd * torch.randn_like(x), rtol=1e-7, atol=1e-7)


# Grids


def test_times_given_to_sample_are_those_it_visits():
    """For every system of the family; the network is asked at each but the last."""
    a, times, seen = TABLES["linear"], I([60, 31, 7, 0], dtype=torch.int32), []

    def one(x, u):
        seen.append(round(u[0].item() * 60))
        return 0 * x

    def two(x, u):
        return one(torch.cat([x, x], 1), u)

    known = torch.ones(61, dtype=torch.float64)
    for process, model in [
        *((S_(a, (1,)), one) for S_ in (DDPM, DDIM, Renoise)),
        *((S_(a, (1,)), two) for S_ in (NPR, SN, Learned)),
        (Analytic(a, (1,), conditional_variance=known), one),
    ]:
        assert [t for t, _ in sample(process, model, 1, times)] == [60, 31, 7, 0]
        assert seen == [60, 31, 7]
        seen.clear()
    assert DDIM(a, (1,)).times(2).tolist() == [60, 30, 0]


def test_small_optimal_grids_against_all_grids():
    """Every grid of every length on 9 times, random costs: the least, and a grid that has it."""
    T = 8
    for seed in range(5):
        torch.manual_seed(seed)
        cost = torch.rand(T + 1, T + 1, dtype=torch.float64)
        cost[torch.triu_indices(T + 1, T + 1).unbind()] = math.inf
        for steps in range(1, T + 1):
            grid = optimal_times(cost, steps)
            ways = [(T, *reversed(w), 0) for w in itertools.combinations(range(1, T), steps - 1)]
            totals = [sum(cost[t, s].item() for t, s in itertools.pairwise(g)) for g in ways]
            assert tuple(grid.tolist()) == ways[totals.index(min(totals))] and grid.dtype == torch.int64
            DDIM(S.ddpm_table(100)[: T + 1], (1,)).check_times(grid)


@pytest.mark.parametrize("levels", [None, 17])
def test_optimal_grid_of_the_mixture_beats_even_steps(levels):
    c = bumps_spread()
    process = Analytic(LINEAR, (1,), conditional_variance=c, levels=levels)
    J = costs(process, c)
    total = lambda g: J[g[:-1], g[1:]].sum().item()  # noqa: E731
    for steps in (4, 10, 50):
        grid = optimal_times(J, steps)
        even = process.times(steps)
        if levels:
            even[-2] = 1  # grey levels: the last step goes from t = 1
            assert grid[-2] == 1
        assert total(grid) < total(even)
        moved = grid.clone()
        moved[1] += 1
        assert total(moved) >= total(grid)


# The variance that is best


def grid_of(mixture, n=8001, reach=9.0):
    x = torch.linspace(-reach, reach, n, dtype=torch.float64)[:, None]
    return x, (x[1] - x[0]).item()


def exact_spread(a, mixture, times=None):
    """E Var(x_0 | x_t) by quadrature over x_t, at each t (or some); NaN elsewhere."""
    oracle, out = MixtureOracle(DDPM(a, (1,)), mixture), torch.full_like(a, math.nan)
    x, h = grid_of(mixture, 2001)
    out[0] = 0
    for t in range(1, len(a)) if times is None else times:
        p = mixture.noised(a[t]).log_prob(x).exp()
        out[t] = (p * oracle.variance(x, a[t].expand(len(x)))[:, 0]).sum() * h
    return out


@functools.cache
def bumps_spread():
    """Of the two bumps under LINEAR, at all times."""
    return exact_spread(LINEAR, two_bumps())


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_optimal_variance_in_its_several_forms(eta, table):
    """The code's form; the theorem's with the score norm; DDPM's short one; and its bounds."""
    mixture, (t, s) = two_bumps(), pairs(len(table) - 1)
    t, s = t[s > 0], s[s > 0]
    c = exact_spread(table, mixture)
    got = Analytic(table, (1,), eta=eta, conditional_variance=c).transition(t, s)[3]
    a_t, a_s, ts = table[t], table[s], table[t] / table[s]
    l2 = eta**2 * beta_tilde(table, t, s)
    root = (a_s.sqrt() - ((1 - a_s - l2) * a_t / (1 - a_t)).sqrt()).square()
    close(got, l2 + root * c[t], rtol=1e-7, atol=0)
    score2 = (1 - c * table / (1 - table)) / (1 - table)  # E score^2, from second-order Tweedie
    factor = ((1 - a_t) / ts).sqrt() - (1 - a_s - l2).sqrt()
    close(got, l2 + factor.square() * (1 - (1 - a_t) * score2[t]), rtol=1e-5, atol=1e-12)
    assert (got >= l2).all() and (got <= (l2 + factor.square()) * (1 + 1e-9)).all()
    if eta == 1:
        beta = 1 - ts
        close(got, beta / ts * (1 - beta * score2[t]), rtol=1e-6, atol=1e-12)
        assert (got >= beta_tilde(table, t, s)).all() and (got <= beta / ts * (1 + 1e-9)).all()
        close(got, l2 + a_s * beta**2 / (1 - a_t) ** 2 * c[t], rtol=1e-7, atol=0)


def test_score_norm_identity_and_second_order_tweedie():
    """E Var(x_0 | x_t) = (1 - abar)/abar (1 - (1 - abar) E score^2); Var(x_0|x) = (1-a)/a (1 + (1-a) score')."""
    mixture, a = two_bumps(), LINEAR
    oracle = MixtureOracle(DDPM(a, (1,), predicts="score"), mixture)
    x, h = grid_of(mixture)
    for t in (5, 100, 500, 900):
        z = x.clone().requires_grad_()
        score = oracle(z, torch.full((len(x),), t / 1000))
        slope = torch.autograd.grad(score.sum(), z)[0]
        score, A = score.detach(), a[t]
        var = oracle.variance(x, A.expand(len(x)))
        close(var, (1 - A) / A * (1 + (1 - A) * slope), rtol=1e-6, atol=1e-7)
        p = mixture.noised(A).log_prob(x).exp()[:, None]
        e_score2 = (p * score.square()).sum() * h
        close((1 - A) / A * (1 - (1 - A) * e_score2), (p * var).sum() * h, rtol=1e-6, atol=1e-9)


def test_optimal_variance_is_the_variance_of_the_reverse_law():
    """E Var(x_s | x_t), with x_s itself taken as the mixture's data: no formula of this file in it."""
    mixture, a = two_bumps(), LINEAR
    for t, s in [(1000, 900), (700, 300), (300, 299), (50, 1)]:
        c = exact_spread(a, mixture, [t])
        got = numbers(Analytic(a, (1,), conditional_variance=c), t, s)[3]
        at_s = mixture.noised(a[s])
        two = DDPM(torch.stack([torch.ones_like(a[0]), a[t] / a[s]]), (1,))
        x, h = grid_of(mixture)
        var = MixtureOracle(two, at_s).variance(x, two.alpha_bar[1].expand(len(x)))[:, 0]
        want = (at_s.noised(a[t] / a[s]).log_prob(x).exp() * var).sum() * h
        assert got == pytest.approx(want.item(), rel=1e-8)


def gaussian_recursion(process, s2, steps):
    """Variance of the samples of N(0, s^2) data with the perfect network, from the exact q_T: linear, so exact."""
    a, times = process.alpha_bar, process.times(steps)
    var = a[-1] * s2 + 1 - a[-1]
    for t, s in itertools.pairwise(times.tolist()):
        from_x0, from_xt, _, noise = numbers(process, t, s)
        gain = a[t].sqrt() * s2 / (a[t] * s2 + 1 - a[t])
        var = (from_x0 * gain + from_xt) ** 2 * var + noise
    return float(var)


@pytest.mark.parametrize("s2", [0.0, 0.25, 1.0, 4.0])
def test_gaussian_data_is_sampled_exactly_in_any_number_of_steps(s2):
    """The optimal variance: exact for every s^2. Beta iff s^2 = 1, beta-tilde iff s^2 = 0."""
    c = s2 * (1 - LINEAR) / (LINEAR * s2 + 1 - LINEAR)
    best = Analytic(LINEAR, (1,), conditional_variance=c, last_noise=True)
    for steps in (1, 2, 10, 100):
        assert gaussian_recursion(best, s2, steps) == pytest.approx(s2, rel=1e-10, abs=1e-12)
    small, large = DDPM(LINEAR, (1,)), NoisyEnd(LINEAR, (1,))
    assert (abs(gaussian_recursion(small, s2, 10) - s2) < 1e-9) == (s2 == 0)
    assert (abs(gaussian_recursion(large, s2, 10) - s2) < 1e-9) == (s2 == 1)
    t, s = pairs(1000)
    t, s = t[s > 0], s[s > 0]
    sigma2 = best.transition(t, s)[3]
    assert torch.allclose(sigma2, 1 - LINEAR[t] / LINEAR[s], rtol=1e-7) == (s2 == 1)
    assert torch.allclose(sigma2, beta_tilde(LINEAR, t, s), rtol=1e-9) == (s2 == 0)
    if s2 > 1:
        assert (sigma2 > 1 - LINEAR[t] / LINEAR[s]).all()  # above beta when the data is wider than 1


def test_the_three_fixed_choices_miss_gaussian_data_at_ten_steps():
    """The same recursion written out from the papers' formulas, for s^2 = 1/4 and 4."""
    a = LINEAR
    for s2 in (0.25, 4.0):
        v = dict.fromkeys(("small", "large", "ddim"), (a[-1] * s2 + 1 - a[-1]).item())
        for t, s in itertools.pairwise(range(1000, -1, -100)):
            A, B = a[t].item(), a[s].item()
            gain = math.sqrt(A) * s2 / (A * s2 + 1 - A)
            eps = (1 - math.sqrt(A) * gain) / math.sqrt(1 - A)
            beta = 1 - A / B
            ancestral = (1 - beta / math.sqrt(1 - A) * eps) / math.sqrt(1 - beta)
            v["small"] = ancestral**2 * v["small"] + beta * (1 - B) / (1 - A)
            v["large"] = ancestral**2 * v["large"] + beta * (s > 0)
            v["ddim"] *= (math.sqrt(B) * gain + math.sqrt(1 - B) * eps) ** 2
        systems = DDPM(a, (1,)), DDPM(a, (1,), variance="large"), DDIM(a, (1,))
        for system, want in zip(systems, v.values(), strict=True):
            assert gaussian_recursion(system, s2, 10) == pytest.approx(want, rel=1e-9)
            assert abs(want - s2) > 0.02 * s2


def test_last_noise_is_the_variance_of_x_0_given_x_t():
    c = torch.linspace(0, 0.5, 61, dtype=torch.float64)
    for noise in (True, False):
        process = Analytic(TABLES["linear"], (1,), conditional_variance=c, last_noise=noise)
        for t in (1, 20, 60):
            assert numbers(process, t, 0)[3] == pytest.approx(c[t].item() * noise, rel=1e-12)
            close(process.transition(I([t]), I([0]))[3], c[t : t + 1] * noise)
    assert not Analytic(TABLES["linear"], (1,)).last_noise


# Estimators


def test_both_estimators_agree_with_quadrature_for_a_perfect_mean():
    mixture, a = two_bumps(), LINEAR
    times = I([50, 200, 400])
    want = exact_spread(a, mixture, times.tolist())
    process = DDPM(a, (1,))
    oracle, data = MixtureOracle(process, mixture), mixture.sample(20_000)
    for estimator in ("residual", "score norm"):
        got = estimate_variance(process, oracle, data, estimator, times, repeats=3, batch=7000)
        assert got.dtype == torch.float64 and got.shape == (1001,) and got[0] == 0
        assert got.isnan().sum() == 1000 - 3
        close(got[times], want[times], rtol=0.03, atol=0)


def test_residual_estimator_is_a_mean_over_examples_repeats_and_dimensions():
    """A network that says c for x_0: the plain mean of (x_0 - c)^2, whatever the batches and repeats."""
    process, data = DDPM(TABLES["cosine"], (3,), predicts="x0"), torch.randn(10, 3)
    want = (data.double() - 0.25).square().mean()
    for batch, repeats in [(256, 1), (3, 2), (10, 3)]:
        got = estimate_variance(
            process, lambda x, u: torch.full_like(x, 0.25), data, repeats=repeats, batch=batch, limit=9.0
        )
        close(got[1:], want.expand(50))
    limit = data.double().var(0, correction=0).mean()  # what guessing the mean of each coordinate misses
    close(
        estimate_variance(process, lambda x, u: torch.full_like(x, 5.0), data)[1:],
        limit.expand(50),
    )
    assert estimate_variance(process, lambda x, u: x, data, limit=0.0)[1:].eq(0).all()
    assert estimate_variance(process, lambda x, u: 0 * x, data[:2])[1:].gt(0).all()  # two examples are enough


def test_score_norm_estimator_is_its_formula_and_is_cut():
    process, data = DDPM(TABLES["cosine"], (2,)), torch.randn(6, 2)
    a = TABLES["cosine"]
    got = estimate_variance(process, lambda x, u: torch.full_like(x, 0.5), data, "score norm", limit=1e9)
    close(got[1:], (1 - a[1:]) / a[1:] * 0.75, rtol=1e-9, atol=0)
    assert (
        estimate_variance(process, lambda x, u: torch.full_like(x, 1.5), data, "score norm")[1:].eq(0).all()
    )


def test_score_norm_explodes_at_high_noise_and_the_residual_does_not():
    """1000 samples, t = T: standard deviations apart by a factor above a thousand; at t = 1 the other way round."""
    mixture, process = two_bumps(), DDPM(LINEAR, (1,))
    oracle = MixtureOracle(process, mixture)
    spreads = {}
    for estimator in ("residual", "score norm"):
        runs = [
            estimate_variance(process, oracle, mixture.sample(1000), estimator, I([1, 1000]), limit=1e9)[
                [1, 1000]
            ]
            for _ in range(20)
        ]
        runs = torch.stack(runs)
        spreads[estimator] = runs.std(0)
    assert spreads["score norm"][1] > 1000 * spreads["residual"][1]
    assert spreads["score norm"][0] < spreads["residual"][0]


def test_for_a_wrong_mean_only_the_residual_is_best_for_the_bound():
    """Quadrature over (x_0, x_t): the cost of the step as a function of sigma^2 has its minimum at the residual's."""
    mixture, a, t, s = two_bumps(), LINEAR, 300, 200
    process = DDPM(a, (1,))
    oracle = MixtureOracle(process, mixture)
    x, h = grid_of(mixture)
    p = mixture.noised(a[t]).log_prob(x).exp()[:, None]
    wrong = lambda x: 0.8 * oracle.posterior_mean(x, a[t].expand(len(x))) + 0.1  # noqa: E731
    bias = wrong(x) - oracle.posterior_mean(x, a[t].expand(len(x)))
    inside = oracle.variance(x, a[t].expand(len(x)))
    residual = ((p * (inside + bias.square())).sum() * h).item()  # E (x_0 - x0_hat)^2 = E Var + E bias^2
    eps = (x - a[t].sqrt() * wrong(x)) / (1 - a[t]).sqrt()
    score_norm = ((1 - a[t]) / a[t] * (1 - (p * eps.square()).sum() * h)).item()
    perfect = ((p * inside).sum() * h).item()
    w, _, lambda2, _ = numbers(DDIM(a, (1,), eta=1.0), t, s)

    def cost(c):  # E KL of the step, the mean as wrong as it is
        var = lambda2 + w**2 * c
        return (lambda2 / var - 1 + math.log(var / lambda2) + w**2 * residual / var) / 2

    assert cost(residual) == min(cost(residual * k) for k in (0.9, 0.99, 1.0, 1.01, 1.1))
    assert cost(residual) < cost(perfect) and cost(residual) < cost(max(score_norm, 0))
    assert abs(score_norm - residual) > 0.03
    table = torch.full_like(a, math.nan)
    table[t] = residual
    assert costs(Analytic(a, (1,), conditional_variance=table.nan_to_num(1.0)), table)[
        t, s
    ].item() == pytest.approx(cost(residual), rel=1e-9)


# What a grid costs: the bound in closed form


def test_costs_add_up_to_the_bound_of_a_coarser_process(table):
    """The sum of [t, s] over a grid, plus L_T, is the plain bound of DDPM on that sub-table (given the same spread)."""
    mixture, grid = GaussianMixture([1.0], [[0.0]], [0.7]), I([0, 1, 5, 17, len(table) - 1])
    s2 = 0.49
    c = s2 * (1 - table) / (table * s2 + 1 - table)
    for variance in ("small", "large"):
        J = costs(DDPM(table, (1,), variance=variance), c)
        coarse = DDPM(table[grid], (1,), variance=variance, decoder_var=c[1].item())
        got = J[grid[1:], grid[:-1]].sum()
        want = 0
        for t in range(1, len(grid)):
            w, _, beta_t, var = coarse.transition(I([t]), I([t - 1]))
            v = c[grid[t]]
            if t == 1:
                var = torch.tensor([coarse.decoder_var])
                want = want + 0.5 * (2 * math.pi * var).log() + v / (2 * var)
            else:
                want = want + 0.5 * (beta_t / var - 1 - (beta_t / var).log() + w**2 * v / var)
        close(got, want[0], rtol=1e-7, atol=1e-9)
    del mixture


def test_costs_of_the_best_variance_are_half_its_log_ratio(table):
    c = torch.linspace(0, 0.8, len(table), dtype=torch.float64)
    process = Analytic(table, (1,), conditional_variance=c)
    J, (t, s) = costs(process, c), pairs(len(table) - 1)
    t, s = t[s > 0], s[s > 0]
    _, _, lambda2, var = process.transition(t, s)
    close(J[t, s], (var / lambda2).log() / 2, rtol=1e-9, atol=1e-14)
    close(J[1:, 0], (2 * math.pi * math.e * c[1:]).log() / 2)
    assert J[s, t].isinf().all() and J.diagonal().isinf().all()
    grey = costs(Analytic(table, (1,), conditional_variance=c, levels=17), c)
    assert grey[1, 0] == 0 and grey[2:, 0].isinf().all() and torch.equal(grey[2:, 1:], J[2:, 1:])


def test_the_gap_to_the_entropy():
    """Mixture, perfect mean, K = 4..1000: the best variance's gap is below both fixed ones and falls like 1 / K.

    The numbers come from a separate program (a grid of K times rounded from 1..1000, both ends visited).
    """
    mixture, a = two_bumps(), LINEAR
    c = bumps_spread()
    power = (mixture.weights * (mixture.means[:, 0] ** 2 + mixture.sds**2)).sum()
    L_T = 0.5 * (a[-1] * (power - 1) - torch.log1p(-a[-1]))
    table = {
        "best": Analytic(a, (1,), conditional_variance=c),
        "large": DDPM(a, (1,), variance="large"),
        "small": DDPM(a, (1,)),
    }
    J = {k: costs(p, c) for k, p in table.items()}
    gaps = {k: [] for k in J}
    counts = (4, 10, 25, 50, 100, 250, 1000)
    for steps in counts:
        g = torch.cat([torch.linspace(1000, 1, steps, dtype=torch.float64).round().long(), I([0])])
        for k in J:
            gaps[k].append((J[k][g[:-1], g[1:]].sum() + L_T - mixture.entropy()).item())
    assert gaps["best"] == pytest.approx([0.4229, 0.2053, 0.0856, 0.0424, 0.0210, 0.00837, 0.00208], rel=5e-3)
    assert gaps["large"] == pytest.approx([0.4234, 0.2374, 0.1116, 0.0589, 0.0301, 0.0122, 0.0031], rel=2e-2)
    assert gaps["small"] == pytest.approx([3259, 435, 92.9, 28.1, 9.45, 2.54, 0.454], rel=1e-2)
    for best, large, small in zip(*gaps.values(), strict=True):
        assert 0 < best < large < small
    assert all(1.6 < g * k < 2.2 for g, k in zip(gaps["best"], counts, strict=True))


def test_the_gap_of_the_cosine_schedule():
    """It falls like 1 / K too, with a smaller constant."""
    mixture, a = two_bumps(), S.table(S.cosine(), 1000)
    c = exact_spread(a, mixture)
    J, power = (
        costs(Analytic(a, (1,), conditional_variance=c), c),
        (mixture.weights @ (mixture.means[:, 0] ** 2)),
    )
    L_T = 0.5 * (a[-1] * (power + mixture.weights @ mixture.sds**2 - 1) - torch.log1p(-a[-1]))
    for steps in (25, 50, 100, 250, 1000):
        g = torch.cat([torch.linspace(1000, 1, steps, dtype=torch.float64).round().long(), I([0])])
        assert 1.05 < (J[g[:-1], g[1:]].sum() + L_T - mixture.entropy()).item() * steps < 1.25


def test_a_grid_of_a_long_table_is_a_short_table():
    """Steps between the times of a grid are the neighbouring steps of the sub-table: respacing needs no new betas."""
    long, grid = S.table(S.sqrt(), 200), torch.arange(0, 201, 10)
    close(
        S.table(S.sqrt(), 20)[1:-1], long[grid][1:-1], rtol=1e-12, atol=0
    )  # the last is clipped differently
    for eta in (0.0, 0.5, 1.0):
        t = torch.arange(1, 21)
        mine = DDIM(long[grid], (1,), eta=eta).transition(t, t - 1)
        for a, b in zip(mine, DDIM(long, (1,), eta=eta).transition(10 * t, 10 * t - 10), strict=True):
            close(a, b, rtol=1e-9, atol=1e-14)


def test_a_better_grid_closes_the_gap_further():
    mixture, c = two_bumps(), bumps_spread()
    process = Analytic(LINEAR, (1,), conditional_variance=c)
    J = costs(process, c)
    even, best = process.times(20), optimal_times(J, 20)
    total = lambda g: J[g[:-1], g[1:]].sum().item()  # noqa: E731
    assert total(best) < total(even) and total(best) > mixture.entropy() - 1e-3


def test_bound_of_analytic_is_its_costs():
    """T steps: bound by sampling against the sum of costs."""
    mixture, a = two_bumps(), TABLES["cosine"]
    c = exact_spread(a, mixture)
    process = Analytic(a, (1,), conditional_variance=c)
    assert process.decoder_var == pytest.approx(c[1].item())
    x0 = mixture.sample(20_000)
    oracle, one = MixtureOracle(process, mixture), torch.ones(20_000, dtype=torch.long)
    J = costs(process, c)
    for t in (1, 2, 10, 50):
        term = process.term(oracle, x0, t * one)
        assert abs(term.mean() - J[t, t - 1]) < 5 * term.std() / 141
    assert Analytic(a, (1,), conditional_variance=c, decoder_var=0.3).decoder_var == 0.3
    assert Analytic(a, (1,)).decoder_var == DDPM(a, (1,)).decoder_var  # no table yet


@pytest.mark.parametrize("make", [
    lambda a: DDIM(a, (1,)), lambda a: Analytic(a, (1,), eta=0.0, conditional_variance=torch.ones(len(a))),
    lambda a: NPR(a, (1,), eta=0.0),
])  # fmt: skip
def test_no_bound_without_noise_in_q(make, table):
    process, x0, t = make(table), randn64(3, 1), I([1, 2, 3])
    with pytest.raises(ValueError, match="eta must be above 0 for a bound"):
        process.bound(lambda x, u: torch.cat([x, x], 1), x0, t)
    with pytest.raises(ValueError, match="eta must be above 0 for a bound"):
        costs(DDIM(table, (1,)), torch.ones(len(table)))


# Samples


def distance(process, model, mixture, steps, n=100_000):
    torch.manual_seed(0)
    return wasserstein(last(sample(process, model, n, steps))[1][:, 0], mixture.cdf)


def test_at_twenty_steps_the_best_variance_halves_the_distance():
    """Narrow bumps, each step's noise drawn to the end: against both fixed variances, and against DDIM."""
    mixture, a = GaussianMixture([0.3, 0.7], [[-1.2], [0.8]], [0.05, 0.1]), LINEAR
    c = exact_spread(a, mixture, DDPM(a, (1,)).times(20)[:-1].tolist())
    small, large = DDPM(a, (1,)), NoisyEnd(a, (1,))
    model = MixtureOracle(small, mixture)
    fixed = [distance(p, model, mixture, 20) for p in (small, large, DDIM(a, (1,)))]
    for eta in (1.0, 0.0):
        best = Analytic(a, (1,), eta=eta, conditional_variance=c, last_noise=True)
        assert distance(best, model, mixture, 20) < min(fixed) / 2


# Su's view: guess x_0, noise it again


def test_renoising_a_posterior_draw_keeps_the_marginal_exactly():
    """The law of x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s) z, x_0 ~ p(x_0 | x_t), x_t ~ q_t, by quadrature."""
    mixture, a = two_bumps(), LINEAR
    oracle = PosteriorDraw(DDPM(a, (1,)), mixture)
    x, h = grid_of(mixture, 2001)
    for t, s in [(1000, 400), (600, 100), (500, 499)]:
        w, means, var = oracle.posterior(x, a[t].expand(len(x)))
        p = mixture.noised(a[t]).log_prob(x).exp() * h
        y = torch.linspace(-3, 3, 21, dtype=torch.float64)
        far = y[:, None, None] - a[s].sqrt() * means[:, :, 0]
        v = a[s] * var + 1 - a[s]
        density = ((w * (-far.square() / (2 * v)).exp() / (2 * math.pi * v).sqrt()).sum(2) * p).sum(1)
        close(density, mixture.noised(a[s]).log_prob(y[:, None]).exp(), rtol=1e-5, atol=1e-7)


def test_renoising_the_mean_loses_the_spread():
    """Draws: the variance of x_s is that of q_s, or less by abar_s E Var(x_0 | x_t)."""
    mixture, a, n = two_bumps(), LINEAR, 200_000
    process = Renoise(a, (1,))
    for t, s in [(600, 300), (900, 100)]:
        torch.manual_seed(0)
        x_t = process.corrupt(mixture.sample(n), torch.full((n,), t))
        right = mixture.noised(a[s])
        var = (right.weights * (right.means[:, 0] ** 2 + right.sds**2)).sum() - (
            right.weights @ right.means
        ).square()
        lost = a[s] * exact_spread(a, mixture, [t])[t]
        for oracle, want in [
            (PosteriorDraw(process, mixture), var),
            (MixtureOracle(process, mixture), var - lost),
        ]:
            x_s = process.step(oracle, x_t, I(t).expand(n), I(s).expand(n))
            assert abs(x_s.var() - want) < 0.012
            if want == var:
                assert wasserstein(x_s[:, 0], right.cdf) < 0.01
    assert numbers(process, 5, 0) == (1, 0, 0, 0)


# Two answers per coordinate


class Says(torch.nn.Module):
    """A network that answers a x + b, and c per coordinate, along the last axis."""

    def __init__(self, a=0.3, b=0.1, c=0.2):
        super().__init__()
        self.numbers = torch.nn.Parameter(torch.tensor([a, b, c], dtype=torch.float64))

    def forward(self, x, u):
        a, b, c = self.numbers.to(x.dtype)
        return torch.cat([a * x + b, c + 0 * x], -1)


def test_halves_finds_the_doubled_axis():
    for shape, axis in [((4, 3), 1), ((4, 1, 8, 8), 1), ((4, 5, 6), 2), ((2, 2), 1)]:
        x = torch.randn(*shape)
        first, second = halves(torch.cat([x, 2 * x], axis), x)
        assert torch.equal(first, x) and torch.equal(second, 2 * x)
    x = torch.randn(4, 3)
    for out in (x, torch.randn(4, 9), torch.randn(8, 3, 1), torch.randn(8, 6), torch.randn(4, 6, 1)):
        with pytest.raises(ValueError, match=r"twice x, \(4, 3\), along one axis, not"):
            halves(out, x)


def test_learned_variance_runs_between_its_two_values(table):
    """v = -1 is beta-tilde, v = 1 beta, v = 0 their geometric mean, v = 3 goes beyond; any s < t."""
    process, (t, s) = Learned(table, (2,)), pairs(len(table) - 1)
    x = randn64(len(t), 2)
    beta, small = 1 - table[t] / table[s], beta_tilde(table, t, s)
    a1, a2 = table[1], table[2]
    small[s == 0] = (1 - a1) / (1 - a2) * (1 - a2 / a1)  # the stand-in of t = 2
    for v, want in [(-1, small), (1, beta), (0, (beta * small).sqrt()), (3, beta**2 / small)]:
        got = process.best_variance(torch.cat([x, v + 0 * x], 1), x, t, s, process.transition(t, s))
        close(got, want[:, None].expand_as(x), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("make, variance", [
    (lambda a, k: Learned(a, (2,), k, decoder_var=0.3),
     lambda p, t, s: (1 - p.alpha_bar[t] / p.alpha_bar[s]) ** 0.6
     * torch.where(s > 0, beta_tilde(p.alpha_bar, t, s), 0.3) ** 0.4),
    (lambda a, k: NPR(a, (2,), k, eta=0.5, decoder_var=0.3),
     lambda p, t, s: p.transition(t, s)[2] + p.transition(t, s)[0] ** 2
     * (0.2 * (1 - p.alpha_bar[t]) / p.alpha_bar[t]).clamp(max=1)),
])  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_step_and_term_of_elementwise_variances(make, variance, kind, table):
    process, (t, s), model = make(table, kind), pairs(len(table) - 1, 60), Says()
    x = randn64(60, 2)
    torch.manual_seed(0)
    got = process.step(model, x, t, s)
    torch.manual_seed(0)
    z = torch.randn_like(x)
    x0 = process.convert(0.3 * x + 0.1, x, t, "x0")
    close(process.predict_x0(model, x, t), x0)
    mean, _ = process.posterior(x0, x, t, s)
    sd = (variance(process, t, s) * (s > 0)).sqrt()[:, None]
    close(got, mean + sd * z, rtol=1e-6, atol=1e-7)
    t = all_times(process)
    x0 = randn64(process.T, 2)
    torch.manual_seed(0)
    got = process.term(model, x0, t)
    torch.manual_seed(0)
    x_t = process.corrupt(x0, t)
    x0_hat = process.convert(0.3 * x_t + 0.1, x_t, t, "x0")
    w, _, lambda2, _ = process.transition(t, t - 1)
    var = variance(process, t, t - 1)
    if isinstance(process, NPR):
        var[0] = 0.3
    ratio = (lambda2 / var)[1:]
    error = (x0 - x0_hat).square().sum(1)
    kl = ratio - 1 - ratio.log() + (w.square() * error / var)[1:] / 2
    close(got[1:], kl, rtol=1e-6, atol=1e-8)
    close(got[0], (2 * math.pi * var[0]).log() + error[0] / (2 * var[0]), rtol=1e-6, atol=1e-8)
    with pytest.raises(NotImplementedError, match="has no weight per time"):
        process.weight(t)


def test_grey_levels_with_a_learned_variance_are_a_code():
    process = Learned(torch.tensor([1.0, 0.5]), (2,), predicts="x0", levels=3)
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 3, dtype=torch.float64)] * 2)
    said = lambda x, u: torch.cat([0 * x + 0.2, 0 * x + I([-1.0, 0.4]).to(x)], 1)  # noqa: E731
    L0 = process.term(said, grid, torch.ones(9, dtype=torch.long))
    assert (-L0).exp().sum().item() == pytest.approx(1.0)


def test_clip_cuts_the_mean_of_elementwise_processes(table):
    for process in (Learned(table, (1,), "x0", clip=0.5), NPR(table, (1,), "x0", clip=0.5)):
        x, t = randn64(4, 1), I([5, 9, 20, 30])
        got = process.step(Says(9.0, 0.0, -20.0), x, t, 0 * t)
        close(got, (9 * x).clamp(-0.5, 0.5))


def test_hybrid_loss_is_simple_plus_the_weighted_sum(table):
    """L_simple + weight T L_{t-1} in bits per dimension, on the same noise; its mean over t is the sum over t."""
    x0, t = randn64(len(table) - 1, 2), torch.arange(1, len(table))
    model, values = Says(), []
    for weight in (0.0, 0.001, 0.05):
        torch.manual_seed(0)
        values.append(Learned(table, (2,), vlb_weight=weight).loss(model, x0, t).double())
    process = Learned(table, (2,))
    assert process.vlb_weight == 0.001
    torch.manual_seed(0)
    vlb = process.term(model, x0, t) / (2 * math.log(2)) * process.T
    torch.manual_seed(0)
    simple = DDPM(table, (2,)).loss(lambda x, u: 0.3 * x + 0.1, x0, t).double()
    close(values[0], simple, rtol=1e-6, atol=1e-6)
    close(values[1] - values[0], 0.001 * vlb, rtol=1e-3, atol=1e-4)
    close(values[2] - values[0], 0.05 * vlb, rtol=1e-3, atol=1e-4)


def test_the_mean_gets_no_gradient_from_the_bound(table):
    """Only v does; the mean's gradient is L_simple's own. In `term` nothing is detached."""
    x0, t = randn64(len(table) - 1, 2), torch.arange(1, len(table))
    grads = {}
    for weight in (0.0, 1.0):
        model = Says()
        torch.manual_seed(0)
        Learned(table, (2,), vlb_weight=weight).loss(model, x0, t).mean().backward()
        grads[weight] = model.numbers.grad.clone()
    assert torch.equal(grads[0.0][:2], grads[1.0][:2]) and grads[0.0][2] == 0 and grads[1.0][2] != 0
    model = Says()
    Learned(table, (2,)).term(model, x0, t).mean().backward()
    assert (model.numbers.grad[:2] != 0).all()


# NPR and SN


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("system", [NPR, SN])
def test_heads_with_a_perfect_network_know_the_variance_at_each_x_t(system, kind):
    """Var(x_0 | x_t) per coordinate in two dimensions, and the variance of the step from it."""
    mixture = GaussianMixture([0.4, 0.6], [[-1.0, 0.3], [0.5, -0.2]], [0.3, 0.5])
    process = system(TABLES["cosine"], (2,), kind, eta=0.6)
    oracle = VarianceOracle(process, mixture)
    x, t = randn64(50, 2), all_times(process)
    said = oracle(x, process.u(t))
    want = oracle.variance(x, process.alpha_bar[t])
    close(process.conditional_variance(said, x, t), want, rtol=1e-4, atol=1e-6)
    w, _, lambda2, _ = (v[:, None] for v in process.transition(t, t // 2))
    close(
        process.best_variance(said, x, t, t // 2, process.transition(t, t // 2)),
        lambda2 + w**2 * want,
        rtol=1e-4,
        atol=1e-6,
    )
    mean = process.convert(halves(said, x)[0], x, t, "x0")
    close(mean, oracle.posterior_mean(x, process.alpha_bar[t]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [None, 0.4])
def test_losses_of_the_heads(kind, clip, table):
    """Squared error of the prediction, plus that of the head against (eps - eps_hat)^2 or eps^2, detached."""
    x0, t = randn64(len(table) - 1, 2), torch.arange(1, len(table))
    for system in (NPR, SN):
        process, model = system(table, (2,), kind, clip=clip), Says()
        torch.manual_seed(0)
        got = process.loss(model, x0, t)
        torch.manual_seed(0)
        eps = torch.randn_like(x0)
        x_t = process.corrupt(x0, t, eps)
        said = 0.3 * x_t + 0.1
        a = table[t][:, None]
        truth = {
            "x0": x0,
            "eps": eps,
            "v": a.sqrt() * eps - (1 - a).sqrt() * x0,
            "score": -eps / (1 - a).sqrt(),
        }
        x0_hat = process.convert(said, x_t, t, "x0")
        if clip:
            x0_hat = x0_hat.clamp(-clip, clip)
        eps_hat = (x_t - a.sqrt() * x0_hat) / (1 - a).sqrt()
        target = (eps - eps_hat).square() if system is NPR else eps.square()
        want = (truth[kind] - said).square().mean(1) + (target - 0.2).square().mean(1)
        close(got.double(), want, rtol=1e-4, atol=1e-4)
        got.sum().backward()
        head = -2 * (target - 0.2).mean(1).sum()
        close(model.numbers.grad[2], head, rtol=1e-4, atol=1e-3)
        simple = (2 * (said - truth[kind])).mean(1).sum()  # d/db of the first part alone
        close(model.numbers.grad[1], simple, rtol=1e-4, atol=1e-3)


def test_only_npr_is_right_for_a_wrong_mean():
    """x0_hat = 0 everywhere: E (x_0 - 0)^2 is what is needed. Perfect heads, one x_t: NPR has it, SN has not."""
    mixture, a, t = two_bumps(), LINEAR, I([300])
    npr, sn = NPR(a, (1,), "x0", limit=9.0), SN(a, (1,), "x0", limit=9.0)
    oracle, x = MixtureOracle(npr, mixture), randn64(1, 1)
    mean, var = oracle.posterior_mean(x, a[t]), oracle.variance(x, a[t])
    A = a[t][:, None]
    residual = A / (1 - A) * (var + mean.square())  # E (eps - eps_hat)^2 for x0_hat = 0
    eps2 = (A * var + (x - A.sqrt() * mean).square()) / (1 - A)  # E eps^2
    close(npr.conditional_variance(torch.cat([0 * x, residual], 1), x, t), var + mean.square())
    wrong = sn.conditional_variance(torch.cat([0 * x, eps2], 1), x, t)
    assert (wrong - (var + mean.square())).abs() > 0.05


def test_spread_of_the_heads_is_cut():
    x, t = randn64(3, 1), I([1, 20, 50])
    for limit in (1.0, 0.3):
        process = NPR(TABLES["cosine"], (1,), limit=limit)
        for said, want in [(-1.0, 0.0), (1e9, limit)]:
            got = process.conditional_variance(torch.cat([x, said + 0 * x], 1), x, t)
            assert (got == want).all() and got.dtype == torch.float64
    assert NPR(TABLES["cosine"], (1,)).limit == 1.0 and NPR(TABLES["cosine"], (1,)).eta == 1


def test_last_noise_of_the_heads():
    x, t = torch.zeros(100_000, 1), torch.full((100_000,), 20)
    for noise in (True, False):
        process = NPR(TABLES["cosine"], (1,), "x0", last_noise=noise)
        A = process.alpha_bar[20]
        got = process.step(lambda x, u: torch.cat([x, 0.1 + 0 * x], 1), x, t, 0 * t)
        assert abs(got.var() - 0.1 * (1 - A) / A * noise) < 0.01


def test_a_perfect_head_samples_the_mixture_better_than_one_variance_for_all():
    """Ten steps: a variance that knows x_t, from either head, is much closer than the best one for all x_t."""
    mixture, a = two_bumps(), LINEAR
    c = exact_spread(a, mixture, DDPM(a, (1,)).times(10)[:-1].tolist())
    npr, sn = (s(a, (1,), last_noise=True, limit=9.0) for s in (NPR, SN))
    one = Analytic(a, (1,), conditional_variance=c, last_noise=True)
    model = MixtureOracle(one, mixture)
    at_npr, at_sn = (distance(p, VarianceOracle(p, mixture), mixture, 10, 50_000) for p in (npr, sn))
    assert abs(at_npr - at_sn) < 1e-3 and at_npr < 0.6 * distance(one, model, mixture, 10, 50_000)


# Loss-aware times


def aware(losses, history=3, uniform=0.001):
    """A LossAware over T = len(losses) whose process's loss at t is losses[t - 1], warmed up."""
    process = DDPM(S.ddpm_table(len(losses)) if len(losses) > 20 else S.table(S.cosine(), len(losses)), (1,))
    process.loss = lambda model, x0, t: I(losses)[t - 1]
    out = LossAware(process, history, uniform)
    t = torch.arange(1, len(losses) + 1).repeat(history)
    out.loss(torch.sin, torch.zeros(len(t), 1), t)
    return out


def test_loss_aware_times_follow_the_loss_and_stay_unbiased():
    losses = [1.0, 2.0, 4.0, 0.0, 3.0]
    process = aware(losses)
    p = process.p()
    want = 0.999 * I(losses).double() / 10 + 0.001 / 5
    close(p, want)
    t = torch.arange(1, 6)
    weighted = process.loss(torch.sin, torch.zeros(5, 1), t)
    close((p * weighted).sum(), I(losses).double().mean())  # sum_t p_t L_t / (T p_t) = mean L, exactly
    close(weighted, (I(losses).double() / (5 * p)).float())
    assert (process.losses[2] == 4).all()  # the plain loss is remembered
    close(aware([1e-9 * v for v in losses]).p(), want)  # only ratios count


def test_optimal_law_is_proportional_to_the_root_mean_square():
    """Var of L_t / (T p_t) over t ~ p, noise included, is least at the remembered law; uniform and random laws lose."""
    losses = I([0.1, 0.5, 3.0, 1.0, 0.2]).double()
    second = losses.square() * 1.7  # E L_t^2
    process = aware(losses.tolist(), uniform=1e-9)
    cost = lambda p: (second / (25 * p)).sum()  # noqa: E731
    best = cost(process.p())
    assert best < cost(torch.full((5,), 0.2)) and all(
        best <= cost(torch.rand(5).double().softmax(0) * 1.0) + 1e-12 for _ in range(1000)
    )


def test_uniform_until_every_time_has_its_history():
    process = DDPM(TABLES["cosine"], (1,))
    process.loss = lambda model, x0, t: t.float()
    loss = LossAware(process, history=2)
    t = torch.arange(1, 51)
    for seen in (0, 1):
        assert (loss.p() == 1 / 50).all() and (loss.seen == seen).all()
        assert torch.equal(loss.loss(torch.sin, torch.zeros(50, 1), t), t.float())  # weight exactly 1
    loss.seen[7] = 1
    assert (loss.p() == 1 / 50).all()
    loss.seen[7] = 2
    assert loss.p()[49] > 30 * loss.p()[0]
    fresh = LossAware(process)
    assert fresh.losses.shape == (50, 10) and fresh.uniform == 0.001


def test_history_keeps_the_newest_of_each_time():
    process = DDPM(TABLES["cosine"], (1,))
    loss = LossAware(process, history=3)
    loss.remember(I([2, 5, 2, 2]), I([1.0, 9.0, 2.0, 3.0]))
    assert sorted(loss.losses[1].tolist()) == [1, 2, 3] and loss.seen[[1, 4]].tolist() == [3, 1]
    loss.remember(I([2]), I([4.0]))
    assert sorted(loss.losses[1].tolist()) == [2, 3, 4] and loss.losses[4].tolist() == [9, 0, 0]
    loss.remember(torch.full((5,), 7), torch.arange(5.0))
    assert sorted(loss.losses[6].tolist()) == [2, 3, 4] and loss.seen[6] == 5
    loss.losses[:], loss.seen[:] = 0, 3
    close(loss.p(), torch.full((50,), 1 / 50).double())  # all losses 0: nothing to divide by


def test_loss_aware_draws_have_the_law():
    process = aware([1.0, 2.0, 4.0, 0.0, 3.0])
    n = 100_000
    t = process.sample_t(n)
    counts = t.bincount(minlength=6)[1:]
    assert (counts - n * process.p()).abs().max() <= 2  # strata: closer than free draws
    assert not torch.equal(t, t.sort().values) and process.sample_t(1).shape == (1,)
    one = torch.cat([process.sample_t(2)[:1] for _ in range(4000)]).bincount(minlength=6)[1:] / 4000
    assert (one - process.p()).abs().max() < 0.03  # each single draw has the law


def test_loss_aware_trains_and_is_otherwise_the_process(device):
    inner = DDPM(S.table(S.cosine(), 20), (2,))
    process, model = LossAware(inner, history=2).to(device), MLP((2,), 16, 1).to(device)
    assert process.losses.device.type == inner.alpha_bar.device.type == device
    data = torch.randn(40, 2, device=device)
    for _ in train(process, model, iter(lambda: data, None), 6):
        pass
    assert (process.seen >= 2).all() and process.p().std() > 0
    assert process.losses.dtype == inner.alpha_bar.dtype
    t = torch.full((40,), 7, device=device)
    for ask in (
        lambda p: p.corrupt(data, t), lambda p: p.prior(3), lambda p: p.step(model, data, t, t - 2),
        lambda p: p.times(4), lambda p: p.encode(model, data),
        lambda p: p.decode(model, data), lambda p: p.weight(t),
    ):  # fmt: skip
        values = []
        for p in (process, inner):
            torch.manual_seed(0)
            values.append(ask(p))
        assert torch.equal(*values)
    torch.manual_seed(0)
    weighted = process.bound(model, data, t) * (20 * process.p()[t - 1])
    torch.manual_seed(0)
    torch.testing.assert_close(weighted, inner.bound(model, data, t))
    given = process.bound_at(model, data, data, t) * (20 * process.p()[t - 1])
    torch.testing.assert_close(given, inner.bound_at(model, data, data, t))
    assert process.T == 20 and last(sample(process, model, 3, 5))[1].shape == (3, 2)


# Precision, devices, networks


MAKE = {
    "DDIM": lambda a, **k: DDIM(a, (3,), eta=0.5, **k),
    "Analytic": lambda a, **k: Analytic(a, (3,), conditional_variance=torch.linspace(0, 0.5, len(a)), **k),
    "Renoise": lambda a, **k: Renoise(a, (3,), **k),
    "Learned": lambda a, **k: Learned(a, (3,), **k),
    "NPR": lambda a, **k: NPR(a, (3,), **k),
    "SN": lambda a, **k: SN(a, (3,), **k),
}


def twice(process):
    return (
        (lambda x, u: torch.cat([0.3 * x, 0.1 + 0 * x], 1))
        if isinstance(process, DiagonalVariance)
        else lambda x, u: 0.3 * x
    )


@pytest.mark.parametrize("name", MAKE)
def test_precision_and_devices(name, device):
    process = MAKE[name](TABLES["linear"], levels=17, clip=1.0).to(device)
    model, x, t = twice(process), torch.rand(6, 3, device=device), I([1, 2, 9, 20, 40, 60], device=device)
    low = lambda x, u: model(x, u).bfloat16()  # noqa: E731
    for net in (model, low):
        for got in (process.step(net, x, t, t - 1), process.loss(net, x, t), process.predict_x0(net, x, t)):
            assert got.dtype == torch.float32 and got.device.type == device and got.isfinite().all()
    assert process.bound(model, x, t).isfinite().all()
    assert process.step(model, x[:1], t[:1], t[:1] - 1).shape == (1, 3)
    if device != "mps":
        assert process.step(model, x.double(), t, t - 1).dtype == torch.float64
        assert process.bound(model, x, t).dtype == torch.float64
    cpu = MAKE[name](TABLES["linear"], levels=17, clip=1.0)
    torch.manual_seed(0)
    want = cpu.step(model, x.cpu(), t.cpu(), 0 * t.cpu())  # no noise: the same on every device
    close(process.step(model, x, t, 0 * t).cpu(), want, rtol=1e-4, atol=1e-5)


def test_tables_stay_in_float64():
    process = Analytic(TABLES["linear"], (1,), conditional_variance=torch.ones(61)).half()
    assert process.conditional_variance.dtype == torch.float64


def test_a_second_head_leaves_the_backbone_alone():
    backbone = UNet(1, (8, 16))
    for p in backbone.parameters():
        p.data.normal_(std=0.2)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    model = TwoHeads(backbone)
    x, u = torch.randn(4, 1, 8, 8), torch.rand(4)
    out = model(x, u)
    assert torch.equal(out[:, :1], backbone(x, u)) and torch.equal(out[:, 1:], torch.zeros(4, 1, 8, 8))
    process = NPR(TABLES["linear"], (1, 8, 8))
    for record in train(process, model, iter(lambda: x, None), 5, lr=1e-2):
        assert record.loss.shape == (4,)
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    assert model(x, u)[:, 1:].abs().sum() > 0 and all(p.grad is None for p in backbone.parameters())


def test_networks_with_two_answers():
    x, u = torch.randn(4, 1, 8, 8), torch.rand(4)
    assert UNet(1, (8, 16), answers=2)(x, u).shape == (4, 2, 8, 8)
    assert MLP((3,), 16, 1, answers=2)(torch.randn(4, 3), u).shape == (4, 6)
    assert MLP((5, 3), 16, 1, answers=2)(torch.randn(4, 5, 3), u).shape == (4, 5, 6)
    assert MLP((5, 3), 16, 1)(torch.randn(4, 5, 3), u).shape == (4, 5, 3)


# Bad input


A = TABLES["linear"]


def times_error(times):
    return lambda: sample(DDIM(A, (1,)), lambda x, u: x, 1, times)


def spread_error(table):
    return lambda: Analytic(A, (1,), conditional_variance=table)


def estimate(n=4, estimator="residual", **settings):
    return lambda: estimate_variance(DDPM(A, (1,)), lambda x, u: x, torch.ones(n, 1), estimator, **settings)


@pytest.mark.parametrize("make, error, words", [
    (lambda: DDIM(A, (1,), eta=1.5), ValueError, r"eta must lie in \[0, 1\], not 1.5"),
    (lambda: DDIM(A, (1,), eta=-0.1), ValueError, r"eta must lie in \[0, 1\], not -0.1"),
    (lambda: Analytic(A, (1,), eta=math.nan), ValueError, "eta must lie"),
    (times_error(I([60, 30, 30, 0])), ValueError, r"must fall at every step, but are \[60, 30, 30, 0\]"),
    (times_error(I([60, 20, 30, 0])), ValueError, "must fall at every step"),
    (times_error(I([60, 30, 1])), ValueError, "must run from at most T = 60 to 0, not from 60 to 1"),
    (times_error(I([61, 30, 0])), ValueError, "not from 61 to 0"),
    (times_error(I([60.0, 0.0])), TypeError, "times must be integers, not torch.float32"),
    (times_error([60, 0]), TypeError, "steps must be an int or a tensor of falling times, not list"),
    (times_error(I([True, False])), TypeError, "torch.bool"),
    (times_error(I([60])), ValueError, r"at least 2 times, not torch.int64 of shape \(1,\)"),
    (times_error(I([[60, 0]])), ValueError, r"not torch.int64 of shape \(1, 2\)"),
    (lambda: DDIM(A, (1,), grid=None), TypeError, "unexpected keyword argument 'grid'"),
    (lambda: DDIM(A, (1,)).times(61), ValueError, "steps must be at most T = 60, not 61"),
    (spread_error(torch.ones(60)), ValueError, r"\(T \+ 1,\) = \(61,\), not \(60,\)"),
    (spread_error(-torch.ones(61)), ValueError, "conditional_variance must not be negative"),
    (spread_error(torch.full((61,), math.inf)), ValueError, "or infinite"),
    (spread_error(torch.ones(61, dtype=torch.long)), TypeError, "must be a float tensor, not torch.int64"),
    (spread_error([1.0]), TypeError, "not list"),
    (lambda: costs(DDPM(A, (1,)), torch.ones(5)), ValueError, "conditional_variance must have shape"),
    (lambda: optimal_times(torch.ones(5, 5), 5), ValueError, "steps must be at most T = 4, not 5"),
    (lambda: optimal_times(torch.ones(5, 5), 0), ValueError, "steps must be at least 1, not 0"),
    (lambda: optimal_times(torch.full((5, 5), math.nan), 2), ValueError, "estimate the conditional variance"),
    (lambda: optimal_times(torch.full((5, 5), math.inf), 2), ValueError, "every choice of 2 steps has infinite cost"),
    (lambda: Learned(A, (1,), vlb_weight=-1.0), ValueError, "vlb_weight must be >= 0, not -1.0"),
    (lambda: Learned(A, (1,), vlb_weight=math.nan), ValueError, "vlb_weight"),
    (lambda: NPR(A, (1,), limit=0.0), ValueError, "limit must be > 0, not 0.0"),
    (lambda: LossAware(DDPM(A, (1,)), history=0), ValueError, "history must be at least 1"),
    (lambda: LossAware(DDPM(A, (1,)), uniform=0.0), ValueError, r"uniform must lie in \(0, 1\], not 0.0"),
    (lambda: LossAware(DDPM(A, (1,)), uniform=1.1), ValueError, "uniform"),
    (lambda: LossAware(DDPM(A, (1,))).sample_t(0), ValueError, "n must be at least 1"),
    (estimate(1), ValueError, "data must hold at least 2 examples, not 1"),
    (estimate(4, "best"), ValueError, "estimator must be one of residual, score norm"),
    (estimate(repeats=0), ValueError, "repeats must be at least 1"),
    (estimate(batch=0), ValueError, "batch must be at least 1"),
])  # fmt: skip
def test_bad_settings_are_named(make, error, words, unchecked):
    with pytest.raises(error, match=words):
        make()


def test_loss_aware_needs_discrete_time(unchecked):
    process = DDPM(A, (1,))
    process.T = 1.0
    with pytest.raises(TypeError, match="process must have discrete time, but its T is 1.0"):
        LossAware(process)


def test_statistics_that_do_not_exist_are_asked_for_in_vain():
    """No table; and a table that was estimated on other times than the ones visited."""
    x, model = torch.randn(4, 1), lambda x, u: 0 * x
    process = Analytic(A, (1,))
    for times in ((I([5, 9, 20, 60]), I([4, 8, 3, 0])), (I(20).expand(4), I(3).expand(4))):
        with pytest.raises(ValueError, match=r"conditional_variance is not known at t = (5|20): estimate it"):
            process.step(model, x, *times)
    table = estimate_variance(process, model, x, times=I([60, 20]))
    process = Analytic(A, (1,), conditional_variance=table)
    process.step(model, x, I([60, 20, 60, 20]), I([1, 2, 3, 4]))
    with pytest.raises(ValueError, match="not known at t = 19"):
        process.step(model, x, I([60, 19, 60, 20]), I([1, 2, 3, 4]))
    with pytest.raises(ValueError, match="not known at t = 40"):
        last(sample(process, model, 2, 3))


@pytest.mark.parametrize("name", ["Learned", "NPR", "SN"])
@pytest.mark.parametrize("method, change, words", [
    ("loss", {"t": I([0, 1, 2])}, r"\[1, 60\]"),
    ("loss", {"data": torch.randn(3, 2)}, "x0 must have shape"),
    ("loss", {"data": torch.tensor(1.0)}, "x0 must have shape"),
    ("term", {"t": I([0, 1, 2])}, r"\[1, 60\]"),
    ("term", {"x0": torch.randn(3, 2)}, "x0 must have shape"),
    ("term", {"x0": torch.tensor(1.0)}, "x0 must have shape"),
    ("step", {"s": I([4, 2, 3])}, "s must be before t"),
    ("step", {"x": torch.randn(3, 2)}, "x must have shape"),
    ("step", {"model": lambda x, u: x}, "model must return twice x"),
])  # fmt: skip
def test_bad_input_of_elementwise_processes_is_named(name, method, change, words, unchecked):
    process = MAKE[name](A)
    good = {"model": twice(process), "x0": torch.randn(3, 3), "t": I([1, 2, 3])}
    if method == "step":
        good = {"model": twice(process), "x": torch.randn(3, 3), "t": I([4, 5, 6]), "s": I([1, 2, 3])}
    if method == "loss":
        good["data"] = good.pop("x0")
    getattr(process, method)(**good)
    with pytest.raises(ValueError, match=words):
        getattr(process, method)(**(good | change))
