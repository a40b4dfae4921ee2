"""Machine-made mistakes in the references: none passes but those that are right, and most hints say what it is."""

from collections import Counter

import pytest

from tests.exercises.equivalent import reason
from tests.exercises.mutants import draw, verdict

NAMED = 0.9  # the share reached by hints that say more than two numbers; it may only grow


@pytest.fixture(scope="module")
def tried() -> list:
    return [(mutant, *verdict(mutant)) for mutant in draw(162)]


def test_no_mutant_passes_but_those_that_are_right(tried):
    passed = [m for m, kind, _ in tried if kind == "passes" and not reason(m)]
    assert not passed, [f"{m.exercise}: {m.text}" for m in passed]


def test_hints_say_what_is_wrong(tried):
    counts = Counter(kind for _, kind, _ in tried)
    share = counts["named"] / (counts["named"] + counts["bare"])
    print(
        f"\n{len(tried)} mutants: {dict(counts)}, {share:.0%} of those that ran and failed with more than two numbers"
    )
    assert share >= NAMED
