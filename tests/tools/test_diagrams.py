"""Diagrams show what they are given, with q and p in their colours."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from course_lib import diagrams, style
from course_lib.colours import COLOURS, check_colours

PICTURES = np.arange(3 * 4 * 4).reshape(3, 4, 4)


def test_a_chain_shows_its_states_between_arrows_of_q_and_p():
    fig = diagrams.chain(PICTURES, ["a", "b", "c"], "Message")
    assert [ax.get_xlabel() for ax in fig.axes] == ["a", "b", "c"]
    shown = [ax.images[0].get_array() for ax in fig.axes]
    assert all((np.asarray(s) == p).all() for s, p in zip(shown, PICTURES, strict=True))
    assert {ax.images[0].get_clim() for ax in fig.axes} == {(0, 15)}  # the greys of x_0 for all
    arrows = [text for ax in fig.axes for text in ax.texts if text.get_text() == ""]
    names = [
        (text.get_text(), to_hex(text.get_color())) for ax in fig.axes for text in ax.texts if text.get_text()
    ]
    assert len(arrows) == 4
    assert sorted(names) == sorted([("$q$", COLOURS["noise"]), ("$p$", COLOURS["learned"])] * 2)
    assert style.png(fig)


@pytest.mark.parametrize("direction", ["q", "p"])
def test_arrows_point_where_time_goes(direction):
    fig = diagrams.chain(PICTURES, ["a", "b", "c"], "Message")
    fig.canvas.draw()
    ends = {"q": [1, 2], "p": [0, 1]}[direction]
    height = {"q": 0.72, "p": 0.28}[direction]
    heads = [k for k, ax in enumerate(fig.axes) for t in ax.texts if t.get_text() == "" and t.xy[1] == height]
    assert heads == ends
    for k, ax in enumerate(fig.axes):
        for text in ax.texts:
            if text.get_text() == "" and text.xy[1] == height:
                x = text.xy[0]
                assert (x < 0) if direction == "q" else (x > 1), (k, x)


def test_lines_fade_with_time_and_a_point_may_be_marked():
    fig = diagrams.fading([0, 1], {"t = 1": [0, 1], "t = 9": [2, 3]}, "Message", "x", "y", (0.5, 1, "here"))
    (ax,) = fig.axes
    early, late, point = ax.lines
    assert early.get_alpha() > late.get_alpha() > 0.1 and early.get_color() == late.get_color()
    assert early.get_linestyle() != late.get_linestyle()
    assert late.get_ydata().tolist() == [2, 3] and point.get_xydata().tolist() == [[0.5, 1]]
    assert [t.get_text() for t in ax.texts] == ["here"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["t = 1", "t = 9"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: diagrams.chain(PICTURES[:1], ["a"], "t"),
            r"states must be at least two pictures \(n, h, w\)",
        ),
        (lambda: diagrams.chain(PICTURES[0], ["a"], "t"), r"not shape \(4, 4\)"),
        (lambda: diagrams.chain(PICTURES, ["a"], "t"), "labels must hold 3 values, as many as states"),
        (lambda: diagrams.fading([0, 1], {"a": [1]}, "t"), "a must hold 2 values, as many as x"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_flow_map_shades_each_time_by_its_own_peak_under_the_paths():
    paths = {"SDE": [[0, 1], [2, 3], [4, 5]], "ODE": [[0], [1], [2]]}
    fig = diagrams.flow_map([0, 0.5, 1], [0, 5], [[1, 2], [10, 5], [3, 3]], paths, "Message")
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["SDE", "ODE"]
    shades = np.asarray(fig.axes[0].collections[0].get_array()).reshape(2, 3)
    assert shades.tolist() == [[0.5, 1, 1], [1, 0.5, 1]]
    assert [line.get_ydata().tolist() for line in fig.axes[0].lines] == [[0, 2, 4], [1, 3, 5]]
    assert style.png(fig)


def test_fields_draw_an_arrow_a_point_and_a_dot_where_each_line_ends():
    grid, arrows = [[0, 0], [1, 0], [0, 1]], {"t = 1": [[1, 0]] * 3}
    lines = {"t = 1": [[[0, 0], [5, 5]], [[1, 2], [6, 7]]]}
    (ax,) = diagrams.fields(grid, arrows, lines, "Message").axes
    (quiver,) = ax.collections
    assert quiver.U.tolist() == [1, 1, 1] and quiver.V.tolist() == [0, 0, 0] and quiver.N == 3
    dots = [line.get_xydata().tolist() for line in ax.lines if line.get_marker() == "o"]
    assert dots == [[[1, 2]], [[6, 7]]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: diagrams.flow_map([0, 1], [0, 1], [[1, 2]], {}, "t"),
            r"density must be \(times, x\) = \(2, 2\)",
        ),
        (
            lambda: diagrams.flow_map([0, 1], [0], [[1], [2]], {"a": [[1]]}, "t"),
            "a must hold 2 values, as many as times",
        ),
        (
            lambda: diagrams.fields([[0, 0]], {"a": [[1]]}, {}, "t"),
            "a must hold an arrow for each of the 1 points",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_words_appear_in_the_learned_colour_and_stay_in_black():
    M = diagrams.MASKED
    states = {"t = 1": [[M, M], [M]], "t = 0.5": [[M, "world"], [M]], "t = 0": [["hello", "world"], ["you"]]}
    fig = diagrams.appearing(states, "Message")
    texts = [t for t in fig.texts if t.get_text() != "Message"]
    names = [t for t in texts if t.get_text().startswith("t =")]
    seen = [(t.get_text(), t.get_color()) for t in texts if t not in names]
    mask, learned, old = (COLOURS[role] for role in ("mask", "learned", "exact"))
    masks = [(M, mask)]
    assert seen == masks * 3 + [(M, mask), ("world", learned), (M, mask)] + [
        ("hello", learned),
        ("world", old),
        ("you", learned),
    ]
    assert [bool(t.get_path_effects()) for t in texts if t not in names] == [
        c == mask for _, c in seen
    ]  # thick
    assert [t.get_text() for t in names] == list(states)
    places = [t.get_position() for t in texts if t not in names]
    assert len({y for _, y in places}) == 6 and min(y for _, y in places) > 0
    assert places[0][0] < places[1][0] and places[0][1] == places[1][1]  # beside each other
    assert names[0].get_position()[1] == places[0][1] > places[2][1] > names[1].get_position()[1]
    assert style.png(fig)
    with pytest.raises(ValueError, match=r"the same lines at all times, but have words \[\(1,\), \(2,\)\]"):
        diagrams.appearing({"a": [["x"]], "b": [["x", "y"]]}, "Message")
    with pytest.raises(ValueError, match="the same lines"):
        diagrams.appearing({}, "Message")


TWO = {"now": {"data": [0.2, 0.8], "exact": [0.5, 0.5]}, "then": {"exact": [0.1, 0.9]}}


def test_distributions_stand_beside_each_other_in_one_colour_a_label():
    fig = diagrams.distributions(TWO, "Message")
    now, then = fig.axes
    heights = [[bar.get_height() for bar in bars] for bars in now.containers]
    assert heights == [[0.2, 0.8], [0.5, 0.5]] and now.get_ylim() == (0, 1)
    middles = [bar.get_x() + bar.get_width() / 2 for bars in now.containers for bar in bars]
    assert np.allclose(middles, [-0.2, 0.8, 0.2, 1.2])  # around 0 and 1
    assert [bar.get_height() for bar in then.containers[0]] == [0.1, 0.9]
    assert then.containers[0][0].get_facecolor() == now.containers[1][0].get_facecolor()
    assert to_hex(now.containers[0][0].get_facecolor()) == COLOURS["data"]
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["data", "exact"]


def test_a_graph_of_sentences_has_an_arrow_for_each_rate():
    p = np.array([[0.1, 0.2], [0.3, 0.4]])
    rates = np.zeros((4, 4))
    rates[0, 1], rates[3, 1], rates[2, 2] = 1.0, 3.0, 9.0  # no arrow from a sentence to itself
    fig = diagrams.sentence_graph(p, {"forwards": rates, "backwards": rates.T / 3}, "Message")
    for ax, most in zip(fig.axes, (1.0, 1 / 3), strict=True):
        wide = sorted(arrow.get_linewidth() for arrow in ax.patches)
        assert np.allclose(wide, [0.3 + 4.5 * most / 3, 0.3 + 4.5 * most])
    ends = [(tuple(a._posA_posB[0]), tuple(a._posA_posB[1])) for a in fig.axes[0].patches]
    assert ends == [((0, 0), (1, 0)), ((1, 1), (1, 0))]  # columns are the second token
    back = [(tuple(a._posA_posB[0]), tuple(a._posA_posB[1])) for a in fig.axes[1].patches]
    assert back == [((1, 0), (0, 0)), ((1, 0), (1, 1))]
    centres = [tuple(nodes.get_offsets()[0]) for nodes in fig.axes[0].collections]
    assert centres == [(0, 0), (1, 0), (0, 1), (1, 1)]
    sizes = [float(nodes.get_sizes()[0]) for nodes in fig.axes[0].collections]
    assert np.allclose(np.diff(sizes), 250)
    assert [t.get_text() for t in fig.axes[0].texts] == ["00\n0.10", "01\n0.20", "10\n0.30", "11\n0.40"]
    assert style.png(fig)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diagrams.distributions({"a": {"x": [1.2, 0]}}, "t"), "x must hold probabilities"),
        (lambda: diagrams.distributions({"a": {"x": [1, 0], "y": [1]}}, "t"), "y must hold 2 values"),
        (lambda: diagrams.sentence_graph([0.5, 0.5], {}, "t"), r"p must be probabilities \(K, K\)"),
        (
            lambda: diagrams.sentence_graph(np.ones((2, 2)) / 4, {"R": np.ones((2, 2))}, "t"),
            r"R must be rates \(4, 4\)",
        ),
    ],
)
def test_wrong_distributions_and_graphs_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_stacked_bars_are_put_together_from_their_parts():
    fig = diagrams.stacked(
        {"a": {"data": 0.5, "noise": 0.25}, "b": {"data": 0.1, "noise": 0.02}}, "Message", "u"
    )
    (ax,) = fig.axes
    bars = [(round(b.get_x(), 6), round(b.get_width(), 6), to_hex(b.get_facecolor())) for b in ax.patches]
    data, noise = COLOURS["data"], COLOURS["noise"]
    assert bars == [(0, 0.5, data), (0, 0.1, data), (0.5, 0.25, noise), (0.1, 0.02, noise)]
    assert [t.get_text() for t in ax.texts] == ["0.50", "0.10", "0.25", ""]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"] and ax.yaxis_inverted()
    assert ax.get_xlabel() == "u" and [t.get_text() for t in ax.get_legend().get_texts()] == ["data", "noise"]
    three = diagrams.stacked({"a": {"data": 0.5, "noise": 0.25, "mask": 0.125}}, "Message")
    assert [b.get_x() for b in three.axes[0].patches] == [0, 0.5, 0.75]  # each behind all before it
    with pytest.raises(ValueError, match=r"the same parts each, not \[\['x'\], \['y'\]\]"):
        diagrams.stacked({"a": {"x": 1.0}, "b": {"y": 1.0}}, "Message")


def test_points_of_families_in_a_plane():
    families = {
        "learned": {"1": (3.0, 0.5, 0.2, 0.1), "2": (2.0, 0.4, 0.1, 0.05)},
        "other": {"a": (1.0, 1.0)},
    }
    fig = diagrams.plane(families, ("real", (2.5, 0.45)), "message", "x", "y", logx=True)
    (ax,) = fig.axes
    where = {line.get_label(): tuple(float(v[0]) for v in line.get_data()) for line in ax.lines}
    assert where["learned"] == (3, 0.5) and where["_learned"] == (2, 0.4)
    assert where["other"] == (1, 1) and where["real"] == (2.5, 0.45)
    assert sorted(t.get_text() for t in ax.texts) == ["1", "2", "a"] and ax.get_xscale() == "log"
    colours = {line.get_label(): line.get_color() for line in ax.lines}
    named = {t.get_text(): t.get_color() for t in ax.texts}  # in the colour of their points
    assert named == {"1": colours["learned"], "2": colours["learned"], "a": colours["other"]}
    assert named["1"] != named["a"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["learned", "other", "real"]
    first = ax.containers[0].lines[2]  # the bars: two standard errors to each side
    across, up = (bar.get_segments()[0] for bar in first)
    assert across[:, 0].tolist() == pytest.approx([2.6, 3.4]) and up[:, 1].tolist() == pytest.approx(
        [0.3, 0.7]
    )
    assert len(ax.containers) == 2  # no bars where no error is given
    check_colours(fig)
    families = {"learned": {"1": (21.0, 0.5), "2": (170.0, 0.4)}}
    fig = diagrams.plane(families, ("real", (50.0, 0.45)), "message", "x", "y", logx=True)
    fig.canvas.draw()
    low, high = fig.axes[0].get_xlim()
    ticks = zip(fig.axes[0].get_xticks(), fig.axes[0].get_xticklabels(), strict=True)
    assert [t.get_text() for x, t in ticks if low <= x <= high] == ["20", "50", "100"]
    assert len(fig.axes[0].get_xticks(minor=True)) == 0
    with pytest.raises(ValueError, match="odd must be .x, y. or .x, y, se of x, se of y., not 3 numbers"):
        diagrams.plane({"odd": {"1": (1.0, 2.0, 3.0)}}, ("real", (1.0, 1.0)), "message")


def test_a_plane_has_its_height_a_line_that_is_exact_and_names_beside_its_legend():
    line = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 9.0]])
    families = {"data": {"a long name of a point": (3.0, 9.0), "b": (1.0, 2.0)}}
    fig = diagrams.plane(families, ("real", (2.0, 4.0)), "message", height=3.5, exact=("powers", line))
    (ax,) = fig.axes
    assert fig.get_size_inches().tolist() == [10, 3.5]
    (exact,) = [one for one in ax.lines if one.get_label() == "exact: powers"]
    assert exact.get_xydata().tolist() == line.tolist() and exact.get_color() == COLOURS["exact"]
    fig.canvas.draw()
    legend = ax.get_legend().get_window_extent()
    named = {t.get_text(): t.get_window_extent() for t in ax.texts}
    assert set(named) == {"a long name of a point", "b"}
    assert not any(box.overlaps(legend) for box in named.values())
    assert (
        len(diagrams.plane(families, ("real", (2.0, 4.0)), "message").axes[0].get_legend().get_texts()) == 2
    )


def test_names_of_points_keep_apart():
    """Points as near as in a figure of guidance: no name lies on another, on a point, or far from its own."""
    near = {
        "3.0": (4.222, 0.99),
        "0.3": (4.257, 0.896),
        "0.1": (4.249, 0.833),
        "0.05": (4.228, 0.823),
        "no": (4.089, 0.146),
    }
    wide = {name: (*point, 0.056, 0.03) for name, point in near.items()}
    fig = diagrams.plane({"data": wide}, ("real", (3.94, 0.6)), "message")
    (ax,) = fig.axes
    boxes = {t.get_text(): t.get_window_extent() for t in ax.texts}
    at = {name: ax.transData.transform(point) for name, point in near.items()}
    assert set(boxes) == set(near)
    for name, box in boxes.items():
        assert not any(box.overlaps(other) for k, other in boxes.items() if k != name)
        assert not any(box.padded(4).contains(*point) for point in at.values())  # nor on its mark
        x, y = at[name]
        assert abs((box.x0 + box.x1) / 2 - x) < 45 and abs((box.y0 + box.y1) / 2 - y) < 45
    for name in ("0.3", "0.1"):  # those furthest to the right have their names at their right
        assert boxes[name].x0 > at[name][0]
    fig = diagrams.plane({"data": {"": (1.0, 1.0), "b": (2.0, 1.0)}}, ("real", (1.5, 2.0)), "message")
    assert [t.get_text() for t in fig.axes[0].texts] == ["b"]
    twice = diagrams.plane({"data": {"a": (1.0, 1.0), "b": (1.0, 1.0)}}, ("real", (2.0, 2.0)), "message")
    one, other = (text.get_window_extent() for text in twice.axes[0].texts)
    assert not one.overlaps(other)  # two names of one place
    box = (0.0, 0.0, 2.0, 3.0)
    assert diagrams.overlap(box, (1.0, 1.0, 5.0, 2.0)) == 1
    assert diagrams.overlap(box, (2.0, 0.0, 3.0, 1.0)) == 0  # side by side
    assert diagrams.overlap(box, (4.0, 5.0, 6.0, 7.0)) == 0  # apart both ways


def test_a_cell_for_each_word():
    shade = [[0, 0.5, 1], [0.25, 0, 0]]
    fig = diagrams.cells({"t = 9": ["AW", "", "EH"], "t = 0": ["a", "longer", "c"]}, "phones", shade)
    (ax,) = fig.axes
    (mesh,) = ax.collections
    assert mesh.get_array().reshape(2, 3).tolist() == shade and mesh.get_clim() == (0, 2)
    assert [t.get_text() for t in ax.texts] == ["AW", "", "EH", "a", "longer", "c"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["t = 9", "t = 0"] and ax.yaxis_inverted()
    where = [t.get_position() for t in ax.texts]
    assert where == [(2, 0.5), (8, 0.5), (14, 0.5), (2, 1.5), (8, 1.5), (14, 1.5)]  # widths 4, 8, 4
    assert diagrams.cells({"": ["a"]}, "one").axes[0].collections[0].get_array().max() == 0
    for rows, message in (
        ({"a": ["x"], "b": []}, r"equally many words, at least one, not \[0, 1\]"),
        ({}, "equally many"),
    ):
        with pytest.raises(ValueError, match=message):
            diagrams.cells(rows, "message")
    with pytest.raises(ValueError, match=r"shade must lie in \[0, 1\] and have shape \(1, 1\), not \(1, 2\)"):
        diagrams.cells({"a": ["x"]}, "message", [[0, 1]])
