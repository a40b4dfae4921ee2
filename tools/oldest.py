"""Constraints that hold each dependency at the oldest version pyproject.toml allows: python tools/oldest.py > FILE."""

import pathlib
import re
import tomllib


def oldest(project: dict) -> list[str]:
    """'torch==2.6' for 'torch>=2.6,<3', for every requirement of the library and of the extras course and test."""
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["course"], *extras["test"]]
    found = [re.match(r"([\w.-]+)>=([\w.]+)", line) for line in wanted]
    return sorted({f"{name}=={version}" for name, version in (match.groups() for match in found if match)})


if __name__ == "__main__":
    file = pathlib.Path(__file__).parents[1] / "pyproject.toml"
    print(*oldest(tomllib.loads(file.read_text(encoding="utf-8"))["project"]), sep="\n")
