"""What the DiffuSeq recipes read: pairs of sequences, and how a task makes rows, a process and a network of them."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from ..diffuseq import DiffuSeq
from ..nets import CausalNet
from ..pairs import END, SEP, fits, pack
from ..pronunciations import pronunciations
from ..sentences import Pairs, Vocabulary, words
from ..verses import verses as bible
from ..word_nets import MixingNet
from .diffusion_lm import from_frequencies, from_ppmi, table

Pair = tuple[Sequence[str], Sequence[str]]


def room_for_phones(letters: int) -> int:
    """A word is said in about as many phones as it has letters."""
    return letters + 3


def room_for_words(words: int) -> int:
    """A verse in Basic English may be a fifth longer."""
    return words + 4 + words // 5


@dataclass(frozen=True)
class Task:
    """What decides how pairs become rows: the longest source, the room for its target, the numbers in a vector.

    least    a word is in the vocabulary if the sources, or the targets, have it so often
    interleaved  source and target in turn, as in `pack`: for pairs that run in the same order
    """

    every: Callable[[str], list[Pair]]  # of a split
    longest: int
    room: Callable[[int], int]
    width: int
    least: int = 1
    interleaved: bool = True

    @property
    def length(self) -> int:
        """Of the longest row, interleaved or not."""
        room = self.room(self.longest)
        # In turn each word of the target has one of the source beside it; one after the
        # other they are the source, SEP and the target.
        return room + max(room, self.longest + 1)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words of targets come first."""
        return Vocabulary((x for x, _ in self.pairs()), self.least, self.spoken)

    @cached_property
    def spoken(self) -> Vocabulary:
        """The words that can be in a target."""
        return Vocabulary(
            # As often as a word must occur: SEP and END are in it whatever `least` is.
            [*[[SEP, END]] * self.least, *(y for _, y in self.pairs())],
            self.least,
        )

    def pairs(self, split: str = "train") -> list[Pair]:
        """Those that have place."""
        return [
            (x, y)
            for x, y in self.every(split)
            if len(x) <= self.longest
            and fits((x, y), self.room(len(x)), self.length, self.interleaved)
        ]

    def rows(self, pairs: Sequence[Pair], interleaved: bool | None = None) -> Pairs:
        """As the network reads them. Words not in the vocabulary, or in a target not in its own, are UNK."""
        interleaved = self.interleaved if interleaved is None else interleaved
        with warnings.catch_warnings():
            # results.json says how many words are unknown.
            warnings.simplefilter("ignore")
            data = pack(pairs, self.vocabulary, self.length, self.room, interleaved)
        return Pairs(
            # The words of targets come first in the vocabulary. In a target the others
            # are UNK, which is 0.
            data.tokens.masked_fill(data.target & (data.tokens >= len(self.spoken)), 0),
            data.target,
        )

    def data(
        self, split: str = "train", interleaved: bool | None = None
    ) -> tuple[Pairs, list[Pair]]:
        """The rows of a split, and its pairs."""
        pairs = self.pairs(split)
        return self.rows(pairs, interleaved), pairs

    def process(self, length: int | None = None, **options) -> DiffuSeq:
        """The paper's process; the cross-entropy is of the network's prediction, the loss that of the target."""
        settings = {"rounding": "prediction"} | options
        return DiffuSeq(table(), length or self.length, self.width, **settings)

    def network(self, width: int = 128, depth: int = 4) -> MixingNet:
        """Normalised embeddings, self-conditioning, a look at the neighbours, and the frequencies of the words."""
        settings = {
            "normalised": True,
            "recall": True,
            "radius": 4,
            "K_out": len(self.spoken),
        }
        model = MixingNet(
            len(self.vocabulary), self.width, table(), width, 4, depth, **settings
        )
        rows = self.rows(self.pairs())
        if (
            self.least > 1
        ):  # many words: those that keep company in a row are a word and its translation
            from_ppmi(model, rows.tokens, 5)
        from_frequencies(model, rows.tokens[rows.target])
        return model

    def writer(self, width: int = 128, depth: int = 4, **options) -> CausalNet:
        """The autoregressive network of the same size."""
        return CausalNet(len(self.vocabulary), width, 4, depth, **options)


def spelled(split: str) -> list[Pair]:
    """Letters and phones: a word said in two ways is two pairs."""
    return [
        (tuple(word), phones)
        for word, ways in pronunciations(split).items()
        for phones in ways
    ]


def translated(split: str) -> list[Pair]:
    """Verses of Young's Literal Translation and of the Bible in Basic English."""
    old, new = bible("ylt", split), bible("bbe", split)
    return [(words(old[n]), words(new[n])) for n in new if n in old]


def turned(split: str) -> list[Pair]:
    """Rows of 3 to 8 digits, and the same from behind."""
    # A generator of its own: the rows are the same whoever asks for them.
    g = torch.Generator().manual_seed(0 if split == "train" else 1)
    rows = torch.randint(
        10, (20_000 if split == "train" else 1000, 8), generator=g
    ).tolist()
    lengths = torch.randint(3, 9, (len(rows),), generator=g).tolist()
    digits = [[str(d) for d in row[:n]] for row, n in zip(rows, lengths, strict=True)]
    return [(x, x[::-1]) for x in digits]


SOUNDS = Task(spelled, longest=18, room=room_for_phones, width=16)


VERSES = Task(translated, longest=48, room=room_for_words, width=32, least=5)


REVERSAL = Task(turned, longest=8, room=lambda _: 9, width=16, interleaved=False)
