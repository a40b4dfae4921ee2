"""How long to train: so many steps, so many minutes, or whichever comes first."""

import math
import time
from numbers import Real
from pathlib import Path

from .parallel import agreed
from .shapes import check_count, describe


class Budget:
    """What is to be done and how much is: `start()` the clock, `at(step)`, `over(step)`.

    The first process's clock counts for all of them.
    """

    def __init__(self, steps: int | None, minutes: int | float | None):
        if steps is None and minutes is None:
            raise ValueError("steps or minutes must be given, or train never ends")
        if steps is not None:
            check_count("steps", steps)
        if minutes is not None:
            if isinstance(minutes, bool) or not isinstance(minutes, Real):
                raise TypeError(f"minutes must be a number, not {describe(minutes)}")
            if not 0 < minutes < math.inf:
                raise ValueError(f"minutes must be positive and finite, not {minutes}")
        self.steps, self.minutes = steps, minutes
        self.elapsed, self.began = 0.0, 0.0  # seconds

    def start(self) -> None:
        """Let the clock run, from what has gone by already."""
        self.began = time.perf_counter() - self.elapsed

    def at(self, step: int) -> tuple[float, float]:
        """The progress when this step is done, 0 to 1, and the seconds until now."""
        elapsed = time.perf_counter() - self.began
        self.elapsed = elapsed if self.minutes is None else agreed(elapsed)
        return self.progress(step), self.elapsed

    def progress(self, step: int) -> float:
        """The larger share of what is done: of the steps at the end of this one, of the minutes when last looked at."""
        of_steps = step / self.steps if self.steps else 0.0
        of_time = self.elapsed / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(of_steps, of_time))

    def over(self, step: int) -> bool:
        """True when nothing is left to do."""
        return self.progress(step) == 1

    def check(self, step: int, path: str | Path) -> None:
        """Raise ValueError for a checkpoint beyond the steps."""
        if self.steps is not None and step > self.steps:
            raise ValueError(
                f"steps must be at least the {step} of {path}, not {self.steps}"
            )

    def wanted(self) -> str:
        """How many batches it takes."""
        if self.minutes is not None:
            return f"batches for minutes = {self.minutes}"
        return f"at least steps = {self.steps} batches"
