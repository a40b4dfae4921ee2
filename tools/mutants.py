"""Do the tests notice a bug? Random one-line bugs are planted in the library: `python -m tools.mutants [COUNT]`

Each bug is planted in a copy of the repository, where the tests that import the changed module run, then those of the
contract, until one fails. Where no test imports the module, the tests of the modules that do import it run. What no
test sees is printed as SURVIVED: give it a test, or say in the results why it changes nothing ("equivalent": "why"),
which counts it as caught by nobody and missed by nobody. The bugs are chosen by the seed and the library alone.

Results are written after each bug, and a run that was stopped goes on where it was. `--again` tries those that
survived once more, after tests were added.
"""

import argparse
import ast
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("course_lib", "tests", "tools", "notebooks", "docs", "assets")
CONTRACT = "tests/contract"
MEMORY = 12 * 2**30  # bytes that a bug may eat
COMPARE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
BINARY = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
METHODS = {
    "exp": "expm1", "expm1": "exp", "log": "log1p", "log1p": "log", "sum": "mean", "mean": "sum", "any": "all",
    "all": "any", "amax": "amin", "max": "min", "min": "max", "argmax": "argmin", "sqrt": "square", "square": "sqrt",
    "softmax": "log_softmax", "log_softmax": "softmax", "randn_like": "zeros_like", "zeros_like": "ones_like",
    "double": "float", "detach": "clone",
}  # fmt: skip
CHANGED = (
    ast.Compare, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Constant, ast.IfExp, ast.Expr, ast.AugAssign, ast.Attribute,
    ast.Call,
)  # fmt: skip


class Bug(NamedTuple):
    """One change of one place of one file."""

    file: str  # from the root of the repository
    line: int
    column: int
    kind: str
    before: str
    after: str


# Bugs


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """(kind, what stands there instead) for each bug that fits this node."""
    new = deepcopy(node)
    match new:
        case ast.Compare(ops=[op, *_]) if type(op) in COMPARE:
            new.ops[0] = COMPARE[type(op)]()
            yield "comparison", new
        case ast.BinOp() if type(new.op) in BINARY:
            new.op = BINARY[type(new.op)]()
            yield "operator", new
        case ast.UnaryOp():
            yield "negation dropped", new.operand
        case ast.BoolOp():
            new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
            yield "and/or", new
        case ast.Constant(value=bool()):
            yield "flag", ast.Constant(not new.value)
        case ast.Constant(value=int()):
            yield "number", ast.Constant(new.value + 1)
        case ast.Constant(value=float()):
            yield "number", ast.Constant(new.value * 2 + 0.5)
        case ast.IfExp():
            new.body, new.orelse = new.orelse, new.body
            yield "branches swapped", new
        case ast.Expr(value=ast.Call()):
            yield "statement dropped", ast.Pass()
        case ast.AugAssign():
            yield "statement dropped", ast.Pass()
        case ast.Attribute() if new.attr in METHODS:
            new.attr = METHODS[new.attr]
            yield "method", new
        case ast.Call(args=[first, second, *_]) if ast.dump(first) != ast.dump(second):
            new.args[:2] = second, first
            yield "arguments swapped", new


def skipped(tree: ast.Module) -> set[int]:
    """The ids of nodes that no bug is planted in: annotations, words of errors, and what decorates."""
    heads = [node for node in ast.walk(tree) if isinstance(node, ast.Raise | ast.JoinedStr)]
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            heads.append(getattr(node, field, None))
        heads += getattr(node, "decorator_list", [])
    return {id(node) for head in heads if isinstance(head, ast.AST) for node in ast.walk(head)}


def bugs(source: str, file: str) -> list[Bug]:
    """Every bug that can be planted in a file, in the order of its places."""
    tree, text = ast.parse(source), source.encode()
    starts, skip, found = starts_of(source), skipped(tree), []
    for node in ast.walk(tree):
        if id(node) in skip or not isinstance(node, CHANGED):
            continue
        first, last = (
            starts[node.lineno - 1] + node.col_offset,
            starts[node.end_lineno - 1] + node.end_col_offset,
        )
        before = text[first:last].decode()
        for kind, new in changes(node):
            after = ast.unparse(new)
            if kind not in ("statement dropped", "method"):
                after = f"({after})"  # it stands in a line whose operators it must not meet
            found.append(Bug(file, node.lineno, node.col_offset, kind, before, after))
    return sorted(found)


def starts_of(source: str) -> list[int]:
    """At which byte each line starts: the syntax tree counts columns in bytes."""
    lengths = [len(line.encode()) for line in source.split("\n")]
    return [sum(lengths[:n]) + n for n in range(len(lengths))]


def planted(source: str, bug: Bug) -> str:
    """The file with the bug. Raises ValueError where the place no longer holds what the bug changes."""
    start = starts_of(source)[bug.line - 1] + bug.column
    text, before = source.encode(), bug.before.encode()
    if text[start : start + len(before)] != before:
        raise ValueError(f"{bug.file}:{bug.line} no longer holds {bug.before!r}")
    return (text[:start] + bug.after.encode() + text[start + len(before) :]).decode()


def library(root: Path = ROOT) -> dict[str, str]:
    """Every file of the library but the answers to exercises, whose mistakes have tests of their own: its source."""
    paths = sorted((root / "course_lib").rglob("*.py"))
    kept = (path for path in paths if "solutions" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in kept}


def chosen(sources: dict[str, str], count: int, seed: int) -> list[Bug]:
    """`count` bugs, each as likely as any other."""
    every = [bug for file, source in sources.items() for bug in bugs(source, file)]
    return random.Random(seed).sample(every, min(count, len(every)))


# Tests


def module_of(file: str) -> str:
    """course_lib.recipes.run for course_lib/recipes/run.py."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(source: str, package: str = "course_lib") -> set[str]:
    """The modules that a file imports, and names from packages, which may be modules. `.x` is of the package."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            name = ".".join(filter(None, [above if node.level else "", node.module]))
            found |= {name, *(f"{name}.{alias.name}" for alias in node.names)}
    return found


def tests_of(module: str, root: Path = ROOT) -> list[str]:
    """The test files that import the module, else those that import a module which imports it."""
    tests = {
        path.relative_to(root).as_posix(): imported(path.read_text(encoding="utf-8"))
        for path in sorted((root / "tests").rglob("test_*.py"))
        if "benchmarks" not in path.parts
    }
    direct = [test for test, names in tests.items() if module in names]
    if direct:
        return direct
    users = {
        module_of(file)
        for file, source in library(root).items()
        if module in imported(source, module_of(file).rpartition(".")[0] or "course_lib")
    }
    return [test for test, names in tests.items() if users & names]


# Trying them


def copy_of(root: Path, folder: Path) -> None:
    """A copy of the repository, in which a bug may do what it likes."""
    for name in COPIED:
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in root.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, folder / path.name)


def held() -> None:
    """Of the process that a bug runs in: its memory has a limit."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def passes(folder: Path, tests: list[str], limit: float) -> bool:
    """Whether all tests pass in this folder, within so many seconds."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    posix = os.name == "posix"
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=posix,
        preexec_fn=held if posix else None,
    )
    try:
        return process.wait(limit) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            # Its children, too: tests start some.
            os.killpg(process.pid, signal.SIGKILL) if posix else process.kill()
            process.wait()


def tried(bug: Bug, limit: float, root: Path = ROOT) -> str:
    """What saw the bug: "caught by its tests", "caught by the contract", or "survived"."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_of(root, folder)
        place = folder / bug.file
        place.write_text(planted(place.read_text(encoding="utf-8"), bug), encoding="utf-8")
        own = [test for test in tests_of(module_of(bug.file), root) if not test.startswith(CONTRACT)]
        if own and not passes(folder, own, limit):
            return "caught by its tests"
        return "survived" if passes(folder, [CONTRACT], limit) else "caught by the contract"


# Results


def fingerprint(sources: dict[str, str]) -> str:
    """Of the library, whose bugs these are."""
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:12]


def opened(out: Path, head: dict) -> dict:
    """The results so far, if they are of the same bugs; else none yet."""
    if out.exists():
        results = json.loads(out.read_text(encoding="utf-8"))
        if {key: results.get(key) for key in head} == head:
            return results
    return {**head, "bugs": []}


def written(results: dict, out: Path) -> None:
    """Written beside and renamed, so that a run that is stopped loses nothing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_suffix(".new")
    beside.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    beside.replace(out)


def line_of(row: dict) -> str:
    """One bug in words."""
    state = "SURVIVED" if row["state"] == "survived" else row["state"]
    state = f"equivalent: {row['equivalent']}" if row.get("equivalent") else state
    before, after = (" ".join(row[key].split())[:70] for key in ("before", "after"))
    return f"{state:22} {row['file']}:{row['line']} {row['kind']}: {before}  ->  {after}"


def share(rows: list[dict]) -> str:
    """How many were caught, of those that change anything."""
    counted = [row for row in rows if not row.get("equivalent")]
    caught = sum(row["state"] != "survived" for row in counted)
    percent = 100 * caught / max(len(counted), 1)
    return f"{caught} of {len(counted)} caught ({percent:.0f} %), {len(rows) - len(counted)} equivalent"


def run(planned: list[Bug], results: dict, out: Path, again: bool, try_it) -> None:
    """Try each bug that has no result yet, or of these results those that survived."""
    rows = {tuple(row[key] for key in Bug._fields): row for row in results["bugs"]}
    for bug in planned:
        row = rows.get(bug)
        if row is not None and not (again and row["state"] == "survived" and not row.get("equivalent")):
            continue
        began = time.monotonic()
        state = try_it(bug)
        if row is None:
            results["bugs"].append(row := bug._asdict())
        row |= {"state": state, "seconds": round(time.monotonic() - began)}
        written(results, out)
        print(line_of(row), flush=True)


def main(argv=None, root: Path = ROOT, try_it=None) -> int:
    """Exit status: 0 if all was caught, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("count", nargs="?", type=int, default=60, help="how many bugs (60)")
    parser.add_argument("--files", nargs="+", help="only in these files, such as course_lib/sedd.py")
    parser.add_argument("--seed", type=int, default=0, help="which bugs (0)")
    parser.add_argument("--limit", type=float, default=900, help="seconds for the tests of one bug (900)")
    parser.add_argument("--out", type=Path, default=root / "build" / "mutants.json", help="where results go")
    parser.add_argument("--again", action="store_true", help="try those that survived again")
    options = parser.parse_args(argv)
    sources = library(root)
    if options.files:
        if unknown := set(options.files) - set(sources):
            parser.error(f"no file of the library: {', '.join(sorted(unknown))}")
        sources = {file: sources[file] for file in options.files}
    head = {"seed": options.seed, "count": options.count, "library": fingerprint(sources)}
    results = opened(options.out, head)
    planned = chosen(sources, options.count, options.seed)
    run(planned, results, options.out, options.again, try_it or (lambda bug: tried(bug, options.limit, root)))
    print("", *(line_of(row) for row in results["bugs"] if row["state"] == "survived"), sep="\n")
    print(share(results["bugs"]))
    return int(any(row["state"] == "survived" and not row.get("equivalent") for row in results["bugs"]))


if __name__ == "__main__":
    sys.exit(main())
