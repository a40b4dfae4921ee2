"""Masking in a fixed order: autoregression as diffusion (D3PM, arXiv:2107.03006, section 4).

The mean over all orders is any-order autoregression, which is absorbing diffusion (arXiv:2110.02037).
"""

import torch

from .absorbing import Absorbing
from .shapes import Mask, Network, PerExample, Times, Tokens, check_count, widest
from .tokens import TokenProcess, cross_entropy


class Ordered(TokenProcess):
    """x_t has the last t positions of `order` masked. Its bound is autoregression's loss.

    One token per step and no choice in what is masked: the forward process is deterministic, and every KL is the
    surprise at one token.   order  permutation of 0..length-1, left to right by default
    """

    def __init__(self, V: int, length: int, order: list[int] | None = None):
        check_count("length", length)
        order = list(range(length)) if order is None else order
        if sorted(order) != list(range(length)):
            raise ValueError(
                f"order must be a permutation of 0..{length - 1}, not {order}"
            )
        # A clock that is not read: the positions say
        # what is masked, the noise only checks tokens.
        line = 1 - widest(torch.arange(length + 1)) / length
        super().__init__(Absorbing(V, line), length)
        self.V, self.mask = V, V
        # Of each position in the order.
        self.register_buffer("turn", torch.tensor(order).argsort())

    def corrupt(self, x0: Tokens, t: Times) -> Tokens:
        """x_0 with the last t positions of the order masked; nothing is random."""
        x0 = self.check_state("x0", x0, self.V)
        self.check_t("t", t, len(x0))
        return torch.where(self.turn >= self.length - t[:, None], self.mask, x0)

    def between(self, t: Times, s: Times) -> Mask:
        """The positions whose turn comes on the way from t to s."""
        left = self.length - t[:, None]
        return (self.turn >= left) & (self.turn < self.length - s[:, None])

    def loss_at(self, model: Network, x0: Tokens, x_t: Tokens, t: Times) -> PerExample:
        """-log p(the token that step t unmasks | those before it in the order): nats, float64."""
        x0 = self.check_state("x0", x0, self.V)
        x_t = self.check_state("x_t", x_t, self.noise.K)
        self.check_t("t", t, len(x0), first=1)
        nll = self.on_masks(model, x0, x_t, t, cross_entropy)
        return torch.where(self.between(t, t - 1), nll, 0).sum(1)

    def diffusion_term_at(
        self, model: Network, x0: Tokens, x_t: Tokens, t: Times
    ) -> PerExample:
        """length x loss: its mean over t = 1..length is exactly -log p(x_0) of the autoregressive model, nats."""
        return self.length * self.loss_at(model, x0, x_t, t)

    def bound_at(self, model: Network, x0: Tokens, x_t: Tokens, t: Times) -> PerExample:
        """The same: all is masked at T, and at 0 nothing, so no other term is left."""
        return self.diffusion_term_at(model, x0, x_t, t)

    def prior(self, n: int) -> Tokens:
        """All MASK."""
        check_count("n", n)
        return torch.full((n, self.length), self.mask, device=self.device)

    def step(self, model: Network, x: Tokens, t: Times, s: Times) -> Tokens:
        """Open the positions whose turn comes between t and s; exact one at a time, on their own if more."""
        x = self.check_state("x", x, self.noise.K)
        self.check_step(len(x), t, s)
        # What clamp has put there stays.
        return self.unmask(model, x, t, self.between(t, s) & (x == self.mask))
