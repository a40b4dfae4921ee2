"""What may stand in an argument's place by mistake: its root, its square, 1 minus it, the next index."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]


def alike(a: Any, b: Any) -> bool:
    """True where b could stand in a's place."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.is_floating_point() == b.is_floating_point()
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    return (numbers and type(a) is type(b)) or (
        isinstance(a, list | str) and type(a) is type(b)
    )


def _real(x: Any) -> Any:
    """x, if it is a float or a tensor of floats."""
    if isinstance(x, float) or (isinstance(x, Tensor) and x.is_floating_point()):
        return x
    raise TypeError


def _count(x: Any) -> Any:
    """x, if it is a number or a tensor of numbers, whole or not."""
    if isinstance(x, bool) or (isinstance(x, Tensor) and x.dtype == torch.bool):
        raise TypeError
    return x + 0


def _any(x: Any) -> Any:
    return x if isinstance(x, int) and not isinstance(x, bool) else _real(x)


def _signed(x: Any) -> Any:
    """x, unless it is a distribution: nobody takes the negative of one."""
    x = _any(x)
    several = isinstance(x, Tensor) and x.ndim > 0
    if several and (x >= 0).all() and ((x.sum(-1) - 1).abs() < 1e-6).all():
        raise TypeError
    return x


def _mask(x: Any) -> Tensor:
    if isinstance(x, Tensor) and x.dtype == torch.bool:
        return x
    raise TypeError


def _function(name: str) -> Function:
    """torch's function, of a number too."""

    def turn(x: Any) -> Any:
        y = getattr(torch, name)(
            torch.as_tensor(_real(x)).double() if isinstance(x, float) else _real(x)
        )
        return y.item() if isinstance(x, float) else y

    return turn


def _matrix(x: Any) -> Tensor:
    if (
        isinstance(x, Tensor)
        and x.ndim == 2
        and x.shape[0] == x.shape[1]
        and x.is_floating_point()
    ):
        return x
    raise TypeError


def _table(x: Any) -> Tensor:
    if isinstance(x, Tensor) and x.ndim == 1 and len(x) > 2:
        return x
    raise TypeError


# what may stand in an argument's place: how it is written, and what it is
TURNS: list[tuple[str, Function]] = [
    ("sqrt({})", _function("sqrt")),
    ("{}^2", lambda x: _real(x) ** 2),
    ("1 - {}", lambda x: 1 - _real(x)),
    ("-{}", lambda x: -_signed(x)),
    ("2 {}", lambda x: 2 * _any(x)),
    ("{} / 2", lambda x: _real(x) / 2),
    ("1 / {}", lambda x: 1 / _real(x)),
    ("exp({})", _function("exp")),
    ("log({})", _function("log")),
    ("|{}|", lambda x: abs(_real(x))),
    ("0", lambda x: 0 * _real(x)),
    ("1", lambda x: 0 * _any(x) + 1),
    ("{} - 1", lambda x: _count(x) - 1),
    ("{} + 1", lambda x: _count(x) + 1),
    ("{} transposed", lambda x: _matrix(x).T),
    ("not {}", lambda x: ~_mask(x)),
    ("a {} that is True everywhere", lambda x: torch.ones_like(_mask(x))),
    (
        "{} shifted by one, each entry that of the next index",
        lambda x: torch.cat([_table(x)[1:], x[-1:]]),
    ),
    (
        "{} shifted by one, each entry that of the last index",
        lambda x: torch.cat([_table(x)[:1], x[:-1]]),
    ),
    ("{} turned round", lambda x: _table(x).flip(0)),
]
