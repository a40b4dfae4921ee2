"""Block diffusion, BD3-LM (Arriola et al. 2025, arXiv:2503.09573): left to right by blocks, diffusion inside each.

Between autoregression (blocks of 1) and masked diffusion (one block). Of B blocks of `block` tokens each, time runs
backwards through the first from t = 1 to 1 - 1/B, then through the second, and so on: at time t

    earlier blocks are clean,   block b(t) is noised at its own time u(t),   later blocks are MASK.

So it is one forward process with absorbing noise whose clock depends on the position, and all of the contract holds.
The bound is a sum over blocks, -log p(x) <= sum_b bound_b(x^b | x^<b): its mean over t in (0, 1].  (eq. 3)
"""

import torch
from torch import Tensor

from .absorbing import Absorbing
from .categorical import PerToken
from .mdlm import check_clock, mask_weight, starts_below_1
from .shapes import (
    Mask,
    Network,
    PerExample,
    Times,
    Tokens,
    check_count,
    describe,
    widest,
)
from .tokens import TokenProcess, cross_entropy, tokens_in
from .wrapper import Wrapper


class BlockDiffusion(TokenProcess):
    """Masked diffusion of `length` tokens in blocks of `block`, each given the clean blocks before it.

    noise  Absorbing with a schedule that starts at alpha = 1 and ends at alpha = 0, as log_linear(0.0)
    block  divides length; 1 is autoregression, `length` is MDLM
    """

    def __init__(self, noise: Absorbing, length: int, block: int):
        if not isinstance(noise, Absorbing):
            raise ValueError(f"noise must be absorbing, not {describe(noise)}")
        super().__init__(noise, length)
        check_clock(noise, to_zero=True)
        check_count("block", block)
        if length % block:
            raise ValueError(f"block must divide length = {length}, but is {block}")
        end = noise.log_alpha(widest(torch.ones(1))).exp().item()
        if starts_below_1(noise) or end > 0:
            raise ValueError(
                "noise must have alpha = 1 at time 0 and 0 at time 1, as log_linear(0.0): blocks begin where "
                f"others end, but alpha(1) = {end:g}"
            )
        self.block, self.blocks = block, length // block
        self.register_buffer("of", torch.arange(length) // block)  # block of a position

    # The clock of each position

    def local(self, t: Times) -> tuple[Tensor, Tensor]:
        """Which block time t is in (B,), and that block's own time in (0, 1], float64."""
        # Time runs through the last block first, since
        # backwards the first block is written first.
        passed = widest(t) * self.blocks
        later = passed.ceil().clamp(1, self.blocks)
        return self.blocks - later.long(), passed - (later - 1)

    def clocks(self, t: Times) -> Tensor:
        """The own time of every position, (B, L) in [0, 1]: 0 where it is clean, 1 where it is MASK."""
        passed = widest(t)[:, None] * self.blocks
        after = (self.blocks - 1 - self.of).to(passed)
        return (passed - after).clamp(0, 1)

    def active(self, t: Times) -> Mask:
        """The positions of the block that time t is in, (B, L)."""
        return self.of == self.local(t)[0][:, None]

    # Forward process

    def corrupt(self, x0: Tokens, t: Times) -> Tokens:
        """x_t ~ q(x_t | x_0): earlier blocks clean, later blocks MASK, the block of t in between."""
        x0 = self.check_state("x0", x0, self.noise.V, padded=True)
        self.check_t("t", t, len(x0))
        lost = 1 - self.alpha(self.clocks(t))
        masked = torch.rand_like(lost) < lost
        return torch.where(masked & (x0 >= 0), self.noise.mask, x0)

    def alpha(self, clocks: Tensor) -> Tensor:
        """alpha at each position's own time."""
        return self.noise.log_alpha(clocks.flatten()).exp().reshape(clocks.shape)

    # Training and the bound

    def loss_at(self, model: Network, x0: Tokens, x_t: Tokens, t: Times) -> PerExample:
        """The bound's term per token of the row, nats."""
        return (self.diffusion_term_at(model, x0, x_t, t) / tokens_in(x0)).float()

    def diffusion_term_at(
        self, model: Network, x0: Tokens, x_t: Tokens, t: Times
    ) -> PerExample:
        """B x weight(u) x what the masks of t's block cost: nats per sequence, float64.  (eq. 8)"""
        x0, x_t = self.check_pair(x0, x_t, t)
        cost = self.masks_of_block(model, x0, x_t, t).sum(1)
        return self.blocks * mask_weight(self.noise, self.local(t)[1]) * cost

    def masks_of_block(
        self, model: Network, x0: Tokens, x_t: Tokens, t: Times
    ) -> PerToken:
        """-log p(x_0) at the masks of t's block, 0 elsewhere; nats, float64."""
        masks = (x_t == self.noise.mask) & self.active(t)
        f = self.ask(model, x_t, t, padded=True)
        return torch.where(masks, widest(cross_entropy(f, x0.clamp(min=0))), 0)

    # Sampling

    def step(self, model: Network, x: Tokens, t: Times, s: Times) -> Tokens:
        """Block after block between t and s: its masks are unmasked, each on its own, given all that is there."""
        x = self.check_state("x", x, self.noise.K)
        self.check_step(len(x), t, s)
        before, after = self.alpha(self.clocks(t)), self.alpha(self.clocks(s))
        # MDLM's probability, of each position by its own
        # clock: a long step may cross several blocks.
        p_unmask = torch.where(before < 1, (after - before) / (1 - before), 0)
        unmasks = (torch.rand_like(p_unmask) < p_unmask) & (x == self.noise.mask)
        first, last = int(self.local(t)[0].min()), self.blocks - 1
        for b in range(first, last + 1):
            now = unmasks & (self.of == b)
            if now.any():
                x = self.unmask(model, x, self.arrives(t, b), now)
        return x

    def arrives(self, t: Times, b: int) -> Times:
        """t, or the time at which block b begins where that is later on the way."""
        begins = torch.full_like(t, (self.blocks - b) / self.blocks)
        return torch.minimum(t, begins)


class AllBlocks(Wrapper):
    """The same bound from all blocks of a row at once, by the number of masks: what to train and to measure with.

    In place of a time in each block, n = 1..block of its tokens are masked, all sets equally likely, and the bound is
    the mean over n of block / n x what they cost: far less variance, and autoregression's loss itself at blocks of 1.
    The network must take `clean`: model(x_t, u, clean=x0) answers at block b from the noisy block b and the *clean*
    blocks before it, as `block_nets.BlockNet` does in one pass. Sampling is that of the process inside. Rows without
    PAD only.
    """

    def __init__(self, process: BlockDiffusion):
        if not isinstance(process, BlockDiffusion):
            raise TypeError(
                f"process must be a BlockDiffusion, not {describe(process)}"
            )
        super().__init__(process)

    def count(self, t: Times) -> Tensor:
        """n = 1..block, how many tokens of each block are masked at t in (0, 1]: (B,)."""
        return (widest(t) * self.block).ceil().long().clamp(1, self.block)

    def corrupt(self, x0: Tokens, t: Times) -> Tokens:
        """n tokens of each block masked."""
        x0 = self.check_state("x0", x0, self.noise.V)
        order = torch.rand(len(x0), self.blocks, self.block, device=x0.device)
        masked = order.argsort(-1).argsort(-1) < self.count(t)[:, None, None]
        return torch.where(masked.flatten(1), self.noise.mask, x0)

    def loss(self, model: Network, data: Tokens, t: Times) -> PerExample:
        """`loss_at` at one draw."""
        return self.loss_at(model, data, self.corrupt(data, t), t)

    def loss_at(self, model: Network, x0: Tokens, x_t: Tokens, t: Times) -> PerExample:
        """The bound's term per token of the row, nats."""
        return (self.bound_at(model, x0, x_t, t) / self.length).float()

    def bound(self, model: Network, data: Tokens, t: Times) -> PerExample:
        """`bound_at` at one draw."""
        return self.bound_at(model, data, self.corrupt(data, t), t)

    def bound_at(self, model: Network, x0: Tokens, x_t: Tokens, t: Times) -> PerExample:
        """block / n x what all masks cost, each given its block and the clean ones before: nats per sequence."""
        x0, x_t = self.process.check_pair(x0, x_t, t)

        def told(x, u):
            return model(x, u, clean=x0)

        f = self.process.ask(told, x_t, t)
        nll = widest(cross_entropy(f, x0))
        cost = torch.where(x_t == self.noise.mask, nll, 0).sum(1)
        # The mean over n of block / n x cost is the sum over n of cost / n: MDLM's
        # bound by numbers of masks, of each block.
        return self.block / self.count(t) * cost
