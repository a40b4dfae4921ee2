"""Sentences of words: vocabularies, batches, and the way back to text.

A batch of sentences is int64 (B, L), filled up at its end with PAD = -1, which is no word: no law ever gives it a
probability, and what reads tokens gets the mask `tokens != PAD` beside them.
"""

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Int
from torch import Tensor

from .batching import Batches
from .shapes import Mask, Tokens, check_count, describe

PAD = -1
UNK = "<unk>"
MARKS = "[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0903\u093a-\u094f]"  # accents with no letter of their own

# Words


def words(text: str) -> list[str]:
    """Lower-case words, numbers and single marks; what follows an apostrophe is a word of its own ("lord", "'s").

    Letters are those of any alphabet. An accent that stands apart is put on its letter first (NFC).
    """
    text = unicodedata.normalize("NFC", text.lower()).replace("’", "'")
    letters = r"(?:[^\W\d_]\p*)+".replace(
        r"\p", MARKS
    )  # \w without digits and _, and the marks they carry
    return re.findall(rf"'s\b|{letters}|\d+|[^\w\s]|_", text)


def line(words: Iterable[str]) -> str:
    """Words as one line of text, marks put where they belong."""
    text = re.sub(r" ('s\b|[.,;:!?)])", r"\1", " ".join(words))
    return text.replace("( ", "(")


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
        count = Counter(word for sentence in sentences for word in sentence)
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
        if not len(sentences):
            raise ValueError("sentences must not be empty")
        rows, unknown, total = torch.full((len(sentences), length), PAD), 0, 0
        for i, sentence in enumerate(sentences):
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


def check_tokens(tokens: Tokens) -> Tokens:
    """The tokens as int64. TypeError unless they are integers, of any width; ValueError unless they are
    (B, L) words or PAD."""
    if (
        not isinstance(tokens, Tensor)
        or tokens.dtype == torch.bool
        or tokens.is_floating_point()
        or tokens.is_complex()
    ):
        raise TypeError(f"tokens must be integers (B, L), not {describe(tokens)}")
    if tokens.ndim != 2 or not tokens.numel():
        raise ValueError(
            f"tokens must have shape (B >= 1, L >= 1), not {tuple(tokens.shape)}"
        )
    tokens = tokens.long()
    # Numbers below PAD would be read as word 0: elsewhere, off the CPU, they are not looked for.
    if tokens.device.type == "cpu" and tokens.min() < PAD:
        raise ValueError(
            f"tokens must be words >= 0, or PAD = {PAD} at the end of rows, but hold {tokens.min()}"
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
    """(B, L), True in the first lengths[b] places of row b."""
    return torch.arange(L, device=lengths.device) < lengths[:, None]


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


@dataclass(frozen=True)
class Pairs(Rows):
    """Source and target in one row, tokens (B, L), and where the target is, (B, L): a batch for DiffuSeq."""

    tokens: Tokens
    target: Mask

    def __post_init__(self):
        if self.tokens.shape != self.target.shape:
            shapes = f"{tuple(self.tokens.shape)} and {tuple(self.target.shape)}"
            raise ValueError(f"tokens and target must have one shape, not {shapes}")


Sentences = Tokens | Labelled | Pairs  # what a batch is


def bucketed(data: Sentences, size: int, seed: int = 0, pool: int = 50) -> Batches:
    """Endless shuffled batches of sentences of like length, each cut to its longest.

    The data is shuffled, `pool` batches at a time are sorted by length, and these batches shuffled: every sentence
    comes at most once per pass, and little time goes into PAD.
    """
    check_count("size", size)
    check_count("pool", pool)
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
    generator = torch.Generator().manual_seed(seed)
    while True:
        for some in torch.randperm(len(lengths), generator=generator).split(
            size * pool
        ):
            # Whole batches, before sorting, or the longest would never come
            some = some[: len(some) // size * size]
            parts = some[lengths[some].argsort(stable=True)].reshape(-1, size)
            yield from parts[torch.randperm(len(parts), generator=generator)]
