"""Chapter 7, SEDD: the reference answers, what is asked of an answer, and the classic wrong ones.

Rows are "from", columns are "to": R[i, j] is the rate at which i turns into j. The truths add up laws of whole
sentences, take exponentials of rate matrices, or count. A wrong answer in quotes is the reference, changed like that.
"""

import math

import torch
import torch.nn.functional as F

from ..cases import normal, numbers, uniform
from ..checks import at_least, law
from ..exercise import define


def uniform_rates(K):
    """R = 11^T / K - I."""
    return torch.full((K, K), 1 / K, dtype=torch.float64) - torch.eye(K).double()


# --- concrete_score ---


def concrete_score(p):
    """s[a, b, y] = p(y, b) / p(a, b): the first of two tokens replaced by y, for every sentence (a, b)."""
    return p.T[None, :, :] / p[:, :, None]


def one_by_one(p):
    """The same, entry by entry."""
    K = len(p)
    rows = [[[p[y, b] / p[a, b] for y in range(K)] for b in range(K)] for a in range(K)]
    return torch.tensor(rows, dtype=torch.float64)


def stays_at_1(got, a):
    """A sentence beside itself has the ratio 1."""
    at_a = torch.diagonal(got, dim1=0, dim2=2) if got.ndim == 3 else got[..., :0]
    if (at_a - 1).abs().max() < 1e-4:
        return None
    worst = at_a.flatten()[(at_a - 1).abs().argmax()].item()
    return f"where y is the token that stands there already your score is {worst:.4g}, not 1"


define(
    concrete_score,
    truth=one_by_one,
    cases=lambda: [((p := uniform(K, K, low=0.1)) / p.sum(),) for K in (2, 3, 4)],
    limits={
        "where all sentences are equally likely every ratio is 1": {
            "p": lambda a: torch.full_like(a.p, 0.25)
        }
    },
    properties=(stays_at_1,),
    mistakes="""
    upside down
        p.T[None, :, :] / p[:, :, None] -> p[:, :, None] / p.T[None, :, :]
        your ratios are upside down: the sentence with y in it stands above, the one at hand below
    the second token replaced
        p.T[None, :, :] -> p[:, None, :]
        you replace the second token: s[a, b, y] is about the sentence (y, b)
    normalised
        / p[:, :, None] -> / p.sum(0)[None, :, None] * torch.ones_like(p)[:, :, None]
        your numbers sum to 1 over y: this is the conditional law of the first token. A score is a ratio of two
        probabilities, 1 at y = a
    """,
)


# --- reverse_rates ---


def reverse_rates(R, s, x):
    """Backwards x turns into y at the rate s_y R[y, x]; 0 at y = x."""
    rates = s * R[:, x]
    rates[x] = 0
    return rates


def by_flow(R, s, x):
    """From the flow of probability: p(y) R[y, x] goes from y to x, so p(x) times the reverse rate is the same."""
    flow = [0.0 if y == x else (s[y] * R[y, x]).item() for y in range(len(R))]
    return torch.tensor(flow, dtype=torch.float64)


def no_rate_to_itself(got, a):
    """The rate at y = x is 0."""
    stays = got[a.x].item()
    return (
        f"your rate from x to x itself is {stays:.4g}, and staying is no jump"
        if stays
        else None
    )


def _rate_cases():
    ring = numbers(-3, 2, 1, 1, -3, 2, 2, 1, -3).reshape(3, 3)
    masks = F.pad(torch.diag(-torch.ones(3)), (0, 1, 0, 1)).double()
    masks[:3, 3] = 1.0  # tokens 0..2 turn into MASK = 3
    for R, x in ((ring, 0), (masks, 3), (masks, 1)):
        yield R, numbers(0.4, 2.5, 1.7, 0.8)[: len(R)], x


define(
    reverse_rates,
    truth=by_flow,
    cases=lambda: list(_rate_cases()),
    linear_in=("R", "s"),
    properties=(no_rate_to_itself, at_least(0, "it is how often something happens")),
    mistakes="""
    the rate from x to y
        R[:, x] -> R[x]
        you weigh s_y with R[x, y], the rate from x to y. Backwards in time the arrow is turned: what counts is
        how often y came to x. Symmetric noise hides this; a MASK that opens does not
    divided by the score
        s * R[:, x] -> R[:, x] / s
        likely neighbours get small rates: multiply by the ratio p(y) / p(x)
    no score
        s * R[:, x] -> R[:, x].clone()
        these are the forward rates read backwards: without the score the process does not know the data
    the whole row of a generator
        rates[x] = 0 -> rates[x] = 0; rates[x] = -rates.sum()
        your numbers sum to 0, as a row of a generator does: what is asked for are the rates of jumps, 0 at y = x
    one weight for all pairs
        R[:, x] -> torch.ones_like(s)
        all pairs weigh the same. That is what the paper's algorithm 1 prints; for masks the weight is 0 wherever
        y cannot turn into x
    s taken for a law
        s * R[:, x] -> s / s.sum() * R[:, x]
        you divide s by its sum. It holds ratios p(y) / p(x), 1 at x itself, and no distribution
    """,
)


# --- score_entropy ---


def score_entropy(log_s, rho):
    """s - rho log s + rho (log rho - 1), elementwise; rho > 0."""
    s = log_s.exp()
    K = rho * (rho.log() - 1)  # of rho alone: it makes the loss 0 at s = rho
    return s - rho * log_s + K


def integrated(log_s, rho):
    """The loss whose slope in s is 1 - rho / s and which is 0 at s = rho, summed up in small steps."""
    grid = torch.linspace(0, 1, 20001, dtype=torch.float64)
    grid = grid.reshape(-1, *[1] * log_s.ndim)
    path = rho.log() + grid * (log_s - rho.log())  # from log rho to log s
    slope = (path.exp() - rho) * (log_s - rho.log())  # d/dlog s = s - rho
    return torch.trapezoid(slope, dx=1 / 20000, dim=0)


define(
    score_entropy,
    truth=integrated,
    cases=lambda: [
        (numbers(-1.5, 0.3, 2.0), numbers(0.5, 2.0, 0.7)),
        (normal(2, 4), uniform(2, 4, low=0.3)),
    ],
    limits={
        "at s = rho the score is right and costs nothing": {
            "log_s": lambda a: a.rho.log()
        }
    },
    properties=(at_least(0, "at s = rho it is 0, and a wrong score costs more"),),
    gradients=("log_s",),
    mistakes="""
    without K(rho)
        * log_s + K -> * log_s
        your loss is not 0 at s = rho, and negative in places: the term that depends on rho alone is missing. It
        moves no gradient, and it is what makes the loss a bound
    s and rho swapped
        s = log_s.exp() -> log_s, rho = rho.log(), log_s.exp(); s = log_s.exp()
        s and rho have changed places. Score entropy is not symmetric: the true ratio stands before the logarithm
    squares
        s - rho * log_s + K -> (s - rho) ** 2 / 2
        these are squares: they hardly mind a score near 0, where a ratio may be wrong by any factor
    log_s taken for s
        s = log_s.exp() -> s, log_s = log_s, log_s.abs().log()
        the network gives log s: take its exponential before it stands for s
    """,
)


# --- least_loss ---


def least_loss(p0, Q, R):
    """The least value of (7.9) for one token at one noise level. p0 (K,), Q (K, K) from x_0 to x_t, R (K, K) rates."""
    p_t = p0 @ Q
    s = p_t / p_t[:, None]  # s[x, y], what a perfect network says
    rho = Q[:, None, :] / Q[:, :, None]  # rho[x_0, x, y]
    loss = s - rho * s.log() + rho * (rho.log() - 1)
    weight = R.T.clone().fill_diagonal_(0)  # R[y, x] at [x, y]
    joint = p0[:, None] * Q  # of x_0 and x
    return (joint[..., None] * weight * loss).sum()


def information_lost(p0, Q, R, h=1e-4):
    """How fast I(x_0; x_t) falls: its difference over a short stretch of noise before and after."""

    def known(Q):
        joint = p0[:, None] * Q
        return (joint * (Q / joint.sum(0)).log()).sum()

    before, after = (Q @ torch.matrix_exp(d * R) for d in (-h, h))
    return (known(before) - known(after)) / (2 * h)


def _noisy_cases():
    """Rates that are not symmetric, and the noise that they make."""
    for K, sigma in ((2, 0.8), (3, 0.5), (5, 1.2)):
        R = uniform(K, K, low=0.2).fill_diagonal_(0)
        R = R - R.sum(1).diag()
        p0 = uniform(K, low=0.1)
        yield p0 / p0.sum(), torch.matrix_exp(sigma * R), R


define(
    least_loss,
    truth=information_lost,
    cases=lambda: list(_noisy_cases()),
    limits={
        "where x_t has forgotten x_0 the network knows as much as the noise, and the least loss is 0": {
            "Q": lambda a: torch.matrix_exp(60 * a.R)
        }
    },
    linear_in=("R",),
    properties=(at_least(0),),
    read=lambda got, a: torch.as_tensor(got, dtype=torch.float64),
    mistakes="""
    the loss against the true ratio
        rho = Q[:, None, :] / Q[:, :, None] -> rho = s
        your least loss is 0: that is (7.8), whose ratio is the true one. In (7.9) the ratio knows x_0, the
        network does not, and a perfect network cannot reach it
    without K(rho)
        + rho * (rho.log() - 1) ->
        negative in places: K(rho) is missing. It moves no gradient, but it is what makes the least value mean
        something
    rates out of x
        R.T.clone() -> R.clone()
        you weigh with R[x, y]. The reverse jump from x to y has the rate of the forward one INTO x: R[y, x]
    a network that knows x_0
        s = p_t / p_t[:, None] -> s = (Q / Q.sum(0))[:1] / (Q / Q.sum(0))[:1].T
        your network takes the data for one fixed token: its best answer is the ratio of p_t, the mixture over all
        x_0
    x_0 all alike
        joint = p0[:, None] * Q -> joint = Q / len(p0)
        your mean takes all x_0 for equally likely: weigh with p0
    """,
)


# --- masks_loss ---


def masks_loss(f, x0, x_t, weight):
    """weight sum over masks of (mean(e^f) - 1 - f[x_0] + log V). f (B, L, V), weight (B,); MASK is V."""
    V = f.shape[-1]
    at_x0 = f.gather(-1, x0[..., None]).squeeze(-1)
    each = f.exp().mean(-1) - 1 - at_x0 + math.log(V)
    masks = x_t == V
    return weight * torch.where(masks, each, 0).sum(1)


def by_definition(f, x0, x_t, weight):
    """Score entropy of s = r e^f / V at an r of its own, over r: r drops out."""
    V, r = f.shape[-1], 0.37
    s, hot = r * f.exp() / V, F.one_hot(x0, V).double()
    each = s - torch.where(hot == 1, r * s.log() - r * (math.log(r) - 1), 0)
    return weight * (each.sum(-1) / r * (x_t == V)).sum(1)


def _mask_cases():
    for B, L, V in ((2, 3, 5), (4, 6, 3)):
        x0, hidden = torch.randint(V, (B, L)), torch.rand(B, L) < 0.5
        hidden[:, 0], hidden[:, 1] = True, False
        f = normal(B, L, V)
        yield f, x0, torch.where(hidden, V, x0), uniform(B, low=1.0)


define(
    masks_loss,
    truth=by_definition,
    cases=lambda: list(_mask_cases()),
    limits={
        "where nothing is masked nothing can jump, and nothing is to pay": {
            "x_t": lambda a: a.x0
        },
        "a network that says 0 knows nothing but the mass, and pays log V per mask": {
            "f": lambda a: 0 * a.f
        },
    },
    ignores={
        "what the network says where nothing is masked has no say": {
            "f": lambda a: torch.where((a.x_t == a.f.shape[-1])[..., None], a.f, -a.f)
        }
    },
    linear_in=("weight",),
    factors={"the number of masks": lambda a: (a.x_t == a.f.shape[-1]).sum(1)},
    gradients=("f",),
    mistakes="""
    MDLM's loss
        each = -> f = f.log_softmax(-1) + math.log(V); at_x0 = f.gather(-1, x0[..., None]).squeeze(-1); each =
        this is cross-entropy, MDLM's loss: it is blind to the total mass of e^f, which SEDD's scores must get
        right
    a sum for the mean
        f.exp().mean(-1) -> f.exp().sum(-1)
        a network that says 0 pays V - 1 too much per mask: log s = log r - log V + f, so the sum of e^f is over V
    log V forgotten
        - at_x0 + math.log(V) -> - at_x0
        a network that says 0 pays nothing: it must pay log V per mask, since log s = f - log V + log r
    x_0 left out of the mean
        f.exp().mean(-1) - 1 -> (f.exp().sum(-1) - at_x0.exp()) / V - 1
        x_0 has no part in your sum of scores. The rate of the jump that did happen counts like the others: each
        s_y stands in the loss, and one of them in its logarithm, too
    mean over the masks
        .sum(1) -> .sum(1) / masks.sum(1)
        you take the mean over the masks; the bound is a sum over positions
    """,
)


# --- tweedie ---


def tweedie(s, x_t, D):
    """p(x_s = y | x_t) for uniform noise: (s exp(-D R))_y exp(D R)[y, x_t]. s (B, K) with s[x_t] = 1, x_t (B,)."""
    K, kept = s.shape[-1], math.exp(-D)
    before = s / kept + (1 - 1 / kept) / K * s.sum(-1, keepdim=True)
    there = kept * F.one_hot(x_t, K) + (1 - kept) / K
    return before * there


def by_exponentials(s, x_t, D):
    """The same with matrices."""
    R = uniform_rates(s.shape[-1])
    return (s @ torch.matrix_exp(-D * R)) * torch.matrix_exp(D * R)[:, x_t].T


def _score_cases():
    """Scores of a law that has been through noise, at every token."""
    for B, K, D in ((5, 3, 0.4), (3, 4, 1.1), (2, 40, 0.7)):
        p = uniform(K, low=0.5) @ torch.matrix_exp(2 * uniform_rates(K))
        x_t = torch.randint(K, (B,))
        yield p / p[x_t, None], x_t, D


define(
    tweedie,
    truth=by_exponentials,
    cases=lambda: list(_score_cases()),
    without={"a K x K matrix": lambda a: 2 * a.s.shape[-1:]},
    limits={"at D = 0 no time has passed, and x_s is x_t": {"D": 0.0}},
    properties=(law(),),
    mistakes="""
    noise added to the score, not taken off
        s / kept + (1 - 1 / kept) / K -> s * kept + (1 - kept) / K
        you multiply s by exp(+D R): that makes it the score of a later time. To go back, exp(-D R)
    the score left as it is
        before * there -> s * there
        s holds ratios at time t, and you need p_s(y) / p_t(x_t): multiply by exp(-D R) first
    s taken for a law
        / K * s.sum(-1, keepdim=True) -> / K
        you take the sum of s for 1. s holds ratios, 1 at x_t, and sums to 1 / p(x_t given the other positions):
        what does s 11^T give?
    Euler
        K, kept = -> return _euler(s, x_t, D); K, kept =
        this is Euler's step, D times the rates: exact only as D goes to 0
    K times the rates
        math.exp(-D) -> math.exp(-D * s.shape[-1])
        your D is K times too large: R is normalised, a token is kept with probability e^-D
    s as a prior
        before * there -> (s * there) / (s * there).sum(-1, keepdim=True)
        you multiply s by the way from x_s to x_t and divide by the sum. s belongs to time t: exp(-D R) brings it
        back to s first, and then nothing is left to be divided
    """,
)


def _euler(s, x_t, D):
    K = s.shape[-1]
    jump = D / K * s * (1 - F.one_hot(x_t, K))
    return jump + (1 - jump.sum(-1, keepdim=True)) * F.one_hot(x_t, K)


# --- uniform_ratio ---


def uniform_ratio(sigma, K):
    """rho = q(another token | x_0) / q(x_0 | x_0) for uniform noise: e1 / (e1 + K), e1 = expm1(sigma)."""
    e1 = torch.expm1(sigma)
    return e1 / (e1 + K)


def by_matrix(sigma, K):
    """From exp(sigma R), written out (small K), in float64; beyond, from its two entries."""
    sigma = sigma.double()
    if K <= 8:
        Q = torch.stack([torch.matrix_exp(v * uniform_rates(K)) for v in sigma])
        return Q[:, 0, 1] / Q[:, 0, 0]
    lost = -torch.expm1(-sigma) / K
    return lost / ((-sigma).exp() + lost)


define(
    uniform_ratio,
    truth=by_matrix,
    cases=lambda: [
        (numbers(0.1, 1.0, 5.0), 5),
        (numbers(0.7, 2.0), 2),
        (torch.tensor([1e-4, 1e-3, 3e-2]), 65_536),
    ],
    tol=1e-3,
    limits={
        "at sigma = 0 nothing has happened: another token has probability 0": {
            "sigma": numbers(0.0, 0.0)
        },
        "for large sigma all tokens are equally likely, and the ratio is 1": {
            "sigma": numbers(40.0)
        },
    },
    properties=(at_least(0),),
    mistakes="""
    the rates of the paper
        torch.expm1(sigma) -> torch.expm1(K * sigma)
        you have exp(sigma K R): the paper prints 11^T - K I, its appendix and its code divide by K, and so do we. A
        token is kept with probability e^-sigma
    upside down
        e1 / (e1 + K) -> (e1 + K) / e1
        your ratio is above 1: x_0 itself is the likeliest token, and stands below
    the fresh token is never x_0
        e1 / (e1 + K) -> e1 / (K - 1)
        your ratio passes 1 as sigma grows: the fresh token may be x_0 again, so the lower probability has a share
        of the noise, too
    K forgotten
        e1 + K -> e1 + 1
        your ratio does not depend on K: the noise is shared by K tokens
    a difference of ones
        e1 / (e1 + K) -> 1 - K / (e1 + K)
        right for numbers with many digits; but with 65,536 tokens and small sigma float32 has none left where 1
        minus nearly 1 is taken: the ratio comes out 0, or off by more than a thousandth. Bring it to one fraction
    """,
)


# --- euler_steps ---


def euler_steps(rate, K):
    """The least N for which one of N even Euler steps at s = 1 has no negative chance: N >= rate (K - 1) / K."""
    return math.ceil(rate * (K - 1) / K)


def by_trying(rate, K):
    """Count up; 1e-9 for the rounding of a chance that is 0."""
    N = 1
    while 1 - (1 / N) * rate * sum(1 / K for _ in range(K - 1)) < -1e-9:
        N += 1
    return N


define(
    euler_steps,
    truth=by_trying,
    cases=lambda: [(12.3, 3), (244.121, 27), (92.1, 2), (57.4, 8)],
    limits={
        "where rate (K - 1) / K is a whole number N, the chance of staying is 0 in N steps, not below": {
            "rate": 28.0,
            "K": 4,
        }
    },
    read=lambda got, a: int(got) if got == int(got) else got,
    mistakes="""
    the token may jump to itself
        (K - 1) / K -> 1
        you count a jump from a token to itself: there are K - 1 others, each at rate / K
    rounded down
        math.ceil -> math.floor
        with one step fewer than you need the chance of staying is negative: round up
    one more in any case
        math.ceil(rate * (K - 1) / K) -> math.floor(rate * (K - 1) / K) + 1
        right but for whole numbers: a chance of staying of 0 is not negative, so no step is to be added there
    the rates of the paper
        (K - 1) / K -> (K - 1)
        your rates are K times too large: R is normalised, its entries off the diagonal are 1 / K
    """,
)


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


define(
    next_level,
    truth=by_largest,
    cases=lambda: [(0.8, 5, numbers(0.1, 0.5, 0.93)), (0.3, 2, uniform(4))],
    limits={
        "with u = 1 a mask opens at once, at the old level": {"u": numbers(1.0, 1.0)},
        "a single mask opens at a level uniform on (0, level)": {"masks": 1},
    },
    linear_in=("level",),
    properties=(at_least(0),),
    mistakes="""
    the last mask
        u ** (1 / masks) -> (1 - u ** (1 / masks))
        this is near 0 when there are many masks: it is the level of the last one to open. Time runs backwards,
        and the first has the largest level
    the last mask, from 1 - u
        u ** (1 / masks) -> (1 - (1 - u) ** (1 / masks))
        this is the least of the levels at which the masks open, so it is the last to open. Time runs backwards,
        and the first has the largest level
    1 - u for u
        u ** (1 / masks) -> (1 - u) ** (1 / masks)
        your levels have the right distribution, since 1 - u is uniform, too; but u = 1 is to give the old level,
        as the inverse of the distribution function does
    one mask
        u ** (1 / masks) -> u
        the number of masks plays no part: this is the level of a given mask, not of the first
    the level itself in the root
        level * u ** (1 / masks) -> (level * u) ** (1 / masks)
        with u = 1 your level is not the old one: the root is of u alone
    """,
)
