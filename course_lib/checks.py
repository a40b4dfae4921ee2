"""What an exercise is: a reference, the cases that it is tried in, what holds of every answer, and listed mistakes."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .answers import copied
from .compare import Tolerance
from .listed import Mistakes, listed, wrong_answer

Check = Callable[
    [Callable], str | None
]  # the reader's function -> None if it is right, else a hint
Change = Mapping[
    str, Any
]  # argument -> its new value, or a function of the case's arguments that gives it
Property = Callable[
    [Any, SimpleNamespace], str | None
]  # (answer, arguments by name) -> what is broken


@dataclass
class Case:
    """Arguments that an answer is tried with.

    name      how the case is called where its arguments say little
    because   for a limit: why the answer is what it is there
    want      the right answer, where it was made together with the arguments
    """

    args: tuple
    name: str = ""
    because: str = ""
    want: Any = None

    @staticmethod
    def of(given: Any) -> "Case":
        """A case, or a tuple of arguments as one."""
        return given if isinstance(given, Case) else Case(tuple(given))

    def changed(self, parameters: list[str], change: Change) -> tuple:
        """The arguments with some of them replaced."""
        a = SimpleNamespace(**dict(zip(parameters, copied(self.args), strict=True)))
        row = [
            change.get(name, value)
            for name, value in zip(parameters, self.args, strict=True)
        ]
        return tuple(
            v(a) if name in change and callable(v) else v
            for name, v in zip(parameters, row, strict=True)
        )

    def size(self) -> int:
        """How much there is to read in it."""
        return sum(
            v.numel()
            if isinstance(v, Tensor)
            else len(v)
            if isinstance(v, list | str | dict)
            else 1
            for v in self.args
        )

    def said(self) -> str:
        """The case in a few words."""
        return f"for {self.name or self.listing}"

    listing: str = ""


def case(*args: Any, name: str = "", want: Any = None) -> Case:
    """A case with a name, or with its answer."""
    return Case(args, name, want=want)


@dataclass
class Exercise:
    """One exercise, and how far the reader got in this session: TODO, FAIL or PASS. `define` explains the parts."""

    name: str
    reference: Callable
    mistakes: Mistakes | str
    cases: Callable[[], list] | None = None
    truth: Callable | None = None
    limits: Mapping[str, Change] = field(default_factory=dict)
    ignores: Mapping[str, Change] = field(default_factory=dict)
    linear_in: tuple[str, ...] = ()
    properties: tuple[Property, ...] = ()
    gradients: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    factors: Mapping[str, Callable] = field(default_factory=dict)
    read: Callable | None = None
    tol: Tolerance = 1e-4
    draws: bool | None = False
    shows: Mapping[str, Callable] = field(default_factory=dict)
    once: tuple[str, ...] = ()
    without: Mapping[str, Callable] = field(default_factory=dict)
    also: Check | None = None
    state: str = "TODO"
    stub: Any = None
    attempted: bool = False

    def __post_init__(self):
        self.truth = self.truth or self.reference
        if isinstance(self.mistakes, str):
            self.mistakes = listed(self.mistakes)
        self.parameters = list(inspect.signature(self.reference).parameters)

    @cached_property
    def wrong(self) -> dict[str, Callable]:
        """The listed wrong answers by label."""
        return {
            label: wrong_answer(self.reference, wrong)
            for label, (wrong, _) in self.mistakes.items()
        }

    @property
    def hints(self) -> dict[str, str]:
        """The hint of each listed mistake."""
        return hints_of(self.mistakes)

    def all_cases(self) -> list[Case]:
        """The cases, then the limits, which change some arguments of the first."""
        found = [Case.of(given) for given in self.cases()]
        found += [
            Case(found[0].changed(self.parameters, change), because=sentence)
            for sentence, change in self.limits.items()
        ]
        for one in found:
            one.listing = arguments(self.parameters, one.args)
        return found


# --- how values are shown ---


def shown(x: Any) -> str:
    """A value in a few words: numbers to four digits, what is large by its shape."""
    if isinstance(x, Tensor):
        if x.numel() > 8:
            return f"shape {tuple(x.shape)}"
        return _numbers((x.int() if x.dtype == torch.bool else x.detach()).tolist())
    if isinstance(x, list | tuple) and not all(
        isinstance(v, int | float | str) for v in x
    ):
        return "(" + ", ".join(map(shown, x)) + ")"
    if isinstance(x, list | tuple):
        return str(x) if len(x) <= 12 else f"{list(x[:4])} and {len(x) - 4} more"
    return (
        f"{x:.4g}"
        if isinstance(x, float)
        else repr(x)
        if isinstance(x, str | int | bool)
        else type(x).__name__
    )


def _numbers(x: Any) -> str:
    if isinstance(x, list):
        return "[" + ", ".join(map(_numbers, x)) + "]"
    return f"{x:.4g}" if isinstance(x, float) else str(x)


def arguments(parameters: list[str], args: tuple) -> str:
    """name = value, for what can be shown in a line."""
    small, large = [], []
    for name, value in zip(parameters, args, strict=True):
        if isinstance(value, Tensor | int | float | str | list | tuple):
            text = shown(value)
            where = large if text.startswith("shape") or len(text) > 60 else small
            where.append(f"{name} of {text}" if where is large else f"{name} = {text}")
    told = small or large
    return (
        ", ".join(told if len(", ".join(told)) <= 140 else told[:2]) or "the case tried"
    )


# --- properties ---


def law(axis: int = -1) -> Property:
    """Every number at least 0, and their sum over the axis 1."""

    def ask(got: Any, a: SimpleNamespace) -> str | None:
        if not isinstance(got, Tensor) or got.ndim == 0:
            return None
        sums = got.detach().double().sum(axis)
        off = (sums - 1).abs()
        if got.min() < -1e-6:
            return (
                f"your answer holds {got.min().item():.4g}: no probability is negative"
            )
        if off.max() > 1e-4:
            return f"your numbers sum to {sums.flatten()[off.argmax()].item():.4g}, and a distribution sums to 1"
        return None

    return ask


def at_least(low: int | float, why: str = "") -> Property:
    """No number below."""
    return limited(torch.min, lambda least: least < low - 1e-6, f"below {low:g}", why)


def at_most(high: int | float, why: str = "") -> Property:
    """No number above."""
    return limited(torch.max, lambda most: most > high + 1e-6, f"above {high:g}", why)


def limited(
    edge: Callable, beyond: Callable[[float], bool], where: str, why: str
) -> Property:
    """No number beyond a limit: `edge` picks the one to look at, `beyond` says whether it is too far."""
    reason = f": {why}" if why else ""

    def ask(got: Any, a: SimpleNamespace) -> str | None:
        number = edge(torch.as_tensor(got).double()).item()
        if not beyond(number):
            return None
        return f"your answer holds {number:.4g}, and it cannot be {where}{reason}"

    return ask


def one_of(*answers: Any) -> Property:
    """One of these answers."""

    def ask(got: Any, a: SimpleNamespace) -> str | None:
        allowed = ", ".join(map(repr, answers))
        return (
            None
            if got in answers
            else f"it returned {got!r}, and the answer is one of {allowed}"
        )

    return ask


def falling(got: Any, a: SimpleNamespace) -> str | None:
    """Each number below the one before it."""
    x = torch.as_tensor(got).double()
    if (x.diff() < 0).all():
        return None
    k = int((x.diff() >= 0).int().argmax())
    how = "stay" if x[k] == x[k + 1] else "rise"
    return (
        f"your numbers must fall from each to the next, and {how} from entry {k} to {k + 1}, "
        f"from {x[k]:.4g} to {x[k + 1]:.4g}"
    )


def entries(number: Callable[[SimpleNamespace], int], why: str) -> Property:
    """So many numbers in a row, all of them finite."""

    def ask(got: Tensor, a: SimpleNamespace) -> str | None:
        if got.shape != (number(a),):
            return f"the shape is {tuple(got.shape)}, expected ({number(a)},): {why}"
        return None if got.isfinite().all() else "your numbers are not all finite"

    return ask


def stands_at(
    index: int, number: Callable[[SimpleNamespace], Any], why: str
) -> Property:
    """The first or the last number, and why it is that."""

    def ask(got: Tensor, a: SimpleNamespace) -> str | None:
        where, value = "last" if index else "first", got[index].item()
        if value == number(a):
            return None
        return (
            f"your {where} number is {value:.4g}, and it must be {number(a):g}: {why}"
        )

    return ask


def like(name: str) -> Property:
    """The dtype of an argument."""

    def ask(got: Any, a: SimpleNamespace) -> str | None:
        want = getattr(a, name).dtype
        return (
            None
            if got.dtype == want
            else f"your answer is in {got.dtype}, and {name} in {want}: what comes next expects the same"
        )

    return ask


def hints_of(mistakes: Mistakes) -> dict[str, str]:
    """Label -> hint."""
    return {label: hint for label, (_, hint) in mistakes.items()}


# --- comparing, for checks written by hand ---


def close(got: Any, want: Tensor, tol: float = 1e-4) -> bool:
    """True when got is a tensor of want's shape and differs from it nowhere by more than tol."""
    return (
        isinstance(got, Tensor)
        and got.shape == want.shape
        and bool(((got - want).abs() <= tol).all())
    )


def hear(x_t: Tensor, u: Any) -> None:
    """Refuse what a float32 network would refuse: a time that is not one per example, an x_t in float64."""
    if getattr(u, "shape", None) != x_t.shape[:1]:
        got = tuple(u.shape) if isinstance(u, Tensor) else type(u).__name__
        raise ValueError(
            f"the network needs one time u per example, shape ({len(x_t)},), not {got}"
        )
    if x_t.dtype != torch.float32:
        raise TypeError(
            f"the network computes in float32 and was given an x_t in {x_t.dtype}"
        )
