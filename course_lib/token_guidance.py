"""Guidance for tokens (Nisonoff et al. 2024, arXiv:2406.01572; Schiff et al. 2024, arXiv:2412.10193).

Given the class c, a chain whose rates are R runs backwards with the rates

    R_gamma(x -> y) = R(x -> y) [p(c | y) / p(c | x)]^gamma,

x and y differing at one position. gamma = 1 is Bayes' rule and exact. Other powers do not give p(x) p(c | x)^gamma.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .categorical import Law
from .finite import note
from .samplers import Draw, MaskedSampler
from .shapes import Network, PerExample, Tokens, check_scalar, describe
from .tokens import TokenProcess

Classifier = Callable[[Tensor], Tensor]  # states (N, L) -> log p(c | x), (N,)


def guided(
    rates: Float[Tensor, "*n K"], log_ratio: Float[Tensor, "*n K"], gamma: float
) -> Float[Tensor, "*n K"]:
    """rates x exp(gamma log_ratio), log_ratio = log p(c | y) - log p(c | x); 0 where the rate is 0.  (eq. 5)"""
    # A state of probability 0 may have a ratio of inf, and 0 x inf would be NaN.
    factor = torch.where(rates > 0, gamma * log_ratio, 0).exp()
    return rates * factor


def neighbours(x: Tokens, V: int) -> Int[Tensor, "B L V L"]:
    """All sequences with one position replaced: (B, L, V, L), [b, i, y] is x[b] with y at i."""
    B, L = x.shape
    out = x[:, None, None].expand(B, L, V, L).clone()
    place = torch.arange(L, device=x.device)
    out[:, place, :, place] = torch.arange(V, device=x.device)
    return out


def log_ratios(classifier: Classifier, x: Tokens, V: int) -> Float[Tensor, "B L V"]:
    """log p(c | y) - log p(c | x) for the neighbours y of x: L x V calls a state."""
    here = said(classifier, x)
    there = said(classifier, neighbours(x, V).reshape(-1, x.shape[1]))
    return there.reshape(*x.shape, V) - here[:, None, None]


def said(classifier: Classifier, x: Tokens) -> PerExample:
    """log p(c | x) of each state; ValueError for another shape, FloatingPointError for NaN."""
    log_p = classifier(x)
    if not isinstance(log_p, Tensor) or log_p.shape != (len(x),):
        raise ValueError(
            f"classifier must return one log p(c | x) per state, ({len(x)},), not {describe(log_p)}"
        )
    # -inf is a class that this state cannot have.
    note("what classifier returns", ~log_p.isnan(), must="a number")
    return log_p


class Guided(MaskedSampler):
    """Positions unmasked one at a time at guided rates: which comes next is guided, too.

    Under absorbing noise all rates have the factor w(t) in common. It says when a mask is unmasked, not which, so the
    chain of jumps is drawn: position and token in proportion to p(y at i | x) [p(c | y) / p(c | x)]^gamma.
    """

    def __init__(self, process: TokenProcess, classifier: Classifier, gamma: float):
        super().__init__(process)
        if not callable(classifier):
            raise TypeError(
                f"classifier must be callable on states, not {describe(classifier)}"
            )
        check_scalar("gamma", gamma)
        if not math.isfinite(gamma):
            raise ValueError(f"gamma must be finite, not {gamma}")
        self.classifier, self.gamma = classifier, gamma

    def rounds(self) -> range:
        """One jump for each position."""
        return range(self.length)

    def step(self, model: Network, x: Tokens, now: int, draw: Draw) -> Tokens:
        """One jump of each row that has a mask."""
        w = self.rates(model, x)
        masks = (x == self.mask).any(1)
        # Rows that are finished draw from something, too, and drop it.
        w = torch.where(masks[:, None, None], w, 1.0).flatten(1)
        jump = draw(w / w.sum(1, keepdim=True))
        i, y = jump // self.V, jump % self.V
        moved = x.scatter(1, i[:, None], y[:, None])
        return torch.where(masks[:, None], moved, x)

    def rates(self, model: Network, x: Tokens) -> Law:
        """Guided rates of each mask into each token, up to w(t): (B, L, V); 0 at tokens."""
        p = self.conditionals(model, x)
        p = torch.where((x == self.mask)[..., None], p, 0.0)
        return guided(p, log_ratios(self.classifier, x, self.V), self.gamma)


def total_rate(rates: Float[Tensor, "B L V"]) -> PerExample:
    """How fast anything happens."""
    return rates.flatten(1).sum(1)
