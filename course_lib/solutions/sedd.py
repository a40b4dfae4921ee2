"""Chapter 7, SEDD: the reference answers, their checks and the classic wrong answers.

Rows are "from", columns are "to": R[i, j] is the rate at which i turns into j. The checks add up laws of whole
sentences, take exponentials of rate matrices, or count.
"""

import math

import torch
import torch.nn.functional as F

from ..checks import Mistakes, compare
from ..exercise import define


def uniform_rates(K):
    """R = 11^T / K - I."""
    return torch.full((K, K), 1 / K, dtype=torch.float64) - torch.eye(
        K, dtype=torch.float64
    )


# --- concrete_score ---


def concrete_score(p):
    """s[a, b, y] = p(y, b) / p(a, b): the first of two tokens replaced by y, for every sentence (a, b)."""
    return p.T[None, :, :] / p[:, :, None]


def one_by_one(p):
    """The same, entry by entry."""
    K = len(p)
    rows = [
        [[(p[y, b] / p[a, b]).item() for y in range(K)] for b in range(K)]
        for a in range(K)
    ]
    return torch.tensor(rows, dtype=torch.float64)


CONCRETE_SCORE: Mistakes = {
    "upside down": (
        lambda p: p[:, :, None] / p.T[None, :, :],
        "your ratios are upside down: the sentence with y in it stands above, the one at hand below",
    ),
    "the second token replaced": (
        lambda p: p[:, None, :] / p[:, :, None],
        "you replace the second token: s[a, b, y] is about the sentence (y, b)",
    ),
    "normalised": (
        lambda p: (p.T / p.T.sum(1, keepdim=True)).expand(len(p), -1, -1),
        "your numbers sum to 1 over y: this is the conditional law of the first token. A score is a ratio of two "
        "probabilities, 1 at y = a",
    ),
    "logs": (
        lambda p: (p.T[None, :, :] / p[:, :, None]).log(),
        "some of your numbers are negative: this is log s, which a network gives; the score is s",
    ),
    "differences": (
        lambda p: p.T[None, :, :] / p[:, :, None] - 1,
        "your score of staying (y = a) is 0: this is s - 1, a relative difference. The ratio there is 1",
    ),
}


def check_concrete_score(fn):
    for K in (3, 4):
        p = torch.rand(K, K, dtype=torch.float64) + 0.1
        if hint := compare(fn, one_by_one, CONCRETE_SCORE, p / p.sum()):
            return hint
    return None


define(concrete_score, check_concrete_score, CONCRETE_SCORE)


# --- score_entropy ---


def score_entropy(log_s, rho):
    """s - rho log s + rho (log rho - 1), elementwise; rho > 0."""
    return log_s.exp() - rho * log_s + rho * (rho.log() - 1)


def integrated(log_s, rho):
    """The loss whose slope in s is 1 - rho / s and which is 0 at s = rho, summed up in small steps."""
    grid = torch.linspace(0, 1, 20001, dtype=torch.float64)
    path = rho.log() + grid[:, None] * (log_s - rho.log())  # from log rho to log s
    slope = (path.exp() - rho) * (log_s - rho.log())  # d/dlog s = s - rho
    return torch.trapezoid(slope, grid, dim=0)


SCORE_ENTROPY: Mistakes = {
    "without K(rho)": (
        lambda log_s, rho: log_s.exp() - rho * log_s,
        "your loss is not 0 at s = rho, and negative in places: the term that depends on rho alone is missing. "
        "It moves no gradient, and it is what makes the loss a bound",
    ),
    "K without the -1": (
        lambda log_s, rho: log_s.exp() - rho * log_s + rho * rho.log(),
        "at s = rho your loss is rho: K(rho) = rho (log rho - 1), and the -1 is missing",
    ),
    "s and rho swapped": (
        lambda log_s, rho: score_entropy(rho.log(), log_s.exp()),
        "s and rho have changed places. Score entropy is not symmetric: the true ratio stands before the logarithm",
    ),
    "the log not weighted": (
        lambda log_s, rho: log_s.exp() - log_s + rho * (rho.log() - 1),
        "your minimum is at s = 1 whatever rho is: the logarithm of s has the weight rho",
    ),
    "squares": (
        lambda log_s, rho: (log_s.exp() - rho) ** 2 / 2,
        "these are squares: they hardly mind a score near 0, where a ratio may be wrong by any factor",
    ),
    "log_s taken for s": (
        lambda log_s, rho: log_s - rho * log_s.abs().log() + rho * (rho.log() - 1),
        "the network gives log s: take its exponential before it stands for s",
    ),
}


def check_score_entropy(fn):
    log_s = torch.tensor([-1.5, 0.3, 2.0, -0.2], dtype=torch.float64)
    rho = torch.tensor([0.5, 2.0, 0.7, 1.6], dtype=torch.float64)
    return compare(fn, _rounded(integrated), SCORE_ENTROPY, log_s, rho)


def _rounded(fn):
    """The answer of a numerical integral, to what it is good for: the closed form where they agree."""

    def call(log_s, rho):
        rough, fine = fn(log_s, rho), score_entropy(log_s, rho)
        return fine if (rough - fine).abs().max() < 1e-6 else rough

    return call


define(score_entropy, check_score_entropy, SCORE_ENTROPY)


# --- reverse_rates ---


def reverse_rates(R, s, x):
    """Backwards x turns into y at the rate s_y R[y, x]; 0 at y = x."""
    rates = s * R[:, x]
    rates[x] = 0
    return rates


def by_flow(R, s, x):
    """From the flow of probability: p(y) R[y, x] goes from y to x, so p(x) times the reverse rate is the same."""
    K = len(R)
    return torch.tensor(
        [0.0 if y == x else (s[y] * R[y, x]).item() for y in range(K)],
        dtype=torch.float64,
    )


REVERSE_RATES: Mistakes = {
    "the rate from x to y": (
        lambda R, s, x: reverse_rates(R.T, s, x),
        "you weigh s_y with R[x, y], the rate from x to y. Backwards in time the arrow is turned: what counts is how "
        "often y came to x. Symmetric noise hides this; a MASK that opens does not",
    ),
    "divided by the score": (
        lambda R, s, x: reverse_rates(R, 1 / s, x),
        "likely neighbours get small rates: multiply by the ratio p(y) / p(x)",
    ),
    "no score": (
        lambda R, s, x: reverse_rates(R, torch.ones_like(s), x),
        "these are the forward rates read backwards: without the score the process does not know the data",
    ),
    "the diagonal left in": (
        lambda R, s, x: s * R[:, x],
        "your rate at y = x is negative: staying is no jump, set it to 0",
    ),
    "one weight for all pairs": (
        lambda R, s, x: s * (torch.arange(len(s)) != x),
        "all pairs weigh the same. That is what the paper's algorithm 1 prints; for masks the weight is 0 wherever "
        "y cannot turn into x",
    ),
}


def check_reverse_rates(fn):
    masks = F.pad(torch.diag(-torch.ones(3)), (0, 1, 0, 1)).double()
    masks[:3, 3] = 1.0  # tokens 0..2 turn into MASK = 3
    ring = torch.tensor([[-3.0, 2, 1], [1, -3, 2], [2, 1, -3]]).double()
    for R, x in ((ring, 0), (masks, 3), (masks, 1)):
        s = torch.tensor([0.4, 2.5, 1.7, 0.8], dtype=torch.float64)[: len(R)]
        if hint := compare(fn, by_flow, REVERSE_RATES, R, s, x):
            return hint
    return None


define(reverse_rates, check_reverse_rates, REVERSE_RATES)


# --- uniform_ratio ---


def uniform_ratio(sigma, K):
    """rho = q(another token | x_0) / q(x_0 | x_0) for uniform noise: e1 / (e1 + K), e1 = expm1(sigma)."""
    e1 = torch.expm1(sigma)
    return e1 / (e1 + K)


def by_matrix(sigma, K):
    """From exp(sigma R), written out (small K), in float64; beyond, from its two entries."""
    if K <= 8:
        Q = torch.stack(
            [torch.matrix_exp(v * uniform_rates(K)) for v in sigma.double()]
        )
        return (Q[:, 0, 1] / Q[:, 0, 0]).to(sigma.dtype)
    lost = -torch.expm1(-sigma.double()) / K
    return (lost / ((-sigma.double()).exp() + lost)).to(sigma.dtype)


UNIFORM_RATIO: Mistakes = {
    "a difference of ones": (
        lambda sigma, K: 1 - K / (sigma.exp() - 1 + K),
        "right on paper; but in float32 with 65,536 tokens it is 0 for small sigma, and its logarithm -inf: "
        "1 minus nearly 1 has no digits left. Bring it to one fraction, and use expm1",
    ),
    "the rates of the paper": (
        lambda sigma, K: uniform_ratio(K * sigma, K),
        "you have exp(sigma K R): the paper prints 11^T - K I, its code divides by K, and so do we. "
        "A token is kept with probability e^-sigma",
    ),
    "upside down": (
        lambda sigma, K: 1 / uniform_ratio(sigma, K),
        "your ratio is above 1: x_0 itself is the likeliest token, and stands below",
    ),
    "the fresh token is never x_0": (
        lambda sigma, K: torch.expm1(sigma) / (K - 1),
        "your ratio passes 1 as sigma grows: the fresh token may be x_0 again, so the lower probability has a share "
        "of the noise, too",
    ),
    "K forgotten": (
        lambda sigma, K: torch.expm1(sigma) / (torch.expm1(sigma) + 1),
        "your ratio does not depend on K: the noise is shared by K tokens",
    ),
}


def check_uniform_ratio(fn):
    sigma = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    if hint := compare(fn, by_matrix, UNIFORM_RATIO, sigma, 5):
        return hint
    small = torch.tensor([1e-4, 1e-3], dtype=torch.float32)
    off = (fn(small, 65_536) / by_matrix(small, 65_536) - 1).abs().max()
    return None if off < 1e-4 else UNIFORM_RATIO["a difference of ones"][1]


define(uniform_ratio, check_uniform_ratio, UNIFORM_RATIO)


# --- tweedie ---


def tweedie(s, x_t, D):
    """p(x_s = y | x_t) for uniform noise: (s exp(-D R))_y exp(D R)[y, x_t]. s (B, K) with s[x_t] = 1, x_t (B,)."""
    K = s.shape[-1]
    before = math.exp(D) * s + (1 - math.exp(D)) / K * s.sum(-1, keepdim=True)
    there = math.exp(-D) * F.one_hot(x_t, K) + (1 - math.exp(-D)) / K
    return before * there


def by_exponentials(s, x_t, D):
    """The same with matrices."""
    R = uniform_rates(s.shape[-1])
    return (s @ torch.matrix_exp(-D * R)) * torch.matrix_exp(D * R)[:, x_t].T


TWEEDIE: Mistakes = {
    "noise added to the score, not taken off": (
        lambda s, x_t, D: by_exponentials(
            s @ torch.matrix_exp(2 * D * uniform_rates(s.shape[-1])), x_t, D
        ),
        "you multiply s by exp(+D R): that makes it the score of a later time. To go back, exp(-D R)",
    ),
    "the score left as it is": (
        lambda s, x_t, D: by_exponentials(
            s @ torch.matrix_exp(D * uniform_rates(s.shape[-1])), x_t, D
        ),
        "s holds ratios at time t, and you need p_s(y) / p_t(x_t): multiply by exp(-D R) first",
    ),
    "the second factor missing": (
        lambda s, x_t, D: s @ torch.matrix_exp(-D * uniform_rates(s.shape[-1])),
        "your laws do not sum to 1: p_s(y) / p_t(x_t) must be multiplied by the chance that y became x_t",
    ),
    "Euler": (
        lambda s, x_t, D: _euler(s, x_t, D),
        "this is Euler's step, D times the rates: exact only as D goes to 0",
    ),
    "K times the rates": (
        lambda s, x_t, D: by_exponentials(s, x_t, s.shape[-1] * D),
        "your D is K times too large: R is normalised, a token is kept with probability e^-D",
    ),
}


def _euler(s, x_t, D):
    K = s.shape[-1]
    jump = D / K * s * (1 - F.one_hot(x_t, K))
    return jump + (1 - jump.sum(-1, keepdim=True)) * F.one_hot(x_t, K)


def check_tweedie(fn):
    for K, D in ((4, 0.4), (3, 1.5)):
        p = torch.rand(K, dtype=torch.float64) + 0.5
        x_t = torch.arange(K).repeat(2)[
            :-1
        ]  # 2 K - 1 examples: the batch must not pass for the vocabulary
        s = (p @ torch.matrix_exp(2 * uniform_rates(K))) / p.sum()
        s = s[None] / s[x_t, None]
        if hint := compare(fn, by_exponentials, TWEEDIE, s, x_t, D):
            return hint
    return None


define(tweedie, check_tweedie, TWEEDIE)


# --- masks_loss ---


def masks_loss(f, x0, x_t, weight):
    """weight sum over masks of (mean(e^f) - 1 - f[x_0] + log V). f (B, L, V), weight (B,); MASK is V."""
    V = f.shape[-1]
    at_x0 = f.gather(-1, x0[..., None]).squeeze(-1)
    each = f.exp().mean(-1) - 1 - at_x0 + math.log(V)
    return weight * torch.where(x_t == V, each, 0).sum(1)


def by_definition(f, x0, x_t, weight):
    """Score entropy of s = r e^f / V at an r of its own, over r: r drops out."""
    V, r = f.shape[-1], 0.37
    s, hot = r * f.exp() / V, F.one_hot(x0, V).double()
    each = (s - torch.where(hot == 1, r * s.log() - r * (math.log(r) - 1), 0)).sum(
        -1
    ) / r
    return weight * (each * (x_t == V)).sum(1)


MASKS_LOSS: Mistakes = {
    "all positions": (
        lambda f, x0, x_t, w: masks_loss(f, x0, torch.full_like(x_t, f.shape[-1]), w),
        "tokens that are not masked are counted too: nothing can turn into them, their rate is 0",
    ),
    "MDLM's loss": (
        lambda f, x0, x_t, w: masks_loss(
            f.log_softmax(-1) + math.log(f.shape[-1]), x0, x_t, w
        ),
        "this is cross-entropy, MDLM's loss: it is blind to the total mass of e^f, which SEDD's scores must get right",
    ),
    "a sum for the mean": (
        lambda f, x0, x_t, w: (
            masks_loss(f, x0, x_t, w)
            + w * ((x_t == f.shape[-1]) * (f.exp().sum(-1) - f.exp().mean(-1))).sum(1)
        ),
        "a network that says 0 pays V - 1 too much per mask: log s = log r - log V + f, so the sum of e^f is over V",
    ),
    "log V forgotten": (
        lambda f, x0, x_t, w: (
            masks_loss(f, x0, x_t, w)
            - w * (x_t == f.shape[-1]).sum(1) * math.log(f.shape[-1])
        ),
        "a network that says 0 pays nothing: it must pay log V per mask, since log s = f - log V + log r",
    ),
    "mean over the masks": (
        lambda f, x0, x_t, w: masks_loss(f, x0, x_t, w) / (x_t == f.shape[-1]).sum(1),
        "you take the mean over the masks; the bound is a sum over positions",
    ),
}


def check_masks_loss(fn):
    f, weight = (
        torch.randn(3, 5, 4, dtype=torch.float64),
        torch.tensor([2.0, 1.0, 3.5]).double(),
    )
    x0 = torch.randint(4, (3, 5))
    hidden = torch.tensor([[0, 1, 0, 1, 0], [1, 1, 0, 0, 1], [0, 0, 1, 0, 1]]) == 1
    return compare(
        fn, by_definition, MASKS_LOSS, f, x0, torch.where(hidden, 4, x0), weight
    )


define(masks_loss, check_masks_loss, MASKS_LOSS)


# --- euler_steps ---


def euler_steps(rate, K):
    """The least N for which one of N even Euler steps at s = 1 has no negative chance: N >= rate (K - 1) / K."""
    return math.ceil(rate * (K - 1) / K)


def by_trying(rate, K):
    """Count up."""
    N = 1
    while 1 - (1 / N) * rate * sum(1 / K for _ in range(K - 1)) < 0:
        N += 1
    return N


EULER_STEPS: Mistakes = {
    "the token may jump to itself": (
        lambda rate, K: math.ceil(rate),
        "you count a jump from a token to itself: there are K - 1 others, each at rate / K",
    ),
    "rounded down": (
        lambda rate, K: math.floor(rate * (K - 1) / K),
        "with one step fewer than you need the chance of staying is negative: round up",
    ),
    "one neighbour only": (
        lambda rate, K: math.ceil(rate / K),
        "you count one of the K - 1 tokens to which it may jump",
    ),
    "the rates of the paper": (
        lambda rate, K: math.ceil(rate * (K - 1)),
        "your rates are K times too large: R is normalised, its entries off the diagonal are 1 / K",
    ),
}


def check_euler_steps(fn):
    for rate, K in ((244.121, 27), (12.3, 3), (92.1, 2)):
        got, want = fn(rate, K), by_trying(rate, K)
        if got != want:
            for wrong, hint in EULER_STEPS.values():
                if got == wrong(rate, K):
                    return hint
            return f"for rate {rate} and K = {K} you say {got}, and counting up gives {want}"
    return None


define(euler_steps, check_euler_steps, EULER_STEPS)


# --- next_level ---


def next_level(level, masks, u):
    """The noise level 1 - alpha_bar at which the first of `masks` masks opens, from u uniform on (0, 1)."""
    return level * u ** (1 / masks)


def by_largest(level, masks, u):
    """Each mask opens at a level uniform on (0, level); the largest is first: its distribution, turned round."""
    low, high = torch.zeros_like(u), level * torch.ones_like(u)
    for _ in range(60):
        middle = (low + high) / 2
        below = (middle / level) ** masks < u  # all masks open below it
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


NEXT_LEVEL: Mistakes = {
    "the last mask": (
        lambda level, masks, u: level * (1 - u ** (1 / masks)),
        "this is near 0 when there are many masks: it is the level of the last one to open. Time runs backwards, "
        "and the first has the largest level",
    ),
    "u to the number of masks": (
        lambda level, masks, u: level * u**masks,
        "with many masks your level falls at once to 0. The more masks, the sooner one opens, the less the level falls",
    ),
    "one mask": (
        lambda level, masks, u: level * u,
        "the number of masks plays no part: this is the level of a given mask, not of the first",
    ),
    "the level itself in the root": (
        lambda level, masks, u: (level * u) ** (1 / masks),
        "with u = 1 your level is not the old one: the root is of u alone",
    ),
}


def check_next_level(fn):
    u = torch.tensor([0.1, 0.5, 0.93], dtype=torch.float64)
    for level, masks in ((0.8, 5), (0.3, 2), (0.9, 1)):
        if hint := compare(fn, by_largest, NEXT_LEVEL, level, masks, u):
            return hint
    return None


define(next_level, check_next_level, NEXT_LEVEL)
