"""All that CI runs, as one table of stages: `python -m tools.ci [stage ...]`, by default all."""

import argparse
import collections
import os
import re
import subprocess
import sys
import time

PYTEST = ["-m", "pytest", "-n", "2", "--dist", "loadfile"]
# Notebooks run without the unit tests' options: no shape checks, and a warning is not an error.
NBVAL = [*PYTEST, "-o", "addopts=", "-o", "filterwarnings=", "--nbval-lax", "--nbval-current-env"]
NBVAL += ["--nbval-cell-timeout", "600"]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
SOLVED = {"COURSE_SOLUTIONS": "1", "COURSE_FAST": "1"}
WORDS = ("failed", "passed", "skipped", "error", "errors")
MODES = (
    "COURSE_SOLUTIONS",
    "COURSE_FAST",
    "COURSE_STATIC",
    "COURSE_STRICT",
)  # the caller's own must not leak into a stage


def stages(notebooks):
    """Name -> (arguments after `python`, environment variables), in the order in which they run."""
    return {
        "ruff": (["-m", "ruff", "check", "."], {}),
        "format": (["-m", "ruff", "format", "--check", "."], {}),
        "notebook-lint": (["-m", "tools.lint", "notebooks"], {}),
        "outputs": (["-m", "tools.stamps", "notebooks"], {}),
        "density": (["-m", "tools.density"], {}),
        "reference": (["-m", "tools.reference", "--check"], {}),
        "unit": (PYTEST, {"COURSE_STRICT": "1"}),
        "blank": ([*NBVAL, *notebooks], {}),
        "solved": ([*NBVAL, *notebooks], SOLVED),
        "slides": (["-m", "tools.slides"], {}),
        "site": (["-m", "tools.site", "--check"], {}),
    }


def environment(extra, base):
    """The variables of a stage: the caller's without the course's modes, one thread, and the stage's own."""
    return {**{name: value for name, value in base.items() if name not in MODES}, **ONE_THREAD, **extra}


def counts(line):
    """{'passed': 3, 'failed': 1} from pytest's closing line, {} from any other."""
    if not re.search(r"\bin \d+\.\d+s\b", line):
        return {}
    return {word: int(number) for number, word in re.findall(rf"(\d+) ({'|'.join(WORDS)})\b", line)}


def run_stage(arguments, variables):
    """Run one stage, its output shown as it comes; return (exit code, pytest's counts if it printed any)."""
    found = {}
    with subprocess.Popen(
        [sys.executable, *arguments],
        env=environment(variables, os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as child:
        for line in child.stdout:
            print(line, end="", flush=True)
            found = counts(line) or found
    return child.returncode, found


def run(table, run_stage=run_stage, clock=time.monotonic):
    """Run stages until one fails; print a line for each and pytest's counts summed; return the exit code."""
    start, report, total = clock(), [], collections.Counter()
    for name, (arguments, variables) in table.items():
        print(f"--- {name}: python {' '.join(arguments)}", flush=True)
        began = clock()
        code, found = run_stage(arguments, variables)
        total.update(found)
        report.append(f"{name:14} {'ok' if code == 0 else 'FAILED':6} {clock() - began:7.1f} s")
        if code != 0:
            break
    print(*["", *report], sep="\n")
    if code != 0:
        print(f"FAILED at stage: {name}")
    if total:
        numbers = ", ".join(f"{total[word]} {word}" for word in WORDS if total[word])
        print(f"{numbers} in {clock() - start:.2f}s")
    return code


def main(arguments=None):
    """Command line: exit code of the first stage that fails, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", nargs="*", help=f"any of: {', '.join(stages([]))}")
    parser.add_argument("--notebooks", nargs="+", default=["notebooks"], help="run only these notebooks")
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="replace")  # a stage may print what a Windows pipe cannot carry
    table = stages(options.notebooks)
    if unknown := set(options.stage) - set(table):
        parser.error(f"stage is {', '.join(sorted(unknown))}, must be one of: {', '.join(table)}")
    return run({name: table[name] for name in options.stage or table})


if __name__ == "__main__":
    sys.exit(main())
