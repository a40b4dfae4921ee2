"""What is learned has its colour and nothing else has: in labels, in figures, in all notebooks; and it can be read."""

import itertools
import re

import matplotlib
import nbformat
import numpy as np
import pytest
import torch
from matplotlib.colors import is_color_like, to_hex

from course_lib import colours, diagrams, plots, style, widgets
from tools.readme import ROOT

LEARNED = colours.COLOURS["learned"]

MACHADO = {  # severe colour blindness, on linear RGB (Machado, Oliveira and Fernandes 2009)
    "none": np.eye(3),
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


def linear(colour):
    c = np.array(matplotlib.colors.to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    f = np.cbrt(xyz / [0.9505, 1, 1.089] + 1e-9)
    return np.array([116 * f[1], 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eyes", MACHADO)
def test_every_reader_can_tell_the_colours_apart(eyes):
    seen = [lab((np.array(MACHADO[eyes]) @ linear(colour)).clip(0, 1)) for colour in colours.COLOURS.values()]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 28


def test_roles_differ_in_marker_and_the_learned_colour_is_that_of_the_formulas():
    assert list(colours.COLOURS) == ["data", "noise", "learned", "exact", "mask", "accent"]
    assert colours.COLOURS["learned"] == "#d230b8"
    assert len({marker for _, _, marker in colours.ROLES.values()}) == 6


def test_lines_and_markers_stay_as_they_are():
    assert [role[1:] for role in colours.ROLES.values()] == [
        ("-", "o"),
        (":", "x"),
        ("--", "s"),
        ("-", "D"),
        ("-.", "^"),
        ((0, (5, 1, 1, 1, 1, 1)), "v"),
    ]


def test_a_label_that_names_a_role_looks_like_it_and_others_take_what_is_free():
    seen = [c for c, _, _ in colours.looks(["the exact mean", "linear", "cosine", "data", "sqrt"])]
    assert seen == [colours.COLOURS[r] for r in ("exact", "accent", "mask", "data")] + [colours.FREE[3][0]]
    seven = colours.looks("pqrstuv")
    assert len(set(seven)) == 6 and seven[6] == seven[0]
    assert colours.looks([*colours.ROLES, "one more"])[6] == colours.FREE[3]


@pytest.mark.parametrize("mark", [":", ",", ".", ")", ""])
def test_a_role_is_found_beside_punctuation(mark):
    labels = [f"learned{mark} same class", f"Noise{mark} as large", f"(exact{mark} mean", "learning rate"]
    wanted = [colours.ROLES[role] for role in ("learned", "noise", "exact")]
    assert colours.looks(labels) == [*wanted, colours.FREE[0]]


def test_the_colours_of_what_is_learned_and_of_what_is_exact_are_never_free():
    many = colours.looks([f"line {n}" for n in range(20)])
    assert not {colours.COLOURS["learned"], colours.COLOURS["exact"]} & {colour for colour, _, _ in many}


def test_the_learned_colour_reads_on_white_and_on_dark():
    def contrast(one, other):
        light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in map(linear, (one, other))]
        return (max(light) + 0.05) / (min(light) + 0.05)

    learned = colours.COLOURS["learned"]
    grounds = {"white": "#ffffff", "GitHub": "#0d1117", "JupyterLab": "#111111", "site": "#121212"}
    read = {name: contrast(learned, ground) for name, ground in grounds.items()}
    assert min(read.values()) >= 4.3, read


# --- the promise, figure by figure ---


def figure(draw):
    fig, ((ax,),) = style.panels("Message")
    draw(ax)
    return fig


KEPT = {
    "a line": lambda ax: ax.plot([0, 1], color=LEARNED, label="learned mean"),
    "its hidden band": lambda ax: ax.fill_between([0, 1], 1, color=LEARNED, label="_learned"),
    "points": lambda ax: ax.scatter([0], [0], color=LEARNED, label="learned"),
    "a row of bars": lambda ax: ax.bar([0, 1], [1, 2], color=LEARNED, label="learned"),
    "bars with names": lambda ax: ax.barh([0, 1], 1, color=["k", LEARNED], label=["data", "learned"]),
    "words": lambda ax: ax.text(0, 0, "p", color=LEARNED, label="_learned"),
    "no text at all": lambda ax: ax.text(0, 0, "", color=LEARNED),
    "a line that is not there": lambda ax: ax.plot([0, 1], color=LEARNED, linestyle="none"),
    "what is hidden": lambda ax: ax.plot([0, 1], color=LEARNED, visible=False),
    "a legend": lambda ax: (ax.plot([0, 1], color=LEARNED, label="learned"), ax.legend()),
    "learning is not learned": lambda ax: ax.plot([0, 1], color="k", label="learning rate"),
}
BROKEN = {
    "a line without a name": lambda ax: ax.plot([0, 1], color=LEARNED),
    "learning is not learned": lambda ax: ax.plot([0, 1], color=LEARNED, label="learning rate"),
    "a line named otherwise": lambda ax: ax.plot([0, 1], color=LEARNED, label="data"),
    "its marker": lambda ax: ax.plot([0, 1], "s", color="k", markerfacecolor=LEARNED, label="data"),
    "its marker's edge": lambda ax: ax.plot([0, 1], "x", color="k", markeredgecolor=LEARNED),
    "a faint one": lambda ax: ax.plot([0, 1], color=LEARNED, alpha=0.2),
    "a band": lambda ax: ax.fill_between([0, 1], 1, color=LEARNED),
    "points": lambda ax: ax.scatter([0], [0], edgecolor=LEARNED, facecolor="k"),
    "a row of bars": lambda ax: ax.bar([0, 1], [1, 2], color=LEARNED, label="written"),
    "one bar of a row": lambda ax: ax.barh([0, 1], 1, color=["k", LEARNED]),
    "a bar's edge": lambda ax: ax.bar([0], [1], color="k", edgecolor=LEARNED),
    "words": lambda ax: ax.text(0, 0, "learned", color=LEARNED),
    "a learned line in black": lambda ax: ax.plot([0, 1], color="k", label="learned"),
    "learned points in blue": lambda ax: ax.scatter([0], [0], color="b", label="learned"),
    "learned bars in blue": lambda ax: ax.bar([0], [1], color="b", label="learned: ours"),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_figure_may(name):
    colours.check_colours(figure(KEPT[name]))


@pytest.mark.parametrize("name", BROKEN)
def test_a_figure_may_not(name):
    with pytest.raises(ValueError, match="what is learned"):
        colours.check_colours(figure(BROKEN[name]))


def test_it_says_which_artist_and_what_to_do():
    with pytest.raises(ValueError, match="a Line2D labelled 'ours' has it: name it \"learned ...\", or"):
        colours.check_colours(figure(lambda ax: ax.plot([0, 1], color=LEARNED, label="ours")))
    with pytest.raises(ValueError, match=f"must have the colour {LEARNED}, not #0000ff"):
        colours.check_colours(figure(lambda ax: ax.plot([0, 1], color="b", label="learned")))


def test_no_figure_is_shown_that_breaks_it():
    broken = figure(BROKEN["a band"])
    with pytest.raises(ValueError, match="PolyCollection|FillBetween"):
        plots.show(broken, "a sentence that is long enough")
    with pytest.raises(ValueError, match="what is learned"):
        widgets.still(lambda n: broken, [{"n": 1}] * 3)


def test_the_library_keeps_it():
    x, pictures = [1.0, 2.0], np.arange(32.0).reshape(2, 4, 4)
    both = {"learned": x, "data": x}
    for fig in (
        plots.curves(x, both, "m", band={"learned": (x, x)}),
        plots.by_time(torch.rand(50), torch.rand(50), "m"),
        plots.bars({"learned": 1, "data": 2}, "m", error={"learned": 0.1}),
        plots.scatter2d({"learned": [[0, 1]], "exact": [[1, 1]]}, "m"),
        plots.density(torch.randn(50), lambda z: z.exp(), "m"),
        plots.paths(x, [[0.0, 1.0], [2.0, 3.0]], "m"),
        diagrams.chain(pictures, ["a", "b"], "m"),
    ):
        colours.check_colours(fig)


# --- the notebooks: each run shows its figures through `show`, and fails where one breaks the promise ---

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_all_figures_of_a_notebook_go_through_show(path):
    """A figure that the kernel displays by itself would be seen by no check."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not re.search(r"pyplot|%matplotlib|savefig|Image\(", cell.source), cell.id
            for output in cell.outputs:
                shown = output.get("data", {}).get("image/png")
                assert not shown or output.metadata["image/png"]["alt"], cell.id


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_formulas_have_one_colour_and_cells_name_colours_by_what_they_mean(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            assert set(re.findall(r"\\color\{([^}]*)\}", cell.source)) <= {LEARNED}, cell.id
        else:
            named = re.findall(r"color\w*=\s*[\"']([^\"']+)", cell.source)
            named += re.findall(r"[\"'](#[0-9a-fA-F]{6})[\"']", cell.source)
            drawn = {to_hex(name) for name in named if is_color_like(name)}
            assert LEARNED not in drawn, f"{cell.id}: take it from COLOURS, by its role"
