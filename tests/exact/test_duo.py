"""Duo: the argmax of Gaussian diffusion is uniform-state diffusion."""

import math

import pytest
import torch

from course_lib.duo import uniform_alpha


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


def test_more_tokens_need_more_signal():
    a = torch.tensor(0.6).double()
    assert uniform_alpha(a, 5) > uniform_alpha(a, 50) > uniform_alpha(a, 5000) > 0


def test_bad_input_is_named(unchecked):
    with pytest.raises(ValueError, match="a must lie in 0..1, not 1.5..1.5"):
        uniform_alpha(torch.tensor([1.5]), 5)
    with pytest.raises(ValueError, match="K must be at least 2"):
        uniform_alpha(torch.tensor([0.5]), 1)
