"""Whether an answer is the wanted one: in kind, shape and value."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .quantities import Factors, tensor

TOL = 1e-4


@dataclass
class Pair:
    """What one case gave, what it should give, and quantities of the case that a factor can be named after."""

    got: Any
    want: Any
    factors: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.factors, Factors):
            self.factors = Factors(self.factors)


def close(got: Tensor, want: Tensor, tol: float = TOL) -> Tensor:
    """Where got is want, elementwise: to tol of want, or of the largest want below 1; NaN is NaN."""
    size = want.nan_to_num(0, 0, 0).abs()
    room = tol * (size + size.max().clamp(1e-6, 1) if size.numel() else size)
    return ((got - want).abs() <= room) | (got == want) | (got.isnan() & want.isnan())


Tolerance = float | tuple[float, ...]  # for all, or for each part of a tuple


def same(got: Any, want: Any, tol: Tolerance = TOL) -> bool:
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
        room = tol if isinstance(tol, tuple) else [tol] * len(want)
        return alike and all(map(same, got, want, room))
    return type(got) is type(want) and got == want
