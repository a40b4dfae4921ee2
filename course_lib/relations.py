"""How a wrong answer is related to the right one: by a factor with a name, a sign, a root, an axis, a step.

An answer is a tensor, a number, or a list, tuple or word of those. A relation is told only if it holds in every case
that was tried, and only where the cases are many enough to establish it.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .quantities import name_of, tensor

TOL = 1e-4


@dataclass
class Pair:
    """What one case gave, what it should give, and quantities of the case that a factor can be named after."""

    got: Any
    want: Any
    factors: dict[str, Any] = field(default_factory=dict)


# --- comparing ---


def close(got: Tensor, want: Tensor, tol: float = TOL) -> Tensor:
    """Where got is want, elementwise: to tol of want, or of the largest want below 1; NaN is NaN."""
    size = want.nan_to_num(0, 0, 0).abs()
    room = tol * (size + size.max().clamp(1e-6, 1) if size.numel() else size)
    return ((got - want).abs() <= room) | (got == want) | (got.isnan() & want.isnan())


def same(got: Any, want: Any, tol: float = TOL) -> bool:
    """True when got answers like want: shape, kind and values; errors are alike when they are of one type."""
    if isinstance(want, Exception):
        return type(got) is type(want)
    a, b = tensor(got), tensor(want)
    if b is not None:
        if (
            a is None
            or a.shape != b.shape
            or isinstance(got, bool) != isinstance(want, bool)
        ):
            return False
        return bool(close(a, b, tol).all())
    if isinstance(want, list | tuple):
        alike = isinstance(got, list | tuple) and len(got) == len(want)
        return alike and all(same(v, w, tol) for v, w in zip(got, want, strict=True))
    return type(got) is type(want) and got == want


# --- relations of tensors of one shape ---


def ratio(got: Tensor, want: Tensor) -> Tensor | None:
    """got / want, if it is one number (a scalar), or one for each entry of the first axis; NaN where want is 0."""
    zero = want.abs() <= 1e-9 * want.abs().max().clamp(min=1e-30)
    if zero.all() or (got.abs() > TOL)[zero].any() or not got.isfinite().all():
        return None
    r = torch.where(zero, torch.nan, got / want)
    for whole in (
        r.flatten(),
        r.flatten(1) if r.ndim > 1 else r[:, None] if r.ndim else None,
    ):
        if whole is None:
            return None
        low = whole.nan_to_num(torch.inf).amin(-1)
        high = whole.nan_to_num(-torch.inf).amax(-1)
        seen = low <= high
        if ((high - low).abs()[seen] <= 2e-4 * high.abs()[seen]).all():
            return torch.where(seen, (low + high) / 2, torch.nan)
    return None


def enough(pairs: list[Pair], least: int = 2) -> bool:
    """True when the wanted values are at least so many different ones, not counting 0."""
    values = torch.cat([tensor(p.want).flatten() for p in pairs] or [torch.zeros(0)])
    return len(values[values != 0].round(decimals=9).unique()) >= least


def factor(pairs: list[Pair]) -> tuple[str, bool] | None:
    """The factor that separates got from want, and whether it has a name or one value: "K = 5 times", "-1"."""
    pairs = [
        p for p in pairs if tensor(p.want).any() or tensor(p.got).any()
    ]  # 0 is 0 times anything
    if not pairs or not enough(pairs):
        return None
    ratios = [ratio(tensor(p.got), tensor(p.want)) for p in pairs]
    if any(r is None for r in ratios):
        return None
    flat = torch.cat([r.flatten() for r in ratios])
    flat = flat[~flat.isnan()]
    if ((flat - 1).abs() <= 2e-4).all():
        return None
    if ((flat + 1).abs() <= 2e-4).all():
        return "-1", True
    if (flat == 0).all():
        return "0", True
    minus = "minus " if (flat < 0).all() else ""
    name = name_of(
        [r.abs() for r in ratios] if minus else ratios, [p.factors for p in pairs]
    )
    one = bool((flat - flat[0]).abs().max() <= 2e-4 * flat[0].abs())
    number = f"{abs(flat[0].item()):.4g}"
    if name and one and name != number:
        return f"{minus}{name} = {number} times", True
    if name or one:
        return f"{minus}{name or number} times", True
    if all(r.ndim == 0 for r in ratios) and len(enough_entries(pairs)) == len(pairs):
        return ", ".join(f"{r.item():.4g}" for r in ratios[:3]), False
    return None


def times(pairs: list[Pair]) -> str | None:
    """The sentence of a factor that has a name, or is the same in all cases."""
    found = factor(pairs)
    if found is None or not found[1]:
        return None
    text = found[0]
    if text == "-1":
        return "your answer has the wrong sign: otherwise it is right"
    if text == "0":
        return "your answer is 0 everywhere"
    return f"your answer is {text} what is expected, everywhere: where does this factor come from?"


def multiple(pairs: list[Pair]) -> str | None:
    """The sentence of a factor that is one number in all cases."""
    text = times(pairs)
    plain = [
        Pair(p.got, p.want) for p in pairs
    ]  # no quantities of the case to name it after
    return text if text and times(plain) else None


def common(pairs: list[Pair]) -> str | None:
    """The sentence of a factor that differs from case to case, and is one for all entries of each."""
    found = factor(pairs)
    if found is None or found[1]:
        return None
    return (
        f"within each case your answer is off by one factor ({found[0]} in the cases tried): "
        "which factor do all its entries share?"
    )


def amount(pairs: list[Pair]) -> str | None:
    """How large one argument's part is: "is K = 5 times too large", "has the wrong sign"."""
    found = factor(pairs)
    if found is None or not found[1]:
        return None
    if found[0] == "-1":
        return "has the wrong sign"
    return (
        "has no part in it" if found[0] == "0" else f"is {found[0]} what it should be"
    )


def enough_entries(pairs: list[Pair]) -> list[Pair]:
    """The cases that have two different values or more themselves."""
    return [p for p in pairs if enough([p])]


def difference(pairs: list[Pair]) -> str | None:
    """The constant that separates got from want, with its name."""
    if not enough(pairs):
        return None
    gaps = [tensor(p.got) - tensor(p.want) for p in pairs]
    if any(
        not g.isfinite().all() or (g - g.mean()).abs().max() > 2e-4 * g.mean().abs()
        for g in gaps
    ):
        return None
    means = torch.stack([g.mean() for g in gaps])
    one = (means - means[0]).abs().max() <= 2e-4 * means[0].abs()
    if one and abs(abs(means[0].item()) - 1) < 1e-4:
        return (
            f"your answer is 1 too {'large' if means[0] > 0 else 'small'}, everywhere"
        )
    name = (
        name_of([m.abs() for m in means], [p.factors for p in pairs])
        if (means > 0).all() or (means < 0).all()
        else None
    )
    more = "large" if means[0] > 0 else "small"
    if name:
        return (
            f"your answer is too {more} by {name}, everywhere: a term of this size is "
            f"{'too much' if means[0] > 0 else 'missing'}"
        )
    if one:
        return f"your answer is too {more} by {abs(means[0].item()):.4g}, everywhere: which constant is that?"
    return None


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
