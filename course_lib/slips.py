"""The slips of a formula: the reference with one thing in it changed, each with a sentence that says what.

A wrong answer that equals such a slip in every case is told so, whatever it looks like itself. Nothing of the reference
is shown but arguments and what is made of them directly.
"""

import ast
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .edits import built, tree_of
from .slip_kinds import Names, replacements


@dataclass
class Slip:
    """One change: what it is, and the function that has it."""

    text: str
    wrong: Callable


@functools.cache
def slips(reference: Callable) -> list[Slip]:
    """All functions that differ from the reference in one place. None where a changed loop might not end."""
    root = tree_of(reference)
    if any(isinstance(n, ast.While) for n in ast.walk(root)):
        return []
    module, names, found = ast.Module([root], []), Names(root), []
    for parent, name, index in list(_places(root)):
        node = _get(parent, name, index)
        seen = {ast.unparse(node)}
        for new, text in list(replacements(node, names)):
            ast.fix_missing_locations(new)
            source = ast.unparse(new)
            if source in seen:
                continue
            seen.add(source)
            _put(parent, name, index, new)
            try:
                found.append(Slip(text, built(module, reference)))
            except (SyntaxError, ValueError, TypeError):
                continue
            finally:
                _put(parent, name, index, node)
    return found


def _places(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Every expression, outer ones first: the node above it, and where it hangs there."""
    for name, value in ast.iter_fields(node):
        if name in ("targets", "args") and isinstance(
            node, ast.Assign | ast.FunctionDef
        ):
            continue
        several = isinstance(value, list)
        for index, child in enumerate(value if several else [value]):
            if not isinstance(child, ast.AST):
                continue
            stored = isinstance(getattr(child, "ctx", None), ast.Store)
            if isinstance(child, ast.expr) and not stored:
                yield node, name, index if several else None
            yield from _places(child)


def _get(parent: ast.AST, name: str, index: int | None) -> ast.AST:
    value = getattr(parent, name)
    return value if index is None else value[index]


def _put(parent: ast.AST, name: str, index: int | None, new: ast.AST) -> None:
    if index is None:
        setattr(parent, name, new)
    else:
        getattr(parent, name)[index] = new
