"""Do the checks of the exercises notice a mistake? Each reference with one place of its source changed:
`python -m tools.exercise_mutants --n 1000 --seed 0`

Printed: how many were tried and what they were told, each that passes with the reason why it is right all the same
(`equivalent_mutants.py`) or PASSED where nobody has said so, and the share of those that ran and failed whose hint
names the mistake, an argument, a place of the formula or a relation. Results are written after every 20, and a run
that was stopped goes on where it was, as long as neither the exercises nor the checker have changed.
"""

import argparse
import ast
import contextlib
import copy
import hashlib
import inspect
import json
import linecache
import pkgutil
import random
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from course_lib import solutions
from course_lib.exercise import Exercise, find, grade, of_chapter
from course_lib.files import write_json
from tools.equivalent_mutants import reason

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "exercise_mutants.json"

CHAPTERS = [module.name for module in pkgutil.iter_modules(solutions.__path__)]
NUMBERS = re.compile(
    r"^(for .*|\(.*|it) ?(gives|your answer holds) .* where .* is expected|^for .* it gives ", re.I
)
BY_HAND = "Do this case by hand"
LIMIT = re.compile(r"\. There yours gives .*, and it is ")
BROKEN = re.compile(r"\(for [^\n]*\)\.?$|^the shape is [^:]*$|^it returned |^for .* your answer holds ")
CRASH = re.compile(r"^\w*(Error|Exception)\b|, in line \d+: ")

OTHER_OPERATOR = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
}
OTHER_COMPARISON = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
OTHER_METHOD = {
    "sum": "mean",
    "mean": "sum",
    "argmax": "argmin",
    "argmin": "argmax",
    "any": "all",
    "all": "any",
    "max": "min",
    "min": "max",
    "ceil": "floor",
    "expm1": "exp",
    "minimum": "maximum",
}
DROPPED = {"sqrt", "log", "exp", "square", "clamp", "abs", "minimum", "double", "to", "detach"}


@dataclass
class Mutant:
    """One change of a reference: `text` tells it as "before => after", without the line's number."""

    exercise: str
    text: str
    fn: Callable


# --- what may be changed in a tree ---


def changes(node: ast.AST, names: list[str]) -> Iterator[ast.AST]:
    """The nodes that may stand in the place of this one; names are the function's arguments."""
    match node:
        case ast.BinOp(left, op, right):
            if type(op) in OTHER_OPERATOR:
                yield ast.BinOp(left, OTHER_OPERATOR[type(op)](), right)
            yield left
            yield right
            if isinstance(op, ast.Sub | ast.Div | ast.Pow):
                yield ast.BinOp(right, op, left)
        case ast.UnaryOp(ast.USub(), operand) if not isinstance(operand, ast.Constant):
            yield operand
        case ast.Compare(left, [op], right) if type(op) in OTHER_COMPARISON:
            yield ast.Compare(left, [OTHER_COMPARISON[type(op)]()], right)
        case ast.Constant(value) if type(value) in (int, float):
            yield from (ast.Constant(other) for other in (value + 1, value - 1, 2 * value) if other != value)
        case ast.Name(name, ast.Load()) if name in names:
            yield from (ast.Name(other, ast.Load()) for other in names if other != name)
        case ast.Call(ast.Attribute(x, method), args, more):
            if method in OTHER_METHOD:
                yield ast.Call(ast.Attribute(x, OTHER_METHOD[method], ast.Load()), args, more)
            if method in DROPPED:
                yield args[0] if isinstance(x, ast.Name) and x.id in ("torch", "math") else x
            yield from swapped(node)
        case ast.Call(ast.Name("max" | "min" as name), args, more):
            yield ast.Call(ast.Name({"max": "min", "min": "max"}[name], ast.Load()), args, more)
        case ast.Call():
            yield from swapped(node)
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Tuple([first, second], ast.Load()):
            yield ast.Tuple([second, first], ast.Load())
        case ast.Slice(low, high, step):
            yield from (
                s for s in (ast.Slice(None, high, step), ast.Slice(low, None, step)) if not same(s, node)
            )


def swapped(call: ast.Call) -> Iterator[ast.AST]:
    """The call with its first two arguments in the other order."""
    if len(call.args) >= 2 and not same(call.args[0], call.args[1]):
        first, second, *rest = call.args
        yield ast.Call(call.func, [second, first, *rest], call.keywords)


def same(a: ast.AST, b: ast.AST) -> bool:
    return ast.dump(a) == ast.dump(b)


# --- the functions that a reference is made of ---


def parts(reference: Callable) -> dict[str, ast.FunctionDef]:
    """The reference and the functions of its own file that it calls, by name, in the order of their use."""
    module = inspect.getmodule(reference)
    found: dict[str, ast.FunctionDef] = {}

    def collect(fn: Callable) -> None:
        if fn.__name__ in found:
            return
        (tree,) = ast.parse(inspect.getsource(fn)).body
        tree.body = tree.body[ast.get_docstring(tree) is not None :]
        found[fn.__name__] = tree
        arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        for node in ast.walk(tree):
            named = isinstance(node, ast.Name) and node.id not in arguments
            callee = getattr(module, node.id, None) if named else None
            if inspect.isfunction(callee) and callee.__module__ == module.__name__:
                collect(callee)

    collect(reference)
    return found


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Each place of the tree that holds an expression: the parent, its field, and the index where that is a list."""
    for parent in ast.walk(tree):
        if isinstance(parent, ast.arguments | ast.arg):
            continue
        for field, value in ast.iter_fields(parent):
            if isinstance(value, ast.expr | ast.Slice):
                yield parent, field, None
            elif isinstance(value, list):
                yield from ((parent, field, k) for k, item in enumerate(value) if isinstance(item, ast.expr))


def at(parent: ast.AST, field: str, index: int | None) -> ast.AST:
    value = getattr(parent, field)
    return value if index is None else value[index]


def put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def statement_of(tree: ast.FunctionDef, place: tuple) -> ast.stmt:
    """The statement that holds a place, itself for one that returns or assigns it."""
    return next(
        s
        for s in ast.walk(tree)
        if isinstance(s, ast.Return | ast.Assign | ast.AugAssign | ast.Expr | ast.For | ast.If)
        and any(node is place[0] for node in ast.walk(s))
        and not any(
            isinstance(inner, ast.stmt) and inner is not s and any(n is place[0] for n in ast.walk(inner))
            for inner in ast.walk(s)
        )
    )


def head(statement: ast.stmt) -> str:
    """The text of a statement; the first line of a loop or condition."""
    return ast.unparse(statement).splitlines()[0]


def mutants_of(spec: Exercise) -> Iterator[Mutant]:
    """All mutants of one reference, in a fixed order, each source once."""
    functions = parts(spec.reference)
    done = {"\n".join(map(ast.unparse, functions.values()))}
    for name, tree in functions.items():
        arguments = [arg.arg for arg in tree.args.args]
        for k, place in enumerate(places(tree)):
            for new in changes(at(*place), arguments):
                changed = copy.deepcopy(functions)
                where = list(places(changed[name]))[k]
                before = head(statement_of(changed[name], where))
                put(*where, copy.deepcopy(new))
                after = head(statement_of(changed[name], where))
                source = "\n\n".join(ast.unparse(ast.fix_missing_locations(f)) for f in changed.values())
                if source not in done:
                    done.add(source)
                    yield Mutant(spec.name, f"{before} => {after}", build(spec, source))
        for line in [s for s in tree.body if isinstance(s, ast.Expr)]:
            changed = dict(functions) | {name: copy.deepcopy(tree)}
            changed[name].body = [s for s in changed[name].body if not same(s, line)]
            source = "\n\n".join(map(ast.unparse, changed.values()))
            yield Mutant(spec.name, f"{ast.unparse(line)} => (left out)", build(spec, source))


def build(spec: Exercise, source: str) -> Callable:
    """The function that the source defines, among the other names of the reference's module."""
    names = dict(vars(inspect.getmodule(spec.reference)))
    file = f"<mutant {len(linecache.cache)} of {spec.name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), names)
    return names[spec.reference.__name__]


# --- trying them ---


def draw(n: int, seed: int = 0) -> list[Mutant]:
    """n mutants, as evenly as can be over the exercises."""
    choose = random.Random(seed)
    left = {}
    for chapter in CHAPTERS:
        for spec in of_chapter(chapter):
            left[spec.name] = list(mutants_of(spec))
            choose.shuffle(left[spec.name])
    chosen: list[Mutant] = []
    while len(chosen) < n and any(left.values()):
        for name in [name for name in left if left[name]]:
            chosen.append(left[name].pop())
    return chosen[:n]


KINDS = {
    "equivalent": "a right answer, with its reason",
    "PASSED": "a wrong answer that passes",
    "crash": "Python's own error, in the line that raises it",
    "mistake": "the hint of a listed mistake",
    "named": "an argument, a place of the formula, or a relation",
    "property": "what every answer has and this one has not",
    "limit": "a limit whose answer is known, and what comes out there",
    "numbers": "the smallest case that fails, with its numbers",
}
NAMED = ("mistake", "named")


def verdict(mutant: Mutant, seconds: int = 20) -> tuple[str, str]:
    """One of KINDS, and what was printed. One that does not end has crashed."""
    spec = find(mutant.exercise)
    with limited(seconds):
        state, hint = grade(spec, mutant.fn)
    if state == "PASS":
        return ("equivalent" if reason(mutant.exercise, mutant.text) else "PASSED"), hint
    if state == "TODO" or CRASH.search(hint):
        return "crash", hint
    return kind_of(spec, hint), hint


def kind_of(spec: Exercise, hint: str) -> str:
    """What a hint says."""
    if hint in spec.hints.values() or hint.startswith("two mistakes at once"):
        return "mistake"
    listed = any(hint.startswith(own) for own in spec.hints.values())  # of a design, with its case
    if listed:
        return "mistake"
    lines = hint.split("\n")
    broken = [line for line in lines if BROKEN.search(line)]
    limits = [line for line in lines if LIMIT.search(line)]
    numbers = [line for line in lines if NUMBERS.search(line) or line.startswith(BY_HAND)]
    if set(lines) - {*broken, *limits, *numbers}:
        return "named"
    return "property" if broken else "limit" if limits else "numbers"


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Inside, TimeoutError after so many seconds, on systems that can do it."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(*_) -> None:
        raise TimeoutError("the mutant does not end")

    earlier = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)


def share(rows: list[dict]) -> float:
    """Of those that ran and failed, how many were told what is wrong."""
    counts = Counter(row["kind"] for row in rows)
    failed = len(rows) - counts["equivalent"] - counts["PASSED"] - counts["crash"]
    return sum(counts[kind] for kind in NAMED) / max(failed, 1)


def fingerprint() -> str:
    """Of all that a verdict depends on: what the exercises import, and this file."""
    for chapter in CHAPTERS:
        of_chapter(chapter)
    loaded = {module.__file__ for name, module in sys.modules.items() if name.startswith("course_lib.")}
    files = sorted(loaded | {__file__})
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()[:16]


def run(n: int, seed: int, out: Path) -> dict:
    """Try n mutants, those of an earlier run of the same code left out; what came of it."""
    head = {"n": n, "seed": seed, "code": fingerprint()}
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    rows = found["mutants"] if {key: found.get(key) for key in head} == head else []
    for k, mutant in enumerate(draw(n, seed)[len(rows) :], len(rows) + 1):
        kind, hint = verdict(mutant)
        rows.append({"exercise": mutant.exercise, "change": mutant.text, "kind": kind})
        if kind in ("PASSED", "numbers"):
            print(f"{kind} {mutant.exercise}: {mutant.text}", hint, sep="\n    ", flush=True)
        if k % 20 == 0 or k == n:
            write_json(out, head | {"mutants": rows})
    return head | {"mutants": rows}


def looked_up(row: dict) -> dict:
    """Of a mutant that passed, the reason why it is right, if somebody has found one since."""
    passed = row["kind"] in ("equivalent", "PASSED")
    why = reason(row["exercise"], row["change"]) if passed else None
    return {"kind": "equivalent", "reason": why} if why else {"kind": "PASSED"} if passed else {}


def summary(found: dict) -> dict:
    """The counts, the share, each right answer with its reason, and what passed."""
    rows = [row | looked_up(row) for row in found["mutants"]]
    counts = Counter(row["kind"] for row in rows)
    exercises = sorted({row["exercise"] for row in rows})
    return {
        "command": f"python -m tools.exercise_mutants --n {found['n']} --seed {found['seed']}",
        "tried": len(rows),
        "exercises": len(exercises),
        "kinds": {kind: {"count": counts[kind], "told": told} for kind, told in KINDS.items()},
        "named, of those that ran and failed": round(share(rows), 3),
        "equivalent": [row for row in rows if row["kind"] == "equivalent"],
        "passed": [row for row in rows if row["kind"] == "PASSED"],
    }


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 if none passes but right answers, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.exercise_mutants", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--n", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--seed", type=int, default=0, help="which (0)")
    parser.add_argument("--out", type=Path, default=OUT, help="where each verdict goes (build/)")
    parser.add_argument("--summary", type=Path, help="where the summary goes, as JSON")
    options = parser.parse_args(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    told = summary(run(options.n, options.seed, options.out))
    if options.summary:
        write_json(options.summary, told)
    for row in told["equivalent"]:
        print(f"equivalent {row['exercise']}: {row['change']} ({row['reason']})")
    for row in told["passed"]:
        print(f"PASSED {row['exercise']}: {row['change']}")
    for kind, of_kind in told["kinds"].items():
        print(f"{of_kind['count']:5} {kind:10} {of_kind['told']}")
    print(f"{told['tried']} tried in {told['exercises']} exercises; of those that ran and failed", end=" ")
    print(
        f"{told['named, of those that ran and failed']:.0%} were told a mistake, an argument, a place or a relation"
    )
    return int(bool(told["passed"]))


if __name__ == "__main__":
    sys.exit(main())
