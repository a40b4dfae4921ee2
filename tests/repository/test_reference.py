"""The reference page holds every public name of the library, once, under a task."""

import ast
import re
from pathlib import Path

from tools import changelog, reference

LIBRARY = reference.ROOT / "course_lib"
SOURCE = '''
"""What the file is.

More.
"""
import os
LIMIT = 3
small = 4

def f(x, y=2, *rest, z: int = 3, **more):
    """Does it,
    in two lines.

    More.
    """

def _hidden(): ...

def g(*, only): ...

class A(Base):
    """An A."""

    def __init__(self, n): ...

    def method(self, t=1.0):
        """A step."""

    @property
    def size(self):
        """Its size."""

    @staticmethod
    def make(x):
        """Another."""

    def undocumented(self): ...

@dataclass(frozen=True)
class Row:
    """A row."""

    t: int
    s: int = 0
'''


def test_a_page_says_names_calls_and_first_words(tmp_path):
    (tmp_path / "lib" / "recipes").mkdir(parents=True)
    (tmp_path / "lib" / "ddpm.py").write_text(SOURCE)
    (tmp_path / "lib" / "recipes" / "__init__.py").write_text("def find(name): ...\n")
    (tmp_path / "lib" / "own.py").write_text("def mine(): ...\n")
    text = reference.page(tmp_path / "lib")
    assert text[text.index("\n- [") :].splitlines()[1:] == [
        "- [Choose a system for real numbers](#choose-a-system-for-real-numbers)",
        "- [Make the shipped weights](#make-the-shipped-weights)",
        "- [More](#more)",
        "",
        "## Choose a system for real numbers",
        "",
        "### `lib.ddpm`",
        "",
        "What the file is.",
        "",
        "- `LIMIT`",
        "- `f(x, y=2, *rest, z=3, **more)` Does it, in two lines.",
        "- `g(*, only)`",
        "- `A(n) : Base` An A.",
        "    - `method(t=1.0)` A step.",
        "    - `size` Its size.",
        "    - `make(x)` Another.",
        "- `Row(t, s=0)` A row.",
        "",
        "## Make the shipped weights",
        "",
        "### `lib.recipes`",
        "",
        "",
        "",
        "- `find(name)`",
        "",
        "## More",
        "",
        "### `lib.own`",
        "",
        "",
        "",
        "- `mine()`",
    ]


def test_every_public_name_is_on_it():
    text = reference.page()
    for path in LIBRARY.rglob("*.py"):
        if "solutions" in path.parts:
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert f"- `{node.name}" in text, f"{node.name} of {path.name} is not on the page"


def test_check_finds_and_writing_mends(tmp_path: Path, capsys):
    target = tmp_path / "REFERENCE.md"
    assert reference.main(["--check"], target) == 1 and "out of date" in capsys.readouterr().err
    assert reference.main([], target) == 0 and reference.main(["--check"], target) == 0


def test_a_file_that_no_task_names_is_named(tmp_path, monkeypatch, capsys):
    lost = {task: words.replace("ddpm ", "") for task, words in reference.TASKS.items()}
    monkeypatch.setattr(reference, "TASKS", lost)
    assert reference.main([], tmp_path / "REFERENCE.md") == 0
    assert reference.main(["--check"], tmp_path / "REFERENCE.md") == 1
    assert "ddpm: name it in TASKS of tools/reference.py" in capsys.readouterr().err


def test_the_new_names_of_the_changelog_exist():
    """Each name in the right column of the table old -> new, but for what is no part of the library."""
    text = (reference.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `")]
    page = reference.page() + " ".join(reference.CONTRACT | changelog.of_tree())
    words = {word for _, new in rows for name in re.findall(r"`([\w.]+)`", new) for word in name.split(".")}
    lost = {word for word in words - {"tools"} if not re.search(rf"\b{word}\b", page)}
    assert len(rows) > 20 and not lost, f"CHANGELOG.md names {sorted(lost)}, which the library does not have"
