"""What is wrong with an answer: one set of questions for all exercises, from the listed mistakes to the bare numbers.

A sentence is told only if it is true in every case that was tried. In this order: listed mistakes, and two of them at
once; crashes; shape, properties and limits; which argument; one slip in the formula; how got and wanted are related;
the smallest case that fails.
"""

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from .answers import Answer, Largest, overwritten
from .by_argument import alone, exchanged, ignored, moves, narrow, turned
from .checks import Case, Exercise
from .compare import Pair, same
from .edits import edited_twice
from .factors import common, multiple
from .gradients import of_gradients
from .linear import NO_PART, one_at_a_time
from .listed import is_edit
from .quantities import tensor
from .relations import conditions, relation, where
from .slips import slips
from .trial import Trial

Function = Callable[..., Any]
SEEDED = "two calls give the same numbers, and each is to draw its own: is a seed set inside, or nothing drawn?"
COINCIDENCE = 1e-3  # an answer farther from a slip than this does not come from it


def judge(spec: Exercise, answer: Answer) -> str | None:
    """None for a right answer, else what is wrong with it."""
    if spec.cases and (hint := Diagnosis(spec, answer).hint()):
        return hint
    if spec.also and (hint := spec.also(answer)):
        return hint
    if answer.overwrote:
        return overwritten(answer.overwrote)
    return (
        asked_again(spec, answer)
        or too_large(spec, answer)
        or (of_gradients(spec, answer) if spec.gradients else None)
    )


def asked_again(spec: Exercise, answer: Answer) -> str | None:
    """Whether a function that is to be called once is called more often."""
    args = list(Case.of(spec.cases()[0]).args) if spec.once else []
    for name in spec.once:
        i, calls = spec.parameters.index(name), []

        def counted(*given, of=args[i], calls=calls):
            calls.append(given)
            return of(*given)

        answer(*args[:i], counted, *args[i + 1 :])
        if len(calls) > 1:
            return (
                f"your answer is right, and it calls {name} {len(calls)} times: "
                "a network is expensive, and one call is enough"
            )
    return None


def too_large(spec: Exercise, answer: Answer) -> str | None:
    """Whether in every case a tensor is made that is as large as the one that the task does without."""
    cases = [Case.of(given).args for given in spec.cases()] if spec.without else []
    for what, shape in spec.without.items():
        for args in cases:
            a = SimpleNamespace(**dict(zip(spec.parameters, args, strict=True)))
            with Largest() as made:
                answer(*args)
            if math.prod(made.shape) < math.prod(shape(a)):
                break
        else:
            return (
                f"your answer is right, and it makes a tensor of shape {tuple(made.shape)}, "
                f"as large as {what}. The task asks for none: "
                "which sum or product can be taken first?"
            )
    return None


class Diagnosis(Trial):
    """The questions, in their order."""

    def hint(self) -> str | None:
        """The whole diagnosis; None when all cases are right."""
        if not self.wrong:
            return self.twice()
        if listed := self.listed():
            return listed
        self.crashes()
        if self.spec.shows:
            case = self.cases[self.wrong[0]]
            return f"{self.broken(case, self.wrong[0])} ({case.said()})"
        sentences = [_sentence(text) for text in self.sentences() if text]
        return told(sentences, self.spec.parameters)

    # --- listed mistakes ---

    def listed(self) -> str | None:
        """The hint of the mistake that the answer equals everywhere, or those of two."""
        for loose in (False, True):
            for label, (_, hint) in self.spec.mistakes.items():
                if self.equals(self.spec.wrong[label], loose=loose):
                    return hint
        edits = [
            (wrong, hint)
            for wrong, hint in self.spec.mistakes.values()
            if is_edit(wrong)
        ]
        for i, (one, hint) in enumerate(edits):
            for two, other in edits[i + 1 :]:
                if (
                    both := edited_twice(self.spec.reference, one, two)
                ) and self.equals(both):
                    return (
                        f"two mistakes at once. The first: {_sentence(hint)}\n"
                        f"The second: {_sentence(other)}"
                    )
        return None

    # --- crashes ---

    def crashes(self) -> None:
        """Raise what the answer raised, if nothing was wrong before; later crashes leave the cases before them."""
        first = self.wrong[0]
        if isinstance(self.got[first], Exception):
            error = self.got[first]
            if first:
                error.add_note(
                    f"it is right in the case before, and stops {self.cases[first].said()}"
                )
            raise error
        keep = [
            i for i in range(len(self.cases)) if not isinstance(self.got[i], Exception)
        ]
        for name in ("cases", "other", "want", "got"):
            setattr(self, name, [getattr(self, name)[i] for i in keep])
        self.wrong = [keep.index(i) for i in self.wrong if i in keep]

    # --- the questions ---

    def sentences(self) -> Iterator[str]:
        """What is wrong, where it shows, and a question."""
        broken = self.kind() or self.properties()
        if broken:
            yield broken
        if self.strange():
            return
        cause = self.cause()
        if cause:
            yield cause
        if broken:
            return
        limit = self.limits()
        yield limit or self.numbers()
        if not cause and not limit:
            yield "Do this case by hand: at which line of yours do the two part?"

    def strange(self) -> bool:
        """True where an answer is of another kind than the truth: there is nothing more to ask."""
        return any(
            not self.whole(g) or (tensor(w) is not None and tensor(g) is None)
            for g, w in zip(self.got, self.want, strict=True)
        )

    def cause(self) -> str | None:
        """Which argument, which place of the formula, or which relation."""
        return (
            self.twice()
            or ignored(self)
            or exchanged(self)
            or self.linear()
            or self.related(multiple)
            or turned(self)
            or self.part()
            or self.slip()
            or self.related()
            or (None if self.spec.parts else one_at_a_time(self))
            or alone(self)
            or narrow(self)
            or moves(self)
            or self.related(conditions)
            or self.related(common)
            or self.related(where)
        )

    def linear(self) -> str | None:
        """The arguments that are wrong, one at a time; one value of one argument explains more than two of them."""
        text = None if self.spec.parts else one_at_a_time(self, named=True)
        several = text and text.count(";") > 1 and NO_PART not in text
        return (turned(self) if several else None) or text

    def kind(self) -> str | None:
        """Type, numbers that are not finite, shape."""
        for i in self.wrong:
            got, want = self.got[i], self.want[i]
            a, b = tensor(got), tensor(want)
            if self.spec.parts and not self.whole(got):
                names = ", ".join(self.spec.parts)
                return f"it returned {_kind(got)}, expected a pair: ({names})"
            if b is None:
                if type(got) is not type(want) and not isinstance(want, Exception):
                    return f"it returned {type(got).__name__}, expected {_kind(want)}"
                continue
            if a is None:
                return f"it returned {type(got).__name__}, expected {_kind(want)}"
            if a.shape != b.shape:
                reason = relation(self.pairs())
                return f"the shape is {tuple(a.shape)}, expected {tuple(b.shape)}" + (
                    f": {reason}" if reason else ""
                )
            if (
                isinstance(want, Tensor)
                and not want.is_floating_point()
                and isinstance(got, Tensor)
                and got.is_floating_point()
            ):
                return f"it returned numbers of {got.dtype}, expected integers"
            if b.isfinite().all() and not a.isfinite().all():
                bad = a[~a.isfinite()][0].item()
                return (
                    f"{self.cases[i].said()} your answer holds {bad}: what is divided by 0 "
                    f"there, or what is the logarithm of 0?"
                )
        return None

    def properties(self) -> str | None:
        """The first property that an answer lacks."""
        for ask in self.spec.properties:
            for case, got in zip(self.cases, self.got, strict=True):
                if tensor(got) is not None or not isinstance(got, int | float | Tensor):
                    broken = ask(got, self.named(case.args))
                    if broken:
                        return f"{broken} ({case.said()})"
        return None

    def limits(self) -> str | None:
        """The first limit that is missed, with what the answer is there."""
        for i in self.wrong:
            if self.cases[i].because:
                got, want = self.values(i)
                return f"{self.cases[i].because}. There yours gives {got}, and it is {want}"
        return None

    def twice(self) -> str | None:
        """Whether the same arguments give the same answer."""
        if self.spec.draws is None:
            return None
        case, got = self.cases[0], self.got[0]
        again = self.outcome(self.answer, case.args, seed=1)
        if self.spec.draws:
            return None if not same(again, got, 1e-12) else SEEDED
        if isinstance(again, Exception) or same(again, got, self.spec.tol):
            return None
        return (
            "two calls with the same arguments give different answers: what in it is drawn, "
            "or left over from the last call?"
        )

    # --- the formula, the relation ---

    def slip(self) -> str | None:
        """One change of the reference that explains the answer."""
        for slip in slips(self.spec.reference):
            if self.equals(slip.wrong, tol=COINCIDENCE):
                return f"your answer is what comes out when {slip.text}. Where in your formula is that?"
        return None

    def related(self, how: Function = relation) -> str | None:
        """How got and wanted are related, in all cases."""
        pairs = self.pairs()
        if any(isinstance(p.want, tuple) for p in pairs) and self.spec.parts:
            return None
        if any(
            tensor(p.got) is not None and tensor(p.got).shape != tensor(p.want).shape
            for p in pairs
            if tensor(p.want) is not None
        ):
            return None
        if how is not relation and any(
            tensor(p.want) is None or tensor(p.got) is None for p in pairs
        ):
            return None
        return how(pairs)

    def part(self) -> str | None:
        """Of a tuple, the part that is wrong, and how."""
        names = self.spec.parts
        if not names or any(
            not isinstance(g, tuple | list) or len(g) != len(names) for g in self.got
        ):
            return None
        told, right = [], []
        for k, name in enumerate(names):
            pairs = [Pair(p.got[k], p.want[k], p.factors) for p in self.pairs()]
            if all(same(p.got, p.want, self.room(k)) for p in pairs):
                right.append(name)
            else:
                how = relation(pairs) or (one_at_a_time(self) if k == 0 else None)
                told.append(
                    f"the {name} is wrong"
                    + (f": {how.replace('your answer', 'it')}" if how else "")
                )
        if right:
            told.insert(
                0, f"the {', the '.join(right)} {'are' if right[1:] else 'is'} right"
            )
        return "; ".join(told) if right or any(":" in t for t in told) else None


# --- small parts ---


def _kind(want: Any) -> str:
    if isinstance(want, Tensor):
        return "a tensor"
    return {float: "a number", int: "an integer", str: "a word", list: "a list"}.get(
        type(want), type(want).__name__
    )


def _sentence(text: str) -> str:
    return text if text.endswith(("?", ".")) else text + "."


def told(sentences: list[str], names: list[str]) -> str:
    """The sentences below one another, all but the first with a capital letter, unless a name begins them."""
    later = [
        s if s.split()[0].strip(",:;") in names else s[:1].upper() + s[1:]
        for s in sentences[1:]
    ]
    return "\n".join([*sentences[:1], *later])
