"""Shortest ways against all ways, the heat kernel against Bessel functions and the matrix exponential."""

import math
from itertools import combinations, pairwise, permutations

import pytest
import torch
from scipy.linalg import expm
from scipy.special import ive

from course_lib.geodesics import check_square, edges, geodesics, heat_kernel, hops, representatives
from course_lib.structured import cosine_distance, nearest_neighbours


def random_lengths(K: int, missing: float = 0.5) -> torch.Tensor:
    lengths = torch.rand(K, K).double() + 0.1
    lengths = torch.minimum(lengths, lengths.T)
    lengths[torch.rand(K, K) < missing] = torch.inf
    lengths = torch.maximum(lengths, lengths.T)
    return lengths.fill_diagonal_(0)


def cycle(K: int) -> torch.Tensor:
    A = torch.eye(K).double().roll(1, 0)
    return A + A.T - 2 * torch.eye(K).double()


def path(K: int) -> torch.Tensor:
    A = torch.diag(torch.ones(K - 1).double(), 1)
    A = A + A.T
    return A - A.sum(1).diag()


@pytest.mark.parametrize("seed", range(4))
def test_geodesics_are_the_least_over_all_ways(seed):
    torch.manual_seed(seed)
    W = random_lengths(5)
    best = torch.full((5, 5), torch.inf).double().fill_diagonal_(0)
    for n in range(2, 6):
        for way in permutations(range(5), n):
            length = sum(W[a, b].item() for a, b in pairwise(way))
            best[way[0], way[-1]] = min(best[way[0], way[-1]].item(), length)
    torch.testing.assert_close(geodesics(W), best)


def test_an_edge_of_no_length_is_an_edge_and_an_island_is_infinitely_far():
    W = torch.tensor([[0.0, 0.0, math.inf], [0.0, 0.0, math.inf], [math.inf, math.inf, 0.0]])
    assert geodesics(W).tolist() == [[0, 0, math.inf], [0, 0, math.inf], [math.inf, math.inf, 0]]


def test_edges_are_those_of_the_neighbour_matrix():
    torch.manual_seed(0)
    e = torch.randn(7, 3).double()
    R, D = nearest_neighbours(e, 2), cosine_distance(e)
    W = edges(D, R)
    joined = (R > 0) | torch.eye(7).bool()
    assert W.isfinite().equal(joined)
    assert W.diagonal().eq(0).all() and W[R > 0].equal(D[R > 0])


def test_hops_of_a_cycle_and_of_a_path():
    i = torch.arange(9)
    apart = (i[:, None] - i).abs()
    assert hops(path(9)).equal(apart.double())
    assert hops(cycle(9)).equal(torch.minimum(apart, 9 - apart).double())


@pytest.mark.parametrize("alpha", [1e-9, 1e-3, 0.3, 4.0])
def test_the_heat_kernel_of_a_cycle_is_a_sum_of_bessel_functions_however_small(alpha):
    """On the integers exp(alpha R)_ij = exp(-2 alpha) I_|i-j|(2 alpha); a cycle wraps it around."""
    K = 11
    got = heat_kernel(cycle(K), alpha)[0]
    want = [sum(ive(abs(j + K * n), 2 * alpha) for n in range(-30, 31)) for j in range(K)]
    torch.testing.assert_close(got, torch.tensor(want).double(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("alpha", [0.0, 0.01, 1.0, 30.0])
def test_the_heat_kernel_is_the_matrix_exponential(alpha):
    torch.manual_seed(1)
    R = nearest_neighbours(torch.randn(12, 4).double(), 3)
    K = heat_kernel(R, alpha)
    torch.testing.assert_close(K, torch.from_numpy(expm(alpha * R.numpy())), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(K.sum(1), torch.ones(12).double())


def test_for_small_alpha_it_counts_hops_and_varadhans_formula_vanishes():
    torch.manual_seed(2)
    R = nearest_neighbours(torch.randn(30, 4).double(), 3)
    h, alpha = hops(R), 1e-40
    log_K = heat_kernel(R, alpha).log()
    assert h.isfinite().all() and h.max() >= 3
    slope = log_K / math.log(alpha)
    assert (slope - h).abs().max() < 0.2 and (slope - h).abs().max() > 0
    assert (-4 * alpha * log_K).max() < 1e-36  # Varadhan's squared distance


def cost(D, chosen) -> float:
    return D[:, list(chosen)].amin(1).sum().item()


@pytest.mark.parametrize("seed", range(3))
def test_representatives_of_separated_groups_are_the_best_of_all_choices(seed):
    torch.manual_seed(seed)
    centre = torch.tensor([0.0, 10.0, 25.0]).repeat_interleave(4)
    x = centre + torch.rand(12)
    D = (x[:, None] - x).abs().double()
    best = min(combinations(range(12), 3), key=lambda chosen: cost(D, chosen))
    assert tuple(representatives(D, 3).tolist()) == best


def test_one_exchange_is_never_better():
    torch.manual_seed(3)
    D = torch.cdist(torch.randn(20, 2), torch.randn(20, 2)).double()
    D = D + D.T
    chosen = representatives(D, 4).tolist()
    for k in range(4):
        for new in set(range(20)) - set(chosen):
            assert cost(D, [*chosen[:k], new, *chosen[k + 1 :]]) >= cost(D, chosen) - 1e-9
    assert representatives(D, 20).tolist() == list(range(20))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda: check_square("distance", torch.zeros(3, 2)),
            ValueError,
            r"distance must have shape \(N, N\), not \(3, 2\)",
        ),
        (lambda: geodesics(-torch.ones(2, 2)), ValueError, "lengths must not be negative"),
        (
            lambda: check_square("distance", torch.zeros(2, 2).long()),
            TypeError,
            "distance must be a float tensor",
        ),
        (lambda: edges(torch.zeros(3, 3), path(4)), (ValueError, TypeError), "rates"),
        (lambda: heat_kernel(path(3), -1.0), ValueError, "alpha must be finite and not negative, not -1"),
        (lambda: heat_kernel(path(3), 1e4), ValueError, "alpha must be small enough"),
        (lambda: heat_kernel(torch.ones(2, 2), 1.0), ValueError, "each row of rates must sum to 0"),
        (lambda: representatives(torch.zeros(3, 3), 4), ValueError, "m must be at most the 3 things, not 4"),
        (lambda: representatives(torch.zeros(3, 3), 0), ValueError, "m must be"),
    ],
)
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()
