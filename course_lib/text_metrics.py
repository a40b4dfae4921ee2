"""Measures of what was written: variety, what was copied, and BLEU between sentences."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations_with_replacement

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .files import needs
from .shapes import check_count, describe

Sentence = Sequence[str]  # its words


def entropy_of_tokens(x: Int[Tensor, "*shape"]) -> float:
    """Entropy of the tokens' frequencies in bits. Far below that of real text, samples repeat themselves."""
    whole = isinstance(x, Tensor) and is_whole(x)
    if not whole or not x.numel() or x.min() < 0:
        raise ValueError(
            f"x must hold at least one integer token, and no PAD, not {describe(x)}"
        )
    _, count = x.unique(return_counts=True)
    p = count.double() / x.numel()
    return torch.special.entr(p).sum().item() / math.log(2)


def is_whole(x: Tensor) -> bool:
    """Whether it holds integers."""
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


def distinct(sentences: Sequence[Sentence], n: int) -> float:
    """Share of all n-grams that differ from each other; nan if there is none.  Li et al. 2016."""
    check_count("n", n)
    check_sentences("sentences", sentences)
    grams = [gram for sentence in sentences for gram in ngrams(sentence, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def ngrams(sentence: Sentence, n: int) -> list[tuple[str, ...]]:
    """All runs of n words."""
    check_count("n", n)
    return [tuple(sentence[i : i + n]) for i in range(len(sentence) - n + 1)]


def ngram_divergence(a: Int[Tensor, "N L"], b: Int[Tensor, "M L2"], n: int) -> float:
    """Jensen-Shannon divergence of the n-gram frequencies of two sets of rows, in bits: 0 equal, 1 disjoint.

    H((P + Q) / 2) - (H(P) + H(Q)) / 2 over runs of n tokens that are no PAD (-1). Few rows of one source differ, too:
    two sets of real text of the same size say how much that is.
    """
    check_count("n", n)
    counts = [ngram_counts("a", a, n), ngram_counts("b", b, n)]
    P, Q = ({g: c / x.total() for g, c in x.items()} for x in counts)
    both = [(P.get(g, 0.0), Q.get(g, 0.0)) for g in {*P, *Q}]
    p, q = torch.tensor(both, dtype=torch.float64).T
    H = [torch.special.entr(v).sum() for v in ((p + q) / 2, p, q)]
    return ((H[0] - (H[1] + H[2]) / 2) / math.log(2)).item()


def ngram_counts(name: str, x: Int[Tensor, "N L"], n: int) -> Counter:
    """How often each run of n tokens occurs; ValueError where there is none."""
    check_count("n", n)
    if not isinstance(x, Tensor) or x.ndim != 2 or not is_whole(x):
        raise TypeError(
            f"{name} must be rows of tokens, an integer tensor (N, L), not {describe(x)}"
        )
    rows = [[token for token in row if token >= 0] for row in x.tolist()]
    found = Counter(tuple(r[i : i + n]) for r in rows for i in range(len(r) - n + 1))
    if not found:
        raise ValueError(f"{name} must hold rows of at least n = {n} tokens")
    return found


def copied(sentences: Sequence[Sentence], seen: Sequence[Sentence]) -> float:
    """Longest run of words that stands in a seen sentence, too, as a share of the sentence; mean over sentences.

    1 is a text copied whole; what new text scores, held-out text says. ValueError for a sentence without words.
    """
    check_sentences("sentences", sentences)
    check_sentences("seen", seen)
    if not len(sentences) or not all(map(len, sentences)):
        raise ValueError("sentences must be at least one, each with a word")
    # Runs are looked for in one long string, where a space inside of a word would be one between words.
    if any(any(map(str.isspace, w)) for s in (*sentences, *seen) for w in s):
        raise ValueError("words must hold no white space")
    # A run never goes from one sentence into the next.
    book = "\n".join(f" {' '.join(s)} " for s in seen)
    shares = [longest_run(s, book) / len(s) for s in sentences]
    return sum(shares) / len(shares)


def longest_run(sentence: Sentence, book: str) -> int:
    """Most words of the sentence, one after the other, that stand so in the book."""
    run = 0
    for i in range(len(sentence)):
        while (
            i + run < len(sentence)
            and f" {' '.join(sentence[i : i + run + 1])} " in book
        ):
            run += 1
    return run


def bleu_table(sentences: Sequence[Sentence]) -> Float[Tensor, "N N"]:
    """Sentence BLEU of each sentence (row) against each other one, 0 to 100, as sacrebleu's sentence_bleu has it.

    The overlaps of a pair are the same in both directions, so each pair is counted once.
    """
    check_sentences("sentences", sentences)
    score = (
        needs("sacrebleu.metrics", "sacrebleu").BLEU(effective_order=True).compute_bleu
    )
    counts = [[Counter(ngrams(s, n)) for n in range(1, 5)] for s in sentences]
    table = torch.zeros(len(sentences), len(sentences), dtype=torch.float64)
    for i, j in combinations_with_replacement(range(len(sentences)), 2):
        overlaps = [(a & b).total() for a, b in zip(counts[i], counts[j], strict=True)]
        for a, b in {(i, j), (j, i)}:
            length, reference = len(sentences[a]), len(sentences[b])
            totals = [max(length - k, 0) for k in range(4)]
            bleu = score(
                overlaps,
                totals,
                length,
                reference,
                smooth_method="exp",
                effective_order=True,
            )
            table[a, b] = bleu.score
    return table


def self_bleu(sentences: Sequence[Sentence]) -> float:
    """Mean BLEU of each sentence against each other one, 0 to 100: high where they repeat each other."""
    check_sentences("sentences", sentences)
    n = len(sentences)
    if n < 2:
        raise ValueError(f"sentences must be at least 2, not {n}")
    table = bleu_table(sentences)
    others = table.sum() - table.trace()
    return (others / (n * (n - 1))).item()


def mbr(candidates: Sequence[Sentence]) -> tuple[int, Float[Tensor, " N"]]:
    """Minimum Bayes risk: the candidate most like the others, and each one's mean BLEU against the others.

    Of equally good ones it is the first.  (Kumar & Byrne 2004; Diffusion-LM, section 5.2)
    """
    check_sentences("candidates", candidates)
    n = len(candidates)
    if not n:
        raise ValueError("candidates must be at least 1, not 0")
    table = bleu_table(candidates)
    # A candidate is like itself, which says nothing of it.
    others = table.sum(1) - table.diagonal()
    mean = others / max(1, n - 1)
    return int(mean.argmax()), mean


def check_sentences(name: str, sentences: Sequence[Sentence]) -> None:
    """Raise TypeError for anything but lists of words.

    Of a sentence that is one string the letters would be taken for words; a generator would be read once and found
    empty then; tensors are equal to themselves only.
    """
    if isinstance(sentences, Tensor) or not isinstance(sentences, Sequence):
        raise TypeError(
            f"{name} must be a list of lists of words, not {describe(sentences)}"
        )
    if isinstance(sentences, str) or any(isinstance(s, str) for s in sentences):
        raise TypeError(
            f"{name} must be lists of words, not strings: pass [s.split() for s in {name}]"
        )
    if any(not isinstance(w, str) for s in sentences for w in s):
        raise TypeError(f"{name} must be lists of words, each a str")
