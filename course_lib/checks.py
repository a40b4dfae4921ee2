"""What the checks of exercises are made of: comparing an answer with the reference and with classic mistakes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

# the reader's function -> None if it is right, else a hint
Check = Callable[[Callable], str | None]
Mistakes = dict[str, tuple[Callable, str]]  # label -> (wrong answer, its hint)


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


def hints_of(mistakes: Mistakes) -> dict[str, str]:
    """Label -> hint."""
    return {label: hint for label, (_, hint) in mistakes.items()}


def compare(
    fn: Callable, reference: Callable, mistakes: Mistakes, *probe
) -> str | None:
    """None when fn answers the probe like the reference, else the hint of the mistake that it answers like."""
    want = reference(*copied(probe))
    suspects = {hint: wrong(*copied(probe)) for wrong, hint in mistakes.values()}
    return diagnose(fn(*probe), want, suspects)


def close(got: Any, want: Tensor, tol: float = 1e-4) -> bool:
    """True when got is a tensor of want's shape and differs from it nowhere by more than tol."""
    return (
        isinstance(got, Tensor)
        and got.shape == want.shape
        and bool(((got - want).abs() <= tol).all())
    )


def diagnose(
    got: Any, want: Tensor, suspects: dict[str, Tensor], tol: float = 1e-4
) -> str | None:
    """None when got is want; else the hint whose value got equals; else the plain difference."""
    if close(got, want, tol):
        return None
    if not isinstance(got, Tensor):
        return f"it returned {type(got).__name__}, expected a tensor"
    if got.shape != want.shape:
        return f"the shape is {tuple(got.shape)}, expected {tuple(want.shape)}"
    for hint, value in suspects.items():
        if close(got, value, tol):
            return hint
    worst = (got - want).abs().nan_to_num(nan=torch.inf).argmax()
    return f"it gives {got.flatten()[worst].item():.4g} where {want.flatten()[worst].item():.4g} is expected"


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
