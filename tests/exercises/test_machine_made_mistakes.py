"""Machine-made mistakes in the references: none passes but those that are right, and most hints say what it is.

A sample of what `python -m tools.exercise_mutants` tries; its whole run is kept in assets/bench.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from tools import exercise_mutants as mutants
from tools.equivalent_mutants import EQUIVALENT

NAMED = 0.8  # the share whose hint names a mistake, an argument, a place or a relation; it may only grow
KEPT = Path(mutants.__file__).resolve().parents[1] / "assets" / "bench" / "exercise_mutants.json"


@pytest.fixture(scope="module")
def tried() -> list[dict]:
    made = mutants.draw(85, seed=1)
    return [{"kind": mutants.verdict(m)[0], "exercise": m.exercise, "change": m.text} for m in made]


def test_no_mutant_passes_but_those_that_are_right(tried):
    assert [row for row in tried if row["kind"] == "PASSED"] == []


def test_hints_say_what_is_wrong(tried):
    print(
        f"\n{len(tried)} mutants: {dict(Counter(row['kind'] for row in tried))}, {mutants.share(tried):.0%} named"
    )
    assert mutants.share(tried) >= NAMED


def test_the_run_that_is_kept_is_whole_and_nothing_wrong_passed_in_it():
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    counts = {kind: of_kind["count"] for kind, of_kind in kept["kinds"].items()}
    print(f"\n{kept['tried']} mutants: {counts}, {kept['named, of those that ran and failed']:.0%} named")
    assert kept["tried"] == sum(counts.values()) >= 1000
    assert kept["passed"] == [] and counts["PASSED"] == 0
    assert counts["equivalent"] == len(kept["equivalent"])
    assert all(row["reason"] for row in kept["equivalent"])
    assert kept["named, of those that ran and failed"] >= NAMED
    assert {row["exercise"] for row in kept["equivalent"]} <= set(EQUIVALENT)


def test_a_run_that_was_stopped_goes_on(tmp_path, monkeypatch):
    out, tried = tmp_path / "mutants.json", []

    def stops(mutant):
        if len(tried) == 25:
            raise KeyboardInterrupt
        tried.append(mutant.text)
        return "named", ""

    monkeypatch.setattr(mutants, "verdict", stops)
    with pytest.raises(KeyboardInterrupt):
        mutants.run(30, 3, out)
    before, tried[:] = tried[:20], []
    found = mutants.run(30, 3, out)
    assert [row["change"] for row in found["mutants"]] == before + tried and len(tried) == 10


def test_hints_are_told_apart():
    def told(name, change):
        spec = mutants.find(name)
        (mutant,) = [m for m in mutants.mutants_of(spec) if m.text.endswith(change)]
        return mutants.verdict(mutant)[0]

    assert told("d3pm.hybrid", "=> return T * (kl - ce_weight * ce)") in ("mistake", "named")
    assert (
        told("ddpm.gap", "=> log_mean = (log_p - log_q).logsumexp(-1) - math.log(len(log_q))") == "equivalent"
    )
