"""The reader's function while it is being judged: called on copies, seeded, and its crashes told as feedback."""

import ast
import contextlib
import inspect
import linecache
import random
import traceback
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Hint(Exception):
    """Raised by what an answer is tried with, a network that listens or a count: the message is the hint."""


def overwritten(name: str) -> str:
    """The hint for a function that changes an argument in place."""
    return (
        f"your function writes into {name}, which is not its own: the cells below would go on with what it left "
        f"there. Which line changes {name} in place (*=, +=, [...] =, or a method that ends in _)?"
    )


def copied(x: Any) -> Any:
    """x with every tensor and array in it copied; gradients still flow. What is no container stays itself."""
    if isinstance(x, Tensor):
        return x.clone()
    if isinstance(x, np.ndarray):
        return x.copy()
    if isinstance(x, dict):
        return {key: copied(value) for key, value in x.items()}
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*map(copied, x))
    return type(x)(map(copied, x)) if type(x) in (list, tuple) else x


def unchanged(x: Any, y: Any) -> bool:
    """True when y, a copy made by `copied`, still holds what x does. NaN equals NaN."""
    if isinstance(x, Tensor):
        x, y = x.detach(), y.detach()
        alike = x.shape == y.shape and x.dtype == y.dtype
        return alike and bool(((x == y) | ((x != x) & (y != y))).all())
    if isinstance(x, np.ndarray):
        return np.array_equal(x, y)
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(unchanged(x[key], y[key]) for key in x)
    if isinstance(x, list | tuple):
        return len(x) == len(y) and all(map(unchanged, x, y))
    return x is y


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
            given = named(self.fn, args, kwargs)
            left = named(self.fn, lent, lent_by_name)
            self.overwrote = next(
                (name for name in given if not unchanged(given[name], left[name])), None
            )
        return result


class Largest(TorchFunctionMode):
    """Inside, the shape of the largest tensor that any function of torch gives; a view of less does not count."""

    def __init__(self):
        super().__init__()
        self.shape = torch.Size([0])

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, list | tuple) else [result]:
            held = x.untyped_storage().nbytes() if isinstance(x, Tensor) else 0
            whole = held and held >= x.numel() * x.element_size()
            if whole and x.numel() > self.shape.numel():
                self.shape = x.shape
        return result


def named(fn: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    """The arguments of a call by the names that fn gives them."""
    return inspect.signature(fn).bind(*args, **kwargs).arguments


def is_stub(fn: Callable) -> bool:
    """True for a body that does nothing: `...`, `pass`, a docstring alone, or their return."""
    try:
        source = inspect.getsource(fn)
        # A function inside another block.
        block = "if True:\n" + source if source[0].isspace() else source
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
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
    message = " ".join(f"{type(error).__name__}: {error}{notes}".split())
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
