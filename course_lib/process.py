"""What every diffusion process can do, and the one sampling loop that uses it.

A process holds mathematics only; everything that is learned lives in the model.
Time runs from t = 0 (data) to t = T (prior); T = 1.0 for continuous-time processes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from .finite import Watch, check_finite
from .schedules import Tables
from .shapes import (
    Network,
    PerExample,
    State,
    Times,
    check_answer,
    check_count,
    describe,
    repeated,
    widest,
)


class Process(Tables):
    """The contract. A system fills in corrupt, loss_at, prior and step; the rest has defaults.

    It is a module only for its tables, which process.to(device) moves. It has no parameters.
    """

    T: int | float
    clamps_exactly = False  # True where known parts put back after each step leave the law of the others right
    remembers: tuple[
        str, ...
    ] = ()  # tables that training changes: kept in its checkpoints

    # Forward

    def corrupt(self, x0: State, t: Times) -> State:
        """Draw x_t ~ q(x_t | x_0)."""
        raise NotImplementedError

    def prior(self, n: int) -> State:
        """Draw n states x_T from pure noise."""
        raise NotImplementedError

    # Scoring: `loss` and `bound` draw x_t; `loss_at` and `bound_at` are given it

    def loss(self, model: Network, data, t: Times) -> PerExample:
        """Training loss of each example at its time t, not reduced, at one draw of x_t."""
        return self.loss_at(model, data, self.corrupt(data, t), t)

    def loss_at(self, model: Network, x0, x_t: State, t: Times) -> PerExample:
        """The training loss at this x_t."""
        raise NotImplementedError

    def bound(self, model: Network, data, t: Times) -> PerExample:
        """What to report: its mean over t is an upper bound on -log p(data), in nats per example."""
        return self.bound_at(model, data, self.corrupt(data, t), t)

    def bound_at(self, model: Network, x0, x_t: State, t: Times) -> PerExample:
        """The bound's term at this x_t, with all that does not depend on x_t."""
        raise NotImplementedError(f"{type(self).__name__} has no likelihood bound")

    # Backward

    def step(self, model: Network, x: State, t: Times, s: Times) -> State:
        """Draw x_s ~ p(x_s | x_t) for any earlier time s < t."""
        raise NotImplementedError

    def fresh(self) -> "Process":
        """What one run of `sample` steps with: itself, or a copy for a process that remembers its last steps."""
        return self

    # Data and network

    def encode(self, model: Network, data) -> State:
        """Data to state x_0. The identity unless the system embeds its data."""
        return data

    def decode(self, model: Network, x: State):
        """State back to data. The identity unless the system embeds its data."""
        return x

    def ask(self, model: Network, x_t: State, t: Times) -> Tensor:
        """model(x_t, u), checked: as many finite floats as x_t has, on its device. Raises otherwise."""
        out = model(x_t, self.u(t))
        check_answer(out, tuple(x_t.shape), x_t)
        return check_finite("the model's output", out, t)

    def u(self, t: Times) -> PerExample:
        """t / T as float32: the time that every network is given."""
        return t.float() / self.T

    # Times

    def sample_t(self, n: int) -> Times:
        """n training times, one from each of n equal strata of (0, T], in random order.

        Each single time is uniform on 1..T (or on (0, 1]); together they have less variance than n free draws.
        """
        check_count("n", n)
        within = torch.rand(n, device=self.device)
        # In float32 the sum would round up to n now and then, and t to 0, where a bound is infinite.
        u = (torch.randperm(n, device=self.device) + widest(within)) / n
        if isinstance(self.T, int):
            return (u * self.T).long().clamp(max=self.T - 1) + 1
        least = (
            torch.finfo(torch.float32).eps / n
        )  # MPS has no float64: there the sum may still round up
        return (self.T * (1 - u)).clamp(min=least).float()

    def times(self, steps: int) -> Times:
        """steps + 1 falling times from T to 0, evenly spaced (rounded where time is discrete).

        Raises ValueError unless 1 <= steps (and steps <= T where time is discrete).
        """
        check_count("steps", steps)
        if isinstance(self.T, int):
            if steps > self.T:
                raise ValueError(f"steps must be at most T = {self.T}, not {steps}")
            left = steps - torch.arange(steps + 1, device=self.device)
            return (left * self.T + steps // 2) // steps
        return torch.linspace(float(self.T), 0.0, steps + 1, device=self.device)

    # Bad input

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
            raise TypeError(
                f"{name} must be a float tensor, not {getattr(x, 'dtype', type(x).__name__)}"
            )
        if tuple(x.shape[1:]) != self.shape or len(x) < 1:
            want = ", ".join(["B >= 1", *map(str, self.shape)])
            raise ValueError(f"{name} must have shape ({want}), not {tuple(x.shape)}")

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


# Sampling


def sample(
    process: Process,
    model: Network,
    n: int,
    steps: int | Times,
    clamp: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[float, Tensor]]:
    """Yield (t, x_t) from the first time down to t = 0: the sampling loop of the whole course.

    steps  how many, evenly spaced from T; or the falling times themselves, of which the last is 0
    clamp  puts known parts back after each step: a prompt, an infilling context, a source sentence

    The model works in eval mode, without gradients, and gets its own mode back before each yield. Raises at the call
    for n < 1, times that do not fall, or a clamp that is not exact; FloatingPointError with step and t for a model
    that says NaN. `last(...)` keeps only the end.
    """
    check_process(process)
    check_count("n", n)
    if not callable(model):
        raise TypeError(
            f"model must be callable as model(x_t, u), not {describe(model)}"
        )
    times = (
        process.check_times(steps)
        if isinstance(steps, Tensor)
        else process.times(steps)
    )
    if clamp is not None:
        process.check_clamp(clamp)
    return _sample(process.fresh(), model, n, times, clamp)


def _sample(process, model, n, times, clamp):
    watch, hours = Watch(), times.tolist()  # the one synchronisation before the end
    x = clamped(clamp, process.prior(n))
    yield hours[0], x
    for i, (t, s) in enumerate(pairwise(times), 1):
        watch.step = i
        with torch.no_grad(), evaluating(model), watch:
            x = clamped(clamp, process.step(model, x, t.expand(n), s.expand(n)))
        if i == len(hours) - 1:
            watch.read()
        yield hours[i], x


def clamped(clamp: Callable[[State], State] | None, x: State) -> State:
    """clamp(x), or ValueError if that is no state like x."""
    if clamp is None:
        return x
    kept = clamp(x)
    if not isinstance(kept, Tensor) or kept.shape != x.shape or kept.dtype != x.dtype:
        raise ValueError(
            f"clamp must return a state like x, {describe(x)}, not {describe(kept)}"
        )
    return kept


@contextmanager
def evaluating(model: Network) -> Iterator[None]:
    """The model in eval mode (no dropout, no batch statistics); each of its parts gets its own mode back."""
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    training = [part for part in parts if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def last(states: Iterable):
    """The last item of an iterator, holding one at a time: `t, x0 = last(sample(...))`."""
    end = deque(states, maxlen=1)
    if not end:
        raise ValueError("states must not be empty")
    return end[0]


def check_process(process: Process) -> None:
    """Raise TypeError for anything but a process, such as a model in its place."""
    if not isinstance(process, Process):
        raise TypeError(
            f"process must be a Process, such as DDPM(...), not {type(process).__name__}"
        )
