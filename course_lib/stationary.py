"""Noise with a stationary law: a token is kept, or drawn again from pi, whatever it was.

    Stationary  any positive law pi
    Uniform     pi = 1 / K: multinomial diffusion (arXiv:2102.05379) and D3PM's uniform matrices (arXiv:2107.03006)

Nothing here is larger than the network's own output, so K may be 50,257.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .categorical import Law, LogLaw, PerToken, Semigroup, check_law, draw, happens, kept_and_lost, pick
from .schedules import Schedule
from .shapes import PerExample, Table, Times, Tokens, check_count, per_example, widest

NEVER = -1e4  # stands for log 0 where log 0 would meet a factor 0


class Stationary(Semigroup):
    """Keep a token with probability alpha, else draw it from pi: Q = alpha I + (1 - alpha) 1 pi^T.

    pi (K,) is positive and sums to 1. Q(a) Q(b) = Q(a b). Nothing here is larger than the network's own output.
    """

    def __init__(self, pi: Float[Tensor, " K"], clock: Table | Schedule):
        super().__init__(clock)
        pi = check_law("pi", pi)
        if not (pi > 0).all():
            raise ValueError(f"pi must be positive, but pi[{int(pi.argmin())}] = {pi.min().item():g}")
        self.register_buffer("pi", pi)
        self.K = self.V = len(pi)

    def after(self, p: Law, log_alpha: PerExample) -> Law:
        a, lost = (v.to(p.dtype) for v in kept_and_lost(log_alpha, p))
        return a * p + lost * p.sum(-1, keepdim=True) * self.pi.to(p.dtype)

    def column(self, x: Tokens, log_alpha: PerExample) -> Law:
        a, lost = kept_and_lost(log_alpha, x)
        flat = (lost * self.pi[x])[..., None].repeat(1, 1, self.K)
        return flat.scatter_add_(-1, x[..., None], a.expand(x.shape)[..., None])

    def rates(self, x: Tokens) -> Law:
        return self.pi[x][..., None] * (1 - F.one_hot(x, self.K))

    def corrupt(self, x_s: Tokens, s: Times, t: Times) -> Tokens:
        """Draw x_t ~ q(x_t | x_s): one uniform number per token says whether to keep it and, if not, what comes."""
        a, lost = kept_and_lost(self.log_alpha_ratio(s, t), x_s)
        u = torch.rand(x_s.shape, dtype=a.dtype, device=a.device)
        return torch.where(u < a, x_s, self.from_uniform((u - a) / lost))

    def from_uniform(self, u: PerToken) -> Tokens:
        """Draws from pi made of numbers that are uniform on [0, 1)."""
        return torch.searchsorted(self.pi.cumsum(0), u, right=True).clamp(0, self.K - 1)

    def step(self, log_p0: LogLaw, x_t: Tokens, s: Times, t: Times) -> Tokens:
        """Draw x_s ~ posterior(p0, x_t) in stages: did the token stay? If not, is it data or noise, and which?"""
        (a_step, _), (b, lost_s) = (
            kept_and_lost(self.log_alpha_ratio(s, t), x_t),
            kept_and_lost(self.log_alpha(s), x_t),
        )
        a, lost = kept_and_lost(self.log_alpha(t), x_t)
        p_t, pi_t = pick(widest(log_p0), x_t).exp(), self.pi[x_t]
        stays = a_step * (b * p_t + lost_s * pi_t) / (a * p_t + lost * pi_t)
        data, noise = draw(widest(log_p0).exp()), self.from_uniform(torch.rand_like(p_t))
        return torch.where(happens(stays), x_t, torch.where(happens(b.expand_as(p_t)), data, noise))

    def kl(self, x0: Tokens, x_t: Tokens, log_p0: LogLaw, s: Times, t: Times) -> PerToken:
        """As Noise.kl, but with no law over K other than p0 Q_{0->s}; that in log_p0's dtype, the rest in float64.

        q(x_s | x_t, x_0) is a product of two brackets, [kept from x_s, or noise] [kept from x_0, or noise]. Multiplied
        out it has mass at x_0, mass at x_t, and a multiple of pi.
        """
        (a_step, lost_step), (b, lost_s) = (
            kept_and_lost(self.log_alpha_ratio(s, t), x0),
            kept_and_lost(self.log_alpha(s), x0),
        )
        a, lost = kept_and_lost(self.log_alpha(t), x0)
        log_b, log_lost_s = per_example(self.log_alpha(s), x0), lost_s.log().clamp(min=NEVER)
        low = (log_lost_s[..., None] + self.pi.log()).to(
            log_p0.dtype
        )  # (B, 1, K): log q(x_s = j | x_0), j not x_0
        have = torch.logaddexp(log_p0 + log_b[..., None].to(log_p0.dtype), low)  # (B, L, K): log p0 Q_{0->s}
        same, pi_0, pi_t = x0 == x_t, self.pi[x0], self.pi[x_t]
        low_0, have_0 = log_lost_s + pi_0.log(), widest(pick(have, x0))
        top = torch.logaddexp(log_b, low_0)  # log q(x_s = x_0 | x_0)
        at_t = torch.where(same, top - have_0, log_lost_s + pi_t.log() - widest(pick(have, x_t)))
        on_average = widest((low - have) @ self.pi.to(low.dtype)) + pi_0 * (top - low_0)
        total = b * (a_step * same + lost_step * pi_t) * (top - have_0)
        total = total + lost_s * pi_t * (a_step * at_t + lost_step * on_average)
        z = a * same + lost * pi_t  # q(x_t | x_0), and the same if x_0 has the law p0:
        log_z_have = torch.logaddexp(
            widest(pick(log_p0, x_t)) + per_example(self.log_alpha(t), x0), (lost * pi_t).log()
        )
        return total / z - z.log() + log_z_have

    def prior_kl(self, x0: Tokens) -> PerToken:
        a, lost = (v[0] for v in kept_and_lost(self.log_alpha(self._ends(x0)[1]), x0))
        prior, low = self.prior(), lost * self.pi  # (K,): nothing per token is needed but one look-up
        rest = torch.xlogy(low, low / prior)
        return rest.sum() + (torch.xlogy(low + a, (low + a) / prior) - rest)[x0]

    def unmix(self, c: LogLaw, t: Times) -> LogLaw:
        lost = kept_and_lost(self.log_alpha(t), c)[1]
        return c - lost * self.pi.to(c.dtype)  # times 1 / alpha, which is a factor

    def log_evidence(self, log_p: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        a, lost = kept_and_lost(self.log_alpha(t), x_t)
        gain = torch.log1p(a / (lost * self.pi[x_t])).to(log_p.dtype)  # log q(x_t | x_t) / q(x_t | any other)
        return torch.zeros_like(log_p).scatter_(-1, x_t[..., None], gain[..., None])


class Uniform(Stationary):
    """Every token is equally likely to come: Q = alpha I + (1 - alpha) / K 11^T.  Multinomial diffusion, eq. 11."""

    def __init__(self, K: int, clock: Table | Schedule):
        check_count("K", K, least=2)
        super().__init__(torch.full((K,), 1 / K, dtype=torch.float64), clock)

    def from_uniform(self, u: PerToken) -> Tokens:
        return (u * self.K).long().clamp(0, self.K - 1)
