"""How good is it? Bounds with standard errors; pictures and text judged by what knows real ones."""

import math
from collections import Counter
from collections.abc import Callable, Sequence, Sized
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from .files import needs
from .process import Process
from .shapes import Network, PerExample, check_count


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    se: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.se:.3f}"

    def bits_per_dim(self, dims: int) -> "Estimate":
        """From nats per example to bits per dimension."""
        return Estimate(*(v / (dims * math.log(2)) for v in self))


@torch.no_grad()
def bound(
    process: Process, model: Network, data: Tensor | Sized, repeats: int = 1, batch: int = 256
) -> Estimate:
    """Mean of process.bound over the data, nats per example, `repeats` random times each, with its standard error.

    An unbiased estimate of the bound. The error is over examples, so it covers the draw of data, times and noise.
    """
    check_count("repeats", repeats)
    check_count("batch", batch)
    if len(data) < 2:
        raise ValueError(f"data must hold at least 2 examples, not {len(data)}")
    values = torch.zeros(len(data), dtype=torch.float64)
    for _ in range(repeats):
        pieces = (data[i : i + batch] for i in range(0, len(data), batch))
        parts = [process.bound(model, x, process.sample_t(len(x))) for x in pieces]
        values += torch.cat(parts).double().cpu() / repeats
    return Estimate(values.mean().item(), values.std().item() / math.sqrt(len(data)))


@torch.no_grad()
def bound_by_time(process: Process, model: Network, x0: Tensor) -> Float[Tensor, " T"]:
    """Mean of process.bound over the data at each t = 1..T (discrete time): what the bound is made of."""
    times = range(1, process.T + 1)
    ones = torch.ones(len(x0), dtype=torch.long, device=x0.device)
    return torch.stack([process.bound(model, x0, t * ones).mean() for t in times])


# Pictures


class Judge:
    """Fitted once on real images and labels: how sure is a classifier, and where do images lie in feature space?

    The classifier is ten nearest neighbours in pixel space: it is surer than 0.9 when all ten real digits around an
    image agree, which they seldom do far from the data. Features are the leading principal components.
    """

    def __init__(
        self, x: Float[Tensor, "N *event"], y: Int[Tensor, " N"], neighbours: int = 10, components: int = 30
    ):
        knn = needs("sklearn.neighbors", "scikit-learn").KNeighborsClassifier(neighbours)
        pca = needs("sklearn.decomposition", "scikit-learn").PCA(components, random_state=0)
        pixels = x.flatten(1).cpu().numpy()
        self.classifier, self.pca = knn.fit(pixels, y.cpu().numpy()), pca.fit(pixels)

    def features(self, x: Float[Tensor, "N *event"]) -> Float[Tensor, "N components"]:
        """Principal components, float64."""
        return torch.from_numpy(self.pca.transform(x.flatten(1).cpu().numpy())).double()

    def label(self, x: Float[Tensor, "N *event"]) -> Int[Tensor, " N"]:
        """The classifier's favourite class."""
        return torch.from_numpy(self.classifier.predict(x.flatten(1).cpu().numpy()))

    def confidence(self, x: Float[Tensor, "N *event"]) -> Float[Tensor, " N"]:
        """The classifier's probability for its favourite class."""
        return torch.from_numpy(self.classifier.predict_proba(x.flatten(1).cpu().numpy())).max(1).values

    def accepted(self, x: Float[Tensor, "N *event"], above: float = 0.9) -> float:
        """Share of images whose class the classifier is surer of than `above`."""
        return (self.confidence(x) > above).double().mean().item()


def frechet(a: Float[Tensor, "N d"], b: Float[Tensor, "M d"]) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)): squared Frechet distance between Gaussians fitted to a and b.

    Biased upwards for few samples: compare only with real against real at the same N and M.  Heusel et al. 2017.
    """
    a, b = a.cpu().double(), b.cpu().double()
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a and b must hold at least 2 samples each, not {len(a)} and {len(b)}")
    S_a, S_b = a.T.cov().reshape(2 * a.shape[1:]), b.T.cov().reshape(2 * b.shape[1:])
    values, vectors = torch.linalg.eigh(S_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ S_b @ root).clamp(min=0).sqrt().sum()  # = tr (S_a S_b)^(1/2)
    return ((a.mean(0) - b.mean(0)).square().sum() + S_a.trace() + S_b.trace() - 2 * cross).item()


def wasserstein(x: PerExample, cdf: Callable[[Tensor], Tensor], points: int = 4001) -> float:
    """W1 distance between the sample x (N,) and the 1-D law with this distribution function: integral of |F_N - F|.

    By the trapezoid rule, from and to where the law has no mass left outside, be the sample ever so narrow.
    """
    x = x.cpu().double().sort().values
    low, high = x[:1], x[-1:]
    step = (high - low).clamp(min=1e-3)
    while cdf(low - step) > 1e-9 or cdf(high + step) < 1 - 1e-9:
        step = 2 * step
    grid = torch.linspace((low - step).item(), (high + step).item(), points, dtype=torch.float64)
    empirical = torch.searchsorted(x, grid, right=True) / len(x)
    return torch.trapezoid((empirical - cdf(grid)).abs(), grid).item()


# Text


class NGram:
    """Interpolated Kneser-Ney model of a row of tokens: what the last order - 1 tokens say about the next.

    p_k(w | h) = max(c(h w) - D, 0) / c(h) + D N(h .) / c(h) p_{k-1}(w | h without its first token), and p_0 = 1 / K.
    c is the number of occurrences at the top order and of left neighbours below it, N(h .) that of followers, and
    D = n_1 / (n_1 + 2 n_2) from the numbers of k-grams seen once and twice.  Kneser & Ney 1995; Chen & Goodman 1999.
    """

    def __init__(self, row: Int[Tensor, " N"], K: int, order: int = 5):
        check_count("K", K, least=2)
        check_count("order", order)
        if K**order >= 2**62:
            raise ValueError(f"order must be such that K^order fits in 62 bits, not {order} with K = {K}")
        if len(row) < order or row.min() < 0 or row.max() >= K:
            raise ValueError(f"row must hold at least {order} tokens in 0..{K - 1}")
        self.K, self.order, self.levels = K, order, {}
        grams, count = self._codes(row.cpu(), order).unique(return_counts=True)
        for k in range(order, 0, -1):
            ones, twos = ((count == c).sum().item() for c in (1, 2))
            D = ones / (ones + 2 * twos) if ones else 0.0
            heads, place, followers = (grams // K).unique(return_inverse=True, return_counts=True)
            total = torch.zeros(len(heads), dtype=torch.long).index_add_(0, place, count)
            self.levels[k] = (grams, count, heads, total, followers, D)
            if k > 1:
                grams, count = (grams % K ** (k - 1)).unique(return_counts=True)

    def _codes(self, x: Int[Tensor, "*B L"], k: int) -> Int[Tensor, "*B M"]:
        """Each piece of k tokens as one number in base K."""
        pieces = x.shape[-1] - k + 1
        codes = x[..., :pieces]
        for i in range(1, k):
            codes = codes * self.K + x[..., i : i + pieces]
        return codes

    def log_prob(self, x: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """log p of each token given those before it in its row, nats, float64."""
        x = x.cpu()
        p = torch.full(x.shape, 1 / self.K, dtype=torch.float64)
        for k in range(1, self.order + 1):
            if k > x.shape[1]:
                break
            codes = self._codes(x, k)
            grams, count, heads, total, followers, D = self.levels[k]
            c, n = look(codes, grams, count), look(codes // self.K, heads, total)
            types = look(codes // self.K, heads, followers)
            here = p[:, k - 1 :]
            better = ((c - D).clamp(min=0) + D * types * here) / n.clamp(min=1)
            p[:, k - 1 :] = torch.where(n > 0, better, here)
        return p.log()

    def bits(self, x: Int[Tensor, "B L"], skip: int = 0) -> float:
        """Mean bits per token, without the first `skip` of each row."""
        return -self.log_prob(x)[:, skip:].mean().item() / math.log(2)


def look(codes: Int[Tensor, "*shape"], keys: Int[Tensor, " n"], values: Shaped[Tensor, " n"]) -> Tensor:
    """values at the sorted keys, 0 for a code that is no key; float64."""
    place = torch.searchsorted(keys, codes).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == codes, values[place], 0).double()


def entropy_of_tokens(x: Int[Tensor, "*shape"]) -> float:
    """Entropy of the tokens' frequencies in bits. Far below that of real text, samples repeat themselves."""
    p = x.flatten().bincount().double() / x.numel()
    return torch.special.entr(p).sum().item() / math.log(2)


# Sentences


class SentenceJudge:
    """A Kneser-Ney model of whole sentences: (B, L) tokens in 0..K-1, filled up at the end with negative numbers."""

    def __init__(self, sentences: Int[Tensor, "N L"], K: int, order: int = 4):
        self.end, self.order = K, order
        rows = self._framed(sentences)
        self.model = NGram(rows[self._words(sentences, order)], K + 1, order)

    def _framed(self, x: Int[Tensor, "B L"]) -> Int[Tensor, "B M"]:
        """Each sentence between ends."""
        ends = torch.full((len(x), self.order), self.end)
        return torch.cat([ends[:, 1:], torch.where(x >= 0, x, self.end).cpu(), ends[:, :1]], 1)

    def _words(self, x: Int[Tensor, "B L"], before: int) -> Tensor:
        """True at the words and the end after each sentence, and at the `before - 1` ends before it."""
        length, place = (x >= 0).sum(1, keepdim=True).cpu(), torch.arange(x.shape[1] + self.order)
        return (place >= self.order - before) & (place <= self.order - 1 + length)

    def nats(self, x: Int[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """-log p(sentence), its end included."""
        return torch.where(self._words(x, 1), -self.model.log_prob(self._framed(x)), 0).sum(1)

    def perplexity(self, x: Int[Tensor, "B L"]) -> float:
        """exp of the nats per word, each end counted as a word."""
        return math.exp(self.nats(x).sum() / ((x >= 0).sum() + len(x)))


def distinct(sentences: Sequence[Sequence[str]], n: int) -> float:
    """Share of all n-grams that differ from each other; nan if there is none.  Li et al. 2016."""
    grams = [tuple(s[i : i + n]) for s in sentences for i in range(len(s) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def copied(sentences: Sequence[Sequence[str]], seen: Sequence[Sequence[str]]) -> float:
    """Longest run of words that stands in a seen sentence, too, as a share of the sentence; mean over sentences.

    1 is a text copied whole; what new text scores, held-out text says. ValueError for a sentence without words.
    """
    if not len(sentences) or not all(map(len, sentences)):
        raise ValueError("sentences must be at least one, each with a word")
    book = "\n".join(f" {' '.join(s)} " for s in seen)
    shares = []
    for s in sentences:
        run = 0
        for i in range(len(s)):
            while i + run < len(s) and f" {' '.join(s[i : i + run + 1])} " in book:
                run += 1
        shares.append(run / len(s))
    return sum(shares) / len(shares)


def bleu_table(sentences: Sequence[Sequence[str]]) -> Float[Tensor, "N N"]:
    """Sentence BLEU of each sentence (row) against each other one, 0 to 100, as sacrebleu's sentence_bleu has it.

    The overlaps of a pair are the same in both directions, so each pair is counted once.
    """
    score = needs("sacrebleu.metrics", "sacrebleu").BLEU(effective_order=True).compute_bleu
    grams = [[Counter(zip(*(s[i:] for i in range(n)), strict=False)) for n in range(1, 5)] for s in sentences]
    table = torch.zeros(len(sentences), len(sentences), dtype=torch.float64)
    for i, j in combinations_with_replacement(range(len(sentences)), 2):
        same = [
            sum(min(a[g], b[g]) for g in a.keys() & b.keys()) for a, b in zip(grams[i], grams[j], strict=True)
        ]
        for a, b in {(i, j), (j, i)}:
            n, m = len(sentences[a]), len(sentences[b])
            total = [max(n - k, 0) for k in range(4)]
            table[a, b] = score(same, total, n, m, smooth_method="exp", effective_order=True).score
    return table


def self_bleu(sentences: Sequence[Sequence[str]]) -> float:
    """Mean BLEU of each sentence against each other one, 0 to 100: high where they repeat each other."""
    if len(sentences) < 2:
        raise ValueError(f"sentences must be at least 2, not {len(sentences)}")
    table, n = bleu_table(sentences), len(sentences)
    return ((table.sum() - table.trace()) / (n * (n - 1))).item()


def mbr(candidates: Sequence[Sequence[str]]) -> tuple[int, Float[Tensor, " N"]]:
    """Minimum Bayes risk: the candidate most like the others, and each one's mean BLEU against the others.

    Of equally good ones it is the first.  (Kumar & Byrne 2004; Diffusion-LM, section 5.2)
    """
    if not len(candidates):
        raise ValueError("candidates must be at least 1, not 0")
    table = bleu_table(candidates)
    mean = (table.sum(1) - table.diagonal()) / max(1, len(candidates) - 1)
    return int(mean.argmax()), mean
