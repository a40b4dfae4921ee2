"""Copies of the notebooks for one use, in build/copies: `python -m tools.copies student | solved | colab`.

`make lab` keeps student copies in mine/: what is written there stays, and the notebooks themselves stay as they were.

student  without the notes for the lecturer and the marks for tests; code that only draws is folded: a click opens it
solved   with the notes, and each exercise answered by its reference
colab    for Colab and Kaggle: a first cell brings the course, from the address in pyproject.toml ([project.urls])

A copy keeps its place in notebooks/ beside links that lead out of it: the files beside the notebooks come along.
"""

import argparse
import hashlib
import inspect
import re
import sys
import textwrap
from pathlib import Path

import nbformat

from course_lib.exercise import find as exercise
from course_lib.files import write_atomically
from tools.readme import repository
from tools.where import find

KINDS = ("student", "solved", "colab")
DRAWS = re.compile(r"(?:show|explore)\(")
STUB = re.compile(r'^@exercise\("([\w.]+)"\)', re.M)
FIRST = """# In Colab and Kaggle this brings the course here; elsewhere it does nothing.
import os
import sys

if "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
    import pathlib
    import subprocess
    import tarfile
    import tomllib
    import urllib.request

    got, _ = urllib.request.urlretrieve("{archive}")
    with tarfile.open(got) as archive:
        archive.extractall("course", filter="data")
    (root,) = (p.parent for p in pathlib.Path("course").resolve().glob("*/pyproject.toml"))
    wanted = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    names = wanted["dependencies"] + wanted["optional-dependencies"]["course"]
    # torch, and JupyterLab's part, are those that are there
    needed = [n for n in names if not n.startswith(("torch", "numpy", "jupyterlab", "ipykernel"))]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *needed], check=True)
    sys.path.insert(0, str(root))
    os.chdir(root / "notebooks")
"""


def archive(home: str) -> str:
    """Where a repository's archive of the main branch is fetched from."""
    return f"{home}/archive/refs/heads/main.tar.gz"


def first_cell(address: str):
    """The guarded cell that brings the course from the archive at this address."""
    cell = nbformat.v4.new_code_cell(FIRST.replace("{archive}", address), id="c01ab0000000")
    cell.metadata = {"slideshow": {"slide_type": "skip"}, "tags": ["setup"]}
    return cell


def without_notes(nb):
    """The notebook without its notes for the lecturer."""
    nb.cells = [cell for cell in nb.cells if "notes" not in cell.metadata.get("tags", [])]
    return nb


def only_draws(cell) -> bool:
    """Whether a code cell does nothing but draw, so that its code can be folded."""
    return bool(DRAWS.match(cell.source)) and "exercise" not in cell.metadata.get("tags", [])


def folded(nb):
    """The notebook with the code of cells that only draw folded, and without the comments that are for tests."""
    for cell in nb.cells:
        if cell.cell_type != "code":
            continue
        cell.source = cell.source.removeprefix("# NBVAL_CHECK_OUTPUT\n")
        if only_draws(cell):
            cell.metadata["jupyter"] = {"source_hidden": True}
    return nb


def answered(nb):
    """The notebook with the reference in the place of each exercise's stub. ValueError for an unknown exercise."""
    for cell in nb.cells:
        found = STUB.search(cell.source) if cell.cell_type == "code" else None
        if found:
            cell.source = answer(cell.source, found)
            cell.outputs, cell.execution_count = [], None
    mode = nbformat.v4.new_code_cell("%env COURSE_SOLUTIONS=1", id="5017ed000000")
    mode.metadata = {"slideshow": {"slide_type": "skip"}, "tags": ["setup"]}
    nb.cells.insert(1, mode)
    return nb


def answer(stub: str, found: re.Match) -> str:
    """The stub's cell with the reference below, as it stands in the library; what it calls is defined there."""
    reference = inspect.unwrap(exercise(found[1]).reference)
    code = textwrap.dedent(inspect.getsource(reference))
    module = reference.__module__
    shown = textwrap.indent(code, "# ").rstrip()
    return f"{stub.rstrip()}\n\n\n# The answer, from {module}:\n#\n{shown}\n"


def write(
    kind: str, notebooks: list[Path], out: Path, home: str | None = None, keep: bool = False
) -> list[Path]:
    """The copies, in out; those that were written. ValueError for colab without the repository's address.

    keep  leave copies that are there alone: somebody may have worked in them
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if kind == "colab" and not home:
        raise ValueError(
            "colab needs the repository's address: fill in Source under [project.urls] in pyproject.toml"
        )
    written = []
    for path in notebooks:
        target = Path(out) / path.name
        if keep and target.exists():
            continue
        nb = nbformat.read(path, as_version=4)
        came_from = fingerprint(nb)
        if kind == "student":
            nb = folded(without_notes(nb))
        elif kind == "solved":
            nb = answered(nb)
        else:
            nb = folded(without_notes(nb))
            nb.cells.insert(1, first_cell(archive(home)))
        nb.metadata.pop("made_from", None)
        nb.metadata["copy_of"] = came_from
        text = nbformat.writes(nb) + "\n"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, lambda file, text=text: file.write(text.encode()))
        written.append(target)
    return written


def fingerprint(nb) -> str:
    """What changes when a cell's text does; outputs are left out."""
    return hashlib.sha256("\0".join(cell.source for cell in nb.cells).encode()).hexdigest()[:12]


def outdated(notebooks: list[Path], out: Path) -> list[Path]:
    """The copies in out that were made of a notebook that has changed since."""
    found = []
    for path in notebooks:
        target = Path(out) / path.name
        if target.exists():
            made_of = nbformat.read(target, as_version=4).metadata.get("copy_of")
            if made_of != fingerprint(nbformat.read(path, as_version=4)):
                found.append(target)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 with what is wrong on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tools.copies", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("paths", nargs="*", default=["notebooks"], help="notebooks or folders (notebooks/)")
    parser.add_argument("--out", type=Path, help="folder (build/copies/KIND)")
    parser.add_argument("--keep", action="store_true", help="leave the copies that are there as they are")
    options = parser.parse_args(arguments)
    out = options.out or Path("build") / "copies" / options.kind
    try:
        notebooks = find(options.paths)
        written = write(options.kind, notebooks, out, repository(), options.keep)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{out}: {len(written)} notebooks written")
    for target in outdated(notebooks, out):
        print(
            f"{target}: the course's notebook has changed since; rename or delete this copy to get the new one"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
