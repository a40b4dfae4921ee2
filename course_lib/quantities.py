"""What a number may be called: an argument, a size, how many are True, and what is made of them."""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


def tensor(x: Any) -> Tensor | None:
    """x as a float64 tensor (complex, words and containers: None)."""
    if isinstance(x, Tensor):
        return None if x.is_complex() else x.detach().to("cpu", torch.float64)
    if isinstance(x, int | float | np.number | np.ndarray):
        return torch.as_tensor(x, dtype=torch.float64)
    return None


CONSTANTS = {
    "2": 2.0,
    "3": 3.0,
    "4": 4.0,
    "ln 2": math.log(2),
    "sqrt(2)": math.sqrt(2),
    "pi": math.pi,
    "sqrt(2 pi)": math.sqrt(2 * math.pi),
    "e": math.e,
    "10": 10.0,
}


def quantities(arguments: dict[str, Any]) -> dict[str, Tensor]:
    """The numbers of a case that a factor may be: scalars, one per example, sizes, how many are True."""
    found = {}
    for name, x in arguments.items():
        value = None if isinstance(x, bool) else tensor(x)
        if value is None:
            if isinstance(x, list | tuple):
                found[f"len({name})"] = torch.tensor(float(len(x)))
            continue
        if value.ndim <= 1 and not (isinstance(x, Tensor) and x.dtype == torch.bool):
            found[name] = value
        if isinstance(x, Tensor) and x.dtype == torch.bool and x.ndim == 2:
            found[f"the number of True in a row of {name}"] = value.sum(1)
        for axis, size in enumerate(value.shape):
            found[f"{name}.shape[{axis}]"] = torch.tensor(float(size))
    return found


class Factors(dict):
    """Quantities by name: what a factor may be called after."""

    @functools.cached_property
    def forms(self) -> dict[str, Tensor]:
        """Names and values of what is made of them: simple ones first."""
        return dict(_forms(self))


def _forms(factors: Factors) -> Iterator[tuple[str, Tensor]]:
    """Names and values of what is made of the quantities: simple ones first."""
    base = {
        name: torch.as_tensor(v, dtype=torch.float64) for name, v in factors.items()
    }
    yield from (
        (name, torch.tensor(v, dtype=torch.float64)) for name, v in CONSTANTS.items()
    )
    yield from base.items()
    for name, v in base.items():
        yield f"({name} + 1)", v + 1
        yield f"({name} - 1)", v - 1
        yield f"(1 - {name})", 1 - v
        yield f"sqrt({name})", v.sqrt()
        yield f"{name}^2", v**2
        yield f"sqrt(1 - {name})", (1 - v).sqrt()
        yield f"(1 - {name})^2", (1 - v) ** 2
        yield f"2 {name}", 2 * v
        yield f"exp({name})", v.exp()
    for (a, v), (b, w) in itertools.combinations(base.items(), 2):
        if v.shape == w.shape or 0 in (v.ndim, w.ndim):
            yield f"{a} {b}", v * w
            yield f"{a} / {b}", v / w
            yield f"sqrt({a} / {b})", (v / w).sqrt()
            yield f"(1 - {a} / {b})", 1 - v / w
            yield f"(1 - {b} / {a})", 1 - w / v
            yield f"(1 - {a}) / (1 - {b})", (1 - v) / (1 - w)


def name_of(values: list[Tensor], cases: list[Factors]) -> str | None:
    """What the values (one of each case, or one per example) are called in every case, or one over it."""
    for name in cases[0].forms:
        if all(name in factors.forms for factors in cases):
            named = [factors.forms[name] for factors in cases]
            if all(map(agrees, values, named)):
                return name
            if all(map(agrees, values, [1 / v for v in named])):
                return f"1 / {name}"
    return None


def agrees(value: Tensor, named: Tensor) -> bool:
    """True where the two are equal, entry by entry; an entry of value that is NaN was not seen."""
    if named.ndim and named.shape != value.shape:
        return False
    seen = ~value.isnan()
    off = (value - named).abs()[seen]
    return bool(seen.any() and (off <= 2e-4 * value[seen].abs()).all())
