"""Chapter 4, Diffusion-LM: the reference answers, what is asked of an answer, and the classic wrong ones.

alpha_bar is a table of T + 1 entries with alpha_bar[0] = 1; spread is sigma_0^2 = 1 - alpha_bar[1], the variance of
x_0 around its word's embedding. The truths measure distances, integrate over x_0 on a grid, or add up by hand.
A wrong answer in quotes is the reference with that text changed.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cases import normal, numbers
from ..checks import at_least, hear
from ..exercise import define


def table_of(K, D):
    """Embeddings of K words, some short and some long."""
    return normal(K, D) * torch.linspace(0.3, 3, K, dtype=torch.float64)[:, None]


# --- rounding ---


def rounding(x, table):
    """argmax_w of x . e_w - |e_w|^2 / 2, which is the nearest embedding; x (N, D), table (K, D) -> (N,)."""
    score = x @ table.T - table.square().sum(-1) / 2  # -|x - e_w|^2 / 2, less |x|^2
    return score.argmax(-1)


def by_distance(x, table):
    """Distances, one by one."""
    return (x[:, None] - table).square().sum(-1).argmin(-1)


define(
    rounding,
    truth=by_distance,
    cases=lambda: [
        (numbers(1.0, 0.0)[None], numbers(0.6, 0.0, 3.0, 0.0).reshape(2, 2)),
        (normal(300, 3), table_of(20, 3)),
        (normal(50, 5), table_of(7, 5)),
    ],
    without={"a (N, K, D) tensor": lambda a: (len(a.x), *a.table.shape)},
    limits={
        "an embedding without noise is its own word": {
            "x": lambda a: a.table.clone(),
            "table": lambda a: a.table,
        }
    },
    mistakes="""
    dot product
        x @ table.T - table.square().sum(-1) / 2 -> x @ table.T
        long embeddings attract words that are not theirs: x . e_w is only part of -|x - e_w|^2 / 2. What else is
        there that depends on w?
    cosine
        x @ table.T - table.square().sum(-1) / 2 -> x @ F.normalize(table, dim=-1).T
        this is the smallest angle, not the smallest distance: two words may lie in one direction
    without the half
        table.square().sum(-1) / 2 -> table.square().sum(-1)
        short embeddings win too often: expand |x - e|^2 and divide all of it by -2
    the length for its square
        table.square().sum(-1) / 2 -> table.norm(dim=-1) / 2
        the length of the embedding is subtracted, and |x - e|^2 holds its square
    farthest
        score.argmax -> score.argmin
        these are the farthest words: the score is high where the distance is low
    """,
)


# --- known_word ---


def known_word(e, x_t, abar, spread):
    """Mean and variance of q(x_0 | x_t, w): precisions add up, 1 / spread from the word, abar / (1 - abar) from x_t."""
    var = 1 / (1 / spread + abar / (1 - abar))
    mean = var * (e / spread + abar.sqrt() * x_t / (1 - abar))
    return mean, var


def on_a_grid(e, x_t, abar, spread):
    """Bayes' rule at 20,001 values of x_0, for each number on its own."""
    grid = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    far, off = grid - e[:, None], x_t[:, None] - abar[:, None].sqrt() * grid
    log_p = -far.square() / (2 * spread) - off.square() / (2 * (1 - abar[:, None]))
    p = log_p.softmax(-1)
    mean = p @ grid
    return mean, p @ grid.square() - mean.square()


def _spread_out(got, a):
    """A variance that is one for all numbers may be a number."""
    mean, var = got
    return mean, torch.as_tensor(var, dtype=a.e.dtype).expand_as(a.e)


define(
    known_word,
    truth=on_a_grid,
    cases=lambda: [
        (numbers(0.8, -1.1), numbers(1.2, 0.3), numbers(0.5, 0.9), 0.12),
        (numbers(0.8, -1.1, 2.0, 0.0), normal(4), numbers(0.95, 0.5, 0.1, 0.7), 0.3),
    ],
    limits={
        "where alpha_bar is nearly 0, x_t says nothing: x_0 is the embedding with variance sigma_0^2": {
            "abar": numbers(1e-9, 1e-9)
        },
        "where the word says nothing (sigma_0 is large) x_0 lies around x_t / sqrt(alpha_bar)": {
            "spread": 1e6
        },
    },
    linear_in=("e", "x_t"),
    parts=("mean", "variance"),
    read=_spread_out,
    mistakes="""
    x_t alone
        var = 1 / (1 / spread + abar / (1 - abar)) -> return x_t / abar.sqrt(), (1 - abar) / abar
        your estimate does not use the word: its embedding is a prior for x_0, of variance sigma_0^2
    the word alone
        var = 1 / (1 / spread + abar / (1 - abar)) -> return e, spread
        your estimate does not use x_t: x_0 is the embedding plus noise, and x_t has seen that noise
    weights are variances
        mean = var * (e / spread + abar.sqrt() * x_t / (1 - abar)) -> mean = (spread * e + (1 - abar) /
            abar.sqrt() * x_t) / (spread + (1 - abar) / abar)
        in the mean each source is weighted by its variance, so the noisier one counts for more: weights are
        precisions
    x_t read as x_0
        abar / (1 - abar)) -> 1 / (1 - abar)) ; abar.sqrt() * x_t -> x_t
        x_t is taken for x_0 with noise of variance 1 - alpha_bar. But x_t = sqrt(alpha_bar) x_0 + noise: divide
        by sqrt(alpha_bar) first, and ask for the variance of the noise then
    variances added
        1 / (1 / spread + abar / (1 - abar)) -> spread + (1 - abar) / abar
        your variance grows with each source: two variances are added. Of two sources one knows more, not less:
        which quantities add up?
    variances added, the mean right
        return mean, var -> return mean, spread + (1 - abar) / abar
        your mean is right, and your variance is the sum of both: it grows with each source. Precisions add up
    """,
)


# --- variance_cost ---


def variance_cost(true, used):
    """KL(N(0, true) || N(0, used)) per number, r = true / used; variances (N,)."""
    r = true / used
    return (r - 1 - r.log()) / 2


def integrated_cost(true, used):
    """The integral of q log(q / p)."""
    x = torch.linspace(-12, 12, 40001, dtype=torch.float64)[:, None]

    def log(v):
        return -x.square() / (2 * v) - v.log() / 2 - math.log(2 * math.pi) / 2

    return torch.trapezoid(log(true).exp() * (log(true) - log(used)), x, dim=0)


define(
    variance_cost,
    truth=integrated_cost,
    cases=lambda: [
        (numbers(0.5, 2.0, 1.3), numbers(1.5, 0.7, 1.1)),
        (numbers(1.0, 0.4, 1.7, 0.9), numbers(0.3, 1.9, 0.8, 2.5)),
    ],
    limits={"the right variance costs nothing": {"used": lambda a: a.true}},
    properties=(at_least(0, "a KL is 0 where the two agree, and more elsewhere"),),
    mistakes="""
    the other direction
        true / used -> used / true
        your cost is that of a true variance in place of the used one: data comes from q, so q stands above
    logarithm only
        (r - 1 - r.log()) / 2 -> -r.log() / 2
        yours is negative where the used variance is too small: the quadratic term, which punishes that, is
        missing
    standard deviations
        true / used -> (true / used).sqrt()
        you take the variances for standard deviations or their roots for variances: r is a ratio of variances
    """,
)


# --- collapsed_loss ---


def collapsed_loss(alpha_bar):
    """Mean over t = 1..T of the least squared error when all words have one embedding: 0 at t = 1, else Var(x_0|x_t).

    The network knows the word's vector, so what is left is the noise of x_0: 1 / (1 / sigma_0^2 + SNR).
    """
    T, spread = len(alpha_bar) - 1, 1 - alpha_bar[1]
    a = alpha_bar[2:]
    left = 1 / (1 / spread + a / (1 - a))
    return left.sum() / T  # at t = 1 the target is the vector itself


def by_regression(alpha_bar):
    """Squared error of the best straight line from x_t to x_0, where x_0 = sigma_0 z; Emb(w) = 0 at t = 1."""
    spread, errors = 1 - alpha_bar[1], [torch.zeros((), dtype=torch.float64)]
    for a in alpha_bar[2:]:
        slope = a.sqrt() * spread / (a * spread + 1 - a)  # covariance over variance
        missed = (1 - slope * a.sqrt()).square() * spread + slope.square() * (1 - a)
        errors.append(missed)
    return torch.stack(errors).mean()


def _falling_table(T):
    return torch.cat(
        [torch.ones(1), 0.98 - 0.97 * torch.linspace(1 / T, 1, T).sqrt()]
    ).double()


define(
    collapsed_loss,
    truth=by_regression,
    cases=lambda: [
        (numbers(1.0, 0.8, 0.4, 0.1),),
        (_falling_table(12),),
        (_falling_table(40),),
    ],
    limits={
        "where x_t is pure noise from t = 2 on nothing of x_0 can be known: T - 1 times sigma_0^2": {
            "alpha_bar": numbers(1.0, 0.8, 1e-9, 1e-9)
        },
        "with T = 1 there is only t = 1, and that error is 0": {
            "alpha_bar": numbers(1.0, 0.8)
        },
    },
    read=lambda got, a: torch.as_tensor(got),
    factors={"sigma_0^2": lambda a: 1 - a.alpha_bar[1]},
    properties=(at_least(0, "it is a squared error"),),
    mistakes="""
    no error at all
        return left.sum() / T -> return 0 * left.sum()
        the embeddings agree, but x_0 is noise around them, and the network must guess x_0, not the embedding
    sigma_0^2
        return left.sum() / T -> return spread
        that is the error of a network that never looks at x_t: x_t knows a little of the noise in x_0, more for
        small t
    t = 1 like the others
        alpha_bar[2:] -> alpha_bar[1:]
        at t = 1 the target is Emb(w), which this network knows exactly: that term is 0
    one term fewer
        left.sum() / T -> left.mean()
        t = 1 has no error, but it is drawn like the others: divide by T
    x_t alone
        1 / spread + a -> a
        your network reads x_0 from x_t alone and does not know that x_0 lies around one vector, with variance
        sigma_0^2
    """,
)


# --- e2e_loss ---


class Words(nn.Module):
    """A network to try a loss on: its embeddings, and an estimate that is none of the targets."""

    def __init__(self, K: int = 7, D: int = 3):
        super().__init__()
        self.table = nn.Parameter(torch.randn(K, D))
        self.gain = nn.Parameter(torch.tensor(0.8))

    def forward(self, x_t: Tensor, u: Tensor) -> Tensor:
        """A guess of x_0 that moves with x_t and u = t / T."""
        hear(x_t, u)
        return self.gain * x_t + 0.1 * u[:, None, None]

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, L, D)."""
        return self.table[tokens]

    def logits(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, K): high for near words."""
        return x @ self.table.T - self.table.square().sum(-1) / 2


def e2e_loss(model, tokens, x0, x_t, t, T):
    """Squared error per number + cross-entropy per word of the noised gold x_0; mean over words, (B,).  (eq. 2)

    The target is x_0, but Emb(w) at t = 1.
    """
    said = model(x_t, t / T)
    first = (t == 1)[:, None, None]
    target = torch.where(first, model.embed(tokens), x0)
    error = (target - said).square().mean((1, 2))
    logits = model.logits(x0)  # of the x_0 that was drawn
    nll = F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
    return error + nll.mean(1)


def word_by_word(model, tokens, x0, x_t, t, T):
    """Python loops."""
    said, out = model(x_t, t / T), []
    for b in range(len(t)):
        loss = 0.0
        for i, w in enumerate(tokens[b].tolist()):
            target = model.table[w] if t[b] == 1 else x0[b, i]
            p = model.logits(x0[b, i]).softmax(-1)[w]
            loss += (target - said[b, i]).square().mean() - p.log()
        out.append(loss / tokens.shape[1])
    return torch.stack(out)


def _e2e_cases():
    """t = 1 among the times and not, T among them and not."""
    for B, L, K, D, T, t in (
        (3, 4, 7, 2, 10, [1, 4, 7]),
        (4, 5, 6, 3, 9, [2, 9, 1, 5]),
    ):
        model, tokens = Words(K, D), torch.randint(K, (B, L))
        x0 = (model.embed(tokens) + 0.4 * torch.randn(B, L, D)).detach()
        yield model, tokens, x0, x0 + torch.randn(B, L, D), torch.tensor(t), T


define(
    e2e_loss,
    truth=word_by_word,
    cases=lambda: list(_e2e_cases()),
    limits={
        "where no t is 1 every target is x_0": {"t": torch.tensor([2, 4, 7])},
        "where every t is 1 every target is Emb(w)": {"t": torch.tensor([1, 1, 1])},
    },
    gradients=("model", "x0"),
    factors={"D": lambda a: a.x0.shape[-1], "L": lambda a: a.x0.shape[1]},
    tol=1e-3,
    mistakes="""
    x_0 at t = 1 too
        torch.where(first, model.embed(tokens), x0) -> x0
        at t = 1 the target is Emb(w), without noise: there the network's answer is the mean of p(x_0 | x_1)
    Emb(w) everywhere
        torch.where(first, model.embed(tokens), x0) -> model.embed(tokens)
        for t > 1 the target is x_0, with its noise: q(x_{t-1} | x_t, x_0) goes through x_0, not through Emb(w)
    one question for the batch
        (t == 1)[:, None, None] -> (t == 1).any()
        as soon as one example of the batch has t = 1 all of them get Emb(w) for their target: each example has a
        time of its own
    words of the prediction
        model.logits(x0) -> model.logits(said)
        your cross-entropy reads the network's estimate. Derived is -log p(w | x_0) of the x_0 that was drawn
    words of the embedding
        model.logits(x0) -> model.logits(model.embed(tokens))
        your cross-entropy reads Emb(w) without noise: then two words may come as close as they like
    no words
        error + nll.mean(1) -> error
        the rounding term is missing. Without it all embeddings may fall on one point, and the loss would like it
    sum over the numbers
        .mean((1, 2)) -> .sum(2).mean(1)
        the squared error is a mean over the D numbers of a word, not their sum
    t for u
        t / T -> t * 1.0
        the network is given t and expects u = t / T, between 0 and 1
    the embeddings not trained
        target - said -> target.detach() - said
        the values are right, but no gradient flows through the targets: at t = 1 they are the embeddings, and
        that gradient is what keeps words near what the network can say
    logits for log p
        nll = F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none") -> nll = -logits.gather(-1,
            tokens[..., None]).squeeze(-1)
        you take the logit of the word for its log probability: what is missing to make K logits a distribution?
    """,
)


# --- clamped_step ---


def clamped_step(x0_hat, x_t, abar_s, abar_t, table):
    """DDIM with eta = 0 from the nearest embedding, and with the noise that follows from it; x (N, D)."""
    x0 = table[rounding(x0_hat, table)]
    eps = (x_t - abar_t.sqrt() * x0) / (1 - abar_t).sqrt()
    return abar_s.sqrt() * x0 + (1 - abar_s).sqrt() * eps


def on_the_line(x0_hat, x_t, abar_s, abar_t, table):
    """x_t = r x_0 + sd eps is solved for eps with the rounded x_0, row by row."""
    out = []
    for guess, x in zip(x0_hat, x_t, strict=True):
        x0 = table[(table - guess).norm(dim=1).argmin()]
        r, sd = abar_t.sqrt(), (1 - abar_t).sqrt()
        eps = (x - r * x0) / sd
        out.append(abar_s.sqrt() * x0 + (1 - abar_s).sqrt() * eps)
    return torch.stack(out)


def _clamped_cases():
    for N, K, D, abar_s, abar_t in ((4, 5, 3, 0.7, 0.3), (30, 9, 2, 0.95, 0.5)):
        table = table_of(K, D)
        x0_hat = table[torch.randint(K, (N,))] + 0.3 * normal(N, D)
        yield x0_hat, normal(N, D), *numbers(abar_s, abar_t), table


define(
    clamped_step,
    truth=on_the_line,
    cases=lambda: list(_clamped_cases()),
    limits={
        "at s = 0, where abar_s is 1, x_s is the rounded estimate": {
            "abar_s": numbers(1.0)[0]
        },
        "where s is t nothing moves: x_s is x_t": {"abar_s": lambda a: a.abar_t},
    },
    linear_in=("x_t",),
    mistakes="""
    the old noise
        abar_t.sqrt() * x0) -> abar_t.sqrt() * x0_hat)
        your noise is still that of the estimate before rounding: x_t is then no mixture of your x_0 and your
        noise. Derive eps from the rounded x_0
    fresh noise
        eps = (x_t - abar_t.sqrt() * x0) / (1 - abar_t).sqrt() -> eps = torch.randn_like(x_t)
        two calls with the same x_t give different x_s: your noise is drawn anew. (The paper prints it like that;
        its code does not.) Which noise is in x_t?
    no noise
        eps = (x_t - abar_t.sqrt() * x0) / (1 - abar_t).sqrt() -> eps = 0 * x_t
        x_s holds no noise, though at s it should have variance 1 - abar_s
    x_s is rounded
        x0 = table[rounding(x0_hat, table)] -> x0 = x0_hat ; return abar_s.sqrt() * x0 + (1 - abar_s).sqrt() *
            eps -> return table[rounding(abar_s.sqrt() * x0 + (1 - abar_s).sqrt() * eps, table)]
        you round x_s. Embeddings are where x_0 lies; x_s has noise, and the next step needs it
    not rounded
        x0 = table[rounding(x0_hat, table)] -> x0 = x0_hat
        this is DDIM without clamping: x_0 must become the nearest embedding first
    rounded by the dot product
        rounding(x0_hat, table) -> (x0_hat @ table.T).argmax(-1)
        your clamping has another rule than decoding: the largest dot product is not the nearest embedding
    """,
)


# --- free ---


def free(told, untold, weight):
    """Classifier-free guidance: (1 + weight) told - weight untold."""
    return (1 + weight) * told - weight * untold


def by_scores(told, untold, weight, abar=0.4):
    """Through the scores (r x_0 - x) / (1 - abar) of p(x | c) and of p(x): that of p(x | c)^(1 + w) / p(x)^w."""
    x, r = torch.full_like(told, 0.3), math.sqrt(abar)
    s_told, s_untold = ((r * x0 - x) / (1 - abar) for x0 in (told, untold))
    score = (1 + weight) * s_told - weight * s_untold
    return ((1 - abar) * score + x) / r


define(
    free,
    truth=lambda told, untold, weight: by_scores(told, untold, weight),
    cases=lambda: [
        (normal(2, 3), normal(2, 3), 1.5),
        (normal(2, 4, 3), normal(2, 4, 3), 0.4),
    ],
    limits={
        "weight 0 is the estimate of the network that was told": {"weight": 0.0},
        "where told and untold agree the answer is what they agree on": {
            "untold": lambda a: a.told
        },
    },
    linear_in=("told", "untold"),
    mistakes="""
    a mean
        (1 + weight) * told - weight * untold -> weight * told + (1 - weight) * untold
        weight 1 gives the told estimate and 0 the untold one. That is another convention, or a mixture for w < 1:
        here weight 0 is 'told' and more goes beyond it
    not normalised
        (1 + weight) * told - weight * untold -> told + weight * untold
        where told and untold agree the answer must be what they agree on: weights must sum to 1
    toward the middle
        (1 + weight) * told - weight * untold -> told + weight * (untold - told)
        larger weights bring you to the untold estimate: the sign of the difference is the other one
    divided by the absolute weights
        (1 + weight) * told - weight * untold -> ((1 + weight) * told - weight * untold) / (1 + 2 * weight)
        you divide by 1 + 2 weight. The weights 1 + weight and -weight sum to 1 already: what comes out where both
        estimates agree?
    """,
)


# --- sharpen ---


def sharpen(both, alone, power):
    """Log p of words with the clue to a power; both, alone (N, K): log p with the clue and without it.  (4.11)"""
    clue = both - alone  # up to a constant
    return (power * clue + alone).log_softmax(-1)


def word_for_word(both, alone, power):
    """Probabilities, multiplied one by one and divided by their sum."""
    rows = []
    for p, q in zip(both.exp().tolist(), alone.exp().tolist(), strict=True):
        raised = [b * (a / b) ** power for a, b in zip(p, q, strict=True)]
        rows.append([math.log(v / sum(raised)) for v in raised])
    return torch.tensor(rows, dtype=both.dtype)


def _sums_to_one(got, a):
    """exp of each row is a distribution."""
    total = got.double().exp().sum(-1)
    if (total - 1).abs().max() < 1e-4:
        return None
    return f"the probabilities of one position add up to {total.flatten()[0]:.4g}: what makes them a distribution?"


define(
    sharpen,
    truth=word_for_word,
    cases=lambda: [
        (normal(2, 3).log_softmax(-1), normal(2, 3).log_softmax(-1), 1.5),
        (normal(5, 4).log_softmax(-1), normal(5, 4).log_softmax(-1), 0.6),
    ],
    limits={
        "at power 1 nothing changes": {"power": 1.0},
        "at power 0 the clue has no say, and x_t alone is left": {"power": 0.0},
        "where the clue says nothing its power does not matter": {
            "both": lambda a: a.alone
        },
    },
    ignores={
        "a constant in the logits is no evidence for any word": {
            "both": lambda a: a.both + 1
        }
    },
    properties=(_sums_to_one,),
    mistakes="""
    all of it to the power
        power * clue + alone -> power * both
        at power 0 yours is uniform: what x_t itself says is taken to the power, too. The process knows that part
        exactly, so which of the two sources is to be sharpened?
    the other source
        power * clue + alone -> clue + power * alone
        you sharpen what x_t itself says, which the process knows exactly, and leave the clue as it is
    a temperature
        power * clue -> clue / max(power, 1e-3)
        yours gets flatter as the power grows: a power above 1 is a temperature below 1
    the clue alone
        power * clue + alone -> power * clue
        where the clue says nothing yours is uniform: what x_t itself says is lost
    not normalised
        (power * clue + alone).log_softmax(-1) -> power * clue + alone
        right up to a constant: the probabilities of a position do not add up to 1
    """,
)


# --- mbr ---


def mbr(candidates, similarity):
    """Number of the candidate whose similarity(candidate, other), summed over all others, is highest; the first one."""
    scores = []
    for i, a in enumerate(candidates):
        others = (b for j, b in enumerate(candidates) if j != i)
        scores.append(sum(similarity(a, b) for b in others))
    return scores.index(max(scores))


def share(a, b):
    """Share of a's words that are in b."""
    return sum(w in b for w in a) / len(a)


POOLS = (  # candidates as strings of letters, one letter a word; each mistake chooses otherwise in some of them
    "abc abd xyz",
    "xyzuv abfg abcd abce",
    "abcd bcd ab a abc",
    "acd ab ab cda ab dcae",
    "efgh abcz efgh abcdef abcdxy",
    "ab xabc abcx xxab",
    "pq pr abcdef pqr",
)


def table_first(candidates, similarity):
    """All pairs as a table; the diagonal is left out."""
    rows = torch.tensor([[similarity(a, b) for b in candidates] for a in candidates])
    return int((rows.fill_diagonal_(0).sum(1) * 1e6).round().argmax())


define(
    mbr,
    truth=table_first,
    cases=lambda: [(pool.split(), share) for pool in POOLS],
    read=lambda got, a: got if isinstance(got, str | list) else int(got),
    mistakes="""
    read the other way
        similarity(a, b) -> similarity(b, a)
        similarity(a, b) is not symmetric: BLEU has a hypothesis and a reference, and the candidate is the first
    repetitions thrown away
        if j != i -> if b != a
        a candidate that was drawn twice has a vote for each: its likes are evidence that the model means it
    the best pair
        sum(similarity -> max(similarity
        one near twin is not enough: the mean over all other candidates counts, not the best of them
    a product
        sum(similarity(a, b) for b in others) -> math.prod(similarity(a, b) for b in others)
        the similarities are multiplied: one candidate that is like nothing at all makes every product 0. Expected
        similarity is a mean
    the most frequent
        sum(similarity(a, b) for b in others) -> candidates.count(a)
        you take what was drawn most often and never ask how alike two candidates are: sentences are rarely drawn
        twice
    the last of equals
        scores.index(max(scores)) -> len(scores) - 1 - scores[::-1].index(max(scores))
        right but for ties: of two that are as much like the others you take the later one
    the longest
        sum(similarity(a, b) for b in others) -> len(a)
        your choice does not depend on the similarities
    both ways
        similarity(a, b) -> similarity(a, b) + similarity(b, a)
        you add similarity(a, b) and similarity(b, a). The candidate is what is said, the others what may be right:
        only one of the two is asked
    """,
)
