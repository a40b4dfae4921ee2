"""What was measured, as JSON, as a table and as a figure."""

import json
import math
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from course_lib.files import write_atomically


def machine(device: str) -> dict:
    """What it ran on: kind of processor, threads, versions. No name of a host."""
    versions = {}
    for name in ("torch", "numpy", "diffusers", "nltk"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {
        "device": device,
        "gpu": gpu,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
    }


def write_json(path: Path, results: dict) -> None:
    """The results, written whole or not at all."""
    text = json.dumps(results, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda f: f.write(text.encode()))


def times(quartiles: list[float] | None) -> str:
    """A ratio with two digits: its median."""
    if quartiles is None:
        return "-"
    middle = quartiles[1]
    digits = max(0, 1 - math.floor(math.log10(middle)))
    return f"{middle:.{digits}f}"


def table(results: dict) -> str:
    """Markdown: each comparison's calls, their time over ours and over the floor, their memory."""
    rows = ["| what | who | time / ours | time / floor | peak MiB |", "|:--|:--|--:|--:|--:|"]
    for found in results["comparisons"]:
        name = f"{found['name']}" + (f" (floor: {found['floor']['what']})" if found["floor"]["what"] else "")
        for who, call in found["calls"].items():
            over, floor = times(call["over_ours"]), times(call["over_floor"])
            memory = "-" if call["MiB"] is None else f"{call['MiB']:.0f}"
            rows.append(f"| {name} | {who} | {over} | {floor} | {memory} |")
            name = ""
    return "\n".join(rows)


def figure(results: dict, path: Path) -> None:
    """Each call's time over the floor, on one logarithmic axis; ours filled, others open."""
    from matplotlib.figure import Figure

    shown = [c for c in results["comparisons"] if c["floor"]["what"]]
    fig = Figure(figsize=(12, 0.62 * len(shown) + 1.2), layout="constrained")
    axes = fig.subplots()
    for y, found in enumerate(reversed(shown)):
        for i, call in enumerate(found["calls"].values()):
            colour = "#1b63fe" if i == 0 else "#d230b8"
            x = call["over_floor"][1]
            axes.plot(x, y, "o", color=colour, markerfacecolor=colour if i == 0 else "white")
        # Names beside points would run into each other: they stand in the order of the points.
        names = sorted(found["calls"], key=lambda who: found["calls"][who]["over_floor"][1])
        place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
        axes.annotate(" | ".join(names), (0, y), (6, -9), **place, fontsize=7, va="top")
    axes.set_xscale("log")
    axes.axvline(1, color="#8c8c8c", linestyle=":")
    axes.set_yticks(range(len(shown)), [c["name"] for c in reversed(shown)], fontsize=8)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_xlabel(
        "time over the floor; under the points of a row their names, from left to right", fontsize=9
    )
    where = results["machine"]
    axes.set_title(
        f"Time over the floor on {where['gpu'] or 'a CPU'}; filled: this library", fontsize=10, loc="left"
    )
    write_atomically(path, lambda f: fig.savefig(f, format="png", dpi=110))
