"""Sliders that redraw, and the still picture that stands for them."""

import io
import itertools
import types

import ipywidgets
import nbclient
import nbconvert
import nbformat
import pytest
import torch
from PIL import Image

from course_lib import diagrams, plots, style, widgets

ALT = "a bar that grows to the right as n <grows>"
VIEW = "application/vnd.jupyter.widget-view+json"
AT = [{"n": 1, "kind": "data"}, {"n": 2, "kind": "data"}, {"n": 5, "kind": "noise"}]
SLIDERS = {"n": (0, 5, 1), "kind": ["data", "noise"]}


def draw(n, kind):
    if n == 0:
        raise RuntimeError("n < 1")
    return plots.bars({kind: n}, f"{n} of {kind}")


@pytest.fixture
def shown(monkeypatch):
    calls = []
    monkeypatch.setattr(widgets, "display", lambda bundle, **kw: calls.append((bundle, kw)))
    return calls


@pytest.fixture
def live(monkeypatch):
    monkeypatch.setattr(widgets, "live", lambda: True)


def parts(play=None, sliders=SLIDERS, start=AT[1]):
    *controls, picture, note = widgets.panel(draw, start, ALT, play, sliders).children
    return controls, picture, note


# --- where it is live ---


class Asked:
    """A kernel whose front end can answer input(), or not."""

    def __init__(self, **content):
        self.content = content

    def get_parent(self):
        return {"content": self.content} if self.content else {}


PERSON, NOBODY, SILENT = Asked(allow_stdin=True), Asked(allow_stdin=False), Asked()


@pytest.mark.parametrize(
    ("kernel", "static", "package", "want"),
    [
        (PERSON, "", True, True),
        (PERSON, "0", True, True),
        (PERSON, "1", True, False),
        (PERSON, "", False, False),
        (NOBODY, "", True, False),
        (SILENT, "", True, False),
        (None, "", True, False),
    ],
)
def test_live_means_a_person_at_a_kernel_with_widgets_that_is_not_static(
    monkeypatch, kernel, static, package, want
):
    shell = types.SimpleNamespace(kernel=kernel) if kernel else None
    monkeypatch.setattr(widgets, "get_ipython", lambda: shell)
    monkeypatch.setenv("COURSE_STATIC", static)
    monkeypatch.setattr(widgets.importlib.util, "find_spec", {"ipywidgets": package or None}.get)
    assert widgets.live() is want


def test_a_terminal_is_not_live(monkeypatch):
    monkeypatch.setattr(widgets, "get_ipython", lambda: types.SimpleNamespace())
    assert widgets.live() is False


CELLS = """
from course_lib import plots, style, predictions, widgets
draw, at = lambda n: plots.bars({"data": n}, f"{n}"), [{"n": n} for n in (1, 2, 3)]
widgets.explore(draw, at, "a bar that grows with n", n=(0, 5, 1))
predictions.predict("toy.steps", "How many steps?", ["ten", "a hundred"])
from course_lib.notebook import watch
from types import SimpleNamespace
_ = list(watch([SimpleNamespace(loss=1.0)] * 3, 3))
"""


@pytest.mark.parametrize("person", [False, True])
def test_an_executed_notebook_exported_to_html_shows_the_stills(person, monkeypatch):
    """nbconvert prefers a widget to the picture beside it, and a widget that no kernel moves is blank."""
    monkeypatch.delenv("COURSE_STATIC", raising=False)
    for name in ("CI", "PYTEST_VERSION", "PYTEST_CURRENT_TEST"):
        monkeypatch.delenv(name, raising=False)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELLS)])
    client = nbclient.NotebookClient(notebook, kernel_name="python3", timeout=120)
    if person:  # the same with a front end that can answer: it gets its sliders
        start = client.async_start_new_kernel_client

        async def answering():
            kc = await start()
            kc.allow_stdin = True
            return kc

        client.async_start_new_kernel_client = answering
        client.start_new_kernel_client = nbclient.util.run_sync(answering)
    client.execute()
    outputs = notebook.cells[0].outputs
    views = [out for out in outputs if VIEW in out.get("data", {})]
    assert len(views) == (2 if person else 0)
    text = "".join(out.text for out in outputs if out.output_type == "stream" and out.name == "stdout")
    left = [line.rsplit("\r", 1)[-1] for line in text.split("\n")]
    assert any(line.startswith("training: 3 steps, final loss 1.000") for line in left)
    assert not any("0/3" in line for line in left)
    if not person:
        page, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
        assert "data:image/png;base64" in page and "How many steps?" in page
        assert "application/vnd.jupyter.widget-view" not in page


# --- one bundle ---


def test_static_output_is_the_still_picture_and_its_sentence(shown, monkeypatch):
    monkeypatch.setattr(widgets, "live", lambda: False)
    widgets.explore(draw, AT, ALT, **SLIDERS)
    ((bundle, kw),) = shown
    assert bundle == {"image/png": widgets.still(draw, AT), "text/plain": ALT}
    assert kw == {"raw": True, "metadata": {"image/png": {"alt": ALT}}}


def test_live_output_is_one_bundle_with_the_widget_beside_the_picture(shown, live):
    widgets.explore(draw, AT, ALT, play="n", **SLIDERS)
    ((bundle, kw),) = shown
    assert list(bundle) == ["image/png", "text/plain", VIEW]
    assert kw == {"raw": True, "metadata": {"image/png": {"alt": ALT}}}
    assert bundle[VIEW] == {"version_major": 2, "version_minor": 0, "model_id": bundle[VIEW]["model_id"]}
    box = ipywidgets.widget_serialization["from_json"]("IPY_MODEL_" + bundle[VIEW]["model_id"], None)
    player, slider = box.children[0].children
    assert isinstance(player, ipywidgets.Play)
    assert (slider.description, slider.value, box.children[1].value) == ("n", 2, "data")
    assert box.children[3].value == "a bar that grows to the right as n &lt;grows&gt;"


def test_the_still_picture_holds_the_three_figures_side_by_side():
    image = Image.open(io.BytesIO(widgets.still(draw, AT))).convert("RGB")
    width, height = image.size
    assert width == 1020 and abs(height - 289) <= 1  # the oldest matplotlib rounds down
    thirds = [image.crop((340 * k, 0, 340 * k + 340, height)) for k in range(3)]
    colours = [{c for _, c in third.getcolors(99_999)} for third in thirds]
    blue, grey = (27, 99, 254), (140, 140, 140)
    near = lambda want, seen: any(max(abs(a - b) for a, b in zip(want, c, strict=True)) < 6 for c in seen)  # noqa: E731
    assert [near(blue, seen) for seen in colours] == [True, True, False]
    assert thirds[0].tobytes() != thirds[1].tobytes() and near(grey, colours[2])


def test_a_small_panel_has_its_legend_above_and_room_for_it():
    fig = plots.curves([0, 1, 2], {"data": [0, 1, 0], "exact": [1, 0, 1]}, "Two lines")
    widgets.shrink(fig)
    assert fig.get_size_inches() == pytest.approx([3.4, 3.74])
    fig.canvas.draw()
    (ax,) = fig.axes
    legend, axes = ax.get_legend().get_window_extent(), ax.get_window_extent()
    assert legend.y0 >= axes.y1 - 1 and legend.x0 >= axes.x0 - 1
    assert len(ax.get_legend().get_texts()) == 2
    digits = plots.images(torch.zeros(16, 1, 8, 8), "Two rows of eight")
    widgets.shrink(digits)
    assert digits.get_size_inches() == pytest.approx([3.4, 3.4 * 2 / 8 + 0.95], abs=0.06)
    digits.canvas.draw()
    (pictures,) = digits.axes
    box = pictures.get_window_extent()
    assert box.x0 > 10 and digits.bbox.x1 - box.x1 > 10  # a gap to the panel beside it


def test_the_still_figures_carry_their_values_and_keep_their_shape():
    made = []

    def tall(n, kind):
        made.append(draw(n, kind))
        made[-1].set_size_inches(8, 10)
        return made[-1]

    widgets.still(tall, AT)
    assert [fig.get_supxlabel() for fig in made] == [
        "n = 1, kind = data",
        "n = 2, kind = data",
        "n = 5, kind = noise",
    ]
    assert made[0].get_size_inches().tolist() == [3.4, 4.25]
    assert made[0]._supxlabel.get_weight() == "bold"


def caption_of(size, values):
    fig = draw(1, "data")
    fig.set_size_inches(size)
    widgets.captions([fig], [values], level=False)
    fig.canvas.draw()
    label = fig._supxlabel
    return label.get_text(), label.get_fontsize(), label.get_window_extent().width / fig.bbox.width


def test_a_caption_fits_below_its_figure():
    size = caption_of((3.4, 3), {"n": 1})[1]
    assert caption_of((3.4, 3), {"n": 1, "kind": "data"})[:2] == ("n = 1, kind = data", size)
    text, font, width = caption_of((3.4, 3), {"rule": "dot product", "length": 2.0})
    assert text == "rule = dot product\nlength = 2.0" and font == size and width < 0.95
    text, font, width = caption_of((3.4, 3), {"n": 1, "kind": "data " * 12})
    assert text.startswith("n = 1\n") and font < size and 0.9 < width < 0.95


def test_captions_of_panels_beside_each_other_have_as_many_lines():
    at = [{"n": 1, "kind": "noise " * 4}, {"n": 2, "kind": "data"}]
    for level, second in ((True, "n = 2\nkind = data"), (False, "n = 2, kind = data")):
        figures = [draw(1, "data") for _ in at]
        for fig in figures:
            fig.set_size_inches(3.4, 3)
        widgets.captions(figures, at, level)
        assert [fig.get_supxlabel().count("\n") for fig in figures] == [1, int(level)]
        assert figures[1].get_supxlabel() == second


def test_stills_beside_each_other_end_at_one_height_those_in_a_column_need_not(monkeypatch):
    asked = []
    monkeypatch.setattr(widgets, "captions", lambda figures, at, level: asked.append(level))
    widgets.still(draw, AT)
    widgets.still(row, [{"text": "and the lord said"}, {"text": "the king of the land"}, {"text": "a word"}])
    assert asked == [True, False]


def row(text, title="one title"):
    return diagrams.cells({"asked": text.split(), "drawn": text.upper().split()}, title)


def test_wide_figures_stand_below_each_other_under_one_title():
    at = [{"text": "and the lord said"}, {"text": "the king of the land"}, {"text": "a word"}]
    made = []
    image = Image.open(io.BytesIO(widgets.still(lambda text: made.append(row(text)) or made[-1], at)))
    assert [fig.get_suptitle() for fig in made] == ["one title", "", ""]
    assert image.size[0] == 1000 and image.size[1] <= 3 * 175
    for fig in made:  # no word lies on another
        fig.canvas.draw()
        for line in (0, 1):
            texts = fig.axes[0].texts[line * len(fig.axes[0].texts) // 2 :][: len(fig.axes[0].texts) // 2]
            boxes = [t.get_window_extent() for t in texts]
            assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    made.clear()
    widgets.still(lambda text: made.append(row(text, text)) or made[-1], at)
    assert [fig.get_suptitle() for fig in made] == [values["text"] for values in at]
    assert widgets.is_wide(row("a b")) and not widgets.is_wide(draw(1, "data"))  # as wide, but bars
    high = diagrams.cells({str(k): ["a", "b"] for k in range(6)}, "six rows")
    widgets.flatten(high)
    assert high.get_size_inches().tolist() == [10, 1.75]


def test_pictures_of_different_size_stand_in_one_column_on_white():
    column = widgets.below([Image.new("RGB", (1, 1), "red"), Image.new("RGB", (2, 2), "blue")])
    white, red, blue = (255, 255, 255), (255, 0, 0), (0, 0, 255)
    assert [[column.getpixel((x, y)) for x in range(2)] for y in range(3)] == [
        [red, white],
        [blue, blue],
        [blue, blue],
    ]


def test_pictures_of_different_size_stand_in_one_row_on_white():
    row = widgets.beside([Image.new("RGB", (1, 1), "red"), Image.new("RGB", (2, 2), "blue")])
    white, red, blue = (255, 255, 255), (255, 0, 0), (0, 0, 255)
    assert [[row.getpixel((x, y)) for x in range(3)] for y in range(2)] == [
        [red, blue, blue],
        [white, blue, blue],
    ]


# --- the panel ---


def test_moving_a_slider_redraws_the_picture():
    (n, kind), picture, note = parts()
    assert picture.format == "png" and picture.value == style.png(draw(2, "data"))
    n.value = 4
    assert picture.value == style.png(draw(4, "data"))
    kind.value = "noise"
    assert picture.value == style.png(draw(4, "noise"))
    assert note.value == "a bar that grows to the right as n &lt;grows&gt;"


def test_an_error_in_draw_is_text_and_the_widget_lives_on():
    (n, _), picture, note = parts()
    before = picture.value
    n.value = 0
    assert note.value == "RuntimeError: n &lt; 1" and picture.value == before
    n.value = 3
    assert picture.value == style.png(draw(3, "data")) and note.value.startswith("a bar")


def test_play_walks_the_slider():
    (row, kind), picture, _ = parts(play="n")
    player, slider = row.children
    assert (player.min, player.max, player.step, player.value, player.interval) == (0, 5, 1, 2, 500)
    player.value = 3
    assert slider.value == 3 and picture.value == style.png(draw(3, "data"))
    slider.value = 5
    assert player.value == 5 and isinstance(kind, ipywidgets.Dropdown)


@pytest.mark.parametrize(
    ("spec", "start", "kind", "value"),
    [
        ((0, 10, 2), 4, ipywidgets.IntSlider, 4),
        ((0, 10, 2, 6), 4, ipywidgets.IntSlider, 6),
        ((0, 1, 0.25), 0.5, ipywidgets.FloatSlider, 0.5),
        ((0.0, 1.0, 0.25, 0.75), 0.5, ipywidgets.FloatSlider, 0.75),
        ([10, 50.0, 1000], 50, ipywidgets.SelectionSlider, 50),
        (["linear", 2], "linear", ipywidgets.Dropdown, "linear"),
        ("say something", "a text", ipywidgets.Text, "a text"),
    ],
)
def test_each_kind_of_slider(spec, start, kind, value):
    made = widgets.control("steps", spec, start)
    assert type(made) is kind and made.value == value and made.description == "steps"
    assert made.style.description_width == "initial"
    if isinstance(spec, str):
        assert made.placeholder == spec and not made.continuous_update
    elif isinstance(spec, tuple):
        assert (made.min, made.max, made.step) == spec[:3] and not made.continuous_update
    else:
        assert list(made.options) == spec


# --- bad input ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"at": AT[:2]}, "at must hold three dicts with the keys n, kind"),
        ({"at": [*AT[:2], {"n": 1}]}, "at must hold three dicts with the keys n, kind"),
        ({"n": (0, 5)}, r"n must be \(low, high, step\), \(low, high, step, start\) or a list, not \(0, 5\)"),
        ({"n": (0, 5, 1, 2, 3)}, "n must be "),
        ({"n": (2, 5, 1)}, r"at must keep to the slider n = \(2, 5, 1\), but has 1"),
        ({"n": (0, 4, 1)}, "but has 5"),
        ({"kind": ["data", "mask"]}, r"the slider kind = \['data', 'mask'\], but has 'noise'"),
        ({"kind": "say it", "at": [*AT[:2], {"n": 1, "kind": 7}]}, "at must hold texts for kind, not"),
        ({"play": "m"}, "play must name a slider of integers, not 'm'"),
        ({"play": "kind"}, "play must name a slider of integers"),
        ({"play": "n", "n": (0, 5, 0.5)}, "play must name a slider of integers"),
        ({"alt": "short"}, "alt must say in a sentence"),
    ],
)
def test_bad_sliders_are_told_at_once(change, message, shown):
    given = {"at": AT, "alt": ALT, **SLIDERS} | change
    with pytest.raises(ValueError, match=message):
        widgets.explore(draw, **given)
    assert shown == []


def test_the_ends_of_a_slider_are_allowed():
    widgets.check_sliders({"n": (1, 5, 1), "kind": ["data", "noise"]}, AT, "n")
    widgets.check_sliders({"kind": "any text", "n": (1, 5, 1)}, AT, "n")


def test_an_error_of_the_author_in_the_still_picture_is_raised(shown):
    with pytest.raises(RuntimeError, match="n < 1"):
        widgets.explore(draw, [{"n": 0, "kind": "data"}, *AT[1:]], ALT, **SLIDERS)


def test_the_picture_keeps_its_size_in_the_panel():
    _, picture, _ = parts()
    assert picture.layout.align_self == "flex-start" and picture.layout.max_width == "100%"
