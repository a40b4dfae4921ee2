"""Stored outputs are never older than what made them: each notebook carries hashes of its code, of the library files
and of the assets behind them. `python -m tools.stamps` names what changed since.

A comment, a docstring or a blank line makes nothing stale; neither does the text between the cells.
"""

import argparse
import ast
import hashlib
import io
import re
import sys
import tokenize
from pathlib import Path

import nbformat

from course_lib import errata
from tools import figures
from tools.where import find, where

ROOT = Path(__file__).resolve().parents[1]
KEY = "made_from"  # in the notebook's metadata
ASSETS = (".json", ".safetensors")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def code_of(source: str) -> str:
    """The source without docstrings, comments and blank lines: equal texts do the same on every Python."""
    lines, gone = source.splitlines(), set()
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            gone |= set(range(node.body[0].lineno - 1, node.body[0].end_lineno))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for n, line in enumerate(lines) if n not in gone and line.strip())


def imported(source: str, package: tuple[str, ...] = ()) -> set[str]:
    """Dotted names under course_lib that a source imports, at any depth; package is where the source itself lies."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*base, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.split(".")[0] == "course_lib"}


def library(sources: list[str], root: Path) -> set[Path]:
    """Files of course_lib that the sources import, and those that these import."""
    wanted, files = set().union(*map(imported, sources)), set()
    # A recipe is found by its name: find("ddpm.mnist").
    wanted |= {
        f"course_lib.recipes.{name}" for text in sources for name in re.findall(r"find\(\W(\w+)\.", text)
    }
    while wanted:
        name = wanted.pop().split(".")
        paths = [
            root.joinpath(*name).with_suffix(".py"),
            *(root.joinpath(*name[:n], "__init__.py") for n in (1, 2, 3)),
        ]
        for path in {p for p in paths if p.is_file()} - files:
            files.add(path)
            wanted |= imported(path.read_text(encoding="utf-8"), path.relative_to(root).parent.parts)
    return files


def assets(sources: list[str], path: Path, root: Path) -> set[Path]:
    """Weights and results of the chapter's folder, and of each folder that the code names."""
    folders = {path.stem, *re.findall(r"\b\d\d_[a-z0-9_]+\b", "\n".join(sources))}
    files = [file for name in folders for file in (root / "assets" / name).glob("*")]
    return {file for file in files if file.suffix in ASSETS}


def errata_of_others(sources: list[str], path: Path) -> dict[str, str]:
    """{notebook: hash of its errata} for a notebook that collects them: it is stale when one of them changes."""
    if not any("course_lib.errata" in imported(source) for source in sources):
        return {}
    texts = {file.name: "\n".join(errata.cells(file)) for file in path.parent.glob("*.ipynb")}
    return {f"notebooks/{name} (errata)": digest(text.encode()) for name, text in texts.items() if text}


def python(cell) -> str:
    """A code cell as Python: a line that is for IPython alone becomes a comment."""
    return re.sub(r"(?m)^(\s*)[%!]", r"\1#", cell.source)


def made_from(nb, path: Path, root: Path = ROOT) -> dict:
    """{"cells": ["id hash", ...] in order, "files": {name: hash}} of all that the notebook's outputs depend on."""
    cells = [cell for cell in nb.cells if cell.cell_type == "code"]
    sources = [python(cell) for cell in cells]
    code = {file: code_of(file.read_text(encoding="utf-8")).encode() for file in library(sources, root)}
    data = {file: file.read_bytes() for file in assets(sources, path, root)}
    files = {file.relative_to(root).as_posix(): digest(content) for file, content in (code | data).items()}
    files |= errata_of_others(sources, path)
    hashes = [f"{cell.id} {digest(cell.source.encode())}" for cell in cells]
    return {"cells": hashes, "files": dict(sorted(files.items()))}


def changes(path, root: Path = ROOT) -> list[str]:
    """What is newer than the stored outputs of the notebook at path: its cells first, then files; [] if nothing is."""
    path = Path(path)
    nb = nbformat.read(path, as_version=4)
    old, new = nb.metadata.get(KEY), made_from(nb, path, root)
    if not old:
        return ["the first run by make notebooks"]
    code = [(number, cell) for number, cell in enumerate(nb.cells, start=1) if cell.cell_type == "code"]
    changed = [place for place, made in zip(code, new["cells"], strict=True) if made not in old["cells"]]
    found = [where(path, *place).removeprefix(f"{path.name} ") for place in changed]
    if not found and old["cells"] != new["cells"]:
        found.append("the order or the number of its cells")
    if figures.missing(nb, path):
        found.append(f"{figures.place(path).relative_to(root.resolve()).as_posix()}, which lacks figures")
    names = old["files"].keys() | new["files"].keys()
    return found + sorted(name for name in names if old["files"].get(name) != new["files"].get(name))


def main(argv=None, root: Path = ROOT) -> int:
    """Exit status: 1 with a line on stderr for each notebook whose outputs are older than what made them."""
    parser = argparse.ArgumentParser(prog="python -m tools.stamps", description=__doc__)
    parser.add_argument("paths", nargs="*", default=["notebooks"], help="notebooks or folders (notebooks/)")
    stale = {path: changes(path, root) for path in find(parser.parse_args(argv).paths)}
    for path, found in stale.items():
        if found:
            print(
                f"{path.name}: outputs are older than {', '.join(found)}; run make notebooks NB={path.stem}",
                file=sys.stderr,
            )
    print(
        f"stored outputs: {sum(not found for found in stale.values())} of {len(stale)} notebooks are up to date"
    )
    return int(any(stale.values()))


if __name__ == "__main__":
    sys.exit(main())
