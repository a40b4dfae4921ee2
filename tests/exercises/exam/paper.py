"""An examination paper: answers to the exercises that a student may hand in, wrong ones and right ones.

A wrong answer states its mistake in words and, set before anybody saw what is printed, words of which a hint aimed at
this mistake uses at least one. A right answer states in which other form it is written.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

# what says where an answer fails and not how: the case, two numbers
CASE = re.compile(
    r"\(?for [^\n]*? (it gives|your answer holds) [^\n]*|it gives \S+ where \S+ is expected|\(for [^\n]*\)$",
    re.I,
)


@dataclass
class Answer:
    """An answer to one exercise.

    exercise   its name in the registry, such as ddpm.q_sample
    fn         what the student wrote
    says       the mistake in words, or the form of a right answer
    aimed      pattern that a hint aimed at the mistake matches; None for a right answer
    untrue     pattern of a sentence that would be untrue of this answer, and was printed once; None where there is none
    """

    exercise: str
    fn: Callable
    says: str
    aimed: str | None = None
    untrue: str | None = None

    def class_of(self, state: str, hint: str) -> str:
        """passes, untrue, aimed or general: what the check has said of this wrong answer."""
        if state == "PASS":
            return "passes"
        if self.untrue and re.search(self.untrue, hint, re.IGNORECASE):
            return "untrue"
        said = CASE.sub("", hint)
        return "aimed" if re.search(self.aimed, said, re.IGNORECASE) else "general"


def paper() -> tuple[Callable, Callable, list[Answer]]:
    """Two decorators, wrong(exercise, mistake, aimed) and right(exercise, form), and the list that they fill."""
    answers: list[Answer] = []

    def wrong(exercise: str, mistake: str, aimed: str, untrue: str | None = None) -> Callable:
        def hand_in(fn: Callable) -> Callable:
            answers.append(Answer(exercise, fn, mistake, aimed, untrue))
            return fn

        return hand_in

    def right(exercise: str, form: str) -> Callable:
        def hand_in(fn: Callable) -> Callable:
            answers.append(Answer(exercise, fn, form))
            return fn

        return hand_in

    return wrong, right, answers
