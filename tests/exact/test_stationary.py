"""Noise with a stationary law: closed forms, small numbers, large vocabularies."""

# ruff: noqa: E501 (one line for each bad input)

import pytest
import torch
from noises import PI, TABLE, Largest, T, V, general, times
from torch import tensor

from course_lib.absorbing import Absorbing
from course_lib.stationary import Stationary, Uniform


def test_kl_in_float32_keeps_small_probabilities():
    for noise in (Uniform(3, TABLE), Absorbing(3, TABLE)):
        log_p = tensor([[[0.0, -150.0, -2.0]]]).log_softmax(-1)
        x0, x_t = tensor([[1]]), tensor([[noise.mask or 2]])
        for s in (0, 2):
            got = noise.kl(x0, x_t, log_p, times(s), times(4))
            want = general(noise, "kl")(x0, x_t, log_p.double(), times(s), times(4))
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_impossible_scores_become_laws():
    log_s = tensor([[[0.0, 9.0, -9.0, 0.0]]]).double()
    p = Uniform(V, TABLE).loo_from_score(log_s, tensor([[0]]), times(1)).exp()
    assert p.isfinite().all() and abs(p.sum() - 1) < 1e-12 and (p >= 0).all() and p.argmax() == 1


@pytest.mark.parametrize("K", [3, 200])
def test_the_fast_kl_is_the_definition_in_float32_too(K):
    """Closed form against Noise.kl in float64, on tokens that stayed and tokens that did not, from every s."""
    pi = torch.rand(K).double() + 0.1
    noise = Stationary(pi / pi.sum(), TABLE)
    x0, logits = torch.randint(0, K, (T, 50)), 3 * torch.randn(T, 50, K)
    t = torch.arange(1, T + 1)
    x_t = noise.corrupt(x0, t * 0, t)
    assert (x_t == x0).any() and (x_t != x0).any()
    for back in range(1, T + 1):
        s = (t - back).clamp(min=0)
        want = general(noise, "kl")(x0, x_t, logits.double().log_softmax(-1), s, t)
        torch.testing.assert_close(
            noise.kl(x0, x_t, logits.double().log_softmax(-1), s, t), want, rtol=0, atol=1e-11
        )
        torch.testing.assert_close(
            noise.kl(x0, x_t, logits.log_softmax(-1), s, t), want, rtol=2e-5, atol=2e-5
        )


def test_the_log_ratio_is_that_of_the_two_laws():
    noise, x0, s = Stationary(PI, TABLE), torch.arange(V)[None], times(2)
    log_p = torch.randn(1, V, V).double().log_softmax(-1)
    want = noise.row(x0, s * 0, s).log() - noise.mix(log_p.exp(), s * 0, s).log()
    torch.testing.assert_close(noise.log_ratio(x0, log_p, s), want)
    at_0 = noise.log_ratio(x0, log_p, s * 0)
    assert at_0.isfinite().all()
    torch.testing.assert_close(at_0[0].diag(), -log_p[0].diag())


def test_numbers_on_the_unit_interval_become_draws_from_pi():
    u = tensor([[0.0, 0.0999, 0.1001, 0.2999, 0.3001, 0.5999, 0.6001, 1 - 2**-53]], dtype=torch.float64)
    assert Stationary(PI, TABLE).from_uniform(u).tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]]
    even = Stationary(torch.full((4,), 0.25), TABLE).from_uniform(u)
    assert torch.equal(Uniform(4, TABLE).from_uniform(u), even)


def test_corruption_makes_nothing_of_the_vocabulary():
    x0 = torch.randint(0, 50257, (32, 256))
    noise, t = Uniform(50257, TABLE), torch.randint(1, T + 1, (32,))
    with Largest() as made:
        noise.corrupt(x0, t * 0, t)
    assert made.numel <= x0.numel()


# Bad input


@pytest.mark.parametrize("call, error, words", [
    (lambda: Stationary(PI.clone().requires_grad_(), TABLE), ValueError, r"pi must not require a gradient: .* give pi.detach\(\)"),
    (lambda: Uniform(1, TABLE), ValueError, "K must be at least 2, not 1"),
    (lambda: Uniform(2.0, TABLE), TypeError, "K must be an int, not float"),
    (lambda: Stationary(tensor([0.5, 0.6]), TABLE), ValueError, "pi must not be negative and must sum to 1, but sums to 1.1"),
    (lambda: Stationary(tensor([1.5, -0.5]), TABLE), ValueError, "pi must not be negative"),
    (lambda: Stationary(tensor([1.0, 0.0]), TABLE), ValueError, r"pi must be positive, but pi\[1\] = 0"),
    (lambda: Stationary(tensor([1.0]), TABLE), ValueError, r"pi must be a float tensor \(K,\) with K >= 2"),
    (lambda: Stationary([0.5, 0.5], TABLE), ValueError, "pi must be a float tensor .* not list"),
    (lambda: Uniform(3, tensor([1.0, 0.5, 0.7])), ValueError, r"alpha_bar must be smaller at each t than before, but alpha_bar\[2\]"),
    (lambda: Uniform(3, tensor([1.0, 0.5, -0.1])), ValueError, r"alpha_bar must be positive, but alpha_bar\[2\]"),
    (lambda: Uniform(3, tensor([1.0, 0.0, -0.1])), ValueError, r"alpha_bar must be positive, but alpha_bar\[1\]"),
])  # fmt: skip
def test_bad_input_is_named(call, error, words, unchecked):
    with pytest.raises(error, match=words):
        call()
