"""Categorical noise: what corruption does to one token, in closed form where there is one.

A noise is a family of matrices with a clock: Q[i, j] = q(x_t = j | x_s = i). Rows are "from", columns are "to", rows
sum to 1, and a law of tokens is multiplied from the left: p Q. (SEDD, and D3PM's code for text, have columns that sum
to 1. Uniform and Gaussian matrices are symmetric and hide a mix-up; absorbing ones do not.)

    Replace      keep a token with probability alpha, else draw it from pi;  Uniform, Absorbing
    MaskUniform  to MASK and to a random token, at fixed shares of one rate
    Neighbours   a walk on a graph of similar tokens
    Chain        any matrices, one for each step;  gaussian, band

All but Chain are semigroups: Q depends on alpha_t / alpha_s alone, so the clock is a table (whole times 0..T) or a
schedule (times in [0, 1]). Methods take one s and one t per example, s <= t.
"""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .schedules import Schedule, Tables, check_table
from .shapes import Mask, PerExample, Table, Times, Tokens, check_count, per_example, widest

Law = Float[Tensor, "B L K"]  # one distribution over tokens per position
LogLaw = Float[Tensor, "B L V"]
PerToken = Float[Tensor, "B L"]
NEVER = -1e4  # stands for log 0 where log 0 would meet a factor 0

# Drawing


def draw(p: Float[Tensor, "*shape K"]) -> Int[Tensor, "*shape"]:
    """One token from each law p, normalised or not: a uniform number against the running sum, in float64.

    The usual race, argmax(log p + Gumbel), in float32 draws a token of mass q against one of mass near 1 with
    probability q u / (e^u - 1), u = 2^-24 / q: rare tokens never come (arXiv:2409.02908).
    """
    total = widest(p).cumsum(-1)
    u = torch.rand_like(total[..., :1]) * total[..., -1:]
    return torch.searchsorted(total, u, right=True).squeeze(-1).clamp(max=p.shape[-1] - 1)


def happens(p: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """True with probability p; drawn in float64, since float32 knows chances in steps of 2^-24 only."""
    p = widest(p)
    return torch.rand_like(p) < p


# Noise


class Noise(Tables):
    """One law of corruption with K states, of which the first V are tokens of the data; `mask` is MASK's state or None.

    A new noise fills in mix and likelihood; all else follows, and may be replaced by something faster.
    """

    K: int
    V: int
    T: int | float
    mask: int | None = None

    def mix(self, p: Float[Tensor, "B L _"], s: Times, t: Times) -> Law:
        """p Q_{s->t}: the law of x_t if x_s has the law p. p may have V entries instead of K."""
        raise NotImplementedError

    def likelihood(self, x_t: Tokens, s: Times, t: Times) -> Law:
        """Column x_t of Q_{s->t}: q(x_t | x_s = k) for every k, float64. No law over k."""
        raise NotImplementedError

    def row(self, x_s: Tokens, s: Times, t: Times) -> Law:
        """Row x_s of Q_{s->t}: the law of x_t given x_s, float64."""
        return self.mix(widest(F.one_hot(x_s, self.K)), s, t)

    def matrix(self, s: Times, t: Times) -> Float[Tensor, "B K K"]:
        """Q_{s->t} written out, for pictures and tests; float64."""
        eye = widest(torch.eye(self.K, device=t.device))
        return self.mix(eye.expand(len(t), -1, -1), s, t)

    def corrupt(self, x_s: Tokens, s: Times, t: Times) -> Tokens:
        """Draw x_t ~ q(x_t | x_s)."""
        return draw(self.row(x_s, s, t))

    def posterior(self, p0: Float[Tensor, "B L _"], x_t: Tokens, s: Times, t: Times) -> Law:
        """likelihood(x_t) times p0 Q_{0->s}, normalised: sum_k q(x_s, x_t | k) p0(k) / its sum.  (D3PM, eqs. 3 and 4)

        With p0 = one-hot x_0 it is q(x_s | x_t, x_0). With p0(k) = p(x_0 = k | the other tokens of x_t) it is the exact
        reverse step. p0 must not be p(x_0 | x_t), which has counted x_t already.
        """
        p = self.likelihood(x_t, s, t).to(p0.dtype) * self.mix(p0, torch.zeros_like(s), s)
        return p / p.sum(-1, keepdim=True)

    def step(self, log_p0: LogLaw, x_t: Tokens, s: Times, t: Times) -> Tokens:
        """Draw x_s ~ posterior(p0, x_t), p0 = exp(log_p0)."""
        return draw(self.posterior(widest(log_p0).exp(), x_t, s, t))

    def kl(self, x0: Tokens, x_t: Tokens, log_p0: LogLaw, s: Times, t: Times) -> PerToken:
        """KL(q(x_s | x_t, x_0) || posterior(p0, x_t)) in nats per token; at s = 0 it is -log p(x_0 | x_t).

        The likelihood of x_t stands in both laws, so it cancels in their ratio.
        """
        start, lik = torch.zeros_like(s), self.likelihood(x_t, s, t)
        want, have = self.row(x0, start, s), self.mix(widest(log_p0).exp(), start, s)
        z_want, z_have = (lik * want).sum(-1), (lik * have).sum(-1)
        q = lik * want / z_want[..., None]
        ratio = torch.where(q > 0, want, 1).log() - torch.where(q > 0, have, 1).log()
        return (q * ratio).sum(-1) - z_want.log() + z_have.log()

    # The far end

    def prior(self) -> Float[Tensor, " K"]:
        """The law of x_T if x_0 is uniform over the V tokens: what sampling starts from.

        Uniform where the matrices are doubly stochastic; all MASK, but for what the clock leaves, for absorbing noise.
        """
        flat = widest(torch.ones(1, 1, self.V, device=self.device)) / self.V
        return self.mix(flat, *self._ends(flat))[0, 0]

    def prior_kl(self, x0: Tokens) -> PerToken:
        """KL(q(x_T | x_0) || prior) in nats per token."""
        q = self.row(x0, *self._ends(x0))
        return (torch.xlogy(q, q) - torch.xlogy(q, self.prior())).sum(-1)

    def _ends(self, x: Tensor) -> tuple[Times, Times]:
        end = torch.full((len(x),), self.T, device=x.device)
        return torch.zeros_like(end), end

    # Three ways to say what x_0 is. All are logs; laws come out normalised.

    def posterior_from_loo(self, log_p: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """log p(x_0 | x_t) from log p(x_0 | the other tokens of x_t): add log q(x_t | x_0)."""
        return (log_p + self._evidence(log_p, x_t, t)).log_softmax(-1)

    def loo_from_posterior(self, log_p: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """log p(x_0 | the other tokens of x_t) from log p(x_0 | x_t): take log q(x_t | x_0) off, where it is finite."""
        evidence = self._evidence(log_p, x_t, t)
        return (log_p - torch.where(evidence.isinf(), 0, evidence)).log_softmax(-1)

    def score_from_loo(self, log_p: LogLaw, x_t: Tokens, t: Times) -> Law:
        """log of SEDD's score p(x_t with y here) / p(x_t), for all K states y; 0 at y = x_t."""
        log_c = self.mix(widest(log_p).softmax(-1), torch.zeros_like(t), t).log()
        return (log_c - log_c.gather(-1, x_t[..., None])).to(log_p.dtype)

    def loo_from_score(self, log_s: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """log p(x_0 | the other tokens of x_t) from the log scores of the V tokens.

        The scores are c = p0 Q_{0->t} up to a factor, so p0 = c Q^-1. Scores that no data could have may come out
        negative; these become the smallest positive number.
        """
        p = self._unmix(widest(log_s).softmax(-1), t)
        p = p.clamp(min=torch.finfo(p.dtype).tiny)
        return (p.log() - p.sum(-1, keepdim=True).log()).to(log_s.dtype)

    def _unmix(self, c: LogLaw, t: Times) -> LogLaw:
        """c Q_{0->t}^-1 over the V tokens, up to a factor; here by solving linear equations."""
        Q = self.matrix(torch.zeros_like(t), t)[:, : self.V, : self.V]
        return torch.linalg.solve(Q, c, left=False)

    def _evidence(self, log_p: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        return self.likelihood(x_t, torch.zeros_like(t), t)[..., : self.V].log().to(log_p.dtype)

    def _pad(self, p: Tensor) -> Tensor:
        return F.pad(p, (0, self.K - p.shape[-1])) if p.shape[-1] < self.K else p

    def check_tokens(self, name: str, x: Tensor, states: int) -> None:
        """Raise unless x holds whole numbers in 0..states-1, (B, L), B >= 1. Off the CPU the range is not read."""
        if not isinstance(x, Tensor) or x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise TypeError(f"{name} must hold integers, not {getattr(x, 'dtype', type(x).__name__)}")
        if x.ndim != 2 or not x.numel():
            raise ValueError(f"{name} must have shape (B >= 1, L >= 1), not {tuple(x.shape)}")
        if x.device.type == "cpu":
            low, high = (v.item() for v in x.aminmax())
            if low < 0 or high >= states:
                bad = low if low < 0 else high
                known = "MASK, which no data may hold" if bad == self.mask else "no such token"
                raise ValueError(f"{name} must lie in 0..{states - 1}, but holds {bad}: {known}")


class Semigroup(Noise):
    """Noise whose matrix from s to t depends on log(alpha_t / alpha_s) alone.

    clock is a table alpha_bar[0..T], whose last entry may be 0, or a schedule for times in [0, 1].
    A subclass fills in after and column, which take that logarithm, one per example.
    """

    def __init__(self, clock: Table | Schedule):
        super().__init__()
        self.schedule = clock if isinstance(clock, Schedule) else None
        log = torch.zeros(1).double() if self.schedule else check_table(clock, to_zero=True).log()
        self.T = 1.0 if self.schedule else len(log) - 1
        self.register_buffer("log_alpha_bar", log)

    def log_alpha(self, t: Times) -> PerExample:
        """log alpha_bar at t, float64; -inf where nothing is left. Time 0 is the data: a schedule that starts below 1
        does so at once, just after 0.
        """
        if not self.schedule:
            return self.log_alpha_bar[t]
        return torch.where(t == 0, 0.0, self.schedule.log_alpha_bar(widest(t)))

    def kept(self, s: Times, t: Times) -> PerExample:
        """log(alpha_t / alpha_s): how much of x_s is left in x_t."""
        return self.log_alpha(t) - self.log_alpha(s)

    def mix(self, p: Float[Tensor, "B L _"], s: Times, t: Times) -> Law:
        return self.after(self._pad(p), self.kept(s, t))

    def likelihood(self, x_t: Tokens, s: Times, t: Times) -> Law:
        return self.column(x_t, self.kept(s, t))

    def after(self, p: Law, log_alpha: PerExample) -> Law:
        """p Q(alpha)."""
        raise NotImplementedError

    def column(self, x: Tokens, log_alpha: PerExample) -> Law:
        """Column x of Q(alpha), float64."""
        raise NotImplementedError

    def rates(self, x: Tokens) -> Law:
        """Column x of R, but 0 at x itself: how fast each other state becomes x; Q = expm(-log alpha R). float64."""
        raise NotImplementedError


def kept_and_lost(log_alpha: PerExample, x: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and 1 - alpha in float64, shaped to go with x."""
    return per_example(log_alpha.exp(), x), per_example(-torch.expm1(log_alpha), x)


class Replace(Semigroup):
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
        a, lost = kept_and_lost(self.kept(s, t), x_s)
        u = torch.rand(x_s.shape, dtype=a.dtype, device=a.device)
        return torch.where(u < a, x_s, self.fresh((u - a) / lost))

    def fresh(self, u: PerToken) -> Tokens:
        """Draws from pi made of numbers that are uniform on [0, 1)."""
        return torch.searchsorted(self.pi.cumsum(0), u, right=True).clamp(0, self.K - 1)

    def step(self, log_p0: LogLaw, x_t: Tokens, s: Times, t: Times) -> Tokens:
        """Draw x_s ~ posterior(p0, x_t) in stages: did the token stay? If not, is it data or noise, and which?"""
        (a_step, _), (b, lost_s) = kept_and_lost(self.kept(s, t), x_t), kept_and_lost(self.log_alpha(s), x_t)
        a, lost = kept_and_lost(self.log_alpha(t), x_t)
        p_t, pi_t = pick(widest(log_p0), x_t).exp(), self.pi[x_t]
        stays = a_step * (b * p_t + lost_s * pi_t) / (a * p_t + lost * pi_t)
        data, noise = draw(widest(log_p0).exp()), self.fresh(torch.rand_like(p_t))
        return torch.where(happens(stays), x_t, torch.where(happens(b.expand_as(p_t)), data, noise))

    def kl(self, x0: Tokens, x_t: Tokens, log_p0: LogLaw, s: Times, t: Times) -> PerToken:
        """As Noise.kl, but with no law over K other than p0 Q_{0->s}; that in log_p0's dtype, the rest in float64.

        q(x_s | x_t, x_0) is a product of two brackets, [kept from x_s, or noise] [kept from x_0, or noise]. Multiplied
        out it has mass at x_0, mass at x_t, and a multiple of pi.
        """
        (a_step, lost_step), (b, lost_s) = (
            kept_and_lost(self.kept(s, t), x0),
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

    def _unmix(self, c: LogLaw, t: Times) -> LogLaw:
        lost = kept_and_lost(self.log_alpha(t), c)[1]
        return c - lost * self.pi.to(c.dtype)  # times 1 / alpha, which is a factor

    def _evidence(self, log_p: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        a, lost = kept_and_lost(self.log_alpha(t), x_t)
        gain = torch.log1p(a / (lost * self.pi[x_t])).to(log_p.dtype)  # log q(x_t | x_t) / q(x_t | any other)
        return torch.zeros_like(log_p).scatter_(-1, x_t[..., None], gain[..., None])


def pick(p: Float[Tensor, "B L K"], x: Tokens) -> PerToken:
    """p[b, l, x[b, l]]."""
    return p.gather(-1, x[..., None]).squeeze(-1)


class Uniform(Replace):
    """Every token is equally likely to come: Q = alpha I + (1 - alpha) / K 11^T.  Multinomial diffusion, eq. 11."""

    def __init__(self, K: int, clock: Table | Schedule):
        check_count("K", K, least=2)
        super().__init__(torch.full((K,), 1 / K, dtype=torch.float64), clock)

    def fresh(self, u: PerToken) -> Tokens:
        return (u * self.K).long().clamp(0, self.K - 1)


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
        return torch.where(happens(per_example(self.kept(s, t).exp(), x_s).expand(x_s.shape)), x_s, self.mask)

    def reveals(self, s: Times, t: Times) -> PerExample:
        """The chance that a MASK at t is a token at s: (alpha_s - alpha_t) / (1 - alpha_t)."""
        return self.log_alpha(s).exp() * torch.expm1(self.kept(s, t)) / torch.expm1(self.log_alpha(t))

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

    def _unmix(self, c: LogLaw, t: Times) -> LogLaw:
        return c


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


# Structured noise: dense K x K


class Neighbours(Semigroup):
    """A walk on a graph of similar tokens: Q = expm(sigma R), sigma = -log alpha.  (D3PM, appendix A.2.5)

    rates R (K, K) is symmetric, its rows sum to 0 and what is off its diagonal is not negative; `nearest_neighbours`
    makes one. Uniform in the end, if the graph is connected; ValueError if it is not. One eigendecomposition at the
    start; 8 K^2 bytes.
    """

    def __init__(self, rates: Float[Tensor, "K K"], clock: Table | Schedule):
        super().__init__(clock)
        R = check_rates(rates)
        values, vectors = torch.linalg.eigh(R)
        values = values.clamp(max=0)
        if (pieces := int((values > -1e-9 * R.abs().max()).sum())) > 1:
            raise ValueError(
                f"rates must join all tokens, but the graph has {pieces} pieces: the noise would never mix them"
            )
        values[-1] = 0
        self.register_buffer("values", values)
        self.register_buffer("vectors", vectors)
        self.K = self.V = len(R)

    def _power(self, log_alpha: PerExample) -> Float[Tensor, "B 1 K"]:
        """Eigenvalues of Q(alpha); that of the uniform law stays 1 even when nothing else is left."""
        power = (-log_alpha[:, None] * self.values).exp()
        return torch.where(self.values == 0, 1.0, power)[:, None]

    def after(self, p: Law, log_alpha: PerExample) -> Law:
        U = self.vectors.to(p.dtype)
        return ((p @ U * self._power(log_alpha).to(p.dtype)) @ U.T).clamp(min=0)

    def column(self, x: Tokens, log_alpha: PerExample) -> Law:
        return ((self.vectors[x] * self._power(log_alpha)) @ self.vectors.T).clamp(min=0)

    def rates(self, x: Tokens) -> Law:
        return ((self.vectors[x] * self.values) @ self.vectors.T).clamp(min=0) * (1 - F.one_hot(x, self.K))


def nearest_neighbours(embeddings: Float[Tensor, "K D"], k: int) -> Float[Tensor, "K K"]:
    """R = A - diag(A 1), A = (G + G^T) / 2k, G[i, j] = 1 if j is among the k nearest to i by cosine.  (D3PM, A.2.5)

    Raises ValueError unless 1 <= k < K, and for an embedding that is zero.
    """
    K = len(embeddings)
    check_count("k", k)
    if k >= K:
        raise ValueError(f"k must be less than the {K} tokens, not {k}")
    e = widest(embeddings)
    if not (length := e.norm(dim=1, keepdim=True)).all():
        raise ValueError(f"embeddings must not be zero, but that of token {int(length.argmin())} is")
    cosine = (e / length) @ (e / length).T
    near = cosine.fill_diagonal_(-2).topk(k, 1).indices
    G = torch.zeros_like(cosine).scatter_(1, near, 1.0)
    A = (G + G.T) / (2 * k)
    return A - A.sum(1).diag()


class Chain(Noise):
    """Any noise with one matrix for each step: one_step(t), (K, K) float64, for t = 1..T.

    Products of steps are kept at every sqrt(T)-th time only: 8 K^2 sqrt(T) bytes. A call costs up to sqrt(T) products
    with (L, K) per distinct time in the batch, and reads the times (on a GPU that waits).
    Raises ValueError for a matrix that is not stochastic, naming t, row and excess.
    """

    def __init__(self, one_step: Callable[[int], Tensor], T: int):
        super().__init__()
        check_count("T", T)
        self.one_step, self.T, self.every = one_step, T, max(1, math.isqrt(T))
        Q = torch.eye(len(one_step(1)), dtype=torch.float64)
        self.K = self.V = len(Q)
        kept = [Q]
        for t in range(1, T + 1):
            Q = Q @ check_stochastic(f"one_step({t})", one_step(t))
            if t % self.every == 0:
                kept.append(Q)
        self.register_buffer("products", torch.stack(kept))  # of the steps 1 .. i * every

    def _distinct(self, s: Times, t: Times) -> Iterator[tuple[int, int, Tensor]]:
        """Each pair of times once, with the examples that have it."""
        pairs, which = torch.stack([s, t], 1).unique(dim=0, return_inverse=True)
        for i, (first, final) in enumerate(pairs.tolist()):
            yield first, final, which == i

    def _factors(self, s: int, t: int) -> list[Tensor]:
        """Matrices whose product is Q_{s->t}, as few as are at hand."""
        jump = t // self.every * self.every if s == 0 else s
        steps = [self.one_step(i).to(self.products) for i in range(jump + 1, t + 1)]
        return ([self.products[jump // self.every]] if s == 0 else []) + steps

    def mix(self, p: Float[Tensor, "B L _"], s: Times, t: Times) -> Law:
        out = torch.empty_like(p)
        for first, final, here in self._distinct(s, t):
            v = widest(p[here])
            for Q in self._factors(first, final):
                v = v @ Q
            out[here] = v.to(p.dtype)
        return out

    def likelihood(self, x_t: Tokens, s: Times, t: Times) -> Law:
        out = widest(F.one_hot(x_t, self.K))
        for first, final, here in self._distinct(s, t):
            v = out[here]
            for Q in reversed(self._factors(first, final)):
                v = v @ Q.T
            out[here] = v
        return out


def gaussian(K: int, beta: Float[Tensor, " T"]) -> Chain:
    """Discretised Gaussian steps for ordinal data.  (D3PM, appendix A.2.3)

    Off the diagonal Q_t[i, j] = exp(-4 (i - j)^2 / ((K - 1)^2 beta_t)) / Z, where Z sums over all 2K - 1 offsets and so
    is the same in every row; the diagonal takes what is left. So Q_t is symmetric, and uniform noise in the end.
    Matrices of different beta do not commute: the product has no closed form.
    """
    check_count("K", K, least=2)
    beta = check_beta(beta)
    if not (beta > 0).all():
        raise ValueError("beta must be positive for gaussian noise")
    offset = torch.arange(K, dtype=torch.float64)
    w = (-4 * offset.square() / ((K - 1) ** 2 * beta[:, None])).exp()
    w = w / (2 * w.sum(1, keepdim=True) - 1)  # (T, K): both signs of an offset, but 0 once
    return Chain(lambda t: _spread(w[t - 1]), len(beta))


def band(K: int, beta: Float[Tensor, " T"], width: int) -> Chain:
    """Steps to one of the `width` tokens on either side, each with probability beta_t / K; the rest stays.

    (D3PM, appendix A.2.4, as its code for images has it.)
    """
    check_count("K", K, least=2)
    check_count("width", width)
    if width >= K:
        raise ValueError(f"width must be less than K = {K}, not {width}")
    near = (torch.arange(K) <= width).double() / K
    beta = check_beta(beta)
    return Chain(lambda t: _spread(beta[t - 1] * near), len(beta))


def _spread(w: Float[Tensor, " K"]) -> Float[Tensor, "K K"]:
    """The symmetric matrix with w[|i - j|] off the diagonal, and rows that sum to 1."""
    i = torch.arange(len(w))
    Q = w[(i[:, None] - i).abs()]
    return Q + (1 - Q.sum(1)).diag()


# Schedules by information


def information(noise: Semigroup, p0: Float[Tensor, " V"], log_alpha: PerExample) -> PerExample:
    """I(x_t; x_0) in nats per token, for x_0 ~ p0 and each log(alpha_t)."""
    eye = torch.eye(noise.K, dtype=torch.float64)[: noise.V]
    Q = noise.after(eye.expand(len(log_alpha), -1, -1), widest(log_alpha))  # (N, V, K)
    joint = widest(p0)[:, None] * Q
    return (torch.xlogy(joint, Q) - torch.xlogy(joint, joint.sum(1, keepdim=True))).sum((1, 2))


def information_table(noise: Semigroup, p0: Float[Tensor, " V"], T: int, halvings: int = 50) -> Table:
    """alpha_bar[0..T] with I(x_t; x_0) / H(x_0) = 1 - t / T, by bisection in log sigma.  (D3PM, section 3.3)

    The clock of `noise` plays no part. For absorbing noise this is 1 - t / T whatever p0 is. Needs about T K^2 numbers.
    """
    check_count("T", T)
    p0 = check_law("p0", p0)
    goal = torch.special.entr(p0).sum() * (1 - widest(torch.arange(1, T)) / T)
    low, high = torch.full((T - 1,), -20.0).double(), torch.full((T - 1,), 10.0).double()
    for _ in range(halvings):
        middle = (low + high) / 2
        more = information(noise, p0, -middle.exp()) > goal  # too little noise
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    ends = torch.tensor([1.0]).double(), torch.tensor([0.0]).double()
    return check_table(torch.cat([ends[0], (-high.exp()).exp(), ends[1]]), to_zero=True)


# Bad input


def check_law(name: str, p: Tensor) -> Tensor:
    """p in float64, or an error: (K,), K >= 2, not negative, sums to 1."""
    if not (isinstance(p, Tensor) and p.is_floating_point() and p.ndim == 1 and len(p) >= 2):
        raise ValueError(f"{name} must be a float tensor (K,) with K >= 2, not {describe(p)}")
    p = widest(p.detach())
    if not ((p >= 0).all() and abs(p.sum() - 1) < 1e-6):
        raise ValueError(f"{name} must not be negative and must sum to 1, but sums to {p.sum().item():g}")
    return p / p.sum()


def check_beta(beta: Tensor) -> Tensor:
    """beta in float64, or an error: (T,), T >= 1, each in [0, 1]."""
    if not (isinstance(beta, Tensor) and beta.is_floating_point() and beta.ndim == 1 and len(beta)):
        raise ValueError(f"beta must be a float tensor (T,) with T >= 1, not {describe(beta)}")
    if not ((beta >= 0) & (beta <= 1)).all():
        t = int((~((beta >= 0) & (beta <= 1))).nonzero()[0])
        raise ValueError(f"beta must lie in [0, 1], but at t = {t + 1} it is {beta[t].item():g}")
    return widest(beta.detach())


def check_stochastic(name: str, Q: Tensor, tol: float = 1e-9) -> Tensor:
    """Q in float64, or an error that says which row is no law, and by how much."""
    if not (
        isinstance(Q, Tensor) and Q.is_floating_point() and Q.ndim == 2 and Q.shape[0] == Q.shape[1] >= 2
    ):
        raise ValueError(f"{name} must be a float tensor (K, K) with K >= 2, not {describe(Q)}")
    Q = widest(Q.detach())
    if (Q < 0).any():
        i, j = (int(v) for v in (Q < 0).nonzero()[0])
        raise ValueError(f"{name} must not be negative, but row {i} holds {Q[i, j].item():g} at {j}")
    excess = Q.sum(1) - 1
    if not (excess.abs() <= tol).all():
        i = int(excess.abs().nan_to_num(nan=torch.inf).argmax())
        raise ValueError(f"each row of {name} must sum to 1, but row {i} sums to 1 {excess[i].item():+.3g}")
    return Q


def check_rates(R: Tensor) -> Tensor:
    """R in float64, or an error: (K, K), symmetric, not negative off the diagonal, rows sum to 0."""
    if not (
        isinstance(R, Tensor) and R.is_floating_point() and R.ndim == 2 and R.shape[0] == R.shape[1] >= 2
    ):
        raise ValueError(f"rates must be a float tensor (K, K) with K >= 2, not {describe(R)}")
    R = widest(R.detach())
    scale = R.abs().max().clamp(min=1e-300)
    if not ((R - R.T).abs() <= 1e-9 * scale).all():
        raise ValueError("rates must be symmetric")
    if ((R - R.diag().diag()) < 0).any():
        raise ValueError("rates must not be negative off the diagonal")
    if not (R.sum(1).abs() <= 1e-9 * scale).all():
        i = int(R.sum(1).abs().argmax())
        raise ValueError(f"each row of rates must sum to 0, but row {i} sums to {R[i].sum().item():.3g}")
    return (R + R.T) / 2
