"""What a notebook wants on its slides, and the notebook as its deck shows it."""

import base64
import mimetypes
import re
import subprocess
import sys
from pathlib import Path

import nbformat

from tools import figures, films, slides_short

PICTURE_ONLY = "picture"  # tag of a code cell that shows only its output on slides
PICTURE = re.compile(r"(!\[[^\]]*\]\(|<img[^>]*src=[\"'])([^)\"'\s:]+)(?=[)\"'\s])")  # of a local file
OWN_SCORE = re.compile(
    r"(?:(?:progress\(.*\)|score\(\))\s*)+"
)  # whole cells that say how many one has solved
HEADING = re.compile(r"^#{1,4} +.+$", re.M)
STILLS = re.compile(r"^explore\(", re.M)  # shows three stills in a strip
# A formula and its code stand side by side where the code is this narrow and low, and there is not too much prose.
COLUMNS, LINES, PROSE = 60, 20, 760


class DeckError(Exception):
    """A deck that cannot be built or looked at; the message says what to do."""


# what the notebook wants on its slides


def slide_type(cell) -> str:
    return cell.metadata.get("slideshow", {}).get("slide_type", "-")


def slides_of(nb) -> list[list]:
    """The cells of each slide, as reveal.js will show them; notes and skipped cells are left out."""
    slides = []
    for cell in nb.cells:
        if slide_type(cell) in ("notes", "skip"):
            continue
        if not slides or slide_type(cell) in ("slide", "subslide"):
            slides.append([])
        slides[-1].append(cell)
    return slides


def heading(cells) -> str:
    """The first heading among cells, without its marks; else the first words."""
    text = "\n".join(c.source for c in cells)
    found = re.search(r"^#+ +(.+)$", "\n".join(c.source for c in cells if c.cell_type == "markdown"), re.M)
    return found.group(1) if found else text[:40].split("\n")[0]


def count_formulas(text: str) -> int:
    """Formulas in markdown: $$...$$, $...$, and environments outside dollars; code does not count."""
    text = re.sub(r"```.*?```|`[^`\n]*`|\\\$", " ", text, flags=re.S)
    forms = (r"\$\$.+?\$\$", r"\$[^$]+?\$", r"\\begin\{(\w+\*?)\}.+?\\end\{\1\}")
    total = 0
    for form in forms:
        text, n = re.subn(form, " ", text, flags=re.S)
        total += n
    return total


def formulas_on(cells) -> int:
    """Formulas a slide must show, in its text and in rich outputs."""
    total = sum(count_formulas(c.source) for c in cells if c.cell_type == "markdown")
    for output in (o for c in cells for o in c.get("outputs", [])):
        data = output.get("data", {})
        rich = next((k for k in ("text/html", "text/markdown", "text/latex") if k in data), None)
        total += count_formulas(data[rich]) if rich else 0
    return total


# the notebook as its deck shows it


def as_shown(path):
    """The notebook as its deck shows it: pictures inside, films added, no words that are for one reader only."""
    path = Path(path)
    nb = nbformat.read(path, as_version=4)
    figures.sharpen(nb, path)
    for cell in nb.cells:
        if cell.cell_type == "code" and OWN_SCORE.fullmatch(cell.source):
            cell.metadata["slideshow"] = {"slide_type": "skip"}
        emphasise(cell, path.name)
    lead_in(nb)
    name_sections(nb)
    for cells in slides_of(nb):
        slides_short.shorten(cells)
        put_beside(cells)
    for film in films.of(path.stem):
        add_film(nb, film, path)
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = PICTURE.sub(lambda found: found[1] + _data_url(path, found[2]), cell.source)
        elif PICTURE_ONLY in cell.metadata.get("tags", []):
            cell.metadata["transient"] = {
                "remove_source": True
            }  # nbconvert's word for "show the output alone"
        cell.source = cell.source.removeprefix("# NBVAL_CHECK_OUTPUT\n")
        if cell.cell_type == "code":
            if STILLS.search(cell.source):
                cell.metadata.setdefault("tags", []).append("stills")
            cell.outputs = [output for output in cell.outputs if not is_for_one_reader(output)]
    return nb


def name_sections(nb) -> None:
    """Give a slide the heading of its section where the cell that has the heading is on no slide."""
    section, shown, k = "", True, 0
    while k < len(nb.cells):
        cell = nb.cells[k]
        text = cell.source if cell.cell_type == "markdown" and slide_type(cell) != "notes" else ""
        if headings := HEADING.findall(text):
            section, shown = headings[-1], slide_type(cell) != "skip"
        elif not shown and slide_type(cell) in ("slide", "subslide"):
            named = nbformat.v4.new_markdown_cell(
                section, metadata={"slideshow": dict(cell.metadata.slideshow)}
            )
            cell.metadata["slideshow"] = {"slide_type": "-"}
            nb.cells.insert(k, named)
            shown, k = True, k + 1
        k += 1


def lead_in(nb) -> None:
    """Put the sentence that a cell has in its metadata, as "lead", in front of it: a slide is no table alone."""
    for k in reversed(range(len(nb.cells))):
        cell = nb.cells[k]
        if "lead" in cell.metadata:
            about = {"slideshow": {"slide_type": slide_type(cell)}}
            cell.metadata["slideshow"] = {"slide_type": "-"}
            nb.cells.insert(k, nbformat.v4.new_markdown_cell(cell.metadata["lead"], metadata=about))


def emphasise(cell, name: str) -> None:
    """Put what matters in a cell's tables into bold type, as its metadata says in "emphasis".

    "rows" are named by how one of their cells begins, "columns" by their headers; in the columns of "least" and "most"
    that number is found. DeckError if something named is not there.
    """
    wanted = cell.metadata.get("emphasis")
    if not wanted:
        return
    missing = {word for words in wanted.values() for word in words}
    for output in cell.outputs if cell.cell_type == "code" else []:
        data = output.get("data", {})
        if "text/markdown" in data:
            data["text/markdown"], met = bold(data["text/markdown"], wanted)
            missing -= met
    if missing:
        raise DeckError(
            f"{name}: cell {cell.get('id')} emphasises {sorted(missing)}, its tables do not have it"
        )


def bold(table: str, wanted: dict) -> tuple[str, set]:
    """The markdown table with what is wanted in bold type, and which of the wanted words were met."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    head, *body = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[:1] + lines[2:]]
    head, met, marks = [cell.strip() for cell in head], set(), set()
    for i, row in enumerate(body):
        for word in wanted.get("rows", []):
            if any(cell.startswith(word) for cell in row):
                met.add(word)
                marks |= {(i, j) for j in range(len(row))}
    for kind, words in wanted.items():
        for j in (head.index(word) for word in words if kind != "rows" and word in head):
            met.add(head[j])
            numbers = [(number(row[j]), i) for i, row in enumerate(body) if number(row[j]) is not None]
            best = {"least": min, "most": max}.get(kind)
            marks |= {(i, j) for n, i in numbers if best is None or n == best(numbers)[0]}
    for i, j in marks:
        body[i][j] = f"**{body[i][j]}**" if body[i][j] else ""
    return "\n".join([*lines[:2], *("| " + " | ".join(row) + " |" for row in body)]), met


def number(text: str) -> float | None:
    """The number that a cell begins with, if it does."""
    found = re.match(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text)
    return float(found[0]) if found else None


def is_for_one_reader(output):
    """Whether an exercise was solved, and how many: not for the wall."""
    return bool(
        re.match(r"\[(TODO|FAIL|PASS)\]|\d+/\d+ exercises solved|\d+ of \d+ right", output.get("text", ""))
    )


def _data_url(path, name):
    """nbconvert can embed pictures too, but then it closes every <details> at once."""
    picture = path.parent / name
    if not picture.is_file():
        raise DeckError(f"{path.name}: picture {name} does not exist")
    kind = mimetypes.guess_type(name)[0]
    return f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"


def put_beside(cells) -> None:
    """Mark the code of a slide that has formulas too, and break its lines, so that both can stand side by side."""
    text = "".join(slides_short.standing(cell.source) for cell in cells if cell.cell_type == "markdown")
    shown = [c for c in cells if c.cell_type == "code" and PICTURE_ONLY not in c.metadata.get("tags", [])]
    if (
        len(shown) != 1
        or shown[0].outputs
        or "$$" not in text
        or len(text) > PROSE
        or shown[0] is not cells[-1]
    ):
        return
    (cell,) = shown
    code = narrow(cell.source.removeprefix("# NBVAL_CHECK_OUTPUT\n"))
    lines = code.splitlines()
    if len(lines) <= LINES and max(map(len, lines)) <= COLUMNS + 4:
        cell.metadata["wide"] = cell.source.removeprefix("# NBVAL_CHECK_OUTPUT\n")  # where it stands below
        cell.source = code.rstrip("\n")
        cell.metadata.setdefault("tags", []).append("beside")


def narrow(code: str) -> str:
    """The code in lines of at most COLUMNS where that can be done."""
    command = [sys.executable, "-m", "ruff", "format", "--isolated", f"--line-length={COLUMNS}", "-"]
    done = subprocess.run(command, input=code, capture_output=True, text=True, encoding="utf-8")
    return done.stdout if done.returncode == 0 else code


def add_film(nb, film, path) -> None:
    """A slide of frames behind the slide that holds the film's cell. DeckError if there is no such cell."""
    place = next((k for k, cell in enumerate(nb.cells) if cell.get("id") == film.behind), None)
    if place is None:
        raise DeckError(
            f"{path.name}: the film {film.title!r} belongs behind cell {film.behind}, which is not there"
        )
    after = next(
        (k for k in range(place + 1, len(nb.cells)) if slide_type(nb.cells[k]) in ("slide", "subslide")),
        len(nb.cells),
    )
    cell = nbformat.v4.new_markdown_cell(film_html(film), metadata={"slideshow": {"slide_type": "subslide"}})
    note = nbformat.v4.new_markdown_cell(film.note, metadata={"slideshow": {"slide_type": "notes"}})
    nb.cells[after:after] = [cell, note]


def film_html(film) -> str:
    """A heading and the frames; all but the first appear by a key."""
    frames = []
    for k, picture in enumerate(film.frames()):
        data = base64.b64encode(picture).decode()
        words = f' alt="{film.alt}"' if k == 0 else ' alt="the next moment"'
        frames.append(
            f'<div class="frame{" fragment" if k else ""}"><img src="data:image/png;base64,{data}"{words}></div>'
        )
    return f'### {film.title}\n\n<div class="film">{"".join(frames)}</div>'
