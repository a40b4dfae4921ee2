"""MDLM: masked diffusion language models (Sahoo et al. 2024, arXiv:2406.07524), in continuous time.

The small third member: absorbing noise, and a network whose softmax is a law over the V tokens. SEDD's score for it is
r p(y | x_t), r = 1 / (e^sigma - 1), so its total mass is right by construction. With the same network

    SEDD's loss = MDLM's loss + weight sum over masks of phi(m),  phi(m) = m - 1 - log m >= 0,

m = mean(e^f) the mass that SEDD says over the true one; with SEDD(mass="known") it is 1. MD4 (arXiv:2406.04329) is the
same model.
"""

import torch
import torch.nn.functional as F

from .absorbing import Absorbing
from .categorical import LogLaw, PerToken
from .sedd import SEDD
from .shapes import Mask, Network, Times, Tokens, widest


class MDLM(SEDD):
    """Masked diffusion of `length` tokens. Its loss is weight(t) x cross-entropy on masks; 1 / t if log-linear."""

    def __init__(self, noise: Absorbing, length: int):
        if not isinstance(noise, Absorbing):
            raise ValueError(f"noise must be absorbing, not {type(noise).__name__}")
        super().__init__(noise, length, mass="known")

    def surprise(self, model: Network, x0: Tokens, x_t: Tokens, t: Times, where: Mask) -> PerToken:
        """-log p(x_0) at the masks `where`, 0 elsewhere; nats, float64."""
        nll = F.cross_entropy(self._on_masks(model, x_t, t, where), x0[where], reduction="none")
        return widest(torch.zeros(x0.shape, device=x0.device)).masked_scatter(where, widest(nll))

    def predict_x0(self, model: Network, x_t: Tokens, t: Times) -> LogLaw:
        """log p(x_0 | x_t): softmax on masks; tokens that are there are certain (carry-over)."""
        log_p = self.convert(self.log_score(model, x_t, t), x_t, t, "loo")
        there = F.one_hot(x_t, self.noise.K)[..., : self.noise.V].to(log_p.dtype).log()
        return torch.where((x_t == self.noise.mask)[..., None], log_p, there)
