"""docs/ADDING_A_CHAPTER.md is true: its table, followed for an empty system, leaves no listing test red."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib import exercise

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = """from .process import Process


class BD3LM(Process):
    ...
"""
STEPS = {  # what the table's rows say, for bd3lm: file, what stands there (a pattern), what must
    "the list in `course_lib/__init__.py`": (
        "course_lib/__init__.py",
        r"\n    [\w ]*\bd3pm\b",
        r"\n    bd3lm\g<0>",
    ),
    "`SYSTEMS` of `tests/contract/test_contract.py`": (
        "tests/contract/test_contract.py",
        "from course_lib.d3pm import",
        "from course_lib.bd3lm import BD3LM\nfrom course_lib.d3pm import",
    ),
    "`CHAPTERS` of `tests/exercises/test_every_exercise.py`": (
        "tests/exercises/test_every_exercise.py",
        r"CHAPTERS = \{",
        'CHAPTERS = {\n    "bd3lm": "",',
    ),
}


def table():
    """where -> the test that is red until then, as the page says."""
    page = (ROOT / "docs" / "ADDING_A_CHAPTER.md").read_text(encoding="utf-8")
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")
    ]
    return {where: red.strip("`") for _, where, red in rows[1:]}


@pytest.fixture
def copy(tmp_path):
    """The repository with an empty system in it."""
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors", "exact", "layers")
    for name in ("course_lib", "tools", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "course_lib" / "bd3lm.py").write_text(SYSTEM)
    (tmp_path / "course_lib" / "solutions" / "bd3lm.py").write_text('"""Exercises of block diffusion."""\n')
    return tmp_path


def follow(copy, where):
    name, old, new = STEPS[where]
    text = (copy / name).read_text(encoding="utf-8")
    text, found = re.subn(old, new, text, count=1)
    assert found == 1, f"{name} has no {old!r}"
    (copy / name).write_text(text, encoding="utf-8")


LISTING = (
    "tests/test_layers.py",
    "tests/repository/test_reference.py",
    "tests/exercises/test_every_exercise.py",
)
NAMES = "in_the_list or upwards or contract_table or forgotten or has_its_exercises"


def red(copy) -> set[str]:
    """The listing tests that fail in the copy, by file."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rf",
        "-o",
        "filterwarnings=",
        "-p",
        "no:cacheprovider",
        "-k",
        NAMES,
        *LISTING,
    ]
    base = {k: v for k, v in os.environ.items() if k != "COURSE_STRICT"} | {"PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=base, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return set(re.findall(r"^FAILED (tests/[\w/]+\.py)", done.stdout, re.M))


def test_the_rows_are_those_that_are_tried():
    assert {*STEPS} == {where for where, red in table().items() if red != "make lint"}


def test_with_every_row_done_nothing_is_red(copy):
    for where in STEPS:
        follow(copy, where)
    assert red(copy) == set()


def test_with_no_row_done_what_the_page_names_is_red(copy):
    assert red(copy) == {name for where, name in table().items() if where in STEPS}


# The exercise of fifteen lines


@pytest.fixture
def printed(tmp_path, monkeypatch):
    """The page's exercise, defined."""
    page = (ROOT / "docs" / "ADDING_A_CHAPTER.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    assert sum(bool(line) for line in code.splitlines()) <= 15
    file = tmp_path / "bd3lm.py"
    file.write_text(
        "import torch\nfrom course_lib.cases import laws\nfrom course_lib.exercise import define\n\n\n" + code
    )
    monkeypatch.setattr(exercise, "REGISTRY", {})
    spec = importlib.util.spec_from_file_location("course_lib.solutions.bd3lm", file)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return exercise.REGISTRY["bd3lm.importance"]


def test_the_exercise_of_the_page_works(printed):
    assert exercise.grade(printed, printed.reference) == ("PASS", "")
    for label, wrong in printed.wrong.items():
        assert exercise.grade(printed, wrong) == ("FAIL", printed.hints[label])


def test_what_the_page_says_of_other_mistakes_is_so(printed):
    text = exercise.grade(printed, lambda p, T: 1 / ((T - 1) * p))[1]
    assert "the right one for T - 1 in the place of T" in text
    assert "where p is uniform nothing needs correcting" in text.lower()
    assert "2 times what is expected" in exercise.grade(printed, lambda p, T: 2 / (T * p))[1]
