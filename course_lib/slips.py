"""The slips of a formula: the reference with one thing in it changed, each with a sentence that says what.

A wrong answer that equals such a slip in every case is told so, whatever it looks like itself. Nothing of the reference
is shown but arguments and what is made of them directly.
"""

import ast
import copy
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass

ROOTS = {
    "sqrt": "the root",
    "log": "the logarithm",
    "exp": "the exponential",
    "square": "the square",
    "expm1": "expm1",
    "abs": "the absolute value",
}
SIGNS = {
    ast.NotEq: "!=",
    ast.Eq: "==",
    ast.LtE: "<=",
    ast.Lt: "<",
    ast.GtE: ">=",
    ast.Gt: ">",
}
OTHER_OPERATORS = {
    ast.Add: [(ast.Sub, "minus stands where plus belongs")],
    ast.Sub: [(ast.Add, "plus stands where minus belongs")],
    ast.Mult: [(ast.Div, "is divided by where it should be multiplied with")],
    ast.Div: [(ast.Mult, "is multiplied with where it should be divided by")],
}


@dataclass
class Slip:
    """One change: what it is, and the function that has it."""

    text: str
    wrong: Callable


@functools.cache
def text_of(reference: Callable) -> str:
    """The source of a function that may stand inside another."""
    return textwrap.dedent(inspect.getsource(reference))


def tree_of(reference: Callable) -> ast.FunctionDef:
    """The function as a tree, without its docstring and annotations."""
    node = ast.parse(text_of(reference)).body[0]
    if not isinstance(node, ast.FunctionDef):
        raise TypeError(
            f"reference must be a plain function, not {type(node).__name__}"
        )
    node.decorator_list = []
    if ast.get_docstring(node):
        node.body = node.body[1:]
    return node


def built(node: ast.FunctionDef, like: Callable) -> Callable:
    """The tree as a function that sees what the reference sees."""
    space = dict(inspect.unwrap(like).__globals__)
    module = ast.fix_missing_locations(ast.Module([node], []))
    exec(compile(module, "<slip>", "exec"), space)
    return space[node.name]


def edited(reference: Callable, edits: str) -> Callable:
    """The reference with its text changed: "old -> new", several apart by " ; ". Each old must stand there once.

    Raises ValueError where it does not.
    """
    source = text_of(reference).replace(reference.__doc__ or "", "", 1)
    for edit in edits.split(" ; "):
        old, arrow, new = edit.partition(" -> ")
        if not arrow or source.count(old) != 1:
            raise ValueError(
                f'an edit must be "old -> new" with an old that stands once in {reference.__name__}, not {edit!r}'
            )
        source = source.replace(old, new)
    space = dict(inspect.unwrap(reference).__globals__)
    exec(compile(source, f"<{reference.__name__}: {edits}>", "exec"), space)
    return space[reference.__name__]


# --- how a place is called ---


class _Spoken(ast.NodeTransformer):
    """x.sqrt() reads sqrt(x), torch.log(x) reads log(x)."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute):
            name = node.func.attr
            inside = (
                []
                if isinstance(node.func.value, ast.Name)
                and node.func.value.id in ("torch", "math", "F")
                else [node.func.value]
            )
            if name in ROOTS or name in ("sum", "mean"):
                return ast.Call(ast.Name(name), [*inside, *node.args][:1], [])
        return node


class Names:
    """How an expression of the reference is called: by arguments alone, else not at all."""

    def __init__(self, node: ast.FunctionDef):
        self.arguments = {a.arg for a in node.args.args}
        self.known: dict[str, ast.expr] = {}
        counts: dict[str, int] = {}
        for n in ast.walk(node):
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store):
                counts[n.id] = counts.get(n.id, 0) + 1
        for n in node.body:
            if (
                isinstance(n, ast.Assign)
                and isinstance(n.targets[0], ast.Name)
                and counts[n.targets[0].id] == 1
                and n.targets[0].id not in self.arguments
            ):
                self.known[n.targets[0].id] = n.value

    def say(self, node: ast.expr) -> str | None:
        """The expression in the words of the arguments, if that is short."""
        inside = self.put_in(copy.deepcopy(node))
        names = {n.id for n in ast.walk(inside) if isinstance(n, ast.Name)} - {
            "torch",
            "math",
            "F",
        }
        if any(
            isinstance(
                n,
                ast.Lambda
                | ast.comprehension
                | ast.JoinedStr
                | ast.Subscript
                | ast.keyword,
            )
            for n in ast.walk(inside)
        ):
            return None
        text = ast.unparse(ast.fix_missing_locations(_Spoken().visit(inside))).replace(
            "**", "^"
        )
        called = {
            n.func.id
            for n in ast.walk(inside)
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        return text if names - called <= self.arguments and len(text) <= 40 else None

    def put_in(self, node: ast.expr) -> ast.expr:
        known = self.known

        class In(ast.NodeTransformer):
            def visit_Name(self, n: ast.Name) -> ast.AST:
                return self.visit(copy.deepcopy(known[n.id])) if n.id in known else n

        return In().visit(node)


# --- the changes ---


def replacements(node: ast.expr, names: Names) -> Iterator[tuple[ast.expr, str]]:
    """What may stand in place of an expression, and the sentence for it."""
    said = names.say(node)
    if isinstance(node, ast.BinOp):
        yield from _of_operator(node, names)
    elif isinstance(node, ast.Call):
        yield from _of_call(node, names)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield (
            node.operand,
            f"the minus {'before ' + names.say(node.operand) if names.say(node.operand) else 'of one term'} is missing",
        )
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        for value in {
            node.value + 1,
            node.value - 1,
            0 - node.value if node.value else 2,
        }:
            yield ast.Constant(value), f"{value:g} stands where {node.value:g} belongs"
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        sign = SIGNS.get(type(node.ops[0]), "?")
        for op, other in SIGNS.items():
            if other != sign != "?":
                yield (
                    ast.Compare(node.left, [op()], node.comparators),
                    f"{other} is asked where {sign} belongs",
                )
    elif (
        isinstance(node, ast.Subscript)
        and isinstance(node.ctx, ast.Load)
        and not isinstance(node.slice, ast.Slice | ast.Tuple)
    ):
        where = names.say(node.slice)
        for op, text in ((ast.Sub, "one too early"), (ast.Add, "one too late")):
            shifted = ast.Subscript(
                node.value, ast.BinOp(node.slice, op(), ast.Constant(1)), ast.Load()
            )
            yield (
                shifted,
                f"a table is read {text}"
                + (f", at {where} {'-' if op is ast.Sub else '+'} 1" if where else ""),
            )
    if isinstance(node, ast.Name) and node.id in names.arguments:
        for other in sorted(names.arguments - {node.id}):
            yield (
                ast.Name(other, ast.Load()),
                f"{other} stands in one place where {node.id} belongs",
            )
    if isinstance(node, ast.Name) and node.id in names.arguments:
        for op, sign in ((ast.Sub, "-"), (ast.Add, "+")):
            beside = ast.BinOp(ast.Name(node.id, ast.Load()), op(), ast.Constant(1))
            yield (
                beside,
                f"{node.id} {sign} 1 stands in one place where {node.id} belongs",
            )
    if said and not isinstance(node, ast.Constant):
        yield from _around(node, said)


def _around(node: ast.expr, said: str) -> Iterator[tuple[ast.expr, str]]:
    """A root, a square, 1 minus too many."""
    if isinstance(node, ast.Name | ast.BinOp):
        power = ast.BinOp(copy.deepcopy(node), ast.Pow(), ast.Constant(0.5))
        yield (
            power,
            f"the root of {said} stands in one place where {said} itself belongs",
        )
        yield (
            ast.BinOp(copy.deepcopy(node), ast.Pow(), ast.Constant(2)),
            f"the square of {said} stands in one place where {said} itself belongs",
        )
        yield (
            ast.BinOp(ast.Constant(1), ast.Sub(), copy.deepcopy(node)),
            f"1 - ({said}) stands in one place where {said} belongs"
            if isinstance(node, ast.BinOp)
            else f"1 - {said} stands in one place where {said} belongs",
        )
        yield (
            ast.UnaryOp(ast.USub(), copy.deepcopy(node)),
            f"{said} has the wrong sign in one place",
        )


def _of_operator(node: ast.BinOp, names: Names) -> Iterator[tuple[ast.expr, str]]:
    left, right = names.say(node.left), names.say(node.right)
    kind = type(node.op)
    for other, text in OTHER_OPERATORS.get(kind, []):
        swapped = ast.BinOp(node.left, other(), node.right)
        if kind in (ast.Add, ast.Sub):
            yield swapped, text + (f" before {right}" if right else "")
        else:
            yield (
                swapped,
                f"{right or 'a factor'} {text}".replace(
                    "is divided by where it should be multiplied with",
                    "divides where it should multiply",
                ).replace(
                    "is multiplied with where it should be divided by",
                    "multiplies where it should divide",
                ),
            )
    if kind is ast.Add:
        yield (
            node.left,
            f"the term {right} is missing" if right else "one term of a sum is missing",
        )
        yield (
            node.right,
            f"the term {left} is missing" if left else "one term of a sum is missing",
        )
    elif kind is ast.Sub:
        yield (
            node.left,
            f"{right} is not taken away" if right else "one term is not taken away",
        )
        yield (
            node.right,
            f"{right} stands where {left} - {right} belongs"
            if left and right
            else "one term of a difference is missing",
        )
        yield (
            ast.BinOp(node.right, ast.Sub(), node.left),
            f"a difference is the wrong way round: {right} - {left} for {left} - {right}"
            if left and right
            else "a difference is the wrong way round",
        )
    elif kind is ast.Mult:
        yield (
            node.left,
            f"the factor {right} is missing" if right else "a factor is missing",
        )
        yield (
            node.right,
            f"the factor {left} is missing" if left else "a factor is missing",
        )
    elif kind is ast.Div:
        yield (
            node.left,
            f"nothing is divided by {right}" if right else "a division is missing",
        )
        yield (
            ast.BinOp(node.right, ast.Div(), node.left),
            f"a fraction is upside down: {right} / {left}"
            if left and right
            else "a fraction is upside down",
        )
    elif kind is ast.Pow:
        yield (
            node.left,
            f"the power of {left} is missing" if left else "a power is missing",
        )
        yield (
            ast.BinOp(
                node.left, ast.Pow(), ast.BinOp(node.right, ast.Mult(), ast.Constant(2))
            ),
            f"{left or 'something'} has twice the power that belongs there",
        )
    elif kind is ast.MatMult:
        for a, b in (
            (node.left, _call(node.right, "mT")),
            (_call(node.left, "mT"), node.right),
        ):
            yield ast.BinOp(a, ast.MatMult(), b), "a matrix is transposed in a product"
    elif kind is ast.BitAnd:
        yield node.left, "one of two conditions is not asked"
        yield node.right, "one of two conditions is not asked"


def _call(node: ast.expr, attribute: str) -> ast.expr:
    return ast.Attribute(node, attribute, ast.Load())


def _of_call(node: ast.Call, names: Names) -> Iterator[tuple[ast.expr, str]]:
    function = node.func
    name = (
        function.attr
        if isinstance(function, ast.Attribute)
        else function.id
        if isinstance(function, ast.Name)
        else ""
    )
    method = isinstance(function, ast.Attribute) and not (
        isinstance(function.value, ast.Name)
        and function.value.id in ("torch", "math", "F")
    )
    inside = function.value if method else node.args[0] if node.args else None
    said = inside is not None and names.say(inside)
    if name in ROOTS and inside is not None:
        yield (
            inside,
            f"{ROOTS[name]} {'of ' + said if said else ''} is missing in one place".replace(
                "  ", " "
            ),
        )
    swaps = {
        "sum": "mean",
        "mean": "sum",
        "floor": "ceil",
        "ceil": "floor",
        "exp": "expm1",
        "expm1": "exp",
        "argmax": "argmin",
        "argmin": "argmax",
        "max": "min",
        "min": "max",
    }
    if name in swaps:
        other = copy.deepcopy(node)
        setattr(
            other.func,
            "attr" if isinstance(function, ast.Attribute) else "id",
            swaps[name],
        )
        yield other, f"{swaps[name]} stands where {name} belongs"
        if (
            name in ("sum", "mean")
            and node.args
            and isinstance(node.args[-1], ast.Constant | ast.UnaryOp)
        ):
            for axis in (0, 1, -1):
                turned = copy.deepcopy(node)
                turned.args[-1] = ast.Constant(axis)
                yield turned, f"the {name} goes over axis {axis}"
            yield (
                ast.Call(copy.deepcopy(function), [], []),
                f"the {name} goes over everything",
            )
    if name == "clamp" and inside is not None:
        yield inside, "values are not cut"
    if (
        name in ("log_softmax", "softmax", "double", "to", "float")
        and inside is not None
        and name.endswith("softmax")
    ):
        yield inside, "a softmax is missing"
    if name == "where" and len(node.args) == 3:
        yield node.args[1], "everything is treated as if the condition held"
        yield node.args[2], "everything is treated as if the condition did not hold"
        yield (
            ast.Call(function, [node.args[0], node.args[2], node.args[1]], []),
            "a condition is the wrong way round",
        )
    for i in range(len(node.args) - 1):
        swapped = copy.deepcopy(node)
        swapped.args[i], swapped.args[i + 1] = swapped.args[i + 1], swapped.args[i]
        yield swapped, "two arguments of one call have changed places"


def slips(reference: Callable) -> list[Slip]:
    """All functions that differ from the reference in one place."""
    root = tree_of(reference)
    if any(isinstance(n, ast.While) for n in ast.walk(root)):
        return []  # a changed loop may not end
    names, found, seen = Names(root), [], {ast.unparse(root)}
    for path in _places(root):
        for new, text in replacements(_at(root, path), names):
            changed = copy.deepcopy(root)
            _put(changed, path, copy.deepcopy(new))
            source = ast.unparse(ast.fix_missing_locations(changed))
            if source not in seen:
                seen.add(source)
                try:
                    found.append(Slip(text, built(changed, reference)))
                except (SyntaxError, ValueError, TypeError):
                    continue
    return found


Path = tuple[tuple[str, int | None], ...]


def _places(node: ast.AST, path: Path = ()) -> Iterator[Path]:
    """The way to every expression, outer ones first."""
    for name, value in ast.iter_fields(node):
        if name in ("targets", "args", "func") and isinstance(
            node, ast.Assign | ast.FunctionDef
        ):
            continue
        children = (
            [(None, value)]
            if isinstance(value, ast.AST)
            else list(enumerate(value))
            if isinstance(value, list)
            else []
        )
        for index, child in children:
            if isinstance(child, ast.AST):
                here = (*path, (name, index))
                if isinstance(child, ast.expr) and not isinstance(
                    getattr(child, "ctx", None), ast.Store
                ):
                    yield here
                yield from _places(child, here)


def _at(node: ast.AST, path: Path) -> ast.AST:
    for name, index in path:
        value = getattr(node, name)
        node = value if index is None else value[index]
    return node


def _put(node: ast.AST, path: Path, new: ast.AST) -> None:
    parent = _at(node, path[:-1])
    name, index = path[-1]
    if index is None:
        setattr(parent, name, new)
    else:
        getattr(parent, name)[index] = new
