"""Machine-made mistakes: each reference with one place of its source changed, tried against its check.

python -m tests.exercises.mutants          1000 of them: what passes, and which share of hints says more than numbers
python -m tests.exercises.mutants 200 7    200 of them, by another seed
"""

import ast
import contextlib
import copy
import inspect
import linecache
import pkgutil
import random
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from course_lib import solutions
from course_lib.exercise import Exercise, grade, of_chapter

CHAPTERS = [module.name for module in pkgutil.iter_modules(solutions.__path__)]
BARE = re.compile(
    r"^(for .* )?it gives .* where .* is expected", re.I
)  # numbers, and no word about the mistake
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


def verdict(mutant: Mutant, seconds: int = 20) -> tuple[str, str]:
    """passes, crash, bare or named, and what was printed. One that does not end has crashed."""
    (spec,) = [s for s in of_chapter(mutant.exercise.split(".")[0]) if s.name == mutant.exercise]
    with limited(seconds):
        state, hint = grade(spec, mutant.fn)
    if state == "PASS":
        return "passes", hint
    if state == "TODO" or CRASH.search(hint):
        return "crash", hint
    return ("bare" if BARE.search(hint) else "named"), hint


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


def main(n: int = 1000, seed: int = 0) -> None:
    """Try n mutants; print those that pass and are not known to be equivalent, and the shares."""
    from tests.exercises.equivalent import reason

    counts, by_exercise = Counter(), {}
    for mutant in draw(n, seed):
        kind, hint = verdict(mutant)
        if kind == "passes" and reason(mutant):
            kind = "equivalent"
        counts[kind] += 1
        by_exercise.setdefault(mutant.exercise, Counter())[kind] += 1
        if kind == "passes" or "-v" in sys.argv:
            print(f"{kind} {mutant.exercise}: {mutant.text}\n    {hint}")
    for name, counted in by_exercise.items():
        print(f"{name:40}", *(f"{kind} {k}" for kind, k in sorted(counted.items())))
    told = counts["named"] + counts["bare"]
    print(
        sum(counts.values()), dict(counts), f"named {counts['named'] / told:.0%} of those that ran and failed"
    )


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:] if a != "-v"))
