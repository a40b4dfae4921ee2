"""docs/ARCHITECTURE.md names files that there are."""

import re
from pathlib import Path

import course_lib

LIBRARY = Path(course_lib.__file__).parent
PAGE = (LIBRARY.parent / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
# Not what somebody looks for by a word of the field
INSIDE = {"__init__", "shapes", "finite", "process", "wrapper", "plots", "widgets", "notebook"}


def test_every_file_named_exists():
    named = set(re.findall(r"`([a-z0-9_]+)\.py`", PAGE))
    assert {"process", "ddpm", "d3pm", "mdlm"} <= named
    assert not {name for name in named if not (LIBRARY / f"{name}.py").is_file()}


def test_every_file_is_found_by_a_word():
    table = PAGE[PAGE.index("## Which file") : PAGE.index("## The contract")]
    found = set(re.findall(r"`([a-z0-9_]+)(?:\.py|/)`", table)) | INSIDE
    there = {p.stem for p in LIBRARY.glob("*.py")} | {p.parent.name for p in LIBRARY.glob("*/__init__.py")}
    assert there - found == set()


def test_it_is_one_page():
    assert len(PAGE.splitlines()) <= 120
