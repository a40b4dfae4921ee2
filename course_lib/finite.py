"""Numbers that are not finite: named at once on a CPU, and elsewhere noted without making the device wait.

A NaN that becomes a token, a remembered state or a checkpoint is an error that nobody sees. So whatever a network says
and whatever a loss is passes through here. On a GPU reading a number would stop the queue, so what was found there is
kept on the device by the loop that runs (`with watch:`), which reads it all at its end.
"""

from contextvars import ContextVar

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

RUNNING: ContextVar["Watch | None"] = ContextVar(
    "RUNNING", default=None
)  # the loop that runs in this thread


class Watch:
    """What a loop has seen that was not finite: `with watch:` around each step, `watch.read()` at the end.

    step  the number of the step that runs, for the message; None if the loop does not count
    """

    def __init__(self) -> None:
        self.step: int | None = None
        self.unread: list[tuple[Tensor, Tensor | None, str, str, int | None]] = []
        self.outer = []

    def __enter__(self) -> "Watch":
        self.outer.append(RUNNING.set(self))
        return self

    def __exit__(self, *_) -> None:
        RUNNING.reset(self.outer.pop())

    def add(
        self,
        good: Bool[Tensor, "*n"],
        t: Shaped[Tensor, "*n"] | None,
        what: str,
        must: str,
    ) -> None:
        """Note on the device which examples were as they must be; nothing is read."""
        self.unread.append((good, t, what, must, self.step))

    def read(self) -> None:
        """Raise FloatingPointError for the first that was not finite. On a GPU this waits for it."""
        noted, self.unread = self.unread, []
        if not noted:
            return
        # One transfer for all that was noted, in place of one for each.
        every = torch.stack([good.all() for good, *_ in noted])
        if not every.all():
            first = int((~every).nonzero()[0])
            raise FloatingPointError(message(*noted[first]))


def check_finite(
    name: str, values: Shaped[Tensor, "B *event"], t: Shaped[Tensor, " B"]
) -> Shaped[Tensor, "B *event"]:
    """The values themselves; FloatingPointError with step and t if an example's are NaN or infinite.

    At once on a CPU, and where no loop runs; else when the running loop reads its watch.
    """
    values_only = values.detach()
    # On a CPU their sum is read first: one pass, and it is finite unless a number is not or it overflows.
    if values_only.device.type != "cpu" or not values_only.sum().isfinite():
        note(name, values_only.isfinite(), t)
    return values


def note(
    what: str,
    good: Bool[Tensor, "*shape"],
    t: Shaped[Tensor, " B"] | None = None,
    must: str = "finite",
) -> None:
    """Say which numbers are good, each or by example. Raises as `check_finite` does.

    t     the time of each example, which is the first axis of good; None where no time is known
    must  what the numbers should be, for the message
    """
    if t is not None and good.ndim > 1:
        good = good.flatten(1).all(1)
    # A context variable, not a global one: threads
    # and nested loops each have their own.
    watch = RUNNING.get()
    if good.device.type != "cpu" and watch is not None:
        watch.add(good, t, what, must)
    elif good.device.type == "meta":
        return  # shapes without numbers
    # Without a loop nobody would read it later, so a GPU is waited for.
    elif not good.all():
        raise FloatingPointError(
            message(good, t, what, must, watch.step if watch else None)
        )


def settled(
    what: str,
    good: Bool[Tensor, "*shape"],
    must: str,
    t: Shaped[Tensor, " B"] | None = None,
) -> bool:
    """Whether all are as they must be, for an error of the caller's own; off the CPU that is noted, and True."""
    if good.device.type == "cpu":
        return bool(good.all())
    note(what, good, t, must)
    return True


def message(
    good: Bool[Tensor, "*n"],
    t: Shaped[Tensor, "*n"] | None,
    what: str,
    must: str,
    step: int | None,
) -> str:
    """What was not as it must be, where and when."""
    bad = ~good
    at_step = "" if step is None else f" at step {step},"
    at_t = "" if t is None else f" at t = {t.expand(good.shape)[bad][0].item():g}"
    unit = "cases" if t is None else "examples"
    count = f"{int(bad.sum())} of {bad.numel()} {unit}"
    return f"{what} must be {must}, but{at_step}{at_t} it is not in {count}"
