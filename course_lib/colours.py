"""Colours mean one thing in all chapters: what is learned has its colour, and nothing else has. Figures are checked."""

import re
from collections.abc import Iterable, Iterator
from itertools import cycle

from matplotlib.artist import Artist
from matplotlib.collections import Collection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

# Colour, line and marker of a thing, in all chapters; colour-blind readers can tell the colours apart too.
ROLES = {
    "data": ("#1b63fe", "-", "o"),
    "noise": ("#8c8c8c", ":", "x"),
    "learned": ("#d230b8", "--", "s"),
    "exact": ("#000000", "-", "D"),
    "mask": ("#f9a600", "-.", "^"),
    "accent": ("#0d5927", (0, (5, 1, 1, 1, 1, 1)), "v"),
}
COLOURS = {role: colour for role, (colour, _, _) in ROLES.items()}
# What a line that names no role may look like. What is learned and what is exact have their colours to themselves.
FREE = [
    ROLES["data"],
    ROLES["accent"],
    ROLES["mask"],
    ("#500050", (0, (3, 1)), "P"),
    ("#2ca9bc", (0, (1, 1)), "*"),
    ROLES["noise"],
]


def looks(labels: Iterable[str]) -> list[tuple]:
    """Colour, line and marker per label: of the role it names ("exact: mean"), else the first one free."""
    named = [role_of(label) for label in labels]
    taken = [ROLES[role] for role in named if role]
    free = cycle([look for look in FREE if look not in taken] or FREE)
    return [ROLES[role] if role else next(free) for role in named]


def role_of(label: str) -> str | None:
    """The first role, in the order of ROLES, among the words of a label."""
    words = words_of(label)
    return next((role for role in ROLES if role in words), None)


def words_of(label: str) -> list[str]:
    """The words of a label in small letters; "_learned", which a legend leaves out, is one too."""
    return re.findall(r"[^\W_]+", label.lower())


def check_colours(fig: Figure) -> None:
    """Raise ValueError unless exactly those artists whose labels name what is learned have its colour.

    An artist that no legend should list is named with an underscore: label="_learned".
    """
    learned = COLOURS["learned"]
    for label, artist in labelled(fig):
        has = learned in colours_of(artist)
        if has and "learned" not in words_of(label):
            raise ValueError(
                f"{learned} is the colour of what is learned, but a {type(artist).__name__} labelled "
                f'{label!r} has it: name it "learned ...", or "_learned" if no legend lists it'
            )
        if role_of(label) == "learned" and not has:
            raise ValueError(
                f"{label!r} names what is learned, so its {type(artist).__name__} must have the colour "
                f"{learned}, not {', '.join(sorted(colours_of(artist)))}"
            )


def labelled(fig: Figure) -> Iterator[tuple[str, Artist]]:
    """(label, artist) of all that has a colour; a bar's label is that of its row of bars."""
    rows = {
        bar: row.get_label()
        for ax in fig.axes
        for row in ax.containers
        for bar in row.get_children()
    }
    kinds = (Line2D, Patch, Collection, Text)
    for artist in fig.findobj(lambda a: isinstance(a, kinds)):
        if artist.get_visible():
            own = str(artist.get_label())
            yield str(rows.get(artist, own)) if own == "_nolegend_" else own, artist


def colours_of(artist: Artist) -> set[str]:
    """The colours that the artist is drawn in, as #rrggbb; what is transparent is left out."""
    if isinstance(artist, Line2D):
        given = [artist.get_color()] if artist.get_linestyle() != "None" else []
        drawn = artist.get_marker() not in ("", "None", None)
        given += [artist.get_markerfacecolor(), artist.get_markeredgecolor()] * drawn
    elif isinstance(artist, Patch):
        given = [artist.get_facecolor()] * artist.get_fill() + [artist.get_edgecolor()]
    elif isinstance(artist, Collection):
        given = [*artist.get_facecolor(), *artist.get_edgecolor()]
    else:
        given = [artist.get_color()] if artist.get_text() else []
    return {to_hex(colour) for colour in given if to_rgba(colour)[3] > 0}
