"""Noise with a stationary law: a token is kept, or drawn again from pi, whatever it was.

    Stationary  any positive law pi
    Uniform     pi = 1 / K: multinomial diffusion (arXiv:2102.05379) and D3PM's uniform matrices (arXiv:2107.03006)

Nothing here is larger than the network's own output, so K may be 50,257.
"""

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
    PerExample,
    Table,
    Times,
    Tokens,
    check_count,
    per_example,
    upcast,
    widest,
)
from .token_checks import check_law

NEVER = -1e4  # stands for log 0 where log 0 would meet a factor 0


class Stationary(Semigroup):
    """Keep a token with probability alpha, else draw it from pi: Q = alpha I + (1 - alpha) 1 pi^T.

    pi (K,) is positive and sums to 1. Q(a) Q(b) = Q(a b).
    """

    def __init__(self, pi: Float[Tensor, " K"], clock: Table | Schedule):
        super().__init__(clock)
        pi = check_law("pi", pi)
        least, where = pi.min(0)
        if least == 0:
            raise ValueError(f"pi must be positive, but pi[{int(where)}] = 0")
        self.register_buffer("pi", pi)
        self.K = self.V = len(pi)

    def after(self, p: Law, log_alpha: PerExample) -> Law:
        kept, lost = kept_and_lost(log_alpha, p)
        # p need not sum to 1: SEDD's scores go through here, too.
        mass = p.sum(-1, keepdim=True)
        return kept * p + lost * mass * self.pi

    def column(self, x: Tokens, log_alpha: PerExample) -> Law:
        kept, lost = kept_and_lost(log_alpha, x)
        # Whatever was there, x comes by a fresh draw with (1 - alpha) pi_x; x itself
        # may also have been kept.
        redrawn = lost * self.pi[x]
        column = redrawn[..., None].repeat(1, 1, self.K)
        at_x, kept = x[..., None], kept.expand(x.shape)[..., None]
        return column.scatter_add_(-1, at_x, kept)

    def rates(self, x: Tokens) -> Law:
        elsewhere = 1 - F.one_hot(x, self.K)
        return self.pi[x][..., None] * elsewhere

    # Drawing: no law over the vocabulary but the network's own

    def corrupt(self, x_s: Tokens, s: Times, t: Times) -> Tokens:
        """Draw x_t ~ q(x_t | x_s): one uniform number per token says whether to keep it and, if not, what comes."""
        self.check_inside("x_s", x_s, self.K)
        kept, lost = kept_and_lost(self.log_alpha_ratio(s, t), x_s)
        u = torch.rand(x_s.shape, dtype=kept.dtype, device=kept.device)
        # Given that u >= alpha, (u - alpha) / (1 - alpha) is uniform on [0, 1) again.
        drawn = self.from_uniform((u - kept) / lost)
        return torch.where(u < kept, x_s, drawn)

    def from_uniform(self, u: PerToken) -> Tokens:
        """Draws from pi made of numbers that are uniform on [0, 1)."""
        token = torch.searchsorted(self.pi.cumsum(0), u, right=True)
        # pi sums to 1 up to rounding only; and where a token is kept, u may be anything.
        return token.clamp(0, self.K - 1)

    def step(self, log_p0: LogLaw, x_t: Tokens, s: Times, t: Times) -> Tokens:
        """Draw x_s ~ posterior(p0, x_t) in stages: did the token stay? If not, is it data or noise, and which?"""
        self.check_inside("x_t", x_t, self.K)
        # Draws (x_0, x_s) given x_t in two coins and two draws, so that no (B, L, K)
        # law of x_s is made.
        kept_step, _ = kept_and_lost(self.log_alpha_ratio(s, t), x_t)
        kept_s, lost_s = kept_and_lost(self.log_alpha(s), x_t)
        kept_t, lost_t = kept_and_lost(self.log_alpha(t), x_t)
        p0 = widest(log_p0).exp()
        p0_at_x, pi_at_x = pick(p0, x_t), self.pi[x_t]
        # p(x_s = x_t) and p(x_t) if x_0 has the law p0
        at_s = kept_s * p0_at_x + lost_s * pi_at_x
        at_t = kept_t * p0_at_x + lost_t * pi_at_x
        data, noise = draw(p0, t), self.from_uniform(torch.rand_like(p0_at_x))
        # Bayes: p(kept in the step | x_t) = alpha_{t|s} p(x_s = x_t) / p(x_t).
        stays = happens(kept_step * at_s / at_t, t)
        is_data = happens(kept_s.expand(x_t.shape), t)
        drawn = torch.where(is_data, data, noise)
        return torch.where(stays, x_t, drawn)

    # The bound

    def kl(
        self, x0: Tokens, x_t: Tokens, log_p0: LogLaw, s: Times, t: Times
    ) -> PerToken:
        """As Noise.kl, from one table over the vocabulary in log_p0's dtype: f = log q(x_s | x_0) - log p(x_s).

        x_s is x_t if the step kept it. If not, x_t was drawn from pi, and x_s has the law q(x_s | x_0): x_0 with the
        chance alpha_s, else a draw from pi. The KL is the mean of f, less the log of q(x_t | x_0) / p(x_t).
        """
        self.check_inside("x0", x0, self.V)
        self.check_inside("x_t", x_t, self.K)
        kept_step, lost_step = kept_and_lost(self.log_alpha_ratio(s, t), x0)
        kept_s, lost_s = kept_and_lost(self.log_alpha(s), x0)
        kept_t, lost_t = kept_and_lost(self.log_alpha(t), x0)
        same, pi_t = x0 == x_t, self.pi[x_t]

        # The one table of the size of the vocabulary; all else is a few numbers a token.
        f = self.log_ratio(x0, upcast(log_p0), s)
        f_0, f_t = widest(pick(f, x0)), widest(pick(f, x_t))
        f_pi = widest(f @ self.pi.to(f.dtype))

        was_kept = kept_step * (kept_s * same + lost_s * pi_t)
        was_drawn = lost_step * pi_t
        q_t = kept_t * same + lost_t * pi_t  # q(x_t | x_0) = was_kept + was_drawn
        f_drawn = kept_s * f_0 + lost_s * f_pi
        mean_f = (was_kept * f_t + was_drawn * f_drawn) / q_t

        # In logs, since p0 may be too small for float32.
        log_kept_t = per_example(self.log_alpha(t), x0)
        log_from_p0 = log_kept_t + widest(pick(log_p0, x_t))
        log_from_pi = (lost_t * pi_t).log()
        return mean_f - q_t.log() + torch.logaddexp(log_from_p0, log_from_pi)

    def log_ratio(self, x0: Tokens, log_p0: LogLaw, s: Times) -> LogLaw:
        """log q(x_s | x_0) - log p(x_s) for every x_s, where p = p0 Q_{0->s}; in log_p0's dtype.

        At s = 0 only the entry at x_0 has a meaning: the others are finite, and have no weight.
        """
        dtype, log_kept = log_p0.dtype, per_example(self.log_alpha(s), log_p0)
        _, lost = kept_and_lost(self.log_alpha(s), log_p0)
        # (B, 1, K): log q(x_s | x_0) but at x_0.
        log_redrawn = lost.log().clamp(min=NEVER) + self.pi.log()
        log_at_x0 = torch.logaddexp(log_kept, log_redrawn)[:, 0].gather(-1, x0)

        # log of alpha p0 + (1 - alpha) pi, in logs: p0 of a sure network is below
        # float32's smallest number.
        log_p = torch.logaddexp(log_p0 + log_kept.to(dtype), log_redrawn.to(dtype))
        f = log_redrawn.to(dtype) - log_p
        f_0 = log_at_x0.to(dtype) - pick(log_p, x0)
        return f.scatter_(-1, x0[..., None], f_0[..., None])

    def prior_kl(self, x0: Tokens) -> PerToken:
        """KL(q(x_T | x_0) || prior): a number that is the same for all tokens, but for the entry at x_0."""
        self.check_inside("x0", x0, self.V)
        _, end = self.ends(x0)
        # All examples end at the same T, so one of them is enough.
        kept, lost = (v[0] for v in kept_and_lost(self.log_alpha(end), x0))
        prior, redrawn = self.prior(), lost * self.pi
        elsewhere = torch.xlogy(redrawn, redrawn / prior)
        at_x0 = torch.xlogy(redrawn + kept, (redrawn + kept) / prior)
        return elsewhere.sum() + (at_x0 - elsewhere)[x0]

    # What x_0 is, said in other ways: both sides up to a factor

    def unmix(self, c: LogLaw, t: Times) -> LogLaw:
        _, lost = kept_and_lost(self.log_alpha(t), c)
        return c - lost * self.pi

    def log_evidence(self, log_p: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """0, but at x_t: log q(x_t | x_0 = x_t) / q(x_t | any other x_0)."""
        kept, lost = kept_and_lost(self.log_alpha(t), x_t)
        from_another = lost * self.pi[x_t]
        # log (alpha + lost pi_x) - log (lost pi_x) without a difference of logs.
        gain = torch.log1p(kept / from_another).to(log_p.dtype)
        zeros = torch.zeros_like(log_p)
        return zeros.scatter_(-1, x_t[..., None], gain[..., None])


class Uniform(Stationary):
    """Every token is equally likely to come: Q = alpha I + (1 - alpha) / K 11^T.  Multinomial diffusion, eq. 11."""

    def __init__(self, K: int, clock: Table | Schedule):
        check_count("K", K, least=2)
        pi = torch.full((K,), 1 / K, dtype=torch.float64)
        super().__init__(pi, clock)

    def from_uniform(self, u: PerToken) -> Tokens:
        """The same without a search."""
        token = (u * self.K).long()
        return token.clamp(0, self.K - 1)
