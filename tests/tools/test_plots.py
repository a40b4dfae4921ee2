"""What the figures draw, read back from their artists and their pixels."""

import io

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from PIL import Image

from course_lib import plots, style

ALT = "a sentence that is long enough"


@pytest.fixture
def shown(monkeypatch):
    calls = []
    monkeypatch.setattr(plots, "display", lambda bundle, **kw: calls.append((bundle, kw)))
    return calls


def title(fig):
    return fig.get_suptitle()


def opened(data):
    return Image.open(io.BytesIO(data))


# --- conversion and showing ---


def test_arrays_come_from_tensors_of_any_kind_and_from_sequences():
    x = torch.tensor([1.5, 2.0], dtype=torch.bfloat16, requires_grad=True)
    assert style.array(x).tolist() == [1.5, 2.0] and style.array(x).dtype == np.float64
    assert style.array(range(3)).tolist() == [0, 1, 2] and style.array([1]).dtype == np.float64


def test_show_gives_a_png_with_its_sentence(shown):
    fig = plots.curves([0, 1], {"data": [0, 1]}, "One line")
    plots.show(fig, ALT)
    ((bundle, kw),) = shown
    assert set(bundle) == {"image/png", "text/plain"} and bundle["text/plain"] == ALT
    assert kw == {"raw": True, "metadata": {"image/png": {"alt": ALT}}}
    image = opened(bundle["image/png"])
    assert image.format == "PNG" and image.mode == "P" and image.size == (800, 400) and image.info == {}
    assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)


def test_a_picture_of_many_colours_keeps_64():
    picture = opened(style.encode(Image.radial_gradient("L").convert("RGB")))
    assert len(picture.getcolors()) == 64


def test_white_stays_white_when_the_readers_style_is_dark():
    fig = plots.curves([0, 1], {"data": [0, 1]}, "Dark")
    fig.set_facecolor("black")
    assert opened(style.png(fig)).convert("RGB").getpixel((2, 2)) == (255, 255, 255)


def test_the_same_figure_gives_the_same_bytes():
    one, two = (style.png(plots.heat([[0, 1], [2, 3]], "Four")) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("alt", ["", "nineteen characters", " " * 30])
def test_a_picture_needs_a_sentence(alt, shown):
    with pytest.raises(ValueError, match="alt must say in a sentence"):
        plots.show(plots.heat([[0, 1]], "Two"), alt)
    assert shown == []


def test_twenty_characters_are_a_sentence():
    style.check_alt("twenty characters ok")


def test_a_heavy_figure_is_drawn_with_fewer_dots_until_it_fits(monkeypatch):
    seen = []

    def render(dpi):
        seen.append(dpi)
        return Image.new("L", (1, 1)).convert("RGB")

    sizes = iter([style.LIMIT + 2, style.LIMIT + 1, style.LIMIT])
    monkeypatch.setattr(style, "encode", lambda image: bytes(next(sizes)))
    assert len(style.fit(render)) == style.LIMIT == 60_000
    assert seen == [100, 90, 80]


def test_a_figure_that_never_fits_is_an_error(monkeypatch):
    seen = []
    monkeypatch.setattr(style, "encode", lambda image: bytes(70_000))
    with pytest.raises(ValueError, match="must fit in 60000 bytes, but takes 70000 at 40 dots per inch"):
        style.fit(lambda dpi: seen.append(dpi) or Image.new("RGB", (1, 1)))
    assert seen == [100, 90, 80, 70, 60, 50, 40]


def test_noise_fits_the_limit():
    x = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert len(style.png(plots.images(x, "Noise"))) <= 60_000


def test_figures_are_unknown_to_pyplot_and_keep_the_message_inside():
    before = plt.get_fignums()
    fig = plots.curves([0, 1], {"data": [0, 1]}, "word " * 60)
    assert plt.get_fignums() == before
    fig.draw_without_rendering()
    box = fig._suptitle.get_window_extent()
    assert box.x1 <= fig.bbox.x1 and box.y0 > fig.axes[0].get_window_extent().y1
    assert fig._suptitle.get_ha() == "left" and fig._suptitle.get_position()[0] == 0.01


def test_the_style_is_set_once_for_all():
    style = {name: matplotlib.rcParams[name] for name in ("font.size", "figure.titlesize", "axes.titlesize")}
    assert style == {"font.size": 13, "figure.titlesize": 15, "axes.titlesize": 13}
    assert matplotlib.rcParams["axes.titlelocation"] == "left"
    assert matplotlib.rcParams["lines.linewidth"] == 2 and matplotlib.rcParams["image.cmap"] == "cividis"
    assert matplotlib.rcParams["figure.facecolor"] == "white"
    assert matplotlib.rcParams["legend.edgecolor"] == "none"
    assert matplotlib.rcParams["figure.constrained_layout.use"] is True
    assert not matplotlib.rcParams["axes.spines.top"] and not matplotlib.rcParams["axes.spines.right"]


def test_a_figure_that_is_not_asked_for_more_is_one_panel_of_800_by_400_dots():
    fig, axes = style.panels("Message")
    assert axes.shape == (1, 1)
    assert opened(style.png(fig)).size == (800, 400)


def test_a_log_axis_has_1_2_and_5_of_each_decade():
    fig, ((ax,),) = style.panels("Message")
    ax.plot([1, 100], [1, 2])
    ax.set_xscale("log")
    style.plain_ticks(ax.xaxis)
    fig.draw_without_rendering()
    shown = [t.get_text() for t in ax.get_xticklabels() if 1 <= t.get_position()[0] <= 100]
    assert shown == ["1", "2", "5", "10", "20", "50", "100"]


def test_a_table_is_shown_as_text_and_as_markdown(shown):
    plots.table(
        [["ours", 3.14159, 10, "short"], ["the paper", 2.5, 1000, 7]], ["run", "bits", "steps", "why"]
    )
    ((bundle, kw),) = shown
    assert kw == {"raw": True}
    assert bundle["text/plain"].splitlines() == [
        "run         bits  steps  why",
        "ours       3.142     10  short",
        "the paper    2.5   1000  7",
    ]
    assert bundle["text/markdown"].splitlines() == [
        "| run | bits | steps | why |",
        "| :-- | --: | --: | :-- |",
        "| ours | 3.142 | 10 | short |",
        "| the paper | 2.5 | 1000 | 7 |",
    ]


def test_an_error_has_two_digits_and_zero_no_sign(shown):
    plots.table([["ours", -0.0, 0.008081], ["theirs", 1.23456, 0.0]], ["run", "bits", "± 2 se"])
    ((bundle, _),) = shown
    assert bundle["text/markdown"].splitlines()[2:] == ["| ours | 0 | 0.0081 |", "| theirs | 1.235 | 0 |"]


def test_a_ragged_table_is_an_error():
    with pytest.raises(ValueError, match="each row must have 2 cells"):
        plots.table([["a", 1], ["b"]], ["name", "value"])


# --- lines and numbers ---


def test_curves_draw_the_given_numbers():
    x = torch.tensor([1.0, 2.0, 4.0])
    fig = plots.curves(x, {"exact": x**2, "learned": [1, 2, 3]}, "Message", "time", "height")
    (ax,) = fig.axes
    exact, learned = ax.lines
    assert title(fig) == "Message" and (ax.get_xlabel(), ax.get_ylabel()) == ("time", "height")
    assert exact.get_xdata().tolist() == learned.get_xdata().tolist() == [1, 2, 4]
    assert exact.get_ydata().tolist() == [1, 4, 16] and learned.get_ydata().tolist() == [1, 2, 3]
    assert (exact.get_color(), exact.get_linestyle()) == ("#000000", "-")
    assert (learned.get_color(), learned.get_linestyle()) == ("#d230b8", "--")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["exact", "learned"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "linear") and not ax.collections
    assert fig.get_size_inches().tolist() == [8, 4]


def test_one_curve_needs_no_legend():
    assert plots.curves([0, 1], {"data": [0, 1]}, "One").axes[0].get_legend() is None


@pytest.mark.parametrize(("logx", "logy"), [(True, False), (False, True)])
def test_each_axis_can_be_logarithmic(logx, logy):
    ax = plots.curves([1, 2], {"data": [1, 2]}, "Log", logx=logx, logy=logy).axes[0]
    assert (ax.get_xscale() == "log", ax.get_yscale() == "log") == (logx, logy)


def ticks(axis):
    axis.figure.canvas.draw()
    low, high = sorted(axis.get_view_interval())
    return [
        t.get_text() for t in axis.get_ticklabels() if low <= t.get_position()[axis.axis_name == "y"] <= high
    ]


def test_a_short_log_axis_has_plain_numbers_and_a_long_one_powers_of_ten():
    short, long = (
        plots.curves([1, 2], {"data": y}, "L", logy=True).axes[0] for y in ([0.02, 0.6], [0.02, 2])
    )
    assert ticks(short.yaxis) == ["0.02", "0.05", "0.1", "0.2", "0.5"]
    assert not any(short.yaxis.get_minorticklabels()[k].get_text() for k in range(3))
    assert all("10" in text for text in ticks(long.yaxis)) and len(ticks(long.yaxis)) == 2


def test_few_values_on_a_log_axis_are_named_in_short():
    x = [0.0049883, 0.0514022, 0.201003, 0.334426, 1000]
    ax = plots.curves(x, {"data": x}, "L", logx=True).axes[0]
    assert ticks(ax.xaxis) == ["0.005", "0.051", "0.2", "0.33", "1000"]
    assert not ax.xaxis.get_minorticklocs().size


def test_a_long_legend_stands_beside_the_lines():
    for n, beside in ((4, False), (5, True)):
        fig = plots.curves([0, 1], {f"line {k}": [0, k] for k in range(n)}, "Many")
        fig.canvas.draw()
        (ax,) = fig.axes
        assert bool(ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1) is beside


def test_a_band_shades_its_own_line_only():
    lines = {"exact": [1, 2], "learned": [3, 4]}
    (ax,) = plots.curves([0, 1], lines, "Band", band={"learned": ([2, 3], [5, 6])}).axes
    (band,) = ax.collections
    assert to_hex(band.get_facecolor()[0]) == "#d230b8" and band.get_alpha() == 0.2
    assert band.get_linewidth() == 0
    assert {tuple(v) for v in band.get_paths()[0].vertices.tolist()} == {(0, 2), (1, 3), (0, 5), (1, 6)}


def test_by_time_averages_in_equal_bins():
    t = torch.tensor([0, 1, 4, 10, 10])
    values = torch.tensor([1.0, 3.0, 5.0, 4.0, 8.0])
    fig = plots.by_time(t, values, "Loss", "nats", bins=5)
    (ax,) = fig.axes
    (line,) = ax.lines
    assert line.get_xdata().tolist() == [1, 5, 9]  # bins without a value are left out
    assert line.get_ydata().tolist() == [2, 5, 6]
    assert (title(fig), ax.get_xlabel(), ax.get_ylabel()) == ("Loss", "t", "nats")
    vertices = ax.collections[0].get_paths()[0].vertices
    low, high = 2 - 2 / np.sqrt(2), 2 + 2 / np.sqrt(2)
    np.testing.assert_allclose(sorted({v for u, v in vertices if u == 1}), [low, high])


def test_by_time_has_twenty_bins_of_loss_unless_told():
    (ax,) = plots.by_time(np.arange(400), np.ones(400), "Loss").axes
    assert len(ax.lines[0].get_xdata()) == 20 and ax.get_ylabel() == "loss"


def test_bars_stand_in_order_with_their_numbers():
    fig = plots.bars({"learned": torch.tensor(2.0), "data": 0.12345}, "Bars", "distance", {"learned": 0.5})
    (ax,) = fig.axes
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([2, 0.12345])
    assert [to_hex(bar.get_facecolor()) for bar in ax.patches] == ["#d230b8", "#1b63fe"]
    assert [text.get_text() for text in ax.texts] == [" 2", " 0.123"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["learned", "data"]
    assert ax.yaxis_inverted() and ax.get_xlabel() == "distance" and title(fig) == "Bars"
    segments = [s.tolist() for s in ax.collections[0].get_segments()]
    assert segments == [[[1.5, 0], [2.5, 0]], [[pytest.approx(0.12345), 1], [pytest.approx(0.12345), 1]]]
    assert fig.get_size_inches().tolist() == [8, 2.2] and ax.margins()[0] == 0.15


def test_bars_without_errors_have_none():
    assert not plots.bars({"data": 1.0}, "Bars").axes[0].collections


def test_heat_shows_the_matrix_with_its_scale():
    fig = plots.heat(torch.tensor([[0.0, 1.0], [2.0, 3.0]]), "Heat", "to", "from")
    ax, scale = fig.axes
    (image,) = ax.images
    assert image.get_array().tolist() == [[0, 1], [2, 3]] and image.get_interpolation() == "nearest"
    assert (title(fig), ax.get_xlabel(), ax.get_ylabel()) == ("Heat", "to", "from")
    assert ax.yaxis_inverted() and scale.get_ylim() == (0, 3) and fig.get_size_inches().tolist() == [6, 4]


def test_axes_have_no_name_unless_given():
    figures = [
        plots.curves([0, 1], {"data": [0, 1]}, "m"),
        plots.bars({"data": 1}, "m"),
        plots.heat([[1]], "m"),
    ]
    assert [(fig.axes[0].get_xlabel(), fig.axes[0].get_ylabel()) for fig in figures] == [("", "")] * 3


# --- samples ---


def test_density_puts_a_histogram_under_the_exact_curve():
    x = torch.tensor([0.1, 0.1, 0.6, 7.0])
    fig = plots.density(x, ([0, 0.5, 1], [2, 1, 0]), "Message", "place", bins=2)
    (ax,) = fig.axes
    assert [bar.get_height() for bar in ax.patches] == [1, 0.5]  # 7.0 counts, but lies outside
    assert [bar.get_x() for bar in ax.patches] == [0, 0.5]
    assert to_hex(ax.patches[0].get_facecolor()) == "#1b63fe" and ax.patches[0].get_alpha() == 0.5
    (line,) = ax.lines
    assert line.get_xdata().tolist() == [0, 0.5, 1] and line.get_ydata().tolist() == [2, 1, 0]
    assert line.get_color() == "#000000"
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"samples", "exact"}
    assert (title(fig), ax.get_xlabel(), ax.get_title()) == ("Message", "place", "")
    assert fig.get_size_inches().tolist() == [6, 3.6]


def test_density_of_a_function_covers_nearly_all_samples():
    x = torch.arange(1001.0)
    (ax,) = plots.density(x, lambda v: v**2, "Square").axes
    (line,) = ax.lines
    assert len(ax.patches) == 80 and ax.get_xlabel() == "x"
    np.testing.assert_allclose(line.get_xdata(), np.linspace(1, 999, 401))
    np.testing.assert_allclose(line.get_ydata(), np.linspace(1, 999, 401) ** 2)


def test_density_panels_share_their_axes_and_their_range():
    samples = {"10 steps": torch.linspace(-1, 0, 500), "50 steps": torch.linspace(0, 3, 500)[:, None]}
    fig = plots.density_grid(samples, lambda v: v * 0, "Grid", bins=5)
    first, second = fig.axes
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["10 steps", "50 steps"]
    assert first.get_xlim() == second.get_xlim() and first.get_ylim() == second.get_ylim()
    assert first.get_legend() and not second.get_legend()
    assert len(first.patches) == len(second.patches) == 5
    assert first.patches[0].get_x() == pytest.approx(-1, abs=0.01)
    assert second.patches[-1].get_x() + second.patches[-1].get_width() == pytest.approx(3, abs=0.01)
    assert fig.get_size_inches().tolist() == [6.4, 3.6]
    assert [ax.get_xlabel() for ax in fig.axes] == ["x", "x"]


def test_paths_run_in_the_order_of_time_between_two_histograms():
    times = torch.tensor([4.0, 2.0, 0.0])
    xs = torch.stack([torch.zeros(120), torch.ones(120), torch.linspace(0, 2, 120)])
    fig = plots.paths(times, xs, "Way back")
    start, middle, end = fig.axes
    assert title(fig) == "Way back" and middle.get_xlim() == (4, 0) and middle.get_xlabel() == "t"
    assert len(plots.paths(times, xs, "Few", shown=8).axes[1].lines) == 8
    assert len(middle.lines) == 50 and middle.lines[49].get_xdata().tolist() == [4, 2, 0]
    assert middle.lines[49].get_ydata().tolist() == pytest.approx([0, 1, xs[2, 49].item()])
    line = middle.lines[0]
    assert (line.get_color(), line.get_alpha(), line.get_linewidth()) == ("#1b63fe", 0.4, 0.8)
    assert middle.get_subplotspec().get_gridspec().get_width_ratios() == (1, 5, 1)
    assert (start.get_xlabel(), end.get_xlabel()) == ("t = 4", "t = 0")
    fig.set_size_inches(3.4, 2.9)  # one of three stills: the ends stay clear of the ticks, and inside
    fig.canvas.draw()
    ends = [ax.xaxis.label.get_window_extent() for ax in (start, end)]
    marks = [t.get_window_extent() for t in middle.get_xticklabels()]
    assert not any(one.overlaps(mark) for one in ends for mark in marks)
    assert ends[0].x0 >= 0 and ends[1].x1 <= fig.bbox.x1
    assert start.xaxis_inverted() and not end.xaxis_inverted()
    assert len(start.patches) == 60
    assert start.patches[0].get_width() == pytest.approx(30)  # all in one bin of width 1/30
    assert sum(bar.get_width() for bar in end.patches) / 30 == pytest.approx(1)
    assert end.patches[-1].get_width() > 0 and not start.get_xticks().size and not end.get_xticks().size
    assert start.get_ylim() == middle.get_ylim()


def test_scatter2d_draws_each_cloud_in_its_role():
    fig = plots.scatter2d(
        {"data": torch.tensor([[0.0, 1.0], [2.0, 3.0]]), "learned": np.ones((1, 2))}, "Clouds"
    )
    (ax,) = fig.axes
    data, learned = ax.collections
    assert data.get_offsets().tolist() == [[0, 1], [2, 3]] and learned.get_offsets().tolist() == [[1, 1]]
    assert to_hex(data.get_facecolor()[0]) == "#1b63fe" and to_hex(learned.get_facecolor()[0]) == "#d230b8"
    assert ax.get_aspect() == 1 and title(fig) == "Clouds" and fig.get_size_inches().tolist() == [6, 5]
    assert (data.get_sizes(), data.get_alpha(), data.get_linewidths()) == ([16], 0.6, [1])
    assert len(data.get_paths()[0].vertices) != len(learned.get_paths()[0].vertices)  # a circle, a square
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["data", "learned"]


# --- images ---


def test_mosaic_puts_images_row_by_row_with_a_gap():
    x = torch.arange(12.0).reshape(3, 1, 2, 2)
    nan = np.nan
    want = [[0, 1, nan, 4, 5], [2, 3, nan, 6, 7], [nan] * 5, [8, 9, nan, nan, nan], [10, 11, nan, nan, nan]]
    np.testing.assert_array_equal(plots.mosaic(x, 2), want)
    assert plots.mosaic(x[:2], 2).shape == (2, 5)


@pytest.mark.parametrize("shape", [(2, 2), (2, 3, 4, 4)])
def test_images_have_one_channel(shape):
    with pytest.raises(ValueError, match=r"images must have shape \(N, 1, H, W\), not \("):
        plots.images(torch.zeros(shape), "Wrong")


def test_images_are_grey_from_minus_one_to_one():
    x = torch.linspace(-1, 1, 10)[:, None, None, None].expand(10, 1, 2, 3)
    fig = plots.images(x, "Ten")
    (ax,) = fig.axes
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array().filled(np.nan), plots.mosaic(x, 8))
    assert image.get_clim() == (-1, 1) and image.get_cmap().name == "gray"
    assert image.get_interpolation() == "nearest" and title(fig) == "Ten"
    assert not len(ax.get_xticks()) and not len(ax.get_yticks())
    assert not any(spine.get_visible() for spine in ax.spines.values())
    assert fig.get_size_inches().tolist() == pytest.approx([8, 8 * 5 / 31 + 0.8])


def test_many_images_stay_low_enough_for_a_slide():
    fig = plots.images(torch.zeros(64, 1, 8, 8), "Square", columns=8)
    assert fig.get_size_inches().tolist() == [8, 5]


def test_filmstrip_picks_frames_evenly_a_row_per_example():
    frames = ((t, torch.full((6, 1, 2, 2), t / 10.0)) for t in range(10, -1, -1))
    fig = plots.filmstrip(frames, "Back", columns=3, rows=2)
    (ax,) = fig.axes
    cells = ax.images[0].get_array().filled(np.nan)
    assert cells.shape == (5, 8)
    assert cells[0, [0, 3, 6]].tolist() == cells[3, [0, 3, 6]].tolist() == pytest.approx([1, 0.5, 0])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["10", "5", "0"]
    assert ax.get_xticks().tolist() == [0.5, 3.5, 6.5]
    assert ax.get_xlabel() == "t" and title(fig) == "Back"
    assert ax.xaxis.get_tick_params()["length"] == 0 and ax.xaxis.get_tick_params()["labelsize"] == 11


def test_filmstrip_keeps_examples_apart_and_decodes():
    x = torch.tensor([0.25, -0.5]).reshape(2, 1)
    decoded = lambda v: v.reshape(-1, 1, 1, 1)  # noqa: E731
    frames = [(torch.tensor([3, 3]), x), (torch.tensor(0.5), x + 0.25)]
    (ax,) = plots.filmstrip(frames, "Two", decode=decoded).axes
    np.testing.assert_array_equal(
        ax.images[0].get_array().filled(np.nan), [[0.25, np.nan, 0.5], [np.nan] * 3, [-0.5, np.nan, -0.25]]
    )
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["3", "0.5"]


def test_filmstrip_shows_nine_frames_of_four_examples_unless_told():
    (ax,) = plots.filmstrip([(t, torch.zeros(5, 1, 1, 1)) for t in range(20)], "Nine").axes
    assert ax.images[0].get_array().shape == (7, 17)


def test_a_filmstrip_needs_frames():
    with pytest.raises(ValueError, match="frames must hold at least one"):
        plots.filmstrip(iter([]), "None")


# --- tokens ---


def test_heats_stand_side_by_side_each_on_its_own_scale():
    a, b = np.eye(3), np.full((3, 3), 0.25)
    b[0, 2] = 0.5
    fig = plots.heats({"one": torch.tensor(a), "two": b}, "both")
    drawn = [ax.images[0] for ax in fig.axes]
    assert title(fig) == "both" and [ax.get_title(loc="left") for ax in fig.axes] == ["one", "two"]
    assert np.array_equal(drawn[0].get_array(), a) and np.array_equal(drawn[1].get_array(), b)
    assert [image.get_clim() for image in drawn] == [(0, 1), (0, 0.5)]
    assert all(len(ax.get_xticks()) == len(ax.get_yticks()) == 0 for ax in fig.axes)


def test_heat_maps_on_one_scale_can_be_compared():
    fig = plots.heats({"one": np.eye(3), "two": np.eye(3) / 4}, "both", top=2.0)
    assert [ax.images[0].get_clim() for ax in fig.axes] == [(0, 2), (0, 2)]
    assert plots.heat(np.eye(3), "one", top=0.5).axes[0].images[0].get_clim() == (0, 0.5)
    assert plots.heat(np.eye(3) + 1, "one").axes[0].images[0].get_clim() == (1, 2)


def test_small_heat_maps_have_their_numbers_in_their_cells():
    matrix = np.array([[0.0, 0.9, 0.25], [0.5, 0.1, 0.2]])
    one, large = plots.heats({"one": matrix, "large": np.eye(4)}, "both").axes
    said = {t.get_position(): (t.get_text(), t.get_color()) for t in one.texts}
    assert len(said) == 6 and not large.texts
    assert said[1, 0] == ("0.90", "black") and said[0, 1] == ("0.50", "black")  # (column, row)
    assert said[2, 0] == ("0.25", "white")


def test_a_heat_map_counts_in_whole_numbers():
    fig = plots.heat(np.eye(3), "identity")
    assert all(float(v).is_integer() for v in fig.axes[0].get_xticks())


def test_microscope_has_a_cell_for_each_character():
    shade = torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.0, 0.0]])
    fig = plots.microscope({"t = 1": "abc", "t = 0": "d f"}, "letters", shade)
    (ax,) = fig.axes
    assert title(fig) == "letters"
    at = {(round(x.get_position()[1]), round(x.get_position()[0])): x.get_text() for x in ax.texts}
    assert at == {(0, 0): "a", (0, 1): "b", (0, 2): "c", (1, 0): "d", (1, 1): " ", (1, 2): "f"}
    assert np.array_equal(ax.images[0].get_array(), shade.numpy()) and ax.images[0].get_clim() == (0, 2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["t = 1", "t = 0"]
    assert len(ax.get_xticks()) == 0 and {x.get_fontsize() for x in ax.texts} == {13}


def test_microscope_without_shade_is_white_and_its_letters_have_a_size():
    (ax,) = plots.microscope({"": "ab"}, "letters", size=9).axes
    assert not ax.images[0].get_array().any() and {x.get_fontsize() for x in ax.texts} == {9}


def test_lines_under_the_microscope_have_one_length():
    with pytest.raises(ValueError, match=r"lines must have one length, not \[1, 2\]"):
        plots.microscope({"a": "x", "b": "yz"}, "letters")


# --- nothing is left out silently ---

NAN = [1.0, np.nan]


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: plots.curves([0, 1], {"data": NAN}, "t"), "data must be numbers, but 1 of 2 are NaN"),
        (lambda: plots.curves(NAN, {"data": [0, 1]}, "t"), "x must be numbers"),
        (
            lambda: plots.curves([0, 1], {"a": [0, 1]}, "t", band={"a": (NAN, [1, 2])}),
            "the band of a must be",
        ),
        (
            lambda: plots.curves([0, 1], {"a": [0, 1]}, "t", band={"b": ([0, 1], [1, 2])}),
            "band must go with one of a",
        ),
        (
            lambda: plots.curves([0, 1], {"a": [0, 1, 2]}, "t"),
            "a must hold 2 values, as many as x, not shape",
        ),
        (lambda: plots.by_time([0, 1], NAN, "t"), "values must be numbers"),
        (lambda: plots.by_time([0, 1], [1.0], "t"), "values must hold 2 values, as many as t"),
        (lambda: plots.bars({"a": np.nan}, "t"), "what is drawn must be numbers"),
        (lambda: plots.bars({"a": 1}, "t", error={"b": 1}), "error must go with one of a, not with b"),
        (lambda: plots.heat([NAN], "t"), "must be numbers"),
        (lambda: plots.heats({"Q": [[0.5, -0.1]]}, "t"), "Q must not be negative: its scale starts at 0"),
        (lambda: plots.density([np.nan], torch.exp, "t"), "samples must be numbers, but 1 of 1"),
        (lambda: plots.density([], torch.exp, "t"), "samples must hold at least one number"),
        (lambda: plots.density_grid({}, torch.exp, "t"), "samples must hold at least one number"),
        (lambda: plots.paths([1, 0], [[1.0]], "t"), "xs must hold 2 values, as many as times"),
        (lambda: plots.scatter2d({"a": [[1, 2, 3]]}, "t"), r"a must be points \(n, 2\), not \(1, 3\)"),
        (lambda: plots.images(torch.full((1, 1, 2, 2), np.nan), "t"), "images must be numbers, but 4 of 4"),
        (lambda: plots.images(torch.zeros(0, 1, 2, 2), "t"), "images must have shape"),
        (lambda: plots.images(torch.zeros(1, 1, 2, 2), "t", columns=0), "columns must be at least 1"),
        (lambda: plots.microscope({"a": "xy"}, "t", shade=[[0, 1.1]]), r"shade must lie in \[0, 1\]"),
        (lambda: plots.microscope({"a": "xy"}, "t", shade=[[0, -0.1]]), r"shade must lie in \[0, 1\]"),
        (lambda: plots.microscope({"a": "xy"}, "t", shade=[0, 1]), r"have shape \(1, 2\), not \(2,\)"),
        (lambda: plots.microscope({}, "t"), "lines must hold at least one text"),
    ],
)
def test_figures_refuse_what_they_would_leave_out(draw, says):
    with pytest.raises(ValueError, match=says):
        draw()


def test_infinite_values_are_drawn_as_a_gap_on_a_log_axis():
    plots.curves([0, 1], {"data": [1, np.inf]}, "t", logy=True)
    plots.microscope({"a": "xy"}, "t", shade=[[0, 1]])
