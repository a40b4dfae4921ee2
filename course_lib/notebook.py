"""The first cell of a notebook, which says with what and in which mode it runs; and a quiet progress bar."""

import json
import os
import platform
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from IPython import get_ipython
from matplotlib_inline.config import InlineBackend
from tqdm import tqdm

from . import __version__
from .widgets import live

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Course:
    """What a chapter needs to know about this run."""

    chapter: str
    device: torch.device
    fast: bool
    root: Path = ROOT

    def steps(self, n: int) -> int:
        """n training steps, or at most 3 when COURSE_FAST=1."""
        return min(n, 3) if self.fast else n

    @property
    def assets(self) -> Path:
        """The chapter's folder of figures, weights and logs. Raises FileNotFoundError where there is none."""
        folder = self.root / "assets" / self.chapter
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is missing: course_lib must be installed from a clone of the course with "
                "`pip install -e .`, since a plain install leaves the assets behind"
            )
        return folder

    def weights(self, name: str) -> Path:
        """The path of shipped weights. Raises FileNotFoundError with what there is instead."""
        path = self.assets / name
        if not path.is_file():
            there = (
                ", ".join(sorted(p.name for p in self.assets.glob("*.safetensors")))
                or "none"
            )
            raise FileNotFoundError(
                f"no weights {name!r} in {self.assets}; there: {there}"
            )
        return path


def setup(chapter: str, seed: int = 0) -> Course:
    """Seed torch, set threads, device and figure style, and print what this run is."""
    threads = threads_wanted()
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    plain_figures()
    course = Course(chapter, best_device(), os.environ.get("COURSE_FAST") == "1")
    packages = (f"{name} {version(name)}" for name in ("torch", "numpy", "matplotlib"))
    print(
        f"{chapter} | course_lib {__version__} | python {platform.python_version()} | {' | '.join(packages)}"
    )
    print(
        f"device: {course.device} | threads: {torch.get_num_threads()} | seed: {seed}"
    )
    solutions = "solutions" if os.environ.get("COURSE_SOLUTIONS") == "1" else "yours"
    print(
        f"exercises: {solutions} | training: {'fast (a few steps)' if course.fast else 'full'}"
    )
    print(run_time(chapter))
    return course


def threads_wanted() -> int | None:
    """$COURSE_THREADS, or else the first number of $OMP_NUM_THREADS, which may list one for each level ("4,2")."""
    ours = os.environ.get("COURSE_THREADS", "").strip()
    if ours:
        if not ours.isdecimal() or int(ours) < 1:
            raise ValueError(
                f"COURSE_THREADS must be a number of threads, not {ours!r}"
            )
        return int(ours)
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    # OpenMP ignores what it cannot read, too.
    return int(first) if first.isdecimal() and int(first) > 0 else None


def run_time(chapter: str) -> str:
    """How long the stored outputs of this notebook took to make."""
    path = ROOT / "assets" / "run_times.json"
    times = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if chapter not in times:
        return "run time: not measured yet"
    return "run time: {seconds} s when its outputs were stored, on {cores} CPU cores".format(
        **times[chapter]
    )


def best_device() -> torch.device:
    """CUDA before MPS before the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def plain_figures() -> None:
    """Figures that a cell returns are PNG at single resolution, like those of plots.show."""
    shell = get_ipython()
    if shell is not None:
        InlineBackend.instance(parent=shell).figure_formats = {"png"}


def watched() -> bool:
    """True where somebody sees a bar move: a terminal or a live notebook, but no test, CI or stored run."""
    if any(
        os.environ.get(name) for name in ("CI", "PYTEST_VERSION", "PYTEST_CURRENT_TEST")
    ):
        return False
    return live() or (sys.stderr.isatty() and os.environ.get("COURSE_STATIC") != "1")


def watch(
    records: Iterable[Any], total: int, describe: str = "training", every: int = 20
) -> Iterator[Any]:
    """Pass training records through, under a bar where one is watched; at the end print steps and final loss.

    Interrupting (the stop button, Ctrl-C) ends the training after the step that runs, not the cell: it says where,
    and what follows uses the weights there are. A second interrupt is one.
    The loss is read off the device once in `every` records, so that training does not wait for it; the final
    loss is the mean of the last `every`. Seconds are printed only where the bar is watched.
    """
    moving, start, seen, losses = watched(), time.perf_counter(), 0, deque(maxlen=every)
    # On one stream with the last line, in plain text: a bar made of widgets would stay behind in a saved notebook.
    bar = tqdm(
        total=total, desc=describe, disable=not moving, leave=False, file=bar_stream()
    )
    with Interrupts() as interrupts:
        try:
            for record in records:
                seen += 1
                losses.append(torch.as_tensor(record.loss).detach())
                if moving and seen % every == 0:
                    bar.set_postfix(
                        loss=f"{losses[-1].mean().item():.3f}", refresh=False
                    )
                    bar.update(every)
                yield record
                if interrupts.noted:
                    break
        except KeyboardInterrupt:
            if not seen:
                raise
            interrupts.noted = True
        finally:
            bar.close()
            if seen:
                seconds = f", {time.perf_counter() - start:.1f} s" if moving else ""
                final = sum(loss.mean().item() for loss in losses) / len(losses)
                print(
                    f"{describe}: {counted(seen, total, interrupts.noted)}, final loss {final:.3f}{seconds}"
                )


def counted(seen: int, total: int, stopped: bool) -> str:
    """How many steps were made."""
    if seen == total:
        return f"{seen} steps"
    return f"{'stopped after ' * stopped}{seen} of {total} steps"


def bar_stream() -> Any:
    """Where the bar is drawn: in a notebook beside what is printed, in a terminal on standard error."""
    return sys.stdout if live() else sys.stderr


class Interrupts:
    """Inside, the first interrupt is noted in place of KeyboardInterrupt, so that a step ends whole.

    The second is raised as ever. Only the main thread is interrupted, so elsewhere nothing changes.
    """

    def __init__(self) -> None:
        self.noted = False

    def __enter__(self) -> "Interrupts":
        self.main = threading.current_thread() is threading.main_thread()
        if self.main:
            self.before = (
                signal.signal(signal.SIGINT, self.note) or signal.default_int_handler
            )
        return self

    def note(self, *_: Any) -> None:
        """What an interrupt calls."""
        self.noted = True
        signal.signal(signal.SIGINT, self.before)

    def __exit__(self, *_: Any) -> None:
        if self.main:
            signal.signal(signal.SIGINT, self.before)
