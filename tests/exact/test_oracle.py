"""The oracles against brute-force Bayes, closed forms and Tweedie's formula."""

import math

import pytest
import torch

from course_lib.data import GaussianMixture, two_bumps
from course_lib.ddpm import DDPM
from course_lib.oracle import DataOracle, MixtureOracle, Oracle
from course_lib.schedules import cosine, table

T = 10
ALPHA_BAR = table(cosine(), T)
MIXTURE_2D = GaussianMixture([0.2, 0.5, 0.3], [[0.0, 1.0], [2.0, -1.0], [-1.5, 0.3]], [0.5, 1.0, 0.2])


def process(shape=(1,), predicts="x0", device="cpu"):
    return DDPM(ALPHA_BAR, shape, predicts=predicts).to(device)


def by_quadrature(x, alpha_bar):
    """E[x_0 | x_t] and Var[x_0 | x_t] of two_bumps, by the trapezoid rule over x_0. (B,) each."""
    x0 = torch.linspace(-7, 7, 40001, dtype=torch.float64)
    log_likelihood = -(x - alpha_bar[:, None].sqrt() * x0).square() / (2 * (1 - alpha_bar[:, None]))
    p = (two_bumps().log_prob(x0[:, None]) + log_likelihood).softmax(1)
    mean = (p * x0).sum(1)
    return mean, (p * x0.square()).sum(1) - mean.square()


@pytest.fixture
def points():
    """Points x_t (B, 1), their times, and alpha_bar there."""
    t = torch.arange(1, T + 1).repeat_interleave(5)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64).repeat(T)[:, None]
    return x, t, ALPHA_BAR[t]


def test_mixture_moments_by_quadrature(points):
    x, _, alpha_bar = points
    mean, var = MixtureOracle(process(), two_bumps()).moments(x, alpha_bar)
    want_mean, want_var = by_quadrature(x, alpha_bar)
    torch.testing.assert_close(mean[:, 0], want_mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(var, want_var, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "score"])
def test_oracle_answers_in_the_process_own_words(points, predicts, device):
    x, t, alpha_bar = points
    x0, _ = by_quadrature(x, alpha_bar)
    r, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    eps = (x[:, 0] - r * x0) / sigma
    want = {"x0": x0, "eps": eps, "v": r * eps - sigma * x0, "score": -eps / sigma}[predicts]
    p = process(predicts=predicts, device=device)
    oracle = MixtureOracle(p, two_bumps())
    if device == "cpu":
        torch.testing.assert_close(oracle(x, p.u(t))[:, 0], want, rtol=1e-5, atol=1e-6)
    out = oracle(x.float().to(device), p.u(t.to(device)))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out[:, 0].cpu(), want.float(), rtol=2e-4, atol=2e-4)


def test_oracle_finds_its_place_in_the_table_at_every_time():
    class Nosy(Oracle):
        def posterior_mean(self, x, alpha_bar):
            self.seen = alpha_bar
            return x

    p = DDPM(table(cosine(), 1000), (1,))
    nosy, t = Nosy(p), torch.arange(1, 1001)
    nosy(torch.zeros(1000, 1), p.u(t))
    torch.testing.assert_close(nosy.seen, p.alpha_bar[t], rtol=1e-12, atol=0)
    assert nosy.process is p


def test_an_oracle_must_say_what_it_knows():
    with pytest.raises(NotImplementedError):
        Oracle(process())(torch.zeros(1, 1), torch.ones(1))


def test_single_gaussian_closed_form():
    sd, m, d = 0.7, torch.tensor([1.0, -2.0], dtype=torch.float64), 2
    law = GaussianMixture([1.0], m[None], [sd])
    x, a = torch.randn(6, d, dtype=torch.float64), torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    mean, var = MixtureOracle(process((2,)), law).moments(x, a)
    gain = a.sqrt() * sd**2 / (a * sd**2 + 1 - a)
    torch.testing.assert_close(mean, m + gain[:, None] * (x - a.sqrt()[:, None] * m))
    torch.testing.assert_close(var, d * sd**2 * (1 - a) / (a * sd**2 + 1 - a))


def test_tweedie_first_and_second_order():
    """E = (x + (1 - A) score) / sqrt(A);  tr Cov = (1 - A) / A (d + (1 - A) tr Hessian of log p)."""
    for a in (0.1, 0.5, 0.9):
        law = MIXTURE_2D.noised(a)
        x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
        (score,) = torch.autograd.grad(law.log_prob(x).sum(), x, create_graph=True)
        trace = sum(torch.autograd.grad(score[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2))
        mean, var = MixtureOracle(process((2,)), MIXTURE_2D).moments(x.detach(), torch.full((5,), a).double())
        torch.testing.assert_close(
            mean, ((x + (1 - a) * score) / math.sqrt(a)).detach(), rtol=1e-6, atol=1e-6
        )
        torch.testing.assert_close(var, (1 - a) / a * (2 + (1 - a) * trace), rtol=1e-5, atol=1e-6)


def test_data_oracle_is_bayes(device):
    data, alpha_bar = torch.randn(6, 1, 2, 2), ALPHA_BAR[torch.tensor([1, 3, 6, 9])]
    x = alpha_bar.sqrt()[:, None, None, None] * data[:4] + torch.randn(4, 1, 2, 2)
    square = (x[:, None] - alpha_bar.sqrt()[:, None, None, None, None] * data).square().flatten(2).sum(2)
    log_w = -square / (2 * (1 - alpha_bar[:, None]))
    want = (log_w - log_w.logsumexp(1, keepdim=True)).exp()
    p = process((1, 2, 2), device=device)
    oracle, t = DataOracle(p, data.to(device)), torch.tensor([1, 3, 6, 9], device=device)
    if device == "cpu":
        torch.testing.assert_close(oracle.weights(x, alpha_bar), want)
    mean = oracle(x.float().to(device), p.u(t))
    torch.testing.assert_close(mean.cpu(), torch.einsum("bn,nchw->bchw", want, data.double()).float())


def test_data_oracle_of_noise_is_the_mean_and_of_data_the_datum():
    data = torch.tensor([[0.0], [1.0], [5.0]])
    oracle = DataOracle(process(), data)
    nothing_left, nearly_all_left = torch.tensor([1e-12]).double(), 1 - torch.full((3,), 1e-9).double()
    assert oracle.posterior_mean(torch.zeros(1, 1).double(), nothing_left).item() == pytest.approx(
        2, abs=1e-4
    )
    torch.testing.assert_close(oracle.posterior_mean(data.double(), nearly_all_left), data.double())


def test_data_oracle_of_two_equal_points_is_a_mixture_of_points():
    """The same law told twice: as a data set, and as a mixture of bumps without width."""
    data = torch.tensor([[0.5, 1.0], [-1.0, 0.0]])
    x, a = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    points = MixtureOracle(process((2,)), GaussianMixture([0.5, 0.5], data, [0.0, 0.0]))
    torch.testing.assert_close(
        DataOracle(process((2,)), data).posterior_mean(x, a), points.posterior_mean(x, a)
    )


def test_data_oracle_needs_data(unchecked):
    with pytest.raises(ValueError, match="data must not be empty"):
        DataOracle(process(), torch.empty(0, 1))


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "score"])
def test_no_network_has_a_lower_loss_than_the_oracle(predicts):
    p, law, n = process(predicts=predicts), two_bumps(), 20000
    x0, t = law.sample(n), p.sample_t(n)
    oracle = MixtureOracle(p, law)

    def loss(change):
        torch.manual_seed(1)
        return p.loss(lambda x, u: change(oracle(x, u)), x0, t).mean()

    best = loss(lambda out: out)
    for worse in (lambda o: 1.1 * o, lambda o: 0.9 * o, lambda o: o + 0.1, lambda o: o - 0.1):
        assert loss(worse) > best
