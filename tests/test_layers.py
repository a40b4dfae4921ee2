"""Imports point upwards in the list of course_lib's docstring only, and importing costs only what is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import course_lib

ROOT = Path(course_lib.__file__).parent


def ranks() -> dict[str, tuple[int, int]]:
    """Module -> (line, place in the line) in the list: names stand in columns of 12 before the description at 48."""
    lines = [line[:48].split() for line in course_lib.__doc__.splitlines() if line.startswith("    ")]
    return {name: (i, j) for i, line in enumerate(lines) for j, name in enumerate(line)}


RANKS = ranks()
TOOLS = {"train", "evaluate", "plots", "widgets"}
MAY_KNOW_SYSTEMS = {"oracle", "word_oracle", "solutions", "recipes"}
SYSTEMS = {name for name, (line, _) in RANKS.items() if RANKS["wrapper"][0] < line < RANKS["identity"][0]}


def unit(module: str) -> str:
    return module.split(".")[1]


def imports(path: Path):
    """Names of the parts of course_lib that a file imports, anywhere in it."""
    package = ("course_lib", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(p for p in (base, node.module) if p)
            names = [f"{base}.{a.name}" for a in node.names] if base == "course_lib" else [base]
        yield from {unit(n) for n in names if n.startswith("course_lib.")} - {"__version__"}


FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def owner(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def test_every_module_is_in_the_list():
    assert {owner(p) for p in FILES} == set(RANKS)


def processes(path: Path) -> bool:
    """True for a file with a class that stands straight on Process or on the base of token processes."""
    classes = [
        n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.ClassDef)
    ]
    return any(
        isinstance(b, ast.Name) and b.id in ("Process", "TokenProcess") for c in classes for b in c.bases
    )


def test_every_system_is_in_the_contract_table():
    """A system is tested clause by clause in tests/contract, which imports it for its row in SYSTEMS."""
    bases = {"process", "tokens", "wrapper", "linear_sde"}  # none steps back or scores
    table = (ROOT.parent / "tests" / "contract" / "test_contract.py").read_text(encoding="utf-8")
    for path in FILES:
        if processes(path) and owner(path) not in bases | {"recipes", "solutions"}:
            assert f"from course_lib.{owner(path)} import" in table, f"{owner(path)} has no row in SYSTEMS"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_upwards(path):
    me = owner(path)
    wrong = [name for name in imports(path) if name != me and not RANKS[name] < RANKS[me]]
    assert not wrong, f"{me} may not import {wrong}: they stand below it in course_lib's list"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_only_a_few_know_a_system(path):
    me = owner(path)
    if me not in MAY_KNOW_SYSTEMS | SYSTEMS:
        assert not SYSTEMS & set(imports(path)), f"{me} must know the contract only"


def test_the_checks_above_see_imports(tmp_path):
    known = {"data", "ddpm", "sn_npr", "process", "shapes", "token_checks", "tokens"}
    assert set(imports(ROOT / "oracle.py")) == known
    assert {"data", "ddpm", "evaluate", "nets", "recipes"} <= set(imports(ROOT / "recipes" / "ddpm.py"))
    assert {"ddpm"} <= SYSTEMS and set(RANKS) >= TOOLS


def loaded(statement: str) -> set[str]:
    """Modules in memory after the statement, in a fresh Python."""
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_more():
    assert loaded("import course_lib") - loaded("pass") == {"course_lib"}


def test_importing_a_system_loads_torch_jaxtyping_and_the_core_only():
    new = loaded("import course_lib.ddpm") - loaded("import torch, jaxtyping, typing")
    foreign = {m for m in new if m.split(".")[0] not in sys.stdlib_module_names | {"course_lib"}}
    assert foreign == set()
    assert {m for m in new if m.startswith("course_lib")} == {
        "course_lib",
        "course_lib.process_checks",
        "course_lib.ddpm",
        "course_lib.finite",
        "course_lib.grey_levels",
        "course_lib.process",
        "course_lib.schedules",
        "course_lib.shapes",
    }
