"""What every diffusion process can do, and the one sampling loop that uses it.

A process holds mathematics only; everything that is learned lives in the model.
Time runs from t = 0 (data) to t = T (prior); T = 1.0 for continuous-time processes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from numbers import Integral

import torch
from torch import Tensor, nn

from .finite import Watch, check_finite, note
from .process_checks import ProcessChecks
from .shapes import (
    Network,
    PerExample,
    State,
    Times,
    check_answer,
    check_count,
    describe,
    widest,
)


class Process(ProcessChecks):
    """The contract. A system fills in corrupt, loss_at, prior and step; the rest has defaults.

    s is the earlier time, t the later. A process takes them in the order of sampling, (t, s): so do steps, transitions,
    posteriors and samplers. A noise takes them as an interval, (s, t), whatever it says of it: mix, posterior and kl.

    It is a module only for its tables, which process.to(device) moves. It has no parameters.
    """

    T: int | float
    # Tables that training changes: kept in its checkpoints
    remembers: tuple[str, ...] = ()

    # Forward

    def corrupt(self, x0: State, t: Times) -> State:
        """Draw x_t ~ q(x_t | x_0)."""
        raise NotImplementedError(f"{type(self).__name__} has no corrupt")

    def prior(self, n: int) -> State:
        """Draw n states x_T from pure noise."""
        raise NotImplementedError(f"{type(self).__name__} has no prior")

    # Scoring: `loss` and `bound` draw x_t; `loss_at` and `bound_at` are given it

    def loss(self, model: Network, data, t: Times) -> PerExample:
        """Training loss of each example at its time t, not reduced, at one draw of x_t."""
        return self.loss_at(model, data, self.corrupt(data, t), t)

    def loss_at(self, model: Network, x0, x_t: State, t: Times) -> PerExample:
        """The training loss at this x_t."""
        raise NotImplementedError(f"{type(self).__name__} has no loss_at")

    def bound(self, model: Network, data, t: Times) -> PerExample:
        """What to report: its mean over t is an upper bound on -log p(data), in nats per example."""
        return self.bound_at(model, data, self.corrupt(data, t), t)

    def bound_at(self, model: Network, x0, x_t: State, t: Times) -> PerExample:
        """The bound's term at this x_t, with all that does not depend on x_t."""
        raise NotImplementedError(f"{type(self).__name__} has no likelihood bound")

    # Backward

    def step(self, model: Network, x: State, t: Times, s: Times) -> State:
        """Draw x_s ~ p(x_s | x_t) for any earlier time s < t."""
        raise NotImplementedError(f"{type(self).__name__} has no step")

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

        Each single time is uniform on 1..T (or on (0, 1]); together they have less variance than n free draws. The mean
        over these t is the sum or the integral over t in every loss.  (DDPM, Algorithm 1, line 3)
        """
        check_count("n", n)
        # Stratified, as in variational diffusion models: the mean over t of a batch is
        # then nearly an integral by the midpoint rule.
        within = torch.rand(n, device=self.device)
        # In float32 the sum would round up to n now and then, and t to 0, where a bound is infinite.
        u = (torch.randperm(n, device=self.device) + widest(within)) / n
        if isinstance(self.T, int):
            # From [0, 1) to 1..T: time 0 is the data, where nothing is to be learned.
            return (u * self.T).long().clamp(max=self.T - 1) + 1
        # MPS has no float64: there the sum may still round up.
        least = torch.finfo(torch.float32).eps / n
        # 1 - u: from [0, 1) to (0, 1], since 0 has no loss.
        return (self.T * (1 - u)).clamp(min=least).float()

    def evenly(self) -> "Process":
        """The process whose plain mean over t is the bound: itself, or the one inside if it draws times unevenly."""
        return self

    def times(self, steps: int) -> Times:
        """steps + 1 falling times from T to 0, evenly spaced (rounded where time is discrete).

        Raises ValueError unless 1 <= steps (and steps <= T where time is discrete).
        """
        check_count("steps", steps)
        if isinstance(self.T, int):
            if steps > self.T:
                raise ValueError(f"steps must be at most T = {self.T}, not {steps}")
            # In whole numbers: halves are rounded alike on every device.
            left = steps - torch.arange(steps + 1, device=self.device)
            return (left * self.T + steps // 2) // steps
        return torch.linspace(float(self.T), 0.0, steps + 1, device=self.device)


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
    check_together(process, model)
    if isinstance(steps, Tensor):
        times = process.check_times(steps)
    else:
        check_steps(steps)
        times = process.times(steps)
    if clamp is not None:
        process.check_clamp(clamp)
    return _sample(process.fresh(), model, n, times, clamp)


def _sample(process, model, n, times, clamp):
    # All times are read at once: the only wait for a GPU before the last step.
    watch, t_values = Watch(), times.tolist()
    # Algorithm 2, line 1. x_T is clamped, too:
    # known parts must be known at the first step.
    x = clamped(clamp, process.prior(n))
    yield t_values[0], x
    # Algorithm 2, line 2: t = T..1, s = t - 1, or any falling times. Lines 3 and 4 are
    # the process's own `step`.
    for i, (t, s) in enumerate(pairwise(times), 1):
        watch.step = i
        with torch.no_grad(), evaluating(model), watch:
            # `expand` shows one number to all examples, and `repeated` sees that: what
            # depends on time alone is worked out once.
            x = clamped(clamp, process.step(model, x, t.expand(n), s.expand(n)))
        if i == len(t_values) - 1:
            watch.read()
        yield t_values[i], x


def clamped(clamp: Callable[[State], State] | None, x: State) -> State:
    """clamp(x), or ValueError if that is no state like x."""
    if clamp is None:
        return x
    kept = clamp(x)
    if not isinstance(kept, Tensor) or kept.shape != x.shape or kept.dtype != x.dtype:
        raise ValueError(
            f"clamp must return a state like x, {describe(x)}, not {describe(kept)}"
        )
    if kept.device != x.device:
        raise ValueError(
            f"clamp must return a state on x's device, {x.device}, not on {kept.device}"
        )
    note("what clamp returns", kept.isfinite())
    return kept


@contextmanager
def evaluating(model: Network) -> Iterator[None]:
    """The model in eval mode (no dropout, no batch statistics); each of its parts gets its own mode back."""
    # Part by part, not model.eval() and model.train():
    # someone may have frozen a part on purpose.
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


def check_steps(steps: object) -> None:
    """Raise TypeError for what is neither a number of steps nor a tensor of times."""
    if not isinstance(steps, Integral):
        raise TypeError(
            f"steps must be an int or a tensor of falling times, not {describe(steps)}"
        )


def has_tables(process: Process) -> bool:
    """Whether the process is on a device at all: one without tables is on none."""
    return next(process.buffers(), None) is not None


def check_together(process: Process, model: Network) -> None:
    """Raise unless the model can be called, and its weights are where the process's tables are."""
    if isinstance(model, Process) or not callable(model):
        raise TypeError(
            f"model must be callable as model(x_t, u), not {describe(model)}"
        )
    if process.device.type == "meta":
        raise ValueError("process must be on a device that holds numbers, not on meta")
    weight = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if weight is not None and has_tables(process) and weight.device != process.device:
        raise ValueError(
            f"model and process must be on one device, not on {weight.device} and {process.device}: use .to(device)"
        )
