"""Every result that is shown, the command that makes it again, and how long that took: python -m tools.reproduce.

One line for each file of results in assets/. Those whose weights took several sittings have no command: their log says
what was done. Commands write to build/recipes; add --force to write over what is shipped.
"""

import sys
from pathlib import Path

import nbformat

from course_lib.files import read_json
from course_lib.recipes.run import full_name, named, systems
from course_lib.recipes.tables import aligned, bits, likeness
from tools.stamps import assets, python

ROOT = Path(__file__).resolve().parents[1]


def called() -> dict[str, str]:
    """chapter/name -> system.name of every recipe."""
    return {
        full_name(recipe): f"{system}.{name}"
        for system in systems()
        for name, recipe in named(system).items()
    }


def shown(root: Path = ROOT) -> dict[Path, list[str]]:
    """File of results -> the notebooks that read its folder, and docs/RESULTS.md where it stands in its table."""
    where: dict[Path, list[str]] = {path: [] for path in sorted((root / "assets").glob("*/*.results.json"))}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        sources = [python(cell) for cell in cells if cell.cell_type == "code"]
        for file in assets(sources, path, root) & where.keys():
            where[file].append(path.stem[:2])
    for file, places in where.items():
        results = read_json(file)
        if (bits(results), likeness(results)) != ("-", "-"):
            places.append("docs/RESULTS.md")
    return where


def table(root: Path = ROOT) -> str:
    """Results, command, minutes, device, where it is shown; at the end the sum of the minutes."""
    names, total = called(), 0.0
    rows = [("results", "made by", "minutes", "on", "shown in")]
    for path, places in shown(root).items():
        log = read_json(path.with_name(path.name.replace(".results.", ".log.")))
        how = log.get("command") or f"{names.get(log['recipe'], '?')}, {log['made']}"
        minutes = log["seconds"] / 60
        total += minutes
        shown_in = ", ".join(places) or "nowhere"
        rows.append((log["recipe"], how, f"{minutes:.1f}", log["device"], shown_in))
    return f"{aligned(rows)}\n\nall together {total / 60:.1f} hours"


if __name__ == "__main__":
    print(table())
    sys.exit(0)
