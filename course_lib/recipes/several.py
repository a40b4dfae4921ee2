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

from ..files import check_writable, read_json, write_json
from ..parallel import agreed, first, together
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
    share: int | float = 1.0
    about: Mapping = field(default_factory=dict)
    steps: int | None = None


class Session:
    """What of a command is done, in a file, until all of it is: the same command goes on where it stopped.

    Of many processes the first one reads and writes.
    """

    def __init__(self, path: Path, command: str):
        self.path, self.command, self.start = path, command, time.perf_counter()
        together(lambda: check_writable("out", path))
        past = together(lambda: known(path))
        # Another command's file: what that did says nothing of this one.
        if past.get("command") != command:
            past = {}
        self.done: list[str] = past.get("done", [])
        self.spent: float = past.get("spent", 0.0)
        # Of the run that was interrupted: its name and the minutes that it had for training.
        self.now: dict = past.get("now", {})

    @property
    def elapsed(self) -> float:
        """Seconds of all sittings; of an interrupted run those since then only."""
        # The first process's clock, so that all decide alike what there is time for.
        return agreed(self.spent + time.perf_counter() - self.start)

    def begins(self, job: Job, minutes: int | float | None) -> float | None:
        """Note that the job begins; the minutes that it has, which are those of before if it goes on."""
        if self.now.get("called") != job.called:
            self.now = {"called": job.called, "minutes": minutes}
        self.write()
        return self.now["minutes"]

    def ends(self, job: Job) -> None:
        """Note that the job is done."""
        self.done, self.now = [*self.done, job.called], {}
        self.write()

    def write(self) -> None:
        """As it is now."""
        known = {"command": self.command, "done": self.done, "now": self.now}
        known["spent"] = self.elapsed
        together(lambda: write_json(self.path, known))

    def clear(self) -> None:
        """All is done."""
        if first():
            self.path.unlink(missing_ok=True)


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
    minutes: int | float | None = None,
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
            # One that had begun is finished with the minutes that it was given.
            if left <= 0 and noted.now.get("called") != job.called:
                became[job.called] = NEVER
                continue
            seconds = max(left, 0) * job.share / sum(j.share for j in jobs[i:])
        with fresh_weights(fresh):
            became[job.called] = one(job, command, noted, seconds, device, measured)
        noted.ends(job)
        say(f"{job.called}: {became[job.called]}")
    noted.clear()
    return became


def one(
    job: Job,
    command: str,
    noted: Session,
    seconds: int | float | None,
    device: str,
    measured: bool,
) -> str:
    """Run one job, in so many seconds if they are given, and say what became of it."""
    recipe, about, began, minutes = job.recipe, dict(job.about), noted.elapsed, None
    if seconds is not None and isinstance(recipe, Recipe):
        # A measurement has all of its time: it trains nothing.
        minutes = seconds * (1 - KEPT if measured else 1) / 60
    minutes = noted.begins(job, minutes)
    if isinstance(recipe, Measurement):
        ready = within(seconds, lambda: take(recipe, job.out, command, device))
        say(job.out / f"{recipe.name}.results.json")
        return DONE if ready else LATE
    if minutes is not None:
        about["minutes"] = round(minutes, 3)
    made = make(recipe, job.out, command, job.steps, device, minutes, about)
    ready = True
    if measured:
        left = None
        if seconds is not None:
            # What training left, and at least what was kept for it.
            left = max(seconds - (noted.elapsed - began), seconds * KEPT)
        ready = within(left, lambda: say(measure(recipe, job.out, device)))
    made.clear()
    say(made.file("safetensors"))
    return DONE if ready else LATE


def say(what: object) -> None:
    """Print it, on the first process."""
    if first():
        print(what, flush=True)


def within(seconds: int | float | None, what: Callable[[], object]) -> bool:
    """Do something on the first process, in so many seconds; False if it took longer and was stopped."""

    def timed() -> bool:
        with at_most(seconds) as late:
            what()
        return not late()

    return together(timed)


class OutOfTime(BaseException):
    """Raised in the midst of what takes longer than it may; no handler of errors is to catch it."""


@contextmanager
def at_most(seconds: int | float | None) -> Iterator[Callable[[], bool]]:
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
    # 0 would mean no alarm at all.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield lambda: stopped
    except OutOfTime:
        stopped = True
    finally:
        # In this order: no alarm may find the handler gone.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
