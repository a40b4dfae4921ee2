"""Chapter 6, D3PM: the reference answers, their checks and the classic wrong answers.

Rows are "from", columns are "to": Q[i, j] = q(next = j | now = i). Tokens are 0..K-1; MASK, where there is one, is K.
The checks do not trust the formulas: they add up paths, apply Bayes' rule to all states, or count draws.
"""

import math

import torch
import torch.nn.functional as F

from ..checks import Mistakes, compare, hints_of
from ..exercise import define


def _hot(x, K):
    """One-hot rows in float64."""
    return F.one_hot(x, K).double()


def _normalised(p):
    return p / p.sum(-1, keepdim=True)


# What the checks believe in: matrices entry by entry, from the story that they tell


def told(states, chance):
    """The matrix with chance(i, j) in row i, column j."""
    return torch.tensor(
        [[chance(i, j) for j in states] for i in states], dtype=torch.float64
    )


def replaced(K, alpha):
    """Keep the token with probability alpha, else throw a die with K faces, one of which shows the same token."""
    return told(range(K), lambda i, j: alpha * (i == j) + (1 - alpha) * (1 / K))


def masked(K, beta):
    """Become MASK = K with probability beta, and stay it."""
    return told(
        range(K + 1),
        lambda i, j: float(j == K) if i == K else {i: 1 - beta, K: beta}.get(j, 0.0),
    )


def spread(K, beta):
    """A Gaussian weight off the diagonal, one constant for all rows, and what is left on the diagonal."""
    w = {n: math.exp(-4 * n**2 / ((K - 1) ** 2 * beta)) for n in range(-(K - 1), K)}
    far = {n: v / sum(w.values()) for n, v in w.items() if n != 0}
    return told(
        range(K),
        lambda i, j: far.get(j - i, 1 - sum(far[k - i] for k in range(K) if k != i)),
    )


# --- uniform_marginal ---


def uniform_marginal(x0, alpha_bar, K):
    """q(x_t | x_0) = alpha_bar [x_t = x_0] + (1 - alpha_bar) / K, one law over K tokens per position."""
    return (
        alpha_bar * F.one_hot(x0, K).double() + (1 - alpha_bar) / K
    )  # the fresh token may be x_0 again


def three_steps(x0, alpha_bar, K):
    """Row x_0 of three equal steps whose alphas have the product alpha_bar: all paths added up."""
    return torch.linalg.matrix_power(replaced(K, alpha_bar ** (1 / 3)), 3)[x0]


UNIFORM_MARGINAL: Mistakes = {
    "the fresh token is never x_0": (
        lambda x0, a, K: torch.where(
            F.one_hot(x0, K) == 1, a, (1 - a) / (K - 1)
        ).double(),
        "you share 1 - alpha_bar among the K - 1 other tokens. The fresh token is drawn from all K: "
        "it may be x_0 again, so x_0 has more than alpha_bar",
    ),
    "x_0 gets no share of the noise": (
        lambda x0, a, K: torch.where(F.one_hot(x0, K) == 1, a, (1 - a) / K).double(),
        "your laws sum to less than 1: the share (1 - alpha_bar) / K that falls on x_0 itself is missing",
    ),
    "the root of alpha_bar": (
        lambda x0, a, K: uniform_marginal(x0, a**0.5, K),
        "you keep the token with probability sqrt(alpha_bar). The root belongs to Gaussian noise, where alpha_bar "
        "is a share of the variance; here it is a probability",
    ),
    "kept and lost swapped": (
        lambda x0, a, K: uniform_marginal(x0, 1 - a, K),
        "at alpha_bar = 1 your law is uniform although nothing has happened to x_0. "
        "Which of the two terms has which factor?",
    ),
    "the noise not divided by K": (
        lambda x0, a, K: a * _hot(x0, K) + (1 - a),
        "your laws sum to more than 1: the mass 1 - alpha_bar is shared by K tokens, and you give it to each of them",
    ),
}


def check_uniform_marginal(fn):
    for K in (5, 2):
        for alpha_bar in (0.6, 0.05, 1.0, 0.0):
            x0 = torch.randint(K, (3, 4))
            if hint := compare(fn, three_steps, UNIFORM_MARGINAL, x0, alpha_bar, K):
                return hint
    return None


define(uniform_marginal, check_uniform_marginal, UNIFORM_MARGINAL)


# --- multinomial_posterior ---


def multinomial_posterior(x_t, x0, alpha, alpha_bar_s, K):
    """q(x_s | x_t, x_0): [alpha x_t + (1 - alpha) / K] times [alpha_bar_s x_0 + (1 - alpha_bar_s) / K], normalised."""
    back = (
        alpha * F.one_hot(x_t, K).double() + (1 - alpha) / K
    )  # q(x_t | x_s = k) for every k
    there = (
        alpha_bar_s * F.one_hot(x0, K).double() + (1 - alpha_bar_s) / K
    )  # q(x_s = k | x_0)
    joint = back * there
    return joint / joint.sum(-1, keepdim=True)


def by_bayes(x_t, x0, alpha, alpha_bar_s, K):
    """All K states that x_s can have: the chance of x_0 -> x_s -> x_t, over their sum."""
    way = (
        replaced(K, alpha_bar_s)[:, :, None] * replaced(K, alpha)[None]
    )  # (x_0, x_s, x_t)
    return (way / way.sum(1, keepdim=True))[x0, :, x_t]


MULTINOMIAL_POSTERIOR: Mistakes = {
    "the two brackets swapped": (
        lambda x_t, x0, a, b, K: multinomial_posterior(x0, x_t, a, b, K),
        "alpha stands by x_0 and alpha_bar_s by x_t. Which of the two is one step away from x_s, "
        "and which is all the way from the data?",
    ),
    "a sum instead of a product": (
        lambda x_t, x0, a, b, K: _normalised(
            uniform_marginal(x_t, a, K) + uniform_marginal(x0, b, K)
        ),
        "the two brackets are added. x_s must agree with x_0 and with x_t: both at once, so multiply",
    ),
    "not normalised": (
        lambda x_t, x0, a, b, K: (
            uniform_marginal(x_t, a, K) * uniform_marginal(x0, b, K)
        ),
        "your product does not sum to 1: it is the chance of x_s and x_t together. Divide by its sum over x_s",
    ),
    "alpha_bar_s in both brackets": (
        lambda x_t, x0, a, b, K: multinomial_posterior(x_t, x0, b, b, K),
        "the bracket with x_t holds alpha_bar_s: from x_s to x_t only the one step's alpha is at work",
    ),
    "alpha_bar_t in the second bracket": (
        lambda x_t, x0, a, b, K: multinomial_posterior(x_t, x0, a, a * b, K),
        "the bracket with x_0 holds alpha_bar_t = alpha alpha_bar_s: x_s has not been through the step to x_t",
    ),
}


def check_multinomial_posterior(fn):
    for K, alpha, alpha_bar_s in (
        (4, 0.8, 0.55),
        (3, 0.3, 0.9),
        (3, 0.5, 1.0),
    ):  # at s = 0, x_s is x_0
        x_t, x0 = torch.randint(K, (2, 5, 6))
        if hint := compare(
            fn, by_bayes, MULTINOMIAL_POSTERIOR, x_t, x0, alpha, alpha_bar_s, K
        ):
            return hint
    return None


define(multinomial_posterior, check_multinomial_posterior, MULTINOMIAL_POSTERIOR)


# --- absorbing_step ---


def absorbing_step(K, beta):
    """Q = (1 - beta) I + beta 1 e_MASK^T over K tokens and MASK = K: row i is the law of what follows i."""
    Q = (1 - beta) * torch.eye(K + 1, dtype=torch.float64)
    Q[:, K] += beta  # MASK's own row becomes 1 - beta + beta = 1: it stays
    return Q


def _leaking(K, beta):
    Q = absorbing_step(K, beta)
    Q[K] = torch.tensor([beta / K] * K + [1 - beta])
    return Q


def _over_tokens(K, beta):
    Q = F.pad((1 - beta) * torch.eye(K) + beta / K, (0, 1, 0, 1)).double()
    Q[K, K] = 1
    return Q


def _mask_vanishes(K, beta):
    Q = (1 - beta) * torch.eye(K + 1, dtype=torch.float64)
    Q[:K, K] = beta
    return Q


ABSORBING_STEP: Mistakes = {
    "transposed": (
        lambda K, beta: absorbing_step(K, beta).T,
        "your columns are laws and your rows are not: row i must say what may follow i. "
        "(Some papers write the transpose, and symmetric noise hides the mix-up)",
    ),
    "MASK leaks back": (
        _leaking,
        "your MASK turns into tokens again with probability beta: absorbing means that it stays",
    ),
    "beta spread over the tokens": (
        _over_tokens,
        "beta is shared among the K tokens, which is uniform noise: here all of it goes to MASK",
    ),
    "MASK's row does not sum to 1": (
        _mask_vanishes,
        "the last row sums to 1 - beta: the diagonal holds 1 - beta for tokens, but what is it for MASK?",
    ),
    "one state too few": (
        lambda K, beta: absorbing_step(K - 1, beta),
        "the matrix has K rows: MASK is a state of its own after the K tokens, number K",
    ),
}


def check_absorbing_step(fn):
    for K, beta in ((3, 0.2), (5, 0.7), (2, 0.0), (4, 1.0)):
        if torch.as_tensor(fn(K, beta)).shape == (K, K):
            return hints_of(ABSORBING_STEP)["one state too few"]
        if hint := compare(fn, masked, ABSORBING_STEP, K, beta):
            return hint
    return None


define(absorbing_step, check_absorbing_step, ABSORBING_STEP)


# --- gaussian_step ---


def gaussian_step(K, beta):
    """Q[i, j] = exp(-4 (i - j)^2 / ((K - 1)^2 beta)) / its sum over all 2K - 1 offsets; the rest is on the diagonal."""
    offset = torch.arange(-(K - 1), K, dtype=torch.float64)
    Z = (
        (-4 * offset**2 / ((K - 1) ** 2 * beta)).exp().sum()
    )  # one constant for all rows
    i = torch.arange(K, dtype=torch.float64)
    Q = (-4 * (i[:, None] - i) ** 2 / ((K - 1) ** 2 * beta)).exp() / Z
    Q.fill_diagonal_(0)
    return Q + torch.diag(1 - Q.sum(1))


def _weights(K, beta, scale):
    i = torch.arange(K, dtype=torch.float64)
    return (-4 * (i[:, None] - i) ** 2 / (scale**2 * beta)).exp()


def _rest_on_diagonal(Q):
    Q = Q.fill_diagonal_(0)
    return Q + torch.diag(1 - Q.sum(1))


def _full_sum(w):
    return 2 * w[0].sum() - 1  # offsets of both signs, 0 once


def _wrong_scale(K, beta):
    w = _weights(K, beta, K)
    return _rest_on_diagonal(w / _full_sum(w))


def _plain_diagonal(K, beta):
    w = _weights(K, beta, K - 1)
    return w / _full_sum(w)


def _half_sum(K, beta):
    w = _weights(K, beta, K - 1)
    return _rest_on_diagonal(w / w[0].sum())


def _no_four(K, beta):
    return gaussian_step(K, 4 * beta)


GAUSSIAN_STEP: Mistakes = {
    "a softmax of each row": (
        lambda K, beta: _normalised(_weights(K, beta, K - 1)),
        "each row is divided by its own sum, and rows at the edge have a smaller one. Then Q is not symmetric, "
        "its columns do not sum to 1, and the uniform law is not kept: divide by one constant",
    ),
    "K instead of K - 1": (
        _wrong_scale,
        "your distances are measured in units of K. From the first token to the last it is K - 1",
    ),
    "the diagonal left as it was": (
        _plain_diagonal,
        "your rows do not sum to 1: the diagonal is not the weight at offset 0 but what the other entries leave",
    ),
    "offsets of one sign only": (
        _half_sum,
        "the constant sums K offsets, from 0 to K - 1. A token may move either way: there are 2K - 1 offsets",
    ),
    "no factor 4": (
        _no_four,
        "your weights fall too slowly: the exponent has the factor 4",
    ),
}


def check_gaussian_step(fn):
    for K, beta in ((6, 0.5), (8, 0.1), (3, 2.0), (2, 1.0)):
        if hint := compare(fn, spread, GAUSSIAN_STEP, K, beta):
            return hint
    return None


define(gaussian_step, check_gaussian_step, GAUSSIAN_STEP)


# --- absorbing_loss ---


def absorbing_loss(log_p0, x0, x_t, t, T):
    """T KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) at alpha_bar_t = 1 - t / T: T / t times -log p0(x_0) on masks."""
    nll = -log_p0.gather(-1, x0[..., None]).squeeze(-1)
    masks = x_t == log_p0.shape[-1]
    return (
        T / t * torch.where(masks, nll, 0).sum(1)
    )  # a mask opens in this step with probability 1 / t


def by_full_laws(log_p0, x0, x_t, t, T):
    """T times the KL between two laws over K + 1 states at each position, both by Bayes' rule."""
    K, p0 = log_p0.shape[-1], F.pad(log_p0.exp(), (0, 1))
    rows = zip(p0, x0, x_t, t.tolist(), strict=True)
    return torch.stack(
        [
            T * sum(_one_kl(K, *token, now, T) for token in zip(*row, strict=True))
            for *row, now in rows
        ]
    )


def _one_kl(K, p0, x0, x_t, t, T):
    kept = 1 - (t - 1) / T
    from_data, step = masked(K, 1 - kept), masked(K, 1 - (1 - t / T) / kept)
    q, p = (
        _normalised(law @ from_data * step[:, x_t]) for law in (_hot(x0, K + 1), p0)
    )
    return (torch.xlogy(q, q) - torch.xlogy(q, p)).sum()


def _loss_with(weight, mean=False, everywhere=False):
    """A loss with a mistake: its weight, a mean over the masks, or a sum over all positions."""

    def wrong(log_p0, x0, x_t, t, T):
        nll = -log_p0.gather(-1, x0[..., None]).squeeze(-1)
        where = (
            torch.ones_like(nll) if everywhere else (x_t == log_p0.shape[-1]).double()
        )
        return weight(t, T) * (nll * where).sum(1) / (where.sum(1) if mean else 1)

    return wrong


ABSORBING_LOSS: Mistakes = {
    "all positions": (
        _loss_with(lambda t, T: T / t, everywhere=True),
        "tokens that are not masked are counted too: x_t shows them, both laws are certain of them, and their KL is 0",
    ),
    "mean over the masks": (
        _loss_with(lambda t, T: T / t, mean=True),
        "you take the mean over the masks. The KL of independent positions is a sum",
    ),
    "no weight": (
        _loss_with(lambda t, T: 1),
        "this is the cross-entropy on the masks alone. In one step a mask opens only with some chance, "
        "and the sum over T steps is estimated by one: both are factors",
    ),
    "the weight upside down": (
        _loss_with(lambda t, T: t / T),
        "your weight is t / T, largest where all is masked. A mask at t = 1 opens for certain, "
        "one at t = T hardly ever: where must the weight be large?",
    ),
    "T forgotten": (
        _loss_with(lambda t, T: 1 / t),
        "this is one step's KL: the bound has T of them, so one drawn at random counts T times",
    ),
}


def check_absorbing_loss(fn):
    K, T, t = 3, 8, torch.tensor([1, 3, 6, 8])
    log_p0 = torch.randn(4, 5, K, dtype=torch.float64).log_softmax(-1)
    x0 = torch.randint(K, (4, 5))
    hidden = (
        torch.tensor(
            [[0, 1, 0, 1, 0], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
        )
        == 1
    )
    x_t = torch.where(hidden, K, x0)
    hint = compare(fn, by_full_laws, ABSORBING_LOSS, log_p0, x0, x_t, t, T)
    return hint or compare(
        fn, by_full_laws, {}, log_p0, x0, x0, t.clamp(max=T - 1), T
    )  # nothing masked: 0


define(absorbing_loss, check_absorbing_loss, ABSORBING_LOSS)


# --- leave_one_out ---


def leave_one_out(post, x_t, alpha_bar_t):
    """p(x_0 = k | the other tokens of x_t): the posterior p(x_0 = k | x_t) over q(x_t | x_0 = k), normalised."""
    K = post.shape[-1]
    evidence = (
        alpha_bar_t * F.one_hot(x_t, K).to(post) + (1 - alpha_bar_t) / K
    )  # q(x_t | k) for every k
    loo = post / evidence
    return loo / loo.sum(-1, keepdim=True)


def two_laws(p, alpha_bar):
    """For two tokens with the joint law p (K, K) and every x_t: posterior, leave-one-out law, x_t; all by summation."""
    K = len(p)
    x_t = torch.cartesian_prod(torch.arange(K), torch.arange(K))
    noise = replaced(K, alpha_bar)
    seen = [
        noise[:, x_t[:, i]].T for i in (0, 1)
    ]  # (x_t, x_0): the evidence of each token
    both = p * seen[0][:, :, None] * seen[1][:, None, :]
    post = torch.stack([both.sum(2), both.sum(1)], 1)
    loo = torch.stack(
        [(p * seen[1][:, None, :]).sum(2), (p * seen[0][:, :, None]).sum(1)], 1
    )
    return _normalised(post), _normalised(loo), x_t


def _no_share(post, x_t, a):
    K = post.shape[-1]
    return _normalised(post / torch.where(F.one_hot(x_t, K) == 1, a, (1 - a) / K))


LEAVE_ONE_OUT: Mistakes = {
    "multiplied": (
        lambda post, x_t, a: _normalised(
            post * uniform_marginal(x_t, a, post.shape[-1])
        ),
        "you count x_t a second time: the posterior holds its evidence already, and the task is to take it off",
    ),
    "not normalised": (
        lambda post, x_t, a: post / uniform_marginal(x_t, a, post.shape[-1]),
        "your result does not sum to 1: after the division, divide by the sum over k",
    ),
    "the noise forgotten": (
        lambda post, x_t, a: _normalised(post / (a * _hot(x_t, post.shape[-1]))),
        "not finite: your q(x_t | k) is 0 for every k but x_t. Noise may have turned any token into x_t: "
        "where is (1 - alpha_bar) / K?",
    ),
    "no noise at x_t itself": (
        _no_share,
        "your q(x_t | k) is alpha_bar at k = x_t. The fresh token may be the same one: "
        "(1 - alpha_bar) / K belongs there too",
    ),
    "left as it is": (
        lambda post, x_t, a: post,
        "you return the posterior. With uniform noise x_t says something about its own token, and that must come off",
    ),
}


def check_leave_one_out(fn):
    for K, alpha_bar in ((3, 0.4), (4, 0.8)):
        p = torch.rand(K, K, dtype=torch.float64) ** 3
        post, loo, x_t = two_laws(p / p.sum(), alpha_bar)
        if not torch.as_tensor(fn(post, x_t, alpha_bar)).isfinite().all():
            return hints_of(LEAVE_ONE_OUT)["the noise forgotten"]
        if hint := compare(
            fn, lambda *_, loo=loo: loo, LEAVE_ONE_OUT, post, x_t, alpha_bar
        ):
            return hint
    return None


define(leave_one_out, check_leave_one_out, LEAVE_ONE_OUT)


# --- hybrid ---


def hybrid(kl, ce, ce_weight, T):
    """T (KL + ce_weight CE), one number per example: the small weight is on the cross-entropy."""
    return T * (kl + ce_weight * ce)


def one_by_one(kl, ce, ce_weight, T):
    """T times over: one step's KL, and a share of the cross-entropy on top; each example on its own."""
    return torch.stack(
        [sum([k, ce_weight * c] * T) for k, c in zip(kl, ce, strict=True)]
    )


HYBRID: Mistakes = {
    "the weight on the wrong term": (
        lambda kl, ce, w, T: T * (w * kl + ce),
        "at ce_weight = 0 nothing is left of the KL: your weight is on the bound, "
        "and the cross-entropy has all the say. Which of the two terms is the helper?",
    ),
    "T on the KL only": (
        lambda kl, ce, w, T: T * kl + w * ce,
        "T multiplies the KL but not the cross-entropy, so the helper is T times weaker than the paper's",
    ),
    "one number for the batch": (
        lambda kl, ce, w, T: (T * (kl + w * ce)).mean(),
        "one number for the whole batch: keep one per example, so that the time can be drawn by importance",
    ),
    "a mix of the two": (
        lambda kl, ce, w, T: T * ((1 - w) * kl + w * ce),
        "you take 1 - ce_weight of the KL. The helper is added to the whole bound, nothing is taken from it",
    ),
    "T forgotten": (
        lambda kl, ce, w, T: kl + w * ce,
        "too small by T: the bound is a sum over T times, and here is one of them",
    ),
}


def check_hybrid(fn):
    kl, ce = torch.rand(2, 6, dtype=torch.float64) + 0.5
    if torch.as_tensor(fn(kl, ce, 0.05, 20)).shape == ():
        return hints_of(HYBRID)["one number for the batch"]
    for ce_weight, T in ((0.05, 20), (0.0, 7), (1.0, 3)):
        if hint := compare(fn, one_by_one, HYBRID, kl, ce, ce_weight, T):
            return hint
    return None


define(hybrid, check_hybrid, HYBRID)


# --- fault ---


def fault(Q, uniform_in_the_end):
    """What is wrong with a step's matrix: "negative", "rows", "law" or "none"; asked in this order."""
    if (Q < 0).any():
        return "negative"
    if ((Q.sum(1) - 1).abs() > 1e-6).any():
        return "rows"
    kept = (Q.sum(0) - 1).abs() <= 1e-6  # uniform @ Q is uniform: each column sums to 1
    return "law" if uniform_in_the_end and not kept.all() else "none"


def bands(K, share):
    """To each neighbour with probability `share`; the rest stays."""
    Q = told(range(K), lambda i, j: share * (abs(i - j) == 1))
    return Q + torch.diag(1 - Q.sum(1))


def patients():
    """name -> (matrix, whether it is to end uniform, what is wrong with it)."""
    turning = 0.8 * torch.eye(4).double() + 0.2 * torch.eye(4).double().roll(1, 1)
    gauss, mask, soft = spread(6, 0.5), masked(4, 0.3), _normalised(_weights(6, 0.5, 5))
    return {
        "uniform noise": (replaced(5, 0.7), True, "none"),
        "Gaussian noise": (gauss, True, "none"),
        "band noise": (bands(5, 0.2), True, "none"),
        "absorbing noise": (mask, False, "none"),
        "a step around a ring": (turning, True, "none"),
        "Gaussian noise, off by rounding": (gauss + 1e-9, True, "none"),
        "absorbing noise, transposed": (mask.T, False, "rows"),
        "Gaussian noise without its diagonal": (_plain_diagonal(6, 0.5), True, "rows"),
        "uniform noise, rows off by 1e-4": (replaced(5, 0.7) * 1.0001, True, "rows"),
        "Gaussian noise, each row by its own sum": (soft, True, "law"),
        "absorbing noise where uniform noise is wanted": (mask, True, "law"),
        "the same rows where no uniform end is wanted": (soft, False, "none"),
        "band noise that moves too much": (bands(5, 0.6), True, "negative"),
        "band noise that moves too much, rows off": (
            bands(5, 0.6) * 1.1,
            False,
            "negative",
        ),
    }


def _fault_by(
    rows=lambda Q: Q.sum(1),
    law=lambda Q: Q.sum(0),
    negative=True,
    always=False,
    first="negative",
):
    """A detector with a mistake: the sum taken for rows, the test of the law, what is asked, and in which order."""

    def wrong(Q, uniform_in_the_end):
        bad = ((rows(Q) - 1).abs() > 1e-6).any()
        if first == "rows" and bad:
            return "rows"
        if negative and (Q < 0).any():
            return "negative"
        if bad:
            return "rows"
        lost = ((law(Q) - 1).abs() > 1e-6).any()
        return "law" if (always or uniform_in_the_end) and lost else "none"

    return wrong


FAULT: Mistakes = {
    "columns instead of rows": (
        _fault_by(rows=lambda Q: Q.sum(0)),
        "you call absorbing noise broken and let its transpose pass: sum(0) goes down a column. "
        "Row i is the law of what follows i",
    ),
    "rows only": (
        _fault_by(law=lambda Q: Q.sum(1)),
        "a Gaussian with each row divided by its own sum passes. Its rows are laws, but uniform @ Q is not uniform: "
        "look at the columns as well",
    ),
    "demands a symmetric matrix": (
        _fault_by(law=lambda Q: 1 + (Q - Q.T).abs().sum(0)),
        "a step around a ring is not symmetric and still keeps the uniform law: "
        "symmetric is enough, but only the columns' sums are needed",
    ),
    "wants a uniform end from every noise": (
        _fault_by(always=True),
        "absorbing noise ends at MASK and need not keep the uniform law: ask for that only if uniform_in_the_end",
    ),
    "never looks for negative entries": (
        _fault_by(negative=False),
        "a band that moves too much has rows that sum to 1 and a negative diagonal: no probability is negative",
    ),
    "rows asked first": (
        _fault_by(first="rows"),
        "where an entry is negative and a row is off, the task wants 'negative': that is asked first",
    ),
}


def check_fault(fn):
    cases = patients()
    said = {name: fn(Q.clone(), uniform) for name, (Q, uniform, _) in cases.items()}
    for name, answer in said.items():
        if answer not in ("negative", "rows", "law", "none"):
            return f"for {name} it returned {answer!r}: the answer is 'negative', 'rows', 'law' or 'none'"
    for wrong, hint in FAULT.values():
        if said == {name: wrong(Q, uniform) for name, (Q, uniform, _) in cases.items()}:
            return hint
    missed = [name for name, (_, _, truth) in cases.items() if said[name] != truth]
    if missed:
        return f"for {missed[0]} you say {said[missed[0]]!r}, and it is {cases[missed[0]][2]!r}"
    return None


define(fault, check_fault, FAULT)


# --- reveal ---


def reveal(p0, x_t, chance, mask):
    """x_s for absorbing noise, in two stages: each mask opens with probability `chance`, then shows a draw from p0."""
    opens = (x_t == mask) & (
        torch.rand(x_t.shape) < chance
    )  # a coin of its own for each position
    tokens = torch.multinomial(p0.flatten(0, 1), 1).reshape(x_t.shape)
    return torch.where(opens, tokens, x_t)


def _draws(p0):
    return torch.multinomial(p0.flatten(0, 1), 1).reshape(p0.shape[:2])


def _whole_sequences(p0, x_t, chance, mask):
    return torch.where(
        (x_t == mask) & (torch.rand(len(x_t), 1) < chance), _draws(p0), x_t
    )


REVEAL: Mistakes = {
    "tokens redrawn": (
        lambda p0, x_t, chance, mask: torch.where(
            torch.rand(x_t.shape) < chance, _draws(p0), x_t
        ),
        "tokens that were not masked have changed: absorbing noise only ever masks, so what is visible is the data",
    ),
    "every mask opened": (
        lambda p0, x_t, chance, mask: torch.where(x_t == mask, _draws(p0), x_t),
        "all masks are open after one step: each should open with probability `chance` only",
    ),
    "the coin turned round": (
        lambda p0, x_t, chance, mask: reveal(p0, x_t, 1 - chance, mask),
        "masks stay with probability `chance`: it is the chance to open",
    ),
    "one coin for a sequence": (
        _whole_sequences,
        "the masks of a sequence open all or not at all: each position needs a coin of its own",
    ),
    "the likeliest token": (
        lambda p0, x_t, chance, mask: torch.where(
            reveal(p0, x_t, chance, mask) != x_t, p0.argmax(-1), x_t
        ),
        "a position always shows its likeliest token: draw from p0, else the samples have less variety than the data",
    ),
}

LAWS = torch.tensor(
    [[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.3, 0.5, 0.2], [0.45, 0.1, 0.45]]
).double()


def check_reveal(fn):
    hints, (L, K), B, chance = hints_of(REVEAL), LAWS.shape, 4000, 0.3
    p0 = torch.cat([LAWS.expand(B // 2, L, K), LAWS.flip(0).expand(B // 2, L, K)])
    hidden = (
        torch.arange(B)[:, None] + torch.arange(L)
    ) % 4 > 0  # not drawn: the reader may set the seed
    x_t = torch.where(hidden, K, torch.randint(K, (B, L)))
    x_s = fn(p0.clone(), x_t.clone(), chance, K)
    if x_s.shape != x_t.shape:
        return (
            f"the shape is {tuple(x_s.shape)}, expected that of x_t, {tuple(x_t.shape)}"
        )
    if (x_s != x_t)[~hidden].any():
        return hints["tokens redrawn"]
    return _check_coins(hidden, hidden & (x_s != K), chance, hints) or _check_tokens(
        fn, p0, x_s, hints
    )


def _check_coins(hidden, opened, chance, hints):
    """Each mask of its own accord, with probability chance."""
    share = (opened.sum() / hidden.sum()).item()
    if share == 1:
        return hints["every mask opened"]
    if not (hidden & opened).any(1).logical_and((hidden & ~opened).any(1)).any():
        return hints["one coin for a sequence"] if share > 0 else "no mask opens at all"
    if abs(share - (1 - chance)) < 0.025:
        return hints["the coin turned round"]
    if abs(share - chance) > 0.025:
        return f"{share:.2f} of the masks open, and chance is {chance}"
    return None


def _check_tokens(fn, p0, x_s, hints):
    """Every position open: what is shown there has the law of its own position."""
    (L, K), B = LAWS.shape, len(p0)
    x_s = fn(p0.clone(), torch.full((B, L), K), 1.0, K)
    if (x_s == K).any():
        return "with chance = 1 every mask must open"
    seen = torch.stack(
        [_hot(half, K).mean(0) for half in x_s.split(B // 2)]
    )  # (half, position, token)
    want = torch.stack([LAWS, LAWS.flip(0)])
    if (seen == 1).any():
        return hints["the likeliest token"]
    off = (seen - want).abs()
    if off.max() < 0.06:
        return None
    half, i, k = (int(v) for v in (off == off.max()).nonzero()[0])
    return f"token {k} has p0 = {want[half, i, k]:.2f} at position {i} but comes up with {seen[half, i, k]:.2f}"


define(reveal, check_reveal, REVEAL)
