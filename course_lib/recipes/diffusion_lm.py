"""Diffusion-LM on verses of the Bible in Basic English: words as unit vectors times sqrt(D), labels for the genre.

`verses` takes about an hour on one CPU core; `minute` a minute.
"""

import re
import warnings
from collections import Counter
from functools import cache

import torch
from torch import nn

from .. import schedules
from ..diffusion_lm import DiffusionLM
from ..nets import MixingNet
from ..sentences import GENRES, Labelled, Vocabulary, bucketed, genre, verses, words, written
from . import Recipe

LENGTH, WIDTH, T = 64, 32, 2000
SHORT, COMMON, NARROW = 12, 500, 16  # `minute`: words in a phrase, words in its vocabulary, numbers in a word


@cache
def vocabulary() -> Vocabulary:
    """All words of the training verses."""
    return Vocabulary(map(words, verses().values()))


@cache
def sentences(split: str = "train") -> tuple[Labelled, list[int]]:
    """The verses of at most LENGTH words with their genres, and their numbers; words not seen in training are UNK."""
    kept = {n: w for n, text in verses("bbe", split).items() if len(w := words(text)) <= LENGTH}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # results.json says how many words are unknown
        tokens = vocabulary().encode(list(kept.values()), LENGTH)
    return Labelled(tokens, torch.tensor([genre(n) for n in kept])), list(kept)


def table() -> torch.Tensor:
    """The paper's schedule."""
    return schedules.table(schedules.sqrt(), T)


def process(**options) -> DiffusionLM:
    """Trained on the cross-entropy of its prediction beside the squared error; lengths as in the training verses."""
    lengths = written(sentences()[0].tokens).sum(1).bincount(minlength=LENGTH + 1)
    return DiffusionLM(table(), LENGTH, WIDTH, **{"rounding": "prediction", "lengths": lengths} | options)


def network(width: int = 192, depth: int = 4, **options) -> MixingNet:
    """Normalised embeddings, self-conditioning, a label."""
    settings = {"normalised": True, "recall": True, "classes": len(GENRES)} | options
    return MixingNet(len(vocabulary()), WIDTH, table(), width, 4, depth, **settings)


def measure(recipe: Recipe, model: nn.Module) -> dict:
    return {}


verses_ = Recipe(
    chapter="04_diffusion_lm",
    name="verses",
    data=sentences,
    process=process,
    model=network,
    measure=measure,
    steps=6000,
    batch=32,
    lr=2e-3,
    ema=0.999,
    stream=bucketed,
)


# What can be learned in a minute: phrases of common words


@cache
def phrases(split: str = "train") -> tuple[list[list[str]], list[list[str]]]:
    """Pieces of verses up to a . ; : ? or !, of 4 to SHORT words: all of them, and those of common words only."""
    pieces = (
        piece for text in verses("bbe", split).values() for piece in re.findall(r"[^.;:?!]+[.;:?!]", text)
    )
    every = [w for w in map(words, pieces) if 4 <= len(w) <= SHORT]
    count = Counter(w for phrase in (every if split == "train" else phrases()[0]) for w in phrase)
    common = set(sorted(count, key=lambda w: (-count[w], w))[:COMMON])
    return every, [phrase for phrase in every if common.issuperset(phrase)]


@cache
def common_words() -> Vocabulary:
    """The words of the common phrases; UNK never occurs."""
    return Vocabulary(phrases()[1])


def common(split: str = "train") -> tuple[torch.Tensor, list[list[str]]]:
    """The common phrases, and their words."""
    return common_words().encode(phrases(split)[1], SHORT), phrases(split)[1]


def short_process(**options) -> DiffusionLM:
    """Like `process`, for phrases."""
    lengths = written(common()[0]).sum(1).bincount(minlength=SHORT + 1)
    return DiffusionLM(table(), SHORT, NARROW, **{"rounding": "prediction", "lengths": lengths} | options)


minute = Recipe(
    chapter="04_diffusion_lm",
    name="minute",
    data=common,
    process=short_process,
    model=lambda: MixingNet(len(common_words()), NARROW, table(), 96, 4, 2, normalised=True),
    measure=measure,
    steps=500,
    batch=32,
    lr=5e-3,
    ema=0.99,
    stream=bucketed,
)
