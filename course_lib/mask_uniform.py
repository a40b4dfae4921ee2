"""Masks and random tokens together: the noise of VQ-Diffusion (arXiv:2111.14822)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .categorical import Law, Semigroup
from .schedules import Schedule
from .shapes import PerExample, Table, Tokens, check_count, per_example, widest


class MaskUniform(Semigroup):
    """Tokens turn to MASK at the share `mask_share` of the rate, else to a random token; MASK stays.

    For tokens i, j: Q[i, j] = alpha [i = j] + (alpha^share - alpha) / V, Q[i, MASK] = 1 - alpha^share.
    0 < mask_share < 1. Mixture of D3PM's appendix A.2.6 with MASK absorbing, as in VQ-Diffusion (arXiv:2111.14822).
    """

    def __init__(self, V: int, clock: Table | Schedule, mask_share: float = 2 / 3):
        check_count("V", V, least=2)
        super().__init__(clock)
        if not 0 < mask_share < 1:
            raise ValueError(f"mask_share must lie between 0 and 1, not {mask_share}")
        self.V, self.K, self.mask, self.mask_share = V, V + 1, V, mask_share

    def _shares(self, log_alpha: PerExample, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Share of x kept, moved to a random token, and masked: they sum to 1."""
        unmasked = self.mask_share * log_alpha
        moved = -unmasked.exp() * torch.expm1((1 - self.mask_share) * log_alpha)
        return per_example(log_alpha.exp(), x), per_example(moved, x), per_example(-torch.expm1(unmasked), x)

    def after(self, p: Law, log_alpha: PerExample) -> Law:
        kept, moved, masked = (v.to(p.dtype) for v in self._shares(log_alpha, p))
        real = p[..., : self.V]
        mass = real.sum(-1, keepdim=True)
        return torch.cat([kept * real + moved * mass / self.V, p[..., self.V :] + masked * mass], -1)

    def column(self, x: Tokens, log_alpha: PerExample) -> Law:
        kept, moved, masked = (v[..., None] for v in self._shares(log_alpha, x))
        is_mask = (x == self.mask)[..., None]
        flat = torch.where(is_mask, masked, moved / self.V).expand(-1, -1, self.V)
        real = flat + kept * F.one_hot(x, self.K)[..., : self.V]
        return torch.cat([real, widest(is_mask)], -1)

    def rates(self, x: Tokens) -> Law:
        is_mask = widest(x == self.mask)[..., None]
        speed = self.mask_share * is_mask + (1 - self.mask_share) / self.V * (1 - is_mask)
        return F.pad(speed.expand(-1, -1, self.V), (0, 1)) * (1 - F.one_hot(x, self.K))
