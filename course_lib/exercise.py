"""Exercises that check themselves. A wrong answer stops nothing."""

import html
import importlib.util
import inspect
import os
import re
from collections.abc import Callable
from typing import Any

from IPython.display import display

from .answers import Answer, Hint, crash, is_stub, seeded
from .checks import Exercise
from .diagnosis import judge
from .listed import Mistakes
from .widgets import live

REGISTRY: dict[str, Exercise] = {}


def define(
    reference: Callable,
    mistakes: Mistakes | str,
    **parts: Any,
) -> None:
    """Register the exercise `<chapter>.<function>`, named after the reference and its module.

    cases       () -> tuples of arguments, drawn anew at each call: small ones first, all sizes different
    truth       another way to the right answer, not through the formula; the reference if there is none
    limits      sentence -> arguments of the first case that change: a value, or a function of the case's arguments
    ignores     sentence -> a change that must not move the answer
    linear_in   arguments in which the answer is linear: they are judged one at a time
    properties  (answer, arguments) -> what is broken: `law()`, `at_least(0)` and others of checks.py
    gradients   arguments, or models, by which the answer must have the reference's gradient
    parts       the names of what a tuple holds;  factors: name -> function of the arguments, a number to look for
    read        (answer, arguments) -> the answer in the form of the truth;  tol: what right answers may differ by
    draws       True where an answer draws: `read` counts, or says what a network heard; two calls must differ
                (None: it may draw)
    shows       where many answers are right: listed mistake, or a sentence -> (answer, arguments) -> whether it is so
    once        arguments that are functions, and called once
    without     "a (N, K) tensor": arguments -> its shape; what is to be done without, judged by size in all cases
    also        a check by hand: (function) -> None or a hint
    mistakes    three or more, as text: label, wrong answer, hint (see `listed`); or label -> (wrong answer, hint)

    A test proves that each mistake gets its own hint.
    """
    name = f"{reference.__module__.rpartition('.')[2]}.{reference.__name__}"
    if not reference.__name__.isidentifier():
        raise ValueError(
            f"reference must be a function with a name, not {reference.__name__}"
        )
    spec = Exercise(name, reference, mistakes, **parts)
    if len(spec.mistakes) < 3:
        raise ValueError(
            f"mistakes must hold at least 3 wrong answers to {name}, not {len(spec.mistakes)}"
        )
    REGISTRY[name] = spec


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
            tell("PASS", name, " (by the reference: COURSE_SOLUTIONS=1)" * solved)
            return spec.reference if solved else fn
        tell(
            spec.state,
            name,
            f": {text} (the reference is used below until this passes)",
        )
        return spec.reference

    return judge


# colours of JupyterLab's theme, light or dark
COLOURS = {
    "TODO": "var(--jp-warn-color1, #b45309)",
    "FAIL": "var(--jp-error-color1, #b91c1c)",
    "PASS": "var(--jp-success-color1, #15803d)",
}


def tell(state: str, name: str, text: str) -> None:
    """Print the state and what is said; in a live notebook with colour."""
    plain = f"[{state}] {name}" + text.replace("\n", "\n  ")
    if not live():
        print(plain)
        return
    colour, body = COLOURS[state], html.escape(text).replace("\n", "<br>")
    rich = (
        f'<div style="border-left: 4px solid {colour}; padding-left: 0.6em">'
        f'<b style="color: {colour}">[{state}]</b> <code>{html.escape(name)}</code>{body}</div>'
    )
    display({"text/plain": plain, "text/html": rich}, raw=True)


def grade(spec: Exercise, fn: Callable) -> tuple[str, str]:
    """State and hint of an answer; the check starts from seed 0 and leaves no trace in the random state."""
    inner = inspect.unwrap(fn)
    if is_stub(inner):
        return "TODO", "not attempted yet"
    answer = Answer(fn)
    try:
        with seeded():
            hint = judge(spec, answer)
    except Hint as hint:
        return "FAIL", str(hint)
    except Exception as error:
        return crash(error, inner.__code__, answer.returned)
    return ("FAIL", hint) if hint else ("PASS", "")


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
