"""python -m tools.bench [--out FOLDER] [--only WORD] [--rounds N] [--device cpu|cuda]: all, in build/bench."""

import argparse
import sys
import time
from pathlib import Path

import torch

from . import gaussian, networks, scores, tokens, words
from .measure import MAKERS, measured
from .report import figure, machine, table, times, write_json

PARTS = (gaussian, tokens, scores, networks, words)  # each puts its comparisons on the list


def run(device: str, only: str, rounds: int, small: bool = False) -> dict:
    """Measure what has the word in its name, saying each ratio as it comes. What needs a missing package is named."""
    found, missing = [], []
    for make in MAKERS:
        torch.manual_seed(0)
        try:
            what = make(device, small)
        except ImportError as problem:
            missing.append({"what": make.__name__, "needs": problem.name})
            print(f"{make.__name__}: not measured, {problem.name} is not installed", flush=True)
            continue
        if only not in what.name:
            continue
        start = time.perf_counter()
        found.append(measured(what, device, rounds))
        calls = found[-1]["calls"].items()
        said = ", ".join(f"{who} {times(call['over_ours'])}" for who, call in calls)
        print(f"{what.name}: {said}   ({time.perf_counter() - start:.0f} s)", flush=True)
    return {"machine": machine(device), "rounds": rounds, "comparisons": found, "missing": missing}


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 if nothing has the word in its name."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that all of it runs")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU; more than one is timed by the wall")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    results = run(asked.device, asked.only, asked.rounds, asked.small)
    if not results["comparisons"]:
        print(f"nothing that is measured has {asked.only!r} in its name", file=sys.stderr)
        return 1
    path = asked.out / f"{asked.device}.json"
    write_json(path, results)
    print(table(results))
    if any(c["floor"]["what"] for c in results["comparisons"]):
        figure(results, path.with_suffix(".png"))
    print(f"{path} and its figure: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
