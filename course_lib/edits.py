"""The reference's text, changed: as a tree, or by hand with "old -> new"."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable


@functools.cache
def text_of(reference: Callable) -> str:
    """The source of a function that may stand inside another."""
    return textwrap.dedent(inspect.getsource(reference))


def tree_of(reference: Callable) -> ast.FunctionDef:
    """The function as a tree, without its docstring. Raises TypeError for what is no plain function."""
    node = ast.parse(text_of(reference)).body[0]
    if not isinstance(node, ast.FunctionDef):
        raise TypeError(
            f"reference must be a plain function, not {type(node).__name__}"
        )
    node.decorator_list = []
    if ast.get_docstring(node):
        node.body = node.body[1:]
    return node


def built(
    source: ast.Module | str, like: Callable, name: str = "", file: str = "changed"
) -> Callable:
    """The function `name` (that of `like`) of a source, which sees what `like` sees; tracebacks show `file`."""
    space = dict(inspect.unwrap(like).__globals__)
    exec(compile(source, f"<{file}>", "exec"), space)
    return space[name or like.__name__]


def edited(reference: Callable, edits: str) -> Callable:
    """The reference with its text changed: "old -> new", several apart by " ; ". Each old must stand there once.

    Raises ValueError where it does not.
    """
    source = text_of(reference).replace(reference.__doc__ or "", "", 1)
    for edit in edits.split(" ; "):
        old, arrow, new = f"{edit} ".partition(" -> ")
        new = new.removesuffix(" ")
        if not arrow or source.count(old) != 1:
            raise ValueError(
                f'an edit must be "old -> new" with an old that stands once in {reference.__name__}, not {edit!r}'
            )
        source = source.replace(old, new)
    return built(source, reference, file=f"{reference.__name__}: {edits}")


@functools.cache
def edited_twice(reference: Callable, one: str, two: str) -> Callable | None:
    """The reference with both edits made; None where the first leaves nothing for the second."""
    try:
        return edited(reference, f"{one} ; {two}")
    except (ValueError, SyntaxError):
        return None
