"""What figures look like in all chapters: sizes and lines, what may be drawn, and the bytes that a notebook stores."""

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from PIL import Image
from torch import Tensor

from .colours import check_colours
from .files import write_atomically

LIMIT = 60_000  # bytes of one stored figure
WALL = 200  # dots per inch of a figure for walls and fine screens
FOLDER = "COURSE_FIGURES"  # variable that names a folder: figures for walls go there

matplotlib.rcParams.update(
    {
        "font.size": 13,
        "figure.titlesize": 15,
        "figure.constrained_layout.use": True,
        "figure.facecolor": "white",
        "axes.titlelocation": "left",
        "axes.titlesize": 13,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.edgecolor": "none",
        "lines.linewidth": 2,
        "image.cmap": "cividis",
    }
)


def array(x: Any, name: str = "what is drawn") -> np.ndarray:
    """Any tensor or sequence as a float64 numpy array. ValueError for NaN, which matplotlib leaves out silently."""
    if isinstance(x, Tensor):
        x = x.detach().cpu().double().numpy()
    x = np.asarray(x, dtype=np.float64)
    missing = np.isnan(x).sum()
    if missing:
        raise ValueError(f"{name} must be numbers, but {missing} of {x.size} are NaN")
    return x


def check_labels(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError for a label that nothing is drawn for: it would be left out silently."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(
            f"{name} must go with one of {', '.join(known)}, not with {', '.join(unknown)}"
        )


def check_length(name: str, values: np.ndarray | Sequence, n: int, of: str) -> None:
    """Raise ValueError unless there are n values along the first axis."""
    shape = np.shape(values)
    if not shape or shape[0] != n:
        raise ValueError(
            f"{name} must hold {n} values, as many as {of}, not shape {shape}"
        )


def over(x: Any, lines: dict[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Lines over one x as numbers, each as long as x."""
    x, numbers = array(x, "x"), {}
    for label, y in lines.items():
        numbers[label] = array(y, label)
        check_length(label, numbers[label], len(x), "x")
    return x, numbers


def panels(
    title: str, rows: int = 1, columns: int = 1, size: tuple = (8, 4), **kw
) -> tuple:
    """A figure, and its axes as a (rows, columns) array, under the message as title."""
    fig = Figure(figsize=size)
    fig.suptitle(title, x=0.01, ha="left", wrap=True)
    return fig, fig.subplots(rows, columns, squeeze=False, **kw)


# --- as bytes ---


def plain_ticks(axis: Axis) -> None:
    """1, 2 and 5 of each decade of a log axis, as plain numbers instead of powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")


def png(fig: Figure) -> bytes:
    """The figure as PNG of at most LIMIT bytes; the same figure gives the same bytes.

    Raises ValueError where it breaks the promise of colours.py.
    """
    check_colours(fig)
    return fit(lambda dpi: pixels(fig, dpi))


def fit(render: Callable[[int], Image.Image]) -> bytes:
    """PNG of render(dots per inch), with 64 colours and as many dots per inch, up to 100, as LIMIT allows.

    Raises ValueError where even 40 are too many. Where the variable COURSE_FIGURES names a folder, the picture
    is written there once more, for the wall.
    """
    for dpi in (100, 90, 80, 70, 60, 50, 40):
        data = encode(render(dpi))
        if len(data) <= LIMIT:
            keep(data, render)
            return data
    raise ValueError(
        f"the figure must fit in {LIMIT} bytes, but takes {len(data)} at 40 dots per inch: show less"
    )


def keep(data: bytes, render: Callable[[int], Image.Image]) -> None:
    """Write what gave data in WALL dots per inch, where a folder for that is named."""
    if folder := os.environ.get(FOLDER):
        fine = encode(render(WALL))
        write_atomically(Path(folder) / name_of(data), lambda file: file.write(fine))


def name_of(data: bytes) -> str:
    """The file name of the picture for the wall that belongs to a stored figure."""
    return hashlib.sha256(data).hexdigest()[:16] + ".png"


def pixels(fig: Figure, dpi: int) -> Image.Image:
    """The figure on white, in RGB."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return Image.open(buffer).convert("RGB")


def encode(image: Image.Image) -> bytes:
    """PNG bytes with a palette, without date or software."""
    buffer = io.BytesIO()
    image.quantize(64, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def check_alt(alt: str) -> None:
    """Raise ValueError for a description too short to stand for a picture."""
    if len(alt.strip()) < 20:
        raise ValueError(
            f"alt must say in a sentence what the figure shows (20 characters or more), not {alt!r}"
        )
