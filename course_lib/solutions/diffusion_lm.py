"""Chapter 4, Diffusion-LM: the reference answers, their checks and the classic wrong answers.

alpha_bar is a table of T + 1 entries with alpha_bar[0] = 1; spread is sigma_0^2 = 1 - alpha_bar[1], the variance of
x_0 around its word's embedding. The checks measure distances, integrate over x_0 on a grid, or add up by hand.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import Mistakes, compare, hear
from ..exercise import define

SPREAD = 0.12

# --- rounding ---


def rounding(x, table):
    """argmax_w of x . e_w - |e_w|^2 / 2, which is the nearest embedding; x (N, D), table (K, D) -> (N,)."""
    return (x @ table.T - table.square().sum(-1) / 2).argmax(-1)


def by_distance(x, table):
    """Distances, one by one."""
    return (x[:, None] - table).square().sum(-1).argmin(-1)


ROUNDING: Mistakes = {
    "dot product": (
        lambda x, table: (x @ table.T).argmax(-1),
        "long embeddings attract words that are not theirs: x . e_w is only part of -|x - e_w|^2 / 2. "
        "What else is there that depends on w?",
    ),
    "cosine": (
        lambda x, table: (x @ F.normalize(table, dim=-1).T).argmax(-1),
        "this is the smallest angle, not the smallest distance: two words may lie in one direction",
    ),
    "without the half": (
        lambda x, table: (x @ table.T - table.square().sum(-1)).argmax(-1),
        "short embeddings win too often: expand |x - e|^2 and divide all of it by -2",
    ),
    "plus": (
        lambda x, table: (x @ table.T + table.square().sum(-1) / 2).argmax(-1),
        "long embeddings win more than they should: |e_w|^2 is part of a distance, so it must lower the score",
    ),
    "farthest": (
        lambda x, table: (x @ table.T - table.square().sum(-1) / 2).argmin(-1),
        "these are the farthest words: the score is high where the distance is low",
    ),
}


def check_rounding(fn):
    table = (
        torch.randn(20, 3, dtype=torch.float64)
        * torch.linspace(0.3, 3, 20, dtype=torch.float64)[:, None]
    )
    return compare(
        fn, by_distance, ROUNDING, torch.randn(400, 3, dtype=torch.float64), table
    )


define(rounding, check_rounding, ROUNDING)


# --- known_word ---


def known_word(e, x_t, abar, spread):
    """Mean and variance of q(x_0 | x_t, w): precisions add up, 1 / spread from the word, abar / (1 - abar) from x_t."""
    var = 1 / (1 / spread + abar / (1 - abar))
    return var * (e / spread + abar.sqrt() * x_t / (1 - abar)), var


def on_a_grid(e, x_t, abar, spread):
    """Bayes' rule at 20,001 values of x_0, for each number on its own."""
    grid = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    far, off = grid - e[:, None], x_t[:, None] - abar[:, None].sqrt() * grid
    p = (
        -far.square() / (2 * spread) - off.square() / (2 * (1 - abar[:, None]))
    ).softmax(-1)
    mean = p @ grid
    return mean, p @ grid.square() - mean.square()


def _pair(fn):
    """Both answers as rows of one tensor; a variance that is the same for all numbers may be a number."""

    def call(e, *rest):
        mean, var = fn(e, *rest)
        return torch.stack([mean, torch.as_tensor(var, dtype=e.dtype).expand_as(e)])

    return call


KNOWN_WORD: Mistakes = {
    "x_t alone": (
        lambda e, x, a, v: (x / a.sqrt(), (1 - a) / a),
        "your estimate does not use the word: its embedding is a prior for x_0, of variance sigma_0^2",
    ),
    "the word alone": (
        lambda e, x, a, v: (e, torch.full_like(e, v)),
        "your estimate does not use x_t: x_0 is the embedding plus noise, and x_t has seen that noise",
    ),
    "the variance's root": (
        lambda e, x, a, v: known_word(e, x, a, math.sqrt(v)),
        "sigma_0 stands where sigma_0^2 must: variances are added and divided, not standard deviations",
    ),
    "alpha_bar without its root": (
        lambda e, x, a, v: (
            known_word(e, x * a.sqrt(), a, v)[0],
            known_word(e, x, a, v)[1],
        ),
        "the variance is right; in the mean x_t is multiplied by sqrt(alpha_bar) / (1 - alpha_bar)",
    ),
    "standard deviation": (
        lambda e, x, a, v: (
            known_word(e, x, a, v)[0],
            known_word(e, x, a, v)[1].sqrt(),
        ),
        "the mean is right; what stands for the variance is its root",
    ),
    "precision": (
        lambda e, x, a, v: (known_word(e, x, a, v)[0], 1 / known_word(e, x, a, v)[1]),
        "the mean is right; what stands for the variance is its inverse, the precision",
    ),
}


def check_known_word(fn):
    e = torch.tensor([0.8, -1.1, 2.0, 0.0], dtype=torch.float64)
    abar = torch.tensor([0.95, 0.5, 0.1, 0.7], dtype=torch.float64)
    mistakes = {
        label: (_pair(wrong), hint) for label, (wrong, hint) in KNOWN_WORD.items()
    }
    x_t = torch.tensor([1.2, 0.3, -0.9, -0.4], dtype=torch.float64)
    return compare(_pair(fn), _pair(on_a_grid), mistakes, e, x_t, abar, SPREAD)


define(known_word, check_known_word, KNOWN_WORD)


# --- variance_cost ---


def variance_cost(true, used):
    """KL(N(m, true) || N(m, used)) = (r - 1 - log r) / 2 nats per number, r = true / used; variances (N,)."""
    r = true / used
    return (r - 1 - r.log()) / 2


def integrated_cost(true, used):
    """The integral of q log(q / p)."""
    x = torch.linspace(-12, 12, 40001, dtype=torch.float64)[:, None]

    def log(v):
        return -x.square() / (2 * v) - v.log() / 2 - math.log(2 * math.pi) / 2

    return torch.trapezoid(log(true).exp() * (log(true) - log(used)), x, dim=0)


VARIANCE_COST: Mistakes = {
    "the other direction": (
        lambda true, used: variance_cost(used, true),
        "your cost is that of a true variance in place of the used one: data comes from q, so q stands above",
    ),
    "logarithm only": (
        lambda true, used: (used / true).log() / 2,
        "yours is negative where the used variance is too small: the quadratic term, which punishes that, is missing",
    ),
    "without the half": (
        lambda true, used: 2 * variance_cost(true, used),
        "twice too much: variances come with log v / 2, standard deviations with log sd",
    ),
    "standard deviations": (
        lambda true, used: variance_cost(true.sqrt(), used.sqrt()),
        "you take the variances for standard deviations or their roots for variances: r is a ratio of variances",
    ),
    "without the one": (
        lambda true, used: variance_cost(true, used) + 0.5,
        "the right variance costs you half a nat: a KL of a law with itself is 0",
    ),
}


def check_variance_cost(fn):
    true = torch.tensor([1.0, 0.5, 2.0, 1.3], dtype=torch.float64)
    return compare(
        fn,
        integrated_cost,
        VARIANCE_COST,
        true,
        torch.tensor([1.0, 1.5, 0.7, 1.1]).double(),
    )


define(variance_cost, check_variance_cost, VARIANCE_COST)


# --- collapsed_loss ---


def collapsed_loss(alpha_bar):
    """Mean over t = 1..T of the least squared error when all words have one embedding: 0 at t = 1, else Var(x_0|x_t).

    The network knows the word's vector, so what is left is the noise of x_0: 1 / (1 / sigma_0^2 + SNR).
    """
    spread, a = 1 - alpha_bar[1], alpha_bar[2:]
    return (1 / (1 / spread + a / (1 - a))).sum() / (len(alpha_bar) - 1)


def by_regression(alpha_bar):
    """Squared error of the best straight line from x_t to x_0, where x_0 = sigma_0 z; Emb(w) = 0 at t = 1."""
    spread, errors = 1 - alpha_bar[1], [torch.zeros((), dtype=torch.float64)]
    for a in alpha_bar[2:]:
        slope = a.sqrt() * spread / (a * spread + 1 - a)  # covariance over variance
        errors.append(
            (1 - slope * a.sqrt()).square() * spread + slope.square() * (1 - a)
        )
    return torch.stack(errors).mean()


COLLAPSED_LOSS: Mistakes = {
    "no error at all": (
        lambda a: torch.zeros((), dtype=torch.float64),
        "the embeddings agree, but x_0 is noise around them, and the network must guess x_0, not the embedding",
    ),
    "sigma_0^2": (
        lambda a: 1 - a[1],
        "that is the error of a network that never looks at x_t: x_t knows a little of the noise in x_0, more "
        "for small t",
    ),
    "t = 1 like the others": (
        lambda a: (1 / (1 / (1 - a[1]) + a[1:] / (1 - a[1:]))).mean(),
        "at t = 1 the target is Emb(w), which this network knows exactly: that term is 0",
    ),
    "one term fewer": (
        lambda a: collapsed_loss(a) * (len(a) - 1) / (len(a) - 2),
        "t = 1 has no error, but it is drawn like the others: divide by T",
    ),
    "x_t alone": (
        lambda a: (1 / (a[2:] / (1 - a[2:]))).sum() / (len(a) - 1),
        "your network reads x_0 from x_t alone and does not know that x_0 lies around one vector, with variance "
        "sigma_0^2",
    ),
}


def check_collapsed_loss(fn):
    for T in (12, 40):
        u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
        alpha_bar = 0.98 - 0.97 * u.sqrt()
        alpha_bar[0] = 1.0
        if hint := compare(
            lambda a: torch.as_tensor(fn(a)), by_regression, COLLAPSED_LOSS, alpha_bar
        ):
            return hint
    return None


define(collapsed_loss, check_collapsed_loss, COLLAPSED_LOSS)


# --- e2e_loss ---


class Words:
    """A network to try a loss on: fixed embeddings, an estimate that is none of the targets."""

    def __init__(self, K: int = 7, D: int = 3):
        self.table = torch.randn(K, D)

    def __call__(self, x_t: Tensor, u: Tensor) -> Tensor:
        hear(x_t, u)
        return 0.8 * x_t + 0.1 * u[:, None, None]

    def embed(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]

    def logits(self, x: Tensor) -> Tensor:
        return x @ self.table.T - self.table.square().sum(-1) / 2


def e2e_loss(model, tokens, x0, x_t, t, T):
    """Squared error per number + cross-entropy per word of the noised gold x_0; mean over words, (B,).  (eq. 2)

    The target is x_0, but Emb(w) at t = 1.
    """
    first = (t == 1)[:, None, None]
    target = torch.where(first, model.embed(tokens), x0)
    error = (target - model(x_t, t / T)).square().mean((1, 2))
    nll = F.cross_entropy(model.logits(x0).transpose(1, 2), tokens, reduction="none")
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


def _variant(target=None, words=None, error=1.0, nll=1.0):
    def loss(model, tokens, x0, x_t, t, T):
        said, clean = model(x_t, t / T), model.embed(tokens)
        aim = (
            torch.where((t == 1)[:, None, None], clean, x0)
            if target is None
            else target(x0, clean)
        )
        read = x0 if words is None else words(said, clean)
        ce = F.cross_entropy(
            model.logits(read).transpose(1, 2), tokens, reduction="none"
        ).mean(1)
        return error * (aim - said).square().mean((1, 2)) + nll * ce

    return loss


E2E_LOSS: Mistakes = {
    "x_0 at t = 1 too": (
        _variant(target=lambda x0, clean: x0),
        "at t = 1 the target is Emb(w), without noise: there the network's answer is the mean of p(x_0 | x_1)",
    ),
    "Emb(w) everywhere": (
        _variant(target=lambda x0, clean: clean),
        "for t > 1 the target is x_0, with its noise: q(x_{t-1} | x_t, x_0) goes through x_0, not through Emb(w)",
    ),
    "words of the prediction": (
        _variant(words=lambda said, clean: said),
        "your cross-entropy reads the network's estimate. Derived is -log p(w | x_0) of the x_0 that was drawn",
    ),
    "words of the embedding": (
        _variant(words=lambda said, clean: clean),
        "your cross-entropy reads Emb(w) without noise: then two words may come as close as they like",
    ),
    "no words": (
        _variant(nll=0.0),
        "the rounding term is missing. Without it all embeddings may fall on one point, and the loss would like it",
    ),
    "sum over the numbers": (
        _variant(error=3.0),
        "the squared error is a mean over the D numbers of a word, not their sum",
    ),
}


def check_e2e_loss(fn):
    model, t = Words(), torch.tensor([1, 4, 10, 1])
    tokens = torch.randint(7, (4, 5))
    x0 = model.embed(tokens) + 0.4 * torch.randn(4, 5, 3)
    return compare(
        fn, word_by_word, E2E_LOSS, model, tokens, x0, x0 + torch.randn(4, 5, 3), t, 10
    )


define(e2e_loss, check_e2e_loss, E2E_LOSS)


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
        both = torch.stack([abar_t.sqrt(), (1 - abar_t).sqrt()])
        eps = (x - both[0] * x0) / both[1]
        out.append(
            torch.stack([abar_s.sqrt(), (1 - abar_s).sqrt()]) @ torch.stack([x0, eps])
        )
    return torch.stack(out)


def _ddim(x0, x0_of_eps, x_t, abar_s, abar_t):
    eps = (x_t - abar_t.sqrt() * x0_of_eps) / (1 - abar_t).sqrt()
    return abar_s.sqrt() * x0 + (1 - abar_s).sqrt() * eps


CLAMPED_STEP: Mistakes = {
    "the old noise": (
        lambda x0, x, s, t, e: _ddim(e[rounding(x0, e)], x0, x, s, t),
        "your noise is still that of the estimate before rounding: x_t is then no mixture of your x_0 and your noise. "
        "Derive eps from the rounded x_0",
    ),
    "x_s is rounded": (
        lambda x0, x, s, t, e: e[rounding(_ddim(x0, x0, x, s, t), e)],
        "you round x_s. Embeddings are where x_0 lies; x_s has noise, and the next step needs it",
    ),
    "not rounded": (
        lambda x0, x, s, t, e: _ddim(x0, x0, x, s, t),
        "this is DDIM without clamping: x_0 must become the nearest embedding first",
    ),
    "rounded by the dot product": (
        lambda x0, x, s, t, e: _ddim(
            e[(x0 @ e.T).argmax(-1)], e[(x0 @ e.T).argmax(-1)], x, s, t
        ),
        "your clamping has another rule than decoding: the largest dot product is not the nearest embedding",
    ),
    "the noise levels swapped": (
        lambda x0, x, s, t, e: clamped_step(x0, x, t, s, e),
        "s and t have changed places: eps is read at t, and x is written at s",
    ),
}


def check_clamped_step(fn):
    table = (
        torch.randn(9, 2, dtype=torch.float64)
        * torch.linspace(0.5, 2, 9, dtype=torch.float64)[:, None]
    )
    abar_s, abar_t = torch.tensor([0.7, 0.3], dtype=torch.float64)
    x0_hat = table[torch.randint(9, (60,))] + 0.3 * torch.randn(
        60, 2, dtype=torch.float64
    )
    x_t = torch.randn(60, 2, dtype=torch.float64)
    return compare(fn, on_the_line, CLAMPED_STEP, x0_hat, x_t, abar_s, abar_t, table)


define(clamped_step, check_clamped_step, CLAMPED_STEP)


# --- free ---


def free(told, untold, weight):
    """Classifier-free guidance: (1 + weight) told - weight untold."""
    return untold + (1 + weight) * (told - untold)


def by_scores(told, untold, weight, abar=0.4):
    """Through the scores (r x_0 - x) / (1 - abar) of p(x | c) and of p(x): that of p(x | c)^(1 + w) / p(x)^w."""
    x, r = torch.full_like(told, 0.3), math.sqrt(abar)
    s_told, s_untold = ((r * x0 - x) / (1 - abar) for x0 in (told, untold))
    score = (1 + weight) * s_told - weight * s_untold
    return ((1 - abar) * score + x) / r


FREE: Mistakes = {
    "a mean": (
        lambda told, untold, w: w * told + (1 - w) * untold,
        "weight 1 gives the told estimate and 0 the untold one. That is another convention, or a mixture for w < 1: "
        "here weight 0 is 'told' and more goes beyond it",
    ),
    "the wrong way": (
        lambda told, untold, w: (1 + w) * untold - w * told,
        "you move away from the label: told and untold have changed places",
    ),
    "not normalised": (
        lambda told, untold, w: told + w * untold,
        "where told and untold agree the answer must be what they agree on: weights must sum to 1",
    ),
    "told minus": (
        lambda told, untold, w: told - w * untold,
        "where told and untold agree the answer shrinks: (1 + w), not 1, stands before told",
    ),
    "toward the middle": (
        lambda told, untold, w: told + w * (untold - told),
        "larger weights bring you to the untold estimate: the sign of the difference is the other one",
    ),
}


def check_free(fn):
    told, untold = torch.randn(2, 3, 4, dtype=torch.float64)
    for weight in (1.5, 0.0):
        if hint := compare(fn, by_scores, FREE, told, untold, weight):
            return hint
    return None


define(free, check_free, FREE)


# --- mbr ---


def mbr(candidates, similarity):
    """Number of the candidate whose similarity(candidate, other), summed over all others, is highest; the first one."""
    others = [
        sum(similarity(a, b) for j, b in enumerate(candidates) if j != i)
        for i, a in enumerate(candidates)
    ]
    return others.index(max(others))


def _best(score):
    """The mistake of summing something else."""

    def choose(candidates, similarity):
        scores = [score(i, candidates, similarity) for i in range(len(candidates))]
        return scores.index(max(scores))

    return choose


def _total(pair):
    def score(i, c, similarity):
        return sum(pair(c[i], c[j], similarity) for j in range(len(c)) if j != i)

    return _best(score)


MBR: Mistakes = {
    "the odd one": (
        _total(lambda a, b, f: -f(a, b)),
        "you take the candidate least like the others: risk is a loss, similarity its negative",
    ),
    "read the other way": (
        _total(lambda a, b, f: f(b, a)),
        "similarity(a, b) is not symmetric: BLEU has a hypothesis and a reference, and the candidate is the first",
    ),
    "repetitions thrown away": (
        _total(lambda a, b, f: f(a, b) if a != b else 0),
        "a candidate that was drawn twice has a vote for each: its likes are evidence that the model means it",
    ),
    "the best pair": (
        _best(lambda i, c, f: max(f(c[i], c[j]) for j in range(len(c)) if j != i)),
        "one near twin is not enough: the mean over all other candidates counts, not the best of them",
    ),
    "the longest": (
        _best(lambda i, c, f: len(c[i])),
        "your choice does not depend on the similarities",
    ),
}


def share(a, b):
    """Share of a's words that are in b."""
    return sum(w in b for w in a) / len(a)


POOLS = (  # candidates as strings of letters, one letter a word; each mistake chooses otherwise in one of them
    ("xyzuv", "abfg", "abcd", "abce"),
    ("abcd", "bcd", "ab", "a", "abc"),
    ("acd", "ab", "ab", "cda", "ab", "dcae"),
    ("efgh", "abcz", "efgh", "abcdef", "abcdxy"),
)


def check_mbr(fn):
    for pool in POOLS:
        got, want = fn(list(pool), share), mbr(list(pool), share)
        if got != want:
            answers = {hint: wrong(list(pool), share) for wrong, hint in MBR.values()}
            everywhere = [hint for wrong, hint in MBR.values() if _same(fn, wrong)]
            near = everywhere or [
                hint for hint, answer in answers.items() if answer == got
            ]
            return (
                near[0]
                if near
                else f"of {pool} you choose number {got}, and {want} is most like the others"
            )
    return None


def _same(fn, wrong):
    return all(fn(list(pool), share) == wrong(list(pool), share) for pool in POOLS)


define(mbr, check_mbr, MBR)
