"""Which argument is at fault: one that has no say and is read, that is taken for another, changed, or never read."""

from typing import Any

import torch
from torch import Tensor

from .compare import same
from .quantities import tensor
from .trial import Trial, called
from .turns import TURNS


def ignored(trial: Trial) -> str | None:
    """What must have no say and has."""
    for sentence, change in trial.spec.ignores.items():
        for case, got in zip(trial.cases, trial.got, strict=True):
            try:
                args = case.changed(trial.spec.parameters, change)
            except Exception:
                continue
            if not same(trial.outcome(trial.answer, args), got, trial.spec.tol):
                return f"{sentence}, and your answer moves with it"
    return None


def exchanged(trial: Trial) -> str | None:
    """One argument in the place of another."""
    for a, b, i, j in trial.alike_pairs():
        if i < j and trial.equals(
            trial.spec.reference, lambda x, i=i, j=j: put(put(x, i, x[j]), j, x[i])
        ):
            return f"{a} and {b} have changed places: your answer is right for the two exchanged"
        if trial.equals(trial.spec.reference, lambda x, i=i, j=j: put(x, i, x[j])):
            return (
                f"your answer is the one for {b} in the place of {a}: {a} is not used, "
                f"and {b} stands twice. Where does {a} enter?"
            )
    return None


def turned(trial: Trial) -> str | None:
    """The right answer to another value of one argument: its root, its square, 1 minus it."""
    for i, name in enumerate(trial.spec.parameters):
        for text, turn in TURNS:
            if trial.equals(
                trial.spec.reference, lambda x, i=i, turn=turn: put(x, i, turn(x[i]))
            ):
                return (
                    f"your answer is the right one for {text.format(name)} in the place "
                    f"of {name}: where does {name} enter, and in which form?"
                )
    return None


def put(args: tuple, i: int, value: Any) -> tuple:
    """The arguments with another value of argument i."""
    return (*args[:i], value, *args[i + 1 :])


def moves(trial: Trial) -> str | None:
    """An argument that moves the truth and not the answer, or the answer and not the truth."""
    for i, name in enumerate(trial.spec.parameters):
        still = [
            (
                same(trial.outcome(trial.answer, args), trial.got[k], 1e-9),
                same(want, trial.want[k], 1e-6),
            )
            for k, args, want in elsewhere(trial, i)
        ]
        answer, truth = zip(*still, strict=True) if still else ((), ())
        if all(answer) and not all(truth):
            return f"your answer does not change when {name} does, and it should: where does {name} enter?"
        if all(truth) and not all(answer):
            return f"your answer changes with {name} where it should not"
    return None


def elsewhere(trial: Trial, i: int) -> list[tuple[int, tuple, Any]]:
    """Case, arguments with another value of argument i, and the truth there; only where both have one."""
    found = []
    for k, case in enumerate(trial.cases):
        for value in trial.others(i, k):
            args = put(case.args, i, value)
            want = called(trial.spec.reference, args)
            got = trial.outcome(trial.answer, args)
            if not isinstance(want, Exception) and not isinstance(got, Exception):
                found.append((k, args, want))
    return found


def narrow(trial: Trial) -> str | None:
    """Right in float64 and wrong in float32."""
    cases = [trial.cases[k] for k in trial.wrong]
    if not all(any(map(is_float32, case.args)) for case in cases):
        return None
    for case in cases:
        wide = tuple(v.double() if is_float32(v) else v for v in case.args)
        want = called(trial.spec.truth, wide)
        if isinstance(want, Exception):
            return None
        if not same(trial.outcome(trial.answer, wide), want, trial.spec.tol):
            return None
    return (
        "your answer is right in float64 and wrong in float32: which difference of "
        "nearly equal numbers loses the digits?"
    )


def is_float32(x: Any) -> bool:
    """True for a tensor in float32."""
    return isinstance(x, Tensor) and x.dtype == torch.float32


def alone(trial: Trial) -> str | None:
    """Right for each example alone, wrong in a batch."""
    case, want = trial.cases[trial.wrong[0]], tensor(trial.want[trial.wrong[0]])
    if want is None or want.ndim == 0 or len(want) < 2:
        return None
    for i in range(len(want)):
        args = tuple(
            v[i : i + 1]
            if isinstance(v, Tensor) and v.ndim and len(v) == len(want)
            else v
            for v in case.args
        )
        got = tensor(trial.outcome(trial.answer, args))
        if got is None or not same(got, want[i : i + 1], trial.spec.tol):
            return None
    return "your answer is right for each example alone and wrong for a batch: where do the examples meet?"
