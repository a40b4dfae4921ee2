"""Information by its double sum, and the clocks made of it."""

# ruff: noqa: E501 (one line for each bad input)

import pytest
import torch
from noises import BETA, NOISES, PI, TABLE, V, times
from torch import tensor

from course_lib.absorbing import Absorbing
from course_lib.information import information, information_table
from course_lib.stationary import Uniform
from course_lib.structured import gaussian


def mutual_information(p, Q):
    joint = p[:, None] * Q
    return (joint * (joint / (p[:, None] * joint.sum(0))).log()).nan_to_num(0).sum()


@pytest.mark.parametrize("name", ["replace", "uniform", "absorbing", "mask and uniform", "neighbours"])
def test_information_is_the_double_sum(name):
    noise, p = NOISES[name](), PI.flip(0)
    for t in (1, 4):
        Q = noise.matrix(times(0), times(t))[0][:V]
        got = information(noise, p, TABLE[t : t + 1].log())
        torch.testing.assert_close(got[0], mutual_information(p, Q))
    table = information_table(noise, p, 7)
    entropy = -(p * p.log()).sum()
    share = information(noise, p, table[1:-1].log()) / entropy
    torch.testing.assert_close(share, 1 - torch.arange(1, 7).double() / 7, rtol=0, atol=1e-10)
    assert table[0] == 1 and table[-1] == 0 and len(table) == 8


def test_for_absorbing_noise_information_falls_with_alpha_whatever_the_data():
    for p in (PI, (PI == 0.1) * 0.96 + 0.01):
        table = information_table(Absorbing(V, TABLE), p, 10)
        torch.testing.assert_close(table, 1 - torch.arange(11).double() / 10, rtol=0, atol=1e-9)


# Bad input


@pytest.mark.parametrize("call, error, words", [
    (lambda: information_table(Uniform(4, TABLE), tensor([0.5, 0.6]), 5), ValueError, "p0 must not be negative and must sum to 1"),
    (lambda: information_table(Uniform(3, TABLE), PI, 5), ValueError, "p0 must be a law over the noise's 3 tokens, not over 4"),
    (lambda: information(Uniform(3, TABLE), PI, torch.zeros(1)), ValueError, "p0 must be a law over the noise's 3 tokens, not over 4"),
    (lambda: information(gaussian(4, BETA), PI, torch.zeros(1)), TypeError, "noise must be a Semigroup, .* not StepMatrices"),
    (lambda: information_table(Uniform(4, TABLE), tensor([0.0, 1.0, 0.0, 0.0]), 5), ValueError, "p0 must not be certain"),
    (lambda: information_table(Uniform(4, TABLE), PI, 0), ValueError, "T must be at least 1"),
])  # fmt: skip
def test_bad_input_is_named(call, error, words, unchecked):
    with pytest.raises(error, match=words):
        call()
