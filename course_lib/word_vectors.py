"""Word vectors from counts: positive pointwise mutual information, factorised (Levy & Goldberg 2014).

    PMI(a, b) = log p(a, b) / (p(a) p(b)),  max(0, PMI) ~ U diag(S) V^T,  vectors U_D diag(S_D)^(1/2)

Words that keep similar company get similar rows of PMI, and so similar vectors.
"""

from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .sentences import PAD, check_tokens
from .shapes import Tokens, check_count, describe


def word_vectors(
    text: str, K: int = 300, D: int = 50, window: int = 4
) -> tuple[list[str], Float[Tensor, "K D"]]:
    """The K most frequent words of a text, and a vector of D numbers for each, float64.

    Pairs at most `window` words apart are counted, whichever comes first.
    """
    check_count("window", window)
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, not {describe(text)}")
    words = text.split()
    count = Counter(words)
    if not 1 <= D <= K <= len(count):
        raise ValueError(
            f"D and K must be such that 1 <= D <= K <= {len(count)} words, not {D} and {K}"
        )
    names = [word for word, _ in count.most_common(K)]
    number = {word: i for i, word in enumerate(names)}
    ids = np.array([number.get(word, K) for word in words])
    pairs = np.zeros((K + 1, K + 1))
    for far in range(1, window + 1):
        pairs += np.bincount(
            ids[:-far] * (K + 1) + ids[far:], minlength=(K + 1) ** 2
        ).reshape(K + 1, K + 1)
    pairs = torch.from_numpy(pairs + pairs.T)[:K, :K]
    U, S, _ = torch.linalg.svd(positive_pmi(pairs))
    return names, leading(U, S, D)


def ppmi_vectors(
    tokens: Tokens, K: int, D: int, window: int = 3
) -> Float[Tensor, "K D"]:
    """A start for the embeddings of K words: vectors of length sqrt(D), less their mean, float32.

    What stands up to `window` places before a word counts apart from what stands after it, and near ones for more
    (1 / distance). torch's random state decides the sign and the last digits.
    """
    check_count("window", window)
    if not 1 <= D <= K:
        raise ValueError(f"D must lie in 1..{K}, not {D}")
    tokens = check_tokens(tokens)
    if tokens.max() >= K:
        raise ValueError(f"tokens must be words of {K}, but hold {tokens.max()}")
    pairs = torch.zeros(K * K)
    for far in range(1, window + 1):
        here, there = tokens[:, :-far], tokens[:, far:]
        both = (here != PAD) & (there != PAD)
        pairs += (here[both] * K + there[both]).bincount(minlength=K * K) / far
    if not pairs.any():
        raise ValueError("tokens must have a row of two words: none keeps company")
    follows = pairs.reshape(K, K)
    pmi = positive_pmi(torch.cat([follows, follows.T], 1))
    # Not the whole decomposition as above: thousands of words would take minutes. The 8 vectors more than are kept
    # and the 4 powers make the random projection's leading ones right to float32.
    U, S, _ = torch.svd_lowrank(pmi, min(D + 8, K), niter=4)
    vectors = leading(U, S, D)
    # All words share a direction, that of how frequent a word is; without it the lengths can be made alike.
    return F.normalize(vectors - vectors.mean(0), dim=1) * D**0.5


def positive_pmi(pairs: Float[Tensor, "K C"]) -> Float[Tensor, "K C"]:
    """max(0, log p(a, b) / (p(a) p(b))) from counts of pairs; 0 for pairs that never occur, whose PMI is -inf."""
    chance = pairs.sum(1, keepdim=True) * pairs.sum(0) / pairs.sum()
    return torch.where(pairs > 0, pairs / chance, 1).log().clamp(min=0)


def leading(
    U: Float[Tensor, "K R"], S: Float[Tensor, " R"], D: int
) -> Float[Tensor, "K D"]:
    """The D leading singular vectors times the roots of their values: word and context share the values evenly."""
    check_count("D", D)
    if len(S) < D:
        raise ValueError(f"D must be at most the {len(S)} values, not {D}")
    return U[:, :D] * S[:D].sqrt()
