"""Whether a loss teaches what it should: its gradient beside the reference's, by each argument and each weight."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .answers import copied
from .checks import Case, Exercise
from .relations import Pair, amount, enough, same

Function = Callable[..., Any]


def of_gradients(spec: Exercise, answer: Function) -> str | None:
    """Whether the loss has the reference's gradient, by each argument that it must have it by."""
    for case in spec.cases()[:2]:
        case = Case.of(case)
        got, want = (_gradients(spec, fn, case) for fn in (answer, spec.reference))
        if got is None:
            return (
                "the values are right, but they carry no gradient: nothing would be learned. Is "
                "there a detach, an item, "
                "a no_grad, or a tensor made of numbers on the way?"
            )
        for name, g in got.items():
            w = want[name]
            if (w is None or not w.any()) == (g is None or not g.any()) and (
                w is None or g is None or same(g, w, 1e-3)
            ):
                continue
            if g is None or not g.any():
                return (
                    f"the values are right, but no gradient reaches {name}: it would not be "
                    f"trained. What cuts it off (a detach, a no_grad)?"
                )
            if w is None or not w.any():
                return f"the values are right, but a gradient reaches {name}, which should have none"
            how = amount([Pair(g, w)]) if enough([Pair(g, w)]) else None
            return (
                f"the values are right, but the gradient by {name} {how or 'is another'}: "
                f"which part of it is cut off?"
            )
    return None


def _gradients(
    spec: Exercise, fn: Function, case: Case
) -> dict[str, Tensor | None] | None:
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
        if not isinstance(out, Tensor) or not out.requires_grad:
            return None
        weights = torch.linspace(1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)
        found = torch.autograd.grad(
            (out * weights).sum(), list(leaves.values()), allow_unused=True
        )
    return dict(zip(leaves, found, strict=True))
