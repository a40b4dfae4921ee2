"""Variable length: tokens are deleted going forward and inserted going back (arXiv:2506.09018, arXiv:2509.01025).

Noise keeps each token with probability kappa and closes the gaps, so that at kappa = 0 nothing is left. Backwards the
token a is inserted into gap g of x at the rate

    kappa' / (1 - kappa) E[how many a are missing in gap g | x],

which is what a network learns, and what is exact here for a distribution over a few short strings.
"""

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from .schedules import check_number
from .shapes import describe

Text = tuple[int, ...]


class Insertion:
    """The process for a distribution over strings of any length, written out.

    p  {string: probability}; strings are tuples of tokens, () is the empty one
    """

    def __init__(self, p: dict[Text, float]):
        if not isinstance(p, dict) or not all(isinstance(x, tuple) for x in p):
            raise TypeError(
                f"p must be a dict from tuples to probabilities, not {describe(p)}"
            )
        total = sum(p.values())
        if not (all(v >= 0 for v in p.values()) and abs(total - 1) <= 1e-9):
            raise ValueError(
                f"p must not be negative and must sum to 1, but sums to {total:g}"
            )
        self.p = p
        self.parts = {x: subsequences(x) for x in p}
        states = {y for parts in self.parts.values() for y, _ in parts}
        self.states = sorted(states, key=lambda y: (len(y), y))
        self.index = {y: n for n, y in enumerate(self.states)}

    def marginal(self, kappa: float) -> Float[Tensor, " S"]:
        """p_t over `states`: each token is there with probability kappa."""
        if not 0 <= kappa <= 1:
            raise ValueError(f"kappa must lie in [0, 1], not {kappa}")
        out = torch.zeros(len(self.states), dtype=torch.float64)
        for x, p in self.p.items():
            for y, _ in self.parts[x]:
                out[self.index[y]] += (
                    p * kappa ** len(y) * (1 - kappa) ** (len(x) - len(y))
                )
        return out

    def missing(self, kappa: float) -> dict[tuple[Text, int, int], float]:
        """E[how many a are missing in gap g | x] by (x, g, a)."""
        # Bayes over all data that x may come from: how
        # many a its gap g still lacks, on average.
        total, count = self.marginal(kappa), {}
        for x, p in self.p.items():
            for y, gaps in self.parts[x]:
                weight = p * kappa ** len(y) * (1 - kappa) ** (len(x) - len(y))
                for g, gap in enumerate(gaps):
                    for a in gap:
                        key = (y, g, a)
                        count[key] = count.get(key, 0.0) + weight
        mass = {y: total[n].item() for y, n in self.index.items()}
        return {key: c / mass[key[0]] for key, c in count.items() if mass[key[0]] > 0}

    def rates(self, kappa: float, slope: float = 1.0) -> Float[Tensor, "S S"]:
        """R[x, y]: how fast x becomes y by one insertion; rows sum to 0."""
        if not 0 <= kappa < 1:
            raise ValueError(
                f"kappa must lie in [0, 1), not {kappa}: at 1 nothing is missing"
            )
        slope = check_number("slope", slope, least=0)
        R = torch.zeros(len(self.states), len(self.states), dtype=torch.float64)
        for (x, g, a), expected in self.missing(kappa).items():
            y = (*x[:g], a, *x[g:])
            # Each missing token comes at the rate kappa' / (1 - kappa), whatever else
            # is there; several ways to the same y add up.
            R[self.index[x], self.index[y]] += slope / (1 - kappa) * expected
        return R - R.sum(1).diag()


def subsequences(x: Text) -> list[tuple[Text, list[list[int]]]]:
    """Every way to delete tokens of x: what is left, and what is missing in each of its gaps, left to right."""
    out = []
    for kept in product((True, False), repeat=len(x)):
        left, gaps = [], [[]]
        for token, keep in zip(x, kept, strict=True):
            if keep:
                left.append(token)
                gaps.append([])
            else:
                gaps[-1].append(token)
        out.append((tuple(left), gaps))
    return out
