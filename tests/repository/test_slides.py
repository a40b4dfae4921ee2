"""Decks are self-contained, and their checks see what an audience would see."""

import base64
import hashlib
import json
import os
import re
import zipfile
from html import unescape

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import films, slides, slides_index, slides_ready

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
NAMES = ("reset_css", "reveal_css", "reveal_js", "notes_js", "mathjax_js")


def text(source, slide="slide", *tags):
    return new_markdown_cell(source, metadata={"tags": list(tags), "slideshow": {"slide_type": slide}})


def code(source, slide="-", *outputs):
    return new_code_cell(source, metadata={"slideshow": {"slide_type": slide}}, outputs=list(outputs))


def figure(alt):
    data = {"image/png": base64.b64encode(PNG).decode(), "text/plain": alt}
    return new_output("display_data", data, metadata={"image/png": {"alt": alt}})


def html(source):
    return new_output("display_data", {"text/html": source})


def good_cells():
    return [
        text(
            "# 1. Noise & data\n\nAs $x_t$, see [the paper](https://arxiv.org/abs/2006.11239).",
            "slide",
            "card",
        ),
        text("3 minutes on $x_0$.", "notes"),
        text("A hidden word: xylophone.", "skip"),
        text("## 1.1 A step\n\n$$x = {\\color{#d230b8}{y}} + z \\tag{1.1}$$", "slide", "derivation"),
        code("# NBVAL_CHECK_OUTPUT\nprint(1)", "subslide", new_output("stream", text="$1$ and $2$\n")),
        code("show(fig)", "fragment", figure('A "curve" that falls < 1'), html("<b>$a$ and $b$</b>")),
        text("**Exercise** <details><summary>why</summary>because</details>", "subslide", "exercise"),
    ]


def write(folder, cells, name="01_noise.ipynb"):
    nb = new_notebook(cells=cells)
    nbformat.write(nb, folder / name)
    return folder / name, nb


@pytest.fixture
def plain():
    """Libraries of no content: enough for everything but a browser."""
    return dict.fromkeys(NAMES, "")


@pytest.fixture(scope="session")
def libraries():
    if not slides.browser():
        pytest.skip("needs Chromium: apt install chromium")
    try:
        return slides.browser_files()
    except slides.DeckError as error:
        pytest.skip(str(error))


# what the notebook wants


def test_cells_are_put_on_slides_as_reveal_does():
    first, _, _, second, third, fourth, fifth = cells = good_cells()
    found = slides.slides_of(new_notebook(cells=cells))
    assert found == [[first], [second], [third, fourth], [fifth]]
    assert [slides.heading(s) for s in found] == [
        "1. Noise & data",
        "1.1 A step",
        "# NBVAL_CHECK_OUTPUT",
        "**Exercise** <details><summary>why</summ",
    ]
    assert [slides.formulas_on(s) for s in found] == [1, 1, 2, 0]


def test_the_first_shown_cell_opens_a_slide_whatever_its_type():
    cells = [text("a", "notes"), text("b", "-"), text("c", "fragment"), new_markdown_cell("d")]
    assert [[c.source for c in s] for s in slides.slides_of(new_notebook(cells=cells))] == [["b", "c", "d"]]


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ("no formula, 5 \\$ and 6 \\$", 0),
        ("$a$ and $b$", 2),
        ("$$a\n+ b$$ and $c$", 2),
        ("`$a$` and ```\n$b$ $c$\n``` and $d$", 1),
        ("\\begin{align}a &= b\\\\ c\\end{align}\n\\begin{equation*}a\\end{equation*}", 2),
        ("$$\\begin{aligned}a\\end{aligned}$$", 1),
        ("a lone $ sign", 0),
    ],
)
def test_formulas_are_counted(source, number):
    assert slides_ready.count_formulas(source) == number


def test_formulas_in_outputs_count_by_the_form_that_is_shown():
    for kind, number in [("text/html", 1), ("text/markdown", 1), ("text/latex", 1), ("text/plain", 0)]:
        output = new_output("display_data", {kind: "$a$", "text/plain": "$a$"})
        assert slides.formulas_on([code("x", "-", output)]) == number
    both = new_output("display_data", {"text/latex": "$a$ $b$", "text/html": "$a$"})
    assert slides.formulas_on([code("x", "-", both)]) == 1


# the wheels


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel of one file in an own cache; the tool knows no other."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    folder = tmp_path / "vendor"
    folder.mkdir()
    cached = folder / "some_files-1.0-py3-none-any.whl"
    with zipfile.ZipFile(cached, "w") as archive:
        archive.writestr("a/b.js", "let x = 'ü';")
    digest = hashlib.sha256(cached.read_bytes()).hexdigest()
    monkeypatch.setattr(slides, "WHEELS", (slides.Wheel("some-files", "1.0", digest, {"x": "a/b.js"}),))
    return cached


def test_a_cached_wheel_is_read_without_pip(wheel, monkeypatch):
    monkeypatch.setattr(slides, "_download", None)
    assert slides.browser_files() == {"x": "let x = 'ü';"}


def test_a_changed_wheel_is_fetched_again(wheel, monkeypatch):
    good = wheel.read_bytes()
    wheel.write_bytes(good + b"more")

    def download(_, folder):
        with open(os.path.join(folder, wheel.name), "wb") as file:
            file.write(good)

    monkeypatch.setattr(slides, "_download", download)
    assert slides.browser_files() == {"x": "let x = 'ü';"}
    assert wheel.read_bytes() == good
    assert [p.name for p in wheel.parent.iterdir()] == [wheel.name]


def test_without_a_registry_the_error_says_what_to_do(wheel, monkeypatch):
    wheel.unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    with pytest.raises(
        slides.DeckError, match=r"slides need some-files==1.0 once.*or put the wheel into "
    ) as error:
        slides.browser_files()
    assert "ERROR" in str(error.value) and str(wheel.parent) in str(error.value)
    assert list(wheel.parent.iterdir()) == []


def test_pip_is_held_to_the_hash(wheel, monkeypatch):
    source = wheel.parent.parent / "wheels"
    source.mkdir()
    wheel.write_bytes(wheel.read_bytes() + b"more")
    wheel.rename(source / wheel.name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(source))
    with pytest.raises(slides.DeckError, match="HASHES"):
        slides.browser_files()


def test_the_cache_stands_in_build_unless_told(monkeypatch):
    monkeypatch.delenv("COURSE_CACHE", raising=False)
    assert slides.cache_folder().as_posix() == "build/vendor"


# the deck's text


def test_a_deck_shows_the_shown_and_keeps_alt_text(tmp_path, plain):
    path, nb = write(tmp_path, good_cells())
    deck = slides.build(path, tmp_path / "out" / "deep", plain)
    page = deck.read_text(encoding="utf-8")
    assert deck == tmp_path / "out" / "deep" / "01_noise.html"
    assert [p.name for p in deck.parent.iterdir()] == ["01_noise.html"]
    assert re.findall(r"alt=(.*?)src", page) == ["""'A "curve" that falls &lt; 1' """]
    assert "<title>1. Noise &amp; data</title>" in page
    assert '<div class="footer"><a href="index.html">1. Noise &amp; data</a></div>' in page
    assert "xylophone" not in page and "NBVAL" not in page and "In&nbsp;" not in page and "¶" not in page
    assert re.search(r'<aside class="notes">.*3 minutes on \$x_0\$', page, re.S)
    assert "<details><summary>why" in page
    assert slides.check_static(deck, nb) == []


def test_a_lost_picture_is_named(tmp_path, plain):
    path, _ = write(tmp_path, [text("# T\n\n![A red dot](lost.png)")])
    with pytest.raises(slides.DeckError, match=r"^01_noise.ipynb: picture lost.png does not exist$"):
        slides.build(path, tmp_path, plain)


def test_a_picture_cell_shows_its_output_alone(tmp_path, plain):
    cell = code("zebra = 1  # " + "x" * 90)
    cell.metadata["tags"] = ["experiment", "picture"]
    cell.outputs = [new_output("stream", name="stdout", text="giraffe")]
    path, nb = write(tmp_path, [text("# T"), cell, code("lion = 2")])
    page = slides.build(path, tmp_path, plain).read_text(encoding="utf-8")
    assert "giraffe" in page and "lion" in page and "zebra" not in page
    assert slides.check_static(tmp_path / "01_noise.html", nb) == []


def test_a_deck_without_a_title_is_called_like_its_file(tmp_path, plain):
    path, _ = write(tmp_path, [code("# not a title"), text("## Nor this")])
    assert "<title>01_noise</title>" in slides.build(path, tmp_path, plain).read_text(encoding="utf-8")


def test_a_picture_without_words_is_named(tmp_path, plain):
    path, nb = write(tmp_path, [text("# T"), code("f()", "-", figure(""), html("<img src='data:,'>"))])
    deck = slides.build(path, tmp_path, plain)
    assert slides.check_static(deck, nb) == ["01_noise.html: 2 images without alt text"]


def test_the_libraries_are_written_into_the_deck_once_each(tmp_path):
    path, nb = write(tmp_path, good_cells())
    deck = slides.build(path, tmp_path, {name: f"/* {name} */" for name in NAMES})
    page = deck.read_text(encoding="utf-8")
    places = [page.index(f"/* {name} */") for name in NAMES]
    assert [page.count(f"/* {name} */") for name in NAMES] == [1] * 5
    assert places[0] < places[1] < page.index("1280 x 720, white") < places[4] < page.index("<section")
    assert page.rindex("</section>") < places[2] < places[3]
    assert slides.check_static(deck, nb) == []


def test_a_local_picture_is_put_into_the_deck(tmp_path, plain):
    (tmp_path / "a.png").write_bytes(PNG)
    source = "# T\n\n![A red dot](a.png)\n\n<img alt='A dot' src='a.png'>\n\n[words](a.png)"
    path, nb = write(tmp_path, [text(source)])
    deck = slides.build(path, tmp_path, plain)
    page = deck.read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,' + base64.b64encode(PNG).decode() + '"') == 2
    assert '<a href="a.png">' in page
    assert slides.check_static(deck, nb) == []


ADDED = {  # what is added to a good deck: what the static checks say
    '<img alt="a" src="https://x.org/a.png">': "loads from outside: https://x.org/a.png",
    '<img alt="a" srcset="a.png">': "loads from outside: a.png",
    '<script src="//x.org/a.js"></script>': "loads from outside: //x.org/a.js",
    '<link rel="stylesheet" href="a.css">': "loads from outside: a.css",
    '<iframe src="http://x.org"></iframe>': "loads from outside: http://x.org",
    "<style>p {background: url('https://x.org/a')}</style>": "style loads from outside: https://x.org/a'",
    '<p style="background: url(a.png)">': "style loads from outside: a.png",
    "<style>@import 'a.css';</style>": "style has an @import",
    '<img src="data:," alt=" ">': "1 images without alt text",
    "<html></html>": "2 <html> elements, must be 1",
    "<section>more</section>": "5 slides, the notebook has 4",
}


@pytest.mark.parametrize("added", ADDED)
def test_static_checks_name_what_is_added(added, tmp_path, plain):
    path, nb = write(tmp_path, good_cells())
    deck = slides.build(path, tmp_path, plain)
    page = deck.read_text(encoding="utf-8")
    deck.write_text(page.replace("</body>", added + "</body>"), encoding="utf-8")
    assert slides.check_static(deck, nb) == [f"01_noise.html: {ADDED[added]}"]


def test_static_checks_let_inner_references_pass(tmp_path, plain):
    path, nb = write(tmp_path, good_cells())
    deck = slides.build(path, tmp_path, plain)
    added = '<style>p {background: url("data:,") url(#a)}</style><use href="#b"></use>'
    added += '<script>"@import url(a)"</script>'
    page = deck.read_text(encoding="utf-8")
    deck.write_text(page.replace("</body>", added + "</section></body>"), encoding="utf-8")
    assert slides.check_static(deck, nb) == []


def test_static_checks_name_long_code_and_large_decks(tmp_path, plain, monkeypatch):
    path, nb = write(tmp_path, [text("# T"), text("## Wide"), code("x" * 88), code("y\n" + "x" * 89)])
    deck = slides.build(path, tmp_path, plain)
    long = "01_noise.html: slide 2 (Wide) has a code line of 89 columns, must be at most 88"
    assert slides.check_static(deck, nb) == [long]
    monkeypatch.setattr(slides, "MAX_BYTES", 8000)
    size = f"{deck.stat().st_size / 1e6:.1f}"
    assert slides.check_static(deck, nb) == [f"01_noise.html: {size} MB, must be at most 0 MB", long]
    monkeypatch.setattr(slides, "MAX_BYTES", deck.stat().st_size)
    assert slides.check_static(deck, nb) == [long]


# the probe's report


GOOD = {
    "height": 720, "width": 1280, "visible": True, "hidden": 0, "formulas": 1, "raw": "", "errors": [],
    "words": 60, "figures": [0.97], "beyond": 3,
}  # fmt: skip


def report(**changes):
    return {
        "ready": True, "slides": [GOOD | changes], "reached": 1, "late": 0, "problems": [], "requests": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"height": 721}, "is 721 px high, must be at most 720"),
        ({"width": 1281}, "is 1281 px wide, must be at most 1280"),
        ({"beyond": 4}, "has a formula that reaches 4 px over the margin"),
        ({"visible": False}, "was not shown"),
        ({"hidden": 2}, "keeps 2 fragments hidden"),
        ({"formulas": 0}, "shows 0 formulas, the notebook has 1"),
        ({"raw": "$x"}, "shows raw maths: '$x'"),
        ({"words": 61}, "shows 61 words of prose, must be at most 60"),
        (
            {"figures": [1.2, 0.96]},
            "shows a figure at 0.96 of the size it was drawn in, must be at least 0.97",
        ),
        ({"errors": ["Missing }"]}, "has a formula that MathJax cannot read: Missing }"),
    ],
)
def test_a_slide_is_judged_by_what_was_seen(changes, message):
    nb = new_notebook(cells=[text("# T $x$")])
    assert slides.judge(report(**changes), nb) == [f"slide 1 (T $x$) {message}"] * bool(message)


def test_a_phone_is_judged_by_what_is_wider():
    nb = new_notebook(cells=[text("# T"), text("## U")])
    assert slides.judge_phone({"over": [1, 0]}, nb) == []
    assert slides.judge_phone({"over": [0, 2]}, nb) == ["slide 2 (U) is 2 px wider than a phone"]
    assert slides.judge_phone({"over": [0]}, nb) == ["1 slides on a phone, the notebook has 2"]


def test_static_checks_name_half_lists_and_tables_alone(tmp_path, plain):
    half = text("- One\n- Two", "slide")
    half.metadata["wall"] = ["One"]
    table = code("f()", "slide", new_output("stream", text="1"))
    table.metadata["tags"] = ["picture"]
    told = code("g()", "slide", new_output("stream", text="1"))
    told.metadata |= {"tags": ["picture"], "lead": "Numbers:"}
    other = code("h()", "subslide", new_output("stream", text="1"))
    other.metadata["tags"] = ["picture"]
    path, _ = write(tmp_path, [text("# T"), half, table, told, text("## Of its own", "skip"), other])
    deck = slides.build(path, tmp_path, plain)
    page = deck.read_text(encoding="utf-8")
    assert "Numbers:" in page and "Of its own" in page
    assert slides.check_static(deck, slides.as_shown(path)) == [
        '01_noise.html: slide 2 (- One) shows 1 of 2 items of a list; choose sentences in "wall"',
        "01_noise.html: slide 3 (f()) prints lines or a table, and says nothing of them",
    ]


def test_a_deck_is_judged_by_what_went_wrong_in_it():
    nb = new_notebook(cells=[text("# T $x$")])
    seen = report() | {"problems": ["a", "b", "a"], "requests": ["https://x.org/a"]}
    assert slides.judge(seen, nb) == ["a", "b", "requested https://x.org/a"]
    closed = {"ready": False, "slides": [], "problems": ["a"], "requests": []}
    assert slides.judge(closed, nb) == ["a", "the deck did not open"]
    lost = report() | {"slides": [], "reached": 0}
    assert slides.judge(lost, nb) == ["0 slides were walked, the notebook has 1"]
    down = report() | {"reached": 0, "late": 2}
    assert slides.judge(down, nb) == [
        "the right arrow reaches 0 of 1 slides",
        "2 notes are hidden from the speaker until a fragment is shown",
    ]


def test_what_is_meant_for_one_reader_is_not_on_the_wall(tmp_path, plain):
    said = [
        "[TODO] toy.double: not attempted",
        "0/8 exercises solved in toy",
        "1 of 3 right, 2 without a bet",
        "gnu",
    ]
    cells = [text("# T"), *(code("f()", "-", new_output("stream", text=line + "\n")) for line in said)]
    path, _ = write(tmp_path, cells)
    page = slides.build(path, tmp_path, plain).read_text(encoding="utf-8")
    assert "gnu" in page and not any(line in page for line in said[:3])


# the page of decks


def test_the_index_lists_every_deck_with_its_minutes_and_its_pdf(tmp_path):
    card = "# 1. Noise & data\n\n**Question.** What is $\\nabla$ of `noise`?"
    cells = [
        text(card),
        text("*For the lecturer.* 3 minutes. Not 9 minutes.", "notes"),
        text("4 minutes.", "notes"),
        text("## Further: more", "slide"),
        text("20 minutes.", "notes"),
    ]
    path, nb = write(tmp_path, cells)
    after, more = write(tmp_path, [text("no title")], "02_more.ipynb")
    headings = ["1. Noise & data", "1.1 Further down", "Further: more", "1.2"]
    decks = [slides_index.read(path, nb.cells, headings), slides_index.read(after, more.cells, ["no title"])]
    assert decks[0] == ("01_noise", "1. Noise & data", "What is $\\nabla$ of `noise`?", 7, 2, 2)
    assert decks[1] == ("02_more", "02_more", "", 0, 1, 0)
    for name in ("01_noise.pdf", "01_noise.handout.pdf"):
        (tmp_path / name).write_bytes(b"")
    page = slides_index.write(decks, tmp_path).read_text(encoding="utf-8")
    first, second = re.findall(r"<tr>.*?</tr>", page, re.S)
    assert '<a href="01_noise.html">1. Noise &amp; data</a>' in first and "What is ∇ of noise?" in first
    assert '<a href="01_noise.handout.pdf">with notes</a>' in first and "and 2 further" in first
    assert "2 slides" in first and "7 minutes" in first and '<a href="01_noise.pdf">PDF</a>' in first
    assert "PDF" not in second and "minutes" not in second and "further" not in second
    assert "http" not in page and "src=" not in page


def test_building_one_deck_keeps_the_others_in_the_index(tmp_path):
    one, _ = write(tmp_path, [text("# One")])
    two, _ = write(tmp_path, [text("# Two")], "02_more.ipynb")
    write(tmp_path, [text("# Three")], "03_not_built.ipynb")
    out = tmp_path / "out"
    out.mkdir()
    for path in (one, two):
        (out / f"{path.stem}.html").touch()
    assert slides_index.built([two], out) == [one, two]


def test_a_deck_knows_the_next_one(tmp_path, plain):
    path, _ = write(tmp_path, [text("# One")])
    last, _ = write(tmp_path, [text("# Two & three")], "02_more.ipynb")
    page = slides.build(path, tmp_path / "out", plain).read_text(encoding="utf-8")
    assert 'Next: <a href="02_more.html">Two &amp; three</a>' in page
    assert "Next:" not in slides.build(last, tmp_path / "out", plain).read_text(encoding="utf-8")
    assert (slides_index.following(path), slides_index.following(last)) == (last, None)


def test_code_stands_beside_its_formula_where_there_is_room():
    cells = [
        text("## 1.1\n\n$$a = b$$"),
        code("total = sum(alpha * beta for alpha, beta in zip(first_list, second_list))"),
    ]
    slides_ready.put_beside(cells)
    assert cells[1].metadata["tags"] == ["beside"] and max(map(len, cells[1].source.splitlines())) <= 60
    assert compile(cells[1].source, "cell", "exec")
    for other in (
        [text("no formula"), code("a = 1")],
        [text("$$a$$" + "words " * 200), code("a = 1")],
        [text("$$a$$"), code("a = 1"), code("b = 2")],
        [text("$$a$$"), code("a = 1", "-", new_output("stream", text="1"))],
        [text("$$a$$"), code("a = 1"), text("after")],
        [text("$$a$$"), code(f"a = {'b' * 70}")],
        [text("$$a$$"), code("a = 1\n" * 30)],
        [text("$$a$$"), code("a = (")],
    ):
        before = [cell.source for cell in other]
        slides_ready.put_beside(other)
        tagged = any("beside" in cell.metadata.get("tags", []) for cell in other)
        assert [cell.source for cell in other] == before and tagged == (before[-1] == "a = (")


LONG = "def f(alpha, beta):\n    return sum(a * b for a, b in zip(alpha, beta, strict=True)) / 2  # the mean"


def test_code_that_stands_below_its_formula_has_its_own_lines(tmp_path, libraries):
    long = r"\sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon, \qquad \epsilon \sim N(0, I)"
    formula = rf"$$x_t = {long}, \qquad t = 1, \dots, T \tag{{1.1}}$$"
    cells = [
        text("# T"),
        text("## Narrow\n\n$$a = b$$"),
        code(LONG),
        text("## Wide\n\n" + formula),
        code(LONG, "fragment"),
    ]
    terms = " + ".join(f"x_{{{k}}}" for k in range(30))
    cells += [text(f"## Wider than the slide\n\n$$x = {terms} \\tag{{1.2}}$$")]  # and set smaller
    path, _ = write(tmp_path, cells)
    deck = slides.build(path, tmp_path / "out", libraries)
    seen = seen_by(
        deck,
        """return [...document.querySelectorAll(".slides section:has(pre):not(:has(section))")].map(slide => [
          !!slide.querySelector(".beside"), slide.querySelectorAll(".highlight").length,
          Math.max(...slide.querySelector("pre").textContent.split("\\n").map(line => line.length))]);""",
    )
    (*narrow, columns), wide = seen
    assert narrow == [True, 1] and columns <= slides_ready.COLUMNS
    assert wide == [False, 1, max(map(len, LONG.split("\n")))]
    assert (
        slides.check_in_browser(slides.build(path, tmp_path / "out", libraries), slides.as_shown(path)) == []
    )


def test_a_film_follows_its_slide_and_its_cell_must_be_there(tmp_path, plain, monkeypatch):
    path, nb = write(tmp_path, good_cells())
    film = films.Film(nb.cells[4].id, "It moves", "Two squares", "Ask.", lambda: iter([PNG, PNG]))
    monkeypatch.setattr(films, "of", lambda stem: [film])
    shown = slides.as_shown(path)
    assert [slides.heading(cells) for cells in slides.slides_of(shown)][2:4] == ["print(1)", "It moves"]
    deck = slides.build(path, tmp_path, plain)
    page = deck.read_text(encoding="utf-8")
    assert page.count('class="frame fragment"') == 1 and page.count('alt="Two squares"') == 1
    assert "Ask." in page and slides.check_static(deck, shown) == []
    monkeypatch.setattr(films, "of", lambda stem: [film._replace(behind="abc")])
    with pytest.raises(slides.DeckError, match="'It moves' belongs behind cell abc, which is not there"):
        slides.build(path, tmp_path, plain)


def test_the_films_of_the_course_have_frames_and_a_place():
    assert films.moments(7, 100) == [0, 17, 33, 50, 67, 83, 100]
    for stem, found in films.FILMS.items():
        ids = {cell.id for cell in nbformat.read(f"notebooks/{stem}.ipynb", 4).cells}
        assert {film.behind for film in found} <= ids
    frames = list(films.matrices())
    assert len(set(frames)) == films.FRAMES and all(frame.startswith(b"\x89PNG") for frame in frames)


# in a browser


def test_a_deck_is_a_page_on_a_phone_and_dark_when_asked(tmp_path, libraries):
    path, _ = write(tmp_path, good_cells())
    deck = slides.build(path, tmp_path / "out", libraries)
    page = slides._chromium(deck, "--dump-dom", query="?scroll&dark&4:3")
    assert re.search(r'<html[^>]*class="dark scroll"[^>]*--height: 960px', page)
    assert 'id="reveal-css"' not in page and 'class="present' not in page and "mjx-container" in page


def test_on_a_phone_formulas_are_set_smaller_and_long_cells_keep_their_width(tmp_path, libraries):
    terms = " + ".join(f"x_{{{k}}}" for k in range(11))
    cell = "| " + "a word " * 9 + "| -1.2 ± 0.03 |"
    path, _ = write(
        tmp_path, [text(f"# T\n\n$${terms}$$ and $a$\n\n| c | d |\n|--|--|\n{cell}\n\n$${terms * 9}$$")]
    )
    deck = slides.build(path, tmp_path / "out", libraries)
    narrow = "<head><script>document.documentElement.style.maxWidth = '390px'</script>"
    deck.write_text(deck.read_text(encoding="utf-8").replace("<head>", narrow, 1), encoding="utf-8")
    page = slides._chromium(deck, "--dump-dom", query="?scroll")
    sizes = re.findall(r'<mjx-container [^>]*style="([^"]*)', page)
    first, last = re.findall(r"font-size: (\d+)%", " ".join(sizes))
    assert 70 < int(first) < 100 and int(last) == 70 and len(re.findall(r"<mjx-container ", page)) == 3
    assert page.count('class="long"') == page.count('class="number"') == 1


def test_a_good_deck_passes_in_the_browser_and_prints_one_page_a_slide(tmp_path, libraries, capsys):
    path, _ = write(tmp_path, good_cells())
    assert slides.main(["--out", str(tmp_path / "out"), "--pdf", str(path)]) == 0
    said = capsys.readouterr()
    assert re.fullmatch(r".*01_noise.html: 4 slides, 2\.\d MB: ok\n", said.out) and said.err == ""
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "01_noise.handout.pdf",
        "01_noise.html",
        "01_noise.pdf",
        "index.html",
    ]
    pdf = tmp_path / "out" / "01_noise.pdf"
    assert slides.pages(pdf) == 4
    assert slides.check_pdf(pdf, new_notebook(cells=[text("# T")])) == ["01_noise.pdf: 4 pages for 1 slides"]
    assert 1 <= slides.pages(pdf.with_suffix(".handout.pdf")) < 4
    bare = tmp_path / "bare.pdf"
    bare.write_bytes(b"%PDF-1.4 /Type /Page")
    assert slides.no_outline(bare) == ["bare.pdf: has no outline"]


def test_the_browser_check_catches_what_an_audience_would_see(tmp_path, libraries):
    cells = [
        text("# Broken"),
        text("## Too high\n\n" + "line\n\n" * 30),
        text("## Too wide"),
        code("x" * 130),
        text('## Outside\n\n<img alt="a" src="https://x.org/a.png">'),
        code("f()", "slide", html("<script>undefinedFunction()</script>")),
        code("g()", "slide", html("<script>console.error('bad', 1); Promise.reject('lost')</script>")),
        text("## Raw\n\nA lone $ sign"),
        text("## Not TeX\n\n$\\frac{1}$ and $\\nosuchmacro$"),
        text("## Lost <span style='display: none'>$$x$$</span><code>$y$</code>"),
        text("## On a phone\n\n<div style='width: 500px'>wide</div>"),
        text("## Over the margin\n\n$$" + "x + " * 99 + "x$$"),
    ]
    path, nb = write(tmp_path, cells)
    deck = slides.build(path, tmp_path, libraries)
    found = [m.removeprefix("01_noise.html: ") for m in slides.check_in_browser(deck, nb)]
    expected = [
        r"script error: .*undefinedFunction is not defined",
        r"console\.error: bad 1",
        r"did not load: https://x.org/a.png",
        r"unhandled rejection: lost",
        r"requested https://x.org/a.png",
        r"slide 2 \(Too high\) is \d{3,4} px high, must be at most 720",
        r"slide 3 \(Too wide\) is 1\d\d\d px wide, must be at most 1280",
        r"slide 7 \(Raw\) shows raw maths: 'A lone \$ sign'",
        r"slide 8 \(Not TeX\) has a formula that MathJax cannot read: Missing argument for .frac",
        r"slide 8 \(Not TeX\) has a formula that MathJax cannot read: Undefined .* \\nosuchmacro",
        r"slide 9 \(Lost .*\) shows 1 formulas, the notebook has 2",
        r"slide 10 \(On a phone\) is 1[23]\d px wider than a phone",
        r"slide 11 \(Over the margin\) is \d+ px wide, must be at most 1280",
        r"slide 11 \(Over the margin\) has a formula that reaches \d+ px over the margin",
    ]
    print(*found, sep="\n")
    missing = [p for p in expected if not any(re.fullmatch(p, m) for m in found)]
    extra = [m for m in found if not any(re.fullmatch(p, m) for p in expected)]
    assert (missing, extra) == ([], [])


def seen_by(deck, script):
    """What a script in the open deck says, as JSON."""
    tell = f"document.title = JSON.stringify((() => {{ {script} }})())"
    wait = f"const timer = setInterval(() => {{ if (Reveal.isReady()) {{ clearInterval(timer); {tell}; }} }}, 50);"
    page = deck.read_text(encoding="utf-8")
    page = page[: page.rindex("</body>")] + f"<script>{wait}</script></body></html>"
    deck.write_text(page, encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", slides._chromium(deck, "--dump-dom"), re.S)[1]
    return json.loads(unescape(title))


def test_an_open_deck_serves_the_lecturer(tmp_path, libraries):
    cells = [
        *good_cells()[:5],
        text("5 minutes. Ask before you show it.", "fragment"),
        text("*For the lecturer.* 2 minutes on the fragment.", "notes"),
        text("see [chapter 2](02_more.ipynb#a) and [two](../notebooks/02_more.ipynb)", "-"),
        code(
            "settle()", "-", html('<details class="prediction"><summary>x (bet above)</summary>y</details>')
        ),
        text("## Bets\n\nSet `bet` in the next cell.", "slide", "predictions"),
        text("## Much\n\n" + "line\n\n" * 14),
        text("## More\n\n" + "line\n\n" * 20),
    ]
    path, _ = write(tmp_path, cells)
    write(tmp_path, [text("# 2. More")], "02_more.ipynb")
    deck = slides.build(path, tmp_path / "out", libraries)
    seen = seen_by(
        deck,
        """const all = [...document.querySelectorAll(".slides section:not(:has(section))")];
        const last = all.at(-4);
        return {
          mode: Reveal.getConfig().navigationMode, total: Reveal.getConfig().totalTime,
          timing: all.map(slide => +slide.dataset.timing), running: last.querySelector(".running")?.textContent,
          note: last.querySelector(":scope > aside.notes").textContent.trim(),
          links: [...last.querySelectorAll("a")].map(a => a.getAttribute("href")),
          open: last.querySelector("details.prediction").open,
          onward: all.at(-1).querySelector(".onward a").getAttribute("href"),
          asked: last.querySelector("details.prediction summary").textContent,
          bets: getComputedStyle(all.at(-3).querySelector("p")).display,
          sizes: all.slice(-3).map(slide => slide.className.match(/tight(er)?/g)),
        };""",
    )
    assert seen == {
        "mode": "linear", "total": 300, "timing": [90, 90, 30, 30, 30, 30], "running": "1.1 A step",
        "note": "For the lecturer. 2 minutes on the fragment.",
        "links": ["02_more.html", "02_more.html"], "onward": "02_more.html", "open": True,
        "asked": "x", "bets": "none", "sizes": [None, ["tight"], ["tight", "tighter"]],
    }  # fmt: skip


def test_figures_give_way_but_not_for_ever(tmp_path, libraries):
    import io

    from PIL import Image

    def tall(height):
        file = io.BytesIO()
        Image.new("1", (400, height)).save(file, "png")
        data = base64.b64encode(file.getvalue()).decode()
        about = {"image/png": {"alt": "A black box"}}
        return new_output("display_data", {"image/png": data}, metadata=about)

    cells = [text("## One"), code("show()", "-", tall(900)), text("words\n\n" * 4, "-")]
    cells += [text("## Two"), code("show()", "-", tall(400), tall(400)), text("words\n\n" * 4, "-")]
    cells += [text("## Three"), code("show()", "-", tall(400), tall(400), tall(400))]
    path, nb = write(tmp_path, cells)
    deck = slides.build(path, tmp_path, libraries)
    # One that is too high becomes small, and that is said; several stand on each other, each as large as it was drawn.
    assert slides.check_in_browser(deck, nb) == [
        "01_noise.html: slide 1 (One) shows a figure at 0.46 of the size it was drawn in, must be at least 0.97"
    ]


def test_a_deck_that_does_not_open_is_named(tmp_path, libraries):
    path, nb = write(tmp_path, [text("# T")])
    deck = slides.build(path, tmp_path, libraries | {"reveal_js": ""})
    found = slides.check_in_browser(deck, nb)
    assert found[-1] == "01_noise.html: the deck did not open"
    assert any("Reveal is not defined" in m for m in found)


# the command


def test_without_a_browser_the_command_says_what_it_did_not_check(tmp_path, plain, monkeypatch, capsys):
    monkeypatch.setattr(slides.shutil, "which", lambda name: None)
    monkeypatch.setattr(slides, "browser_files", lambda: plain)
    path, _ = write(tmp_path, good_cells())
    assert slides.main(["--out", str(tmp_path), str(path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == (
        "no Chromium on PATH: heights, formulas and errors in a browser were not checked; "
        "apt install chromium"
    )
    assert said[1].endswith("01_noise.html: 4 slides, 0.0 MB: ok")
    slides.main(["--pdf", "--out", str(tmp_path), str(path)])
    assert "were not checked, no PDF; apt install" in capsys.readouterr().out
    assert not (tmp_path / "01_noise.pdf").exists()


def test_the_command_fails_with_every_problem(tmp_path, plain, monkeypatch, capsys):
    monkeypatch.setattr(slides.shutil, "which", lambda name: None)
    monkeypatch.setattr(slides, "browser_files", lambda: plain)
    for name in ("01_a.ipynb", "02_b.ipynb"):
        write(tmp_path, [text("# T"), code("x" * 89)], name)
    assert slides.main(["--out", str(tmp_path / "out"), str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.err == "".join(
        f"{n}.html: slide 1 (T) has a code line of 89 columns, must be at most 88\n" for n in ("01_a", "02_b")
    )
    assert "ok" not in said.out


def test_the_folders_are_notebooks_and_build_unless_told(tmp_path, plain, monkeypatch):
    monkeypatch.setattr(slides.shutil, "which", lambda name: None)
    monkeypatch.setattr(slides, "browser_files", lambda: plain)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    write(tmp_path / "notebooks", good_cells())
    assert slides.main([]) == 0
    assert (tmp_path / "build" / "slides" / "01_noise.html").is_file()


def test_the_command_fails_with_the_libraries_error(wheel, monkeypatch, capsys, tmp_path):
    wheel.unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    assert slides.main(["--out", str(tmp_path)]) == 1
    assert "slides need some-files==1.0 once" in capsys.readouterr().err


def test_the_first_browser_on_path_is_used(monkeypatch):
    there = {"chromium-browser": "/b", "google-chrome": "/c"}
    monkeypatch.setattr(slides.shutil, "which", there.get)
    assert slides.browser() == "/b"
