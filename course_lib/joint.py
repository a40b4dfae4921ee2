"""Joint distributions of a few tokens written out: p of shape (V,) * L, with p[x] the probability of the sequence x.

For tiny worlds, where a sampler's output distribution and the data's can be compared entry by entry.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .shapes import check_count, check_scalar, check_seed, describe

Joint = Float[Tensor, "..."]


def entropy(p: Joint) -> float:
    """-sum p log p, nats."""
    return torch.special.entr(check_joint("p", p)).sum().item()


def total_variation(p: Joint, q: Joint) -> float:
    """Half the sum of |p - q|: the largest difference in the probability of any event."""
    check_same(p, q)
    return (p - q).abs().sum().item() / 2


def kl(p: Joint, q: Joint) -> float:
    """KL(p || q) = sum p log(p / q), nats; infinite where q = 0 < p."""
    check_same(p, q)
    there = p > 0
    return (p[there] * (p[there] / q[there]).log()).sum().item()


def marginal(p: Joint, positions: list[int]) -> Joint:
    """The distribution of the tokens at these positions, in their order in the sequence."""
    check_joint("p", p)
    check_positions("positions", positions, p.ndim)
    others = [i for i in range(p.ndim) if i not in positions]
    return p.sum(others) if others else p


def conditional_entropy(p: Joint, of: list[int], given: list[int]) -> float:
    """H(x_of | x_given) = H(both) - H(x_given), nats; 0 for no positions."""
    check_joint("p", p)
    check_positions("of", of, p.ndim)
    check_positions("given", given, p.ndim)

    def of_places(places: set[int]) -> float:
        return entropy(marginal(p, sorted(places))) if places else 0.0

    return of_places({*of, *given}) - of_places({*given})


def total_correlation(p: Joint, of: list[int], given: Sequence[int] = ()) -> float:
    """sum_i H(x_i | given) - H(x_of | given): what is lost where x_of are drawn independently, given x_given. Nats.

    0 if and only if they are independent given x_given; at most sum_i H_i - max_i H_i.  (arXiv:2505.24857, eq. 6)
    """
    given = list(given)
    check_positions("of", of, check_joint("p", p).ndim)
    alone = sum(conditional_entropy(p, [i], given) for i in of)
    return alone - conditional_entropy(p, of, given)


def drawn_in_groups(p: Joint, groups: Sequence[Sequence[int]]) -> Joint:
    """What a perfect network writes that unmasks one group of positions after the other, each group's tokens alone.

    q(x) = prod over groups U of prod over i in U of p(x_i | the groups before).
    """
    check_groups(groups, check_joint("p", p).ndim)
    q, before = torch.ones_like(p), []
    for group in groups:
        for i in group:
            q = q * conditional(p, i, before)
        before = [*before, *group]
    return q


def conditional(p: Joint, i: int, given: Sequence[int]) -> Joint:
    """p(x_i | x_given), of p's number of axes, 1 wide where it does not depend; 0 where the given never come."""
    check_positions("i", [i], check_joint("p", p).ndim)
    check_positions("given", given, p.ndim)
    others = [j for j in range(p.ndim) if j != i and j not in given]
    both = p.sum(others, keepdim=True) if others else p
    known = both.sum(i, keepdim=True)
    return torch.where(known > 0, both / known.clamp(min=1e-300), 0)


def independence_cost(p: Joint, groups: Sequence[Sequence[int]]) -> list[float]:
    """Total correlation of each group given those before, nats. Their sum is KL(p || drawn_in_groups(p, groups)).

    Chain rule for KL: the order costs nothing, only what is drawn at once does.  (arXiv:2505.24857)
    """
    check_groups(groups, check_joint("p", p).ndim)
    costs, before = [], []
    for group in groups:
        costs.append(total_correlation(p, list(group), before))
        before = [*before, *group]
    return costs


def random_joint(V: int, length: int, concentration: float, seed: int) -> Joint:
    """A joint distribution drawn from a Dirichlet distribution, float64. Low concentration: few likely sequences."""
    check_count("V", V, least=2)
    check_count("length", length)
    check_scalar("concentration", concentration)
    if not 0 < concentration < math.inf:
        raise ValueError(
            f"concentration must be above 0 and finite, not {concentration}"
        )
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    alpha = torch.full((V**length,), concentration, dtype=torch.float64)
    gamma = torch._standard_gamma(alpha, generator)
    # What underflows is drawn as the least float: if all are, they would look even.
    if not gamma.max() > torch.finfo(torch.float64).tiny:
        raise ValueError(
            f"concentration must be larger: at {concentration:g} all draws underflow in float64"
        )
    return (gamma / gamma.sum()).reshape((V,) * length)


# Bad input


def check_joint(name: str, p: Tensor) -> Joint:
    """p, or an error: float64, (V,) * L, not negative, sums to 1."""
    if not isinstance(p, Tensor) or p.dtype != torch.float64 or not p.ndim:
        raise TypeError(
            f"{name} must be a float64 tensor (V, ..., V), not {describe(p)}"
        )
    if not (p >= 0).all() or abs(p.sum() - 1) > 1e-6:
        raise ValueError(
            f"{name} must not be negative and must sum to 1, but sums to {p.sum():g}"
        )
    return p


def check_same(p: Tensor, q: Tensor) -> None:
    """Raise unless both are joint distributions of the same sequences."""
    check_joint("p", p)
    check_joint("q", q)
    if p.shape != q.shape:
        raise ValueError(
            f"p and q must have one shape, not {tuple(p.shape)} and {tuple(q.shape)}"
        )


def check_groups(groups: Sequence[Sequence[int]], length: int) -> None:
    """Raise unless every position is in exactly one group."""
    found = sorted(i for group in groups for i in group)
    if found != list(range(length)):
        raise ValueError(
            f"groups must hold each of the positions 0..{length - 1} once, not {[list(g) for g in groups]}"
        )


def check_positions(name: str, positions: Sequence[int], length: int) -> None:
    """Raise unless these are different positions of a sequence."""
    good = all(isinstance(i, int) and 0 <= i < length for i in positions)
    if not good or len(set(positions)) != len(positions):
        raise ValueError(
            f"{name} must be different numbers in 0..{length - 1}, not {positions}"
        )
