"""An answer tried in all cases: what it gave, what is wanted there, and how the smallest case that fails reads."""

import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .answers import copied
from .checks import Case, Exercise, shown
from .compare import Pair, Tolerance, same
from .quantities import Factors, quantities, tensor
from .turns import alike

Function = Callable[..., Any]
APART = 4711  # an answer draws other numbers than its cases were drawn from


class Trial:
    """An answer and what it gave in every case, beside what is wanted there."""

    def __init__(self, spec: Exercise, answer: Function):
        self.spec, self.answer = spec, answer
        self.cases = spec.all_cases()
        self.known: dict[int, Factors] = {}
        self.other = spec.all_cases()  # the same cases, drawn again
        self.want = [self.wanted(case) for case in self.cases]
        self.got = [self.outcome(answer, case.args) for case in self.cases]
        self.wrong = [i for i, case in enumerate(self.cases) if not self.holds(case, i)]

    def wanted(self, case: Case) -> Any:
        """What is right in a case; None of a design, where many answers are."""
        if self.spec.shows:
            return None
        return self.spec.truth(*copied(case.args)) if case.want is None else case.want

    def holds(self, case: Case, i: int) -> bool:
        """True where the answer is right in a case: as wanted, or, of a design, as everything that is asked of it."""
        if not self.spec.shows:
            return self.right(self.got[i], self.want[i])
        return not isinstance(self.got[i], Exception) and not self.broken(case, i)

    def broken(self, case: Case, i: int) -> str | None:
        """The first property that a design lacks, or the hint of the first mistake that shows in it."""
        a = self.named(case.args)
        asked = (ask(self.got[i], a) for ask in self.spec.properties)
        shown = (
            self.spec.hints.get(label, label)
            for label, shows in self.spec.shows.items()
            if shows(self.got[i], a)
        )
        return next((text for text in asked if text), None) or next(shown, None)

    def outcome(self, fn: Function, args: tuple, seed: int = 0) -> Any:
        """What fn gives, in the form of the truth; or what it raises. What it draws starts from the seed."""
        torch.random.default_generator.manual_seed(APART + seed)
        try:
            got = fn(*copied(args))
            ready = self.spec.read and (self.spec.draws or self.whole(got))
            return self.spec.read(got, self.named(args)) if ready else got
        except Exception as error:
            return error

    def whole(self, got: Any) -> bool:
        """True unless parts are asked for, and got does not have them."""
        parts = self.spec.parts
        return not parts or (isinstance(got, list | tuple) and len(got) == len(parts))

    def first(self, got: Any) -> Any:
        """The part in which an answer may be linear: the first, where there are several."""
        several = self.spec.parts and isinstance(got, list | tuple) and got
        return got[0] if several else got

    def right(self, got: Any, want: Any) -> bool:
        whole = (
            isinstance(want, Tensor)
            and not want.is_floating_point()
            and want.dtype != torch.bool
        )
        if whole and isinstance(got, Tensor) and got.is_floating_point():
            return False
        return same(got, want, self.spec.tol)

    def named(self, args: tuple) -> SimpleNamespace:
        return SimpleNamespace(**dict(zip(self.spec.parameters, args, strict=True)))

    def equals(
        self,
        fn: Function,
        change: Function = lambda args: args,
        loose: bool = False,
        tol: float | None = None,
    ) -> bool:
        """True when the answer is that of fn in every case, of the arguments as changed.

        loose: what fn gives where it is not finite does not count, as long as something does.
        tol: the exercise's own, which has room for other methods, if none is given.
        """
        tol = self.spec.tol if tol is None else narrowed(self.spec.tol, tol)
        counted = False
        for k, (case, got) in enumerate(zip(self.cases, self.got, strict=True)):
            try:
                args = change(case.args)
            except Exception:
                return False
            with warnings.catch_warnings():  # nobody wrote what is tried here
                warnings.simplefilter("ignore")
                said = self.outcome(fn, args)
            value = tensor(said)
            if loose and (
                isinstance(said, Exception)
                or (value is not None and not value.isfinite().all())
            ):
                continue
            if not same(got, said, tol):
                return False
            counted |= k in self.wrong
        return counted or not loose

    def alike_pairs(self) -> Iterator[tuple[str, str, int, int]]:
        """Pairs of arguments that could be taken for each other in every case."""
        names = self.spec.parameters
        for i, a in enumerate(names):
            for j, b in enumerate(names):
                if i != j and all(
                    alike(case.args[i], case.args[j]) for case in self.cases
                ):
                    yield a, b, i, j

    def others(self, i: int, k: int) -> Iterator[Any]:
        """Other values of argument i: from the second draw, and from other cases."""
        value = self.cases[k].args[i]
        for case in (self.other[k], *self.cases):
            other = case.args[i]
            if alike(value, other) and not same(other, value, 1e-9):
                yield other

    def pairs(self) -> list[Pair]:
        return [
            Pair(g, w, self.factors(case))
            for g, w, case in zip(self.got, self.want, self.cases, strict=True)
        ]

    def factors(self, case: Case) -> Factors:
        """What a factor may be called after in this case."""
        if id(case) not in self.known:
            a = self.named(case.args)
            own = {name: of(a) for name, of in self.spec.factors.items()}
            self.known[id(case)] = Factors(own | quantities(vars(a)))
        return self.known[id(case)]

    def numbers(self) -> str:
        """The smallest case that fails."""
        k = min(
            self.wrong, key=lambda k: (self.wrong_part(k) or 0, self.cases[k].size())
        )
        got, want = self.values(k)
        said = self.cases[k].said() + ", and only there," * self.only(k)
        return f"{said} it gives {got} where {want} is expected{self.contrast(k)}"

    def only(self, k: int) -> bool:
        """True where all cases with this one's name are wrong, and no others."""
        alike = {i for i, c in enumerate(self.cases) if c.name == self.cases[k].name}
        others = len(alike) < len(self.cases)
        return bool(self.cases[k].name) and others and alike == set(self.wrong)

    def contrast(self, k: int) -> str:
        """A case of the same sizes that is right, by what is different in it."""
        for i, case in enumerate(self.cases):
            pairs = list(
                zip(self.spec.parameters, case.args, self.cases[k].args, strict=True)
            )
            if i in self.wrong or not all(
                alike(v, w) for _, v, w in pairs if isinstance(v, Tensor)
            ):
                continue
            if any(callable(v) and v is not w for _, v, w in pairs):
                continue  # a function has no value to be shown
            other = [
                f"{name} = {shown(v)}" for name, v, w in pairs if not same(v, w, 1e-9)
            ]
            if other and len(", ".join(other)) < 60 and "shape" not in str(other):
                return f"; for {', '.join(other)} it is right"
        return ""

    def values(self, k: int) -> tuple[str, str]:
        """Got and wanted of a case: whole if short, else where they differ most."""
        got, want, of = *self.part_at(k), ""
        if self.spec.parts and want is not self.want[k]:
            of = f" for the {self.spec.parts[self.wrong_part(k)]}"
        got, want = self.differ(got, want)
        return f"{got}{of}", want

    def wrong_part(self, k: int) -> int | None:
        """Of a tuple, the first part that is wrong."""
        got, want = self.got[k], self.want[k]
        if not self.spec.parts or not self.whole(got) or not self.whole(want):
            return None
        right = [same(got[j], want[j], self.room(j)) for j in range(len(want))]
        return right.index(False) if False in right else None

    def room(self, part: int) -> float:
        """What a right answer may differ by in one part."""
        tol = self.spec.tol
        return tol[part] if isinstance(tol, tuple) else tol

    def part_at(self, k: int) -> tuple[Any, Any]:
        """Got and wanted of a case, or of its first part that is wrong."""
        j = self.wrong_part(k)
        return (
            (self.got[k], self.want[k])
            if j is None
            else (self.got[k][j], self.want[k][j])
        )

    @staticmethod
    def differ(got: Any, want: Any) -> tuple[str, str]:
        """Both whole if short, else where they differ most."""
        a, b = tensor(got), tensor(want)
        if a is None or b is None or a.shape != b.shape:
            return shown(got), shown(want)
        if b.numel() <= 4:
            return shown(a), shown(b)
        at = (a - b).abs().nan_to_num(nan=torch.inf).argmax()
        place = [int(v) for v in np.unravel_index(at.item(), b.shape)]
        return (
            f"{a.flatten()[at].item():.4g} at {place}",
            f"{b.flatten()[at].item():.4g}",
        )


def narrowed(tol: Tolerance, most: float) -> Tolerance:
    """The tolerance, no part of it above `most`."""
    return (
        tuple(min(t, most) for t in tol) if isinstance(tol, tuple) else min(tol, most)
    )


def called(fn: Callable, args: tuple) -> Any:
    """What fn gives of copies of the arguments, or what it raises."""
    try:
        return fn(*copied(args))
    except Exception as error:
        return error
