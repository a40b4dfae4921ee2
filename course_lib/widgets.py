"""Sliders over a pure plotting function, and the same function at three fixed values where nothing moves."""

import html
import importlib.util
import os
from collections.abc import Callable
from typing import Any

from IPython import get_ipython
from IPython.display import display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from . import style
from .colours import check_colours

Spec = tuple | list | str
Draw = Callable[..., Figure]
PANEL = 3.4  # inches: three beside each other fill a slide with no letter smaller than in its text
# Figures so many times as wide as high stand below each other, so many inches high.
WIDE, THIRD = 3, 1.75


def live() -> bool:
    """True where sliders can be moved: a notebook with ipywidgets that a person sits at; never under COURSE_STATIC=1.

    Where nobody does (nbconvert, nbclient, papermill, nbval) a stored widget would be dead, and an export to HTML
    would prefer it to the picture beside it.
    """
    if (
        os.environ.get("COURSE_STATIC") == "1"
        or importlib.util.find_spec("ipywidgets") is None
    ):
        return False
    return attended(getattr(get_ipython(), "kernel", None))


def attended(kernel: Any) -> bool:
    """True where the front end that asked for this cell could also answer input(): only one with a person can."""
    if kernel is None:
        return False
    request = kernel.get_parent()
    return bool(request.get("content", {}).get("allow_stdin"))


def view(widget: Any) -> dict[str, dict]:
    """The mime entry that makes JupyterLab show the widget."""
    return {"application/vnd.jupyter.widget-view+json": widget.get_view_spec()}


def explore(
    draw: Draw,
    at: list[dict[str, Any]],
    alt: str,
    play: str | None = None,
    **sliders: Spec,
) -> None:
    """Show draw(**values) under sliders; on GitHub, in slides and in print, its pictures at the values `at`.

    A slider is (low, high, step), (low, high, step, start) or a list; it starts at the middle picture. A string,
    what to say in it while it is empty, makes a box to type in.
    play names a slider of integers that gets a play button.
    """
    style.check_alt(alt)
    check_sliders(sliders, at, play)
    bundle = {"image/png": still(draw, at), "text/plain": alt}
    if live():
        bundle |= view(panel(draw, at[1], alt, play, sliders))
    display(bundle, raw=True, metadata={"image/png": {"alt": alt}})


def check_sliders(
    sliders: dict[str, Spec], at: list[dict[str, Any]], play: str | None
) -> None:
    """Raise ValueError unless every slider is well formed and can stand at each of the three values."""
    if len(at) != 3 or any(set(values) != set(sliders) for values in at):
        raise ValueError(
            f"at must hold three dicts with the keys {', '.join(sliders)}, not {at}"
        )
    for name, spec in sliders.items():
        if isinstance(spec, str):
            if any(not isinstance(values[name], str) for values in at):
                raise ValueError(
                    f"at must hold texts for {name}, not {[values[name] for values in at]}"
                )
            continue
        if isinstance(spec, tuple) and len(spec) not in (3, 4):
            raise ValueError(
                f"{name} must be (low, high, step), (low, high, step, start) or a list, not {spec}"
            )
        for v in (values[name] for values in at):
            if v not in spec if isinstance(spec, list) else not spec[0] <= v <= spec[1]:
                raise ValueError(
                    f"at must keep to the slider {name} = {spec}, but has {v!r}"
                )
    if play is not None and not (play in sliders and whole(sliders[play])):
        raise ValueError(f"play must name a slider of integers, not {play!r}")


def whole(spec: Spec) -> bool:
    """True for a range of integers."""
    return isinstance(spec, tuple) and all(isinstance(v, int) for v in spec)


def still(draw: Draw, at: list[dict[str, Any]]) -> bytes:
    """The pictures at the given values in one PNG, each with its values below it: side by side, wide ones in a column.

    In a column a title that all have is said once.
    """
    figures = [draw(**values) for values in at]
    wide = all(is_wide(fig) for fig in figures)
    if wide and len({fig.get_suptitle() for fig in figures}) == 1:
        for fig in figures[1:]:
            fig.suptitle("")
    for fig in figures:
        check_colours(fig)
        flatten(fig) if wide else shrink(fig)
    captions(figures, at, level=not wide)
    join = below if wide else beside
    return style.fit(lambda dpi: join([style.pixels(fig, dpi) for fig in figures]))


def is_wide(fig: Figure) -> bool:
    """True for rows of text: in a third of a slide their words would lie on each other."""
    width, height = fig.get_size_inches().tolist()
    return width >= WIDE * height and any(len(ax.texts) > 3 for ax in fig.axes)


def flatten(fig: Figure) -> None:
    """Give a wide figure a third of the height of a slide."""
    width, height = fig.get_size_inches()
    fig.set_size_inches(width, min(height, THIRD))


def captions(figures: list[Figure], at: list[dict[str, Any]], level: bool) -> None:
    """Write the values below each figure, one a line where they do not fit, smaller where that does not do.

    level: all one a line if one needs it, as panels beside each other do, or they would not end at one height.
    """
    said = [[f"{name} = {value}" for name, value in values.items()] for values in at]
    pairs = list(zip(figures, said, strict=True))
    broken = [too_wide(caption(fig, ", ".join(words))) > 1 for fig, words in pairs]
    for (fig, words), own in zip(pairs, broken, strict=True):
        if any(broken) if level else own:
            label = caption(fig, "\n".join(words))
            # A typed text may be long.
            label.set_fontsize(label.get_fontsize() / max(1, too_wide(label)))


def caption(fig: Figure, words: str) -> Text:
    """Write the words below the figure, in place of what stands there."""
    return fig.supxlabel(words, weight="bold")


def too_wide(label: Text) -> float:
    """The width of a caption, as a share of what it may have."""
    renderer = FigureCanvasAgg(label.figure).get_renderer()
    return label.get_window_extent(renderer).width / (0.94 * label.figure.bbox.width)


def shrink(fig: Figure) -> None:
    """Give the figure a third of a slide, its legends above the axes, where they hide nothing, and room for them."""
    width, height = fig.get_size_inches()
    legends = [legend for ax in fig.axes if (legend := ax.get_legend())]
    for legend in legends:
        legend.set_loc("lower left")
        legend.set_bbox_to_anchor((0, 1))
    least = PANEL * (1.1 if legends else 0.85)
    if all(ax.images for ax in fig.axes):  # pictures, and two lines above and below
        least = PANEL * (height - 0.8) / width + 0.95
        fig.get_layout_engine().set(w_pad=0.15)  # or those of two panels would touch
    fig.set_size_inches(PANEL, max(least, PANEL * height / width))


def below(parts: list[Image.Image]) -> Image.Image:
    """Images in one column, on white."""
    size = max(p.width for p in parts), sum(p.height for p in parts)
    column = Image.new("RGB", size, "white")
    for k, part in enumerate(parts):
        column.paste(part, (0, sum(p.height for p in parts[:k])))
    return column


def beside(parts: list[Image.Image]) -> Image.Image:
    """Images in one row, on white."""
    row = Image.new(
        "RGB", (sum(p.width for p in parts), max(p.height for p in parts)), "white"
    )
    for k, part in enumerate(parts):
        row.paste(part, (sum(p.width for p in parts[:k]), 0))
    return row


def panel(
    draw: Draw,
    start: dict[str, Any],
    alt: str,
    play: str | None,
    sliders: dict[str, Spec],
) -> Any:
    """Sliders, the picture they drive and a line of text: alt, or what went wrong in draw."""
    import ipywidgets

    controls = {
        name: control(name, spec, start[name]) for name, spec in sliders.items()
    }
    # A box would stretch it.
    natural = {
        "align_self": "flex-start",
        "max_width": "100%",
    }
    picture, note = ipywidgets.Image(format="png", layout=natural), ipywidgets.HTML()

    def redraw(_: Any = None) -> None:
        try:
            picture.value = style.png(
                draw(**{name: c.value for name, c in controls.items()})
            )
            note.value = html.escape(alt)
        except Exception as error:
            note.value = html.escape(f"{type(error).__name__}: {error}")

    for c in controls.values():
        c.observe(redraw, "value")
    redraw()
    rows = [
        ipywidgets.HBox([player(c), c]) if name == play else c
        for name, c in controls.items()
    ]
    return ipywidgets.VBox([*rows, picture, note])


def control(name: str, spec: Spec, start: Any) -> Any:
    """A labelled slider or menu; it redraws when let go, so that slow pictures do not pile up."""
    import ipywidgets

    common = {"description": name, "style": {"description_width": "initial"}}
    if isinstance(spec, str):
        wide = {"width": "100%"}
        return ipywidgets.Text(
            value=start,
            placeholder=spec,
            continuous_update=False,
            layout=wide,
            **common,
        )
    if isinstance(spec, list):
        numbers = all(isinstance(v, (int, float)) for v in spec)
        kind = ipywidgets.SelectionSlider if numbers else ipywidgets.Dropdown
        return kind(options=spec, value=start, **common)
    low, high, step = spec[:3]
    kind = ipywidgets.IntSlider if whole(spec) else ipywidgets.FloatSlider
    value = spec[3] if len(spec) == 4 else start
    return kind(
        value=value, min=low, max=high, step=step, continuous_update=False, **common
    )


def player(slider: Any) -> Any:
    """A play button that walks a slider from its low end to its high end."""
    import ipywidgets

    play = ipywidgets.Play(
        value=slider.value,
        min=slider.min,
        max=slider.max,
        step=slider.step,
        interval=500,
    )
    ipywidgets.link((play, "value"), (slider, "value"))
    return play
