"""Whether a loss teaches what it should: its gradient beside the reference's, by each argument and each weight."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .answers import copied
from .checks import Case, Exercise
from .compare import Pair, same
from .factors import amount, enough

Function = Callable[..., Any]


def of_gradients(spec: Exercise, answer: Function) -> str | None:
    """Whether the loss has the reference's gradient, by each argument that it must have it by."""
    tried = [Case.of(given) for given in spec.cases()[:2]]
    wanted = [_gradients(spec, spec.reference, case) for case in tried]
    found = [_gradients(spec, answer, case) for case in tried]
    if all(map(_alike, found, wanted)):
        return None
    for label, (_, hint) in spec.mistakes.items():
        if all(
            _alike(got, _gradients(spec, spec.wrong[label], case))
            for got, case in zip(found, tried, strict=True)
        ):
            return hint
    return next(
        _told(got, want)
        for got, want in zip(found, wanted, strict=True)
        if not _alike(got, want)
    )


Gradients = dict[str, Tensor | None] | None


def _none(g: Tensor | None) -> bool:
    """True where nothing flows."""
    return g is None or not g.any()


def _alike(got: Gradients, want: Gradients) -> bool:
    if got is None or want is None:
        return got is want
    return all(
        (_none(g) and _none(want[name]))
        or (g is not None and want[name] is not None and same(g, want[name], 1e-3))
        for name, g in got.items()
    )


def _told(got: Gradients, want: dict[str, Tensor | None]) -> str:
    """The first gradient that is not the reference's."""
    if got is None:
        return (
            "the values are right, but they carry no gradient: nothing would be learned. "
            "Is there a detach, an item, a no_grad, or a tensor made of numbers on the way?"
        )
    name = next(k for k in want if not _alike({k: got[k]}, {k: want[k]}))
    g, w = got[name], want[name]
    if _none(g):
        return (
            f"the values are right, but no gradient reaches {name}: it would not be trained. "
            "What cuts it off (a detach, a no_grad)?"
        )
    if _none(w):
        return f"the values are right, but a gradient reaches {name}, which should have none"
    how = amount([Pair(g, w)]) if enough([Pair(g, w)]) else None
    return (
        f"the values are right, but the gradient by {name} {how or 'is another'}: "
        "which part of it is cut off?"
    )


def joined(parts: tuple) -> Tensor | None:
    """The parts that carry a gradient, as one row."""
    rows = [x.flatten() for x in parts if isinstance(x, Tensor) and x.requires_grad]
    return torch.cat(rows) if rows else None


def _gradients(spec: Exercise, fn: Function, case: Case) -> Gradients:
    """name -> gradient of the weighted sum of the answer; None where there is none at all."""
    leaves, args = {}, list(copied(case.args))
    for i, name in enumerate(spec.parameters):
        if name not in spec.gradients:
            continue
        if isinstance(args[i], torch.nn.Module):
            leaves |= {f"the {name}'s {k}": p for k, p in args[i].named_parameters()}
        else:
            args[i] = leaves[name] = args[i].detach().requires_grad_()
    with torch.enable_grad():
        out = fn(*args)
        out = (
            spec.read(
                out, SimpleNamespace(**dict(zip(spec.parameters, args, strict=True)))
            )
            if spec.read
            else out
        )
        out = joined(out) if isinstance(out, tuple) else out
        if not isinstance(out, Tensor) or not out.requires_grad:
            return None
        weights = torch.linspace(1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)
        found = torch.autograd.grad(
            (out * weights).sum(), list(leaves.values()), allow_unused=True
        )
    return dict(zip(leaves, found, strict=True))
