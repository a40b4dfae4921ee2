"""The kinds of slips: what may stand in an expression's place by mistake, and how that is said."""

import ast
import copy
from collections.abc import Iterator

Slips = Iterator[tuple[ast.expr, str]]  # what stands there, and the sentence

# an operator: what stands in the place of A and B, the sentence, and the sentence where A or B cannot be said
OPERATORS = {
    ast.Add: [
        (
            "A - B",
            "minus stands where plus belongs before {B}",
            "minus stands where plus belongs",
        ),
        ("A", "the term {B} is missing", "one term of a sum is missing"),
        ("B", "the term {A} is missing", "one term of a sum is missing"),
        ("torch.maximum(A, B)", "", "the larger of two stands where their sum belongs"),
    ],
    ast.Sub: [
        (
            "A + B",
            "plus stands where minus belongs before {B}",
            "plus stands where minus belongs",
        ),
        ("A", "{B} is not taken away", "one term is not taken away"),
        (
            "B",
            "{B} stands where {A} - {B} belongs",
            "one term of a difference is missing",
        ),
        (
            "B - A",
            "a difference is the wrong way round: {B} - {A} for {A} - {B}",
            "a difference is the wrong way round",
        ),
    ],
    ast.Mult: [
        (
            "A / B",
            "{B} divides where it should multiply",
            "a factor divides where it should multiply",
        ),
        ("A", "the factor {B} is missing", "a factor is missing"),
        ("B", "the factor {A} is missing", "a factor is missing"),
    ],
    ast.Div: [
        (
            "A * B",
            "{B} multiplies where it should divide",
            "a factor multiplies where it should divide",
        ),
        ("A", "nothing is divided by {B}", "a division is missing"),
        (
            "B / A",
            "a fraction is upside down: {B} / {A}",
            "a fraction is upside down",
        ),
    ],
    ast.Pow: [
        ("A", "the power of {A} is missing", "a power is missing"),
        (
            "A ** (B * 2)",
            "{A} has twice the power that belongs there",
            "something has twice the power that belongs there",
        ),
    ],
    ast.MatMult: [
        ("A @ B.mT", "", "a matrix is transposed in a product"),
        ("A.mT @ B", "", "a matrix is transposed in a product"),
    ],
    ast.BitAnd: [
        ("A", "", "one of two conditions is not asked"),
        ("B", "", "one of two conditions is not asked"),
    ],
}
# an argument, or what is made of arguments by an operator
AROUND = [
    ("A ** 0.5", "the root of {A} stands in one place where {A} itself belongs"),
    ("A ** 2", "the square of {A} stands in one place where {A} itself belongs"),
    ("1 - A", "1 - {(A)} stands in one place where {A} belongs"),
    ("-A", "{A} has the wrong sign in one place"),
]
SIGNS = {
    ast.NotEq: "!=",
    ast.Eq: "==",
    ast.LtE: "<=",
    ast.Lt: "<",
    ast.GtE: ">=",
    ast.Gt: ">",
}
FUNCTIONS = {
    "sqrt": "the root",
    "log": "the logarithm",
    "exp": "the exponential",
    "square": "the square",
    "expm1": "expm1",
    "abs": "the absolute value",
}
OTHER_FUNCTION = {
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
    "amin": "mean",
    "amax": "mean",
}
LEFT_OUT = {
    "clamp": "values are not cut",
    "softmax": "a softmax is missing",
    "log_softmax": "a softmax is missing",
}
MODULES = {"torch", "math", "F"}


def form(template: str, **nodes: ast.expr) -> ast.expr:
    """The template as a tree, with nodes in the place of its names."""

    class In(ast.NodeTransformer):
        def visit_Name(self, n: ast.Name) -> ast.AST:
            return nodes.get(n.id, n)

    return In().visit(ast.parse(template, mode="eval").body)


# --- how a place is called ---


class Names:
    """How an expression of the reference is called: by arguments alone, else not at all."""

    def __init__(self, node: ast.FunctionDef):
        self.arguments = {a.arg for a in node.args.args}
        self.said: dict[ast.expr, str | None] = {}
        stored = [
            n.id
            for n in ast.walk(node)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        ]
        self.once = {
            n.targets[0].id: n.value
            for n in node.body
            if isinstance(n, ast.Assign)
            and isinstance(n.targets[0], ast.Name)
            and stored.count(n.targets[0].id) == 1
            and n.targets[0].id not in self.arguments
        }

    def say(self, node: ast.expr) -> str | None:
        """The expression in the words of the arguments, if that is short."""
        if node not in self.said:
            self.said[node] = self._say(node)
        return self.said[node]

    def _say(self, node: ast.expr) -> str | None:
        inside = self._put_in(copy.deepcopy(node))
        parts = list(ast.walk(inside))
        if any(isinstance(n, UNSPOKEN) for n in parts):
            return None
        called = {
            n.func.id
            for n in parts
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        names = {n.id for n in parts if isinstance(n, ast.Name)} - MODULES - called
        text = ast.unparse(ast.fix_missing_locations(_Spoken().visit(inside)))
        text = text.replace("**", "^")
        return text if names <= self.arguments and len(text) <= 40 else None

    def _put_in(self, node: ast.expr) -> ast.expr:
        """With the expressions in place of names that are given once."""
        once = self.once

        class In(ast.NodeTransformer):
            def visit_Name(self, n: ast.Name) -> ast.AST:
                return self.visit(copy.deepcopy(once[n.id])) if n.id in once else n

        return In().visit(node)


UNSPOKEN = (
    ast.Lambda,
    ast.comprehension,
    ast.JoinedStr,
    ast.Subscript,
    ast.keyword,
)


class _Spoken(ast.NodeTransformer):
    """x.sqrt() reads sqrt(x), torch.log(x) reads log(x)."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name, inside = _called(node)
        spoken = name in FUNCTIONS or name in ("sum", "mean")
        if spoken and isinstance(node.func, ast.Attribute):
            return ast.Call(ast.Name(name), [inside] if inside else [], [])
        return node


def _called(node: ast.Call) -> tuple[str, ast.expr | None]:
    """The name of a function or method, and what it is first applied to."""
    function, first = node.func, node.args[0] if node.args else None
    if isinstance(function, ast.Name):
        return function.id, first
    if not isinstance(function, ast.Attribute):
        return "", first
    owner = function.value
    module = isinstance(owner, ast.Name) and owner.id in MODULES
    return function.attr, first if module else owner


# --- the kinds ---


def replacements(node: ast.expr, names: Names) -> Slips:
    """What may stand in place of an expression, and the sentence for it."""
    if isinstance(node, ast.BinOp):
        yield from _of_operator(node, names)
    elif isinstance(node, ast.Call):
        yield from _of_call(node, names)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inside = names.say(node.operand)
        before = f"before {inside}" if inside else "of one term"
        yield node.operand, f"the minus {before} is missing"
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        right = node.value
        for wrong in {right + 1, right - 1, -right if right else 2}:
            yield ast.Constant(wrong), f"{wrong:g} stands where {right:g} belongs"
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield from _of_comparison(node)
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        yield from _of_index(node, names)
    if isinstance(node, ast.Name) and node.id in names.arguments:
        yield from _of_argument(node.id, names)
    said = names.say(node)
    if said and isinstance(node, ast.Name | ast.BinOp):
        bracket = f"({said})" if isinstance(node, ast.BinOp) else said
        for template, sentence in AROUND:
            text = sentence.replace("{(A)}", bracket).replace("{A}", said)
            yield form(template, A=node), text


def _of_operator(node: ast.BinOp, names: Names) -> Slips:
    a, b = names.say(node.left), names.say(node.right)
    for template, sentence, short in OPERATORS.get(type(node.op), []):
        unsaid = ("{A}" in sentence and not a) or ("{B}" in sentence and not b)
        text = short if unsaid or not sentence else sentence.format(A=a, B=b)
        yield form(template, A=node.left, B=node.right), text


def _of_argument(name: str, names: Names) -> Slips:
    for other in (*sorted(names.arguments - {name}), f"{name} - 1", f"{name} + 1"):
        yield form(other), f"{other} stands in one place where {name} belongs"


def _of_comparison(node: ast.Compare) -> Slips:
    right = SIGNS.get(type(node.ops[0]))
    for op, sign in SIGNS.items():
        if right and sign != right:
            wrong = ast.Compare(node.left, [op()], node.comparators)
            yield wrong, f"{sign} is asked where {right} belongs"


def _of_index(node: ast.Subscript, names: Names) -> Slips:
    if isinstance(node.slice, ast.Slice | ast.Tuple):
        return
    where = names.say(node.slice)
    for sign, text in (("-", "one too early"), ("+", "one too late")):
        beside = form(f"TABLE[AT {sign} 1]", TABLE=node.value, AT=node.slice)
        yield (
            beside,
            f"a table is read {text}" + (f", at {where} {sign} 1" if where else ""),
        )


def _of_call(node: ast.Call, names: Names) -> Slips:
    name, inside = _called(node)
    said = names.say(inside) if inside else None
    if inside and name in FUNCTIONS:
        of = f" of {said}" if said else ""
        yield inside, f"{FUNCTIONS[name]}{of} is missing in one place"
    if inside and name in LEFT_OUT:
        yield inside, LEFT_OUT[name]
    if name in OTHER_FUNCTION:
        other = OTHER_FUNCTION[name]
        wrong = copy.deepcopy(node)
        setattr(wrong.func, "attr" if hasattr(wrong.func, "attr") else "id", other)
        yield wrong, f"{other} stands where {name} belongs"
    if name in ("sum", "mean") and node.args:
        yield from _of_axis(node, name)
    if name == "where" and len(node.args) == 3:
        asked, yes, no = node.args
        yield yes, "everything is treated as if the condition held"
        yield no, "everything is treated as if the condition did not hold"
        turned = ast.Call(node.func, [asked, no, yes], [])
        yield turned, "a condition is the wrong way round"
    for i in range(len(node.args) - 1):
        swapped = [*node.args]
        swapped[i], swapped[i + 1] = swapped[i + 1], swapped[i]
        wrong = ast.Call(node.func, swapped, node.keywords)
        yield wrong, "two arguments of one call have changed places"


def _of_axis(node: ast.Call, name: str) -> Slips:
    """Another axis than the last argument says, and all of them."""
    if isinstance(node.args[-1], ast.Constant | ast.UnaryOp):
        for axis in (0, 1, -1):
            other = [*node.args[:-1], ast.Constant(axis)]
            yield (
                ast.Call(node.func, other, node.keywords),
                f"the {name} goes over axis {axis}",
            )
        yield ast.Call(node.func, [], []), f"the {name} goes over everything"
