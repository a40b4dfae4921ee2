"""House rules of the chapters: each rule takes a notebook and its path, and returns what is wrong."""

import argparse
import base64
import copy
import json
import re
import sys
from pathlib import Path

import nbformat.reader
import nbformat.validator

from tools import slides_index
from tools.notebooks import NORMAL_ID, normalise, refusals
from tools.slides import MAX_COLUMNS
from tools.slides_ready import PICTURE_ONLY, slide_type
from tools.stamps import KEY
from tools.where import find, where

KINDS = (
    "card", "setup", "predictions", "derivation", "code", "check", "experiment", "widget",
    "exercise", "train", "paper", "close", "notes", "text",
)  # fmt: skip
PARTS = ("card", "setup", "predictions", "stanzas", "train", "see it", "paper", "close")
SEE_IT = r"(?im)^## .*\bsee it\b"
SHOWN = ("slide", "subslide", "fragment", "-")
SLIDE_TYPES = (*SHOWN, "notes", "skip")
FURTHER = r"(?m)^## Further\b"  # what goes beyond the core stands after the close
CORE_CELLS, CORE_SLIDES, CORE_MINUTES, LECTURE_MINUTES = 90, 26, 75, 45
ALT_CHARACTERS, IMAGE_BYTES, NOTEBOOK_BYTES = 20, 60 * 1024, 600 * 1024
CODE_LINES, SLIDE_LINES, COMPARED, EXERCISES, STANZAS, SLIDES = 20, 16, 5, 5, 5, range(20, 41)
PAPER = re.compile(r"(?<![\d.])(?:arXiv:)?\d{4}\.\d{5}(?!\d)")
PAPER_LINK = re.compile(r"\[(?:arXiv:)?(\d{4}\.\d{5})\]\(https://arxiv\.org/abs/([^)\s]*)\)")
COMPARE = "# NBVAL_CHECK_OUTPUT"
BANNED = (  # cell type, pattern, what to say
    ("code", r"course_lib\.solutions|from course_lib import .*\bsolutions", "imports solutions"),
    ("code", r"^\s*(import|from) tqdm\b", "uses tqdm; progress comes from course_lib"),
    ("code", r"\bplt\.show\(", "calls plt.show(); use course_lib.plots.show(fig, alt=...)"),
    ("markdown", r"\bTODO\b", "has a TODO in its prose"),
    ("any", r"(?<![\w./:~-])/(home|Users|root|tmp|private|mnt|opt|usr|var)/", "names a path of one machine"),
    ("any", r"\b[A-Z]:\\\w", "names a path of one machine"),
    ("markdown", r"!\[[^\]]*\]\(\s*https?:|<img[^>]*src=[\"']https?:", "loads an image from the network"),
    ("markdown", r"!\[\s*\]\(|<img(?![^>]*\balt=[\"'][^\"'])[^>]*>", "has an image without alt text"),
    (
        "markdown",
        r"(?<!\{)\\color\{",
        r"has a bare \color: it colours all that follows; write {\color{#..}{..}}",
    ),
)


def chapter(path) -> int:
    """The number at the front of the file's name; 0 (no chapter) for 00 and for names without one."""
    number = re.match(r"\d\d(?=_)", Path(path).name)
    return int(number[0]) if number else 0


def label(path) -> str:
    """What its equations are numbered with: that of a chapter, or of an appendix, such as A1."""
    letter = re.match(r"[A-Z]\d(?=_)", Path(path).name)
    return letter[0] if letter else str(chapter(path))


def numbered(nb, *kinds):
    """(number from 1, cell) of the cells of the given types, or of all."""
    return [(i, c) for i, c in enumerate(nb.cells, start=1) if not kinds or c.cell_type in kinds]


def outputs(nb):
    return [(i, c, o) for i, c in numbered(nb, "code") for o in c.outputs]


def tags(cell):
    return cell.metadata.get("tags", [])


def prose(cell) -> str:
    """The text of a markdown cell without its code."""
    return re.sub(r"```.*?```|`[^`\n]*`", " ", cell.source, flags=re.S)


# how a notebook is stored


def valid(nb, path):
    version = f"{nb.get('nbformat')}.{nb.get('nbformat_minor')}"
    if version != "4.5":
        return [f"{path.name}: is nbformat {version}, must be 4.5"]
    errors = nbformat.validator.iter_validate(nb, version=4, version_minor=5)
    return [f"{path.name}: is not a valid notebook: {str(e).splitlines()[0]}" for e in errors][:1]


def executed(nb, path):
    code = numbered(nb, "code")
    found = [
        f"{where(path, i, c)}: has execution count {c.execution_count}, must be {n}"
        for n, (i, c) in enumerate(code, start=1)
        if c.execution_count != n
    ]
    found += [f"{where(path, i, c)}: stores an error" for i, c, o in outputs(nb) if o.output_type == "error"]
    # <matplotlib.legend.Legend at 0x7f...>: what the last line of a cell happened to return.
    return found + [
        f"{where(path, i, c)}: shows an object's address"
        for i, c, o in outputs(nb)
        if re.search(r"<[^<>]+ at 0x[0-9a-f]+>", o.get("text", "") + o.get("data", {}).get("text/plain", ""))
    ]


def clean(nb, path):
    found = [f"{path.name}: stores widget state"] * ("widgets" in nb.metadata) + refusals(nb, path)
    if normalise(copy.deepcopy(nb)) != nb:
        found.append(f"{path.name}: not in normal form; run make notebooks")
    return found


def ids(nb, path):
    seen = [c.get("id", "") for c in nb.cells]
    return [
        f"{where(path, i, c)}: id {c.get('id')!r} must be 12 hex digits, used once"
        for i, c in numbered(nb)
        if not NORMAL_ID.fullmatch(c.get("id", "")) or seen.count(c.id) > 1
    ]


def small_file(nb, path):
    # What `make notebooks` writes about the files that made the outputs is nothing to read or show.
    stamp = json.dumps(nb.metadata[KEY]) if KEY in nb.metadata else ""
    size = path.stat().st_size - len(stamp)
    return [f"{path.name}: has {size} bytes, must be at most {NOTEBOOK_BYTES}"] * (size > NOTEBOOK_BYTES)


def images(nb, path):
    found = []
    for i, c, output in outputs(nb):
        data = output.get("data", {})
        kinds = [k for k in data if k.startswith("image/") and k != "image/png"]
        kinds += ["image/svg+xml"] * ("<svg" in data.get("text/html", ""))
        found += [f"{where(path, i, c)}: stores {kind}, must be image/png" for kind in kinds]
        if "image/png" in data:
            alt = output.metadata.get("image/png", {}).get("alt", "")
            found += [f"{where(path, i, c)}: {message}" for message in _image(data["image/png"], alt)]
    return found


def _image(encoded, alt):
    size = len(base64.b64decode(encoded))
    if size > IMAGE_BYTES:
        yield f"image has {size} bytes, must be at most {IMAGE_BYTES}"
    if len(alt.strip()) < ALT_CHARACTERS:
        yield f"image has alt text {alt!r}, must have at least {ALT_CHARACTERS} characters"


# cells


def kinds(nb, path):
    counts = [(i, c, sum(t in KINDS for t in tags(c))) for i, c in numbered(nb)]
    wanted = f"must have one of {', '.join(KINDS)}"
    return [f"{where(path, i, c)}: has {n} kind tags, {wanted}" for i, c, n in counts if n != 1]


def slide_types(nb, path):
    return [
        f"{where(path, i, c)}: has slide_type {c.metadata.get('slideshow', {}).get('slide_type')!r}, "
        f"must be one of {', '.join(SLIDE_TYPES)}"
        for i, c in numbered(nb)
        if c.metadata.get("slideshow", {}).get("slide_type") not in SLIDE_TYPES
    ]


def short_code(nb, path):
    found = []
    for i, c in numbered(nb, "code"):
        lines, shown = c.source.splitlines(), slide_type(c) in SHOWN and PICTURE_ONLY not in tags(c)
        most, longest = (SLIDE_LINES if shown else CODE_LINES), max(map(len, lines), default=0)
        place = where(path, i, c)
        if len(lines) > most:
            found.append(f"{place}: has {len(lines)} lines, must have at most {most}" + " on a slide" * shown)
        if shown and longest > MAX_COLUMNS:
            found.append(f"{place}: has {longest} columns, must have at most {MAX_COLUMNS} on a slide")
    return found


def banned(nb, path):
    found = []
    for i, c in numbered(nb):
        text = prose(c) if c.cell_type == "markdown" else c.source
        printed = "".join(o.get("text", "") for o in c.get("outputs", []))
        for kind, pattern, message in BANNED:
            looked_at = text + printed if kind == "any" else text
            if kind in ("any", c.cell_type) and re.search(pattern, looked_at, re.M):
                found.append(f"{where(path, i, c)}: {message}")
    return found


def links(nb, path):
    found = []
    for i, c in numbered(nb, "markdown"):
        targets = re.findall(r"\]\(\s*([^)\s]+)", prose(c)) + re.findall(
            r"(?:src|href)=[\"']([^\"']+)", prose(c)
        )
        for target in targets:
            local = not re.match(r"\w+:|#", target)
            if local and not (path.parent / target.split("#")[0]).exists():
                found.append(f"{where(path, i, c)}: links to {target}, which does not exist")
    return found


def papers(nb, path):
    """A number of arXiv is a link, and leads to the paper of that number."""
    found = []
    for i, c in numbered(nb, "markdown"):
        place, text = where(path, i, c), prose(c)
        for shown, target in PAPER_LINK.findall(text):
            if shown != target:
                found.append(f"{place}: shows {shown}, but links to https://arxiv.org/abs/{target}")
        rest = re.sub(r"https?://[^\s)]+", " ", PAPER_LINK.sub(" ", text))
        found += [
            f"{place}: names {number}, which must be [{number}](https://arxiv.org/abs/{number[-10:]})"
            for number in PAPER.findall(rest)
        ]
    return found


def compared(nb, path):
    marked = [(i, c) for i, c in numbered(nb, "code") if COMPARE in c.source]
    found = [f"{where(path, i, c)}: {COMPARE} but no stored output" for i, c in marked if not c.outputs]
    late = [(i, c) for i, c in marked if c.source.splitlines()[0] != COMPARE]
    found += [f"{where(path, i, c)}: {COMPARE} must be its first line" for i, c in late]
    if chapter(path) and len(marked) < COMPARED:
        found.append(f"{path.name}: has {len(marked)} compared cells, must have at least {COMPARED}")
    return found


# equations


def equations(nb, path):
    """Tags run (c.1), (c.2), ...; each is named by a code comment or a check cell; every name has its tag."""
    c = label(path)
    defined = re.findall(r"\\tag\{([^}]*)\}", "\n".join(prose(cell) for _, cell in numbered(nb, "markdown")))
    expected = [f"{c}.{n}" for n in range(1, len(defined) + 1)]
    found = []
    if defined != expected:
        first = next(i for i, pair in enumerate(zip(defined, expected, strict=True)) if pair[0] != pair[1])
        found.append(f"{path.name}: equation tag ({defined[first]}) stands where ({expected[first]}) must")
    named = [(i, cell, name) for i, cell in numbered(nb) for name in _names(cell, c)]
    checked = {name for _, cell, name in named if cell.cell_type == "code" or "check" in tags(cell)}
    found += [
        f"{path.name}: equation ({name}) is not checked by any code"
        for name in defined
        if name not in checked
    ]
    lost = dict.fromkeys((i, name) for i, _, name in named if name not in defined)
    return found + [
        f"{where(path, i, nb.cells[i - 1])}: names equation ({name}), which has no tag" for i, name in lost
    ]


def _names(cell, c):
    """Equation numbers of chapter c in brackets; in code only in comments, or anywhere in a check cell."""
    text = prose(cell)
    if cell.cell_type == "code" and "check" not in tags(cell):
        text = "\n".join(re.findall(r"#.*", cell.source))
    return re.findall(rf"(?<![\w\])}}])\(({c}\.[1-9]\d*)\)", text) if c != "0" else []


# chapters only


def parts(nb, path):
    """Card, setup, predictions, stanzas with code and checks, train, see it, paper, close: in this order."""
    if not chapter(path):
        return []
    stanzas = _stanzas(nb, chapter(path))
    places = {
        part: next((i for i, cell in enumerate(nb.cells) if part in tags(cell)), None) for part in PARTS
    }
    places["stanzas"] = stanzas[0] if stanzas else None
    places["see it"] = next((i for i, cell in enumerate(nb.cells) if re.search(SEE_IT, cell.source)), None)
    found = [f"{path.name}: has no {part}" for part in PARTS if places[part] is None]
    there = [part for part in PARTS if places[part] is not None]
    if there != sorted(there, key=places.get):
        found.append(f"{path.name}: parts must come in the order {', '.join(PARTS)}")
    return found + _check_stanzas(nb, path, stanzas, places["train"])


def _stanzas(nb, c):
    """Where the derivation cells headed '## c.k' stand."""
    return [
        i
        for i, cell in enumerate(nb.cells)
        if "derivation" in tags(cell) and re.match(rf"## {c}\.\d+\b", cell.source)
    ]


def _check_stanzas(nb, path, starts, end):
    found = [f"{path.name}: has {len(starts)} stanzas, must have at least {STANZAS}"] * (
        len(starts) < STANZAS
    )
    core = [start for start in starts if end is None or start < end]
    for k, (start, stop) in enumerate(zip(core, [*core[1:], end], strict=True), start=1):
        head, after = nb.cells[start], [kind for cell in nb.cells[start:stop] for kind in tags(cell)]
        if not re.match(rf"## \d+\.{k}\b", head.source):
            found.append(f"{where(path, start + 1, head)}: must be headed '## {chapter(path)}.{k}'")
        if "code" not in after or "check" not in after[after.index("code") :]:
            found.append(
                f"{where(path, start + 1, head)}: stanza must have a code cell, and a check cell after it"
            )
    return found


def exercises(nb, path):
    if not chapter(path):
        return []
    stubs = [i for i, c in numbered(nb, "code") if re.search(r"^@exercise\(", c.source, re.M)]
    found = [f"{path.name}: has {len(stubs)} exercises, must have at least {EXERCISES}"] * (
        len(stubs) < EXERCISES
    )
    for i in stubs:
        stub = nb.cells[i - 1]
        header = _header(nb, i)
        wanted = (("difficulty", r"difficulty"), ("importance", r"importance"), ("minutes", r"\d+ min"))
        lost = [name for name, pattern in wanted if not re.search(pattern, header)]
        lost += ["two <details> hints"] * (header.count("<details") < 2)
        found += [f"{where(path, i, stub)}: exercise header lacks {name}" for name in lost]
        if "TODO" not in "".join(o.get("text", "") for o in stub.outputs):
            found.append(f"{where(path, i, stub)}: stored output must say TODO: exercises are stored blank")
    return found


def _header(nb, number):
    """The text of the exercise cells that stand straight above the cell of this number."""
    above = []
    for cell in reversed(nb.cells[: number - 1]):
        if cell.cell_type != "markdown" or "exercise" not in tags(cell):
            break
        above.append(cell.source)
    return "\n".join(above)


def core_and_further(nb, path):
    """A chapter with sections "## Further" keeps its core to the size that its card states."""
    split = next((i for i, cell in enumerate(nb.cells) if re.search(FURTHER, cell.source)), None)
    if not chapter(path) or split is None:
        return []
    core, further = nb.cells[:split], nb.cells[split:]
    read = [cell for cell in core if slide_type(cell) != "notes"]  # what a student reads
    n_slides = sum(slide_type(cell) in ("slide", "subslide") for cell in core)
    minutes = [_exercise_minutes(cells) for cells in (core, further)]
    lecture = slides_index.minutes(core)
    found = ["'## Further' must stand after the close"] * all("close" not in tags(cell) for cell in core)
    found += [f"core has {len(read)} cells, must have at most {CORE_CELLS}"] * (len(read) > CORE_CELLS)
    found += [f"core has {n_slides} slides, must have at most {CORE_SLIDES}"] * (n_slides > CORE_SLIDES)
    if lecture > LECTURE_MINUTES:
        found.append(f"core's notes say {lecture} minutes, must be at most {LECTURE_MINUTES}")
    found += _stated_times(nb.cells[0].source, minutes, lecture)
    return [f"{path.name}: {message}" for message in found]


def _exercise_minutes(cells):
    """What the headers of the exercises add up to."""
    headers = "\n".join(c.source for c in cells if c.cell_type == "markdown" and "exercise" in tags(c))
    return sum(map(int, re.findall(r"(\d+) minutes?", headers)))


def _stated_times(card, minutes, lecture):
    """The card says how long core and further take a student, exercises within, and the core as a lecture."""
    form = "core N minutes, M of them exercises; as a lecture N; further N, M of them exercises"
    numbers = re.escape(form.removesuffix(" exercises")).replace("N", r"(\d+)").replace("M", r"(\d+)")
    said = re.search(numbers, card)
    if not said:
        return [f"card must say {form!r}"]
    core, core_exercises, spoken, _, further_exercises = map(int, said.groups())
    found = [f"core takes {core} minutes, must be at most {CORE_MINUTES}"] * (core > CORE_MINUTES)
    for part, stated, true in zip(
        ("core", "further"), (core_exercises, further_exercises), minutes, strict=True
    ):
        if stated != true:
            found.append(f"card gives {part} {stated} minutes of exercises, they add up to {true}")
    if spoken != lecture:
        found.append(f"card gives a lecture {spoken} minutes, its notes add up to {lecture}")
    return found


def slides(nb, path):
    if not chapter(path):
        return []
    count, notes = _slides_and_notes(nb)
    found = [f"{path.name}: has {count} slides, must have {SLIDES[0]} to {SLIDES[-1]}"] * (
        count not in SLIDES
    )
    if 3 * notes < count:
        found.append(
            f"{path.name}: has {notes} notes cells for {count} slides, must have one for every three"
        )
    return found


def _slides_and_notes(nb):
    types = [slide_type(c) for c in nb.cells]
    return types.count("slide") + types.count("subslide"), types.count("notes")


RULES = (
    executed, clean, ids, small_file, images, kinds, slide_types, short_code, banned, links, papers,
    compared, equations, parts, exercises, core_and_further, slides,
)  # fmt: skip


def lint(path) -> tuple[list[str], str]:
    """Every broken rule of one notebook, and one line about it."""
    path = Path(path)
    try:
        nb = nbformat.reader.reads(path.read_text(encoding="utf-8"))  # as it is: nbformat.read would mend it
        broken = valid(nb, path)
    except (ValueError, AttributeError, nbformat.ValidationError):
        broken = [f"{path.name}: is not a notebook"]
    if broken:
        return broken, f"{path.name}: not read"
    messages = [message for rule in RULES for message in rule(nb, path)]
    return messages, f"{path.name}: {_summary(nb, path)}: {len(messages) or 'no'} problems"


def _summary(nb, path):
    count, notes = _slides_and_notes(nb)
    source = "\n".join(c.source for c in nb.cells)
    return (
        f"{len(nb.cells)} cells, {count} slides, {notes} notes, {source.count(chr(92) + 'tag{')} equations, "
        f"{source.count(COMPARE)} compared outputs, {source.count('@exercise(')} exercises, "
        f"{path.stat().st_size / 1024:.0f} KB"
    )


def main(argv=None) -> int:
    """Exit status: 0, or 1 with every message on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tools.lint", description=__doc__)
    parser.add_argument("paths", nargs="*", default=["notebooks"], help="notebooks or folders (notebooks/)")
    failed = False
    for path in find(parser.parse_args(argv).paths):
        messages, summary = lint(path)
        failed = failed or bool(messages)
        print(*messages, sep="\n", end="\n" if messages else "", file=sys.stderr)
        print(summary, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
