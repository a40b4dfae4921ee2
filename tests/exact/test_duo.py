"""Duo: the argmax of Gaussian diffusion is uniform-state diffusion."""

import math

import pytest
import torch
import torch.nn.functional as F

from course_lib.duo import uniform_alpha
from course_lib.schedules import Schedule, log_linear
from course_lib.sedd import SEDD
from course_lib.stationary import Uniform

K, L, B = 5, 4, 6


def test_two_tokens_in_closed_form():
    """argmax of two: P = Phi(a / b / sqrt 2), so alpha = 2 P - 1 = erf(a / (2 b))."""
    a = torch.linspace(0.05, 0.95, 10).double()
    torch.testing.assert_close(uniform_alpha(a, 2), torch.erf(a / (1 - a**2).sqrt() / 2))


@pytest.mark.parametrize("K", [2, 5, 27, 1000])
def test_its_ends_and_its_growth(K):
    a = torch.linspace(0, 1, 21).double()
    alpha = uniform_alpha(a, K)
    assert alpha[0].item() == pytest.approx(0, abs=1e-6) and alpha[-1].item() == pytest.approx(1, abs=1e-6)
    assert (alpha.diff() > -1e-9).all()


@pytest.mark.parametrize("a", [0.3, 0.6, 0.9])
def test_against_draws(a):
    """400,000 draws for five tokens: every one of the five frequencies."""
    n, K = 400000, 5
    z = torch.randn(n, K).double() * math.sqrt(1 - a**2)
    z[:, 0] += a
    seen = torch.bincount(z.argmax(1), minlength=K) / n
    alpha = uniform_alpha(torch.tensor(a).double(), K).item()
    want = torch.full((K,), (1 - alpha) / K)
    want[0] += alpha
    assert ((seen - want).abs() < 5 * 0.5 / math.sqrt(n)).all()


def test_alpha_of_five_tokens():
    """Three values that another program found, by another quadrature."""
    alpha = uniform_alpha(torch.tensor([0.3, 0.6, 0.9]).double(), 5)
    torch.testing.assert_close(alpha, torch.tensor([0.101, 0.266, 0.753]).double(), rtol=0, atol=6e-4)


# What the released code does with what its network says (s-sahoo/duo, algo.py, class DUO_BASE), in the letters of the
# paper: p is the network's softmax, x-bar = K alpha x + 1 - alpha.


@pytest.fixture
def said():
    x0, x_t = torch.randint(K, (2, B, L))
    x_t[0] = x0[0]
    return torch.randn(B, L, K, dtype=torch.float64).log_softmax(-1), x0, x_t


def at(v, x):
    return v.gather(-1, x[..., None])


def test_its_step_takes_what_the_network_says_for_the_leave_one_out_distribution(said):
    log_p, _, x_t = said
    p, here = log_p.exp(), F.one_hot(x_t, K).double()
    alpha_s, alpha_t = 0.7, 0.4
    alpha_ts = alpha_t / alpha_s
    above = K * alpha_t * p * here + (alpha_ts - alpha_t) * here + (alpha_s - alpha_t) * p
    above = above + (1 - alpha_ts) * (1 - alpha_s) / K
    law = above / (K * alpha_t * at(p, x_t) + 1 - alpha_t)
    noise = Uniform(K, Schedule("alpha = 1 - u", lambda u: torch.log1p(-u)))
    s, t = torch.full((B,), 1 - alpha_s), torch.full((B,), 1 - alpha_t)
    torch.testing.assert_close(noise.posterior(p, x_t, s, t), law, rtol=1e-6, atol=1e-7)
    loo = noise.loo_from_posterior(log_p, x_t, t).exp()  # were it the posterior, another step would be right
    assert (noise.posterior(loo, x_t, s, t) - law).abs().max() > 0.01


def test_its_bound_is_that_of_sedd(said):
    """alpha' / (K alpha) [K / x_z - K / p_z - sum_j x_j / x_z log(p_z x_j / (p_j x_z))], all with bars, z = x_t."""
    log_p, x0, x_t = said
    process = SEDD(Uniform(K, log_linear(1e-3)), L, scaled=False)
    t = torch.linspace(0.1, 0.9, B).double()
    alpha = (1 - (1 - 1e-3) * t)[:, None, None]
    x_bar, p_bar = (K * alpha * v + 1 - alpha for v in (F.one_hot(x0, K).double(), log_p.exp()))
    x_z, p_z = at(x_bar, x_t), at(p_bar, x_t)
    inner = (x_bar / x_z * (p_z * x_bar / (p_bar * x_z)).log()).sum(-1, keepdim=True)
    want = -(1 - 1e-3) / (K * alpha) * (K / x_z - K / p_z - inner)
    log_score = process.noise.score_from_loo(log_p, x_t, t)
    ours = process.diffusion_term_at(lambda x, u: log_score, x0, x_t, t)
    torch.testing.assert_close(ours, want.sum((1, 2)), rtol=1e-8, atol=0)


def test_more_tokens_need_more_signal():
    a = torch.tensor(0.6).double()
    assert uniform_alpha(a, 5) > uniform_alpha(a, 50) > uniform_alpha(a, 5000) > 0


def test_bad_input_is_named(unchecked):
    with pytest.raises(ValueError, match="a must lie in 0..1, not 1.5..1.5"):
        uniform_alpha(torch.tensor([1.5]), 5)
    with pytest.raises(ValueError, match="K must be at least 2"):
        uniform_alpha(torch.tensor([0.5]), 1)
