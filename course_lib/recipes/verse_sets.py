"""What the Diffusion-LM recipes read: verses with their genres, and phrases of common words."""

import re
import warnings
from collections import Counter
from functools import cache

import torch

from ..sentences import (
    Labelled,
    Vocabulary,
    words,
)
from ..verses import genre, verses

LENGTH = 64


SHORT, COMMON = 12, 500  # `minute`: words in a phrase, words in its vocabulary


@cache
def vocabulary() -> Vocabulary:
    """All words of the training verses."""
    return Vocabulary(map(words, verses().values()))


@cache
def sentences(split: str = "train") -> tuple[Labelled, list[int]]:
    """The verses of at most LENGTH words with their genres, and their numbers; words not seen in training are UNK."""
    kept = {
        n: w
        for n, text in verses("bbe", split).items()
        if len(w := words(text)) <= LENGTH
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # results.json says how many words are unknown
        tokens = vocabulary().encode(list(kept.values()), LENGTH)
    return Labelled(tokens, torch.tensor([genre(n) for n in kept])), list(kept)


@cache
def phrases(split: str = "train") -> tuple[list[list[str]], list[list[str]]]:
    """Pieces of verses up to a . ; : ? or !, of 4 to SHORT words: all of them, and those of common words only."""
    pieces = (
        piece
        for text in verses("bbe", split).values()
        for piece in re.findall(r"[^.;:?!]+[.;:?!]", text)
    )
    every = [w for w in map(words, pieces) if 4 <= len(w) <= SHORT]
    count = Counter(
        # Counted in the training phrases, whichever split is asked for.
        w
        for phrase in (every if split == "train" else phrases()[0])
        for w in phrase
    )
    # Ties by the alphabet: the same vocabulary on every machine.
    common = set(sorted(count, key=lambda w: (-count[w], w))[:COMMON])
    return every, [phrase for phrase in every if common.issuperset(phrase)]


@cache
def common_words() -> Vocabulary:
    """The words of the common phrases; UNK never occurs."""
    return Vocabulary(phrases()[1])


def common(split: str = "train") -> tuple[torch.Tensor, list[list[str]]]:
    """The common phrases, and their words."""
    return common_words().encode(phrases(split)[1], SHORT), phrases(split)[1]
