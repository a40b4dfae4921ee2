"""What a notebook becomes on its page, and in the copies for one use. Sphinx itself runs in `make site`."""

import os
import subprocess
import sys
import tarfile

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import copies, site, site_check
from tools.readme import ROOT

PAGES = {"07_sedd", "09_after_sedd", "REFERENCE"}
HOME = "https://example.org/owner/course"


def notebook(tmp_path, *cells):
    path = tmp_path / "09_after_sedd.ipynb"
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def marked(cell, *tags):
    cell.metadata["tags"] = list(tags)
    return cell


def test_links_lead_to_pages_to_the_repository_or_nowhere():
    text = "[a](07_sedd.ipynb#x) [b](../docs/REFERENCE.md) [c](../course_lib/sedd.py) [d](#e) ![p](p.png)"
    with_home = site.linked(text, PAGES, HOME)
    assert with_home == (
        f"[a](07_sedd.ipynb#x) [b](REFERENCE.md) [c]({HOME}/blob/main/course_lib/sedd.py) [d](#e) ![p](p.png)"
    )
    assert site.linked("see [c](../course_lib/sedd.py)", PAGES, None) == "see c"


def test_equations_are_linked_by_number_but_not_in_formulas_or_code():
    anchors = {"7.1": "07_sedd", "9.2": "09_after_sedd"}
    said = site.prose("(7.1), (9.2), (8.8), $(7.1)$, `(7.1)`", "09_after_sedd", anchors, PAGES, None)
    assert said == (
        '<a href="07_sedd.html#eq-7-1">(7.1)</a>, <a href="#eq-9-2">(9.2)</a>, (8.8), $(7.1)$, `(7.1)`'
    )
    assert site.prose(r"$$x \tag{A1.2}$$", "A1_side_notes", {}, PAGES, None).startswith('<span id="eq-A1-2">')


def test_a_page_has_no_notes_nothing_live_and_words_for_its_picture(tmp_path):
    data = {"image/png": "aWNvbg==", site.LIVE: {"model_id": "x"}, "text/plain": "a figure"}
    output = new_output("display_data", data=data, metadata={"image/png": {"alt": "two curves"}})
    drawn = new_code_cell("# NBVAL_CHECK_OUTPUT\nshow()", outputs=[output])
    path = notebook(
        tmp_path,
        new_markdown_cell("# 9. After"),
        marked(new_markdown_cell("*For the lecturer.* Wait."), "notes"),
        new_markdown_cell("### Deep\n\n<details><summary>Why</summary>$x$</details>"),
        new_code_cell("x = 1", outputs=[new_output("stream", text="[TODO] x: not attempted\n")]),
        new_code_cell(
            "progress('after_sedd')\nscore()", outputs=[new_output("stream", text="0/8 exercises solved")]
        ),
        drawn,
    )
    nb = site.page(path, {}, PAGES, None)
    text = "\n".join(cell.source for cell in nb.cells)
    assert "lecturer" not in text and "NBVAL" not in text
    assert "\n## Deep" in text and '<details class="mathjax_process">' in text
    assert nb.cells[-1].metadata["mystnb"]["image"]["alt"] == "two curves"
    assert site.LIVE not in nb.cells[-1].outputs[0].data
    assert nb.cells[-1].metadata["tags"] == ["hide-input"]  # plotting code is folded
    assert "score()" not in text and nb.cells[-2].outputs == []  # what one reader has solved
    assert "hide-input" not in nb.cells[-2].metadata.get("tags", [])
    assert "slides/09_after_sedd.html" in nb.cells[1].source and "colab" not in nb.cells[1].source
    assert "colab.research.google.com" in site.page(path, {}, PAGES, HOME).cells[1].source


def test_the_chapters_give_their_equations_and_titles():
    path = ROOT / "notebooks" / "09_after_sedd.ipynb"
    found = site.equations([path])["09_after_sedd"]
    assert [number for number, _ in found][:2] == ["9.1", "9.2"]
    page = site.equation_page({"09_after_sedd": found}, {"09_after_sedd": "9. After SEDD"})
    assert '<a href="09_after_sedd.html#eq-9-1">(9.1)</a>' in page and "\\tag" not in page


def test_a_student_copy_has_no_notes_and_a_solved_one_every_answer(tmp_path):
    path = ROOT / "notebooks" / "09_after_sedd.ipynb"
    (student,) = copies.write("student", [path], tmp_path / "student")
    kinds = [tag for cell in nbformat.read(student, 4).cells for tag in cell.metadata.get("tags", [])]
    assert "notes" not in kinds and "exercise" in kinds
    (solved,) = copies.write("solved", [path], tmp_path / "solved")
    cells = nbformat.read(solved, 4).cells
    stubs = [cell.source for cell in cells if copies.STUB.search(cell.source)]
    assert cells[1].source == "%env COURSE_SOLUTIONS=1" and len(stubs) == 8
    assert all("# The answer, from course_lib.solutions.after_sedd" in stub for stub in stubs)
    with pytest.raises(ValueError, match="colab needs the repository's address"):
        copies.write("colab", [path], tmp_path, None)
    with pytest.raises(ValueError, match="kind must be one of"):
        copies.write("teacher", [path], tmp_path)


def test_a_student_copy_folds_what_only_draws_and_has_no_marks_for_tests(tmp_path):
    cells = [
        new_code_cell(f"# NBVAL_CHECK_OUTPUT\n{code}") for code in ("show(a)", "x = 1\nshow(x)", "explore(b)")
    ]
    cells.append(marked(new_code_cell("show(c)"), "exercise"))
    path = notebook(tmp_path, new_markdown_cell("# 9. After"), *cells)
    for kind in ("student", "colab"):
        (copy,) = copies.write(kind, [path], tmp_path / kind, HOME)
        code = [c for c in nbformat.read(copy, 4).cells if c.cell_type == "code"][-4:]
        assert [c.source for c in code] == ["show(a)", "x = 1\nshow(x)", "explore(b)", "show(c)"]
        assert [c.metadata.get("jupyter", {}).get("source_hidden") for c in code] == [True, None, True, None]


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a.html").write_text(
        '<p id="x"><a href="../index.html#top">up</a> <a href="b.html">b</a>'
    )
    (tmp_path / "index.html").write_text(
        '<p id="top"><a href="slides/a.html#/2"></a><a href="slides/a.html#x"></a><a href="slides/a.html#y"></a>'
        '<a href="https://example.org/x"></a><a href="mailto:a@b.c"></a><img src="data:,">'
        '<img src="lost.png"><a href="#no">'
    )
    assert site_check.dead_links(tmp_path) == [
        "index.html: no such place: slides/a.html#y",
        "index.html: nothing lies at lost.png",
        "index.html: no such place: #no",
        "slides/a.html: nothing lies at b.html",
    ]


def test_a_copy_that_is_kept_is_left_alone_and_said_to_be_old(tmp_path, capsys):
    path, out = notebook(tmp_path, new_markdown_cell("# 9. After")), tmp_path / "mine"
    command = ["student", str(path), "--out", str(out), "--keep"]
    assert copies.main(command) == 0 and copies.main(command) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: 1 notebooks written",
        f"{out}: 0 notebooks written",
    ]
    mine = nbformat.read(out / path.name, 4)
    mine.cells.append(new_code_cell("my = 'answer'"))
    nbformat.write(mine, out / path.name)
    assert copies.main(command) == 0 and "changed" not in capsys.readouterr().out
    notebook(tmp_path, new_markdown_cell("# 9. After, again"))
    assert copies.main(command) == 0
    assert f"{out / path.name}: the course's notebook has changed since" in capsys.readouterr().out
    assert nbformat.read(out / path.name, 4).cells == mine.cells
    assert copies.main(command[:-1]) == 0
    assert nbformat.read(out / path.name, 4).cells[0].source == "# 9. After, again"


def test_the_first_cell_brings_the_course_from_an_archive_in_colab_and_does_nothing_elsewhere(tmp_path):
    packed = tmp_path / "course.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        for name in ("pyproject.toml", "course_lib/__init__.py", "notebooks/ruff.toml"):
            archive.add(ROOT / name, f"course-main/{name}")
    cell = copies.first_cell(packed.as_uri()).source
    told = tmp_path / "told.py"
    told.write_text(
        "import subprocess\nasked = []\nsubprocess.run = lambda command, **_: asked.append(command)\n"
        f"{cell}\nimport os\ntry:\n    import course_lib\n    where = course_lib.__file__\n"
        "except ImportError:\n    where = ''\nprint(os.getcwd(), where, asked, sep='|')\n"
    )
    base = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "KAGGLE_KERNEL_RUN_TYPE")
    }

    def run(**more):
        command = [sys.executable, str(told)]
        done = subprocess.run(
            command, env=base | more, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip().split("|")

    here, where, asked = run()
    assert here == str(tmp_path) and "course-main" not in where and asked == "[]"
    here, where, asked = run(KAGGLE_KERNEL_RUN_TYPE="Batch")
    assert here == str(tmp_path / "course" / "course-main" / "notebooks")
    assert where == str(tmp_path / "course" / "course-main" / "course_lib" / "__init__.py")
    assert "sacrebleu" in asked and "'torch" not in asked and "'numpy" not in asked
