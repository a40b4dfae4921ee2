"""Matrices of similar tokens: Gaussian, bands, walks on graphs, and products of steps."""

# ruff: noqa: E501 (one line for each bad input)

import math

import pytest
import torch
from noises import (
    BETA,
    RATES,
    TABLE,
    T,
    V,
    step_matrix,
    times,
)
from torch import tensor

from course_lib.structured import Neighbours, StepMatrices, band, gaussian, nearest_neighbours


def test_gaussian_by_row_sums_would_not_keep_the_uniform_law():
    i = torch.arange(8.0).double()
    Q = (-4 * (i[:, None] - i).square() / (49 * 0.5)).exp()
    Q = Q / Q.sum(1, keepdim=True)
    assert abs(Q.sum(0).min() - 0.815) < 1e-3 and abs(Q.sum(0).max() - 1.095) < 1e-3
    ours = gaussian(8, tensor([0.5] * 400).double())
    assert (ours.matrix(times(0), times(1)).sum(1) - 1).abs().max() < 1e-14
    assert (ours.matrix(times(0), times(400)) - 1 / 8).abs().max() < 1e-12


def test_neighbours_at_the_far_end_is_uniform():
    noise = Neighbours(RATES, torch.cat([TABLE[:-1], torch.zeros(1)]))
    assert (noise.matrix(times(0), times(T)) - 1 / V).abs().max() < 1e-14


def test_nearest_neighbours_by_hand():
    e = tensor([[1.0, 0.0], [2.0, 0.1], [1.0, 0.5], [0.0, 3.0]])  # by angle: 0, 1, 2, 3 in this order
    R = nearest_neighbours(e, 1)  # 0 -> 1, 1 -> 0, 2 -> 1, 3 -> 2
    want = torch.zeros(4, 4).double()
    want[0, 1] = want[1, 0] = 1.0
    want[1, 2] = want[2, 1] = want[2, 3] = want[3, 2] = 0.5
    torch.testing.assert_close(R, want - want.sum(1).diag())
    R2 = nearest_neighbours(e, 2)  # 0: 1, 2; 1: 0, 2; 2: 1, 0; 3: 2, 1
    assert R2[0, 1] == 0.5 and R2[0, 2] == 0.5 and R2[3, 2] == 0.25 and R2[3, 0] == 0


def test_a_disconnected_graph_is_named():
    R = torch.zeros(5, 5).double()
    for i, j in ((0, 1), (2, 3), (3, 4)):
        R[i, j] = R[j, i] = 1.0
    with pytest.raises(ValueError, match="rates must join all tokens, but the graph has 2 pieces"):
        Neighbours(R - R.sum(1).diag(), TABLE)


def test_a_chain_keeps_few_products():
    calls = []

    def one_step(t):
        calls.append(t)
        return step_matrix("gaussian", 3)

    chain = StepMatrices(one_step, 100)
    assert chain.products.shape == (11, V, V)
    calls.clear()
    chain.likelihood(tensor([[0], [1]]), times(0, 0), times(57, 57))
    assert len(calls) == 7  # from the product of 50 steps on, once for both examples
    calls.clear()
    chain.mix(torch.rand(1, 1, V), times(40), times(42))
    assert calls == [41, 42]


@pytest.mark.parametrize("beta", [1.5, 10.0])
def test_a_gaussian_may_be_wider_than_beta_1(beta):
    """beta is a width: every one above 0 gives a symmetric stochastic matrix, the wider the nearer to uniform."""
    K = 5
    Q = gaussian(K, tensor([beta])).matrix(times(0), times(1))[0]
    w = [math.exp(-4 * n**2 / ((K - 1) ** 2 * tensor(beta).double().item())) for n in range(K)]
    Z = w[0] + 2 * sum(w[1:])
    for i in range(K):
        for j in range(K):
            assert i == j or Q[i, j].item() == pytest.approx(w[abs(i - j)] / Z, rel=1e-7)
    assert (Q > 0).all() and torch.equal(Q, Q.T)
    torch.testing.assert_close(Q.sum(1), torch.ones(K).double())
    many = gaussian(K, torch.full((60,), beta)).matrix(times(0), times(60))[0]
    assert (many - 1 / K).abs().max() < 1e-8


def test_nearest_neighbours_by_distance():
    """As D3PM's code has it: length counts, not the angle alone, and a zero vector is a point as any other."""
    e = tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.0, 7.0]])
    R = nearest_neighbours(e, 1, metric="euclidean")  # 0 -> 1, 1 -> 0, 2 -> 1, 3 -> 0
    want = torch.zeros(4, 4).double()
    want[0, 1] = want[1, 0] = 1.0
    want[1, 2] = want[2, 1] = want[0, 3] = want[3, 0] = 0.5
    torch.testing.assert_close(R, want - want.sum(1).diag())
    near = (
        1000 + 1e-6 * torch.arange(40).double()[:, None]
    )  # whose squares are alike in all but the last digits
    A = nearest_neighbours(near, 2, metric="euclidean")
    assert (A.diagonal(1) > 0).all() and A.triu(3).abs().max() == 0


def test_random_neighbours_are_the_nearest():
    e = torch.randn(30, 4).double()
    distance = (e[:, None] - e).norm(dim=-1)
    unit = e / e.norm(dim=1, keepdim=True)
    for metric, far in (("euclidean", distance), ("cosine", 1 - unit @ unit.T)):
        near = far.argsort(1)[:, 1:4]  # itself comes first
        G = torch.zeros(30, 30).double()
        G[torch.arange(30)[:, None], near] = 1
        A = (G + G.T) / 6
        torch.testing.assert_close(nearest_neighbours(e, 3, metric), A - A.sum(1).diag())


def test_every_connected_graph_ends_uniform():
    """Whichever sign rounding gives the eigenvalue 0."""
    for seed in range(6):
        torch.manual_seed(seed)
        R = nearest_neighbours(torch.randn(12, 3), 6)
        noise = Neighbours(R, torch.cat([TABLE[:-1], torch.zeros(1)]))
        assert (noise.matrix(times(0), times(T)) - 1 / 12).abs().max() < 1e-12


# Bad input


@pytest.mark.parametrize("call, error, words", [
    (lambda: gaussian(1, BETA), ValueError, "K must be at least 2"),
    (lambda: band(3, tensor([0.1, 1.2]), 1), ValueError, r"beta must lie in \[0, 1\], but at t = 2 it is 1.2"),
    (lambda: gaussian(3, tensor([0.1, math.inf])), ValueError, r"beta must be finite and not negative, but at t = 2 it is inf"),
    (lambda: gaussian(3, tensor([0.1, -0.2])), ValueError, "beta must be finite and not negative, but at t = 2 it is -0.2"),
    (lambda: gaussian(3, tensor([float("nan")])), ValueError, "beta must be finite and not negative, but at t = 1 it is nan"),
    (lambda: gaussian(3, tensor([0.1, 0.0])), ValueError, "beta must be positive"),
    (lambda: gaussian(3, torch.zeros(0)), ValueError, r"beta must be a float tensor \(T,\) with T >= 1"),
    (lambda: band(3, BETA, 0), ValueError, "width must be at least 1, not 0"),
    (lambda: band(3, BETA, 3), ValueError, "width must be less than K = 3, not 3"),
    (lambda: band(1, BETA, 1), ValueError, "K must be at least 2"),
    (lambda: StepMatrices(lambda t: torch.eye(2), 0), ValueError, "T must be at least 1"),
    (lambda: StepMatrices(lambda t: tensor([[1.0, 0.0], [0.5, 0.6]]), 2), ValueError, r"each row of one_step\(1\) must sum to 1, but row 1 sums to 1 \+0.1"),
    (lambda: StepMatrices(lambda t: torch.eye(2) if t < 2 else tensor([[1.0, 0.0], [1.2, -0.2]]), 2), ValueError, r"one_step\(2\) must not be negative, but row 1 holds -0.2 at 1"),
    (lambda: StepMatrices(lambda t: torch.ones(2, 3) / 3, 2), ValueError, r"one_step\(1\) must be a float tensor \(K, K\)"),
    (lambda: StepMatrices(lambda t: torch.eye(t + 1), 2), ValueError, r"one_step\(2\) must have shape \(2, 2\) as one_step\(1\) has, not \(3, 3\)"),
    (lambda: StepMatrices(lambda t: torch.eye(2).requires_grad_(), 2), ValueError, r"one_step\(1\) must not require a gradient"),
    (lambda: gaussian(3, BETA.clone().requires_grad_()), ValueError, "beta must not require a gradient"),
    (lambda: Neighbours(RATES.clone().requires_grad_(), TABLE), ValueError, "rates must not require a gradient"),
    (lambda: nearest_neighbours(torch.randn(3, 2).requires_grad_(), 1), ValueError, "embeddings must not require a gradient"),
    (lambda: nearest_neighbours(tensor([[1.0], [math.nan], [2.0]]), 1), ValueError, "embeddings must be finite"),
    (lambda: nearest_neighbours([[1.0]], 1), ValueError, r"embeddings must be a float tensor \(K, D\), not list"),
    (lambda: Neighbours(torch.full((3, 3), math.nan), TABLE), ValueError, "rates must be finite"),
    (lambda: nearest_neighbours(torch.randn(3, 2), 1, "manhattan"), ValueError, "metric must be one of cosine, euclidean"),
    (lambda: Neighbours(torch.ones(2, 3), TABLE), ValueError, r"rates must be a float tensor \(K, K\)"),
    (lambda: Neighbours(tensor([[-1.0, 1.0], [2.0, -2.0]]), TABLE), ValueError, "rates must be symmetric"),
    (lambda: Neighbours(tensor([[1.0, -1.0], [-1.0, 1.0]]), TABLE), ValueError, "rates must not be negative off the diagonal"),
    (lambda: Neighbours(tensor([[-1.0, 2.0], [2.0, -2.0]]), TABLE), ValueError, "each row of rates must sum to 0, but row 0 sums to 1"),
    (lambda: nearest_neighbours(torch.randn(3, 2), 3), ValueError, "k must be less than the 3 tokens, not 3"),
    (lambda: nearest_neighbours(torch.randn(3, 2), 0), ValueError, "k must be at least 1"),
    (lambda: nearest_neighbours(tensor([[1.0], [0.0], [2.0]]), 1), ValueError, "embeddings must not be zero for metric=.cosine., but that of token 1 is"),
])  # fmt: skip
def test_bad_input_is_named(call, error, words, unchecked):
    with pytest.raises(error, match=words):
        call()
