"""What of a slide's prose stands on the wall: its first sentences, as long as all of them have at most 60 words.

The other sentences are not lost: the deck puts them into the notes, so that the lecturer says them, the handout prints
them, and a phone shows them where they were. A cell can choose for itself: its metadata may name, in "wall", how the
sentences begin that are to stand.
"""

import re
from dataclasses import dataclass, field

WORDS = 60  # of prose on one slide
HIDDEN = '<span class="said">'  # said, not shown
SHORT = 8  # words of a lead like "**What is left.**", which belongs to the sentence after it
OTHERS = {"exercise", "predictions", "card"}  # tags of cells that are no running text

# Whole for the splitter: formulas, code, links, what is emphasised, what is in brackets
WHOLE = re.compile(
    r"\$[^$]+\$|`[^`\n]*`|\[[^\]]*\]\([^)]*\)|\*\*.+?\*\*|(?<!\*)\*[^*\n]+\*(?!\*)|\"[^\"\n]*\"|<[^>]+>",
    re.S,
)
BRACKETS = re.compile(r"\((?:[^()]|\([^()]*\))*\)", re.S)
END = re.compile(r"(?<=[.?!])\s+(?=[A-Z0-9])")
NO_END = re.compile(r"(?:\bal|\be\.g|\bi\.e|\bcf|\bvs|\beqs?|\bno|\bfig)\.$", re.I)
WORD = re.compile(r"[A-Za-z0-9][\w'’-]*")
ITEM = re.compile(r"\s*(?:[-*]|\d+\.)\s+")
NO_PROSE = re.compile(r"\s*(?:#|\||>|<|!\[|```)")


@dataclass
class Sentence:
    """A sentence of a cell's source, from start to stop, and why it should stay."""

    start: int
    stop: int
    text: str
    leads: bool = False  # to a formula, list or table that would stand without it
    shown: bool = True
    cuts: list[tuple[int, int]] = field(default_factory=list)  # start and stop, in text, of brackets that go

    @property
    def words(self) -> int:
        """Of what would stand if the sentence did."""
        return count(self.text) - sum(count(self.text[a:b]) for a, b in self.cuts)


def count(text: str) -> int:
    """Words of prose: formulas, code and addresses are none."""
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`\n]*`", " ", text, flags=re.S)
    text = re.sub(r"\]\([^)]*\)|<[^>]*>", " ", text)
    return len(WORD.findall(text))


# sentences


def sentences(text: str) -> list[tuple[int, int]]:
    """Start and stop of each sentence of a paragraph; a formula, a bracket or a lead is never cut."""
    mask = BRACKETS.sub(masked, WHOLE.sub(masked, text))
    found, start = [], 0
    for gap in END.finditer(mask):
        if not NO_END.search(text[start : gap.start()]):
            found.append((start, gap.start()))
            start = gap.end()
    return [*found, (start, len(text.rstrip()))]


def masked(found: re.Match) -> str:
    """As many letters, of which only the first and the last say what a splitter needs to know."""
    text = found[0]
    lead = text.startswith("*") and count(text) <= SHORT
    ends = re.search(r"[.?!][*\")\]]*$", text) and not lead and text[0] not in "$`<"
    return "A" + "_" * (len(text) - 2) + ("." if ends else "_")


def blocks(source: str) -> list[tuple[int, int, bool]]:
    """Start and stop of each paragraph and item of a list, and whether a formula, list or table follows it."""
    found, start, place, inside, item = [], None, 0, False, None

    def close(stop, leads=False):
        nonlocal start
        if start is not None and source[start:stop].strip():
            found.append([start, stop, leads])
        start = None

    for line in [*source.splitlines(keepends=True), "\n"]:
        words, formula = line.strip(), line.count("$$")
        item = ITEM.match(line)
        other = NO_PROSE.match(line) or (line.startswith("    ") and not item and start is None)
        if inside or formula or words.startswith("```"):
            if not inside:
                close(place)
                if found and not source[found[-1][1] : place].strip():
                    found[-1][2] = True
            inside ^= formula % 2 == 1 or words.startswith("```")
        elif not words:
            close(place)
        elif item or other:
            close(place)
            if other and words.startswith("|") and found and not source[found[-1][1] : place].strip():
                found[-1][2] = True
            start = place + item.end() if item and not other else None
        elif start is None:
            start = place + len(line) - len(line.lstrip())
        place += len(line)
    close(len(source))
    return [tuple(block) for block in found]


def read(source: str) -> list[list[Sentence]]:
    """The sentences of a cell's source, by paragraph and item."""
    found = []
    for start, stop, leads in blocks(source):
        text = source[start:stop]
        of = [Sentence(start + a, start + b, text[a:b]) for a, b in sentences(text)]
        of[-1].leads = leads or of[-1].text.endswith(":")
        found.append(of)
    return found


# what stands


def choose(paragraphs: list[list[Sentence]], free: int) -> None:
    """Hide sentences until those that stand have at most `free` words, as far as that can be done.

    First go those in brackets, then the last one of the longest paragraph, again and again, what is in bold type after
    the others; the first one of a paragraph stays. Then go brackets within sentences; then whole paragraphs, the last
    one first; then whatever leads to no formula.
    """

    def shown():
        return sum(s.words for of in paragraphs for s in of if s.shown)

    def hide(which):
        for sentence in which:
            sentence.shown = sentence.shown and (sentence.leads or shown() <= free)

    backwards = paragraphs[::-1]
    hide(s for of in backwards for s in of if s.text.startswith("("))
    while shown() > free:
        rest = [(sum(s.words for s in of if s.shown), k) for k, of in enumerate(paragraphs) if loose(of)]
        if not rest:
            break
        hide([min(reversed(loose(paragraphs[max(rest)[1]])), key=lambda s: "**" in s.text)])
    for sentence in (s for of in backwards for s in of):
        if sentence.shown and shown() > free:
            sentence.cuts = asides(sentence.text)
    for of in backwards[:-1]:
        if not any(s.leads for s in of):
            hide(of[::-1])
    hide(s for of in backwards[:-1] for s in of[::-1])


def asides(text: str) -> list[tuple[int, int]]:
    """Start and stop of what a sentence says in brackets, with the space before it; short ones stay."""
    mask = WHOLE.sub(lambda found: "_" * len(found[0]), text)
    found = [(b.start(), b.end()) for b in BRACKETS.finditer(mask)]
    return [(a - mask[a - 1].isspace(), b) for a, b in found if a and count(text[a:b]) >= 4]


def loose(paragraph: list[Sentence]) -> list[Sentence]:
    """What may go from a paragraph: what is shown, is not its first sentence, and leads to nothing."""
    standing = [s for s in paragraph if s.shown]
    return [s for s in standing[1:] if not s.leads]


def shorten(cells) -> int:
    """Mark in the cells of a slide what is said and not shown; the number of words that stand."""
    texts = [c for c in cells if c.cell_type == "markdown" and not OTHERS & set(c.metadata.get("tags", []))]
    found = {id(cell): read(cell.source) for cell in texts}
    free, open_ = WORDS - answers(cells), []
    for cell in texts:
        wanted = cell.metadata.get("wall")
        if wanted is None:
            open_ += found[id(cell)]
            continue
        for sentence in (s for of in found[id(cell)] for s in of):
            sentence.shown = sentence.text.startswith(tuple(wanted))
            sentence.cuts = asides(sentence.text)
            free -= sentence.words * sentence.shown
    choose(open_, free)
    for cell in texts:
        cell.source = marked(cell.source, [s for of in found[id(cell)] for s in of])
    stand = sum(s.words for of in found.values() for p in of for s in p if s.shown)
    return stand + answers(cells)


# what is wrong with what stands

NUMBERS = ("Two", "Three", "Four", "Five", "Six", "Seven", "Eight")


def lists(source: str) -> list[tuple[str, list[str]]]:
    """Of each list of a shortened source: what stands before it, and its items, "" for one that is not shown."""
    found, lead, items = [], "", []
    for line in [*source.splitlines(), "end"]:
        if ITEM.match(line):
            items.append(line)
        elif items and (line.startswith((" ", "\t")) or not line.strip()):
            items[-1] += line  # it goes on
        else:
            if items:
                found.append((lead, [standing(ITEM.sub("", item, count=1)).strip() for item in items]))
            lead, items = (line if line.strip() else lead), []
    return found


def halves(cells) -> list[str]:
    """Lists of a shortened slide of which too little stands: one item of several, or fewer than are announced."""
    found = []
    for cell in cells:
        if cell.cell_type != "markdown" or OTHERS & set(cell.metadata.get("tags", [])):
            continue
        for lead, items in lists(cell.source):
            stand, said = (
                sum(map(bool, items)),
                re.search(rf"\b({'|'.join(NUMBERS)})\b", standing(lead), re.I),
            )
            promised = said and NUMBERS.index(said[1].capitalize()) + 2 == len(items)
            if stand < len(items) and (stand == 1 or promised):
                found.append(f'shows {stand} of {len(items)} items of a list; choose sentences in "wall"')
    return found


def silent(cells) -> bool:
    """Whether a slide is printed lines and tables alone: no heading, no sentence, no figure, no code."""
    data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    printed = any("text" in output for cell in cells for output in cell.get("outputs", []))
    tables = any("text/markdown" in bundle for bundle in data)
    others = any("image/png" in bundle for bundle in data)
    words = any(
        cell.cell_type == "markdown" or "picture" not in cell.metadata.get("tags", []) for cell in cells
    )
    return (printed or tables) and not others and not words


def standing(source: str) -> str:
    """The source of a shortened cell without what is only said."""
    return re.sub(rf"{re.escape(HIDDEN)}.*?</span>", "", source, flags=re.S)


def answers(cells) -> int:
    """Words of the answers to bets that the slide shows."""
    data = [o.get("data", {}).get("text/html", "") for c in cells for o in c.get("outputs", [])]
    said = re.findall(r'<details class="prediction".*?</summary>(.*?)</details>', " ".join(data), re.S)
    return sum(map(count, said))


def marked(source: str, of: list[Sentence]) -> str:
    """The source with what is not shown inside spans."""
    for sentence in reversed(of):
        whole = [(0, len(sentence.text))]
        for a, b in sentence.cuts[::-1] if sentence.shown else whole:
            a, b = sentence.start + a, sentence.start + b
            source = f"{source[:a]}{HIDDEN}{source[a:b]}</span>{source[b:]}"
    return source
