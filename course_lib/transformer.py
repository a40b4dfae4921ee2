"""The Transformer that all sequence networks have inside, and the cache of what it has read (KV cache)."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .layers import TimeEmbedding, dropping, only, zero
from .shapes import Mask, PerExample, check_count

Heads = Float[Tensor, "B heads L d"]
Start = int | Int[Tensor, " L"]  # of the first position, or of all
Extend = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def rotate(x: Heads, start: Start = 0) -> Heads:
    """Rotary positions: turn pair i of a vector at position l = start, start + 1, ... by the angle l / 10000^(2i/d).

    Dot products of turned vectors depend on the difference of their positions only.  Su et al. 2021 (arXiv:2104.09864).
    start  the first position, or all of them, (L,)
    """
    L, d = x.shape[-2:]
    # Relative positions need no table, so a
    # network may be asked for rows of any length.
    frequency = 10000 ** (-torch.arange(0, d, 2, device=x.device) / d)
    position = start
    if not isinstance(start, Tensor):
        position = torch.arange(start, start + L, device=x.device)
    angle = position[:, None] * frequency  # (L, d / 2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class KVCache:
    """Keys and values of the positions that a Transformer has read, block by block, so that each is read once.

    A call that is given the cache works out the new positions only: they see those that stand in it, and stand in it
    from then on. `crop` takes the last ones back, say a block of tokens that is not finished. For sampling only: it
    keeps no gradients.  Shazeer 2019 (arXiv:1911.02150), section 2.3.
    capacity  room for so many positions
    """

    def __init__(self, capacity: int):
        check_count("capacity", capacity)
        self.capacity, self.length = capacity, 0
        self.reader: nn.Module | None = None
        self.kept: dict[int, Tensor] = {}  # of each block, (2, B, heads, capacity, d)

    def extend(self, block: int, k: Heads, v: Heads) -> tuple[Tensor, Tensor]:
        """Keys and values of a block at all positions, the new ones written behind the `length` that stand."""
        end = self.length + k.shape[2]
        if block not in self.kept:
            # All the room at once: growing by concatenation
            # would copy what stands at every token.
            room = (2, *k.shape[:2], self.capacity, k.shape[3])
            self.kept[block] = k.new_empty(room)
        keys, values = self.kept[block]
        keys[:, :, self.length : end], values[:, :, self.length : end] = k, v
        return keys[:, :, :end], values[:, :, :end]

    def crop(self, length: int) -> None:
        """Forget all positions from `length` on."""
        check_count("length", length, least=0)
        if length > self.length:
            raise ValueError(
                f"length must be at most the {self.length} positions in the cache, not {length}"
            )
        self.length = length

    def check(self, reader: nn.Module, h: Float[Tensor, "B L H"]) -> None:
        """Raise unless these new positions of this network fit behind what stands."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a cache keeps no gradients: call the network under torch.no_grad()"
            )
        if self.reader not in (None, reader):
            raise ValueError(
                "cache must be new, but it holds what another network has read"
            )
        n = self.length + h.shape[1]
        if not self.length < n <= self.capacity:
            raise ValueError(
                f"a cache of {self.length} positions, with room for {self.capacity}, must be given new ones "
                f"that fit, not {h.shape[1]}"
            )
        rows = next((len(k[0]) for k in self.kept.values()), len(h))
        if rows != len(h):
            raise ValueError(
                f"a cache of {rows} rows must be given as many, not {len(h)}"
            )
        self.reader = reader


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the time; the gates start at 0.

    adaLN-zero: Peebles & Xie 2023 (arXiv:2212.09748), section 3.2.
    dropout  what share of what each of the two adds is dropped in training
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.drop = dropping(dropout)
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.ada = zero(nn.Linear(width, 6 * width))

    def forward(
        self,
        h: Float[Tensor, "B L H"],
        c: Float[Tensor, "B H"],
        keys: Bool[Tensor, "_ 1 _ keys"] | None,
        start: Start = 0,
        extend: Extend | None = None,
    ) -> Float[Tensor, "B L H"]:
        """h and what attention and MLP add, given the time's vector c; keys says which positions are seen.

        start, extend  the first position or all of them, and what puts a cache's keys and values before those of h
        """
        # (B, 1, H) each.
        shift1, scale1, gate1, shift2, scale2, gate2 = self.ada(c)[:, None].chunk(6, -1)
        # (B, heads, L, H / heads).
        q, k, v = (
            z.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for z in self.qkv(self.norm(h) * (1 + scale1) + shift1).chunk(3, -1)
        )
        # Only what is compared is turned, not the values.
        q, k = rotate(q, start), rotate(k, start)
        if extend is not None:
            k, v = extend(k, v)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        h = h + gate1 * self.drop(self.proj(attended.transpose(1, 2).flatten(2)))
        return h + gate2 * self.drop(self.mlp(self.norm(h) * (1 + scale2) + shift2))


class Transformer(nn.Module):
    """Trunk: (B, L, H) and a time in, (B, L, H) out. What stands where mask is False changes nothing elsewhere.

    causal   no position sees a later one
    dropout  what share of what comes in, and of what each branch adds, is dropped in training
    """

    def __init__(
        self,
        width: int = 128,
        heads: int = 4,
        depth: int = 4,
        causal: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.causal = causal
        check_count("width", width)
        check_count("heads", heads)
        check_count("depth", depth, least=0)
        if width % (2 * heads):
            raise ValueError(
                f"width must be a multiple of 2 x heads = {2 * heads}, not {width}"
            )
        self.time = TimeEmbedding(width)
        self.drop = dropping(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        h: Float[Tensor, "B L H"],
        u: PerExample,
        mask: Mask | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B L H"]:
        """The trunk's features. TypeError or ValueError for a mask that is none.

        cache  h is what comes behind the positions in it, all of which are seen; without a mask
        """
        h, start = self.drop(only(h, mask)), 0
        if cache is not None:
            if mask is not None:
                raise ValueError("mask must be None where a cache is given")
            cache.check(self, h)
            start = cache.length
        c, keys = self.time(u), None if mask is None else mask[:, None, None]
        seen = self.seen(h, start)
        if seen is not None:
            keys = seen if keys is None else keys & seen
        start = self.positions(h, start)
        for i, block in enumerate(self.blocks):
            extend = None if cache is None else partial(cache.extend, i)
            h = block(h, c, keys, start, extend)
        if cache is not None:
            cache.length += h.shape[1]
        return self.norm(h)

    # What a kind of attention overrides

    def positions(self, h: Float[Tensor, "B L H"], start: int) -> Start:
        """Where the positions of h stand, which begin at `start`: one after the other."""
        return start

    def seen(
        self, h: Float[Tensor, "B L H"], start: int
    ) -> Bool[Tensor, "1 1 L keys"] | None:
        """Which positions those of h see, which begin at `start`; None for all."""
        return self.earlier(h, start) if self.causal else None

    def earlier(
        self, h: Float[Tensor, "B L H"], start: int
    ) -> Bool[Tensor, "1 1 L keys"]:
        """Which of the positions 0, 1, ... those of h, which begin at `start`, see: themselves and those before."""
        L = h.shape[1]
        every = torch.ones(L, start + L, dtype=torch.bool, device=h.device)
        return every.tril(start)[None, None]
