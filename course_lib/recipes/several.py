"""One run or several, in order of priority, within one budget; what is done is noted, so that the command goes on.

Each run gets its share of the time that is left, so that what one does not need goes to those after it. A fifth of it
is kept for measuring. Weights and log are there before the measuring begins.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..files import check_writable, read_json, write_json
from .budget import Budget
from .run import Measurement, Recipe, fresh_weights, make, measure, take

KEPT = 0.2  # share of a run's time for measuring
DONE, BEFORE = "done", "done before"
LATE, NEVER = "not measured, for want of time", "not begun, for want of time"


@dataclass(frozen=True)
class Job:
    """One recipe or measurement of a command: how large its share of the time is, where its files go.

    about  what its log says beside the rest, such as what was set
    steps  in place of the recipe's
    """

    called: str  # system.name
    recipe: Recipe | Measurement
    out: Path
    share: float = 1.0
    about: Mapping = field(default_factory=dict)
    steps: int | None = None


class Session:
    """What of a command is done, in a file, until all of it is: the same command goes on where it stopped."""

    def __init__(self, path: Path, command: str):
        self.path, self.command, self.start = path, command, time.perf_counter()
        check_writable("out", path)
        past = known(path)
        if past.get("command") != command:
            past = {}
        self.done: list[str] = past.get("done", [])
        self.spent: float = past.get("spent", 0.0)
        # Of the run that was interrupted: its name and the seconds that it had for training.
        self.now: dict = past.get("now", {})

    @property
    def elapsed(self) -> float:
        """Seconds of all sittings; of an interrupted run those since then only."""
        return self.spent + time.perf_counter() - self.start

    def begins(self, job: Job, seconds: float | None) -> float | None:
        """Note that the job begins; the seconds that it has, which are those of before if it goes on."""
        if self.now.get("called") != job.called:
            self.now = {"called": job.called, "seconds": seconds}
        self.write()
        return self.now["seconds"]

    def ends(self, job: Job) -> None:
        """Note that the job is done."""
        self.done, self.now = [*self.done, job.called], {}
        self.write()

    def write(self) -> None:
        """As it is now."""
        known = {"command": self.command, "done": self.done, "now": self.now}
        write_json(self.path, {**known, "spent": self.elapsed})


def known(path: Path) -> dict:
    """What a session wrote; nothing if there is none, or if it is damaged: then all is done again."""
    try:
        past = read_json(path)
        return past if isinstance(past, dict) else {}
    except (OSError, ValueError):
        return {}


def run_all(
    jobs: list[Job],
    command: str,
    session: Path,
    minutes: float | None = None,
    device: str = "cpu",
    measured: bool = True,
    fresh: Path | None = None,
) -> dict[str, str]:
    """Run the jobs in order and say what became of each: DONE, BEFORE, LATE or NEVER.

    session  the file that notes what is done, deleted at the end
    minutes  that all of them may take; None lets each take what it needs
    fresh    where measurements look first for weights that runs before them made
    """
    noted, became = Session(session, command), {}
    for i, job in enumerate(jobs):
        if job.called in noted.done:
            became[job.called] = BEFORE
            continue
        seconds = None
        if minutes is not None:
            left = 60 * minutes - noted.elapsed
            if left <= 0 and noted.now.get("called") != job.called:
                became[job.called] = NEVER
                continue
            seconds = max(left, 0) * job.share / sum(j.share for j in jobs[i:])
        with fresh_weights(fresh):
            became[job.called] = one(
                job, command, noted, seconds, device, measured, began=noted.elapsed
            )
        noted.ends(job)
        print(f"{job.called}: {became[job.called]}", flush=True)
    session.unlink(missing_ok=True)
    return became


def one(
    job: Job,
    command: str,
    noted: Session,
    seconds: float | None,
    device: str,
    measured: bool,
    began: float,
) -> str:
    """Run one job, in so many seconds if they are given, and say what became of it."""
    recipe, about, budget = job.recipe, dict(job.about), None
    if isinstance(recipe, Measurement):
        noted.begins(job, None)
        with at_most(seconds) as late:
            take(recipe, job.out, command, device)
            print(job.out / f"{recipe.name}.results.json", flush=True)
        return LATE if late() else DONE
    if seconds is not None:
        training = noted.begins(job, seconds * (1 - KEPT) if measured else seconds)
        budget = Budget(training, clock(device))
        about["minutes"] = round(training / 60, 3)
    else:
        noted.begins(job, None)
    made = make(recipe, job.out, command, job.steps, device, budget, about)
    late = None
    if measured:
        left = None
        if seconds is not None:
            left = max(seconds - (noted.elapsed - began), seconds * KEPT)
        with at_most(left) as late:
            print(measure(recipe, job.out, device), flush=True)
    made.clear()
    print(made.file("safetensors"), flush=True)
    return LATE if late and late() else DONE


def clock(device: str) -> Callable[[], float]:
    """Seconds, once the device has done what it was asked to."""
    if not device.startswith("cuda"):
        return time.perf_counter

    def done() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return done


class OutOfTime(BaseException):
    """Raised in the midst of what takes longer than it may; no handler of errors is to catch it."""


@contextmanager
def at_most(seconds: float | None) -> Iterator[Callable[[], bool]]:
    """Stop what runs inside after so many seconds, where the system has timers; the value says whether it did.

    None, or another thread than the main one, sets no limit.
    """
    stopped = False
    can = hasattr(signal, "setitimer")
    main = threading.current_thread() is threading.main_thread()
    if seconds is None or not can or not main:
        yield lambda: stopped
        return

    def stop(*_) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield lambda: stopped
    except OutOfTime:
        stopped = True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
