"""Figures: pure functions from numbers to a Figure whose title is its message, and the one way to show it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from .colours import COLOURS, looks
from .shapes import check_count
from .style import (
    array,
    check_alt,
    check_labels,
    check_length,
    over,
    panels,
    plain_ticks,
    png,
)

# --- showing ---


def show(fig: Figure, alt: str) -> None:
    """Show the figure in a notebook, with alt as the sentence for those who do not see it."""
    check_alt(alt)
    bundle = {"image/png": png(fig), "text/plain": alt}
    display(bundle, raw=True, metadata={"image/png": {"alt": alt}})


def table(rows: Iterable[Sequence], headers: Sequence[str]) -> None:
    """Show results as a table: numbers to four significant digits, columns of numbers to the right.

    Errors, in columns whose header begins with "±", have two digits.
    Raises ValueError where a row is not as long as headers.
    """
    rows = [list(row) for row in rows]
    if any(len(row) != len(headers) for row in rows):
        raise ValueError(
            f"each row must have {len(headers)} cells, one for each header"
        )
    right = [
        all(isinstance(v, (int, float)) for v in column)
        for column in zip(*rows, strict=True)
    ]
    digits = [2 if header.startswith("±") else 4 for header in headers]
    cells = [list(headers), *(list(map(as_cell, row, digits)) for row in rows)]
    widths = [max(len(text) for text in column) for column in zip(*cells, strict=True)]
    pad = [str.rjust if r else str.ljust for r in right]
    plain = [
        "  ".join(p(c, w) for c, w, p in zip(row, widths, pad, strict=True)).rstrip()
        for row in cells
    ]
    cells.insert(1, ["--:" if r else ":--" for r in right])
    rich = ["| " + " | ".join(row) + " |" for row in cells]
    display(
        {"text/plain": "\n".join(plain), "text/markdown": "\n".join(rich)}, raw=True
    )


def as_cell(value: Any, digits: int) -> str:
    """What a table says of a value; a float in so many significant digits, and 0 without a sign."""
    return f"{value + 0.0:.{digits}g}" if isinstance(value, float) else str(value)


# --- lines and numbers ---


def curves(
    x: Any,
    lines: dict[str, Any],
    title: str,
    xlabel: str = "",
    ylabel: str = "",
    logx: bool = False,
    logy: bool = False,
    band: dict[str, tuple] | None = None,
) -> Figure:
    """Lines over one x. band[label] = (low, high) shades an uncertainty around that line."""
    (x, lines), band = over(x, lines), band or {}
    check_labels("band", band, lines)
    fig, ((ax,),) = panels(title)
    for (label, y), (colour, line, _) in zip(lines.items(), looks(lines), strict=True):
        ax.plot(x, y, color=colour, linestyle=line, label=label)
        if label in band:
            low, high = (array(edge, f"the band of {label}") for edge in band[label])
            ax.fill_between(
                x, low, high, color=colour, alpha=0.2, linewidth=0, label=f"_{label}"
            )
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set(xscale="log" if logx else "linear", yscale="log" if logy else "linear")
    if logy:
        name_ticks(ax.yaxis)
    if logx and len(x) <= 8:  # few numbers of steps: name them, not powers of ten
        ax.set_xticks(x, [f"{v:g}" if v == round(v) else f"{v:.2g}" for v in x])
        ax.minorticks_off()
    if len(lines) > 4:  # more than fit between the lines
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    elif len(lines) > 1:
        ax.legend()
    return fig


def name_ticks(axis: Axis) -> None:
    """Numbers like 0.05 on a log axis too short for powers of ten: 1, 2 and 5 of each decade."""
    low, high = axis.get_view_interval()
    if high < 60 * low:
        plain_ticks(axis)
        axis.set_minor_formatter(NullFormatter())


def by_time(
    t: Any, values: Any, title: str, ylabel: str = "loss", bins: int = 20
) -> Figure:
    """Mean of the values in equal bins of time, with a band of two standard errors."""
    t, values = array(t, "t"), array(values, "values")
    check_length("values", values, t.size, "t")
    edges = np.linspace(t.min(), t.max(), bins + 1)
    place = np.searchsorted(edges, t, side="right") - 1
    place = np.clip(place, 0, bins - 1)  # the last edge belongs to the last bin
    filled = [k for k in range(bins) if (place == k).any()]
    groups = [values[place == k] for k in filled]
    middle = (edges[1:] + edges[:-1])[filled] / 2
    mean = np.array([group.mean() for group in groups])
    error = np.array([group.std() / np.sqrt(len(group)) for group in groups])
    band = {"learned": (mean - 2 * error, mean + 2 * error)}
    return curves(middle, {"learned": mean}, title, "t", ylabel, band=band)


def bars(
    values: dict[str, Any],
    title: str,
    xlabel: str = "",
    error: dict[str, Any] | None = None,
) -> Figure:
    """One horizontal bar per label, the first on top, with its number; error[label] is one standard error."""
    check_labels("error", error or {}, values)
    labels, numbers = list(values), array([float(v) for v in values.values()])
    errors = [float(error.get(label, 0)) for label in labels] if error else None
    colours = [colour for colour, _, _ in looks(labels)]
    fig, ((ax,),) = panels(title, size=(8, 1.2 + 0.5 * len(labels)))
    drawn = ax.barh(labels, numbers, color=colours, xerr=errors, label=labels)
    ax.bar_label(drawn, [f" {number:.3g}" for number in numbers])
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.set_xlabel(xlabel)
    return fig


def heat(
    matrix: Any, title: str, xlabel: str = "", ylabel: str = "", top: Any = None
) -> Figure:
    """A matrix as colours, row 0 on top, with the scale beside it: from 0 to `top`, or from least to largest entry."""
    fig, ((ax,),) = panels(title, size=(6, 4))
    image = ax.imshow(array(matrix), interpolation="nearest", vmin=top and 0, vmax=top)
    fig.colorbar(image)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.locator_params(integer=True)
    return fig


def heats(matrices: dict[str, Any], title: str, top: float | None = None) -> Figure:
    """Matrices side by side, row 0 on top, from 0 to `top` or each to its largest entry; small ones with numbers."""
    fig, axes = panels(title, 1, len(matrices), (max(6, 2.1 * len(matrices)), 3))
    for ax, (label, matrix) in zip(axes[0], matrices.items(), strict=True):
        matrix = array(matrix, label)
        if (matrix < 0).any():
            raise ValueError(f"{label} must not be negative: its scale starts at 0")
        ax.imshow(matrix, interpolation="nearest", vmin=0, vmax=top)
        ax.set(title=label, xticks=[], yticks=[])
        for place, value in np.ndenumerate(matrix if matrix.size < 16 else []):
            colour = "black" if value > (top or matrix.max()) / 2 else "white"
            ax.text(
                *place[::-1], f"{value:.2f}", color=colour, ha="center", va="center"
            )
    return fig


# --- samples of laws in one and two dimensions ---


def density(
    samples: Any, exact: Any, title: str, xlabel: str = "x", bins: int = 80
) -> Figure:
    """Histogram of 1-D samples against the exact density: a function of x, or a pair (x, p)."""
    return density_grid({"": samples}, exact, title, xlabel, bins)


def density_grid(
    samples: dict[str, Any], exact: Any, title: str, xlabel: str = "x", bins: int = 80
) -> Figure:
    """A panel per label with the same axes: its samples against one exact density.

    Samples outside the drawn range count too, so a histogram may have less than area 1.
    """
    drawn = {
        label: array(x, label or "samples").ravel() for label, x in samples.items()
    }
    if not drawn or not all(map(len, drawn.values())):
        raise ValueError("samples must hold at least one number in each panel")
    x, p = grid(exact, drawn.values())
    fig, axes = panels(
        title, 1, len(drawn), (max(6, 3.2 * len(drawn)), 3.6), sharex=True, sharey=True
    )
    for ax, (label, values) in zip(axes[0], drawn.items(), strict=True):
        histogram(ax, values, np.linspace(x[0], x[-1], bins + 1))
        ax.plot(x, p, color=COLOURS["exact"], label="exact")
        ax.set(title=label, xlabel=xlabel)
    axes[0][0].legend()
    return fig


def grid(exact: Any, samples: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """x and p of the exact density; a function is evaluated over the range of all samples."""
    if not callable(exact):
        return array(exact[0]), array(exact[1])
    low, high = np.quantile(np.concatenate(list(samples)), [0.001, 0.999])
    x = torch.linspace(low, high, 401, dtype=torch.float64)
    return array(x), array(exact(x))


def histogram(ax: Axes, values: np.ndarray, edges: np.ndarray, **kw) -> None:
    """Bars whose area is the share of the values in each bin, out of all values."""
    weights = np.full(len(values), 1 / (len(values) * (edges[1] - edges[0])))
    ax.hist(
        values,
        edges,
        weights=weights,
        color=COLOURS["data"],  # mostly samples of perfect networks: nothing learned
        alpha=0.5,
        label="samples",
        **kw,
    )


def paths(times: Any, xs: Any, title: str, shown: int = 50) -> Figure:
    """1-D trajectories xs (times, n), left to right in the order of times, and histograms of both ends.

    At most `shown` are drawn; the histograms count all.
    """
    times, xs = array(times, "times"), array(xs, "xs")
    check_length("xs", xs, len(times), "times")
    fig, (axes,) = panels(title, 1, 3, sharey=True, width_ratios=(1, 5, 1))
    axes[1].plot(times, xs[:, :shown], color=COLOURS["data"], alpha=0.4, linewidth=0.8)
    axes[1].set(xlim=(times[0], times[-1]), xlabel="t")
    edges = np.linspace(xs.min(), xs.max(), 61)
    for ax, end in ((axes[0], 0), (axes[2], -1)):
        histogram(ax, xs[end], edges, orientation="horizontal")
        ax.set_xlabel(f"t = {times[end]:g}", labelpad=22, fontsize=11)  # beside the "t"
        ax.set_xticks([])
    axes[0].invert_xaxis()
    return fig


def scatter2d(points: dict[str, Any], title: str) -> Figure:
    """Clouds of 2-D points (n, 2) by label, with equal axes."""
    fig, ((ax,),) = panels(title, size=(6, 5))
    for (label, xy), (colour, _, marker) in zip(
        points.items(), looks(points), strict=True
    ):
        xy = array(xy, label)
        if xy.ndim != 2 or xy.shape[1] != 2:
            raise ValueError(f"{label} must be points (n, 2), not {xy.shape}")
        ax.scatter(
            *xy.T,
            s=16,
            color=colour,
            marker=marker,
            alpha=0.6,
            linewidths=1,
            label=label,
        )
    ax.set_aspect("equal")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))  # beside the points
    return fig


# --- images ---


def mosaic(x: Any, columns: int) -> np.ndarray:
    """Images (N, 1, H, W) as one array, row by row, with a gap of one pixel (NaN) between them."""
    x = array(x, "images")
    if x.ndim != 4 or x.shape[1] != 1 or not len(x):
        raise ValueError(f"images must have shape (N, 1, H, W), not {x.shape}")
    check_count("columns", columns)
    n, _, height, width = x.shape
    rows = -(-n // columns)
    out = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for k, image in enumerate(x[:, 0]):
        top, left = k // columns * (height + 1), k % columns * (width + 1)
        out[top : top + height, left : left + width] = image
    return out


def greys(cells: np.ndarray, title: str) -> tuple[Figure, Axes]:
    """A mosaic in grey from -1 to 1, without axes; no higher than 5 inches."""
    height, width = cells.shape
    fig, ((ax,),) = panels(title, size=(8, min(8 * height / width, 4.2) + 0.8))
    ax.imshow(cells, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return fig, ax


def images(x: Any, title: str, columns: int = 8) -> Figure:
    """Images (N, 1, H, W) in [-1, 1], row by row."""
    return greys(mosaic(x, columns), title)[0]


def filmstrip(
    frames: Iterable[tuple[Any, Any]],
    title: str,
    decode: Callable[[Any], Any] | None = None,
    columns: int = 9,
    rows: int = 4,
) -> Figure:
    """Frames (t, x_t), as sample() yields them, left to right: `columns` of them, one row per example.

    Raises ValueError for no frames.
    """
    frames = list(frames)
    if not frames:
        raise ValueError("frames must hold at least one (t, x_t), but is empty")
    picked = (
        np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
    )
    shown = [
        array(decode(frames[k][1]) if decode else frames[k][1])[:rows] for k in picked
    ]
    fig, ax = greys(
        mosaic(np.stack(shown, axis=1).reshape(-1, *shown[0].shape[1:]), len(picked)),
        title,
    )
    step = shown[0].shape[-1] + 1
    times = [f"{array(frames[k][0]).flat[0]:g}" for k in picked]
    ax.set_xticks(np.arange(len(picked)) * step + (step - 2) / 2, times)
    ax.tick_params(length=0, labelsize=11)
    ax.set_xlabel("t")
    return fig


# --- text ---


def microscope(
    lines: dict[str, str], title: str, shade: Any = None, size: int = 13
) -> Figure:
    """Texts of one length below each other, a cell per character, on a background from white (0) to yellow (1).

    lines: label at the left -> text; shade (lines, characters), for instance the model's confidence.
    """
    if not lines or not all(lines.values()):
        raise ValueError("lines must hold at least one text, and none that is empty")
    texts = list(lines.values())
    length = len(texts[0])
    if any(len(text) != length for text in texts):
        raise ValueError(
            f"lines must have one length, not {sorted({len(text) for text in texts})}"
        )
    shade = np.zeros((len(texts), length)) if shade is None else array(shade, "shade")
    if shade.shape != (len(texts), length) or shade.min() < 0 or shade.max() > 1:
        raise ValueError(
            f"shade must lie in [0, 1] and have shape {(len(texts), length)}, not {shade.shape}"
        )
    fig, ((ax,),) = panels(title, size=(10, 0.8 + 0.3 * len(texts)))
    ax.imshow(
        shade, cmap="YlOrBr", vmin=0, vmax=2, aspect="auto", interpolation="nearest"
    )
    for row, text in enumerate(texts):
        for column, character in enumerate(text):
            ax.text(
                column,
                row,
                character,
                ha="center",
                va="center",
                fontsize=size,
                family="monospace",
            )
    ax.set_yticks(range(len(texts)), list(lines))
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return fig
