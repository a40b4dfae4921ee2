"""Exercises that check themselves. A wrong answer stops nothing."""

import ast
import contextlib
import importlib.util
import inspect
import linecache
import os
import random
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

import numpy as np
import torch
from IPython.display import display

from .checks import Check, Mistakes, copied, hints_of, overwritten, unchanged


@dataclass
class Exercise:
    """One exercise, and how far the reader got in this session: TODO, FAIL or PASS."""

    name: str
    reference: Callable
    check: Check
    mistakes: Mistakes
    state: str = "TODO"
    stub: CodeType | None = None
    attempted: bool = False

    @property
    def wrong(self) -> dict[str, Callable]:
        """The classic wrong answers by label."""
        return {label: wrong for label, (wrong, _) in self.mistakes.items()}

    @property
    def hints(self) -> dict[str, str]:
        """The hint of each classic mistake."""
        return hints_of(self.mistakes)


REGISTRY: dict[str, Exercise] = {}


def define(reference: Callable, check: Check, mistakes: Mistakes) -> None:
    """Register the exercise `<chapter>.<function>`, named after the reference and its module.

    check(fn) returns None for a right answer, else a hint aimed at the mistake made; mistakes holds three or more
    classic ones. A test proves that the check answers each with its own hint.
    """
    name = f"{reference.__module__.rpartition('.')[2]}.{reference.__name__}"
    if not reference.__name__.isidentifier():
        raise ValueError(
            f"reference must be a function with a name, not {reference.__name__}"
        )
    if len(mistakes) < 3:
        raise ValueError(
            f"mistakes must hold at least 3 wrong answers to {name}, not {len(mistakes)}"
        )
    REGISTRY[name] = Exercise(name, reference, check, mistakes)


def of_chapter(chapter: str) -> list[Exercise]:
    """The exercises of a chapter, in order; its solutions module is imported when first asked for.

    Raises ValueError where course_lib.solutions has no such module.
    """
    module = f"{__package__}.solutions.{chapter}"
    if not any(name.startswith(f"{chapter}.") for name in REGISTRY):
        if not chapter.isidentifier() or importlib.util.find_spec(module) is None:
            raise ValueError(
                f"chapter must name a module of course_lib.solutions, not {chapter!r}"
            )
        importlib.import_module(module)
    return [spec for name, spec in REGISTRY.items() if name.startswith(f"{chapter}.")]


def find(name: str) -> Exercise:
    """The exercise of that name. Raises ValueError with the names of its chapter where there is none."""
    specs = {spec.name: spec for spec in of_chapter(name.split(".")[0])}
    if name not in specs:
        raise ValueError(
            f"no exercise is called {name!r}; this chapter has: {', '.join(specs)}"
        )
    return specs[name]


def exercise(name: str) -> Callable[[Callable], Callable]:
    """Decorator for the reader's function: prints TODO, FAIL with a hint, or PASS.

    Until it passes the reference is used in its place, and the line says so.
    """
    spec = find(name)

    def judge(fn: Callable) -> Callable:
        if not inspect.isfunction(inspect.unwrap(fn)):
            raise TypeError(
                f"@exercise({name!r}) goes over a function, not over {type(fn).__name__}"
            )
        solved = os.environ.get("COURSE_SOLUTIONS") == "1"
        spec.state, text = grade(spec, spec.reference if solved else fn)
        spec.stub = spec.stub or fn.__code__
        spec.attempted |= not solved and (
            spec.state != "TODO" or fn.__code__ != spec.stub
        )
        if spec.state == "PASS":
            print(f"[PASS] {name}" + " (by the reference: COURSE_SOLUTIONS=1)" * solved)
            return spec.reference if solved else fn
        print(
            f"[{spec.state}] {name}: {text} (the reference is used below until this passes)"
        )
        return spec.reference

    return judge


def grade(spec: Exercise, fn: Callable) -> tuple[str, str]:
    """State and hint of an answer; the check starts from seed 0 and leaves no trace in the random state."""
    inner = inspect.unwrap(fn)
    if is_stub(inner):
        return "TODO", "not attempted yet"
    answer = Answer(fn)
    try:
        with seeded():
            hint = spec.check(answer)
    except Exception as error:
        return crash(error, inner.__code__, answer.returned)
    if not hint and answer.overwrote:  # a hint of the exercise's own comes first
        hint = overwritten(answer.overwrote)
    return ("FAIL", hint) if hint else ("PASS", "")


NOTHING = object()  # what a call of the reader's function has returned so far


class Answer:
    """The reader's function as a check calls it: on copies of the arguments, since these are not its own to change.

    returned   what each call gave; NOTHING for one that did not end
    overwrote  the name of the first argument that a call changed in place
    """

    def __init__(self, fn: Callable):
        self.fn, self.returned, self.overwrote = fn, [], None

    def __call__(self, *args, **kwargs) -> Any:
        self.returned.append(NOTHING)
        lent, lent_by_name = copied(args), copied(kwargs)
        result = self.fn(*lent, **lent_by_name)
        self.returned[-1] = result
        if result is None:
            raise TypeError("your function returned None: is a return missing?")
        if self.overwrote is None:
            given, left = (
                named(self.fn, args, kwargs),
                named(self.fn, lent, lent_by_name),
            )
            self.overwrote = next(
                (name for name in given if not unchanged(given[name], left[name])), None
            )
        return result


def named(fn: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    """The arguments of a call by the names that fn gives them."""
    return inspect.signature(fn).bind(*args, **kwargs).arguments


def is_stub(fn: Callable) -> bool:
    """True for a body that does nothing: `...`, `pass`, a docstring alone, or their return."""
    try:
        source = inspect.getsource(fn)
        block = (
            "if True:\n" + source if source[0].isspace() else source
        )  # a function inside another block
        found = [
            node
            for node in ast.walk(ast.parse(block))
            if isinstance(node, ast.FunctionDef)
        ]
    except (OSError, TypeError, SyntaxError):  # no source, or a part of a statement
        return False
    return bool(found) and all(map(does_nothing, found[0].body))


def does_nothing(statement: ast.stmt) -> bool:
    """True for `pass`, for a constant that stands alone, and for the return of None or `...`."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.Return):
        value = statement.value or ast.Constant(None)
        return isinstance(value, ast.Constant) and value.value in (None, ...)
    return isinstance(statement, ast.Pass)


def crash(error: Exception, inner: CodeType, returned: list) -> tuple[str, str]:
    """What an exception says: still to do, an error in the reader's line, or a result of the wrong kind."""
    frames = [
        (frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    codes = [code for code, _ in frames]
    if (
        isinstance(error, NotImplementedError)
        and "NotImplementedError" in codes[-1].co_names
    ):
        return "TODO", "not attempted yet"
    message = " ".join(f"{type(error).__name__}: {error}".split())
    if inner in codes:
        file = inner.co_filename
        line = [
            line
            for code, line in frames[codes.index(inner) :]
            if code.co_filename == file
        ][-1]
        return (
            "FAIL",
            f"{message}, in line {line}: {linecache.getline(file, line).strip()}",
        )
    if not returned:
        raise error
    if returned[-1] is None or returned[-1] is NOTHING:
        return "FAIL", message
    return (
        "FAIL",
        f"the check cannot use the {type(returned[-1]).__name__} that you returned ({message})",
    )


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Inside: torch, numpy and random start from seed 0. After: they go on as if nothing had been drawn."""
    devices = (
        list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    )
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices):
        torch.random.default_generator.manual_seed(0)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def progress(chapter: str) -> None:
    """Print how many exercises of the chapter are solved, and the state of each.

    Raises RuntimeError if one is not although COURSE_SOLUTIONS=1: a solved run must solve all.
    """
    specs = of_chapter(chapter)
    print(
        f"{sum(s.state == 'PASS' for s in specs)}/{len(specs)} exercises solved in chapter {chapter}"
    )
    for spec in specs:
        print(f"[{spec.state}] {spec.name}")
    unsolved = [spec.name for spec in specs if spec.state != "PASS"]
    if unsolved and os.environ.get("COURSE_SOLUTIONS") == "1":
        raise RuntimeError(
            f"COURSE_SOLUTIONS=1 must solve every exercise, but not {', '.join(unsolved)}"
        )


def show_solution(name: str, anyway: bool = False) -> None:
    """Print the source of the reference, once the reader has tried."""
    spec = find(name)
    if spec.attempted or anyway:
        print(inspect.getsource(spec.reference).rstrip())
    else:
        print(
            f'{name}: try it first. To see it all the same: show_solution("{name}", anyway=True)'
        )


def mistakes(chapter: str) -> None:
    """Show the chapter's common mistakes, each with the hint that its check gives."""
    plain, rich = [], []
    for spec in of_chapter(chapter):
        plain.append(f"{spec.name}")
        rich.append(f"\n**{spec.name}**\n")
        for label, wrong in spec.wrong.items():
            hint = grade(spec, wrong)[1]
            plain.append(f"- {label}: {hint}")
            rich.append(
                re.sub(r"([*<$`])", r"\\\1", f"- {label}: ")
                + re.sub(r"([*<$`])", r"\\\1", hint)
            )
    display(
        {"text/plain": "\n".join(plain), "text/markdown": "\n".join(rich).strip()},
        raw=True,
    )
