"""Figures for walls: each in twice its dots, kept beside the notebook, found by what the notebook holds."""

import base64
import hashlib
import io
import zipfile

import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from course_lib import plots, style
from tools import figures, site, slides_ready, stamps
from tools.notebooks import store

ALT = "A line that goes up from left to right"


def drawn(size, folder, monkeypatch):
    """What a notebook stores of a figure of `size` inches, and the picture for the wall, which is kept in folder."""
    shown = []
    monkeypatch.setenv(style.FOLDER, str(folder))
    monkeypatch.setattr(plots, "display", lambda bundle, **kw: shown.append(bundle["image/png"]))
    fig = Figure(figsize=size)
    fig.subplots().plot([0, 1], [0, 1])
    plots.show(fig, ALT)
    (data,) = shown
    return data, (folder / style.name_of(data)).read_bytes()


def image(data):
    return Image.open(io.BytesIO(data)).convert("RGB")


def output(data):
    encoded = base64.b64encode(data).decode()
    return new_output("display_data", {"image/png": encoded}, metadata={"image/png": {"alt": ALT}})


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A notebook with two figures in one cell, and its pictures for the wall: (path, notebook, folder of pictures)."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    (tmp_path / "notebooks").mkdir()
    pictures = [output(drawn(size, folder, monkeypatch)[0]) for size in ((6, 3), (8, 2))]
    cells = [new_markdown_cell("# One"), new_code_cell("show(fig, alt)", outputs=pictures)]
    path = tmp_path / "notebooks" / "01_one.ipynb"
    nb = new_notebook(cells=cells)
    store(nb, path)
    return path, nb, folder


def test_a_figure_is_kept_in_twice_its_dots_under_the_hash_of_what_is_shown(tmp_path, monkeypatch):
    data, fine = drawn((6, 3), tmp_path, monkeypatch)
    assert (image(data).size, image(fine).size) == ((600, 300), (1200, 600))
    assert style.name_of(data) == hashlib.sha256(data).hexdigest()[:16] + ".png"
    halved = image(fine).resize((600, 300), Image.Resampling.BOX).convert("L")
    apart = [abs(a - b) for a, b in zip(halved.tobytes(), image(data).convert("L").tobytes(), strict=True)]
    assert sum(apart) / len(apart) < 4  # the same picture
    monkeypatch.delenv(style.FOLDER)
    before = sorted(tmp_path.iterdir())
    assert style.png(Figure(figsize=(2, 2))) and sorted(tmp_path.iterdir()) == before


def test_a_heavy_figure_is_whole_on_the_wall(tmp_path, monkeypatch):
    monkeypatch.setenv(style.FOLDER, str(tmp_path))
    asked = []

    def render(dpi):
        asked.append(dpi)
        return Image.new("RGB", (dpi, dpi))

    monkeypatch.setattr(style, "LIMIT", len(style.encode(Image.new("RGB", (80, 80)))))
    data = style.fit(render)
    assert image(data).width == asked[-2] < 100 and asked[-1] == 200
    assert image((tmp_path / style.name_of(data)).read_bytes()).width == 200


def test_what_a_notebook_shows_is_packed_and_nothing_else(course):
    path, nb, folder = course
    (folder / "another.png").write_bytes(b"")
    assert figures.missing(nb, path) == 2
    figures.pack(nb, folder, path)
    kept = path.parent.parent / "assets" / "01_one" / "figures.zip"
    assert figures.place(path) == kept and figures.missing(nb, path) == 0
    with zipfile.ZipFile(kept) as archive:
        assert archive.namelist() == sorted(name for _, name in figures.shown(nb))
        assert {info.date_time for info in archive.infolist()} == {figures.DATE}
    first = kept.read_bytes()
    figures.pack(nb, folder, path)
    assert kept.read_bytes() == first
    nb.cells[1].outputs.append(output(b"a picture from elsewhere"))
    assert figures.missing(nb, path) == 1
    figures.pack(nb, folder, path)  # of that one there is nothing finer
    assert kept.read_bytes() == first and figures.missing(nb, path) == 1
    nb.cells[1].outputs = []
    for _ in range(2):
        figures.pack(nb, folder, path)
        assert not kept.exists() and figures.missing(nb, path) == 0


def test_only_pictures_are_figures(course):
    _, nb, _ = course
    first, second = nb.cells[1].outputs
    nb.cells[1].outputs = [
        new_output("display_data", {"text/html": "<b>"}),
        first,
        new_output("stream", text="1"),
    ]
    nb.cells.append(new_code_cell("show()", outputs=[second]))
    assert [o for o, _ in figures.shown(nb)] == [first, second]


def test_many_figures_are_kept_in_the_order_of_their_names(course):
    path, nb, folder = course
    nb.cells[1].outputs = []
    for k in range(9):
        (folder / style.name_of(bytes([k]))).write_bytes(bytes([k, 1]))
        nb.cells[1].outputs.append(output(bytes([k])))
    figures.pack(nb, folder, path)
    with zipfile.ZipFile(figures.place(path)) as archive:
        assert archive.namelist() == sorted(name for _, name in figures.shown(nb))


def test_decks_and_pages_show_the_finer_pictures_as_wide_as_they_were_drawn(course):
    path, nb, folder = course
    figures.pack(nb, folder, path)
    for shown in (slides_ready.as_shown(path), site.page(path, {}, {"01_one"}, None)):
        outputs = shown.cells[-1].outputs
        sizes = [image(base64.b64decode(o.data["image/png"])).size for o in outputs]
        assert sizes == [(1200, 600), (1600, 400)]
        assert [dict(o.metadata["image/png"]) for o in outputs] == [
            {"alt": ALT, "width": 600},
            {"alt": ALT, "width": 800},
        ]
    assert shown.cells[-1].metadata["mystnb"]["image"]["width"] == "800px"
    figures.place(path).unlink()
    old = slides_ready.as_shown(path).cells[-1].outputs
    assert old == nb.cells[1].outputs
    page = site.page(path, {}, {"01_one"}, None)
    assert page.cells[-1].metadata["mystnb"]["image"] == {"alt": f"{ALT} {ALT}"}


def test_a_figure_without_a_finer_one_is_left_as_it_is(course):
    path, nb, folder = course
    figures.pack(nb, folder, path)
    other = output(b"a picture from elsewhere")
    nb.cells[1].outputs.insert(0, other)
    figures.sharpen(nb, path)
    first, *rest = nb.cells[1].outputs
    assert first == output(b"a picture from elsewhere")
    assert [o.metadata["image/png"]["width"] for o in rest] == [600, 800]


def test_a_notebook_without_its_figures_for_the_wall_is_stale(course):
    path, nb, folder = course
    root = path.parent.parent
    nb.metadata[stamps.KEY] = stamps.made_from(nb, path, root)
    store(nb, path)
    assert stamps.changes(path, root) == ["assets/01_one/figures.zip, which lacks figures"]
    figures.pack(nb, folder, path)
    assert stamps.changes(path, root) == []
