"""How the library reads, in numbers: a thermometer, not a gate. `python -m tools.density [FILE or FOLDER ...]`

What happens on a line: names, attributes, calls, operators, subscripts and constants per line of code, which is what is
neither blank nor comment nor docstring. nanoGPT has 4.6 (and comments on 18 % of its lines), smalldiffusion 4.7 (10 %),
the code of SEDD 4.2 (4 %).

Then what one reads to follow a training step from its loss to its noise: the functions that run, with what the head of
their class and of their file says. Beside it stand what ran but is looked up rather than followed (ASIDE), and how long
the files are as a whole: that is more than anyone reads for one step, and is printed to hide nothing.
"""

import argparse
import ast
import io
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1] / "course_lib"
MAX_LINES = 400
LONG = 88
NODES = (
    ast.Name, ast.Attribute, ast.Call, ast.BinOp, ast.UnaryOp, ast.Subscript, ast.Compare, ast.BoolOp, ast.IfExp,
    ast.Constant,
)  # fmt: skip
STEPS = {
    "SEDD on masks": "sedd.absorbing",
    "DDPM": "ddpm.digits",
}  # what is followed, and the recipe that trains it
# Ran, too, but says nothing of the algorithm: names of shapes, alpha_bar as a function of t, refusals of bad input.
ASIDE = {"shapes.py", "schedules.py", "finite.py", "process_checks.py", "token_checks.py"}


class Measure(NamedTuple):
    """Of one file or of many: lines of code, expression nodes, long lines, comments, lines in all."""

    code: int
    nodes: int
    long: int
    comments: int
    lines: int

    def __str__(self):
        per = max(self.code, 1)
        return (
            f"{self.lines:6} lines, {self.code:5} of code, {self.nodes / per:4.1f} nodes a line, "
            f"{self.long / per:4.0%} over {LONG} columns, comments {self.comments / per:5.1%}"
        )


def measure(source: str) -> Measure:
    """The numbers of one file."""
    tree, documented = ast.parse(source), set()
    for node in ast.walk(tree):
        holds = isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if holds and ast.get_docstring(node, clean=False) is not None:
            documented |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = source.splitlines()
    words = {n: line.strip() for n, line in enumerate(lines, start=1) if n not in documented}
    code = [n for n, text in words.items() if text and not text.startswith("#")]
    nodes = sum(isinstance(node, NODES) for node in ast.walk(tree))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = sum(token.type == tokenize.COMMENT for token in tokens)
    return Measure(len(code), nodes, sum(len(lines[n - 1]) > LONG for n in code), comments, len(lines))


def total(measures) -> Measure:
    return Measure(*map(sum, zip(*measures, strict=True)))


def files(paths) -> dict[Path, Measure]:
    """The numbers of each Python file named, or in a folder named."""
    found = [
        file
        for path in map(Path, paths)
        for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])
    ]
    return {file: measure(file.read_text(encoding="utf-8")) for file in found}


def walk(call, root: Path = ROOT) -> dict[str, set[int]]:
    """File under root -> lines of its functions that run during the call: what a reader has to follow."""
    seen: dict[str, set[int]] = {}

    def note(frame, event, _):
        code, path = frame.f_code, Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(root) and code.co_name != "<module>":
            numbers = {line for *_, line in code.co_lines() if line}
            lines = seen.setdefault(path.relative_to(root).as_posix(), set())
            lines.update(range(min(numbers), max(numbers) + 1))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return seen


def heads(path: Path, ran: set[int]) -> set[int]:
    """Lines of the file's docstring, and of the head and docstring of each class of which something ran."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef)]
    classes = [c for c in classes if ran & set(range(c.lineno, c.end_lineno + 1))]
    said = [node for node in (tree, *classes) if ast.get_docstring(node) is not None]
    return {line for node in said for line in range(getattr(node, "lineno", 1), node.body[0].end_lineno + 1)}


class Reading(NamedTuple):
    """What one reads to follow a step: files and their lines; the files set aside; all these files as a whole."""

    files: list[str]
    lines: int
    aside: list[str]
    whole: int


def reading(steps: dict[str, set[int]], root: Path = ROOT) -> Reading:
    """Of a walk."""
    files = [name for name in steps if name not in ASIDE]
    lines = sum(len(steps[name] | heads(root / name, steps[name])) for name in files)
    whole = sum(len((root / name).read_text(encoding="utf-8").splitlines()) for name in files)
    return Reading(files, lines, [name for name in steps if name in ASIDE], whole)


def training_step(name: str) -> dict[str, set[int]]:
    """What runs of the library, but for train and the network, when the recipe's process takes one training step."""
    import torch

    from course_lib.recipes.run import find

    process = find(name).process()
    torch.manual_seed(0)
    _, x0 = process.prior(2), process.prior(2)
    if not x0.is_floating_point():
        x0 = torch.zeros_like(x0)
    states = process.noise.V if hasattr(process, "noise") else 0

    def network(x, u):
        return torch.zeros(*x.shape, states) if states else torch.zeros_like(x)

    return walk(lambda: process.loss(network, x0, process.sample_t(2)))


def report() -> list[str]:
    """The lines that `make lint` prints."""
    measured = files([ROOT])
    rooms = {"library": [], "recipes": [], "solutions": []}
    for path, numbers in measured.items():
        folder = path.relative_to(ROOT).parts[0]
        rooms[folder if folder in rooms else "library"].append(numbers)
    said = [f"{name:10}{total(numbers)}" for name, numbers in rooms.items()]
    crowded = [
        f"{path.relative_to(ROOT).as_posix()} {numbers.lines}"
        for path, numbers in measured.items()
        if numbers.lines > MAX_LINES and path.relative_to(ROOT).parts[0] != "solutions"
    ]
    said.append(f"files of more than {MAX_LINES} lines: {', '.join(crowded) or 'none'}")
    for title, recipe in STEPS.items():
        read = reading(training_step(recipe))
        said.append(
            f"one training step of {title}: {len(read.files)} files ({', '.join(read.files)}), {read.lines} lines to "
            f"read, of {read.whole} in these files; looked up beside them: {', '.join(read.aside)}"
        )
    return said


def main(argv=None) -> int:
    """Always 0: a thermometer."""
    parser = argparse.ArgumentParser(prog="python -m tools.density", description=__doc__)
    parser.add_argument("paths", nargs="*", help="files or folders to look at one by one")
    paths = parser.parse_args(argv).paths
    measured = files(paths)
    for path, numbers in measured.items():
        print(f"{path!s:48}{numbers}")
    print("\n".join(report()) if not paths else f"{'all':48}{total(measured.values())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
