"""An examination of the checks: answers that nobody foresaw. What is printed about each, and how often it is aimed.

pytest -s prints the shares; python -m tests.exercises.test_exam prints what each answer is told.
"""

import importlib
import pkgutil
from collections import Counter
from pathlib import Path

import pytest

from course_lib import solutions
from course_lib.exercise import find, grade, of_chapter
from tests.exercises.exam import readers

FOLDER = Path(__file__).parent / "exam"
PAPERS = sorted({file.stem for file in FOLDER.glob("*.py")} - {"paper", "formulas", "readers"})
CHAPTERS = [module.name for module in pkgutil.iter_modules(solutions.__path__)]
AIMED = 0.88  # the share reached; it may only grow


def answers(*names: str) -> dict:
    """Exercise and name of the answer -> the answer."""
    papers = [importlib.import_module(f"tests.exercises.exam.{name}").ANSWERS for name in names]
    return {f"{a.exercise} {a.fn.__name__}": a for paper in papers for a in paper}


PAPER = answers(*PAPERS)
READERS = answers("readers")
WRONG = {name: answer for name, answer in PAPER.items() if answer.aimed}
RIGHT = {name: answer for name, answer in PAPER.items() if not answer.aimed}


@pytest.fixture(scope="module")
def told() -> dict[str, tuple[str, str, str]]:
    """Name of a wrong answer -> its class, state and hint."""
    marked = {}
    for name, answer in WRONG.items():
        state, hint = grade(find(answer.exercise), answer.fn)
        marked[name] = answer.class_of(state, hint), state, hint
    return marked


def test_each_exercise_has_two_wrong_answers_and_a_right_one():
    names = {spec.name for chapter in CHAPTERS for spec in of_chapter(chapter)}
    wrong = Counter(answer.exercise for answer in WRONG.values())
    assert names <= {answer.exercise for answer in RIGHT.values()}
    assert min(wrong[name] for name in names) >= 2


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_in_another_form_passes(name):
    assert grade(find(RIGHT[name].exercise), RIGHT[name].fn) == ("PASS", "")


def test_nothing_wrong_passes(told):
    assert [name for name, (_, state, _) in told.items() if state != "FAIL"] == []


def test_no_hint_is_untrue(told):
    assert [name for name, (kind, *_) in told.items() if kind == "untrue"] == []


def test_most_hints_are_aimed(told):
    counts = Counter(kind for kind, *_ in told.values())
    share = counts["aimed"] / len(told)
    print(f"\nexamination: {len(told)} wrong answers, {share:.0%} aimed, {dict(counts)}")
    assert share >= AIMED


def test_the_mistakes_of_readers_are_aimed_at():
    assert len(READERS) == 72
    marked = Counter()
    for name, answer in READERS.items():
        state, hint = grade(find(answer.exercise), answer.fn)
        if not answer.aimed:
            assert (state, hint) == ("PASS", ""), name
            continue
        kind = answer.class_of(state, hint)
        assert kind == ("general" if name in readers.GENERAL else "aimed"), f"{name}: {hint}"
        marked[kind] += 1
    print(f"\nreaders: {dict(marked)}, {len(READERS) - marked.total()} right")


if __name__ == "__main__":
    for name, answer in (WRONG | READERS).items():
        state, hint = grade(find(answer.exercise), answer.fn)
        print(f"[{answer.class_of(state, hint)}] {name}: {answer.says}\n    {hint}")
