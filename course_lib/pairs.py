"""Pairs of sentences, source and target, packed into rows for DiffuSeq.

Words of a pair may be interleaved: nothing in the derivation says where the source stands. With x_1 y_1 x_2 y_2 ... a
letter and its phone, a word and its translation are neighbours: the network's convolution sees them together.
"""

from collections.abc import Callable, Sequence
from itertools import zip_longest

import torch

from .sentences import Pairs, Vocabulary, check_rows
from .shapes import Mask, Tokens, check_count, describe

# END is a word that the network writes, where PAD is outside of every sentence.
SEP, END = "<sep>", "<end>"


def pack(
    pairs: Sequence[tuple[Sequence[str], Sequence[str]]],
    vocabulary: Vocabulary,
    length: int,
    room: int | Callable[[int], int],
    interleaved: bool = False,
) -> Pairs:
    """Each pair as  source SEP target END ... END PAD ... PAD,  `length` tokens, of which `room` are for the target.

    room     a number, or a function of the source's length. The target is filled up with END, which is a word: that
             nothing more comes is for the network to say. What is left of the row is PAD
    interleaved  True: x_1 y_1 x_2 y_2 ... without SEP, the source filled up with END too. What belongs together stands
             together, if source and target run in the same order

    Raises ValueError that counts the pairs which are too long, have no source or hold SEP or END themselves, or if
    these are not in the vocabulary.
    """
    check_pairs(pairs)
    check_count("length", length)
    rooms = [room(len(source)) if callable(room) else room for source, _ in pairs]
    check_count("room", min(rooms))
    if long := sum(
        not fits(pair, n, length, interleaved)
        for pair, n in zip(pairs, rooms, strict=True)
    ):
        raise ValueError(
            f"pairs must fit in {length} tokens and their targets in their room, but {long} do not"
        )
    if empty := sum(not source for source, _ in pairs):
        raise ValueError(f"pairs must have sources, but {empty} have none")
    if mixed := sum(not {SEP, END}.isdisjoint([*x, *y]) for x, y in pairs):
        raise ValueError(
            f"pairs must not hold {SEP} or {END}, which mark their ends, but {mixed} do"
        )
    if not {SEP, END} <= set(vocabulary.number):
        raise ValueError(f"vocabulary must hold {SEP} and {END}")
    filled = [
        (list(x), [*y, *[END] * (n - len(y))])
        for (x, y), n in zip(pairs, rooms, strict=True)
    ]
    if interleaved:
        rows = [
            [w for pair in zip_longest(x, y, fillvalue=END) for w in pair]
            for x, y in filled
        ]
        starts, stride = torch.ones(len(pairs), dtype=torch.long), 2
    else:
        rows = [[*x, SEP, *y] for x, y in filled]
        starts, stride = torch.tensor([len(x) + 1 for x, _ in filled]), 1
    place = torch.arange(length) - starts[:, None]
    target = (
        (place >= 0)
        & (place % stride == 0)
        & (place < stride * torch.tensor(rooms)[:, None])
    )
    return Pairs(vocabulary.encode(rows, length), target)


def check_pairs(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> None:
    """Raise unless these are pairs, one at least."""
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise TypeError(
            f"pairs must be a list of (source, target), not {describe(pairs)}"
        )
    if not len(pairs):
        raise ValueError("pairs must not be empty")
    if strange := [pair for pair in pairs if len(pair) != 2]:
        raise ValueError(
            f"pairs must be (source, target), but one has {len(strange[0])} parts"
        )


def fits(
    pair: tuple[Sequence[str], Sequence[str]],
    room: int,
    length: int,
    interleaved: bool = False,
) -> bool:
    """Whether `pack` has place for a pair."""
    source, target = map(len, pair)
    whole = 2 * room if interleaved else source + 1 + room
    return target <= room and whole <= length and (source <= room or not interleaved)


def targets(tokens: Tokens, target: Mask, vocabulary: Vocabulary) -> list[list[str]]:
    """The words of each row's target, up to its first END."""
    check_rows("target", target, "bools")
    if tokens.shape != target.shape:
        shapes = f"{tuple(tokens.shape)} and {tuple(target.shape)}"
        raise ValueError(f"tokens and target must have one shape, not {shapes}")
    found = []
    for row, where in zip(tokens, target, strict=True):
        said = vocabulary.decode(row[where])
        found.append(said[: said.index(END)] if END in said else said)
    return found
