"""Errata of papers and of released code, which the chapters found: kept in their cells, collected for one page."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from IPython.display import display

TAG = "errata"  # of the cells that hold them


@dataclass(frozen=True)
class Erratum:
    """What a source says that is not so, or not told, in the words of the chapter that found it."""

    chapter: str  # the notebook's name without its ending
    source: str
    finding: str


def read(text: str) -> Iterator[tuple[str, str]]:
    """(source, finding) of a cell: a paragraph that begins in bold names a source, and each item below is a finding.

    A source whose paragraph has words after the bold ones and no items is a finding itself. Raises ValueError for
    an item above all sources.
    """
    source, told = "", True
    for block in re.split(r"\n\s*\n|\n(?=- )", text.strip()):
        block = " ".join(block.split())
        if block.startswith("- "):
            if not source:
                raise ValueError(
                    f"an erratum must stand below a source in bold, but none is above {block[:60]!r}"
                )
            yield source.rstrip(".:"), block[2:]
            told = True
        elif bold := re.match(r"\*\*(.+?)\*\*(.*)", block):
            if not told:
                yield source_and_words(source)
            source, told = (bold[1] + bold[2]).strip(), False
    if not told:
        yield source_and_words(source)


def source_and_words(paragraph: str) -> tuple[str, str]:
    """The first sentence of a paragraph without items, and the rest."""
    source, _, words = paragraph.partition(". ")
    return source.rstrip("."), words or source


def cells(path: Path) -> list[str]:
    """The texts of a notebook's cells that hold errata."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in found if TAG in c["metadata"].get("tags", [])]


def collect(folder: Path) -> list[Erratum]:
    """All errata of the notebooks in a folder, by chapter."""
    return [
        Erratum(path.stem, *pair)
        for path in sorted(folder.glob("*.ipynb"))
        for text in cells(path)
        for pair in read(text)
    ]


def show(errata: list[Erratum]) -> None:
    """A list of errata by chapter and source, with links to the chapters."""
    lines, last = [], ("", "")
    for e in errata:
        if e.chapter != last[0]:
            lines += ["", f"**Chapter [{e.chapter}]({e.chapter}.ipynb)**", ""]
        if (e.chapter, e.source) != last:
            lines += [f"- *{e.source}*"]
        last = e.chapter, e.source
        lines += [f"    - {e.finding}"]
    text = "\n".join(lines).strip()
    display({"text/markdown": text, "text/plain": text}, raw=True)
