"""Diagrams: chains and graphs of states, drawn with the states themselves, and small distributions as bars."""

from collections.abc import Sequence
from itertools import cycle, pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator

from .colours import COLOURS, looks
from .style import array, check_length, over, panels, plain_ticks


def chain(states: Any, labels: Sequence[str], title: str) -> Figure:
    """Pictures (n, h, w) from x_0 to x_T: q leads from each to the next, the learned p leads back.

    Raises ValueError unless there is one label a picture, and at least two.
    """
    states = array(states, "states")
    if states.ndim != 3 or len(states) < 2:
        raise ValueError(
            f"states must be at least two pictures (n, h, w), not shape {states.shape}"
        )
    check_length("labels", labels, len(states), "states")
    fig = Figure(figsize=(8, 2.2))
    fig.suptitle(title, x=0.01, ha="left", wrap=True)
    axes = fig.subplots(1, len(states), gridspec_kw={"wspace": 0.45})
    for ax, picture, label in zip(axes, states, labels, strict=True):
        ax.imshow(picture, cmap="gray", vmin=states[0].min(), vmax=states[0].max())
        ax.set_xlabel(label)
        ax.set(xticks=[], yticks=[])
    for left, right in pairwise(axes):
        arrow(left, right, 0.72, "noise", "q")
        arrow(right, left, 0.28, "learned", "p")
    return fig


def arrow(start: Axes, end: Axes, height: float, role: str, name: str) -> None:
    """An arrow between the facing edges of two pictures, with its name above it."""
    forward = start.get_position().x0 < end.get_position().x0
    edges = (1.06, -0.06) if forward else (-0.06, 1.06)
    end.annotate(
        "",
        (edges[1], height),
        (edges[0], height),
        xycoords=end.transAxes,
        textcoords=start.transAxes,
        arrowprops={
            "arrowstyle": "-|>",
            "color": COLOURS[role],
            "linewidth": 2,
            "label": f"_{role}",
        },
    )
    left = start if forward else end
    left.text(
        1.75,  # the middle of the gap
        height + 0.04,
        f"${name}$",
        transform=left.transAxes,
        ha="center",
        va="bottom",
        color=COLOURS[role],
        fontsize=16,
        label=f"_{role}",
    )


MASKED = "____"  # a word that is not said yet


def appearing(states: dict[str, list[list[str]]], title: str) -> Figure:
    """Lines of words at several times, from masks to text: what is new is in the colour of what is learned."""
    sizes = {tuple(len(words) for words in lines) for lines in states.values()}
    if len(sizes) != 1:
        raise ValueError(
            f"states must hold the same lines at all times, but have words {sorted(sizes)}"
        )
    line, gap, before = 0.33, 0.18, next(iter(states.values()))
    height = 0.6 + len(states) * (line * len(before) + gap)
    fig, top = Figure(figsize=(9, height)), height - 0.7
    fig.suptitle(title, x=0.01, ha="left", wrap=True)
    for label, lines in states.items():
        fig.text(0.01, top / height, label, va="center", fontsize=13)
        for words, old in zip(lines, before, strict=True):
            write(fig, (0.11, top / height), words, old, fontsize=14)
            top -= line
        top, before = top - gap, lines
    return fig


def write(
    fig: Figure,
    at: tuple[float, float],
    words: Sequence[str],
    before: Sequence[str],
    fontsize: int = 12,
) -> None:
    """One line of words from the point `at` on: masks, words that were MASKED before, and words that were there."""
    renderer, (x, y) = FigureCanvasAgg(fig).get_renderer(), at
    for word, was in zip(words, before, strict=True):
        new = was == MASKED and word != MASKED
        role = "mask" if word == MASKED else "learned" if new else "exact"
        text = fig.text(
            x,
            y,
            word,
            color=COLOURS[role],
            label=f"_{role}",
            fontsize=fontsize,
            va="center",
        )
        if word == MASKED:  # a thick line, seen from the back row
            thick = withStroke(linewidth=fontsize / 6, foreground=COLOURS[role])
            text.set_path_effects([thick])
        x = text.get_window_extent(renderer).x1 / fig.bbox.width + 0.008


def fading(
    x: Any,
    lines: dict[str, Any],
    title: str,
    xlabel: str = "",
    ylabel: str = "",
    mark: tuple | None = None,
) -> Figure:
    """Lines over one x in one colour, the later the paler and the more broken: one quantity at several times.

    mark = (x, y, words) puts a point with words beside it.
    """
    x, lines = over(x, lines)
    fig, ((ax,),) = panels(title)
    dashes = cycle(["-", (0, (8, 2)), (0, (4, 2)), (0, (4, 1, 1, 1)), (0, (1, 1))])
    for k, ((label, y), dash) in enumerate(zip(lines.items(), dashes, strict=False)):
        pale = 1 - 0.7 * k / len(lines)
        look = {"color": COLOURS["exact"], "alpha": pale, "linestyle": dash}
        ax.plot(x, y, label=label, **look)
    if mark:
        ax.plot(*mark[:2], "o", color=COLOURS["accent"])
        ax.annotate(mark[2], mark[:2], (8, -18), textcoords="offset points")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return fig


def flow_map(
    times: Any, x: Any, density: Any, paths: dict[str, Any], title: str
) -> Figure:
    """A density (times, x) as shades, and paths (times, n) on it: a panel for each label.

    Each column is shaded by its own largest value, else the narrow ones hide the rest.
    """
    times, x, density = array(times, "times"), array(x, "x"), array(density, "density")
    if density.shape != (len(times), len(x)):
        raise ValueError(
            f"density must be (times, x) = ({len(times)}, {len(x)}), "
            f"not shape {density.shape}"
        )
    shades = density / density.max(1, keepdims=True)
    fig, (axes,) = panels(title, 1, len(paths), (8, 3.6), sharey=True)
    for ax, (label, xs) in zip(axes, paths.items(), strict=True):
        xs = array(xs, label)
        check_length(label, xs, len(times), "times")
        ax.pcolormesh(times, x, shades.T, cmap="Greys", vmax=1.6, shading="gouraud")
        ax.plot(times, xs, color=COLOURS["data"], alpha=0.7, linewidth=1)
        ax.set(title=label, xlabel="t", ylim=(x[0], x[-1]))
    return fig


def fields(
    grid: Any, arrows: dict[str, Any], lines: dict[str, Any], title: str
) -> Figure:
    """Arrows (n, 2) at the points of a grid (n, 2), a panel a label, and lines (steps, m, 2) over each."""
    grid = array(grid, "grid")
    fig, (axes,) = panels(title, 1, len(arrows), (8, 3.4), sharex=True, sharey=True)
    for ax, (label, vectors) in zip(axes, arrows.items(), strict=True):
        vectors = array(vectors, label)
        if vectors.shape != grid.shape:
            raise ValueError(
                f"{label} must hold an arrow for each of the {len(grid)} points of the grid, "
                f"not shape {vectors.shape}"
            )
        ax.quiver(*grid.T, *vectors.T, color=COLOURS["noise"], width=0.006)
        for path in array(lines[label], label).swapaxes(0, 1):
            ax.plot(*path.T, color=COLOURS["data"], linewidth=1)
            ax.plot(*path[-1], "o", color=COLOURS["data"], markersize=4)
        ax.set(title=label, aspect="equal", xticks=[], yticks=[])
        ax.set(xlim=(grid.min(), grid.max()), ylim=(grid.min(), grid.max()))
    return fig


def distributions(
    groups: dict[str, dict[str, Any]], title: str, xlabel: str = "token"
) -> Figure:
    """Distributions over few tokens as bars, those of one panel beside each other, all from 0 to 1.

    groups: panel -> label -> probabilities (K,). The same label has the same colour in each panel.
    """
    labels = list(dict.fromkeys(label for group in groups.values() for label in group))
    colours = {
        label: look[0] for label, look in zip(labels, looks(labels), strict=True)
    }
    fig, (axes,) = panels(title, 1, len(groups), (8, 3.6), sharey=True)
    for ax, (name, group) in zip(axes, groups.items(), strict=True):
        width = 0.8 / len(group)
        for k, (label, p) in enumerate(group.items()):
            p = array(p, label)
            check_length(label, p, len(array(next(iter(group.values())))), name)
            if p.min() < 0 or p.max() > 1 + 1e-6:
                raise ValueError(f"{label} must hold probabilities, not {p}")
            middle = np.arange(len(p)) + (k - (len(group) - 1) / 2) * width
            ax.bar(middle, p, width, color=colours[label], label=label)
        ax.set(title=name, xlabel=xlabel, xticks=range(len(p)), ylim=(0, 1))
    axes[0].set_ylabel("probability")
    marks = {bar.get_label(): bar for ax in axes for bar in ax.containers}
    fig.legend(
        marks.values(), marks, loc="outside lower center", ncols=min(3, len(marks))
    )
    return fig


def sentence_graph(p: Any, rates: dict[str, Any], title: str) -> Figure:
    """The K^2 sentences of two tokens as nodes, sized by p (K, K), and rates (K^2, K^2) as arrows: a panel a label.

    Row: first token; column: second one. An arrow from a to b is as wide as rates[a, b], on one scale for all panels.
    """
    p = array(p, "p")
    if p.ndim != 2 or p.shape[0] != p.shape[1] or p.min() < 0:
        raise ValueError(f"p must be probabilities (K, K), not shape {p.shape}")
    K = len(p)
    matrices = {label: array(rate, label) for label, rate in rates.items()}
    for label, matrix in matrices.items():
        if matrix.shape != (K * K, K * K):
            raise ValueError(
                f"{label} must be rates {(K * K, K * K)} between sentences, not shape {matrix.shape}"
            )
    moves = ~np.eye(K * K, dtype=bool)
    most = max(matrix[moves].max() for matrix in matrices.values())
    fig, (axes,) = panels(title, 1, len(rates), (8, 4.4))
    for ax, (label, matrix) in zip(axes, matrices.items(), strict=True):
        for a, b in zip(*np.nonzero((matrix > 0) & moves), strict=True):
            _jump(ax, divmod(a, K), divmod(b, K), matrix[a, b] / most)
        for (i, j), share in np.ndenumerate(p):
            ax.scatter(j, i, 800 + 2500 * share, color=COLOURS["data"], zorder=2)
            words = f"{i}{j}\n{share:.2f}"
            ax.text(j, i, words, color="white", ha="center", va="center", fontsize=11)
        ax.set(title=label, xticks=[], yticks=[], xlabel="second token")
        ax.set(xlim=(-0.5, K - 0.5), ylim=(K - 0.5, -0.5))
        ax.spines[:].set_visible(False)
    axes[0].set_ylabel("first token")
    return fig


def _jump(ax: Axes, start: tuple, end: tuple, share: float) -> None:
    """A bent arrow between two nodes (row, column), wider the larger the share; what goes back bends the other way."""
    far = abs(start[0] - end[0]) + abs(start[1] - end[1])
    arrow = FancyArrowPatch(
        start[::-1],
        end[::-1],
        connectionstyle=f"arc3,rad={0.15 if far == 1 else 0.3}",
        arrowstyle=f"-|>,head_width={2 + 3 * share},head_length={3 + 4 * share}",
        linewidth=0.3 + 4.5 * share,
        color=COLOURS["noise"],
        alpha=0.35 + 0.65 * share,
        shrinkA=19,
        shrinkB=19,
    )
    ax.add_patch(arrow)


def stacked(rows: dict[str, dict[str, float]], title: str, xlabel: str = "") -> Figure:
    """One horizontal bar per row, the first on top, put together from the same parts in each: numbers inside."""
    if not rows or len({tuple(parts) for parts in rows.values()}) != 1:
        raise ValueError(
            f"rows must hold the same parts each, not {[list(parts) for parts in rows.values()]}"
        )
    fig, ((ax,),) = panels(title, size=(8, 1.6 + 0.5 * len(rows)))
    start = array([0.0] * len(rows))
    names = list(next(iter(rows.values())))
    for name, (colour, *_) in zip(names, looks(names), strict=True):
        width = array([float(parts[name]) for parts in rows.values()], name)
        drawn = ax.barh(list(rows), width, left=start, color=colour, label=name)
        said = [f"{w:.2f}" if w > 0.04 else "" for w in width]
        ax.bar_label(drawn, said, label_type="center", color="white")
        start = start + width
    ax.invert_yaxis()
    ax.set_xlabel(xlabel)
    ax.legend(ncols=len(names), loc="lower left", bbox_to_anchor=(0, 1))
    return fig


def plane(
    families: dict[str, dict[str, Sequence[float]]],
    star: tuple[str, Sequence[float]],
    title: str,
    xlabel: str = "",
    ylabel: str = "",
    logx: bool = False,
    height: float = 5.2,
    exact: tuple[str, Any] | None = None,
) -> Figure:
    """Families of points in the plane of two measures, each point with the name of its setting.

    families  label -> {setting: (x, y) or (x, y, standard error of x, of y)}; bars are two standard errors
    star      (label, point): what the points are compared with
    height    inches
    exact     (label, points (n, 2)): a line through points that are known exactly
    """
    fig, ((ax,),) = panels(title, size=(10, height))
    for label, (colour, _, mark) in zip(families, looks(families), strict=True):
        for k, point in enumerate(families[label].values()):
            name = label if k == 0 else f"_{label}"  # one entry in the legend
            with_errors(ax, point, name, color=colour, marker=mark)
    label, point = star
    with_errors(ax, point, label, color=COLOURS["mask"], marker="*", markersize=17)
    if exact:
        x, y = array(exact[1], exact[0]).T
        ax.plot(x, y, color=COLOURS["exact"], label=f"exact: {exact[0]}", zorder=0)
    ax.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if logx else "linear")
    if logx:
        plain_ticks(ax.xaxis)
        ax.xaxis.set_minor_locator(NullLocator())
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=11)
    named = [
        (setting, point[:2], colour)
        for family, (colour, *_) in zip(families.values(), looks(families), strict=True)
        for setting, point in family.items()
    ]
    name_points(ax, named, [star[1][:2]])
    return fig


def name_points(
    ax: Axes,
    named: Sequence[tuple[str, Sequence[float], str]],
    others: Sequence[Sequence[float]] = (),
    size: int = 11,
) -> None:
    """A name beside each point, on the first of some sides where it meets no point, no other name and no legend.

    The points furthest to the right come first: the names stand right of them. The figure must keep its size.

    named   (name, (x, y), colour): what each point is called, "" for none, in the point's own colour, so that names of
            points close together are told apart; data coordinates, limits and scales as they are
    others  points without a name that must stay free, too
    """
    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()  # fixes limits and positions
    renderer = canvas.get_renderer()
    pixels = [ax.transData.transform(point).tolist() for _, point, _ in named]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in pixels]
    for x, y in (ax.transData.transform(point).tolist() for point in others):
        taken.append((x - 9, y - 9, x + 9, y + 9))
    if legend := ax.get_legend():
        taken.append(legend.get_window_extent(renderer).extents.tolist())
    for _, (name, point, colour) in sorted(
        zip(pixels, named, strict=True), key=lambda item: -item[0][0]
    ):
        if not name:
            continue
        look = {"textcoords": "offset points", "fontsize": size, "color": colour}
        if colour == COLOURS["learned"]:
            look["label"] = "_learned"  # what `check_colours` asks of that colour
        tried = [ax.annotate(name, point, at, ha=side, **look) for at, side in SIDES]
        boxes = [t.get_window_extent(renderer).extents.tolist() for t in tried]
        meets = [sum(overlap(box, other) for other in taken) for box in boxes]
        best = meets.index(min(meets))
        taken.append(boxes[best])
        for k, text in enumerate(tried):
            if k != best:
                text.remove()


# Where a name may stand beside its point, the best first: shift in points, and its own side there.
SIDES = [
    ((7, -14), "left"),
    ((7, 5), "left"),
    ((-6, 5), "right"),
    ((-6, -14), "right"),
    ((7, 19), "left"),
    ((-6, 19), "right"),
    ((7, -28), "left"),
    ((-6, -28), "right"),
    ((13, -5), "left"),
    ((-13, -5), "right"),
]


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Area that two boxes (left, low, right, high) share."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(high, 0.0)


def with_errors(ax: Axes, point: Sequence[float], label: str, **look: Any) -> None:
    """A point (x, y) or (x, y, se of x, se of y), its bars two standard errors long."""
    point = array(point, label)
    if point.shape not in ((2,), (4,)):
        raise ValueError(
            f"{label} must be (x, y) or (x, y, se of x, se of y), not {len(point)} numbers"
        )
    x, y, *errors = point.tolist()
    if errors:
        bars = {"xerr": 2 * errors[0], "yerr": 2 * errors[1], "capsize": 3}
        bars["alpha"] = 0.45  # so that points and names stand out
        ax.errorbar(x, y, label=f"_{label}", color=look["color"], fmt="none", **bars)
    ax.plot(x, y, linestyle="", label=label, **look)


def cells(
    rows: dict[str, Sequence[str]], title: str, shade: Any = None, size: int = 13
) -> Figure:
    """Rows of words below each other, a cell for each word, on a background from white (0) to yellow (1).

    rows: label at the left -> words, as many in each row; shade (rows, words), such as how sure a model is.
    """
    widths = {len(words) for words in rows.values()}
    if len(widths) != 1 or not min(widths):
        raise ValueError(
            f"rows must hold equally many words, at least one, not {sorted(widths)}"
        )
    (n,) = widths
    shade = array([[0.0] * n] * len(rows) if shade is None else shade, "shade")
    if shade.shape != (len(rows), n) or shade.min() < 0 or shade.max() > 1:
        raise ValueError(
            f"shade must lie in [0, 1] and have shape {(len(rows), n)}, not {shade.shape}"
        )
    edges = [0.0]
    for column in zip(*rows.values(), strict=True):
        edges.append(edges[-1] + 2 + max(map(len, column)))
    fig, ((ax,),) = panels(title, size=(10, 1 + 0.34 * len(rows)))
    ax.pcolormesh(edges, range(len(rows) + 1), shade, cmap="YlOrBr", vmin=0, vmax=2)
    for i, words in enumerate(rows.values()):
        for word, (left, right) in zip(words, pairwise(edges), strict=True):
            centre = ((left + right) / 2, i + 0.5)
            ax.text(*centre, word, ha="center", va="center", fontsize=size)
    ax.set_yticks([i + 0.5 for i in range(len(rows))], list(rows))
    ax.set_xticks([])
    ax.invert_yaxis()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return fig
