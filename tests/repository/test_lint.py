"""Each house rule passes a good chapter and names the cell of a bad one."""

import base64
import json
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import lint
from tools.notebooks import normalise, store

ALT = "Three curves that fall"
HEADER = "**Exercise** difficulty 2 importance 3, 10 minutes <details>a</details> <details>b</details>"


def text(kind, source, slide="slide"):
    return new_markdown_cell(source, metadata={"tags": [kind], "slideshow": {"slide_type": slide}})


def code(kind, source, slide="-", *outputs):
    about = {"tags": [kind], "slideshow": {"slide_type": slide}}
    return new_code_cell(source, metadata=about, outputs=list(outputs))


def printed(words):
    return new_output("stream", name="stdout", text=words)


def image(data=b"\x89PNG", alt=ALT, kind="image/png"):
    encoded = base64.b64encode(data).decode()
    return new_output("display_data", {kind: encoded}, metadata={kind: {"alt": alt}})


def stanza(k):
    return [
        text("derivation", f"## 1.{k} One idea\n$$x = y \\tag{{1.{k}}}$$"),
        code("code", f"x = {k}  # (1.{k})", "subslide"),
        code("check", f"# NBVAL_CHECK_OUTPUT\nprint({k})", "skip", printed(f"{k}\n")),
        text("exercise", HEADER, "subslide"),
        code("exercise", f"@exercise('a.{k}')\ndef f(x): ...", "-", printed("[TODO] a\n")),
        text("notes", "3 minutes.", "notes"),
    ]


@pytest.fixture
def nb():
    """A good chapter 1: three cells open it, stanza k starts at cell 6 k - 2, six cells close it."""
    cells = [
        text("card", "# 1. A chapter"),
        code("setup", "import torch", "skip"),
        text("predictions", "Bets"),
    ]
    for k in range(1, 6):
        cells += stanza(k)
    cells += [code("train", "train()", "slide", image()), text("text", "## See it")]
    cells += [
        text("paper", "Beside the paper"),
        text("close", "Three equations"),
        text("notes", "x", "notes"),
    ]
    cells += [text("notes", "y", "notes")]
    return normalise(new_notebook(cells=cells))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "01_good.ipynb"


def problems(nb, path):
    store(nb, path)
    return lint.lint(path)[0]


def test_a_good_chapter_breaks_no_rule(nb, path, capsys):
    assert problems(nb, path) == []
    assert lint.main([str(path)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    size = round(path.stat().st_size / 1024)
    assert said.out == (
        "01_good.ipynb: 39 cells, 21 slides, 7 notes, 5 equations, 5 compared outputs, 5 exercises, "
        f"{size} KB: no problems\n"
    )


def put(number, **changes):
    """A breaker that sets attributes of one cell, counted from 1."""

    def do(nb):
        nb.cells[number - 1].update(changes)

    return do


def source(number, old, new):
    def do(nb):
        assert old in nb.cells[number - 1].source
        nb.cells[number - 1].source = nb.cells[number - 1].source.replace(old, new)

    return do


def gives(number, *outputs):
    return put(number, outputs=list(outputs))


def typed(number, slide):
    return lambda nb: nb.cells[number - 1].metadata.slideshow.update(slide_type=slide)


def tagged(number, *tags):
    return lambda nb: nb.cells[number - 1].metadata.update(tags=list(tags))


def swap(a, b):
    def do(nb):
        nb.cells[a - 1], nb.cells[b - 1] = nb.cells[b - 1], nb.cells[a - 1]

    return do


WIDGET = new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}})
SVG = new_output("display_data", {"text/html": "<p><svg></svg>"})
LONG = "x = '" + "y" * 83 + "'"
KINDS = ", ".join(lint.KINDS)
CELL = "01_good.ipynb cell"

# label: (breaker, rule, what it says); the notebook is brought back to normal form in between
BROKEN = {
    "error": (
        gives(34, new_output("error", ename="E", evalue="e", traceback=[])),
        "executed",
        f"{CELL} 34 (train): stores an error",
    ),
    "an address": (
        gives(34, new_output("display_data", {"text/plain": "<matplotlib.legend.Legend at 0x7f457fc90150>"})),
        "executed",
        f"{CELL} 34 (train): shows an object's address",
    ),
    "an address in print": (
        gives(34, new_output("stream", name="stdout", text="<function f at 0x7f>")),
        "executed",
        f"{CELL} 34 (train): shows an object's address",
    ),
    "stderr": (
        gives(34, new_output("stream", name="stderr", text="careful")),
        "clean",
        f"{CELL} 34 (train): wrote to stderr: careful",
    ),
    "widget view": (
        gives(34, WIDGET),
        "clean",
        f"{CELL} 34 (train): stores a widget view; print its picture instead",
    ),
    "jpeg": (
        gives(34, image(kind="image/jpeg")),
        "images",
        f"{CELL} 34 (train): stores image/jpeg, must be image/png",
    ),
    "svg": (gives(34, SVG), "images", f"{CELL} 34 (train): stores image/svg+xml, must be image/png"),
    "no alt": (
        gives(34, image(alt=" " + "a" * 19)),
        "images",
        f"{CELL} 34 (train): image has alt text ' {'a' * 19}', must have at least 20 characters",
    ),
    "big image": (
        gives(34, image(b"a" * 61441)),
        "images",
        f"{CELL} 34 (train): image has 61441 bytes, must be at most 61440",
    ),
    "no kind": (
        tagged(36, "hide"),
        "kinds",
        f"{CELL} 36 (hide): has 0 kind tags, must have one of {KINDS}",
    ),
    "two kinds": (
        tagged(36, "paper", "text"),
        "kinds",
        f"{CELL} 36 (paper, text): has 2 kind tags, must have one of {KINDS}",
    ),
    "slide type": (
        typed(2, "slides"),
        "slide_types",
        f"{CELL} 2 (setup): has slide_type 'slides', "
        "must be one of slide, subslide, fragment, -, notes, skip",
    ),
    "long code": (
        put(2, source="\n".join(["x = 1"] * 21)),
        "short_code",
        f"{CELL} 2 (setup): has 21 lines, must have at most 20",
    ),
    "long slide": (
        put(34, source="\n".join(["x = 1"] * 17)),
        "short_code",
        f"{CELL} 34 (train): has 17 lines, must have at most 16 on a slide",
    ),
    "wide slide": (
        put(34, source=LONG),
        "short_code",
        f"{CELL} 34 (train): has 89 columns, must have at most 88 on a slide",
    ),
    "solutions": (
        put(2, source="import course_lib.solutions.ddpm"),
        "banned",
        f"{CELL} 2 (setup): imports solutions",
    ),
    "solutions from": (
        put(2, source="from course_lib import nets, solutions"),
        "banned",
        f"{CELL} 2 (setup): imports solutions",
    ),
    "tqdm": (
        put(2, source="x = 1\nfrom tqdm.auto import tqdm"),
        "banned",
        f"{CELL} 2 (setup): uses tqdm; progress comes from course_lib",
    ),
    "show": (
        put(2, source="plt.show()"),
        "banned",
        f"{CELL} 2 (setup): calls plt.show(); use course_lib.plots.show(fig, alt=...)",
    ),
    "todo": (source(36, "Beside", "TODO"), "banned", f"{CELL} 36 (paper): has a TODO in its prose"),
    "path": (put(2, source="open('/home/me/x')"), "banned", f"{CELL} 2 (setup): names a path of one machine"),
    "printed path": (
        gives(34, printed("saved /Users/me/x\n")),
        "banned",
        f"{CELL} 34 (train): names a path of one machine",
    ),
    "drive": (put(2, source=r"x = 'C:\me'"), "banned", f"{CELL} 2 (setup): names a path of one machine"),
    "net image": (
        put(36, source="![words](https://x.org/a.png)"),
        "banned",
        f"{CELL} 36 (paper): loads an image from the network",
    ),
    "net img": (
        put(36, source='<img alt="words" src="http://x.org/a.png">'),
        "banned",
        f"{CELL} 36 (paper): loads an image from the network",
    ),
    "silent image": (
        put(36, source="![ ](data:image/png;base64,)"),
        "banned",
        f"{CELL} 36 (paper): has an image without alt text",
    ),
    "silent img": (
        put(36, source='<img src="data:," alt="">'),
        "banned",
        f"{CELL} 36 (paper): has an image without alt text",
    ),
    "colour": (
        put(36, source=r"$\color{red}{x}$"),
        "banned",
        rf"{CELL} 36 (paper): has a bare \color: it colours all that follows; write {{\color{{#..}}{{..}}}}",
    ),
    "lost link": (
        put(36, source="[next](02_next.ipynb#top)"),
        "links",
        f"{CELL} 36 (paper): links to 02_next.ipynb#top, which does not exist",
    ),
    "lost source": (
        put(36, source='<img alt="words" src="a.png">'),
        "links",
        f"{CELL} 36 (paper): links to a.png, which does not exist",
    ),
    "a paper without a link": (
        source(36, "Beside", "Beside `2107.03006` and (arXiv:2107.03006)"),
        "papers",
        f"{CELL} 36 (paper): names arXiv:2107.03006, "
        "which must be [arXiv:2107.03006](https://arxiv.org/abs/2107.03006)",
    ),
    "a bare number of a paper": (
        source(
            36,
            "Beside",
            "Beside [arXiv:2107.03006](https://arxiv.org/abs/2107.03006), 2406.07524, 12406.07524",
        ),
        "papers",
        f"{CELL} 36 (paper): names 2406.07524, which must be [2406.07524](https://arxiv.org/abs/2406.07524)",
    ),
    "another paper's link": (
        source(36, "Beside", "Beside [2107.03006](https://arxiv.org/abs/2107.03007)"),
        "papers",
        f"{CELL} 36 (paper): shows 2107.03006, but links to https://arxiv.org/abs/2107.03007",
    ),
    "no output": (gives(6), "compared", f"{CELL} 6 (check): # NBVAL_CHECK_OUTPUT but no stored output"),
    "late mark": (
        source(6, "# NBVAL_CHECK_OUTPUT\n", "\n# NBVAL_CHECK_OUTPUT\n"),
        "compared",
        f"{CELL} 6 (check): # NBVAL_CHECK_OUTPUT must be its first line",
    ),
    "few marks": (
        source(6, "# NBVAL_CHECK_OUTPUT\n", ""),
        "compared",
        "01_good.ipynb: has 4 compared cells, must have at least 5",
    ),
    "unchecked": (
        source(11, "  # (1.2)", ""),
        "equations",
        "01_good.ipynb: equation (1.2) is not checked by any code",
    ),
    "lost equation": (
        source(36, "paper", "(1.6)"),
        "equations",
        f"{CELL} 36 (paper): names equation (1.6), which has no tag",
    ),
    "no card": (tagged(1, "text"), "parts", "01_good.ipynb: has no card"),
    "no see it": (source(35, "See it", "Samples"), "parts", "01_good.ipynb: has no see it"),
    "order": (
        swap(36, 37),
        "parts",
        "01_good.ipynb: parts must come in the order "
        "card, setup, predictions, stanzas, train, see it, paper, close",
    ),
    "four stanzas": (tagged(28, "text"), "parts", "01_good.ipynb: has 4 stanzas, must have at least 5"),
    "stanza number": (
        source(28, "## 1.5", "## 1.7"),
        "parts",
        f"{CELL} 28 (derivation): must be headed '## 1.5'",
    ),
    "no check": (
        tagged(6, "code"),
        "parts",
        f"{CELL} 4 (derivation): stanza must have a code cell, and a check cell after it",
    ),
    "check first": (
        swap(5, 6),
        "parts",
        f"{CELL} 4 (derivation): stanza must have a code cell, and a check cell after it",
    ),
    "last check": (
        tagged(30, "code"),
        "parts",
        f"{CELL} 28 (derivation): stanza must have a code cell, and a check cell after it",
    ),
    "few exercises": (
        source(8, "@exercise", "@my_exercise"),
        "exercises",
        "01_good.ipynb: has 4 exercises, must have at least 5",
    ),
    "difficulty": (
        source(7, "difficulty", ""),
        "exercises",
        f"{CELL} 8 (exercise): exercise header lacks difficulty",
    ),
    "importance": (
        source(7, "importance", ""),
        "exercises",
        f"{CELL} 8 (exercise): exercise header lacks importance",
    ),
    "minutes": (source(7, "10 min", ""), "exercises", f"{CELL} 8 (exercise): exercise header lacks minutes"),
    "hints": (
        source(7, "<details>b", "b"),
        "exercises",
        f"{CELL} 8 (exercise): exercise header lacks two <details> hints",
    ),
    "solved": (
        gives(8, printed("[PASS] a\n")),
        "exercises",
        f"{CELL} 8 (exercise): stored output must say TODO: exercises are stored blank",
    ),
    "few slides": (
        lambda nb: [typed(n, "fragment")(nb) for n in (5, 7)],
        "slides",
        "01_good.ipynb: has 19 slides, must have 20 to 40",
    ),
    "few notes": (
        lambda nb: [typed(n, "skip")(nb) for n in (9,)],
        "slides",
        "01_good.ipynb: has 6 notes cells for 21 slides, must have one for every three",
    ),
}


@pytest.mark.parametrize("label", BROKEN)
def test_each_rule_names_what_is_broken(label, nb, path):
    do, rule, message = BROKEN[label]
    do(nb)
    store(normalise(nb), path)
    assert [m for r in (getattr(lint, rule),) for m in r(nb, path)] == [message]
    assert lint.lint(path)[0].count(message) == 1


UNTIDY = {
    "count": (put(2, execution_count=7), f"{CELL} 2 (setup): has execution count 7, must be 1"),
    "not run": (put(34, execution_count=None), f"{CELL} 34 (train): has execution count None, must be 17"),
    "id": (put(3, id="abc"), f"{CELL} 3 (predictions): id 'abc' must be 12 hex digits, used once"),
    "widgets": (lambda nb: nb.metadata.update(widgets={}), "01_good.ipynb: stores widget state"),
    "scrolled": (
        lambda nb: nb.cells[1].metadata.update(scrolled=True),
        "01_good.ipynb: not in normal form; run make notebooks",
    ),
}


@pytest.mark.parametrize("label", UNTIDY)
def test_a_notebook_out_of_normal_form_is_named(label, nb, path):
    do, message = UNTIDY[label]
    do(nb)
    found = problems(nb, path)
    assert found.count(message) == 1
    assert "01_good.ipynb: not in normal form; run make notebooks" in found


def test_an_id_used_twice_names_both_cells(nb, path):
    nb.cells[2].id = nb.cells[0].id
    found = lint.ids(nb, path)
    twice = f"id '{nb.cells[0].id}' must be 12 hex digits, used once"
    assert found == [f"{CELL} 1 (card): {twice}", f"{CELL} 3 (predictions): {twice}"]


@pytest.mark.parametrize(
    ("old", "new", "first"),
    [("1.2", "1.3", "(1.3) stands where (1.2)"), ("1.1", "2.1", "(2.1) stands where (1.1)")],
)
def test_equation_tags_run_in_order_from_the_chapters_number(nb, path, old, new, first):
    cell = next(c for c in nb.cells if f"\\tag{{{old}}}" in c.source)
    cell.source = cell.source.replace(f"\\tag{{{old}}}", f"\\tag{{{new}}}")
    assert f"01_good.ipynb: equation tag {first} must" in lint.equations(nb, path)


def test_numbers_in_calls_and_other_chapters_are_no_equations(nb, path):
    nb.cells[1].source = "f(1.9), x[0](1.9)\nprint('(1.9)')  # f(1.9), (2.4), (1.0), (1.5)"
    nb.cells[35].source = "as (2.4) and (1.5) say, `(1.9)` is a number"
    assert lint.equations(nb, path) == []
    nb.cells[5].source += "\nprint('(1.9)')"
    nb.cells[1].source = "x = 1  # by (1.8)"
    assert lint.equations(nb, path) == [
        f"{CELL} 2 (setup): names equation (1.8), which has no tag",
        f"{CELL} 6 (check): names equation (1.9), which has no tag",
    ]


def test_a_check_cell_of_words_checks_its_equation(nb, path):
    nb.cells[10].source = "x = 2"
    nb.cells[11].source += "\nprint('by (1.2)')"
    assert lint.equations(nb, path) == []


def test_what_the_rules_must_let_pass(nb, path):
    (path.parent / "there.md").write_text("x")
    nb.cells[35].source = (
        "[a](there.md#x) [b](https://x.org/home/y) [c](#here) `TODO` ![words](data:image/png;base64,) "
        r"${\color{#d230b8}{x}} + 1$ <a href='mailto:a@b.c'>d</a>"
    )
    nb.cells[1].source = "\n".join(["x = 1"] * 19 + [LONG])
    nb.cells[33].source = "\n".join(["x = 1"] * 15 + [LONG[1:]])
    nb.cells[33].outputs = [image(b"a" * 61440, "b" * 20)]
    nb.cells[7].metadata.tags.append("keep")
    assert problems(normalise(nb), path) == []


def test_a_picture_cell_may_be_longer_and_wider(nb, path):
    cell = nb.cells[33]
    cell.metadata["tags"] = ["train", "picture"]
    cell.source = "\n".join([LONG] * 20)
    assert lint.short_code(nb, path) == []
    cell.source += "\nx = 1"
    assert lint.short_code(nb, path) == [f"{CELL} 34 (train, picture): has 21 lines, must have at most 20"]


def test_one_image_can_be_wrong_in_two_ways(nb, path):
    nb.cells[35].source = "![](https://x.org/a.png)"
    assert [m.split(": ")[1] for m in lint.banned(nb, path)] == [
        "loads an image from the network",
        "has an image without alt text",
    ]


def test_the_folder_notebooks_is_looked_at_unless_told(nb, path, monkeypatch, capsys):
    (path.parent / "notebooks").mkdir()
    store(nb, path.parent / "notebooks" / path.name)
    monkeypatch.chdir(path.parent)
    assert lint.main([]) == 0
    assert capsys.readouterr().out.startswith("01_good.ipynb: 39 cells")


def test_00_is_no_chapter_but_keeps_the_other_rules(path, nb):
    nb.cells = [text("text", "## See (0.5) and TODO")]
    path = path.with_name("00_start_here.ipynb")
    assert problems(normalise(nb), path) == ["00_start_here.ipynb cell 1 (text): has a TODO in its prose"]


def test_too_large_a_file_is_named(nb, path):
    nb.cells[35].source = "word " * 125_000
    store(normalise(nb), path)
    size = path.stat().st_size
    assert lint.small_file(nb, path) == [f"01_good.ipynb: has {size} bytes, must be at most 614400"]
    path.write_bytes(b" " * 614400)
    assert lint.small_file(nb, path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a notebook"),
        ("[]", "is not a notebook"),
        ('{"nbformat": 4, "nbformat_minor": 5}', "is not a notebook"),
        ('{"nbformat": 4, "nbformat_minor": 4, "cells": [], "metadata": {}}', "is nbformat 4.4, must be 4.5"),
        (
            json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "raw"}]}),
            "is not a notebook",
        ),
        (
            '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [], "more": 1}',
            "is not a valid notebook: Additional properties are not allowed ('more' was unexpected)",
        ),
    ],
)
def test_what_is_no_notebook_breaks_that_rule_alone(content, message, tmp_path, capsys):
    path = tmp_path / "01_x.ipynb"
    path.write_text(content)
    assert lint.main([str(path)]) == 1
    said = capsys.readouterr()
    assert said.err == f"01_x.ipynb: {message}\n"
    assert said.out == "01_x.ipynb: not read\n"


def test_problems_are_counted_and_printed(nb, path, capsys):
    nb.cells[35].source = "TODO [a](b.md)"
    store(normalise(nb), path)
    assert lint.main([str(path)]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == lint.banned(nb, path) + lint.links(nb, path)
    assert said.out.endswith(" KB: 2 problems\n")


@pytest.mark.parametrize(
    ("name", "number"), [("01_ddpm.ipynb", 1), ("12_x.ipynb", 12), ("00_a.ipynb", 0), ("a.ipynb", 0)]
)
def test_chapter_numbers_come_from_the_name(name, number):
    assert lint.chapter(name) == number


# core and further


def times(core=60, exercises=50, lecture=15, further=20, more=10):
    """A card with the times of a chapter."""
    said = f"core {core} minutes, {exercises} of them exercises; as a lecture {lecture}"
    return f"# 1. A chapter\n\n{said}; further {further}, {more} of them exercises"


@pytest.fixture
def further(nb):
    """The good chapter, and after its close one more section with one exercise."""
    nb.cells[0].source = times()
    nb.cells += [text("derivation", "## Further: a proof"), *stanza(6)[3:]]
    return normalise(nb)


def core_problems(nb, path):
    return [m.removeprefix("01_good.ipynb: ") for m in lint.core_and_further(nb, path)]


def test_a_chapter_may_go_further_after_its_close(further, path):
    assert problems(further, path) == []
    assert lint.core_and_further(further, Path("00_start.ipynb")) == []


def test_the_card_tells_the_true_times(further, path):
    further.cells[0].source = times(core=76)
    assert core_problems(further, path) == ["core takes 76 minutes, must be at most 75"]
    further.cells[0].source = times(exercises=49, more=11)
    assert core_problems(further, path) == [
        "card gives core 49 minutes of exercises, they add up to 50",
        "card gives further 11 minutes of exercises, they add up to 10",
    ]
    further.cells[0].source = times(lecture=14)
    assert core_problems(further, path) == ["card gives a lecture 14 minutes, its notes add up to 15"]
    further.cells[0].source = "# 1. A chapter"
    assert core_problems(further, path) == [
        "card must say 'core N minutes, M of them exercises; as a lecture N; further N, M of them exercises'"
    ]


def test_the_core_has_a_size(further, path, monkeypatch):
    for name in ("CORE_CELLS", "CORE_SLIDES", "LECTURE_MINUTES"):
        monkeypatch.setattr(lint, name, 10)
    assert core_problems(further, path) == [
        "core has 32 cells, must have at most 10",
        "core has 21 slides, must have at most 10",
        "core's notes say 15 minutes, must be at most 10",
    ]


def test_further_stands_after_the_close(further, path):
    further.cells.insert(9, further.cells.pop(-4))
    assert core_problems(further, path)[0] == "'## Further' must stand after the close"
