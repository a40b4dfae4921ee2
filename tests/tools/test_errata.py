"""Errata stand in the chapters and nowhere else: read from their cells, collected; chapter 0 goes stale with them."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib import errata
from tools import stamps
from tools.readme import ROOT

TEXT = """### Errata

**The paper** (arXiv:2205.14217)

- The first has a sign
  turned: $a$ | $b$.
- The second.

**The code** (owner/name at 1b8b3db)
- *Loss.* A third. With two sentences.

**Retellings.** They say this. And that.
"""


def test_a_cell_is_read_by_source_and_item():
    assert list(errata.read(TEXT)) == [
        ("The paper (arXiv:2205.14217)", "The first has a sign turned: $a$ | $b$."),
        ("The paper (arXiv:2205.14217)", "The second."),
        ("The code (owner/name at 1b8b3db)", "*Loss.* A third. With two sentences."),
        ("Retellings", "They say this. And that."),
    ]
    assert list(errata.read("**Errata.** The paper prints $K I$.")) == [("Errata", "The paper prints $K I$.")]
    assert list(errata.read("**A.** One.\n\n**B.**\n\n- two\n\n**C**")) == [
        ("A", "One."),
        ("B", "two"),
        ("C", "C"),
    ]
    with pytest.raises(ValueError, match="below a source in bold, but none is above '- alone'"):
        list(errata.read("### Errata\n\n- alone"))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()

    def write(name, text, tags=("close", "errata")):
        cell = new_markdown_cell(text, metadata={"tags": list(tags)})
        nbformat.write(new_notebook(cells=[cell]), folder / f"{name}.ipynb")

    write("02_b", "**B.** Two.")
    write("01_a", "**A**\n\n- one\n- more")
    write("03_c", "**Not tagged.** Three.", tags=["close"])
    return folder


def test_they_are_collected_by_chapter_and_shown_once_a_source(folder, monkeypatch):
    found = errata.collect(folder)
    assert found == [
        errata.Erratum("01_a", "A", "one"),
        errata.Erratum("01_a", "A", "more"),
        errata.Erratum("02_b", "B", "Two."),
    ]
    shown = []
    monkeypatch.setattr(errata, "display", lambda bundle, **kw: shown.append(bundle["text/markdown"]))
    errata.show(found)
    assert shown[0].splitlines() == [
        "**Chapter [01_a](01_a.ipynb)**",
        "",
        "- *A*",
        "    - one",
        "    - more",
        "",
        "**Chapter [02_b](02_b.ipynb)**",
        "",
        "- *B*",
        "    - Two.",
    ]


def test_what_collects_them_is_stale_when_one_changes(folder):
    source = "from course_lib import errata\nerrata.show(errata.collect(folder))"
    nb = new_notebook(cells=[new_code_cell(source)])
    path = folder / "00_x.ipynb"
    nb.metadata[stamps.KEY] = stamps.made_from(nb, path, ROOT)
    nbformat.write(nb, path)
    assert stamps.changes(path, ROOT) == []
    other = nbformat.read(folder / "02_b.ipynb", as_version=4)
    other.cells[0].source = "**B.** Two, and more."
    nbformat.write(other, folder / "02_b.ipynb")
    assert stamps.changes(path, ROOT) == ["notebooks/02_b.ipynb (errata)"]
    plain = new_notebook(cells=[new_code_cell("import course_lib.plots")])
    assert not [name for name in stamps.made_from(plain, path, ROOT)["files"] if "errata" in name]


def test_the_chapters_own():
    """Each names a source with an address that a reader can look up, and says something of it."""
    for e in errata.collect(ROOT / "notebooks"):
        assert len(e.finding) > 20 and not e.finding.startswith("-"), e
