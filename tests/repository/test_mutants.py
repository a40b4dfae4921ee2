"""The tool that plants bugs: what it changes, which tests look at it, and that no result is lost."""

import ast
import json
from pathlib import Path

import pytest

from tools import mutants
from tools.mutants import Bug, bugs, chosen, imported, library, planted

SOURCE = '''"""Docstring 1 < 2."""
def f(x: Float[Tensor, "2"], n=3, *, flag=True) -> Literal[4]:
    é, check = x, not n  # é takes two bytes
    if x <= n and n > 1.5:
        raise ValueError(f"{n + 1} is less than 2")
    check_it(n)
    n += 1
    return (é + n) * x.sum(-1) if flag else g(x, n)
'''


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("comparison", "x <= n and", "(x < n) and"),
        ("comparison", "n > 1.5:", "(n >= 1.5):"),
        ("and/or", "x <= n and n > 1.5", "(x <= n or n > 1.5)"),
        ("operator", "(é + n) * x", "((é - n)) * x"),
        ("operator", "(é + n) * x.sum(-1)", "((é + n) / x.sum(-1))"),
        ("negation dropped", "x, not n", "x, (n)"),
        ("negation dropped", "sum(-1)", "sum((1))"),
        ("number", "1.5:", "(3.5):"),
        ("number", "n=3", "n=(4)"),
        ("flag", "flag=True", "flag=(False)"),
        ("method", "x.sum", "x.mean"),
        ("arguments swapped", "g(x, n)", "(g(n, x))"),
        ("statement dropped", "check_it(n)", "pass"),
        ("statement dropped", "n += 1", "pass"),
        ("branches swapped", "(é + n) * x.sum(-1) if flag else g(x, n)", "(g(x, n) if flag else (é + n) * x.sum(-1))"),
    ],
)  # fmt: skip
def test_a_bug_of_each_kind(kind, old, new):
    texts = [planted(SOURCE, bug) for bug in bugs(SOURCE, "a.py") if bug.kind == kind]
    assert SOURCE.replace(old, new) in texts


def test_every_bug_is_one_change_of_code_that_still_parses():
    found = bugs(SOURCE, "a.py")
    for bug in found:
        text = planted(SOURCE, bug)
        ast.parse(text)
        assert text != SOURCE and text.count("\n") == SOURCE.count("\n")
    # Neither words, nor annotations, nor errors.
    assert not any(bug.line in (1, 5) or bug.before in ('"2"', "4") for bug in found)


def test_a_place_that_is_gone_is_not_changed():
    bug = next(bug for bug in bugs(SOURCE, "a.py") if bug.kind == "flag")
    with pytest.raises(ValueError, match=r"a\.py:2 no longer holds 'True'"):
        planted(SOURCE.replace("True", "None"), bug)


def test_bugs_are_chosen_by_seed_over_the_whole_library():
    sources = library()
    assert {"course_lib/sedd.py", "course_lib/recipes/run.py"} < set(sources)
    assert not any("solutions" in file for file in sources)
    some = chosen(sources, 20, 7)
    assert len(set(some)) == 20 and some == chosen(sources, 20, 7)
    one = {"course_lib/sedd.py": sources["course_lib/sedd.py"]}
    assert chosen(one, 5, 7) != chosen(one, 5, 8)
    for bug in some:
        ast.parse(planted(sources[bug.file], bug))


def test_the_tests_of_a_module_are_those_that_import_it():
    assert imported("from .finite import note\nfrom . import nets") >= {
        "course_lib.finite",
        "course_lib.nets",
    }
    assert "course_lib.shapes" in imported("from ..shapes import x", "course_lib.recipes")
    assert "tests/exact/test_sedd.py" in mutants.tests_of("course_lib.sedd")
    assert "tests/tools/test_train.py" not in mutants.tests_of("course_lib.sedd")
    assert mutants.tests_of("course_lib.process_checks"), (
        "a module that no test imports is tested by its users' tests"
    )


def small(root: Path) -> Path:
    """A repository of one module with two tests."""
    for name in mutants.COPIED:
        (root / name).mkdir(parents=True)
    (root / "course_lib" / "__init__.py").write_text("")
    (root / "course_lib" / "a.py").write_text(
        "def double(x):\n    return x + x\n\n\ndef unseen(x):\n    return -x\n"
    )
    (root / "tests" / "contract").mkdir()
    (root / "tests" / "contract" / "test_c.py").write_text("def test_c():\n    pass\n")
    (root / "tests" / "test_a.py").write_text(
        "from course_lib.a import double\ndef test_a():\n    assert double(3) == 6\n"
    )
    return root


def test_a_bug_that_a_test_sees_is_caught_and_another_survives(tmp_path, capsys):
    root = small(tmp_path / "it")
    assert mutants.main(["20"], root) == 1
    rows = {
        row["before"]: row["state"] for row in json.loads((root / "build/mutants.json").read_text())["bugs"]
    }
    assert rows == {"x + x": "caught by its tests", "-x": "survived"}
    out = capsys.readouterr().out
    assert "SURVIVED" in out and "course_lib/a.py:6 negation dropped: -x  ->  (x)" in out
    assert "1 of 2 caught (50 %), 0 equivalent" in out
    assert (root / "course_lib" / "a.py").read_text().startswith("def double(x):\n    return x + x")


def test_a_run_that_was_stopped_goes_on_and_survivors_can_be_tried_again(tmp_path, capsys):
    root, tried = small(tmp_path / "it"), []

    def stops(bug: Bug) -> str:
        if len(tried) == 1:
            raise KeyboardInterrupt
        tried.append(bug)
        return "survived"

    with pytest.raises(KeyboardInterrupt):
        mutants.main([], root, stops)
    first = list(tried)
    mutants.main([], root, lambda bug: tried.append(bug) or "caught by its tests")
    assert len(tried) == len(set(tried)) == 2 and tried[:1] == first
    out = root / "build/mutants.json"
    results = json.loads(out.read_text())
    results["bugs"][0]["equivalent"] = "nothing is lost"
    results["bugs"][1]["state"] = "survived"
    out.write_text(json.dumps(results))
    assert mutants.main(["--again"], root, lambda bug: tried.append(bug) or "caught by the contract") == 0
    assert tried[2:] == [tried[1]]
    assert "1 of 1 caught (100 %), 1 equivalent" in capsys.readouterr().out
    # Other bugs are another run.
    mutants.main(["--seed", "3"], root, lambda bug: tried.append(bug) or "survived")
    assert len(tried) == 5


def test_a_bug_that_does_not_end_is_caught(tmp_path):
    root = small(tmp_path / "it")
    (root / "tests" / "test_a.py").write_text("import time\ndef test_a():\n    time.sleep(60)\n")
    assert not mutants.passes(root, ["tests/test_a.py"], limit=1.0)


def test_files_are_asked_for_by_name(tmp_path, capsys):
    with pytest.raises(SystemExit):
        mutants.main(["--files", "course_lib/b.py"], small(tmp_path / "it"))
    assert "no file of the library: course_lib/b.py" in capsys.readouterr().err
