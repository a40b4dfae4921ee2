"""What a process is given, checked: its times, its states, and what puts known parts back."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from .schedules import Tables
from .shapes import State, Times, describe, repeated


class ProcessChecks(Tables):
    """The checks that every process makes of its arguments. Each raises, and names what came and what must come."""

    T: int | float
    shape: tuple[int, ...]
    clamps_exactly = False  # True where known parts put back after each step leave the law of the others right

    def check_times(self, times: Tensor) -> Times:
        """The times on the process's device, or an error: they fall at every step, from at most T down to 0.

        The first may be below T: sampling then starts from the prior as if it were x at that time.
        """
        if not isinstance(times, Tensor) or times.ndim != 1 or len(times) < 2:
            raise ValueError(
                f"steps must be a number or a tensor of at least 2 times, not {describe(times)}"
            )
        whole = isinstance(self.T, int)
        if (
            times.is_floating_point() == whole
            or times.is_complex()
            or times.dtype == torch.bool
        ):
            raise TypeError(
                f"the times must be {'integers' if whole else 'floats'}, not {times.dtype}"
            )
        values = times.tolist()
        if not 0 < values[0] <= self.T or values[-1] != 0:
            raise ValueError(
                f"the times must run from at most T = {self.T} to 0, not from {values[0]} to {values[-1]}"
            )
        if not all(s < t for t, s in pairwise(values)):
            raise ValueError(f"the times must fall at every step, but are {values}")
        if values[0] < self.T:
            self.check_start(values[0])
        return times.to(self.device, torch.long if whole else times.dtype)

    def check_start(self, t: int | float) -> None:
        """Raise ValueError where x_t is not nearly a draw of the prior, so that sampling must not start there."""

    def check_t(self, name: str, t: Tensor, n: int, first: int = 0) -> None:
        """Raise unless t is one time per example in [first, T], of the process's kind (integer or real).

        Off the CPU the range is not read, since that would make the device wait.
        """
        whole = isinstance(self.T, int)
        if not isinstance(t, Tensor) or t.shape != (n,):
            shape = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
            raise ValueError(
                f"{name} must be a tensor of shape ({n},), one time per example, not {shape}"
            )
        if t.is_floating_point() == whole or t.is_complex() or t.dtype == torch.bool:
            raise TypeError(
                f"{name} must hold {'integers' if whole else 'floats'}, not {t.dtype}"
            )
        # Torch reads uint8 as a mask where it indexes, and int8 and int16 not at all.
        if whole and t.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{name} must be int32 or int64, not {t.dtype}")
        if t.device.type == "cpu":
            low, high = (
                (t[0].item(),) * 2 if repeated(t) else (t.min().item(), t.max().item())
            )
            if not (low >= first and high <= self.T):
                raise ValueError(
                    f"{name} must lie in [{first}, {self.T}], but spans [{low}, {high}]"
                )

    def check_positive(self, t: Tensor, n: int) -> None:
        """Raise unless t is one time per example in (0, T]: at 0 there is no noise to speak of."""
        self.check_t("t", t, n)
        if t.device.type == "cpu" and not (t > 0).all():
            i = int((t <= 0).nonzero()[0])
            raise ValueError(
                f"t must lie in (0, {self.T}], but t = 0 in example {i}: there is no noise there"
            )

    def check_state(self, name: str, x: Tensor) -> None:
        """Raise unless x is a floating (B, *shape) with B >= 1. For systems that set `shape`."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            came = x.dtype if isinstance(x, Tensor) else describe(x)
            raise TypeError(f"{name} must be a float tensor, not {came}")
        if tuple(x.shape[1:]) != self.shape or len(x) < 1:
            want = ", ".join(["B >= 1", *map(str, self.shape)])
            raise ValueError(f"{name} must have shape ({want}), not {tuple(x.shape)}")

    def check_like(self, name: str, value: Tensor, x: Tensor) -> None:
        """Raise ValueError unless value has exactly the shape of x: any other might broadcast to it."""
        if value.shape != x.shape:
            raise ValueError(
                f"{name} must have the shape of the state, {tuple(x.shape)}, not {tuple(value.shape)}"
            )

    def check_step(self, n: int, t: Tensor, s: Tensor) -> None:
        """Raise unless 0 <= s < t <= T, one pair per example."""
        self.check_t("t", t, n, first=int(isinstance(self.T, int)))
        self.check_t("s", s, n)
        if t.device.type == "cpu" and not (s < t).all():
            i = int((s >= t).nonzero()[0])
            raise ValueError(
                f"s must be before t, but s = {s[i].item()} and t = {t[i].item()} in example {i}"
            )

    def check_clamp(self, clamp: Callable[[State], State]) -> None:
        """Raise ValueError where putting known parts back does not draw the others from their law given these.

        With a perfect network it is exact for absorbing noise; for other noise the rest has not seen what is put
        back (total variation up to 0.35). A clamp may know better (`exact`, as the source of a pair that the network
        reads clean), and `infilling.approximately(clamp)` says that it is wanted all the same.
        """
        if (
            self.clamps_exactly
            or getattr(clamp, "exact", False)
            or getattr(clamp, "approximate", False)
        ):
            return
        raise ValueError(
            f"clamp is not exact for {type(self).__name__} with this noise: what is put back after a step was not "
            "seen in it, so the rest does not follow its law given the known parts. To sample so all the same, pass "
            "clamp=approximately(clamp) of course_lib.infilling"
        )
