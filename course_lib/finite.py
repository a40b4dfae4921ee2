"""Numbers that are not finite: named at once on a CPU, and elsewhere noted without making the device wait.

A NaN that becomes a token, a remembered state or a checkpoint is an error that nobody sees. So whatever a network says
and whatever a loss is passes through here. On a GPU reading a number would stop the queue, so what was found there is
kept on the device by the loop that runs (`with watch:`), which reads it all at its end.
"""

from contextvars import ContextVar

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

RUNNING: ContextVar["Watch | None"] = ContextVar("RUNNING", default=None)  # the loop that runs in this thread


class Watch:
    """What a loop has seen that was not finite: `with watch:` around each step, `watch.read()` at the end.

    step  the number of the step that runs, for the message; None if the loop does not count
    """

    def __init__(self) -> None:
        self.step: int | None = None
        self.unread: list[tuple[Tensor, Tensor, str, int | None]] = []
        self.outer = []

    def __enter__(self) -> "Watch":
        self.outer.append(RUNNING.set(self))
        return self

    def __exit__(self, *_) -> None:
        RUNNING.reset(self.outer.pop())

    def add(self, good: Bool[Tensor, " B"], t: Shaped[Tensor, " B"], what: str) -> None:
        """Note on the device which examples were finite; nothing is read."""
        self.unread.append((good, t, what, self.step))

    def read(self) -> None:
        """Raise FloatingPointError for the first that was not finite. On a GPU this waits for it."""
        noted, self.unread = self.unread, []
        if not noted:
            return
        every = torch.stack([good.all() for good, _, _, _ in noted])
        if not every.all():
            first = int((~every).nonzero()[0])
            raise FloatingPointError(message(*noted[first]))


def check_finite(
    name: str, values: Shaped[Tensor, "B *event"], t: Shaped[Tensor, " B"]
) -> Shaped[Tensor, "B *event"]:
    """The values themselves; FloatingPointError with step and t if an example's are NaN or infinite.

    At once on a CPU; elsewhere when the running loop reads its watch.
    """
    good = values.detach().isfinite()
    note(name, good.flatten(1).all(1) if good.ndim > 1 else good, t)
    return values


def note(name: str, good: Bool[Tensor, " B"], t: Shaped[Tensor, " B"]) -> None:
    """Say for each example whether its numbers are good. Raises as `check_finite` does."""
    watch = RUNNING.get()
    if good.device.type != "cpu":
        if watch is not None:
            watch.add(good, t, name)
    elif not good.all():
        raise FloatingPointError(message(good, t, name, watch.step if watch else None))


def message(good: Bool[Tensor, " B"], t: Shaped[Tensor, " B"], what: str, step: int | None) -> str:
    """What was not finite, where and when."""
    bad = ~good
    at_t = t.expand(good.shape)[bad][0].item()
    at_step = "" if step is None else f" at step {step},"
    return f"{what} must be finite, but{at_step} at t = {at_t:g} it is not in {int(bad.sum())} of {len(bad)} examples"
