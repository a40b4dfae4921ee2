"""Categorical noise: what corruption does to one token, in closed form where there is one.

A noise is a family of matrices with a clock: Q[i, j] = q(x_t = j | x_s = i). Rows are "from", columns are "to", rows
sum to 1, and a law of tokens is multiplied from the left: p Q. (SEDD, MDLM and D3PM's code for text have columns that
sum to 1. Uniform and Gaussian matrices are symmetric and hide a mix-up; absorbing ones do not.)

    stationary    keep a token with probability alpha, else draw it from pi;  Stationary, Uniform
    absorbing     keep it, else MASK;  Absorbing
    mask_uniform  to MASK and to a random token, at fixed shares of one rate;  MaskUniform
    structured    dense matrices: a walk on a graph of similar tokens, Neighbours, and any matrices, one for each step,
                  StepMatrices;  gaussian, band

All but StepMatrices are semigroups: Q depends on alpha_t / alpha_s alone, so the clock is a table (whole times 0..T) or
a schedule (times in [0, 1]). Methods take one s and one t per example, s <= t, in this order, forwards in time; a
Process takes (t, s). Laws are float64.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from .finite import note
from .schedules import Schedule
from .shapes import (
    PerExample,
    Table,
    Times,
    Tokens,
    per_example,
    upcast,
    widest,
)
from .token_checks import NoiseChecks, check_alpha_bar, check_order

Law = Float[Tensor, "B L K"]  # one distribution over tokens per position, float64
LogLaw = Float[Tensor, "B L V"]
PerToken = Float[Tensor, "B L"]

# Drawing


def draw(
    p: Float[Tensor, "*shape K"], t: Shaped[Tensor, " B"] | None = None
) -> Int[Tensor, "*shape"]:
    """One token from each law p, normalised or not: a uniform number against the running sum, in float64.

    The usual race, argmax(log p + Gumbel), in float32 draws a token of mass q against one of mass near 1 with
    probability q u / (e^u - 1), u = 2^-24 / q: rare tokens never come (arXiv:2409.02908).
    FloatingPointError for a p that is no law: NaN, infinite, negative, or 0 everywhere. At once on a CPU; elsewhere
    when the running loop reads its watch. t, one per example, is for the message only.
    """
    below = running_sum(p, t)
    total = below[..., -1:]
    # Times the total, so that p need not be normalised: a pass less over the vocabulary.
    u = torch.rand_like(total) * total
    return find(below, u).squeeze(-1)


def draw_many(p: Float[Tensor, " K"], shape: tuple[int, ...]) -> Int[Tensor, "*shape"]:
    """Tokens of this shape, each on its own from the one law p. As `draw`, but with one running sum for all."""
    below = running_sum(p)
    u = torch.rand(shape, dtype=below.dtype, device=below.device) * below[-1]
    return find(below, u)


def running_sum(
    p: Float[Tensor, "*shape K"], t: Times | None = None
) -> Float[Tensor, "*shape K"]:
    """p_0 + ... + p_k for each k, float64. Says so if p is no law, as `draw` does."""
    p = p.detach()
    below = widest(p).cumsum(-1)
    total = below[..., -1]
    # Comparisons are false for NaN, which amin and cumsum pass on.
    not_negative = p.amin(-1) >= 0
    good = not_negative & (total > 0) & total.isfinite()
    note(
        "each law to draw from",
        good,
        t,
        must="finite, not negative and not 0 everywhere",
    )
    return below


def find(
    below: Float[Tensor, "*laws K"], u: Float[Tensor, "*shape"]
) -> Int[Tensor, "*shape"]:
    """The first token whose running sum is above u. One law takes any u; more take some u each, in a last axis."""
    # right=True skips tokens of mass 0, whose running sum equals the one before.
    token = torch.searchsorted(below, u, right=True)
    # For a law of NaN on a GPU, which is noted but goes on: an index out of range would stop the device.
    return token.clamp(max=below.shape[-1] - 1)


def happens(
    p: Float[Tensor, "*shape"], t: Shaped[Tensor, " B"] | None = None
) -> Bool[Tensor, "*shape"]:
    """True with probability p, always if p >= 1; drawn in float64, since float32 has steps of 2^-24 only.

    FloatingPointError for p that is NaN or infinite, as in `draw`.
    """
    p = widest(p.detach())
    note("each chance", p.isfinite(), t)
    return torch.rand_like(p) < p


def pick(p: Float[Tensor, "B L K"], x: Tokens) -> PerToken:
    """p[b, l, x[b, l]]."""
    return p.gather(-1, x[..., None]).squeeze(-1)


# Noise


class Noise(NoiseChecks):
    """How one token is corrupted: K states, the first V of them tokens of the data; `mask` is MASK's state or None.

    A new noise fills in mix and likelihood; all else follows, and may be replaced by something faster.
    """

    K: int
    V: int
    T: int | float
    mask: int | None = None

    def mix(self, p: Float[Tensor, "B L _"], s: Times, t: Times) -> Law:
        """p Q_{s->t}: the law of x_t if x_s has the law p, float64. p may have V entries instead of K."""
        raise NotImplementedError(f"{type(self).__name__} has no mix")

    def likelihood(self, x_t: Tokens, s: Times, t: Times) -> Law:
        """Column x_t of Q_{s->t}: q(x_t | x_s = k) for every k, float64. No law over k."""
        raise NotImplementedError(f"{type(self).__name__} has no likelihood")

    def row(self, x_s: Tokens, s: Times, t: Times) -> Law:
        """Row x_s of Q_{s->t}: the law of x_t given x_s."""
        self.check_inside("x_s", x_s, self.K)
        return self.mix(widest(F.one_hot(x_s, self.K)), s, t)

    def matrix(self, s: Times, t: Times) -> Float[Tensor, "B K K"]:
        """Q_{s->t} written out, for pictures and tests."""
        eye = widest(torch.eye(self.K, device=t.device))
        return self.mix(eye.expand(len(t), -1, -1), s, t)

    def corrupt(self, x_s: Tokens, s: Times, t: Times) -> Tokens:
        """Draw x_t ~ q(x_t | x_s)."""
        return draw(self.row(x_s, s, t), t)

    def posterior(
        self, p0: Float[Tensor, "B L _"], x_t: Tokens, s: Times, t: Times
    ) -> Law:
        """likelihood(x_t) times p0 Q_{0->s}, normalised: sum_k q(x_s, x_t | k) p0(k) / its sum.  (D3PM, eqs. 3 and 4)

        With p0 = one-hot x_0 it is q(x_s | x_t, x_0). With p0(k) = p(x_0 = k | the other tokens of x_t) it is the exact
        reverse step. p0 must not be p(x_0 | x_t), which has counted x_t already.
        """
        # D3PM's eq. 3, right factor: x_0 Q-bar_{t-1}; with a law p0 in place of x_0
        # it is eq. 4's sum over x_0.
        at_s = self.mix(p0, torch.zeros_like(s), s)
        # Left factor: x_t Q_t^T, the column of x_t. The denominator is the sum.
        joint = self.likelihood(x_t, s, t) * at_s
        return joint / joint.sum(-1, keepdim=True)

    def step(self, log_p0: LogLaw, x_t: Tokens, s: Times, t: Times) -> Tokens:
        """Draw x_s ~ posterior(p0, x_t), p0 = exp(log_p0)."""
        self.check_inside("x_t", x_t, self.K)
        p0 = widest(log_p0).exp()
        return draw(self.posterior(p0, x_t, s, t), t)

    def kl(
        self, x0: Tokens, x_t: Tokens, log_p0: LogLaw, s: Times, t: Times
    ) -> PerToken:
        """KL(q(x_s | x_t, x_0) || posterior(p0, x_t)) in nats per token; at s = 0 it is -log p(x_0 | x_t).

        The likelihood of x_t stands in both laws, so it cancels in their ratio.
        """
        self.check_inside("x0", x0, self.V)
        self.check_inside("x_t", x_t, self.K)
        start = torch.zeros_like(s)
        likelihood = self.likelihood(x_t, s, t)
        true = self.row(x0, start, s)
        said = self.mix(widest(log_p0).exp(), start, s)
        # Only the two normalisers and the ratio of true to said are left.
        z_true = (likelihood * true).sum(-1)  # q(x_t | x_0)
        z_said = (likelihood * said).sum(-1)  # the same if x_0 has the law p0
        q = likelihood * true / z_true[..., None]
        # log 1 stands where q = 0, so that neither the value nor the gradient meets 0 times infinity.
        log_true = torch.where(q > 0, true, 1).log()
        log_said = torch.where(q > 0, said, 1).log()
        mean_log_ratio = (q * (log_true - log_said)).sum(-1)
        return mean_log_ratio - z_true.log() + z_said.log()

    # The far end

    def prior(self) -> Float[Tensor, " K"]:
        """The law of x_T if x_0 is uniform over the V tokens: what sampling starts from.

        Uniform where the matrices are doubly stochastic; all MASK, but for what the clock leaves, for absorbing noise.
        `draw_many(noise.prior(), (n, length))` draws sequences from it.
        """
        # Not simply the stationary law: where the clock leaves something at T,
        # KL(q(x_T | x_0) || prior) would be infinite for absorbing noise.
        ones = widest(torch.ones(1, 1, self.V, device=self.device))
        start, end = self.ends(ones)
        return self.mix(ones / self.V, start, end)[0, 0]

    def prior_kl(self, x0: Tokens) -> PerToken:
        """KL(q(x_T | x_0) || prior) in nats per token."""
        self.check_inside("x0", x0, self.V)
        start, end = self.ends(x0)
        q = self.row(x0, start, end)
        # xlogy: 0 log 0 is 0, for states that q never reaches.
        minus_entropy = torch.xlogy(q, q)
        cross_entropy = -torch.xlogy(q, self.prior())
        return (minus_entropy + cross_entropy).sum(-1)

    def ends(self, x: Tensor) -> tuple[Times, Times]:
        """0 and T for each example of x."""
        end = torch.full((len(x),), self.T, device=x.device)
        return torch.zeros_like(end), end

    # Three ways to say what x_0 is. All are logs; laws come out normalised, in the network's dtype or float32.

    def posterior_from_loo(self, log_p: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """log p(x_0 | x_t) from log p(x_0 | the other tokens of x_t): add log q(x_t | x_0)."""
        log_p = upcast(log_p)
        return (log_p + self.log_evidence(log_p, x_t, t)).log_softmax(-1)

    def loo_from_posterior(self, log_p: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """log p(x_0 | the other tokens of x_t) from log p(x_0 | x_t): take log q(x_t | x_0) off, where it is finite."""
        log_p = upcast(log_p)
        evidence = self.log_evidence(log_p, x_t, t)
        # Where x_t rules x_0 out both are -inf, and their difference says nothing.
        evidence = torch.where(evidence.isinf(), 0, evidence)
        return (log_p - evidence).log_softmax(-1)

    def score_from_loo(self, log_p: LogLaw, x_t: Tokens, t: Times) -> Law:
        """log of SEDD's score p(x_t with y here) / p(x_t), for all K states y; 0 at y = x_t."""
        # In float64: after much noise all of c is nearly alike,
        # and the score is in its last digits.
        p0 = widest(log_p).softmax(-1)
        log_c = self.mix(p0, torch.zeros_like(t), t).log()
        log_score = log_c - pick(log_c, x_t)[..., None]
        return log_score.to(upcast(log_p).dtype)

    def loo_from_score(self, log_s: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """log p(x_0 | the other tokens of x_t) from the log scores of the V tokens.

        The scores are c = p0 Q_{0->t} up to a factor, so p0 = c Q^-1. Scores that no data could have may come out
        negative; these become the smallest positive number.
        """
        # c is known up to a factor only, since a score is a ratio; softmax picks one,
        # and keeps exp from overflowing.
        c = widest(log_s).softmax(-1)
        p = self.unmix(c, t)
        p = p.clamp(min=torch.finfo(p.dtype).tiny)
        log_p = p.log() - p.sum(-1, keepdim=True).log()
        return log_p.to(upcast(log_s).dtype)

    def unmix(self, c: LogLaw, t: Times) -> LogLaw:
        """c Q_{0->t}^-1 over the V tokens, up to a factor; here by solving linear equations."""
        Q = self.matrix(torch.zeros_like(t), t)
        # No data is MASK: the V scores of tokens are V equations for p0's V numbers.
        of_tokens = Q[:, : self.V, : self.V]
        return torch.linalg.solve(of_tokens, c, left=False)

    def log_evidence(self, log_p: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """log q(x_t | x_0 = k) for the V tokens k, up to a number per position; in log_p's dtype."""
        likelihood = self.likelihood(x_t, torch.zeros_like(t), t)
        return likelihood[..., : self.V].log().to(log_p.dtype)


class Semigroup(Noise):
    """Noise whose matrix from s to t depends on log(alpha_t / alpha_s) alone.

    clock is a table alpha_bar[0..T], whose last entry may be 0, or a schedule for times in [0, 1]; one that is learned
    gets its gradient through log_alpha, while a table is a constant.
    A subclass fills in after and column, which take that logarithm, one per example; rates too for continuous time.
    """

    def __init__(self, clock: Table | Schedule):
        super().__init__()
        if isinstance(clock, Schedule):
            self.schedule, self.T = clock, 1.0
            # Not read; it tells the device.
            log_alpha_bar = torch.zeros(1, dtype=torch.float64)
        else:
            log_alpha_bar = check_alpha_bar(clock).log()
            self.schedule, self.T = None, len(log_alpha_bar) - 1
        self.register_buffer("log_alpha_bar", log_alpha_bar)

    def log_alpha(self, t: Times) -> PerExample:
        """log alpha_bar(t), float64; -inf where nothing is left.

        At t = 0 it is 0 for every clock, also for one whose limit at 0 is below (geometric): that noise acts just
        after 0, see tokens.FIRST.
        """
        self.check_moments("t", t)
        if not self.schedule:
            return self.log_alpha_bar[t.long()]
        start = t == 0
        # The schedule is not asked at 0, where a learned one may have a slope that is infinite.
        u = widest(torch.where(start, 0.5, t))
        return torch.where(start, 0.0, self.schedule.log_alpha_bar(u))

    def log_alpha_ratio(self, s: Times, t: Times) -> PerExample:
        """log(alpha_t / alpha_s): how much of x_s is left in x_t. 0 for equal alphas, also where nothing is left."""
        check_order(s, t)
        at_s, at_t = self.log_alpha(s), self.log_alpha(t)
        # -inf minus -inf would be NaN.
        return torch.where(at_s == at_t, 0.0, at_t - at_s)

    def mix(self, p: Float[Tensor, "B L _"], s: Times, t: Times) -> Law:
        p, missing = widest(p), self.K - p.shape[-1]
        if missing:
            p = F.pad(p, (0, missing))
        return self.after(p, self.log_alpha_ratio(s, t))

    def likelihood(self, x_t: Tokens, s: Times, t: Times) -> Law:
        return self.column(x_t, self.log_alpha_ratio(s, t))

    def after(self, p: Law, log_alpha: PerExample) -> Law:
        """p Q(alpha), p in float64. alpha > 1 undoes noise: Q(1 / alpha) is the inverse of Q(alpha)."""
        raise NotImplementedError(f"{type(self).__name__} has no after")

    def column(self, x: Tokens, log_alpha: PerExample) -> Law:
        """Column x of Q(alpha)."""
        raise NotImplementedError(f"{type(self).__name__} has no column")

    def rates(self, x: Tokens) -> Law:
        """Column x of R, but 0 at x itself: how fast each other state becomes x; Q = expm(-log alpha R)."""
        raise NotImplementedError(f"{type(self).__name__} has no rates")


def kept_and_lost(log_alpha: PerExample, x: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and 1 - alpha in float64, shaped to go with x."""
    # 1 - exp would lose the digits of a small 1 - alpha, which is what early times consist of.
    alpha, lost = log_alpha.exp(), -torch.expm1(log_alpha)
    return per_example(alpha, x), per_example(lost, x)
