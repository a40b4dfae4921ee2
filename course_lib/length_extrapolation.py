"""Trunks that are meant to read longer rows than they were trained on (length extrapolation).

Rotary positions depend on differences only, so a Transformer reads any length; but differences that never stood in
training turn queries and keys by angles that it never met, and attention is spread over more keys than it ever was.

RandomPositions   the positions of a row are drawn among many more than it has: no difference is new
LocalAttention    no position sees farther than a window: no difference is new, and no row has more keys than that

Both take the place of `trunk` in a network: `network.trunk = LocalAttention(window=16, width=64, heads=4, depth=2)`.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .shapes import check_count
from .transformer import Transformer


class RandomPositions(Transformer):
    """Position l of a row stands at the l-th smallest of L numbers drawn from 0..room-1 without replacement.

    Drawn anew at every call, in training and afterwards: what is judged is the mean over draws, which is a bound
    where each of them is one. In order, so earlier and later are still known; a distance is known in its mean only.
    Ruoss et al. 2023 (arXiv:2305.16843), section 3.
    room  how many positions there are to draw from, at least as many as the longest row has
    """

    def __init__(self, room: int, **options):
        super().__init__(**options)
        check_count("room", room)
        self.room = room

    def positions(self, h: Float[Tensor, "B L H"], start: int) -> Int[Tensor, " L"]:
        """L sorted draws. ValueError for rows longer than the room, and behind a cache, whose keys do not move."""
        L = h.shape[1]
        if start:
            raise ValueError(
                "cache must be None: the positions are drawn for whole rows"
            )
        if self.room < L:
            raise ValueError(
                f"rows must have at most room = {self.room} positions, not {L}"
            )
        drawn = torch.randperm(self.room, device=h.device)[:L]
        return drawn.sort().values


class LocalAttention(Transformer):
    """Position i sees the positions i - window .. i + window only; with `depth` blocks it hears of depth x window.

    A sliding window: Beltagy et al. 2020 (arXiv:2004.05150), section 3.1.
    """

    def __init__(self, window: int, **options):
        super().__init__(**options)
        check_count("window", window)
        self.window = window

    def seen(self, h: Float[Tensor, "B L H"], start: int) -> Bool[Tensor, "1 1 L keys"]:
        """Which keys lie in the window, and, in a causal trunk, not after the position."""
        L = h.shape[1]
        query = torch.arange(start, start + L, device=h.device)
        key = torch.arange(start + L, device=h.device)
        near = (query[:, None] - key).abs() <= self.window
        earlier = super().seen(h, start)
        return near[None, None] if earlier is None else near & earlier
