"""Chapter 8, side by side: the reference answers, what is asked of an answer, and the classic wrong ones.

A wrong answer in quotes is the reference with that text changed.
"""

import math

import torch

from ..checks import at_least, law
from ..exercise import define


def laws(*shape):
    """Random distributions along the last axis, float64, none of them flat."""
    return (2 * torch.randn(*shape, dtype=torch.float64)).softmax(-1)


def joint(*shape):
    """A random joint distribution of this shape, float64."""
    return (
        (2 * torch.randn(*shape, dtype=torch.float64))
        .flatten()
        .softmax(0)
        .reshape(shape)
    )


def one_in_all(got, a):
    """All entries together sum to 1."""
    total = got.sum().item()
    if abs(total - 1) > 1e-6:
        return f"your probabilities of all texts must sum to 1, but sum to {total:.3g}"
    return None


# --- any_order ---


def any_order(cost):
    """The bound of each text from cost (N, L): what all masks cost together where 1, ..., L of L tokens are masked."""
    n = torch.arange(1, cost.shape[1] + 1)
    return (cost / n).sum(1)


def by_loop(cost):
    """One number of masks after the other."""
    out = torch.zeros(len(cost), dtype=cost.dtype)
    for k in range(cost.shape[1]):
        out = out + cost[:, k] / (k + 1)
    return out


define(
    any_order,
    truth=by_loop,
    cases=lambda: [
        (torch.rand(3, 4).double() + 0.5,),
        (torch.rand(2, 7).double() + 0.5,),
    ],
    limits={
        "where every mask costs the same c, n masks cost n c, and the bound is L c": {
            "cost": lambda a: 0 * a.cost + torch.arange(1, a.cost.shape[1] + 1)
        },
    },
    linear_in=("cost",),
    properties=(at_least(0),),
    mistakes="""
    each number of masks alike
        (cost / n) -> (cost)
        you add up the cost of all masks at each count. Only one of n masks is the next to open:
        its mean cost counts, cost / n
    the mean over counts
        .sum(1) -> .mean(1)
        a text of L tokens is written in L steps: add their costs, do not average them
    n from 0
        torch.arange(1, cost.shape[1] + 1) -> torch.arange(cost.shape[1]).clamp(min=1)
        your counts begin at 0: the first column has one mask, the last one L
    weighted by n
        cost / n -> cost * n
        you multiply by n: with many masks each single one would count more
    L over n
        (cost / n).sum(1) -> (cost.shape[1] * cost / n).sum(1)
        L / n is the weight where ONE n is drawn, uniformly: the mean over n divides by L again
    all masks at once
        return (cost / n).sum(1) -> return cost[:, -1]
        you take the last column alone: what all L masks cost when they open at once. Here they open one by one
    """,
)


# --- bayes_rows ---


def bayes_rows(p, F):
    """P (M, N), rows p(x_0 | x_t), from p (N) and F (N, M), rows q(x_t | x_0)."""
    weight = (p[:, None] * F).T
    return weight / weight.sum(1, keepdim=True)


def entry_by_entry(p, F):
    """Each entry from the definition of a conditional probability."""
    N, M = F.shape
    P = torch.zeros(M, N, dtype=torch.float64)
    for j in range(M):
        total = sum(p[i] * F[i, j] for i in range(N))
        for i in range(N):
            P[j, i] = p[i] * F[i, j] / total
    return P


define(
    bayes_rows,
    truth=entry_by_entry,
    cases=lambda: [(laws(3), laws(3, 4)), (laws(5), laws(5, 2))],
    limits={
        "if x_t says nothing, every row is the data's own distribution p": {
            "F": lambda a: torch.full_like(a.F, 1 / a.F.shape[1])
        },
        "if all x_0 are equally likely, the evidence F alone decides": {
            "p": lambda a: torch.full_like(a.p, 1 / len(a.p))
        },
    },
    properties=(law(),),
    mistakes="""
    without the prior
        (p[:, None] * F).T -> F.T
        you weigh by the evidence alone: that is right for a uniform p only
    not normalised
        weight / weight.sum(1, keepdim=True) -> weight
        your rows hold p(x_0, x_t), joint probabilities: divide each by p(x_t)
    over the wrong axis
        weight.sum(1, keepdim=True) -> weight.sum(0, keepdim=True)
        you divide by the sum over x_t, which gives q(x_t | x_0) back: for each x_t sum over x_0
    the prior twice
        (p[:, None] * F).T -> (p[:, None] ** 2 * F).T
        the prior is in your weights twice: once is Bayes' rule
    """,
)


# --- renoised_variance ---


def renoised_variance(v, abar_t, abar_s):
    """Variance of x_s after E[x_0 | x_t] is noised again, for Gaussian data of variance v."""
    of_mean = abar_t * v**2 / (abar_t * v + 1 - abar_t)
    return abar_s * of_mean + 1 - abar_s


def by_what_is_lost(v, abar_t, abar_s):
    """The true variance of x_s, less abar_s Var(x_0 | x_t)."""
    left = 1 / (1 / v + abar_t / (1 - abar_t))
    return abar_s * v + 1 - abar_s - abar_s * left


def variances(n):
    """v, and two shares of signal, the second larger."""
    u = torch.rand(3, n, dtype=torch.float64)
    abar_t = 0.1 + 0.4 * u[1]
    return 0.3 + 2 * u[0], abar_t, abar_t + (0.95 - abar_t) * (0.2 + 0.7 * u[2])


define(
    renoised_variance,
    truth=by_what_is_lost,
    cases=lambda: [variances(3), variances(5)],
    limits={
        "where x_t says nothing (abar_t = 0) the mean is 0 for all, and only the noise is left: 1 - abar_s": {
            "abar_t": lambda a: torch.zeros_like(a.abar_t)
        },
        "at abar_s = 0 all is noise, of variance 1": {
            "abar_s": lambda a: torch.zeros_like(a.abar_s)
        },
    },
    properties=(at_least(0.0),),
    mistakes="""
    of a draw
        of_mean = abar_t * v**2 / (abar_t * v + 1 - abar_t) -> of_mean = v
        this is the true variance of x_s: what a draw from p(x_0 | x_t) gives. The mean varies
        less than x_0
    what is left of x_0
        abar_t * v**2 / (abar_t * v + 1 - abar_t) -> v * (1 - abar_t) / (abar_t * v + 1 - abar_t)
        you took Var(x_0 | x_t), what x_t does not say. The mean varies by the rest, v minus that
    no noise
        abar_s * of_mean + 1 - abar_s -> abar_s * of_mean
        x_s has fresh noise, too, of variance 1 - abar_s
    signal not squared
        abar_s * of_mean + 1 -> abar_s**2 * of_mean + 1
        x_0 is multiplied by the root of abar_s, so its variance by abar_s, not by the square
    """,
)


# --- two_at_once ---


def two_at_once(p):
    """What is written (V, W, X) if position 0 is drawn first and then 1 and 2 at once, from p (V, W, X)."""
    first = p.sum((1, 2), keepdim=True)
    second = p.sum(2, keepdim=True) / first
    third = p.sum(1, keepdim=True) / first
    return first * second * third


def one_first_token_after_the_other(p):
    """For each first token the product of the two conditionals."""
    out = torch.zeros_like(p)
    for a in range(len(p)):
        here = p[a] / p[a].sum()
        out[a] = p[a].sum() * torch.outer(here.sum(1), here.sum(0))
    return out


define(
    two_at_once,
    truth=one_first_token_after_the_other,
    cases=lambda: [(joint(2, 3, 4),), (joint(4, 2, 3),)],
    limits={
        "tokens 1 and 2 that follow from 0 alone lose nothing: what is written is p": {
            "p": lambda a: (
                a.p.sum((1, 2), keepdim=True)
                * (a.p.sum(2, keepdim=True) / a.p.sum((1, 2), keepdim=True))
                * (a.p.sum(1, keepdim=True) / a.p.sum((1, 2), keepdim=True))
            )
        },
        "independent tokens lose nothing: what is written is p": {
            "p": lambda a: (
                a.p.sum((1, 2), keepdim=True)
                * a.p.sum((0, 2), keepdim=True)
                * a.p.sum((0, 1), keepdim=True)
            )
        },
    },
    properties=(one_in_all, at_least(0.0)),
    mistakes="""
    all three at once
        = p.sum((1, 2), keepdim=True) * p.sum((0, 2), keepdim=True) * p.sum((0, 1), keepdim=True)
        you draw all three on their own: 1 and 2 are drawn when 0 is known, from p(. | x_0)
    one after the other
        = p.clone()
        this is p itself, as if 2 were drawn knowing 1. Drawn at once, neither sees the other
    not divided
        third = p.sum(1, keepdim=True) / first -> third = p.sum(1, keepdim=True)
        p summed over position 1 is the joint distribution of 0 and 2: divide by that of 0
    the first token forgotten
        return first * second * third -> return second * third
        your result is given the first token: multiply by its own probability
    """,
)


# --- judgement ---


def judgement(q, p):
    """What a judge that knows p sees of samples from q (N): entropy H(q) and divergence KL(q || p), nats."""
    there = q > 0
    H = -(q[there] * q[there].log()).sum()
    return H, (q[there] * (q[there] / p[there]).log()).sum()


def through_the_cross_entropy(q, p):
    """H by its definition, KL as the cross-entropy less H."""
    H = torch.special.entr(q).sum()
    return H, -torch.xlogy(q, p).sum() - H


define(
    judgement,
    truth=through_the_cross_entropy,
    cases=lambda: [(laws(4), laws(4)), (laws(7), laws(7))],
    parts=("entropy", "divergence"),
    limits={
        "a sampler that writes one thing has no entropy, and its divergence is -log p of that": {
            "q": lambda a: torch.nn.functional.one_hot(
                torch.tensor(1), len(a.q)
            ).double()
        },
        "samples from p itself have no divergence": {"p": lambda a: a.q.clone()},
    },
    mistakes="""
    the divergence the other way round
        (q[there] * (q[there] / p[there]).log()).sum() -> (p[there] * (p[there] / q[there]).log()).sum()
        you took KL(p || q), which asks what the sampler never writes. The judge sees samples of q:
        KL(q || p)
    the cross-entropy
        return H, (q[there] * (q[there] / p[there]).log()).sum() -> return H, -(q[there] * p[there].log()).sum()
        your second number is the cross-entropy, the sum of both: take the entropy off
    the entropy of the data
        H = -(q[there] * q[there].log()).sum() -> H = -(p[there] * p[there].log()).sum()
        that is the entropy of the data p. What makes a judge too kind is the entropy of what is
        written
    in bits
        H = -(q[there] * q[there].log()).sum() -> H = -(q[there] * q[there].log2()).sum()
        your entropy is in bits: nats are asked for in both
    the sign
        H = -(q -> H = (q
        an entropy is not negative
    """,
)


# --- per_letter ---


def per_letter(nats, tokens, letters):
    """Bits per letter of a model that costs so many nats per token, on texts of so many tokens and letters."""
    return nats * tokens.sum() / (letters.sum() * math.log(2))


def text_by_text(nats, tokens, letters):
    """All bits, over all letters."""
    bits = sum(nats * n / math.log(2) for n in tokens)
    return bits / sum(float(n) for n in letters)


def counts(n):
    """Nats per token, and tokens and letters of n texts."""
    tokens = torch.randint(3, 30, (n,)).double()
    letters = (tokens * (2 + 4 * torch.rand(n).double())).round()
    return 1 + 3 * torch.rand(()).double(), tokens, letters


define(
    per_letter,
    truth=text_by_text,
    cases=lambda: [counts(3), counts(6)],
    limits={
        "where each letter is a token only the unit changes: nats / log 2": {
            "letters": lambda a: a.tokens.clone()
        },
        "a model that is sure of every token costs nothing": {"nats": 0.0},
    },
    ignores={
        "which text the tokens stand in has no say: all of them over all letters": {
            "tokens": lambda a: a.tokens.flip(0),
        },
        "nor which text the letters stand in": {
            "letters": lambda a: a.letters.flip(0),
        },
    },
    linear_in=("nats",),
    properties=(at_least(0.0),),
    mistakes="""
    in nats
         * math.log(2)) -> )
        these are nats per letter: a bit is log 2 nats
    the mean of ratios
        nats * tokens.sum() / (letters.sum() * math.log(2)) -> (nats * tokens / letters).mean() / math.log(2)
        you average the ratio of each text, so short texts count as much as long ones: sum over sum
    upside down
        tokens.sum() / (letters.sum() * math.log(2)) -> letters.sum() / (tokens.sum() * math.log(2))
        a token is longer than a letter: there are more letters to share the bits, not fewer
    per token
        nats * tokens.sum() / (letters.sum() * math.log(2)) -> nats * torch.ones_like(tokens.sum()) / math.log(2)
        these are bits per token: they depend on how the text was cut into tokens
    multiplied by log 2
        / (letters.sum() * math.log(2)) -> / letters.sum() * math.log(2)
        from nats to bits one divides by log 2
    """,
)


# --- draft_weights ---


def draft_weights(log_left, log_gap, log_right):
    """Probability of keeping each draft (B, n): drawn from p(gap | left), it must end as p(gap | left, right)."""
    return log_right.softmax(1)


def by_ratio(log_left, log_gap, log_right):
    """p(left, gap, right) over p(gap | left), what each draft was drawn with, normalised over the drafts."""
    whole = log_left[:, None] + log_gap + log_right
    weight = (whole - log_gap).exp()
    return weight / weight.sum(1, keepdim=True)


def drafts(B, n):
    """log p of the left side (B), of each gap given it, of the right side given both (B, n)."""
    return (
        -torch.rand(B).double(),
        -3 * torch.rand(B, n).double(),
        -3 * torch.rand(B, n).double(),
    )


define(
    draft_weights,
    truth=by_ratio,
    cases=lambda: [drafts(2, 3), drafts(3, 5)],
    limits={
        "if the right side is equally likely after every draft, all are kept alike": {
            "log_right": lambda a: torch.full_like(a.log_right, -1.0)
        },
        "if one draft alone leads to the right side, it is kept": {
            "log_right": lambda a: torch.full_like(a.log_right, -40.0).index_fill(
                1, torch.tensor(1), 0.0
            )
        },
    },
    ignores={
        "p(left) is one number for all drafts of a gap: it has no say": {
            "log_left": lambda a: a.log_left - 1
        },
        "how likely a draft was, has been settled by drawing it: log_gap has no say": {
            "log_gap": lambda a: a.log_gap.flip(1) - 0.5
        },
    },
    properties=(law(),),
    mistakes="""
    the draft counted twice
        log_right.softmax(1) -> (log_gap + log_right).softmax(1)
        likely drafts are drawn more often already: weighing them by their own probability counts it
        twice
    the draft alone
        log_right.softmax(1) -> log_gap.softmax(1)
        your weights never look at the right side, which is all that the drafts have not seen
    not normalised
        log_right.softmax(1) -> log_right.exp()
        your weights are not probabilities: over the drafts of one gap they must sum to 1
    over the batch
        log_right.softmax(1) -> log_right.softmax(0)
        you compare drafts of different gaps: normalise over the drafts of one, axis 1
    the best one
        log_right.softmax(1) -> torch.nn.functional.one_hot(log_right.argmax(1), log_right.shape[1]).double()
        you keep the best draft each time: that sharpens, as a low temperature does. Draw one
    """,
)
