"""The page that leads to the decks: what each is about, how long it takes, and which comes next."""

import html
import itertools
import re
from pathlib import Path
from typing import NamedTuple

from course_lib.files import write_atomically

MINUTES = re.compile(r"(\d+) minutes?")
PAGE = Path(__file__).parent / "slides_template" / "decks.html"


class Deck(NamedTuple):
    """What the index says of a chapter."""

    stem: str
    title: str
    question: str
    minutes: int  # the sum of what the notes for the lecturer say, up to what is marked as further
    slides: int
    further: int  # slides


def read(path, cells, headings: list[str]) -> Deck:
    """The entry of a notebook with these cells, whose slides have these headings."""
    path = Path(path)
    card = next((c.source for c in cells if c.cell_type == "markdown"), "")
    question = re.search(r"^\*\*Question\.\*\* (.*)$", card, re.M)
    core = next((k for k, words in enumerate(headings) if words.startswith("Further")), len(headings))
    asked = question[1] if question else ""
    return Deck(path.stem, title(cells, path.stem), asked, minutes(cells), core, len(headings) - core)


def title(cells, otherwise: str) -> str:
    """The notebook's first heading of the first level."""
    for cell in cells:
        found = re.match(r"# +(.+)", cell.source) if cell.cell_type == "markdown" else None
        if found:
            return found[1]
    return otherwise


def minutes(cells) -> int:
    """How long the notes say that the core takes, which ends where a section is called further; a note says it once."""
    core = itertools.takewhile(lambda c: not re.match(r"#+ Further\b", c.source), cells)
    notes = (c.source for c in core if c.metadata.get("slideshow", {}).get("slide_type") == "notes")
    said = (MINUTES.search(note) for note in notes)
    return sum(int(found[1]) for found in said if found)


def following(path) -> Path | None:
    """The notebook after this one in its folder."""
    later = [other for other in sorted(Path(path).parent.glob("*.ipynb")) if other.name > Path(path).name]
    return later[0] if later else None


def built(paths, out) -> list[Path]:
    """The notebooks in the folders of the given ones that have a deck in out: those built now, and those before."""
    folders = dict.fromkeys(Path(path).parent for path in paths)
    beside = [path for folder in folders for path in sorted(folder.glob("*.ipynb"))]
    return [path for path in beside if (Path(out) / f"{path.stem}.html").is_file()]


def write(decks: list[Deck], out) -> Path:
    """Write index.html into out, in one move."""
    out = Path(out)
    rows = "\n".join(row(deck, out) for deck in decks)
    page = PAGE.read_text(encoding="utf-8").replace("<!-- decks -->", rows)
    write_atomically(out / "index.html", lambda file: file.write(page.encode()))
    return out / "index.html"


def row(deck: Deck, out: Path) -> str:
    """One chapter: link, question, slides, minutes, and the PDFs where they are there."""
    kinds = (("PDF", f"{deck.stem}.pdf"), ("with notes", f"{deck.stem}.handout.pdf"))
    printed = "<br>".join(f'<a href="{name}">{kind}</a>' for kind, name in kinds if (out / name).is_file())
    pace = f"{deck.minutes} minutes" if deck.minutes else ""
    further = f"<br>and {deck.further} further" if deck.further else ""
    question = html.escape(plain(deck.question))
    return (
        f'<tr><td><a href="{deck.stem}.html">{html.escape(deck.title)}</a><br><small>{question}</small></td>'
        f"<td>{deck.slides} slides{further}</td><td>{pace}</td><td>{printed}</td></tr>"
    )


def plain(markdown: str) -> str:
    """A sentence without marks; the few symbols that questions use are written out."""
    text = re.sub(r"[*`]|\$", "", markdown)
    return text.replace(r"\nabla", "∇").replace(r"\ln", "ln").replace(r"\,", " ")
