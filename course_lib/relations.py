"""How a wrong answer is related to the right one: by a factor with a name, a sign, a root, an axis, a step.

An answer is a tensor, a number, or a list, tuple or word of those. A relation is told only if it holds in every case
that was tried, and only where the cases are many enough to establish it.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from .compare import Pair, close, same
from .factors import difference, enough, times
from .quantities import tensor

# --- relations of tensors of one shape ---


def normalised(x: Tensor) -> Tensor:
    """Divided by the sum over the last axis."""
    return x / x.sum(-1, keepdim=True)


# what got may be of want, and the sentence; each is tried in every case
MAPS: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("your answer is the square of what is expected: a root is missing", torch.square),
    (
        "your answer is the root of what is expected: is it a standard deviation where a variance belongs?",
        torch.sqrt,
    ),
    ("your answer is 1 over what is expected: it is upside down", torch.reciprocal),
    ("your answer is 1 minus what is expected", lambda w: 1 - w),
    ("your answer is the logarithm of what is expected", torch.log),
    ("your answer is the exponential of what is expected", torch.exp),
    ("your answer is the absolute value of what is expected", torch.abs),
    (
        "your answer is what is expected, with negative values cut to 0",
        lambda w: w.clamp(min=0),
    ),
    ("your answer is what is expected, cut to 1", lambda w: w.clamp(max=1)),
    ("your answer is what is expected, rounded down", torch.floor),
    ("your answer is what is expected, rounded up", torch.ceil),
]
AXES: list[tuple[str, Callable[[Tensor, int], Tensor]]] = [
    (
        "your answer is turned round along axis {axis}: what is first there should be last",
        lambda w, a: w.flip(a),
    ),
    (
        "your answer is shifted by one along axis {axis}: each entry stands one place too late",
        lambda w, a: w.roll(1, a),
    ),
    (
        "your answer is shifted by one along axis {axis}: each entry stands one place too early",
        lambda w, a: w.roll(-1, a),
    ),
    (
        "your answer is what is expected, added up along axis {axis} (a cumulative sum)",
        lambda w, a: w.cumsum(a),
    ),
    (
        "your answer is the mean over axis {axis}, once for each entry",
        lambda w, a: w.mean(a, keepdim=True).expand_as(w),
    ),
    (
        "your answer is the sum over axis {axis}, once for each entry",
        lambda w, a: w.sum(a, keepdim=True).expand_as(w),
    ),
]


def holds(
    pairs: list[Pair], of: Callable[[Tensor], Tensor], back: bool = False
) -> bool:
    """True when got = of(want) in every case (back: want = of(got)), and got is not want."""
    try:
        ends = [(tensor(p.want), tensor(p.got)) for p in pairs]
        made = [(of(b), a) if back else (of(a), b) for a, b in ends]
    except (RuntimeError, IndexError):
        return False
    fits = all(
        m.shape == x.shape and m.isfinite().all() and close(m, x).all() for m, x in made
    )
    return fits and any(a.shape != b.shape or not close(b, a).all() for a, b in ends)


def exponentiated(pairs: list[Pair]) -> bool:
    """True when each row of got is softmax(c want), c > 0 its own; a row of three values or more tells."""
    tell = 0
    for got, want in ((tensor(p.got), tensor(p.want)) for p in pairs):
        if not want.is_floating_point() or want.ndim == 0 or got.min() <= 0:
            return False
        high, low = want.max(-1, keepdim=True), want.min(-1, keepdim=True)
        logs = got.log() - got.gather(-1, low.indices).log()
        wide, rise = high.values - low.values, logs.gather(-1, high.indices)
        if wide.min() < 1e-3 or rise.min() <= 0:
            return False
        place = (want - low.values) / wide  # between 0 and 1
        if not ((logs / rise - place).abs() < 1e-4).all():
            return False
        tell += ((place > 0.05) & (place < 0.95)).any(-1).sum().item()
    sums = all(
        close(tensor(p.got).sum(-1), tensor(p.want).sum(-1)).all() for p in pairs
    )
    return sums and tell > 1


def mapped(pairs: list[Pair]) -> str | None:
    """The function that separates got from want."""
    if not enough(pairs):
        return None
    for text, of in MAPS:
        if holds(pairs, of):
            return text
    if holds(pairs, normalised, back=True):
        return "your answer is right up to the normalisation: divide by its sum over the last axis"
    if holds(pairs, lambda g: g.softmax(-1), back=True):
        return "the softmax of your answer is what is expected: these are logits, or logarithms that do not sum to 1"
    if exponentiated(pairs):
        return (
            "your answer is a softmax of multiples of what is expected: they are no logarithms, "
            "so divide by their sum instead"
        )
    most = min(tensor(p.want).ndim for p in pairs)
    for i, j in itertools.combinations(range(most), 2):
        if holds(pairs, lambda w, i=i, j=j: w.transpose(i, j)):
            return f"your answer is transposed: axes {i} and {j} have changed places"
    for axis in range(most):
        for text, along in AXES:
            if holds(pairs, lambda w, along=along, axis=axis: along(w, axis)):
                return text.format(axis=axis)
    return None


# --- relations of tensors of different shapes ---


def reshaped(pairs: list[Pair]) -> str | None:
    """What was done to an axis too much or too little."""
    most = min(tensor(p.want).ndim for p in pairs)
    least = min(tensor(p.got).ndim for p in pairs)
    for axes in (
        axes
        for n in range(1, most + 1)
        for axes in itertools.combinations(range(most), n)
    ):
        where = (
            "all its numbers"
            if len(axes) == most
            else "axis " + " and ".join(map(str, axes))
        )
        if holds(pairs, lambda w, axes=axes: w.sum(axes)):
            return f"your answer is what is expected, summed over {where}: that much should be kept apart"
        if holds(pairs, lambda w, axes=axes: w.mean(axes)):
            return f"your answer is what is expected, averaged over {where}: that much should be kept apart"
    for axis in range(least):
        if holds(pairs, lambda g, axis=axis: g.sum(axis), back=True):
            return f"the numbers are right one by one, and their sum over axis {axis} is asked for"
        if holds(pairs, lambda g, axis=axis: g.mean(axis), back=True):
            return f"the numbers are right one by one, and their mean over axis {axis} is asked for"
        if holds(pairs, lambda g, axis=axis: g.select(axis, 0), back=True):
            return f"along axis {axis} your answer begins with what is expected, and there is more of it than asked for"
    if holds(pairs, lambda g: g.diagonal(), back=True):
        return (
            "every example meets every other: (B,) and (B, 1) were spread against each "
            "other, and only the diagonal is asked for"
        )
    gots = [tensor(p.got) for p in pairs]
    if all(
        g.numel() == tensor(p.want).numel() for g, p in zip(gots, pairs, strict=True)
    ):
        if holds(
            [
                Pair(g.reshape(tensor(p.want).shape), p.want)
                for g, p in zip(gots, pairs, strict=True)
            ],
            lambda w: w,
        ) or all(
            close(g.reshape(tensor(p.want).shape), tensor(p.want)).all()
            for g, p in zip(gots, pairs, strict=True)
        ):
            return "the numbers are right"
        for order in itertools.permutations(range(most)):
            if holds(pairs, lambda w, order=order: w.permute(order)):
                return f"the numbers are right, and the axes stand in the order {order}"
    return None


# --- where it is wrong ---


def where(pairs: list[Pair]) -> str | None:
    """The part of the answer that is wrong, where the rest is right: an index of an axis, or (off) the diagonal."""
    for axis in range(min(tensor(p.want).ndim for p in pairs)):
        for index, text in ((0, "first"), (-1, "last")):
            if all(_only(p, axis, index) for p in pairs) and any(
                not same(p.got, p.want) for p in pairs
            ):
                return f"it is wrong only in the {text} entry of axis {axis}"
    squares = [
        p
        for p in pairs
        if tensor(p.want).ndim == 2 and len(set(tensor(p.want).shape)) == 1
    ]
    if len(squares) == len(pairs):
        wrong = [~close(tensor(p.got), tensor(p.want)) for p in pairs]
        eyes = [torch.eye(len(w)) > 0 for w in wrong]
        if all(not w[~eye].any() for w, eye in zip(wrong, eyes, strict=True)):
            return "it is wrong only on the diagonal"
        if all(not w[eye].any() for w, eye in zip(wrong, eyes, strict=True)):
            return "it is right on the diagonal and wrong beside it"
    return None


def _only(pair: Pair, axis: int, index: int) -> bool:
    """True when nothing but that entry of the axis is wrong."""
    right = close(tensor(pair.got), tensor(pair.want))
    size = right.shape[axis]
    others = [i for i in range(size) if i != index % size]
    return bool(size > 2 and right.index_select(axis, torch.tensor(others)).all())


# --- conditions ---


def conditions(pairs: list[Pair]) -> str | None:
    """Answers of True and False: turned round, True in too many places, in too few."""
    both = [v for p in pairs for v in (p.got, p.want)]
    if not all(isinstance(v, Tensor) and v.dtype == torch.bool for v in both):
        return None
    if all((p.got == ~p.want).all() for p in pairs):
        return "your answer is the opposite everywhere: True stands where False belongs"
    more = any((p.got & ~p.want).any() for p in pairs)
    less = any((p.want & ~p.got).any() for p in pairs)
    if more and not less:
        return "every True that belongs there is there, and some stand where False belongs: which are too many?"
    if less and not more:
        return "every True of yours belongs there, and some are missing: which places do you shut out?"
    return None


# --- lists ---


def listed(pairs: list[Pair]) -> str | None:
    """How lists differ: turned round, cut, longer, in another order."""
    lists = [(list(p.got), list(p.want)) for p in pairs]

    def all_(test: Callable[[list, list], bool]) -> bool:
        return all(test(g, w) for g, w in lists)

    if all_(lambda g, w: g == w[::-1]):
        return "your list is right, turned round: what is first should be last"
    if all_(lambda g, w: g == w[: len(g)]):
        return "your list is right as far as it goes: what is missing at its end?"
    if all_(lambda g, w: w == g[: len(w)]):
        return "your list begins with what is expected and then goes on: what is too much at its end?"
    if all_(lambda g, w: g == w[-len(g) :] if g else False):
        return "your list lacks what is expected at its beginning"
    if all_(lambda g, w: sorted(map(repr, g)) == sorted(map(repr, w))):
        return "your list has the right entries in another order"
    if all_(lambda g, w: len(g) == len(w) - 1):
        return "your list is one entry short"
    if all_(lambda g, w: len(g) == len(w) + 1):
        return "your list has one entry too many"
    return None


def relation(pairs: list[Pair]) -> str | None:
    """The simplest sentence about got and want that is true in every case; None if there is none."""
    if all(
        isinstance(p.got, list | tuple) and isinstance(p.want, list | tuple)
        for p in pairs
    ):
        return listed(pairs)
    if any(tensor(p.got) is None or tensor(p.want) is None for p in pairs):
        return None
    if any(tensor(p.got).shape != tensor(p.want).shape for p in pairs):
        return reshaped(pairs)
    return times(pairs) or difference(pairs) or mapped(pairs)
