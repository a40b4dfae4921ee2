"""The mistakes that an exercise lists, written as text."""

import inspect
import textwrap
from collections.abc import Callable, Mapping

from .edits import built, edited

# label -> (wrong answer, its hint)
Mistakes = Mapping[str, tuple[Callable | str, str]]


def listed(text: str) -> dict[str, tuple[str, str]]:
    """Label -> (wrong answer, hint) of a text: a label, and further in the wrong answer in one line and its hint.

        alpha_bar without its root
            abar.sqrt() * x0 -> abar * x0
            alpha_bar is a share of the variance: what is then the factor on x0?

    A wrong answer that is long goes on further in still. What it may be says `wrong_answer`.
    """
    found = {}
    for line in textwrap.dedent(text).strip("\n").splitlines():
        words = line.strip()
        depth = len(line) - len(line.lstrip())
        if words and not depth:
            label, inside = words, None
            if label in found:
                raise ValueError(f"two mistakes have the label {label!r}")
            found[label] = ("", "")
        elif words:
            inside = inside or depth
            wrong, hint = found[label]
            if not wrong or (depth > inside and not hint):
                found[label] = (f"{wrong} {words}".strip(), hint)
            else:
                found[label] = (wrong, f"{hint} {words}".strip())
    for label, (wrong, hint) in found.items():
        if not wrong or not hint:
            raise ValueError(
                f"the mistake {label!r} must have a wrong answer and a hint"
            )
    return found


def wrong_answer(reference: Callable, wrong: Callable | str) -> Callable:
    """The wrong answer as a function.

    "old -> new"   the reference with that text changed, several changes apart by " ; "
    "= expression" what the reference's arguments are made into
    "name"         a function of the reference's module, or a call that gives one
    """
    if callable(wrong):
        return wrong
    if is_edit(wrong):
        return edited(reference, wrong)
    if not wrong.startswith("= "):
        return eval(wrong, dict(inspect.unwrap(reference).__globals__))
    arguments = ", ".join(inspect.signature(reference).parameters)
    source = f"def wrong({arguments}):\n    return {wrong[2:]}"
    return built(source, reference, "wrong", wrong)


def is_edit(wrong: Callable | str) -> bool:
    """True for "old -> new"; nothing may stand after the arrow."""
    return isinstance(wrong, str) and (" -> " in wrong or wrong.endswith(" ->"))
