"""Absorbing noise: tokens become MASK and stay so (D3PM, arXiv:2107.03006, appendix A.2.2; MDLM, SEDD, MD4)."""

import math

import torch
import torch.nn.functional as F

from .categorical import Law, LogLaw, PerToken, Semigroup, draw, happens, kept_and_lost, pick
from .schedules import Schedule
from .shapes import Mask, PerExample, Table, Times, Tokens, check_count, per_example, widest


class Absorbing(Semigroup):
    """A token is kept with probability alpha, else it becomes MASK = V and stays so.  (D3PM, appendix A.2.2)"""

    def __init__(self, V: int, clock: Table | Schedule):
        check_count("V", V, least=2)
        super().__init__(clock)
        self.V, self.K, self.mask = V, V + 1, V

    def after(self, p: Law, log_alpha: PerExample) -> Law:
        a, lost = (v.to(p.dtype) for v in kept_and_lost(log_alpha, p))
        gone = lost * p[..., : self.V].sum(-1, keepdim=True)
        return torch.cat([a * p[..., : self.V], p[..., self.V :] + gone], -1)

    def column(self, x: Tokens, log_alpha: PerExample) -> Law:
        a, lost = kept_and_lost(log_alpha, x)
        kept = a[..., None] * F.one_hot(x, self.K)
        masked = torch.cat([lost.expand(-1, self.V), torch.ones_like(lost)], -1)[:, None]  # (B, 1, K)
        return torch.where((x == self.mask)[..., None], masked, kept)

    def rates(self, x: Tokens) -> Law:
        is_mask = widest(x == self.mask)[..., None]
        return F.pad(is_mask.expand(-1, -1, self.V), (0, 1))

    def corrupt(self, x_s: Tokens, s: Times, t: Times) -> Tokens:
        """Draw x_t ~ q(x_t | x_s)."""
        return torch.where(
            happens(per_example(self.log_alpha_ratio(s, t).exp(), x_s).expand(x_s.shape)), x_s, self.mask
        )

    def reveals(self, s: Times, t: Times) -> PerExample:
        """The chance that a MASK at t is a token at s: (alpha_s - alpha_t) / (1 - alpha_t)."""
        return (
            self.log_alpha(s).exp() * torch.expm1(self.log_alpha_ratio(s, t)) / torch.expm1(self.log_alpha(t))
        )

    def opened(self, x_t: Tokens, s: Times, t: Times) -> Mask:
        """Which masks become tokens on the way from t to s; no network is asked."""
        return (x_t == self.mask) & happens(per_example(self.reveals(s, t), x_t).expand(x_t.shape))

    def step(self, log_p0: LogLaw, x_t: Tokens, s: Times, t: Times) -> Tokens:
        """Draw x_s ~ posterior(p0, x_t): open some masks, then draw what is under them."""
        return torch.where(self.opened(x_t, s, t), draw(log_p0.exp()), x_t)

    def kl(self, x0: Tokens, x_t: Tokens, log_p0: LogLaw, s: Times, t: Times) -> PerToken:
        """reveals(s, t) times -log p0(x_0) on masks, 0 elsewhere; nats per token."""
        return per_example(self.reveals(s, t), x0) * (x_t == self.mask) * -widest(pick(log_p0, x0))

    def prior_kl(self, x0: Tokens) -> PerToken:
        """alpha_T log V: a token that is left over is random in the prior."""
        left = self.log_alpha(self._ends(x0)[1]).exp()
        return (per_example(left, x0) * math.log(self.V)).expand(x0.shape)

    def loo_from_posterior(self, log_p: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """The same law: a mask says nothing about its own token, and other tokens are not in question."""
        return log_p.log_softmax(-1)

    def unmix(self, c: LogLaw, t: Times) -> LogLaw:
        return c
