"""The runner of all that CI runs: which stages, in what surroundings, and what it says."""

import os
import pathlib
import subprocess
import sys

import pytest

from tools import ci

LINT = ["ruff", "format", "notebook-lint", "outputs", "density", "reference"]
ROOT = pathlib.Path(__file__).parents[2]


def test_the_stages_are_these_in_this_order():
    table = ci.stages(["a.ipynb"])
    assert list(table) == [*LINT, "unit", "blank", "solved", "slides", "site"]
    assert table["unit"][1] == {"COURSE_STRICT": "1"}
    assert table["blank"][1] == {} and table["solved"][1] == {"COURSE_SOLUTIONS": "1", "COURSE_FAST": "1"}
    assert table["blank"][0] == table["solved"][0] and table["blank"][0][-1] == "a.ipynb"


def test_a_stage_sees_one_thread_and_only_its_own_mode():
    base = {"PATH": "p", "OMP_NUM_THREADS": "8"}
    base |= dict.fromkeys(("COURSE_SOLUTIONS", "COURSE_FAST", "COURSE_STATIC", "COURSE_STRICT"), "1")
    plain = {"PATH": "p", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    assert ci.environment({}, base) == plain
    assert ci.environment({"COURSE_FAST": "1"}, base) == {**plain, "COURSE_FAST": "1"}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("== 1 failed, 12 passed, 3 skipped in 4.05s ==", {"failed": 1, "passed": 12, "skipped": 3}),
        ("= 5 passed, 1 xfailed, 2 errors in 75.00s (0:01:15) =", {"passed": 5, "errors": 2}),
        ("== 1 error in 0.20s ==", {"error": 1}),
        ("no tests ran in 0.01s", {}),
        ("3 passed the gate", {}),
    ],
)
def test_counts_reads_only_the_closing_line_of_pytest(line, found):
    assert ci.counts(line) == found


def test_a_stage_runs_with_its_variables_and_shows_its_output(monkeypatch, capsys):
    monkeypatch.setenv("COURSE_SOLUTIONS", "1")
    code = "import os, sys; seen = os.environ.get; print(seen('COURSE_SOLUTIONS'), seen('A'), flush=True)"
    code += "; print('1 passed in 0.10s', flush=True); print('last', file=sys.stderr); sys.exit(4)"
    assert ci.run_stage(["-c", code], {"A": "b"}) == (4, {"passed": 1})
    assert capsys.readouterr().out == "None b\n1 passed in 0.10s\nlast\n"


def clock_of(*times):
    return iter(times).__next__


def test_all_stages_run_and_the_counts_are_summed(capsys):
    answers = {"a": (0, {}), "b": (0, {"passed": 2, "skipped": 1}), "c": (0, {"passed": 40})}
    table = {name: ([name, "x"], {"V": name}) for name in answers}

    def run_stage(arguments, variables):
        assert variables == {"V": arguments[0]}
        return answers[arguments[0]]

    assert ci.run(table, run_stage, clock_of(0.0, 1.0, 2.5, 3.0, 5.0, 6.0, 9.0, 10.0)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "--- a: python a x",
        "--- b: python b x",
        "--- c: python c x",
        "",
        "a              ok         1.5 s",
        "b              ok         2.0 s",
        "c              ok         3.0 s",
        "42 passed, 1 skipped in 10.00s",
    ]


def test_the_first_stage_that_fails_stops_the_run_and_is_named(capsys):
    answers = {"a": (0, {"passed": 3}), "b": (2, {"failed": 1, "passed": 2}), "c": (0, {})}
    table = {name: ([name], {}) for name in answers}
    assert ci.run(table, lambda arguments, variables: answers[arguments[0]], clock_of(*range(9))) == 2
    assert capsys.readouterr().out.splitlines()[2:] == [
        "",
        "a              ok         1.0 s",
        "b              FAILED     1.0 s",
        "FAILED at stage: b",
        "1 failed, 5 passed in 5.00s",
    ]


def test_main_runs_the_named_stages_or_all(monkeypatch, capsys):
    tables = []
    monkeypatch.setattr(ci, "run", lambda table: tables.append(table) or 5)
    assert ci.main([]) == 5
    assert tables[0] == ci.stages(["notebooks"])
    assert ci.main(["unit", "solved", "--notebooks", "a.ipynb", "b.ipynb"]) == 5
    assert list(tables[1]) == ["unit", "solved"] and tables[1]["solved"][0][-2:] == ["a.ipynb", "b.ipynb"]
    with pytest.raises(SystemExit, match="2"):
        ci.main(["unit", "units"])
    assert "stage is units, must be one of: ruff, format" in capsys.readouterr().err


def test_the_runner_exits_with_the_code_of_the_stage_that_failed(tmp_path):
    command = [sys.executable, "-m", "tools.ci", "ruff", "unit"]
    (tmp_path / "bad.py").write_text("import os\n")
    base = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(command, cwd=tmp_path, env=base, capture_output=True, text=True)
    assert answer.returncode == 1 and answer.stdout.endswith("FAILED at stage: ruff\n")


SKIPPING = """
import pytest

def test_device(): pytest.skip("needs a CUDA device")
def test_browser(): pytest.skip("needs Chromium: apt install chromium")
def test_package(): pytest.importorskip("no_such_package")
@pytest.mark.xfail
def test_expected(): assert False
"""


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, {"skipped": 3, "xfailed": 1}),
        ({"COURSE_STRICT": "1"}, {"failed": 1, "skipped": 2, "xfailed": 1}),
        ({"COURSE_STRICT": "1", "CI": "true"}, {"failed": 2, "skipped": 1, "xfailed": 1}),
    ],
)
def test_only_a_missing_device_may_be_skipped(tmp_path, variables, wanted):
    """On a laptop without Chromium, too: there it is said, and is no failure."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    (tmp_path / "test_it.py").write_text(SKIPPING)
    base = {k: v for k, v in os.environ.items() if k not in ("CI", "COURSE_STRICT")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=base | variables, capture_output=True, text=True)
    said = done.stdout.splitlines()[-1]
    assert {
        word: int(n) for n, word in [part.split()[:2] for part in said.split(" in ")[0].split(", ")]
    } == wanted


def test_a_whole_file_may_not_be_skipped_either(tmp_path):
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    (tmp_path / "test_it.py").write_text("import pytest\npytest.importorskip('no_such_package')\n")
    for strict, code in ((False, 5), (True, 2)):
        base = {k: v for k, v in os.environ.items() if k != "COURSE_STRICT"}
        base |= {"COURSE_STRICT": "1"} if strict else {}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
        assert subprocess.run(command, cwd=tmp_path, env=base, capture_output=True).returncode == code
