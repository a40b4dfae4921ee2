"""Batches that know their place: where a training stopped they go on, and nothing that was used is read again."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import default_collate

from .shapes import check_count, check_seed, describe

Rows = Int[Tensor, " n"]  # numbers of examples


class Batches:
    """An endless iterator of read(rows), for the rows that order() gives in turn; its place is how many it gave.

    order  starts the same iterator each time it is called. It makes numbers only, so that skipping costs little
    read   makes a batch of the examples with these numbers
    """

    def __init__(
        self, order: Callable[[], Iterator[Rows]], read: Callable[[Rows], Any]
    ):
        self.order, self.read = order, read
        self.load_state_dict({"batches": 0})

    def __iter__(self) -> "Batches":
        return self

    def __next__(self):
        rows = next(self.rows)
        self.count += 1
        return self.read(rows)

    def state_dict(self) -> dict[str, int]:
        """Where it is."""
        return {"batches": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to where it was. No example is read."""
        self.count, self.rows = state["batches"], self.order()
        deque(islice(self.rows, self.count), maxlen=0)


def shuffled(n: int, size: int, seed: int) -> Iterator[Rows]:
    """Endlessly `size` of the numbers 0..n - 1; each once per pass, in a new order each pass."""
    check_seed(seed)
    generator, order = torch.Generator().manual_seed(seed), torch.empty(0).long()
    while True:
        while len(order) < size:
            order = torch.cat([order, torch.randperm(n, generator=generator)])
        yield order[:size]
        order = order[size:]


def rows(dataset, size: int, seed: int = 0) -> Batches:
    """Endless shuffled batches of a data set that gives one example per number: a tensor, or a tuple or dict of them.

    dataset  has a length and takes dataset[i], as torch's Dataset; its examples are stacked (default_collate). For
             a tensor, or what can be indexed by many numbers at once, `data.batches` is faster

    Raises TypeError for what cannot be counted and indexed, ValueError for a size outside 1..len(dataset).
    """
    check_count("size", size)
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"dataset must have a length and take dataset[i], not {describe(dataset)}"
        )
    check_size(size, len(dataset))
    read = lambda some: default_collate([dataset[i] for i in some.tolist()])  # noqa: E731
    return Batches(lambda: shuffled(len(dataset), size, seed), read)


def check_size(size: int, n: int, what: str = "examples of the data") -> None:
    """Raise ValueError for a batch of more examples than there are."""
    if not n:
        raise ValueError("data must not be empty")
    if size > n:
        raise ValueError(f"size must be at most the {n} {what}, not {size}")
