"""docs/ARCHITECTURE.md names files that there are."""

import re
from pathlib import Path

import course_lib

LIBRARY = Path(course_lib.__file__).parent
PAGE = (LIBRARY.parent / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_every_file_named_exists():
    named = set(re.findall(r"`([a-z0-9_]+)\.py`", PAGE))
    assert {"process", "ddpm", "d3pm", "mdlm"} <= named
    assert not {name for name in named if not (LIBRARY / f"{name}.py").is_file()}


def test_it_is_one_page():
    assert len(PAGE.splitlines()) <= 120
