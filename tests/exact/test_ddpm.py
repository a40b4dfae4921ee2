"""DDPM against Bayes, enumeration over Gaussians, and quadrature, in float64: no training, no luck."""

import itertools
import math

import pytest
import torch

from course_lib import schedules as S
from course_lib.data import GaussianMixture, two_bumps
from course_lib.ddpm import DDPM, conversion
from course_lib.grey_levels import log_prob_of_level
from course_lib.oracle import MixtureOracle
from course_lib.process import last, sample
from tests.helpers import I, pairs, randn64

TABLES = {
    "linear": S.ddpm_table(60),
    "cosine": S.table(S.cosine(), 50),
    "sqrt": S.table(S.sqrt(), 40),
}
KINDS = ["eps", "x0", "v", "score"]
LONG = torch.long


@pytest.fixture(params=TABLES)
def process(request):
    return DDPM(TABLES[request.param], (1,))


def log_normal(x, mean, var):
    return -0.5 * ((x - mean).square() / var + (2 * math.pi * var).log())


# Forward


def test_corrupt_composes(process):
    """Adding noise beta_t a step at a time arrives at mean sqrt(abar_t), variance 1 - abar_t."""
    mean, var = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    x0 = torch.ones(1, 1, dtype=torch.float64)
    for t in range(1, process.T + 1):
        beta = 1 - process.alpha_bar[t] / process.alpha_bar[t - 1]
        torch.testing.assert_close(process.beta[t], beta, rtol=1e-7, atol=1e-14)
        mean, var = (1 - beta).sqrt() * mean, (1 - beta) * var + beta
        time = torch.tensor([t])
        torch.testing.assert_close(process.corrupt(x0, time, 0 * x0)[0], mean)
        torch.testing.assert_close(process.corrupt(0 * x0, time, x0)[0].square(), var)
    assert process.beta[0] == 0 and len(process.beta) == process.T + 1


def test_corrupt_at_time_0_is_the_data_and_noise_is_standard_normal():
    process, x0 = DDPM(TABLES["linear"], (3,)), torch.randn(4, 3)
    assert torch.equal(process.corrupt(x0, torch.zeros(4, dtype=LONG)), x0)
    noise = process.corrupt(torch.zeros(20000, 3), torch.full((20000,), 30))
    assert abs(noise.mean()) < 0.01 and abs(noise.var() - (1 - process.alpha_bar[30])) < 0.01
    assert abs((noise**4).mean() / noise.var() ** 2 - 3) < 0.15  # Gaussian, not only of the right variance


def test_prior_is_standard_normal():
    x = DDPM(TABLES["linear"], (2, 3)).prior(5000)
    assert x.shape == (5000, 2, 3) and abs(x.mean()) < 0.02 and abs(x.var() - 1) < 0.03


def test_posterior_is_bayes(process):
    """log q(x_s | x_0) + log q(x_t | x_s) = log q(x_t | x_0) + log q(x_s | x_t, x_0), pointwise, any s < t."""
    t, s = pairs(process.T)
    t, s = t[s > 0], s[s > 0]
    x0, x_s, x_t = randn64(3, len(t), 1)
    a_t, a_s = process.alpha_bar[t][:, None], process.alpha_bar[s][:, None]
    left = log_normal(x_s, a_s.sqrt() * x0, 1 - a_s) + log_normal(
        x_t, (a_t / a_s).sqrt() * x_s, 1 - a_t / a_s
    )
    mean, var = process.posterior(x0, x_t, t, s)
    right = log_normal(x_t, a_t.sqrt() * x0, 1 - a_t) + log_normal(x_s, mean, var[:, None])
    torch.testing.assert_close(left, right, rtol=1e-7, atol=1e-8)


def test_posterior_at_s_0_is_the_data_exactly(process):
    x0, x_t = randn64(2, 5, 1)
    mean, var = process.posterior(x0, x_t, torch.tensor([1, 2, 3, 20, process.T]), torch.zeros(5, dtype=LONG))
    assert torch.equal(mean, x0) and torch.equal(var, torch.zeros(5, dtype=torch.float64))


def test_tower(process):
    """Corrupt to t, step back to s with the true x_0: the law of x_s."""
    t, s = pairs(process.T)
    one = torch.ones(len(t), 1, dtype=torch.float64)
    from_x0, var = process.posterior(one, 0 * one, t, s)
    from_xt, _ = process.posterior(0 * one, one, t, s)
    a_t, a_s = process.alpha_bar[t], process.alpha_bar[s]
    torch.testing.assert_close(from_x0[:, 0] + from_xt[:, 0] * a_t.sqrt(), a_s.sqrt())
    torch.testing.assert_close(from_xt[:, 0].square() * (1 - a_t) + var, 1 - a_s)


# Kinds of prediction


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_conversions_against_their_definitions(source, target, process):
    t = torch.arange(1, process.T + 1)
    a = process.alpha_bar[t][:, None]
    x0, eps = randn64(2, len(t), 1)
    x_t = a.sqrt() * x0 + (1 - a).sqrt() * eps
    truth = {"x0": x0, "eps": eps, "v": a.sqrt() * eps - (1 - a).sqrt() * x0, "score": -eps / (1 - a).sqrt()}
    got = DDPM(process.alpha_bar, (1,), predicts=source).convert(truth[source], x_t, t, to=target)
    torch.testing.assert_close(got, truth[target], rtol=1e-6, atol=1e-8)


def test_same_kind_is_left_alone():
    for kind in KINDS:
        k_x, k_out = conversion(kind, kind, torch.tensor([-0.3, -2.0], dtype=torch.float64))
        torch.testing.assert_close(k_x, torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)
        torch.testing.assert_close(k_out, torch.ones(2, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_the_squared_error_of_the_prediction(kind, process):
    """A network that says c has the loss E |truth - c|^2: here against the drawn noise, found from x_t itself."""
    process = DDPM(process.alpha_bar, (3,), predicts=kind)
    x0, t, seen = randn64(6, 3), torch.tensor([1, 2, 5, 17, 30, process.T]), {}

    def model(x, u):
        seen["x"], seen["u"] = x, u
        return torch.full_like(x, 0.7)

    loss = process.loss(model, x0, t)
    a = process.alpha_bar[t][:, None]
    eps = (seen["x"] - a.sqrt() * x0) / (1 - a).sqrt()
    truth = {"x0": x0, "eps": eps, "v": a.sqrt() * eps - (1 - a).sqrt() * x0, "score": -eps / (1 - a).sqrt()}[
        kind
    ]
    torch.testing.assert_close(loss.double(), (truth - 0.7).square().mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen["u"], t / process.T)
    assert 0.3 < eps.std() < 2


def test_clip_cuts_the_estimate_and_only_the_estimate():
    process = DDPM(TABLES["linear"], (1,), predicts="x0", clip=0.5)
    x, t = torch.randn(5, 1), torch.full((5,), 9)
    out = torch.tensor([[-2.0], [-0.4], [0.0], [0.3], [9.0]])
    assert process.predict_x0(lambda x, u: out, x, t).flatten().tolist() == pytest.approx(
        [-0.5, -0.4, 0, 0.3, 0.5]
    )
    assert torch.equal(DDPM(TABLES["linear"], (1,), predicts="x0").predict_x0(lambda x, u: out, x, t), out)


# The bound


def quadrature(n=4001, reach=9.0):
    z = torch.linspace(-reach, reach, n, dtype=torch.float64)
    w = (-z.square() / 2).exp()
    return z[:, None], w / w.sum()  # E f(eps) = sum w f(z), spectrally exact for smooth f


def gaussian_kl(m1, v1, m2, v2):
    return 0.5 * ((v1 + (m1 - m2).square()) / v2 - 1 + torch.log(v2 / v1))


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("kind", KINDS)
def test_term_is_the_kl_between_the_two_gaussians(variance, kind, process):
    process = DDPM(process.alpha_bar, (4,), predicts=kind, variance=variance, decoder_var=0.3)
    t = torch.arange(1, process.T + 1)
    x0, seen = randn64(process.T, 4), {}
    model = lambda x, u: seen.setdefault("x", x) * 0.3 - 0.1  # noqa: E731
    got = process.term(model, x0, t)
    x_t = seen["x"]
    mean_q, var_q = process.posterior(x0, x_t, t, t - 1)
    mean_p, _ = process.posterior(process.convert(x_t * 0.3 - 0.1, x_t, t, "x0"), x_t, t, t - 1)
    beta = 1 - process.alpha_bar[t] / process.alpha_bar[t - 1]
    var_p = (var_q if variance == "small" else beta)[:, None]
    kl = gaussian_kl(mean_q, var_q[:, None], mean_p, var_p).sum(1)
    torch.testing.assert_close(got[1:], kl[1:], rtol=1e-6, atol=1e-9)
    nll = -log_normal(x0[:1], mean_p[:1], torch.tensor(0.3, dtype=torch.float64)).sum(1)
    torch.testing.assert_close(got[:1], nll, rtol=1e-9, atol=1e-9)


def test_default_decoder_variance_is_beta_tilde_at_2(process):
    a1, a2 = process.alpha_bar[1].item(), process.alpha_bar[2].item()
    assert process.decoder_var == pytest.approx((1 - a1) / (1 - a2) * (1 - a2 / a1), rel=1e-9)
    assert DDPM(torch.tensor([1.0, 0.4]), (1,)).decoder_var == pytest.approx(0.6)


def test_prior_term_is_the_kl_to_the_standard_normal(process):
    process = DDPM(process.alpha_bar, (3,))
    x0, a = randn64(5, 3), process.alpha_bar[-1]
    one = torch.ones(1, dtype=torch.float64)
    want = gaussian_kl(a.sqrt() * x0, 1 - a, 0 * x0, one).sum(1)
    torch.testing.assert_close(process.prior_term(x0), want, rtol=1e-5, atol=1e-12)
    tiny = DDPM(S.table(S.cosine(), 1000), (3,)).prior_term(x0)
    assert ((tiny > 0) & (tiny < 1e-7)).all()


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("kind", KINDS)
def test_weight_turns_the_squared_error_into_the_term(kind, variance, process):
    """L_{t-1} = weight |truth - prediction|^2 + what no network changes, in each kind's own units."""
    process = DDPM(process.alpha_bar, (1,), predicts=kind, variance=variance)
    t = torch.arange(1, process.T + 1)
    x0, terms, errors = randn64(process.T, 1), [], []
    for guess in (0.0, 0.4):
        torch.manual_seed(1)
        terms.append(process.term(lambda x, u, g=guess: torch.full_like(x, g), x0, t))
        torch.manual_seed(1)
        errors.append(process.loss(lambda x, u, g=guess: torch.full_like(x, g), x0, t).double())
    difference = process.weight(t) * (errors[1] - errors[0])
    torch.testing.assert_close(
        terms[1] - terms[0], difference, rtol=2e-3, atol=2e-3 * difference.abs().max().item()
    )


def test_weights_in_closed_form():
    """w_x0 = (SNR_{t-1} - SNR_t) / 2 for the small variance; w_eps = beta^2 / (2 var alpha (1 - abar))."""
    a, t = TABLES["linear"], torch.arange(2, 61)
    snr, beta = a / (1 - a), 1 - a[t] / a[t - 1]
    torch.testing.assert_close(DDPM(a, (1,), "x0").weight(t), (snr[t - 1] - snr[t]) / 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        DDPM(a, (1,), "eps", "large").weight(t), beta / (2 * (1 - beta) * (1 - a[t])), rtol=1e-6, atol=0
    )


def test_bound_is_T_times_the_term_plus_the_prior_term():
    process, x0, t = DDPM(TABLES["cosine"], (2,)), randn64(5, 2), torch.tensor([1, 2, 9, 30, 50])
    model = lambda x, u: 0.5 * x  # noqa: E731
    torch.manual_seed(3)
    got = process.bound(model, x0, t)
    torch.manual_seed(3)
    torch.testing.assert_close(got, 50 * process.term(model, x0, t) + process.prior_term(x0))
    assert got.dtype == torch.float64 and got.shape == (5,)


def exact_bound(process, mixture, model):
    """The bound of the mixture under the process, by quadrature over x_0 in each bump and over eps."""
    z, w = quadrature(161, 8.0)
    total = 0.0
    for k, mean, sd in zip(mixture.weights, mixture.means[:, 0], mixture.sds, strict=True):
        x0 = (mean + sd * z).repeat_interleave(len(z), 0)
        eps = z.repeat(len(z), 1)
        weight = (w[:, None] * w).flatten() * k
        process.corrupt = lambda x, t, eps=eps: DDPM.corrupt(process, x, t, eps)
        value = process.prior_term(x0)
        for t in range(1, process.T + 1):
            value = value + process.term(model, x0, torch.full((len(x0),), t))
        total += (weight * value).sum().item()
    del process.corrupt
    return total


@pytest.mark.parametrize("s2", [0.25, 1.0, 3.0])
def test_bound_of_gaussian_data_against_its_closed_form(s2):
    """Data N(0, s^2), perfect network: each KL has the posterior variance v of x_0, in closed form."""
    mixture, T = GaussianMixture([1.0], [[0.0]], [math.sqrt(s2)]), 6
    process = DDPM(S.table(S.cosine(), T), (1,), variance="large", decoder_var=0.2)
    A, got = process.alpha_bar, exact_bound(process, mixture, MixtureOracle(process, mixture))
    want = 0.5 * (A[T] * (s2 - 1) - torch.log(1 - A[T]))
    for t in range(1, T + 1):
        v = s2 * (1 - A[t]) / (A[t] * s2 + 1 - A[t])  # Var(x_0 | x_t)
        beta = 1 - A[t] / A[t - 1]
        if t == 1:
            want = want + 0.5 * math.log(2 * math.pi * 0.2) + v / 0.4
        else:
            bt = beta * (1 - A[t - 1]) / (1 - A[t])
            c = A[t - 1].sqrt() * beta / (1 - A[t])
            want = want + 0.5 * (bt / beta - 1 - torch.log(bt / beta)) + c**2 * v / (2 * beta)
    assert got == pytest.approx(want.item(), rel=1e-6)
    assert got > 0.5 * math.log(2 * math.pi * math.e * s2)  # never below the entropy


def test_bound_closes_in_on_the_entropy():
    """Perfect network, mixture: the gap to the entropy is positive and falls like 1 / T."""
    mixture, gaps = two_bumps(), []
    for T in (10, 20, 40):
        a = S.table(S.cosine(), T)
        first = DDPM(a, (1,))
        oracle = MixtureOracle(first, mixture)
        z = torch.linspace(-4, 4, 4001, dtype=torch.float64)[:, None]
        p = mixture.noised(a[1]).log_prob(z).exp()
        _, spread = oracle.moments(z, a[1].expand(len(z)))
        best = ((p * spread).sum() / p.sum()).item()  # E Var(x_0 | x_1): the decoder variance that fits
        process = DDPM(a, (1,), variance="large", decoder_var=best)
        gaps.append(exact_bound(process, mixture, MixtureOracle(process, mixture)) - mixture.entropy())
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert 1.6 < gaps[0] / gaps[1] < 2.6 and 1.6 < gaps[1] / gaps[2] < 2.6


# Grey levels


def test_levels_are_a_probability_and_match_the_normal_cdf():
    mean, sd, K = randn64(50), 0.13, 17
    grid = torch.linspace(-1, 1, K, dtype=torch.float64)
    log_p = torch.stack([log_prob_of_level(x.expand(50), mean, sd, K) for x in grid])
    torch.testing.assert_close(log_p.exp().sum(0), torch.ones(50, dtype=torch.float64))
    edges = torch.cat([torch.tensor([-math.inf]), (grid[1:] + grid[:-1]) / 2, torch.tensor([math.inf])])
    cdf = torch.special.ndtr((edges[:, None] - mean) / sd)
    torch.testing.assert_close(log_p.exp(), cdf.diff(dim=0), rtol=1e-6, atol=1e-12)


def test_levels_far_from_the_mean_keep_their_digits():
    """8 bits, 40 standard deviations away, both sides: compared with the tail's leading terms."""
    x, sd = torch.tensor([0.0, 0.0], dtype=torch.float64), 1e-2
    got = log_prob_of_level(x, torch.tensor([-0.4, 0.4], dtype=torch.float64), sd, 256)
    z = (0.4 - 1 / 255) / sd
    want = -z * z / 2 - math.log(z * math.sqrt(2 * math.pi)) + math.log1p(-1 / z**2 + 3 / z**4 - 15 / z**6)
    torch.testing.assert_close(got, torch.tensor([want, want], dtype=torch.float64), rtol=1e-7, atol=0)


def test_levels_are_mirror_images_to_the_last_bit():
    """Both tails are measured in the lower one: a mean above the bin is as exact as a mean below."""
    x, mean = torch.zeros(40, dtype=torch.float64), torch.linspace(0.001, 0.09, 40, dtype=torch.float64)
    assert torch.equal(log_prob_of_level(x, mean, 0.01, 256), log_prob_of_level(x, -mean, 0.01, 256))


def test_bound_of_grey_levels_is_a_code_length():
    """exp(-L_0) summed over all images of two pixels is 1 when the network ignores x_1."""
    K = 3
    process = DDPM(torch.tensor([1.0, 0.5]), (2,), predicts="x0", levels=K)
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, K, dtype=torch.float64)] * 2)
    model = lambda x, u: torch.full_like(x, 0.2)  # noqa: E731
    L0 = process.term(model, grid, torch.ones(len(grid), dtype=LONG))
    assert (-L0).exp().sum().item() == pytest.approx(1.0)
    want = -log_prob_of_level(grid, torch.full_like(grid, 0.2), math.sqrt(0.5), K).sum(1)
    torch.testing.assert_close(L0, want)


# Sampling


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [None, 0.8])
def test_step_has_the_mean_and_variance_of_the_posterior(kind, variance, clip, process):
    process = DDPM(process.alpha_bar, (2,), predicts=kind, variance=variance, clip=clip)
    model = lambda x, u: 0.3 * x + 0.2  # noqa: E731
    for t, s in [(20, 19), (20, 5), (2, 1), (process.T, 7)]:
        x = randn64(1, 2).expand(1000, 2)
        t_, s_ = torch.full((1000,), t), torch.full((1000,), s)
        torch.manual_seed(0)
        got = process.step(model, x, t_, s_)
        torch.manual_seed(0)
        once = process.step(model, x, torch.tensor(t).expand(1000), torch.tensor(s).expand(1000))
        torch.testing.assert_close(once, got, rtol=1e-12, atol=1e-12)  # as sample() gives the times
        torch.manual_seed(0)
        z = torch.randn_like(x)
        x0 = process.convert(0.3 * x + 0.2, x, t_, "x0")
        mean, var = process.posterior(x0 if clip is None else x0.clamp(-clip, clip), x, t_, s_)
        if variance == "large":
            var = 1 - process.alpha_bar[t_] / process.alpha_bar[s_]
        torch.testing.assert_close(got, mean + var[:, None].sqrt() * z, rtol=1e-6, atol=1e-8)


def test_one_shared_time_is_not_taken_for_two(process):
    """t the same for all and s not, or the other way round: each example keeps its own pair."""
    x, model = randn64(3, 1), lambda x, u: 0.3 * x
    for t, s in [(I(30).expand(3), I([1, 20, 0])), (I([30, 9, 12]), I(5).expand(3))]:
        torch.manual_seed(0)
        mixed = process.step(model, x, t, s)
        torch.manual_seed(0)
        torch.testing.assert_close(mixed, process.step(model, x, t.clone(), s.clone()), rtol=0, atol=0)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_no_noise_at_s_0(variance, process):
    process = DDPM(process.alpha_bar, (1,), variance=variance)
    x, t, s = randn64(8, 1), torch.tensor([1, 2, 3, 5, 8, 13, 21, 34]), torch.zeros(8, dtype=LONG)
    model = lambda x, u: 0.3 * x  # noqa: E731
    torch.testing.assert_close(
        process.step(model, x, t, s), process.predict_x0(model, x, t), rtol=1e-9, atol=1e-9
    )
    assert torch.equal(process.step(model, x, t, s), process.step(model, x, t, s))
    t, s = torch.tensor(8).expand(8), torch.tensor(0).expand(8)
    torch.testing.assert_close(
        process.step(model, x, t, s), process.predict_x0(model, x, t), rtol=1e-9, atol=1e-9
    )


def variance_after(process, s2, steps):
    """Variance of ancestral samples of N(0, s2) data with the perfect network: a linear recursion, exact."""
    A, times = process.alpha_bar, process.times(steps)
    var = A[-1] * s2 + 1 - A[-1]
    for t, s in itertools.pairwise(times):
        gain = A[t].sqrt() * s2 / (A[t] * s2 + 1 - A[t])  # E[x_0 | x_t] = gain x_t
        one = torch.ones(1, 1, dtype=torch.float64)
        mean, beta_tilde = process.posterior(gain * one, one, t[None], s[None])
        noise = beta_tilde[0] if process.variance == "small" else (1 - A[t] / A[s])
        var = mean.item() ** 2 * var + noise
    return var.item()


def test_which_variance_is_right_for_gaussian_data():
    """Ten steps: beta-tilde is exact iff the data is a point, beta iff it is N(0, 1) (noise kept at the last step)."""
    a = S.ddpm_table(1000)
    small, large = DDPM(a, (1,)), DDPM(a, (1,), variance="large")
    assert variance_after(small, 0.0, 10) == pytest.approx(0, abs=1e-12)
    assert variance_after(large, 1.0, 10) == pytest.approx(1, rel=1e-12)
    for s2 in (0.25, 0.5):
        assert variance_after(small, s2, 10) < 0.9 * s2 and variance_after(large, s2, 10) > 1.1 * s2
    assert variance_after(small, 4.0, 10) < variance_after(large, 4.0, 10) < 4


@pytest.mark.parametrize("kind", KINDS)
def test_oracle_sampling_returns_the_law(kind):
    mixture, process = two_bumps(), DDPM(S.table(S.cosine(), 200), (1,), predicts=kind)
    _, x0 = last(sample(process, MixtureOracle(process, mixture), 4000, 200))
    assert abs(x0.mean().item() - 0.2) < 0.05 and abs((x0 < -0.3).double().mean().item() - 0.3) < 0.03
    gap = (x0[:, 0].sort().values.double(), (torch.arange(4000) + 0.5) / 4000)
    assert (mixture.cdf(gap[0]) - gap[1]).abs().max() < 0.03  # Kolmogorov-Smirnov


# Devices and precision


def test_runs_on_every_device(device):
    process = DDPM(TABLES["linear"], (3,), levels=17).to(device)
    x0, t = torch.rand(6, 3, device=device), torch.tensor([1, 2, 9, 20, 40, 60], device=device)
    cpu = DDPM(TABLES["linear"], (3,), levels=17)
    model, eps = (lambda x, u: 0.1 * x), torch.randn(6, 3)
    torch.testing.assert_close(
        process.corrupt(x0, t, eps.to(device)).cpu(), cpu.corrupt(x0.cpu(), t.cpu(), eps)
    )
    for got in (
        process.loss(model, x0, t),
        process.bound(model, x0, t),
        last(sample(process, model, 4, 10))[1],
    ):
        assert got.device.type == device and got.isfinite().all()
    torch.testing.assert_close(
        process.weight(t).cpu().float(), cpu.weight(t.cpu()).float(), rtol=1e-3, atol=0
    )


def test_tables_stay_in_float64():
    for process in (DDPM(TABLES["linear"], (1,)).half(), DDPM(TABLES["linear"], (1,)).to(torch.float32)):
        assert process.alpha_bar.dtype == torch.float64 and torch.equal(process.alpha_bar, TABLES["linear"])


def test_half_precision_networks_cost_no_digits_of_the_process():
    process, x, t = DDPM(TABLES["linear"], (3,)), torch.randn(6, 3), torch.full((6,), 20)
    model = lambda x, u: (0.5 * x).bfloat16()  # noqa: E731
    for value in (
        process.step(model, x, t, t - 1),
        process.loss(model, x, t),
        process.predict_x0(model, x, t),
    ):
        assert value.dtype == torch.float32
    assert process.step(model, x.double(), t, t - 1).dtype == torch.float64


def test_float32_state_keeps_float64_coefficients():
    """beta-tilde of the first steps in float32 arithmetic is off by parts in a thousand; ours is not."""
    process = DDPM(S.table(S.cosine(), 4000), (1,), predicts="x0")
    x, t = torch.ones(1, 1), torch.tensor([2])
    _, var = process.posterior(x, x, t, t - 1)
    f = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    a1, a2 = f(1 / 4000) / f(0), f(2 / 4000) / f(0)
    assert var.item() == pytest.approx((1 - a1) / (1 - a2) * (1 - a2 / a1), rel=1e-8)


# Bad input


def call(method, **change):
    process = DDPM(TABLES["linear"], (2,))
    good = {
        "corrupt": {"x0": torch.randn(3, 2), "t": torch.tensor([1, 2, 3])},
        "loss": {"model": lambda x, u: x, "data": torch.randn(3, 2), "t": torch.tensor([1, 2, 3])},
        "bound": {"model": lambda x, u: x, "data": torch.randn(3, 2), "t": torch.tensor([1, 2, 3])},
        "step": {"model": lambda x, u: x, "x": torch.randn(3, 2), "t": I([4, 5, 6]), "s": I([1, 2, 3])},
        "posterior": {"x0": torch.randn(3, 2), "x_t": torch.randn(3, 2), "t": I([4, 5, 6]), "s": I([1, 2, 3])},
        "convert": {"out": torch.randn(3, 2), "x_t": torch.randn(3, 2), "t": torch.tensor([1, 2, 3]), "to": "x0"},
        "weight": {"t": torch.tensor([1, 2])},
        "prior_term": {"x0": torch.randn(3, 2)},
    }[method]  # fmt: skip
    return getattr(process, method)(**(good | change))


@pytest.mark.parametrize("method, change, error, words", [
    ("corrupt", {"t": I([1, 2])}, ValueError, r"t must be a tensor of shape \(3,\), one time per example, not \(2,\)"),
    ("corrupt", {"t": 3}, ValueError, "not int"),
    ("corrupt", {"t": I([1.0, 2.0, 3.0])}, TypeError, "t must hold integers, not torch.float32"),
    ("corrupt", {"t": I([True, True, True])}, TypeError, "torch.bool"),
    ("corrupt", {"t": I([1, 2, 61])}, ValueError, r"t must lie in \[0, 60\], but spans \[1, 61\]"),
    ("corrupt", {"t": I([-1, 2, 6])}, ValueError, r"spans \[-1, 6\]"),
    ("corrupt", {"x0": torch.ones(3, 2, dtype=LONG)}, TypeError, "x0 must be a float tensor, not torch.int64"),
    ("corrupt", {"x0": [[1.0, 2.0]]}, TypeError, "x0 must be a float tensor, not list"),
    ("corrupt", {"x0": torch.randn(3, 4)}, ValueError, r"x0 must have shape \(B >= 1, 2\), not \(3, 4\)"),
    ("corrupt", {"x0": torch.randn(0, 2), "t": I([], dtype=LONG)}, ValueError, r"not \(0, 2\)"),
    ("loss", {"t": I([0, 1, 2])}, ValueError, r"\[1, 60\]"),
    ("loss", {"data": torch.ones(3, 2, dtype=LONG)}, TypeError, "x0"),
    ("bound", {"t": I([0, 1, 2])}, ValueError, r"\[1, 60\]"),
    ("bound", {"data": torch.randn(3, 3)}, ValueError, "x0"),
    ("weight", {"t": I([0, 1])}, ValueError, r"\[1, 60\]"),
    ("prior_term", {"x0": torch.randn(3, 3)}, ValueError, "x0"),
    ("step", {"s": I([4, 2, 3])}, ValueError, "s must be before t, but s = 4 and t = 4 in example 0"),
    ("step", {"s": I([1, 2, 7])}, ValueError, "s = 7 and t = 6 in example 2"),
    ("step", {"s": I([-1, 2, 3])}, ValueError, r"s must lie in \[0, 60\]"),
    ("step", {"t": I([4, 5, 99])}, ValueError, r"t must lie in \[1, 60\]"),
    ("step", {"x": torch.randn(3, 3)}, ValueError, "x must have shape"),
    ("step", {"t": I(99).expand(3)}, ValueError, r"t must lie in \[1, 60\], but spans \[99, 99\]"),
    ("step", {"t": I(5).expand(3), "s": I(5).expand(3)}, ValueError, "s = 5 and t = 5 in example 0"),
    ("posterior", {"s": I([4, 2, 3])}, ValueError, "before t"),
    ("posterior", {"x_t": torch.randn(3, 3)}, ValueError, "x_t must have shape"),
    ("convert", {"t": I([0, 1, 2])}, ValueError, r"\[1, 60\]"),
    ("convert", {"to": "noise"}, ValueError, "to must be one of x0, eps, v, score, not 'noise'"),
])  # fmt: skip
def test_bad_input_is_named(method, change, error, words, unchecked):
    call(method)
    with pytest.raises(error, match=words):
        call(method, **change)


@pytest.mark.parametrize("change, error, words", [
    ({"predicts": "noise"}, ValueError, "predicts must be one of"),
    ({"variance": "medium"}, ValueError, "variance must be one of small, large"),
    ({"levels": 1.5}, TypeError, "levels must be an int"),
    ({"levels": 1}, ValueError, "levels must be at least 2, not 1"),
    ({"decoder_var": 0.0}, ValueError, "decoder_var must be > 0, not 0.0"),
    ({"clip": -1.0}, ValueError, "clip must be > 0, not -1.0"),
    ({"alpha_bar": torch.tensor([1.0, 1.0])}, ValueError, "smaller at each t"),
])  # fmt: skip
def test_bad_settings_are_named(change, error, words, unchecked):
    with pytest.raises(error, match=words):
        DDPM(**({"alpha_bar": TABLES["linear"], "shape": (1,)} | change))
