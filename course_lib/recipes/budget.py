"""A run of so many minutes: how far it is, from 0 to 1, as a function of the step.

How many steps fit is known only as they pass, so the function is made as the run goes: a line from one knot (step,
progress) to the next. At each knot the clock says how long a step takes, hence how many are left; the next knot lies a
tenth of these ahead. The learning rate is the recipe's own, stretched or squeezed: at progress p it is what the recipe
has at step p x its steps. The knots go into the log, and a run that follows them (`Budget.of`) is the same again.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Callable

FIRST = 0.001  # progress of the first step, before any was timed
AHEAD = 10  # a knot lies this share of the steps that are left ahead
WARM = 100  # steps that the learning rate takes at least to rise

Knots = list[tuple[int, float]]


class Budget:
    """Progress of a run that may take `seconds`. Ask step by step, from 1: `progress(step)`, then `over(step)`.

    clock  seconds, after all work that was asked for is done
    agree  what all processes of the run take in place of the knot that this one worked out
    """

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.perf_counter,
        agree: Callable[[tuple[int, float]], tuple[int, float]] = lambda knot: knot,
    ):
        if not seconds > 0:
            raise ValueError(f"seconds must be positive, not {seconds}")
        self.seconds, self.clock, self.agree = seconds, clock, agree
        self.resume([(0, 0.0)], 0.0)

    @classmethod
    def of(cls, knots: Knots) -> "Budget":
        """That of a finished run, to be followed again: no clock decides. ValueError if it did not end."""
        made = cls(1.0)
        made.resume(knots, 0.0)
        if made.last is None:
            raise ValueError(
                f"knots must end at progress 1, not {made.knots[-1][1]:g}: that run was not finished"
            )
        return made

    def resume(self, knots: Knots, spent: float) -> None:
        """Go on with the run that had these knots and took `spent` seconds until now."""
        self.knots: Knots = [(int(n), float(p)) for n, p in knots]
        self.began = self.looked = self.clock()
        self.spent = spent
        self.at: int | None = None  # steps done at the last look of this sitting

    @property
    def last(self) -> int | None:
        """The last step, once it is known."""
        step, progress = self.knots[-1]
        return step if progress == 1.0 else None

    @property
    def elapsed(self) -> float:
        """Seconds of all sittings."""
        return self.spent + self.clock() - self.began

    def progress(self, step: int) -> float:
        """How far the run is after this step, in (0, 1]; 1 only after the last. It never falls."""
        if self.at is None:
            self.looked, self.at = self.clock(), step - 1
        if step > self.knots[-1][0]:
            self.plan(step - 1)
        i = bisect_left(self.knots, step, key=lambda knot: knot[0])
        (n, p), (m, q) = self.knots[i - 1], self.knots[i]
        return p + (q - p) * (step - n) / (m - n)

    def over(self, step: int) -> bool:
        """Whether this step was the last."""
        return step == self.last

    def plan(self, done: int) -> None:
        """Set the next knot, `done` steps having been taken, by the time of those since the last look."""
        if self.last is not None:
            raise ValueError(f"the run is over: its last step was {self.last}")
        now, left = self.clock(), self.seconds - self.elapsed
        step, p = self.knots[-1]
        if self.at == done:  # no step was timed in this sitting
            knot = (step + 1, p + (1 - p) * FIRST)
        else:
            each = max((now - self.looked) / (done - self.at), 1e-9)
            steps = left / each
            ahead = max(1, int(steps / AHEAD))
            # With less than two steps left the next one is the last.
            last = steps < 2
            knot = (step + ahead, 1.0 if last else p + (1 - p) * ahead / steps)
        self.knots.append(self.agree(knot))
        self.looked, self.at = now, done

    def rate(
        self, own: Callable[[float], float], steps: int, peak: float
    ) -> Callable[[int], float]:
        """Learning rate by step: the recipe's, which is `own` of the step in a run of so many steps.

        It takes at least WARM steps to its peak, so that a short run does not begin with large ones.
        """

        def lr(step: int) -> float:
            own_step = math.ceil(self.progress(step) * steps)
            return min(own(own_step), peak * step / WARM)

        return lr
