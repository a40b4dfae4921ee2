"""Categorical noise: what corruption does to one token, in closed form where there is one.

A noise is a family of matrices with a clock: Q[i, j] = q(x_t = j | x_s = i). Rows are "from", columns are "to", rows
sum to 1, and a law of tokens is multiplied from the left: p Q. (SEDD, and D3PM's code for text, have columns that sum
to 1. Uniform and Gaussian matrices are symmetric and hide a mix-up; absorbing ones do not.)

    stationary    keep a token with probability alpha, else draw it from pi;  Stationary, Uniform
    absorbing     keep it, else MASK;  Absorbing
    mask_uniform  to MASK and to a random token, at fixed shares of one rate;  MaskUniform
    structured    dense matrices: a walk on a graph of similar tokens, Neighbours, and any matrices, one for each step,
                  StepMatrices;  gaussian, band

All but StepMatrices are semigroups: Q depends on alpha_t / alpha_s alone, so the clock is a table (whole times 0..T) or
a schedule (times in [0, 1]). Methods take one s and one t per example, s <= t.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .schedules import Schedule, Tables, check_table
from .shapes import PerExample, Table, Times, Tokens, describe, per_example, widest

Law = Float[Tensor, "B L K"]  # one distribution over tokens per position
LogLaw = Float[Tensor, "B L V"]
PerToken = Float[Tensor, "B L"]

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


def pick(p: Float[Tensor, "B L K"], x: Tokens) -> PerToken:
    """p[b, l, x[b, l]]."""
    return p.gather(-1, x[..., None]).squeeze(-1)


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
        return (log_p + self.log_evidence(log_p, x_t, t)).log_softmax(-1)

    def loo_from_posterior(self, log_p: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """log p(x_0 | the other tokens of x_t) from log p(x_0 | x_t): take log q(x_t | x_0) off, where it is finite."""
        evidence = self.log_evidence(log_p, x_t, t)
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
        p = self.unmix(widest(log_s).softmax(-1), t)
        p = p.clamp(min=torch.finfo(p.dtype).tiny)
        return (p.log() - p.sum(-1, keepdim=True).log()).to(log_s.dtype)

    def unmix(self, c: LogLaw, t: Times) -> LogLaw:
        """c Q_{0->t}^-1 over the V tokens, up to a factor; here by solving linear equations."""
        Q = self.matrix(torch.zeros_like(t), t)[:, : self.V, : self.V]
        return torch.linalg.solve(Q, c, left=False)

    def log_evidence(self, log_p: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
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

    def log_alpha_ratio(self, s: Times, t: Times) -> PerExample:
        """log(alpha_t / alpha_s): how much of x_s is left in x_t."""
        return self.log_alpha(t) - self.log_alpha(s)

    def mix(self, p: Float[Tensor, "B L _"], s: Times, t: Times) -> Law:
        return self.after(self._pad(p), self.log_alpha_ratio(s, t))

    def likelihood(self, x_t: Tokens, s: Times, t: Times) -> Law:
        return self.column(x_t, self.log_alpha_ratio(s, t))

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


# Bad input


def check_law(name: str, p: Tensor) -> Tensor:
    """p in float64, or an error: (K,), K >= 2, not negative, sums to 1."""
    if not (isinstance(p, Tensor) and p.is_floating_point() and p.ndim == 1 and len(p) >= 2):
        raise ValueError(f"{name} must be a float tensor (K,) with K >= 2, not {describe(p)}")
    p = widest(p.detach())
    if not ((p >= 0).all() and abs(p.sum() - 1) < 1e-6):
        raise ValueError(f"{name} must not be negative and must sum to 1, but sums to {p.sum().item():g}")
    return p / p.sum()
