"""Prompts and infilling: known parts of a sequence are put back after each step of `sample(..., clamp=...)`.

Exact for absorbing noise. Under other noise a step has not seen what is put back after it, so the rest does not
follow its law given the known parts; `Process.check_clamp` refuses that unless it is asked for by name.
"""

from collections.abc import Callable

import torch

from .shapes import Mask, State, Tokens


class Keep:
    """A clamp that puts the context back wherever it is known. Made by `keep`.

    exact        its maker knows that this is right, whatever the noise: the network never saw these places noised
    approximate  its user knows that it is not, and wants it all the same
    """

    def __init__(
        self,
        known: Mask,
        context: State,
        exact: bool = False,
        approximate: bool = False,
    ):
        self.known, self.context = known, context
        self.exact, self.approximate = exact, approximate

    def __call__(self, x: State) -> State:
        if x.shape[:2] != self.known.shape:
            raise ValueError(
                f"known must have a row for each of the n sequences sampled, {tuple(x.shape[:2])}, "
                f"not {tuple(self.known.shape)}"
            )
        known = self.known.reshape(*self.known.shape, *[1] * (x.ndim - 2))
        # Vectors or tokens alike: `known` is (B, L),
        # and what stands at a place goes as a whole.
        return torch.where(known, self.context.to(x.dtype), x)


def keep(known: Mask, context: Tokens, approximate: bool = False) -> Keep:
    """For `sample(..., clamp=keep(known, context))`: put the context back wherever it is known.

    A prompt and an infilling task are this alike. Exact for absorbing noise, where a known token is an unmasked one;
    other noise refuses it unless approximate=True.
    """
    if known.shape != context.shape[:2]:
        raise ValueError(
            f"known and context must have one shape, not {tuple(known.shape)} and {tuple(context.shape)}"
        )
    return Keep(known, context, approximate=approximate)


class Approximate:
    """A clamp whose user knows that it is not exact."""

    approximate = True

    def __init__(self, clamp: Callable[[State], State]):
        self.clamp = clamp

    def __call__(self, x: State) -> State:
        return self.clamp(x)


def approximately(clamp: Callable[[State], State]) -> Approximate:
    """The clamp, allowed where it is not exact: `sample(..., clamp=approximately(clamp))`."""
    return Approximate(clamp)
