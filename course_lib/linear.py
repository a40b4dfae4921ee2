"""Where an answer is linear in its arguments: each alone, the others 0, so that the one that is wrong names itself."""

import torch

from .checks import Case
from .compare import Pair, close, same
from .factors import amount
from .quantities import tensor
from .trial import Trial, called

NO_PART = "has no part in your answer"


def one_at_a_time(trial: Trial, named: bool = False) -> str | None:
    """The arguments in which the answer is linear, each alone, the others 0."""
    names, found, wrong = trial.spec.linear_in, {}, []
    cases = [case for case in trial.cases if not case.because]
    for name in (*names, None):
        pairs = []
        for case in cases:
            args = tuple(
                v if n == name or n not in names else v * 0
                for n, v in zip(trial.spec.parameters, case.args, strict=True)
            )
            pairs.append(
                Pair(
                    trial.first(trial.outcome(trial.answer, args)),
                    trial.first(called(trial.spec.truth, args)),
                    trial.factors(case),
                )
            )
        if any(
            tensor(p.got) is None
            or tensor(p.want) is None
            or tensor(p.got).shape != tensor(p.want).shape
            for p in pairs
        ):
            return None
        found[name] = pairs
    if not names or not adds_up(trial, found, cases):
        return None
    rest = found.pop(None)
    for name, pairs in found.items():
        pairs = [
            Pair(
                tensor(p.got) - tensor(r.got),
                tensor(p.want) - tensor(r.want),
                p.factors,
            )
            for p, r in zip(pairs, rest, strict=True)
        ]
        if not all(same(p.got, p.want, trial.spec.tol) for p in pairs):
            wrong.append((name, _share(pairs)))
    missing = any(text == NO_PART for _, text in wrong)
    if named and not missing and any(text == "is wrong" for _, text in wrong):
        return None
    right = [name for name in names if name not in [n for n, _ in wrong]]
    still = not all(same(tensor(r.got), tensor(r.want), trial.spec.tol) for r in rest)
    if (not right and not still) or not (wrong or still):
        return (
            None if len({text for _, text in wrong}) < 2 else _told(right, wrong, still)
        )
    return _told(right, wrong, still)


def adds_up(trial: Trial, found: dict, cases: list[Case]) -> bool:
    """True where the whole answer is the sum of its parts: then each part may be judged alone."""
    n = len(found) - 2
    for k, case in enumerate(cases):
        whole = tensor(trial.first(trial.outcome(trial.answer, case.args)))
        parts = sum(
            tensor(pairs[k].got) for name, pairs in found.items() if name
        ) - n * tensor(found[None][k].got)
        if (
            whole is None
            or whole.shape != parts.shape
            or not close(parts, whole, 1e-3).all()
        ):
            return False
    return True


def _share(pairs: list[Pair]) -> str:
    """How one argument's part of the answer is off."""
    if all(close(tensor(p.got), torch.zeros(())).all() for p in pairs):
        return NO_PART
    return amount(pairs) or "is wrong"


def _told(right: list[str], wrong: list[tuple[str, str]], still: bool) -> str:
    told = (
        [f"{', '.join(right)} {'is' if len(right) == 1 else 'are'} right"]
        if right
        else []
    )
    told += [f"{name} {text}" for name, text in wrong]
    told += ["what remains when all of them are 0 is wrong"] if still else []
    return "one argument at a time, the others 0: " + "; ".join(told)
