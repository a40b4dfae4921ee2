"""Variable length: the insertion process ends in the data, and on the way it is the data with tokens deleted."""

import math

import pytest
import torch

from course_lib.insertion import Insertion, subsequences

P = {(): 0.1, (0,): 0.15, (1,): 0.05, (0, 1): 0.3, (1, 1): 0.1, (0, 0, 1): 0.2, (1, 0, 1): 0.1}


def integrate(process, tau, steps=150):
    """The law at kappa = 1 - e^-tau from the empty string, by RK4 in tau, where slope / (1 - kappa) is 1."""
    law = torch.zeros(len(process.states)).double()
    law[process.index[()]] = 1
    h = tau / steps

    def rates(t):
        return process.rates(-math.expm1(-t), math.exp(-t))

    for n in range(steps):
        first, middle, end = (rates((n + part) * h) for part in (0.0, 0.5, 1.0))
        k1 = law @ first
        k2 = (law + h / 2 * k1) @ middle
        k3 = (law + h / 2 * k2) @ middle
        k4 = (law + h * k3) @ end
        law = law + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return law


def test_on_the_way_it_is_the_data_with_tokens_deleted():
    process = Insertion(P)
    for tau in (0.5, 1.5):
        law, want = integrate(process, tau), process.marginal(-math.expm1(-tau))
        torch.testing.assert_close(law, want, rtol=0, atol=1e-7)


def test_it_ends_in_the_data_and_its_lengths():
    process = Insertion(P)
    law = integrate(process, 13.0, 700)
    want = torch.tensor([P.get(x, 0.0) for x in process.states]).double()
    torch.testing.assert_close(law, want, rtol=0, atol=1e-5)
    for length in range(4):
        there = [n for n, x in enumerate(process.states) if len(x) == length]
        assert law[there].sum().item() == pytest.approx(
            sum(p for x, p in P.items() if len(x) == length), abs=1e-5
        )


def test_what_is_missing_by_hand():
    """From "ab" kept with kappa: given (a), b is missing behind it with p(ab) (1 - k) k / (that + p(a) k)."""
    process = Insertion({(0,): 0.4, (0, 1): 0.6})
    k = 0.3
    missing = process.missing(k)
    posterior = 0.6 * k * (1 - k) / (0.6 * k * (1 - k) + 0.4 * k)
    assert missing[(0,), 1, 1] == pytest.approx(posterior)
    assert ((0,), 0, 1) not in missing
    assert missing[(1,), 0, 0] == pytest.approx(1.0)
    R = process.rates(k, 1.0)
    one, both = process.index[(0,)], process.index[(0, 1)]
    assert R[one, both].item() == pytest.approx(posterior / (1 - k))
    torch.testing.assert_close(R.sum(1), torch.zeros(len(R)).double(), rtol=0, atol=1e-12)


def test_two_equal_tokens_count_twice():
    """From "aa", nothing kept: two are missing, and either one inserted gives "a"."""
    process = Insertion({(0, 0): 1.0})
    assert process.missing(0.0)[(), 0, 0] == pytest.approx(2.0)


def test_subsequences():
    parts = subsequences((7, 8))
    assert ((7,), [[], [8]]) in parts and ((8,), [[7], []]) in parts
    assert ((), [[7, 8]]) in parts and ((7, 8), [[], [], []]) in parts and len(parts) == 4


@pytest.mark.parametrize(
    "p, error, words",
    [
        ({(0,): 0.5}, ValueError, "p must not be negative and must sum to 1, but sums to 0.5"),
        ([0.5, 0.5], TypeError, "p must be a dict from tuples to probabilities, not list"),
        ({"ab": 1.0}, TypeError, "p must be a dict from tuples"),
    ],
)
def test_bad_input_is_named(unchecked, p, error, words):
    with pytest.raises(error) as caught:
        Insertion(p)
    assert words in str(caught.value)
