"""Text read as a stream: tokens made as they are needed, packed into full rows or one text a row with padding.

    encode = lambda text: tokenizer.encode(text).ids
    stream = packed(Lines("mine.txt"), encode, length=128, size=64, end=0)
    train(process, model, stream, ...)

A stream knows its place, so that a training goes on without reading again what it has used. Of many processes each
reads and encodes only its own rows; they are exchanged, so that every one has the whole batch, which `train` wants.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from .batching import Batches, check_size, shuffled
from .parallel import rank, summed, world
from .random_state import seed_of
from .sentences import PAD
from .shapes import Tokens, check_choice, check_count, describe

Encode = Callable[[str], Sequence[int]]  # a text's numbers, 0 or more each


class Lines(Sequence):
    """The lines of a text file (UTF-8) that are not empty, read one by one: only their places are kept in memory."""

    def __init__(self, path: str | Path):
        self.path, self.places = Path(path), []
        with open(path, "rb") as f:
            place = 0
            for line in f:
                if line.strip():
                    self.places.append(place)
                place += len(line)
        if not self.places:
            raise ValueError(f"{path} must have a line that is not empty")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> str:
        with open(self.path, "rb") as f:
            f.seek(self.places[i])
            return f.readline().decode("utf-8").rstrip("\r\n")


def padded(
    documents: Sequence[str],
    encode: Encode,
    length: int,
    size: int,
    seed: int = 0,
    longer: str = "error",
) -> Batches:
    """Endless shuffled batches of one text a row, (size, length), PAD = -1 after its end.

    longer  what to do about a text of more than `length` tokens: "error", or "cut" it
    """
    check_texts(documents, encode, length, size)
    check_choice("longer", longer, ("error", "cut"))

    def row(i: int) -> Tensor:
        tokens = numbers(encode, documents[i], i)
        if len(tokens) > length and longer == "error":
            raise ValueError(
                f"documents[{i}] must have at most {length} tokens, not {len(tokens)}: or pass longer='cut'"
            )
        made = torch.full((length,), PAD)
        made[: len(tokens)] = tokens[:length]
        return made

    def read(rows: Tensor) -> Tokens:
        return exchanged([row(i) for i in rows[mine(size)].tolist()], size, length)

    return Batches(lambda: shuffled(len(documents), size, seed), read)


def packed(
    documents: Sequence[str],
    encode: Encode,
    length: int,
    size: int,
    end: int | None = None,
    seed: int = 0,
) -> "Packed":
    """Endless batches of full rows, (size, length): texts one after the other, cut wherever a row is full.

    end  a token put after each text; None for none

    Row k of every batch continues row k of the batch before. It reads every size-th text of an order that is shuffled
    anew each pass; so there must be at least `size` texts.
    """
    check_texts(documents, encode, length, size)
    if end is not None:
        check_count("end", end, least=0)
    return Packed(documents, encode, length, size, end, seed)


class Packed:
    """What `packed` gives: an iterator that knows its place, which is that of each row's lane of texts."""

    def __init__(self, documents, encode, length, size, end, seed):
        self.documents, self.encode, self.end = documents, encode, end
        self.length, self.size, self.seed = length, size, seed
        # Two or three: that which lanes are in, and the next one
        self.order = lru_cache(maxsize=3)(self.order_of)
        self.load_state_dict({"lanes": [[0, 0] for _ in range(size)]})

    def __iter__(self) -> "Packed":
        return self

    def __next__(self) -> Tokens:
        made = [self.row(lane) for lane in range(self.size)[mine(self.size)]]
        # The places go with the rows, so that every process knows all of them.
        both = exchanged(made, self.size, self.length + 2)
        self.lanes = both[:, self.length :].tolist()
        return both[:, : self.length].contiguous()

    def row(self, lane: int) -> Tensor:
        """The next tokens of a lane, and its place after them."""
        text, place = self.lanes[lane]
        row, have, empty = [], 0, 0
        while have < self.length:
            tokens = self.tokens(lane, text)[place:]
            some = tokens[: self.length - have]
            row.append(some)
            have, place = have + len(some), place + len(some)
            empty = 0 if len(some) else empty + 1
            if empty > len(self.documents):
                raise ValueError(
                    f"documents of row {lane} must have a token, but have none"
                )
            if len(some) == len(tokens):
                text, place = text + 1, 0
        return torch.cat([*row, torch.tensor([text, place])])

    def tokens(self, lane: int, text: int) -> Tensor:
        """Of the text-th one that a lane reads, counted through all passes."""
        last = self.kept.get(lane)
        if last is None or last[0] != text:
            each = len(self.documents) // self.size
            i = self.order(text // each)[lane + self.size * (text % each)]
            made = numbers(self.encode, self.documents[i], i)
            if self.end is not None:
                made = torch.cat([made, torch.tensor([self.end])])
            last = self.kept[lane] = (text, made)
        return last[1]

    def order_of(self, number: int) -> list[int]:
        """The texts in the order of a pass."""
        g = torch.Generator().manual_seed(seed_of(self.seed, number))
        return torch.randperm(len(self.documents), generator=g).tolist()

    def state_dict(self) -> dict[str, list]:
        """Where each lane is: how many texts it has done, and how many tokens of the next one."""
        return {"lanes": [list(lane) for lane in self.lanes]}

    def load_state_dict(self, state: dict[str, list]) -> None:
        """Go to where the lanes were; of each the text it is in is read again."""
        if len(state["lanes"]) != self.size:
            raise ValueError(
                f"size must be the {len(state['lanes'])} of the run that is continued, not {self.size}"
            )
        self.lanes = [list(lane) for lane in state["lanes"]]
        self.kept: dict[int, tuple[int, Tensor]] = {}


def numbers(encode: Encode, text: str, i: int) -> Tensor:
    """A text's tokens, or an error that names it."""
    try:
        tokens = torch.tensor(list(encode(text)))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"encode must give integers, but documents[{i}] raises {error!r}"
        ) from error
    if not len(tokens):
        return tokens.long()
    if tokens.ndim != 1 or tokens.is_floating_point() or tokens.min() < 0:
        raise ValueError(
            f"encode must give integers of 0 or more, but documents[{i}] gives {tokens[:8].tolist()}"
        )
    return tokens.long()


def check_texts(documents, encode: Encode, length: int, size: int) -> None:
    """Raise for what cannot be a stream of rows."""
    check_count("length", length)
    check_count("size", size)
    if isinstance(documents, str) or not (
        hasattr(documents, "__len__") and hasattr(documents, "__getitem__")
    ):
        raise TypeError(
            f"documents must be a sequence of texts, such as a list or Lines(path), not {describe(documents)}"
        )
    if not callable(encode):
        raise TypeError(f"encode must be a function of a text, not {describe(encode)}")
    check_size(size, len(documents), "documents there are")


# Sharing the work


def mine(size: int) -> slice:
    """The rows of a batch that this process makes."""
    return slice(rank() * size // world(), (rank() + 1) * size // world())


def exchanged(made: list[Tensor], size: int, length: int) -> Tokens:
    """All rows of a batch, from those that each process made."""
    if world() == 1:
        return torch.stack(made)
    whole = torch.zeros(size, length, dtype=torch.long)
    if made:
        whole[mine(size)] = torch.stack(made)
    return summed(whole)
