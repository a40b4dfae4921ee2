"""docs/ARCHITECTURE.md names files and functions that there are, and the lines of algorithms that they say they are."""

import functools
import importlib
import re
from pathlib import Path

import course_lib

LIBRARY = Path(course_lib.__file__).parent
PAGE = (LIBRARY.parent / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
# Not what somebody looks for by a word of the field
INSIDE = {"__init__", "shapes", "finite", "process", "wrapper", "plots", "widgets", "notebook"}


def test_every_file_named_exists():
    named = set(re.findall(r"`([a-z0-9_]+)\.py`", PAGE))
    assert {"process", "ddpm", "d3pm", "mdlm"} <= named
    assert not {name for name in named if not (LIBRARY / f"{name}.py").is_file()}


def test_every_file_is_found_by_a_word():
    table = PAGE[PAGE.index("## Which file") : PAGE.index("## The contract")]
    found = set(re.findall(r"`([a-z0-9_]+)(?:\.py|/)`", table)) | INSIDE
    there = {p.stem for p in LIBRARY.glob("*.py")} | {p.parent.name for p in LIBRARY.glob("*/__init__.py")}
    assert there - found == set()


LINES = PAGE[PAGE.index("## Which line of an algorithm") : PAGE.index("## The contract")]
LABELLED = {  # algorithm, lines -> file
    ("Algorithm 1", (1, 2, 5, 6)): "train",
    ("Algorithm 1", (3, 4)): "shares",
    ("Algorithm 2", (1, 2)): "process",
    ("Algorithm 2", (3, 4)): "ddpm",
}
EQUATIONS = {
    "tokens": ["D3PM, eq. 3, left", "L_T of D3PM, L_prior of MDLM", "SUBS, carry-over", "MDLM, section 4.1"],
    "categorical": ["D3PM, eqs. 3 and 4"],
    "d3pm": ["Eq. 4:", "L_0 = -log p(x_0 | x_1)", "eq. 5", "MDLM, eq. 8"],
    "absorbing": ["MDLM, eq. 4", "MDLM, eqs. 6 and 7"],
    "mdlm": ["eq. 7", "eq. 11", "eqs. 10 and 11", "SUBS, zero masking"],
    "score_entropy": ["definition 3.1", "theorem 3.4", "w_xy"],
    "sedd": ["eq. 10", "sigma-bar"],
    "ddim": ["Eq. 12", "Eq. 16"],
    "diffusion_lm": ["section 4.1", "section 4.2", "L_e2e of eq. 2", "-log p_theta(w | x_0)"],
    "diffuseq": ["Section 3.1"],
    "tweedie": ["eq. 17", "eqs. 18 and 19", "sigma-bar"],
}


def numbers(words: str) -> set[int]:
    """1, 2 and 6 of "1, 2 and 6"."""
    return {int(n) for n in re.findall(r"\d+", words)}


def labels(text: str) -> set[tuple[str, int]]:
    """Each line of each algorithm that a text names: "Algorithm 1, lines 1 and 6; line 2" are three."""
    named = re.findall(r"(Algorithm \d)((?:[,;] lines? \d(?:(?:,| and) \d)*)+)", text)
    return {(name, n) for name, rest in named for n in numbers(rest)}


def test_every_function_named_exists():
    named = re.findall(r"`([a-z0-9_]+)\.([A-Za-z_.]+)`", LINES)
    named = [(file, path) for file, path in named if path != "py"]
    assert len(named) > 25
    for file, path in named:
        functools.reduce(getattr, path.split("."), importlib.import_module(f"course_lib.{file}"))


def test_labels_are_read():
    assert labels("Algorithm 1, lines 1, 2 and 6 (the loop)") == {("Algorithm 1", n) for n in (1, 2, 6)}
    assert labels("Algorithm 2, line 1; line 2: x_T, line 3") == {("Algorithm 2", 1), ("Algorithm 2", 2)}
    assert labels("the 3rd line of Algorithm 1, which") == set()


def test_each_line_of_an_algorithm_is_labelled_where_it_is():
    for (name, lines), file in LABELLED.items():
        wanted = {(name, n) for n in lines}
        assert wanted <= labels((LIBRARY / f"{file}.py").read_text(encoding="utf-8")), (name, file)
        assert wanted <= labels(LINES), (name, "the table")


def test_each_equation_is_labelled_where_it_acts():
    for file, words in EQUATIONS.items():
        text = " ".join((LIBRARY / f"{file}.py").read_text(encoding="utf-8").split())
        assert not [word for word in words if word not in text], file


def test_it_is_one_page():
    """Beside the table of lines, which one looks up."""
    assert len(PAGE.replace(LINES, "").splitlines()) <= 125
