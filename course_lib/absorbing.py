"""Absorbing noise: tokens become MASK and stay so (D3PM, arXiv:2107.03006, appendix A.2.2; MDLM, SEDD, MD4)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .categorical import (
    Law,
    LogLaw,
    PerToken,
    Semigroup,
    draw,
    happens,
    kept_and_lost,
    pick,
)
from .schedules import Schedule
from .shapes import (
    Mask,
    PerExample,
    Table,
    Times,
    Tokens,
    check_choice,
    check_count,
    per_example,
    upcast,
    widest,
)


class Absorbing(Semigroup):
    """A token is kept with probability alpha, else it becomes MASK = V and stays so.

    prior  if alpha_T > 0, a share alpha_T of positions is no mask at T. Sampling must put something there:
           "uniform": random tokens. prior_kl is alpha_T log V, and what is called a bound is one
           "mask":    MASK, as in published samplers. Nothing then explains the tokens that are left: prior_kl and the
                      bound are infinite. SEDD's code and MDLM's leave this term out
           Where the clock leaves nothing both are the same, and prior_kl is 0.
    """

    def __init__(
        self,
        V: int,
        clock: Table | Schedule,
        prior: Literal["uniform", "mask"] = "uniform",
    ):
        check_count("V", V, least=2)
        check_choice("prior", prior, ("uniform", "mask"))
        super().__init__(clock)
        self.V, self.K, self.mask = V, V + 1, V
        self.leftovers = prior

    def after(self, p: Law, log_alpha: PerExample) -> Law:
        kept, lost = kept_and_lost(log_alpha, p)
        tokens, mask = p[..., : self.V], p[..., self.V :]
        # Every token loses the same share to MASK, and MASK keeps all it has:
        # the last row of Q is e_m.
        mask = mask + lost * tokens.sum(-1, keepdim=True)
        return torch.cat([kept * tokens, mask], -1)

    def column(self, x: Tokens, log_alpha: PerExample) -> Law:
        kept, lost = (v[..., None] for v in kept_and_lost(log_alpha, x))
        of_token = kept * F.one_hot(x, self.K)
        # Column m of Q: each token becomes MASK with 1 - alpha, MASK stays MASK with 1.
        of_mask = F.pad(lost.expand(-1, -1, self.V), (0, 1), value=1.0)  # (B, 1, K)
        return torch.where((x == self.mask)[..., None], of_mask, of_token)

    def rates(self, x: Tokens) -> Law:
        # R[y, m] = 1 for tokens y, and nothing leads into a token:
        # backwards only masks move.
        is_mask = widest(x == self.mask)[..., None]
        return F.pad(is_mask.expand(-1, -1, self.V), (0, 1))

    def corrupt(self, x_s: Tokens, s: Times, t: Times) -> Tokens:
        """Draw x_t ~ q(x_t | x_s).  (MDLM, eq. 4)"""
        self.check_inside("x_s", x_s, self.K)
        kept, _ = kept_and_lost(self.log_alpha_ratio(s, t), x_s)
        return torch.where(happens(kept.expand(x_s.shape), t), x_s, self.mask)

    # Backward: whether a mask is unmasked, and then as which token. `step` and `kl` are for
    # the noise by itself: D3PM on masks asks about masks only (MaskedD3PM), not here.

    def unmasking_probability(self, s: Times, t: Times) -> PerExample:
        """p(a token at s | MASK at t): (alpha_s - alpha_t) / (1 - alpha_t).  (MDLM, eqs. 6 and 7)"""
        # As alpha_s (1 - alpha_t / alpha_s) / (1 - alpha_t): each difference is an
        # expm1, so that small steps and early times keep their digits.
        alpha_s, ratio = self.log_alpha(s).exp(), self.log_alpha_ratio(s, t)
        return alpha_s * torch.expm1(ratio) / torch.expm1(self.log_alpha(t))

    def unmasks(self, x_t: Tokens, s: Times, t: Times) -> Mask:
        """Which masks become tokens on the way from t to s; no network is asked."""
        self.check_inside("x_t", x_t, self.K)
        # First whether, then what. A race over all V + 1 states in float32 would never
        # draw a rare token.
        p = per_example(self.unmasking_probability(s, t), x_t).expand(x_t.shape)
        return (x_t == self.mask) & happens(p, t)

    reveals, opened = unmasking_probability, unmasks  # their old names

    def step(self, log_p0: LogLaw, x_t: Tokens, s: Times, t: Times) -> Tokens:
        """Draw x_s ~ posterior(p0, x_t): unmask some positions, then draw their tokens."""
        return torch.where(self.unmasks(x_t, s, t), draw(widest(log_p0).exp(), t), x_t)

    def kl(
        self, x0: Tokens, x_t: Tokens, log_p0: LogLaw, s: Times, t: Times
    ) -> PerToken:
        """unmasking_probability(s, t) times -log p0(x_0) on masks, 0 elsewhere; nats per token."""
        self.check_inside("x0", x0, self.V)
        self.check_inside("x_t", x_t, self.K)
        surprise = -widest(pick(log_p0, x0))
        p_unmask = per_example(self.unmasking_probability(s, t), x0)
        # q(x_s | x_t, x_0) and p(x_s | x_t) give MASK the same probability; they differ
        # in what is under it, which q knows.
        return torch.where(x_t == self.mask, p_unmask * surprise, 0.0)

    # The far end

    def prior(self) -> Float[Tensor, " K"]:
        """All MASK, but for the share alpha_T of random tokens if leftovers are "uniform"."""
        if self.leftovers == "uniform":
            return super().prior()
        mask = torch.tensor(self.mask, device=self.device)
        return widest(F.one_hot(mask, self.K))

    def prior_kl(self, x0: Tokens) -> PerToken:
        """alpha_T log V: a token that is left over is random in the prior. Infinite if the prior has no such tokens."""
        self.check_inside("x0", x0, self.V)
        _, end = self.ends(x0)
        left = per_example(self.log_alpha(end).exp(), x0).expand(x0.shape)
        if self.leftovers == "mask":
            return torch.where(left > 0, math.inf, left)
        return left * math.log(self.V)

    # What x_0 is, said in other ways

    def loo_from_posterior(self, log_p: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """The same law: a mask says nothing about its own token, and other tokens are not in question."""
        return upcast(log_p).log_softmax(-1)

    def unmix(self, c: LogLaw, t: Times) -> LogLaw:
        """The same, up to a factor."""
        return c
