"""Masks and random tokens together: the noise of VQ-Diffusion (arXiv:2111.14822)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .categorical import Law, Semigroup
from .schedules import Schedule
from .shapes import (
    PerExample,
    Table,
    Tokens,
    check_count,
    check_scalar,
    per_example,
    widest,
)


class MaskUniform(Semigroup):
    """Tokens turn to MASK at the share `mask_share` of the rate, else to a random token; MASK stays.

    For tokens i, j: Q[i, j] = alpha [i = j] + (alpha^share - alpha) / V, Q[i, MASK] = 1 - alpha^share.
    0 < mask_share < 1. Mixture of D3PM's appendix A.2.6 with MASK absorbing.
    """

    def __init__(self, V: int, clock: Table | Schedule, mask_share: float = 2 / 3):
        check_count("V", V, least=2)
        super().__init__(clock)
        check_scalar("mask_share", mask_share)
        if not 0 < mask_share < 1:
            raise ValueError(f"mask_share must lie between 0 and 1, not {mask_share}")
        self.V, self.K, self.mask, self.mask_share = V, V + 1, V, mask_share

    def shares(self, log_alpha: PerExample, x: Tensor) -> list[Float[Tensor, "B *_"]]:
        """Share of x kept, moved to a random token, and masked: they sum to 1."""
        kept = log_alpha.exp()
        # log alpha^share: a token escapes MASK at that share of the rate.
        unmasked = self.mask_share * log_alpha
        # alpha^share - alpha without a difference of nearly equal numbers
        moved = -unmasked.exp() * torch.expm1((1 - self.mask_share) * log_alpha)
        masked = -torch.expm1(unmasked)
        return [per_example(v, x) for v in (kept, moved, masked)]

    def after(self, p: Law, log_alpha: PerExample) -> Law:
        kept, moved, masked = self.shares(log_alpha, p)
        tokens, mask = p[..., : self.V], p[..., self.V :]
        mass = tokens.sum(-1, keepdim=True)
        tokens = kept * tokens + moved * mass / self.V
        mask = mask + masked * mass
        return torch.cat([tokens, mask], -1)

    def column(self, x: Tokens, log_alpha: PerExample) -> Law:
        kept, moved, masked = (v[..., None] for v in self.shares(log_alpha, x))
        is_mask = (x == self.mask)[..., None]
        one_hot = F.one_hot(x, self.K)[..., : self.V]
        from_another = torch.where(is_mask, masked, moved / self.V)
        from_token = from_another + kept * one_hot
        from_mask = widest(is_mask)  # MASK stays
        return torch.cat([from_token, from_mask], -1)

    def rates(self, x: Tokens) -> Law:
        is_mask = widest(x == self.mask)[..., None]
        to_mask, to_token = self.mask_share, (1 - self.mask_share) / self.V
        rate = to_mask * is_mask + to_token * (1 - is_mask)
        elsewhere = 1 - F.one_hot(x, self.K)
        return F.pad(rate.expand(-1, -1, self.V), (0, 1)) * elsewhere
