"""Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318).

A cheap draft q proposes a token, the model p judges it: accepted with probability min(1, p / q), else drawn from
(p - q)+ normalised. The token has the distribution p exactly, and is accepted with probability 1 - TV(p, q). With
the model itself as a draft, unmasking several positions at once, it is self-speculative (arXiv:2510.03929, 2510.04147).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .categorical import pick
from .finite import settled
from .samplers import Draw, MaskedSampler, happens
from .shapes import (
    Network,
    PerExample,
    Tokens,
    check_count,
    check_scalar,
    describe,
)
from .tokens import TokenProcess


def judge(
    p: Float[Tensor, "B V"], q: Float[Tensor, "B V"], y: Int[Tensor, " B"], draw: Draw
) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]:
    """A token from p, out of a token y drawn from q; and whether it is y.  (arXiv:2211.17192, section 2.3)

    Raises TypeError or ValueError unless p and q are floats of one shape (B, V) and y is a token of each row's draft.
    """
    check_pair(p, q)
    check_draft(y, p)
    ratio = pick(p[:, None], y[:, None]) / pick(q[:, None], y[:, None])
    # min(1, p / q): where the draft is too eager for y it is thinned out to p's share.
    accepted = happens(ratio[:, 0].clamp(max=1), draw)
    rest = residual(p, q)
    rest = torch.where(accepted[:, None], F.one_hot(y, p.shape[-1]).to(p), rest)
    return draw(rest), accepted


def check_pair(p: Tensor, q: Tensor) -> None:
    """Raise unless p and q are probabilities of one shape: others might broadcast to each other."""
    for name, given in (("p", p), ("q", q)):
        if not isinstance(given, Tensor) or not given.is_floating_point():
            raise TypeError(
                f"{name} must be a float tensor of probabilities, not {describe(given)}"
            )
        if not settled(name, given.isfinite(), "finite"):
            raise FloatingPointError(f"{name} must be finite everywhere")
    if p.shape != q.shape or not p.ndim:
        raise ValueError(
            f"p and q must have one shape (..., V), not {tuple(p.shape)} and {tuple(q.shape)}"
        )


def check_draft(y: Tensor, p: Float[Tensor, "B V"]) -> None:
    """Raise unless p is (B, V) and y holds one of the V tokens for each row."""
    if p.ndim != 2:
        raise ValueError(f"p must have shape (B, V), not {tuple(p.shape)}")
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != p.shape[:1]:
        raise TypeError(
            f"y must be an int64 tensor of shape ({len(p)},), not {describe(y)}"
        )
    inside = (y >= 0) & (y < p.shape[1])
    if not settled("y", inside, f"in 0..{p.shape[1] - 1}"):
        bad = y[~inside][0].item()
        raise ValueError(f"y must lie in 0..{p.shape[1] - 1}, but holds {bad}")


def residual(
    p: Float[Tensor, "*n V"], q: Float[Tensor, "*n V"]
) -> Float[Tensor, "*n V"]:
    """(p - q)+ normalised; p itself where p = q, when nothing is ever rejected."""
    check_pair(p, q)
    rest = (p - q).clamp(min=0)
    # What p has beyond q: drawn after a rejection
    # it fills up exactly what the draft lacks.
    total = rest.sum(-1, keepdim=True)
    return torch.where(total > 0, rest / total.clamp(min=1e-300), p)


def acceptance(
    p: Float[Tensor, "*n V"], q: Float[Tensor, "*n V"]
) -> Float[Tensor, "*n"]:
    """sum min(p, q) = 1 - TV(p, q): how often a token of q is kept."""
    check_pair(p, q)
    return torch.minimum(p, q).sum(-1)


class Speculative(MaskedSampler):
    """Left to right: the model itself unmasks the next `ahead` positions at once, then judges its own draft.

    The draft of position i is p(x_i | what was visible), its judge p(x_i | also the drafted tokens before it). Up to
    the first rejection, whose token is drawn anew, the tokens have the distribution of one-at-a-time decoding. The
    judges stand here in `ahead` calls; a network with causal attention over the draft gives them in one.
    """

    def __init__(self, process: TokenProcess, ahead: int):
        super().__init__(process)
        check_count("ahead", ahead)
        self.ahead = ahead

    def rounds(self) -> range:
        """As many as there are tokens: each settles one at least."""
        return range(self.length)

    def step(self, model: Network, x: Tokens, now: int, draw: Draw) -> Tokens:
        """One draft and its judges; rows without masks stay."""
        # The draft in one call: each position given what
        # is visible now, not given the other drafts.
        q = self.conditionals(model, x)
        going = (x == self.mask).any(1)
        for _ in range(self.ahead):
            masks = x == self.mask
            going = going & masks.any(1)
            i = masks.to(torch.uint8).argmax(1)  # the first mask
            rows = torch.arange(len(x), device=x.device)
            p_i = self.conditionals(model, x)[rows, i]
            y = draw(certain_unless(going, q[rows, i]))
            y, accepted = judge(
                certain_unless(going, p_i), certain_unless(going, q[rows, i]), y, draw
            )
            x = torch.where(going[:, None], x.scatter(1, i[:, None], y[:, None]), x)
            going = going & accepted
        return x


def certain_unless(going: Bool[Tensor, " B"], p: Float[Tensor, "B V"]) -> Tensor:
    """p in rows that go on; certainty in the others, where what is drawn is not used."""
    certain = torch.zeros_like(p)
    certain[:, 0] = 1
    return torch.where(going[:, None], p, certain)


def expected_length(accept: float, ahead: int) -> float:
    """(1 - a^ahead) / (1 - a): tokens settled by a draft of `ahead`, each accepted with probability a.  (eq. 1)"""
    check_scalar("accept", accept)
    if not 0 <= accept <= 1:
        raise ValueError(f"accept must lie in 0..1, not {accept}")
    check_count("ahead", ahead)
    return float(sum(accept**k for k in range(ahead)))


def agreement(p: PerExample, q: PerExample) -> float:
    """`acceptance` of two distributions as a number."""
    return acceptance(p, q).item()
