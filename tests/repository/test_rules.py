"""Rules of the house that are no matter of taste. What breaks them today is listed, and the lists may only shrink."""

import ast
from pathlib import Path

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
