"""Decoding of masked models: which positions open next, and what is drawn there.

Choosing the *position* from the model's distribution and then drawing its token keeps the model's distribution in any
order; choosing by the *drawn token* does not. Opening several positions at once loses their total correlation.
The rules are those of LLaDA (arXiv:2502.09992), MaskGIT (arXiv:2202.04200), Dream (arXiv:2508.15487) and
entropy-bounded unmasking (arXiv:2505.24857).
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .categorical import Law, PerToken, pick
from .finite import settled
from .samplers import Draw, MaskedSampler, only_at, position
from .shapes import Mask, Network, Tokens, check_count, check_scalar, describe
from .tokens import TokenProcess

# (p (B, L, V), masks (B, L), how many, draw) -> the positions to unmask
Order = Callable[[Tensor, Tensor, int, Draw], Tensor]
Change = Callable[[Tensor], Tensor]  # what is done to p before a token is drawn


class Unmask(MaskedSampler):
    """Masks are unmasked in `steps` steps: `order` chooses positions, and their tokens are drawn independently.

    process  with absorbing noise
    order    which masks come next; random_order by default
    steps    `length` steps unmask one at a time; fewer unmask several at once
    change   what is done to each distribution before a token is drawn: partial(temper, temperature=0.8)
    """

    def __init__(
        self,
        process: TokenProcess,
        order: Order | None = None,
        steps: int | None = None,
        change: Change | None = None,
    ):
        super().__init__(process)
        steps = self.length if steps is None else steps
        check_count("steps", steps)
        if steps > self.length:
            raise ValueError(f"steps must be at most {self.length}, not {steps}")
        for name, given in (("order", order), ("change", change)):
            if given is not None and not callable(given):
                raise TypeError(f"{name} must be a function, not {describe(given)}")
        self.order, self.steps = order or random_order, steps
        self.change = change or (lambda p: p)

    def rounds(self) -> list[int]:
        """How many positions are unmasked in each step: as equal as they can be, the larger first."""
        least, more = divmod(self.length, self.steps)
        return [least + (i < more) for i in range(self.steps)]

    def step(self, model: Network, x: Tokens, now: int, draw: Draw) -> Tokens:
        """`now` masks of each row are unmasked."""
        p = self.conditionals(model, x)
        where = self.order(p, x == self.mask, now, draw)
        return self.unmask(x, self.change(p), where, draw)


class SampledConfidence(Unmask):
    """LLaDA's "low_confidence" and MaskGIT: a token is drawn at every mask, and the likeliest of the *drawn* stay.

    At temperature 0 this is highest_probability. Above, likely tokens are chosen twice, once as they are drawn and
    once as they are kept, and the output is sharper than the model.
    """

    def __init__(self, process: TokenProcess, steps: int | None = None, change=None):
        super().__init__(process, None, steps, change)

    def step(self, model: Network, x: Tokens, now: int, draw: Draw) -> Tokens:
        """`now` of the drawn tokens of each row stay."""
        p, masks = self.conditionals(model, x), x == self.mask
        y = draw(only_at(masks, self.change(p)))
        stays = top(pick(p, y), masks, now)  # p, before it was changed
        return torch.where(stays, y, x)


# Orders: each chooses k masks of a row, or all where there are fewer


def top(score: PerToken, masks: Mask, k: int | Int[Tensor, "B 1"]) -> Mask:
    """The k masks of the highest score in each row; of equal ones the first."""
    score = score.masked_fill(~masks, -math.inf)
    # Twice argsort: the rank of each place; stable, so that equal scores are told apart
    # by position everywhere alike.
    rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return masks & (rank < k)


def left_to_right(p: Law, masks: Mask, k: int, draw: Draw) -> Mask:
    """The first masks, as an autoregressive model does."""
    place = torch.arange(masks.shape[1], device=masks.device)
    return top(-place.to(p).expand(masks.shape), masks, k)


def random_order(p: Law, masks: Mask, k: int, draw: Draw) -> Mask:
    """Any k masks, all sets equally likely: what the diffusion process does, but for the number k."""
    chosen = torch.zeros_like(masks)
    for _ in range(k):
        left = masks & ~chosen
        some = left.any(1, keepdim=True)
        weights = torch.where(some, left, True).to(p)
        one = torch.nn.functional.one_hot(position(weights, draw), masks.shape[1])
        chosen = chosen | (one.bool() & some)
    return chosen


def lowest_entropy(p: Law, masks: Mask, k: int, draw: Draw) -> Mask:
    """The masks whose tokens are least uncertain."""
    return top(-entropies(p), masks, k)


def highest_probability(p: Law, masks: Mask, k: int, draw: Draw) -> Mask:
    """The masks whose likeliest token is most probable."""
    return top(p.amax(-1), masks, k)


def largest_margin(p: Law, masks: Mask, k: int, draw: Draw) -> Mask:
    """The masks whose likeliest token is farthest ahead of the second."""
    first, second = p.topk(2, -1).values.unbind(-1)
    return top(first - second, masks, k)


def entropy_bounded(gamma: float) -> Order:
    """The most masks, least uncertain first, with sum H - max H <= gamma; always one.  (arXiv:2505.24857, eq. 8)

    sum H - max H bounds their total correlation, so no step loses more than gamma nats. The count asked for is not
    read: give `Unmask` its `length` steps, of which the last ones find nothing to do.
    """
    check_scalar("gamma", gamma)
    if not gamma >= 0:
        raise ValueError(f"gamma must not be negative, not {gamma}")

    def order(p: Law, masks: Mask, k: int, draw: Draw) -> Mask:
        H = entropies(p).masked_fill(~masks, math.inf)
        sure_first = H.sort(1).values.masked_fill(~masks.sort(1, descending=True)[0], 0)
        # Sorted, the largest entropy of the first n is the n-th: sum - max is the sum of those before it.
        before = sure_first.cumsum(1) - sure_first
        k = (before <= gamma).sum(1, keepdim=True)
        return top(-H, masks, k)

    return order


def by_blocks(block: int, order: Order) -> Order:
    """Left to right by blocks, and inside the first block that has masks as `order` says: block decoding.

    The semi-autoregressive decoding of LLaDA. Of a masked model it is one more order; of `BlockDiffusion` the only one.
    """
    check_count("block", block)

    def inside(p: Law, masks: Mask, k: int, draw: Draw) -> Mask:
        of = torch.arange(masks.shape[1], device=masks.device) // block
        first = of[masks.to(torch.uint8).argmax(1)]
        return order(p, masks & (of == first[:, None]), k, draw)

    return inside


def entropies(p: Law) -> PerToken:
    """-sum p log p at each position, nats."""
    return torch.special.entr(p).sum(-1)


# What is done to a distribution before a token is drawn


def temper(p: Float[Tensor, "*n V"], temperature: float) -> Float[Tensor, "*n V"]:
    """p^(1 / temperature), normalised; all on the likeliest token at 0."""
    check_scalar("temperature", temperature)
    if not temperature >= 0:
        raise ValueError(f"temperature must not be negative, not {temperature}")
    # The likeliest of NaN would be a token.
    if not settled("p", p.isfinite(), "finite"):
        raise FloatingPointError("p must be finite everywhere")
    if temperature == 0:
        return torch.nn.functional.one_hot(p.argmax(-1), p.shape[-1]).to(p)
    return (p.log() / temperature).softmax(-1)


def nucleus(p: Float[Tensor, "*n V"], mass: float) -> Float[Tensor, "*n V"]:
    """Top-p: the fewest likeliest tokens that have at least `mass` together, normalised. Holtzman et al. 2020."""
    check_scalar("mass", mass)
    if not 0 < mass <= 1:
        raise ValueError(f"mass must lie in (0, 1], not {mass}")
    q, order = p.sort(-1, descending=True)
    before = q.cumsum(-1) - q
    q = q.masked_fill(before >= mass, 0)
    kept = torch.zeros_like(p).scatter(-1, order, q)
    return kept / kept.sum(-1, keepdim=True)
