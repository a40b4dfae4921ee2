"""Distance along a graph of similar things: geodesics, the heat kernel beside them, and representatives.

`lengths` and `rates` are (K, K). Words or sentences that are joined by a chain of near ones are near along the graph,
however far apart in a straight line.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .files import needs
from .shapes import check_count, check_scalar, describe
from .structured import check_rates


def edges(
    distance: Float[Tensor, "K K"], rates: Float[Tensor, "K K"]
) -> Float[Tensor, "K K"]:
    """distance[i, j] where rates joins i and j, inf where it does not, 0 on the diagonal.

    rates  as `structured.nearest_neighbours` makes them
    """
    check_square("distance", distance)
    R = check_rates(rates)
    if distance.shape != R.shape:
        raise ValueError(
            f"distance must have shape {tuple(R.shape)} as rates has, not {tuple(distance.shape)}"
        )
    lengths = distance.double().masked_fill(R <= 0, torch.inf)
    return lengths.fill_diagonal_(0)


def geodesics(lengths: Float[Tensor, "K K"]) -> Float[Tensor, "K K"]:
    """Length of the shortest path between each two, float64: Dijkstra's, by scipy; inf where no path leads.

    lengths  of the edges, not negative, inf where there is none. An edge counts in both directions.
    """
    check_square("lengths", lengths)
    if not (lengths >= 0).all():
        raise ValueError(
            "lengths must not be negative or NaN: Dijkstra's paths only grow"
        )
    graph = needs("scipy.sparse.csgraph", "scipy")
    # As a matrix of scipy's own, in which an edge of length 0 is an edge.
    sparse = graph.csgraph_from_dense(lengths.double().numpy(), null_value=torch.inf)
    return torch.from_numpy(graph.dijkstra(sparse, directed=False))


def hops(rates: Float[Tensor, "K K"]) -> Float[Tensor, "K K"]:
    """Fewest edges between each two: the geodesics if every edge has the length 1."""
    return geodesics(edges(torch.ones_like(rates), rates))


def heat_kernel(rates: Float[Tensor, "K K"], alpha: float) -> Float[Tensor, "K K"]:
    """K = exp(alpha R), every entry to full relative precision, however small: float64.

    With P = I + R / c, none of whose entries is negative, K = sum_n exp(-alpha c) (alpha c)^n / n! P^n: nothing
    cancels (uniformisation, Jensen 1953). An eigendecomposition is right to 1e-16 of the largest entry only.
    Off the diagonal K_ij = alpha^h (R^h)_ij / h! (1 + O(alpha)), h the hops: log K_ij / log alpha -> h.
    """
    R = check_rates(rates)
    check_scalar("alpha", alpha)
    if not 0 <= alpha < torch.inf:
        raise ValueError(f"alpha must be finite and not negative, not {alpha}")
    c = 2 * R.diagonal().abs().max().clamp(min=1e-300)  # P keeps half, at least
    P = torch.eye(len(R), dtype=R.dtype) + R / c
    term = torch.eye(len(R), dtype=R.dtype) * torch.exp(-alpha * c)
    if not term.any():
        raise ValueError(
            f"alpha must be small enough for exp(-alpha c) in float64, c = {c:.3g}, but is {alpha}"
        )
    total, n = term.clone(), 0
    while True:
        n += 1
        term = term @ P * (alpha * c / n)
        reached = int((total > 0).sum())
        total = total + term
        grown = int((total > 0).sum()) > reached
        if not grown and n > alpha * c and (term <= 1e-17 * total).all():
            return total


def representatives(distance: Float[Tensor, "N N"], m: int) -> Int[Tensor, " m"]:
    """m of N things such that the sum over all of the distance to the nearest of them is small, rising (k-medoids).

    First one at a time, each the best; then exchanged as long as one exchange is better (Kaufman & Rousseeuw 1990,
    PAM). ValueError for m outside 1..N.
    """
    check_square("distance", distance)
    if not distance.isfinite().all():
        raise ValueError("distance must be finite everywhere")
    check_count("m", m)
    N = len(distance)
    if m > N:
        raise ValueError(f"m must be at most the {N} things, not {m}")
    chosen: list[int] = []
    for _ in range(m):
        chosen.append(best_with(distance, chosen)[1])
    best = total(distance, chosen)
    better = True
    while better:
        better = False
        for k in range(m):
            rest = chosen[:k] + chosen[k + 1 :]
            cost, new = best_with(distance, rest)
            if cost < best - 1e-12 * abs(best):
                chosen, best, better = [*rest, new], cost, True
    return torch.tensor(sorted(chosen))


def best_with(distance: Tensor, chosen: list[int]) -> tuple[float, int]:
    """The least total with one more, and which one."""
    costs = distance
    if chosen:
        near = distance[:, chosen].amin(1, keepdim=True)
        costs = torch.minimum(distance, near)
    sums = costs.sum(0)
    sums[chosen] = torch.inf
    return sums.min().item(), int(sums.argmin())


def total(distance: Float[Tensor, "N N"], chosen: list[int]) -> float:
    """Sum over all of the distance to the nearest of the chosen."""
    return distance[:, chosen].amin(1).sum().item()


def check_square(name: str, x: Tensor) -> None:
    """Raise unless x is a float tensor (N, N)."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{name} must be a float tensor (N, N), not {describe(x)}")
    if x.ndim != 2 or x.shape[0] != x.shape[1]:
        raise ValueError(f"{name} must have shape (N, N), not {tuple(x.shape)}")
