"""Rules of the house that are no matter of taste. What breaks them today is listed, and the lists may only shrink."""

import ast
import builtins
import dis
import importlib
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "course_lib"
MAX_LINES = 500  # about 400 is the aim, which make lint reports
PRIVATE = {"_left", "_term"}


def test_files_are_short():
    """Answers to exercises are text: half of each is hints."""
    files = {path.relative_to(LIBRARY).as_posix(): path for path in LIBRARY.rglob("*.py")}
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in files.items()}
    long = {name for name, count in lines.items() if count > MAX_LINES and not name.startswith("solutions/")}
    assert not long, f"files of more than {MAX_LINES} lines: {sorted(long)}"


def private_names() -> set[str]:
    """Names with one underscore that the library gives to methods and to functions of its files."""
    found = set()
    for path in LIBRARY.rglob("*.py"):
        if "solutions" not in path.parts:
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            found |= {n.name for n in nodes if isinstance(n, ast.FunctionDef) and n.name.startswith("_")}
    return {name for name in found if not name.startswith("__")}


def test_tests_call_public_names():
    """An inside may change as long as what it is for stays true."""
    private, called = private_names(), {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in private:
                called.setdefault(node.attr, f"{path.name}:{node.lineno}")
    lost = {name: place for name, place in called.items() if name not in PRIVATE}
    assert not lost, f"private names called from tests: {lost}"


def test_text_is_read_and_written_as_utf_8():
    """Whatever the machine's own encoding is."""
    lost = []
    for path in [*LIBRARY.rglob("*.py"), *(ROOT / "tools").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node.func, "attr", "") if isinstance(node, ast.Call) else ""
            if name in ("read_text", "write_text") and "encoding" not in {k.arg for k in node.keywords}:
                lost.append(f"{path.name}:{node.lineno}")
    assert not lost


# No name that is not there


def functions_of(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code of every function and class in it, however deep."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from functions_of(constant)


def missing_names(code: types.CodeType, there: set[str]) -> set[str]:
    """Global names that its functions read and that are nowhere: a NameError, when that line is reached."""
    read = {
        step.argval
        for function in functions_of(code)
        for step in dis.get_instructions(function)
        if step.opname == "LOAD_GLOBAL"
    }
    return read - there


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: path.stem)
def test_every_name_that_a_function_reads_is_there(path):
    """Ruff cannot say so here (F821): in the strings of shapes the names of axes are no names."""
    if path.name == "__main__.py":
        return
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    there = set(vars(importlib.import_module(name))) | set(vars(builtins))
    assert not missing_names(code, there)


def test_a_missing_name_is_found():
    source = "def f(x):\n    return [check(y) for y in g(x)]\ndef g(x):\n    return len(x)\n"
    assert missing_names(compile(source, "a", "exec"), {"f", "g", *vars(builtins)}) == {"check"}
