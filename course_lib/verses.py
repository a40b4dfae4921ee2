"""Verses of the Bible in several translations, each from a PyPI package; their splits and genres by book."""

import html
import re
from pathlib import Path

from .files import as_json, cached, needs, read_json
from .shapes import check_choice

VERSIONS = ("bbe", "ylt", "kjv", "web", "asv")
# Whole books, so that no verse tells of its neighbour in another split.
DEV = (11, 36, 41, 51)  # 1 Kings, Zephaniah, Mark, Colossians
TEST = (7, 9, 50, 58)  # Judges, 1 Samuel, Philippians, Hebrews


def verses(version: str = "bbe", split: str = "train") -> dict[int, str]:
    """{BBCCCVVV: text} of book BB, chapter CCC and verse VVV: the Bible in Basic English (bbe) or another translation.

    The split by books is that of Carlson, Riddell & Rockmore 2018 (R. Soc. Open Sci. 5:171920). bbe: 1949, public
    domain in the United States; ylt 1898, kjv, asv 1901, web: public domain. Isaiah 65 and 66, which bbe has twice,
    are left out. Raises ImportError without the package pythonbible-<version>.
    """
    check_choice("version", version, VERSIONS)
    check_choice("split", split, ("train", "dev", "test"))

    def from_package() -> dict[int, str]:
        package = needs(f"pythonbible_{version}.html_bible", f"pythonbible-{version}")
        return parse(
            package.bible.scripture_content, sorted(package.bible.verse_start_indices)
        )

    def read(path: Path) -> dict[int, str]:
        return {int(number): text for number, text in read_json(path).items()}

    texts = cached(
        f"verses-{version}.json",
        from_package,
        read,
        lambda f, value: f.write(as_json(value)),
    )
    return {number: text for number, text in texts.items() if split_of(number) == split}


def split_of(number: int) -> str:
    """The split that a verse's book belongs to."""
    book = number // 10**6
    return "dev" if book in DEV else "test" if book in TEST else "train"


def parse(content: str, numbers: list[int]) -> dict[int, str]:
    r"""Verses of a whole translation in HTML, where <sup>v</sup> opens each; `numbers` says which verse each is.

    The start indices of the packages drift, so only their order is used. bbe marks verses that other translations
    count otherwise by \c:v\ ; they get the number c:v.
    """
    parts = re.split(r"<sup>(\d+)</sup>", content)[1:]
    if [n % 1000 for n in numbers] != [int(n) for n in parts[::2]]:
        raise ValueError(
            f"numbers must name the {len(parts) // 2} verses of the content in their order"
        )
    texts: dict[int, str] = {}
    for number, part in zip(numbers, parts[1::2], strict=True):
        text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", part))).strip()
        if moved := re.match(r"\\(\d+):(\d+)\\\s*(.*)", text):
            number = number // 10**6 * 10**6 + int(moved[1]) * 1000 + int(moved[2])
            text = moved[3]
        text = re.sub(r"\s+", " ", re.sub(r"\\\d+:\d+\\|[\[\]{}]", "", text))
        texts[number] = f"{texts.get(number, '')} {text}".strip()
    return {
        n: text for n, text in texts.items() if text and n // 1000 not in (23065, 23066)
    }


GENRES = ("law", "history", "poetry", "prophets", "gospels", "letters")
# Deuteronomy, Esther, Song, Malachi, Acts (with the gospels), Revelation (with the letters).
LAST_BOOKS = (5, 17, 22, 39, 44, 66)


def genre(number: int) -> int:
    """Which of GENRES the book of a verse belongs to. ValueError for a book that there is not."""
    book = number // 10**6
    if not 1 <= book <= LAST_BOOKS[-1]:
        raise ValueError(
            f"number must be BBCCCVVV of a book BB in 1..{LAST_BOOKS[-1]}, not {number}"
        )
    return next(i for i, last in enumerate(LAST_BOOKS) if book <= last)
