"""The network of block diffusion: noisy and clean tokens side by side, in one pass or with a cache of finished blocks.

A row of L tokens is read as 2 L: the clean ones, then the noisy ones. Position i of block b sees

    clean   the clean tokens of blocks 0..b
    noisy   the clean tokens of blocks 0..b-1, and the noisy tokens of block b

so that one pass answers for all blocks as if each stood alone behind clean text (BD3-LM, arXiv:2503.09573, section 3).
No clean position sees a noisy one or a later block: keys and values of finished blocks never change, and a cache of
them is exact. There is no time in it: the number of masks says as much.
"""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .layers import check_time, check_token_input, zero
from .shapes import PerExample, Tokens, check_count
from .transformer import KVCache, Transformer


class BlockNet(nn.Module):
    """model(x_t, u) and model(x_t, u, clean=x0): logits (B, L, K_out) at every position of `length`.

    K_in, K_out  how many tokens there are to be read, and to be answered with: MASK is read only
    block        how many tokens a block has; divides length
    Without `clean` the tokens of x_t in earlier blocks are taken as clean, as they are when sampling by blocks.
    """

    def __init__(
        self,
        K_in: int,
        K_out: int,
        length: int,
        block: int,
        width: int = 128,
        heads: int = 4,
        depth: int = 3,
    ):
        super().__init__()
        for name, size in (
            ("K_in", K_in),
            ("K_out", K_out),
            ("length", length),
            ("width", width),
        ):
            check_count(name, size)
        check_count("block", block)
        if length % block:
            raise ValueError(f"block must divide length = {length}, but is {block}")
        self.length, self.block = length, block
        self.embedding = nn.Embedding(K_in, width)
        self.trunk = Transformer(width, heads, depth)
        self.head = zero(nn.Linear(width, K_out))
        self.register_buffer("sees", sees(length, block), persistent=False)

    def forward(
        self, x: Tokens, u: PerExample, clean: Tokens | None = None
    ) -> Float[Tensor, "B L K_out"]:
        """The logits at every position. The time u is not read."""
        x = check_token_input(x, self.embedding.num_embeddings)
        check_time(u, len(x))
        if clean is not None:
            clean = check_token_input(clean, self.embedding.num_embeddings)
        if x.shape[1] != self.length:
            raise ValueError(
                f"x must have shape (B, {self.length}), not {tuple(x.shape)}"
            )
        both = torch.cat([x if clean is None else clean, x], 1)
        h = self.embedding(both)
        time = self.trunk.time(torch.zeros_like(u))
        for layer in self.trunk.blocks:
            h = layer(h, time, self.sees)
        return self.read(h[:, self.length :])

    def read(self, h: Float[Tensor, "B n width"]) -> Float[Tensor, "B n K_out"]:
        """What the head says of the trunk's features."""
        return self.head(self.trunk.norm(h))

    # With a cache of finished blocks

    def cache(self) -> KVCache:
        """An empty cache, with room for all blocks and the noisy one at work."""
        return KVCache(self.length + self.block)

    def logits(self, x: Tokens, cache: KVCache) -> Float[Tensor, "B block K_out"]:
        """The logits of the next block, whose noisy tokens are x (B, block), behind what stands in the cache."""
        start = self.length + cache.length
        # What the noisy block writes behind the cache is not counted in, and written over.
        return self.read(self.through(x, start, cache))

    def append(self, x: Tokens, cache: KVCache) -> None:
        """A finished block, clean tokens x (B, block): read once, and seen from then on."""
        self.through(x, cache.length, cache)
        cache.length += x.shape[1]

    def through(
        self, x: Tokens, start: int, cache: KVCache
    ) -> Float[Tensor, "B block width"]:
        """The trunk's features of one block at the positions from `start`; its keys and values written behind."""
        if x.shape[1] != self.block:
            raise ValueError(f"x must be a block of {self.block}, not {x.shape[1]}")
        h = self.embedding(x)
        cache.check(self.trunk, h)
        time = self.trunk.time(torch.zeros(len(x), device=x.device))
        for i, layer in enumerate(self.trunk.blocks):
            h = layer(h, time, None, start, partial(cache.extend, i))
        return h


def sees(length: int, block: int) -> Bool[Tensor, "1 1 two_L two_L"]:
    """Who sees whom: rows look, columns are looked at; clean positions first, then noisy ones."""
    of = torch.arange(length) // block
    earlier = of[:, None] > of[None, :]
    same = of[:, None] == of[None, :]
    of_clean = torch.cat([earlier | same, torch.zeros_like(same)], 1)
    of_noisy = torch.cat([earlier, same], 1)
    return torch.cat([of_clean, of_noisy])[None, None]
