"""What of a slide's prose stands on the wall: at most 60 words, whole sentences, and nothing is lost."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import slides_ready, slides_short
from tools.where import find

MANY = " ".join(["word"] * 30)
MUCH = MANY.capitalize()


def cell(source, *tags, **metadata):
    return new_markdown_cell(source, metadata={"tags": list(tags), **metadata})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One. Two? Three", ["One.", "Two?", "Three"]),
        ("**Want.** A guess. Another.", ["**Want.** A guess.", "Another."]),
        ("*Size and time.* A day. Two.", ["*Size and time.* A day.", "Two."]),
        ("By Ho et al. 2020 it is so. Yes.", ["By Ho et al. 2020 it is so.", "Yes."]),
        ("If $a. B$ holds, so does `x. Y`. (Not. Here.) End.", None),
        ("See [the. Page](a. B) now. Then.", ["See [the. Page](a. B) now.", "Then."]),
        ("It is 0.5. 3 are left.", ["It is 0.5.", "3 are left."]),
        ("e.g. This one. That.", ["e.g. This one.", "That."]),
    ],
)
def test_sentences_are_cut_where_they_end(text, found):
    found = found or ["If $a. B$ holds, so does `x. Y`.", "(Not. Here.)", "End."]
    assert [text[a:b] for a, b in slides_short.sentences(text)] == found


def test_words_are_those_of_prose():
    assert slides_short.count("Two words, $x = y$ and `code here` [a link](http://x.org/y) <b>bold</b>") == 6


SOURCE = f"""## A heading is no sentence

First. Second {MANY}.
Leads to:

$$a = b. C$$

(In brackets {MANY}.) After. Last {MANY}.

- One. {MANY}.
- Two

| a. B | c |
|--|--|

```
Code. Here.
```
"""


def test_paragraphs_and_items_are_read_and_what_leads_to_a_formula_is_known():
    found = [[(s.text[:10], s.leads) for s in of] for of in slides_short.read(SOURCE)]
    assert found == [
        [("First.", False), ("Second wor", False), ("Leads to:", True)],
        [("(In bracke", False), ("After.", False), ("Last word ", False)],
        [("One. word ", False)],
        [("Two", True)],
    ]


def test_what_does_not_stand_is_only_marked_and_what_leads_stays():
    one = cell(SOURCE)
    assert slides_short.shorten([one]) <= 60
    standing = slides_short.standing(one.source)
    assert one.source.replace(slides_short.HIDDEN, "").replace("</span>", "") == SOURCE
    assert "First." in standing and "Leads to:" in standing and "In brackets" not in standing
    for whole in ("## A heading", "$$a = b. C$$", "| a. B | c |", "Code. Here."):
        assert whole in standing
    short = cell("Few words. And (these few ones are in brackets) stay.")
    assert slides_short.shorten([short]) == 10 and slides_short.HIDDEN not in short.source


def test_bold_type_and_brackets_within_a_sentence_are_weighed():
    bold = cell(f"Start. **This matters, and so it should stand here at last.** {MUCH}. {MUCH}. {MUCH}.")
    slides_short.shorten([bold])
    assert "This matters" in slides_short.standing(bold.source)
    aside = cell(f"It is so ({MANY} {MANY}) for ever.")
    assert slides_short.shorten([aside]) == 5
    assert slides_short.standing(aside.source) == "It is so for ever."


def test_a_cell_may_choose_and_some_are_left_alone():
    chosen = cell("One. Two. Three.", wall=["Two", "Three"])
    assert slides_short.shorten([chosen]) == 2
    assert slides_short.standing(chosen.source).split() == ["Two.", "Three."]
    for tag in slides_short.OTHERS:
        same = cell(f"A. {MANY}. B {MANY}. C {MANY}.", tag)
        slides_short.shorten([same])
        assert slides_short.HIDDEN not in same.source
    said = f'<details class="prediction"><summary>x y z</summary><p>{MANY} {MANY}</p></details>'
    answer = new_code_cell("settle()", outputs=[new_output("display_data", {"text/html": said})])
    text = cell(f"First of all. Then {MANY}.")
    assert slides_short.answers([answer]) == 60
    assert slides_short.shorten([text, answer]) == 63


@pytest.mark.parametrize("path", find(["notebooks"]), ids=lambda path: path.stem)
def test_no_slide_of_the_course_is_a_wall_of_text(path):
    nb = nbformat.read(path, as_version=4)
    words = [
        (slides_short.shorten(cells), slides_ready.heading(cells)) for cells in slides_ready.slides_of(nb)
    ]
    print("most words on a slide:", *sorted(words)[-3:], sep="\n  ")
    assert [(n, title) for n, title in words if n > slides_short.WORDS] == []


# what is wrong with what stands

LIST = "Two things:\n\n- One is short.\n- Another one\n  goes on.\n\nAfter."


@pytest.mark.parametrize(
    ("source", "wall", "found"),
    [
        (LIST, None, []),
        (LIST, ["Two", "One"], ["shows 1 of 2 items of a list"]),
        (LIST, ["Two", "Another"], ["shows 1 of 2 items of a list"]),
        (LIST, ["After"], []),
        (LIST, ["Two"], ["shows 0 of 2 items of a list"]),
        ("Some things:\n\n- A\n- B\n- C", ["Some", "A", "B"], []),
        ("### Three things\n\n- A\n- B\n- C", ["A", "B"], ["shows 2 of 3 items of a list"]),
        ("Four tables show three things:\n\n- A\n- B\n- C", ["Four", "A", "B"], []),
        ("- A\n- B\n\ntext\n\n1. C\n2. D", ["A", "C", "D"], ["shows 1 of 2 items of a list"]),
        ("- A alone", None, []),
    ],
)
def test_a_list_is_not_left_with_one_item_nor_with_fewer_than_are_announced(source, wall, found):
    one = cell(source, **({"wall": wall} if wall else {}))
    slides_short.shorten([one])
    assert [what.partition(";")[0] for what in slides_short.halves([one])] == found
    assert slides_short.halves([cell(source, "exercise", wall=wall)]) == []


def test_a_list_is_read_with_what_stands_before_it():
    one = cell(LIST, wall=["Two", "Another"])
    slides_short.shorten([one])
    assert slides_short.lists(one.source) == [("Two things:", ["", "Another one  goes on."])]


def test_a_table_or_printed_lines_alone_say_nothing():
    table = new_output("display_data", {"text/markdown": "| a |"})
    lines, picture = new_output("stream", text="1"), new_output("display_data", {"image/png": ""})
    bet = new_output("display_data", {"text/html": "the answer is a)"})

    def of(*outputs, tags=("picture",)):
        return new_code_cell("x", outputs=list(outputs), metadata={"tags": [*tags]})

    assert slides_short.silent([of(table)]) and slides_short.silent([of(lines), of(bet)])
    for cells in (
        [of(table), cell("Words.")],
        [of(lines, picture)],
        [of(table), of(lines, tags=())],
        [of(picture)],
        [of(bet)],
    ):
        assert not slides_short.silent(cells)


@pytest.mark.parametrize("path", find(["notebooks"]), ids=lambda path: path.stem)
def test_no_slide_of_the_course_is_half_a_list_or_a_table_alone(path):
    nb = nbformat.read(path, as_version=4)
    slides_ready.lead_in(nb)
    slides_ready.name_sections(nb)
    for cells in slides_ready.slides_of(nb):
        slides_short.shorten(cells)
        assert (slides_short.halves(cells), slides_short.silent(cells)) == ([], False), slides_ready.heading(
            cells
        )


def test_a_slide_has_its_own_sections_heading():
    def kinds(nb):
        return [(c.source, slides_ready.slide_type(c)) for c in nb.cells]

    def md(source, kind):
        return cell(source, slideshow={"slide_type": kind})

    def code(kind):
        return new_code_cell("f()", metadata={"slideshow": {"slide_type": kind}})

    cells = [
        md("## 1. One", "slide"),
        md("## 2. T\n\n### Two $x$\n\nwords", "skip"),
        code("subslide"),
        code("subslide"),
    ]
    nb = new_notebook(
        cells=[
            *cells,
            md("# a note", "notes"),
            code("subslide"),
            md("## 2. Three", "slide"),
            code("subslide"),
        ]
    )
    slides_ready.name_sections(nb)
    assert kinds(nb) == [
        ("## 1. One", "slide"), ("## 2. T\n\n### Two $x$\n\nwords", "skip"), ("### Two $x$", "subslide"), ("f()", "-"),
        ("f()", "subslide"), ("# a note", "notes"), ("f()", "subslide"), ("## 2. Three", "slide"),
        ("f()", "subslide"),
    ]  # fmt: skip


@pytest.mark.parametrize("path", find(["notebooks"]), ids=lambda path: path.stem)
def test_no_cell_of_a_section_stands_on_a_slide_of_another(path):
    """What continues a slide belongs to the section whose heading was shown last."""
    shown = True
    for one in nbformat.read(path, as_version=4).cells:
        kind = slides_ready.slide_type(one)
        if slides_ready.OWN_SCORE.fullmatch(one.source):
            continue  # on no slide
        if one.cell_type == "markdown" and re.search(r"^#{1,4} ", one.source, re.M):
            shown = kind not in ("notes", "skip")
        shown |= kind in ("slide", "subslide")
        assert shown or kind in ("notes", "skip"), f"{one.get('id')} continues a slide of another section"


def test_a_cell_may_bring_a_sentence_for_its_slide():
    table = new_code_cell("table()", metadata={"lead": "Now:", "slideshow": {"slide_type": "subslide"}})
    plain = new_code_cell("x", metadata={"slideshow": {"slide_type": "fragment"}})
    nb = new_notebook(cells=[cell("# T", slideshow={"slide_type": "slide"}), table, plain])
    slides_ready.lead_in(nb)
    assert [(c.source, slides_ready.slide_type(c)) for c in nb.cells] == [
        ("# T", "slide"), ("Now:", "subslide"), ("table()", "-"), ("x", "fragment")
    ]  # fmt: skip


# tables

TABLE = "| system | nats | bits |\n|:--|--:|--:|\n| ours | 1.5 ± 0.1 | 2 |\n| theirs | 1.2 |  |\n| ours, too | - | 3 |"


def emphasised(**wanted):
    return re.findall(r"\*\*(.*?)\*\*", slides_ready.bold(TABLE, wanted)[0])


def test_what_matters_in_a_table_is_bold():
    assert emphasised(rows=["ours"]) == ["ours", "1.5 ± 0.1", "2", "ours, too", "-", "3"]
    assert emphasised(columns=["nats"]) == ["1.5 ± 0.1", "1.2"]
    assert emphasised(least=["nats"], most=["bits"]) == ["1.2", "3"]
    table, met = slides_ready.bold(TABLE, {"rows": ["ours", "none"], "least": ["bits", "x"]})
    assert met == {"ours", "bits"} and table.splitlines()[:2] == TABLE.splitlines()[:2]


def test_what_is_emphasised_must_be_there():
    table = new_output("display_data", {"text/markdown": TABLE})
    one = new_code_cell("table()", outputs=[table], metadata={"emphasis": {"rows": ["theirs"]}})
    slides_ready.emphasise(one, "a.ipynb")
    assert "| **theirs** | **1.2** |  |" in one.outputs[0].data["text/markdown"]
    one = new_code_cell("table()", outputs=[table], metadata={"emphasis": {"rows": ["lost"]}})
    with pytest.raises(slides_ready.DeckError, match=r"a.ipynb: cell .* emphasises \['lost'\]"):
        slides_ready.emphasise(one, "a.ipynb")


@pytest.mark.parametrize("path", find(["notebooks"]), ids=lambda path: path.stem)
def test_the_tables_of_the_course_have_what_they_emphasise(path):
    for one in nbformat.read(path, as_version=4).cells:
        slides_ready.emphasise(one, path.name)


def test_cells_that_count_what_one_has_solved_are_on_no_slide(tmp_path):
    cells = [cell("# T", slideshow={"slide_type": "slide"})]
    cells += [new_code_cell(source) for source in ('progress("x")\nscore()', "score()", "score = 1")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "a.ipynb")
    (shown,) = slides_ready.slides_of(slides_ready.as_shown(tmp_path / "a.ipynb"))
    assert [c.source for c in shown] == ["# T", "score = 1"]
