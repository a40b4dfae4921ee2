"""Chapter 6, D3PM: the reference answers, what is asked of an answer, and the classic wrong ones.

Rows are "from", columns are "to": Q[i, j] = q(next = j | now = i). Tokens are 0..K-1; MASK, where there is one, is K.
The truths do not trust the formulas: they add up paths, apply Bayes' rule to all states, or count draws.
A wrong answer in quotes is the reference with that text changed.
"""

import math

import torch
import torch.nn.functional as F

from ..answers import Hint
from ..cases import normal, numbers, uniform
from ..checks import at_least, case, law, one_of
from ..drawn import shares
from ..exercise import define


def _hot(x, K):
    """One-hot rows in float64."""
    return F.one_hot(x, K).double()


def _normalised(p):
    return p / p.sum(-1, keepdim=True)


def tokens(K, *shape):
    """Random tokens, every one of the K among them where there is room."""
    return torch.randint(K, shape)


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
    stays = F.one_hot(x0, K).double()
    fresh = (1 - alpha_bar) / K  # the fresh token may be x_0 again
    return alpha_bar * stays + fresh


def three_steps(x0, alpha_bar, K):
    """Row x_0 of three equal steps whose alphas have the product alpha_bar: all paths added up."""
    return torch.linalg.matrix_power(replaced(K, alpha_bar ** (1 / 3)), 3)[x0]


define(
    uniform_marginal,
    truth=three_steps,
    cases=lambda: [(tokens(5, 2, 3), 0.6, 5), (tokens(2, 3, 4), 0.05, 2)],
    limits={
        "at alpha_bar = 1 nothing has happened to x_0": {"alpha_bar": 1.0},
        "at alpha_bar = 0 nothing is left of x_0": {"alpha_bar": 0.0},
    },
    properties=(law(),),
    mistakes="""
    the fresh token is never x_0
        / K -> / (K - 1) * (1 - stays)
        you share 1 - alpha_bar among the K - 1 other tokens. The fresh token is drawn from all K: it may be x_0
        again, so x_0 has more than alpha_bar
    x_0 gets no share of the noise
        / K -> / K * (1 - stays)
        your laws sum to less than 1: the share (1 - alpha_bar) / K that falls on x_0 itself is missing
    the root of alpha_bar
        stays = -> alpha_bar = alpha_bar**0.5; stays =
        you keep the token with probability sqrt(alpha_bar). The root belongs to Gaussian noise, where alpha_bar
        is a share of the variance; here it is a probability
    kept and lost swapped
        stays = -> alpha_bar = 1 - alpha_bar; stays =
        at alpha_bar = 1 your law is uniform although nothing has happened to x_0. Which of the two terms has
        which factor?
    """,
)


# --- multinomial_posterior ---


def multinomial_posterior(x_t, x0, alpha, alpha_bar_s, K):
    """q(x_s | x_t, x_0): [alpha x_t + (1 - alpha) / K] times [alpha_bar_s x_0 + (1 - alpha_bar_s) / K], normalised."""
    back = alpha * F.one_hot(x_t, K).double() + (1 - alpha) / K  # q(x_t | x_s = k)
    there = alpha_bar_s * F.one_hot(x0, K).double() + (1 - alpha_bar_s) / K
    joint = back * there  # of x_s = k and x_t, given x_0
    return joint / joint.sum(-1, keepdim=True)


def by_bayes(x_t, x0, alpha, alpha_bar_s, K):
    """All K states that x_s can have: the chance of x_0 -> x_s -> x_t, over their sum."""
    way = replaced(K, alpha_bar_s)[:, :, None] * replaced(K, alpha)  # (x_0, x_s, x_t)
    return (way / way.sum(1, keepdim=True))[x0, :, x_t]


define(
    multinomial_posterior,
    truth=by_bayes,
    cases=lambda: [
        (tokens(4, 2, 5), tokens(4, 2, 5), 0.8, 0.55, 4),
        (tokens(3, 4, 2), tokens(3, 4, 2), 0.3, 0.9, 3),
    ],
    limits={
        "at alpha_bar_s = 1, s is 0, and x_s is x_0": {"alpha_bar_s": 1.0},
        "at alpha = 1 nothing happens from s to t, and x_s is x_t": {"alpha": 1.0},
        "at alpha = 0, x_t says nothing: what is left is q(x_s | x_0)": {"alpha": 0.0},
    },
    properties=(law(),),
    mistakes="""
    the two brackets swapped
        back = -> x_t, x0 = x0, x_t; back =
        alpha stands by x_0 and alpha_bar_s by x_t. Which of the two is one step away from x_s, and which is all
        the way from the data?
    a sum instead of a product
        back * there -> back + there
        the two brackets are added. x_s must agree with x_0 and with x_t: both at once, so multiply
    a softmax
        joint / joint.sum(-1, keepdim=True) -> joint.softmax(-1)
        a softmax takes exponentials first, and these are probabilities already: divide by their sum
    alpha_bar_s in both brackets
        back = -> alpha = alpha_bar_s; back =
        the bracket with x_t holds alpha_bar_s: from x_s to x_t only the one step's alpha is at work
    alpha_bar_t in the second bracket
        back = -> alpha_bar_s = alpha * alpha_bar_s; back =
        the bracket with x_0 holds alpha_bar_t = alpha alpha_bar_s: x_s has not been through the step to x_t
    K - 1 faces
        (1 - alpha) / K -> (1 - alpha) / (K - 1) * (1 - F.one_hot(x_t, K)) ; (1 - alpha_bar_s) / K ->
            (1 - alpha_bar_s) / (K - 1) * (1 - F.one_hot(x0, K))
        in both brackets the fresh token is one of the K - 1 others. It is drawn from all K: it may be the one that
        was there
    divided by q(x_s | x_0)
        return joint / joint.sum(-1, keepdim=True) -> return joint / there
        you divide by q(x_s | x_0), and the bracket with x_0 is gone again. Bayes' rule divides by q(x_t | x_0),
        one number for all x_s
    """,
)


# --- independence ---


def independence(p):
    """I(X_1; X_2) of two tokens with the joint distribution p (K, K), nats: the cost of drawing them independently."""
    product = p.sum(1, keepdim=True) * p.sum(0)  # of the marginals
    return (p * (p / product).log()).sum()


def by_entropies(p):
    """H(X_1) + H(X_2) - H(X_1, X_2)."""
    parts = (p.sum(0), p.sum(1), p)
    first, second, pair = (torch.special.entr(q).sum() for q in parts)
    return first + second - pair


def _number(got, a):
    """A number in place of a tensor is as good."""
    return torch.as_tensor(got, dtype=torch.float64)


def _joint(*shape):
    p = uniform(*shape) ** 2 + 0.02
    return p / p.sum()


define(
    independence,
    truth=by_entropies,
    cases=lambda: [(_joint(2, 3),), (_joint(3, 3),), (_joint(5, 4),)],
    limits={
        "where the second token does not depend on the first nothing is lost": {
            "p": lambda a: a.p.sum(1, keepdim=True) * a.p.sum(0)
        }
    },
    properties=(at_least(0),),
    read=_number,
    mistakes="""
    the other KL
        p * (p / product) -> product * (product / p)
        this is KL(product || p). What is drawn is the product and what is right is p: the mean is over the data,
        so p stands in front
    against the uniform distribution
        p.sum(1, keepdim=True) * p.sum(0) -> 1 / p.numel()
        you compare p with the uniform distribution. The step draws each token from its own marginal, and both
        marginals are right
    the entropy of the pair
        p / product -> 1 / p
        this is the entropy of the pair: what the pair costs, not what independence adds to it
    the entropy of the product
        p / product -> 1 / product
        this is what the pairs cost if each token is coded by its own marginal. Take off what they have to cost
    bits
        / product).log() -> / product).log2()
        too large by 1 / ln 2: bits, and the task asks for nats
    a sum over the first token only
        product).log()).sum() -> product).log()).sum(0)
        one number for each second token: the loss of a pair is a sum over both
    the marginals exchanged
        p.sum(1, keepdim=True) * p.sum(0) -> p.sum(0)[:, None] * p.sum(1)
        the marginals have changed places: your product has the second token's in the rows, and p the first one's
    """,
)


# --- leave_one_out ---


def leave_one_out(post, x_t, alpha_bar_t):
    """p(x_0 = k | the other tokens of x_t): the posterior p(x_0 = k | x_t) over q(x_t | x_0 = k), normalised."""
    K = post.shape[-1]
    stays = F.one_hot(x_t, K).to(post)
    evidence = alpha_bar_t * stays + (1 - alpha_bar_t) / K  # q(x_t | k) for every k
    loo = post / evidence
    return loo / loo.sum(-1, keepdim=True)


def two_laws(p, alpha_bar):
    """For two tokens with the joint law p (K, K) and every x_t: posterior, leave-one-out law, x_t; all by summation."""
    K = len(p)
    x_t = torch.cartesian_prod(torch.arange(K), torch.arange(K))
    noise = replaced(K, alpha_bar)
    # (x_t, x_0): the evidence of each token.
    seen = [noise[:, x_t[:, i]].T for i in (0, 1)]
    both = p * seen[0][:, :, None] * seen[1][:, None, :]
    post = torch.stack([both.sum(2), both.sum(1)], 1)
    loo = torch.stack(
        [(p * seen[1][:, None, :]).sum(2), (p * seen[0][:, :, None]).sum(1)], 1
    )
    return _normalised(post), _normalised(loo), x_t


def _two_tokens(K, alpha_bar):
    p = uniform(K, K) ** 3
    post, loo, x_t = two_laws(p / p.sum(), alpha_bar)
    return case(post, x_t, alpha_bar, want=loo)


def _first_of(K, alpha_bar):
    """The first of the two alone, in a few rows: L = 1, and K more than all of them."""
    post, x_t, _ = (both := _two_tokens(K, alpha_bar)).args
    return case(post[::48, :1], x_t[::48, :1], alpha_bar, want=both.want[::48, :1])


define(
    leave_one_out,
    cases=lambda: [_two_tokens(3, 0.4), _two_tokens(4, 0.8), _first_of(12, 0.6)],
    without={"a K x K matrix": lambda a: 2 * a.post.shape[-1:]},
    limits={
        "at alpha_bar = 0, x_t says nothing about its token, and there is nothing to take off": {
            "alpha_bar_t": 0.0
        }
    },
    properties=(law(),),
    mistakes="""
    multiplied
        post / evidence -> post * evidence
        you count x_t a second time: the posterior holds its evidence already, and the task is to take it off
    the noise forgotten
        + (1 - alpha_bar_t) / K ->
        not finite: your q(x_t | k) is 0 for every k but x_t. Noise may have turned any token into x_t: where is
        (1 - alpha_bar) / K?
    no noise at x_t itself
        (1 - alpha_bar_t) / K -> (1 - alpha_bar_t) / K * (1 - stays)
        your q(x_t | k) is alpha_bar at k = x_t. The fresh token may be the same one: (1 - alpha_bar) / K belongs
        there too
    a fresh token is never the same
        (1 - alpha_bar_t) / K -> (1 - alpha_bar_t) / (K - 1) * (1 - stays)
        your q(x_t | k) shares the noise among the K - 1 others and gives none to k = x_t. The fresh token is
        drawn from all K
    x_t struck out
        post / evidence -> post * (1 - stays)
        you give x_t itself the probability 0. x_0 may well be that token: what x_t says is to be forgotten, not
        refuted
    left as it is
        loo = post / evidence -> return post
        you return the posterior. With uniform noise x_t says something about its own token, and that must come
        off
    taken away, not divided
        loo = post / evidence -> return (post - (1 - alpha_bar_t) / K) / alpha_bar_t
        you take the noise off as if the posterior were a mixture. It is a product, prior times q(x_t | k): what
        undoes a product?
    a softmax at the end
        return loo / loo.sum(-1, keepdim=True) -> return loo.softmax(-1)
        your last line takes a softmax of what are no logarithms: divide by the sum
    """,
)


# --- absorbing_loss ---


def absorbing_loss(log_p0, x0, x_t, t, T):
    """T KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) at alpha_bar_t = 1 - t / T: T / t times -log p0(x_0) on masks."""
    nll = -log_p0.gather(-1, x0[..., None]).squeeze(-1)
    masks = x_t == log_p0.shape[-1]
    weight = T / t  # a mask opens in this step with probability 1 / t
    return weight * torch.where(masks, nll, 0).sum(1)


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


def _loss_cases():
    """Sequences half masked, at times that need not be T."""
    for B, L, K, T, t in ((2, 3, 4, 9, [2, 7]), (4, 5, 3, 8, [1, 3, 6, 8])):
        log_p0 = normal(B, L, K).log_softmax(-1)
        x0, hidden = tokens(K, B, L), torch.rand(B, L) < 0.5
        hidden[:, 0], hidden[0, 1] = True, False
        hidden[torch.tensor(t) == T] = True  # at T all is masked
        yield log_p0, x0, torch.where(hidden, K, x0), torch.tensor(t), T


define(
    absorbing_loss,
    truth=by_full_laws,
    cases=lambda: list(_loss_cases()),
    limits={"where nothing is masked nothing is left to pay": {"x_t": lambda a: a.x0}},
    ignores={
        "what the network says where x_t shows the token has no say": {
            "log_p0": lambda a: torch.where(
                (a.x_t == a.log_p0.shape[-1])[..., None], a.log_p0, a.log_p0.flip(-1)
            )
        }
    },
    factors={"the number of masks": lambda a: (a.x_t == a.log_p0.shape[-1]).sum(1)},
    properties=(),
    gradients=("log_p0",),
    mistakes="""
    mean over the masks
        .sum(1) -> .sum(1) / masks.sum(1)
        you take the mean over the masks. The KL of independent positions is a sum
    no weight
        weight * torch -> torch
        this is the cross-entropy on the masks alone. In one step a mask opens only with some chance, and the sum
        over T steps is estimated by one: both are factors
    the weight upside down
        weight = T / t -> weight = t / T
        your weight is t / T, largest where all is masked. A mask at t = 1 opens for certain, one at t = T hardly
        ever: where must the weight be large?
    T forgotten
        weight = T / t -> weight = 1 / t
        this is one step's KL: the bound has T of them, so one drawn at random counts T times
    the noise of the step
        weight = T / t -> weight = T / (T - t + 1)
        your weight is T / (T - t + 1), from beta_t = 1 / (T - t + 1), the chance that a token is masked in step
        t. What is the chance that a mask of x_t became one in just this step?
    """,
)


# --- absorbing_step ---


def absorbing_step(K, beta):
    """Q = (1 - beta) I + beta 1 e_MASK^T over K tokens and MASK = K: row i is the law of what follows i."""
    Q = (1 - beta) * torch.eye(K + 1, dtype=torch.float64)
    Q[:, K] += beta  # MASK's own row becomes 1 - beta + beta = 1: it stays
    return Q


def _over_tokens(K, beta):
    Q = F.pad((1 - beta) * torch.eye(K) + beta / K, (0, 1, 0, 1)).double()
    Q[K, K] = 1
    return Q


define(
    absorbing_step,
    truth=masked,
    cases=lambda: [(2, 0.2), (3, 0.7), (5, 0.35)],
    limits={
        "at beta = 0 everything stays": {"beta": 0.0},
        "at beta = 1 every token is MASK after the step": {"beta": 1.0},
    },
    properties=(law(),),
    mistakes="""
    transposed
        return Q -> return Q.T
        your columns are laws and your rows are not: row i must say what may follow i. (Some papers write the
        transpose, and symmetric noise hides the mix-up)
    MASK leaks back
        return Q -> Q[K] = torch.tensor([beta / K] * K + [1 - beta]); return Q
        your MASK turns into tokens again with probability beta: absorbing means that it stays
    beta spread over the tokens
        _over_tokens
        beta is shared among the K tokens, which is uniform noise: here all of it goes to MASK
    MASK's row does not sum to 1
        Q[:, K] += -> Q[:K, K] +=
        the last row sums to 1 - beta: the diagonal holds 1 - beta for tokens, but what is it for MASK?
    """,
)


# --- gaussian_step ---


def gaussian_step(K, beta):
    """Q[i, j] = exp(-4 (i - j)^2 / ((K - 1)^2 beta)) / its sum over all 2K - 1 offsets; the rest is on the diagonal."""
    i = torch.arange(K, dtype=torch.float64)
    weights = (-4 * (i[:, None] - i) ** 2 / ((K - 1) ** 2 * beta)).exp()
    Z = 2 * weights[0].sum() - 1  # offsets of both signs, 0 once: one constant for all
    Q = (weights / Z).fill_diagonal_(0)
    return Q + torch.diag(1 - Q.sum(1))


def _in_turn(weights):
    for _ in range(200):
        weights = weights / weights.sum(1, keepdim=True)
        weights = weights / weights.sum(0)
    return weights


define(
    gaussian_step,
    truth=spread,
    cases=lambda: [(3, 2.0), (6, 0.5), (8, 0.1)],
    limits={"with two tokens only the offset 1 is left": {"K": 2}},
    properties=(law(), law(0)),
    mistakes="""
    a softmax of each row
        Z = 2 * weights[0].sum() - 1 -> return _normalised(weights)
        each row is divided by its own sum, and rows at the edge have a smaller one. Then Q is not symmetric, its
        columns do not sum to 1, and the uniform law is not kept: divide by one constant
    the largest row's sum
        Z = 2 * weights[0].sum() - 1 -> Z = weights.sum(1).max()
        your constant is the sum of the row in the middle, which holds only K of the 2K - 1 offsets. Offsets beyond
        the edge count too
    K instead of K - 1
        (K - 1) ** 2 -> K**2
        your distances are measured in units of K. From the first token to the last it is K - 1
    offsets of one sign only
        2 * weights[0].sum() - 1 -> weights[0].sum()
        the constant sums K offsets, from 0 to K - 1. A token may move either way: there are 2K - 1 offsets
    no factor 4
        -4 * (i -> -1 * (i
        your weights fall too slowly: the exponent has the factor 4
    rows and columns in turn
        Z = 2 * weights[0].sum() - 1 -> return _in_turn(weights)
        your rows and columns sum to 1, by dividing both in turn. (6.16) divides by one constant, and puts what is
        missing on the diagonal
    the offset without its square
        (i[:, None] - i) ** 2 -> (i[:, None] - i).abs()
        your weights fall with the offset itself: a bell's exponent has its square
    """,
)


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
    gauss, mask = spread(6, 0.5), masked(4, 0.3)
    i = torch.arange(6, dtype=torch.float64)
    weights = (-8 * (i[:, None] - i) ** 2 / 25).exp()
    one_off, half = replaced(5, 0.7), torch.full((4, 4), 0.0, dtype=torch.float64)
    one_off[2] *= 1.01
    half[:2, :2], half[2:, 2:] = 0.5, torch.tensor([0.9, 0.1])
    soft, undrawn = _normalised(weights), weights / (2 * weights[0].sum() - 1)
    return {
        "uniform noise": (replaced(5, 0.7), True, "none"),
        "Gaussian noise": (gauss, True, "none"),
        "band noise": (bands(5, 0.2), True, "none"),
        "absorbing noise": (mask, False, "none"),
        "a step around a ring": (turning, True, "none"),
        "Gaussian noise, off by rounding": (gauss + 1e-9, True, "none"),
        "absorbing noise, transposed": (mask.T, False, "rows"),
        "Gaussian noise without its diagonal": (undrawn, True, "rows"),
        "uniform noise, rows off by 1e-4": (replaced(5, 0.7) * 1.0001, True, "rows"),
        "uniform noise, one row off": (one_off, True, "rows"),
        "two tokens that keep the uniform law and two that do not": (half, True, "law"),
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


def _rows_first(Q, uniform_in_the_end):
    rows = ((Q.sum(1) - 1).abs() > 1e-6).any()
    return "rows" if rows else fault(Q, uniform_in_the_end)


define(
    fault,
    cases=lambda: [
        case(Q, uniform, name=name, want=truth)
        for name, (Q, uniform, truth) in patients().items()
    ],
    properties=(one_of("negative", "rows", "law", "none"),),
    mistakes="""
    columns instead of rows
        Q.sum(1) -> Q.sum(0)
        you call absorbing noise broken and let its transpose pass: sum(0) goes down a column. Row i is the law of
        what follows i
    rows only
        Q.sum(0) -> Q.sum(1)
        a Gaussian with each row divided by its own sum passes. Its rows are laws, but uniform @ Q is not uniform:
        look at the columns as well
    demands a symmetric matrix
        (Q.sum(0) - 1).abs() -> (Q - Q.T).abs()
        a step around a ring is not symmetric and still keeps the uniform law: symmetric is enough, but only the
        columns' sums are needed
    wants a uniform end from every noise
        uniform_in_the_end and not kept -> not kept
        absorbing noise ends at MASK and need not keep the uniform law: ask for that only if uniform_in_the_end
    never looks for negative entries
        (Q < 0).any() -> False
        a band that moves too much has rows that sum to 1 and a negative diagonal: no probability is negative
    to the last digit
        (Q.sum(1) - 1).abs() > 1e-6 -> Q.sum(1) != 1
        you call rows broken that miss 1 by rounding alone: the task asks whether they are off by more than 1e-6
    rows asked first
        _rows_first
        where an entry is negative and a row is off, the task wants 'negative': that is asked first
    """,
)


# --- count_weights ---


def count_weights(alpha_bar, L):
    """The weight of n masks of L, n = 1..L, in (6.13) with T steps: sum_t r_t C(L, n) (1 - abar_t)^n abar_t^(L - n)."""
    s, t = alpha_bar[:-1, None], alpha_bar[1:, None]
    opens = (s - t) / (1 - t)  # r of (6.12)
    n = torch.arange(1, L + 1)
    ways = torch.tensor([math.comb(L, k) for k in n.tolist()])
    of_n = ways * (1 - t) ** n * t ** (L - n)  # the probability of n masks
    return (opens * of_n).sum(0)


def pattern_by_pattern(alpha_bar, L):
    """The same by adding up the probabilities of all patterns of masks, step by step."""
    weights = torch.zeros(L, dtype=torch.float64)
    patterns = torch.cartesian_prod(*[numbers(0.0, 1.0)] * L)
    patterns = patterns.reshape(-1, L)
    for s, t in zip(alpha_bar[:-1].tolist(), alpha_bar[1:].tolist(), strict=True):
        each = (patterns * (1 - t) + (1 - patterns) * t).prod(1) * (s - t) / (1 - t)
        for n in range(1, L + 1):
            weights[n - 1] += each[patterns.sum(1) == n].sum()
    return weights


def _falling_to_0(T):
    """A table alpha_bar[0..T] from 1 to 0 with uneven steps."""
    steps = uniform(T) + 0.2
    return torch.cat([torch.ones(1), 1 - (steps / steps.sum()).cumsum(0)]).clamp(min=0)


define(
    count_weights,
    truth=pattern_by_pattern,
    cases=lambda: [(_falling_to_0(3), 2), (_falling_to_0(5), 4), (_falling_to_0(8), 3)],
    limits={
        "with one step all masks open at once: n = L has the weight 1, every other n 0": {
            "alpha_bar": lambda a: numbers(1.0, 0.0)
        },
        "with many steps, whatever the clock, n masks have the weight 1 / n": {
            "alpha_bar": lambda a: 1 - torch.linspace(0, 1, 801).double() ** 2
        },
    },
    properties=(at_least(0),),
    mistakes="""
    masked now, not opened
        (s - t) / (1 - t) -> (s - t) / s
        your r is the probability that a token becomes a mask in the step, (abar_s - abar_t) / abar_s. The loss asks
        how likely a mask of x_t opens: which share of the masks at t was none at s?
    the number of ways
        ways * (1 - t) -> (1 - t)
        you have the probability of one given set of n masks. The weight is of all sets of n: how many are there?
    masks and tokens exchanged
        (1 - t) ** n * t ** (L - n) -> t**n * (1 - t) ** (L - n)
        alpha_bar is the probability to stand: n masks have (1 - alpha_bar)^n
    at s
        (1 - t) ** n * t ** (L - n) -> (1 - s) ** n * s ** (L - n)
        you count the masks at s. The network reads x_t: count them at t
    a mean over the steps
        (opens * of_n).sum(0) -> (opens * of_n).mean(0)
        too small by T: the bound is a sum over the steps
    the limit at once
        return (opens * of_n).sum(0) -> return 1 / n.double()
        this is the limit of many steps. With few of them many masks open together, and large n weighs more
    """,
)


# --- two_steps ---


def two_steps(post, x_t, alpha, alpha_bar_s):
    """The mixture sum_k q(x_s | x_t, k) post(k), and the plug-in (6.8) with post in the place of p~, normalised."""
    K = post.shape[-1]
    back = alpha * F.one_hot(x_t, K).to(post) + (1 - alpha) / K  # q(x_t | x_s)
    there = alpha_bar_s * torch.eye(K).to(post) + (1 - alpha_bar_s) / K  # q(x_s | k)
    joint = there * back[..., None, :]  # q(x_s, x_t | k), (B, L, k, x_s)
    each = joint / joint.sum(-1, keepdim=True)  # q(x_s | x_t, k)
    mixture = (post[..., None] * each).sum(-2)
    plug_in = (post[..., None] * joint).sum(-2)
    return mixture, plug_in / plug_in.sum(-1, keepdim=True)


def token_by_token(post, x_t, alpha, alpha_bar_s):
    """The posteriors of all k by Bayes' rule, mixed; and two matrices, a row through one, a column of the other."""
    K = post.shape[-1]
    every = torch.stack(
        [
            by_bayes(x_t, torch.full_like(x_t, k), alpha, alpha_bar_s, K)
            for k in range(K)
        ],
        -1,
    )
    mixture = torch.einsum("blsk,blk->bls", every, post)
    way = (post @ replaced(K, alpha_bar_s)) * replaced(K, alpha).T[x_t]
    return mixture, _normalised(way)


define(
    two_steps,
    truth=token_by_token,
    cases=lambda: [
        (_normalised(_joint(1, 2, 3)), tokens(3, 1, 2), 0.7, 0.6),
        (_normalised(_joint(2, 3, 5)), tokens(5, 2, 3), 0.4, 0.8),
    ],
    limits={
        "at alpha = 1 nothing happens from s to t, and x_s is x_t in both": {
            "alpha": 1.0
        },
        "at alpha_bar_s = 1, s is 0: the mixture is the posterior itself, the plug-in is not": {
            "alpha_bar_s": 1.0
        },
    },
    parts=("mixture", "plug-in"),
    mistakes="""
    exchanged
        return mixture, plug_in / plug_in.sum(-1, keepdim=True) -> return plug_in / plug_in.sum(-1,
            keepdim=True), mixture
        the two have changed places: at s = 0 the mixture is the posterior itself
    the plug-in twice
        each = joint / joint.sum(-1, keepdim=True) -> each = joint / joint.sum((-2, -1), keepdim=True)
        your mixture has one denominator for all k: each posterior q(x_s | x_t, k) is divided by its own q(x_t |
        k)
    not normalised
        mixture, plug_in / plug_in.sum(-1, keepdim=True) -> mixture, plug_in
        your plug-in does not sum to 1: (6.8) is a proportionality, divide by the sum over x_s
    the mixture twice
        plug_in = (post[..., None] * joint).sum(-2) -> plug_in = mixture
        your plug-in is the mixture: multiply the column of x_t by post times Q-bar_s first, then normalise
    summed over x_s
        mixture = (post[..., None] * each).sum(-2) -> mixture = (post[..., None] * each).sum(-1)
        your mixture is the posterior given back: the sum is over k, and x_s stays
    """,
)


# --- hybrid ---


def hybrid(kl, ce, ce_weight, T):
    """T (KL + ce_weight CE), one number per example: the small weight is on the cross-entropy."""
    return T * (kl + ce_weight * ce)


def step_by_step(kl, ce, ce_weight, T):
    """T times over: one step's KL, and a share of the cross-entropy on top; each example on its own."""
    return torch.stack(
        [sum([k, ce_weight * c] * T) for k, c in zip(kl, ce, strict=True)]
    )


define(
    hybrid,
    truth=step_by_step,
    cases=lambda: [
        (*uniform(2, B) + 0.5, weight, T)
        for B, weight, T in ((2, 0.05, 20), (5, 0.3, 7))
    ],
    limits={"at ce_weight = 0 the bound alone is left": {"ce_weight": 0.0}},
    linear_in=("kl", "ce"),
    gradients=("kl", "ce"),
    mistakes="""
    the weight on the wrong term
        kl + ce_weight * ce -> ce_weight * kl + ce
        at ce_weight = 0 nothing is left of the KL: your weight is on the bound, and the cross-entropy has all the
        say. Which of the two terms bounds the likelihood?
    one number for the batch
        T * (kl + ce_weight * ce) -> (T * (kl + ce_weight * ce)).mean()
        one number for the whole batch: keep one per example, so that the time can be drawn by importance
    a mix of the two
        kl + ce_weight * ce -> (1 - ce_weight) * kl + ce_weight * ce
        you take 1 - ce_weight of the KL. The cross-entropy is added to the whole bound, nothing is taken from it
    """,
)


# --- ce_weight ---


def ce_weight(bound, ce, T, share):
    """The lambda for which T lambda CE is `share` of bound + T lambda CE; bound is over all T steps, CE of one."""
    return share / (1 - share) * bound / (T * ce)


def by_halving(bound, ce, T, share):
    """Bisection for the lambda that gives this share."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        part = sum([middle * ce] * T)
        low, high = (middle, high) if part / (bound + part) < share else (low, middle)
    return (low + high) / 2


define(
    ce_weight,
    truth=by_halving,
    cases=lambda: [(2.0, 1.25, 40, 0.2), (3.1, 0.9, 7, 0.5), (1.7, 2.2, 150, 0.04)],
    limits={
        "where the share is 1/2 the two terms are equal: T lambda CE is the bound": {
            "share": 0.5
        }
    },
    linear_in=("bound",),
    properties=(at_least(0),),
    read=_number,
    mistakes="""
    T forgotten
        (T * ce) -> ce
        T times too large: the cross-entropy counts in each of the T steps, the bound once over all of them
    the share of the bound
        share / (1 - share) -> share
        your cross-entropy is that share of the bound, and the task asks for a share of the whole loss
    T on the bound
        bound / (T * ce) -> T * bound / ce
        T stands on the wrong side: bound is the sum over all steps already, and it is the cross-entropy that
        counts T times
    the two terms exchanged
        bound / (T * ce) -> ce / (T * bound)
        your weight falls where the bound grows: the larger the bound, the more weight the same share takes
    the share of the KL
        share / (1 - share) -> (1 - share) / share
        your weight falls where the share grows: share is of the cross-entropy, not of the bound
    """,
)


# --- reveal ---


def reveal(p0, x_t, chance, mask):
    """x_s for absorbing noise, in two stages: each mask opens with probability `chance`, then shows a draw from p0."""
    coins = torch.rand(x_t.shape)  # one for each position
    opens = (x_t == mask) & (coins < chance)
    drawn = torch.multinomial(p0.flatten(0, 1), 1).reshape(x_t.shape)
    return torch.where(opens, drawn, x_t)


FOUR = numbers(0.6, 0.3, 0.1, 0.1, 0.2, 0.7, 0.3, 0.5, 0.2, 0.45, 0.1, 0.45)
THREE = numbers(0.1, 0.4, 0.3, 0.2, 0.5, 0.1, 0.25, 0.15, 0.2, 0.2, 0.1, 0.5)


def _revealed(p0, x_t, chance, mask):
    """The distribution of what a mask becomes, in the first and in the last sequence: (2, L, K + 1)."""
    p = torch.stack([p0[0], p0[-1]]) * chance
    return torch.cat([p, 1 - p.sum(-1, keepdim=True)], -1)


def expected(p0, x_t, chance, mask):
    """No visible token changes; a mask is opened by its own coin, and two masks owe each other nothing."""
    one = _revealed(p0, x_t, chance, mask)
    i, j = torch.combinations(torch.arange(one.shape[1])).T
    return 0.0, one, (one[:, i, :, None] * one[:, j, None]).flatten(2)


def counted(x_s, a):
    """The same, counted in the two halves of the batch, which have distributions of their own."""
    if x_s.shape != a.x_t.shape:
        raise Hint(f"the shape is {tuple(x_s.shape)}, expected {tuple(a.x_t.shape)}")
    hidden, n = a.x_t == a.mask, a.mask + 1
    if x_s.min() < 0 or x_s.max() > a.mask:
        raise Hint(
            f"x_s holds {x_s.min()} and {x_s.max()}: there are {a.mask} tokens and MASK"
        )
    changed = (x_s != a.x_t)[~hidden].double()
    i, j = torch.combinations(torch.arange(x_s.shape[1])).T
    halves = list(zip(x_s.chunk(2), hidden.chunk(2), strict=True))
    one = [shares(x, seen, n) for x, seen in halves]
    two = [
        shares(n * x[:, i] + x[:, j], seen[:, i] & seen[:, j], n * n)
        for x, seen in halves
    ]
    return changed.sum() / max(len(changed), 1), torch.stack(one), torch.stack(two)


def _to_reveal():
    """Half masked at a small chance, and all masked, when all open; the positions differ, and so do the halves."""
    for B, p, hide, chance in (
        (6000, FOUR.reshape(4, 3), 3, 0.3),
        (4000, THREE.reshape(3, 4), 4, 1.0),
    ):
        (L, K), half = p.shape, B // 2
        p0 = torch.cat([p.expand(half, L, K), p.flip(0).expand(half, L, K)])
        hidden = (torch.arange(B)[:, None] + torch.arange(L)) % 4 < hide
        yield case(
            p0, torch.where(hidden, K, tokens(K, B, L)), chance, K, name=f"{chance = }"
        )


define(
    reveal,
    truth=expected,
    cases=lambda: list(_to_reveal()),
    read=counted,
    draws=True,
    parts=(
        "share of visible tokens that change",
        "distribution of what a mask becomes",
        "distribution of what two masks of a sequence become",
    ),
    tol=(1e-9, 0.05, 0.08),
    mistakes="""
    tokens redrawn
        (x_t == mask) & (coins < chance) -> coins < chance
        tokens that were not masked have changed: absorbing noise only ever masks, so what is visible is the data
    every mask opened
        & (coins < chance) ->
        all masks are open after one step: each should open with probability chance only
    the coin turned round
        coins < chance -> coins > chance
        masks stay with probability chance: it is the chance to open
    one coin for a sequence
        torch.rand(x_t.shape) -> torch.rand(len(x_t), 1)
        the masks of a sequence open all or not at all: each position needs a coin of its own
    the likeliest token
        torch.multinomial(p0.flatten(0, 1), 1).reshape(x_t.shape) -> p0.argmax(-1)
        a position always shows its likeliest token: draw from p0, else the samples have less variety than the
        data
    one token for a sequence
        torch.multinomial(p0.flatten(0, 1), 1).reshape(x_t.shape) -> (torch.rand(len(x_t), 1, 1) >
            p0.cumsum(-1)).sum(-1).clamp(max=p0.shape[-1] - 1)
        the tokens of a sequence are made of one random number: two positions agree more often than two draws do
    coin and token in one
        coins = torch.rand(x_t.shape) -> coins = torch.rand(x_t.shape); return torch.where((x_t == mask) &
            (coins < chance), (coins[..., None] > p0.cumsum(-1)).sum(-1), x_t)
        when all masks open your tokens follow p0, and when some do they do not: coin and token come from one
        random number. Those that open have small ones
    """,
)
