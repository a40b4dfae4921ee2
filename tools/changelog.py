"""The table old name -> new name of CHANGELOG.md, checked: `python -m tools.changelog`.

tools/names_0.1.0.txt lists the public names of the last release, `module.name` and `module.Class.method` (`--write REF`
makes it anew from a commit). Each of them is where it was, or stands in the left column of the table: as `module.name`
or `Class.method`, or as `name` alone after one of the same module or class. What is in a module that moved goes
with it.
"""

import argparse
import ast
import re
import subprocess
import sys
from pathlib import Path

from course_lib.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
RELEASED = ROOT / "tools" / "names_0.1.0.txt"
TABLE = ROOT / "CHANGELOG.md"


def public(source: str, module: str) -> set[str]:
    """module.name of each function, class and constant, module.Class.method of each method; none with an underscore."""
    found = set()
    for node in ast.parse(source).body:
        names = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [t.id for t in node.targets if isinstance(t, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        found |= {f"{module}.{name}" for name in names if not name.startswith("_")}
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            inside = [n.name for n in node.body if isinstance(n, ast.FunctionDef)]
            found |= {f"{module}.{node.name}.{name}" for name in inside if not name.startswith("_")}
    return found


def module_of(path: str) -> str:
    """course_lib/recipes/sde.py -> recipes.sde"""
    return path.removeprefix("course_lib/").removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def of_commit(ref: str) -> set[str]:
    """The public names of a commit, but for solutions, which are answers to exercises."""
    show = ["git", "-C", str(ROOT)]
    listed = subprocess.run(
        [*show, "ls-tree", "-r", "--name-only", ref, "course_lib"], capture_output=True, check=True
    )
    paths = [p for p in listed.stdout.decode().split() if p.endswith(".py") and "/solutions/" not in p]
    found = set()
    for path in paths:
        text = subprocess.run(
            [*show, "show", f"{ref}:{path}"], capture_output=True, check=True
        ).stdout.decode()
        found |= public(text, module_of(path))
    return found


def of_tree(root: Path = ROOT) -> set[str]:
    """The public names of the library as it lies here; a class has the methods of the classes that it stands on."""
    found, above = set(), {}
    for path in sorted((root / "course_lib").rglob("*.py")):
        if "solutions" in path.parts:
            continue
        text, module = path.read_text(encoding="utf-8"), module_of(path.relative_to(root).as_posix())
        found |= public(text, module)
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                above[f"{module}.{node.name}"] = [b.id for b in node.bases if isinstance(b, ast.Name)]

    def methods(full: str) -> set[str]:
        own = {name.removeprefix(f"{full}.") for name in found if name.startswith(f"{full}.")}
        bases = [base for base in above if base.rpartition(".")[2] in above[full]]
        return own.union(*map(methods, bases))

    return found | {f"{full}.{method}" for full in above for method in methods(full)}


def told(text: str) -> set[str]:
    """What the left column names: each code span, with the module of the one before it where it has none."""
    names = set()
    for line in text.splitlines():
        if line.startswith("| `"):
            before = ""
            for span in re.findall(r"`([^`]+)`", line.split("|")[1]):
                span = re.sub(r"[(=\[].*", "", span).strip().removeprefix("course_lib.")
                if span.startswith("."):  # `A.f`, `.g`
                    span = before.rpartition(".")[0] + span
                names |= {span, before.rpartition(".")[0] + "." + span} if before else {span}
                before = span if "." in span else f"{before.rpartition('.')[0]}.{span}"
    return names


def lost(released: set[str], now: set[str], table: set[str]) -> list[str]:
    """Released names that are neither there nor in the table."""
    missing = []
    for name in sorted(released - now):
        parts = name.split(".")
        spelled = {".".join(parts[:k]) for k in range(1, len(parts) + 1)}
        if parts[-2][0].isupper():  # Class.method
            spelled.add(".".join(parts[-2:]))
        if not spelled & table:
            missing.append(name)
    return missing


def main(argv=None) -> int:
    """1 if a released name is lost."""
    parser = argparse.ArgumentParser(prog="python -m tools.changelog", description=__doc__)
    parser.add_argument("--write", metavar="REF", help="list the public names of this commit")
    arguments = parser.parse_args(argv)
    if arguments.write:
        text = "".join(f"{name}\n" for name in sorted(of_commit(arguments.write)))
        write_atomically(RELEASED, lambda file: file.write(text.encode()))
        return 0
    released = set(RELEASED.read_text(encoding="utf-8").split())
    missing = lost(released, of_tree(), told(TABLE.read_text(encoding="utf-8")))
    for name in missing:
        print(f"CHANGELOG.md: say what became of {name}", file=sys.stderr)
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
