"""Sentences of words: vocabularies, batches, and the way back to text.

A batch of sentences is int64 (B, L), filled up at its end with PAD = -1, which is no word: no law ever gives it a
probability, and what reads tokens gets the mask `tokens != PAD` beside them.
"""

import re
import sys
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache

import torch
from jaxtyping import Int
from torch import Tensor

from .batching import Batches
from .shapes import Mask, Tokens, check_count, check_seed, describe

PAD = -1
UNK = "<unk>"

# Words


def words(text: str) -> list[str]:
    """Lower-case words, numbers and single marks; what follows an apostrophe is a word of its own ("lord", "'s").

    Letters are those of any alphabet. An accent that stands apart is put on its letter first (NFC); what has no letter
    of its own (vowel signs of Hindi or Thai, joiners) stays with the one before. Soft hyphens go. TypeError for bytes.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, not {describe(text)}")
    text = unicodedata.normalize("NFC", text.lower()).replace("’", "'")
    return word_pattern().findall(text.replace("\u00ad", ""))


@cache
def word_pattern() -> re.Pattern[str]:
    """What a word is: letters (\\w without digits and _), each with its marks."""
    every = map(chr, range(sys.maxunicode + 1))
    marks = "".join(c for c in every if unicodedata.category(c).startswith("M"))
    carried = f"[{re.escape(marks)}\u200c\u200d]*"
    letters = rf"(?:[^\W\d_]{carried})+"
    return re.compile(rf"'s\b|{letters}|\d+|[^\w\s]{carried}|_")


def line(words: Iterable[str]) -> str:
    """Words as one line of text, marks put where they belong."""
    check_words("words", words)
    text = re.sub(r" ('s\b|[.,;:!?)])", r"\1", " ".join(words))
    return text.replace("( ", "(")


def check_words(name: str, sentence: object) -> None:
    """Raise TypeError for a sentence that is one string: its letters would be taken for words."""
    if isinstance(sentence, str | bytes):
        raise TypeError(
            f"{name} must be lists of words, not strings: say words(text), or list(text) for letters"
        )


class Vocabulary:
    """The words of some sentences: number 0 is UNK, then from the most frequent to the rarest seen `least` times.

    Equal frequencies are in alphabetical order, so the numbers do not depend on the sentences' order.
    first  another vocabulary, whose words keep their numbers and are not counted
    """

    def __init__(
        self,
        sentences: Iterable[Sequence[str]],
        least: int = 1,
        first: "Vocabulary | None" = None,
    ):
        check_count("least", least)
        check_words("sentences", sentences)
        if first is not None and not isinstance(first, Vocabulary):
            raise TypeError(f"first must be a Vocabulary, not {describe(first)}")
        count: Counter[str] = Counter()
        for sentence in sentences:
            check_words("sentences", sentence)
            count.update(sentence)
        if not count:
            raise ValueError("sentences must hold at least one word")
        before = first.words if first else [UNK]
        kept = {w for w, n in count.items() if n >= least} - set(before)
        self.words = [*before, *sorted(kept, key=lambda w: (-count[w], w))]
        self.number = {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, sentences: Sequence[Sequence[str]], length: int) -> Tokens:
        """(B, length) numbers, PAD after each end. A word that is not here becomes UNK, and a warning counts them.

        Raises ValueError for no sentence, an empty one or one of more than `length` words.
        """
        check_count("length", length)
        check_words("sentences", sentences)
        if not len(sentences):
            raise ValueError("sentences must not be empty")
        rows, unknown, total = torch.full((len(sentences), length), PAD), 0, 0
        for i, sentence in enumerate(sentences):
            check_words("sentences", sentence)
            if not 1 <= len(sentence) <= length:
                raise ValueError(
                    f"sentences[{i}] must have 1 to {length} words, not {len(sentence)}"
                )
            numbers = [self.number.get(word, 0) for word in sentence]
            rows[i, : len(numbers)] = torch.tensor(numbers)
            unknown, total = unknown + numbers.count(0), total + len(numbers)
        if unknown:
            warnings.warn(
                f"{unknown} of {total} words are not in the vocabulary and became {UNK}",
                stacklevel=2,
            )
        return rows

    def decode(self, tokens: Tensor) -> list[str]:
        """The words of one row (L,), without PAD. ValueError for a number that no word has."""
        check_rows("tokens", tokens, "integers")
        if tokens.ndim != 1:
            raise ValueError(
                f"tokens must be one row (L,), not {tuple(tokens.shape)}: decode row by row"
            )
        numbers = [i for i in tokens.tolist() if i != PAD]
        strange = [i for i in numbers if not 0 <= i < len(self.words)]
        if strange:
            raise ValueError(
                f"tokens must be PAD or lie in 0..{len(self.words) - 1}, not {strange[0]}"
            )
        return [self.words[i] for i in numbers]

    def line(self, tokens: Tensor) -> str:
        """One row (L,) as a line of text."""
        return line(self.decode(tokens))


def check_tokens(tokens: Tokens, name: str = "tokens") -> Tokens:
    """The tokens as int64. TypeError unless they are integers, of any width; ValueError unless they are
    (B, L) words or PAD."""
    if (
        not isinstance(tokens, Tensor)
        or tokens.dtype == torch.bool
        or tokens.is_floating_point()
        or tokens.is_complex()
    ):
        raise TypeError(f"{name} must be integers (B, L), not {describe(tokens)}")
    if tokens.ndim != 2 or not tokens.numel():
        raise ValueError(
            f"{name} must have shape (B >= 1, L >= 1), not {tuple(tokens.shape)}"
        )
    tokens = tokens.long()
    # Numbers below PAD would be read as word 0: elsewhere, off the CPU, they are not looked for.
    if tokens.device.type == "cpu" and tokens.min() < PAD:
        raise ValueError(
            f"{name} must be words >= 0, or PAD = {PAD} at the end of rows, but hold {tokens.min()}"
        )
    return tokens


def written(tokens: Tokens) -> Mask:
    """True where there is a word: tokens != PAD. Raises ValueError for a row without a word or a word after PAD."""
    mask = check_tokens(tokens) != PAD
    if tokens.device.type == "cpu" and not (
        mask[:, 0].all() and (mask[:, 1:] <= mask[:, :-1]).all()
    ):
        raise ValueError("tokens must have a word in each row, and PAD only at its end")
    return mask


def up_to(lengths: Tensor, L: int) -> Mask:
    """(B, L), True in the first lengths[b] places of row b. ValueError for a length outside 0..L (CPU)."""
    check_rows("lengths", lengths, "integers")
    if lengths.ndim != 1:
        raise ValueError(f"lengths must have shape (B,), not {tuple(lengths.shape)}")
    if lengths.device.type == "cpu" and not ((lengths >= 0) & (lengths <= L)).all():
        raise ValueError(
            f"lengths must lie in 0..{L}, but span {lengths.min()}..{lengths.max()}"
        )
    return torch.arange(L, device=lengths.device) < lengths[:, None]


def check_rows(name: str, x: Tensor, kind: str) -> None:
    """Raise TypeError unless x is a tensor of the kind "integers" or "bools"."""
    whole = isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex())
    if not whole or (x.dtype == torch.bool) != (kind == "bools"):
        raise TypeError(f"{name} must hold {kind}, not {describe(x)}")


class Rows:
    """Tensors of as many rows, tokens first: what can be counted, sliced, cut and moved like one tensor."""

    tokens: Tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[Tensor]:
        return (getattr(self, field.name) for field in fields(self))

    def __getitem__(self, where) -> "Rows":
        return self.each(lambda x: x[where])

    def cut(self, length: int) -> "Rows":
        """Without what comes after so many tokens."""
        return self.each(lambda x: x[:, :length] if x.ndim == 2 else x)

    def to(self, *where, **how) -> "Rows":
        """All on a device."""
        return self.each(lambda x: x.to(*where, **how))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Rows":
        """The same of each tensor changed."""
        return type(self)(*map(change, self))


@dataclass(frozen=True)
class Labelled(Rows):
    """Sentences (B, L) and a label for each: what `batches` and `train` can handle like a tensor."""

    tokens: Tokens
    labels: Int[Tensor, " B"]

    def __post_init__(self):
        check_rows("labels", self.labels, "integers")
        if self.tokens.shape[:-1] != self.labels.shape:
            shapes = f"{tuple(self.labels.shape)} and {tuple(self.tokens.shape)}"
            raise ValueError(
                f"labels must hold one integer for each row of tokens, not {shapes}"
            )


@dataclass(frozen=True)
class Pairs(Rows):
    """Source and target in one row, tokens (B, L), and where the target is, (B, L): a batch for DiffuSeq."""

    tokens: Tokens
    target: Mask

    def __post_init__(self):
        check_rows("target", self.target, "bools")
        if self.tokens.shape != self.target.shape:
            shapes = f"{tuple(self.tokens.shape)} and {tuple(self.target.shape)}"
            raise ValueError(f"tokens and target must have one shape, not {shapes}")

    def checked(self) -> tuple[Tokens, Mask]:
        """Tokens in int64, and the target. ValueError for a row without a target, or one at PAD."""
        tokens, target = check_tokens(self.tokens), self.target
        if target.device.type == "cpu" and not (
            target.any(1).all() and (target <= written(tokens)).all()
        ):
            raise ValueError("target must mark a word or more of each row, and no PAD")
        return tokens, target


Sentences = Tokens | Labelled | Pairs  # what a batch is


def bucketed(data: Sentences, size: int, seed: int = 0, pool: int = 50) -> Batches:
    """Endless shuffled batches of sentences of like length, each cut to its longest.

    The data is shuffled, `pool` batches at a time are sorted by length, and these batches shuffled: every sentence
    comes at most once per pass, and little time goes into PAD.
    """
    check_count("size", size)
    check_count("pool", pool)
    if not isinstance(data, Tensor | Rows):
        raise TypeError(
            f"data must be tokens (B, L), Labelled or Pairs, not {describe(data)}"
        )
    if not 1 <= size <= len(data):
        raise ValueError(
            f"size must be at most the {len(data)} sentences of the data, not {size}"
        )
    tokens = data if isinstance(data, Tensor) else data.tokens
    lengths = written(tokens).sum(1)

    def read(rows: Int[Tensor, " n"]) -> Sentences:
        batch, longest = data[rows], int(lengths[rows].max())
        return batch[:, :longest] if isinstance(batch, Tensor) else batch.cut(longest)

    return Batches(lambda: _bucketed(lengths, size, pool, seed), read)


def _bucketed(lengths, size, pool, seed):
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    while True:
        for some in torch.randperm(len(lengths), generator=generator).split(
            size * pool
        ):
            # Whole batches, before sorting, or the longest would never come
            some = some[: len(some) // size * size]
            parts = some[lengths[some].argsort(stable=True)].reshape(-1, size)
            yield from parts[torch.randperm(len(parts), generator=generator)]
