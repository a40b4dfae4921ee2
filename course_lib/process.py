"""What every diffusion process can do, and the one sampling loop that uses it.

A process holds mathematics only; everything that is learned lives in the model.
Time runs from t = 0 (data) to t = T (prior); T = 1.0 for continuous-time processes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from .schedules import Tables
from .shapes import Mask, Network, PerExample, State, Times, Tokens, check_count, repeated


class Process(Tables):
    """The contract. A system fills in corrupt, loss, prior and step; the rest has defaults.

    It is a module only for its tables, which process.to(device) moves. It has no parameters.
    """

    T: int | float

    def corrupt(self, x0: State, t: Times) -> State:
        """Draw x_t ~ q(x_t | x_0)."""
        raise NotImplementedError

    def loss(self, model: Network, data, t: Times) -> PerExample:
        """Training loss of each example at its time t, not reduced."""
        raise NotImplementedError

    def bound(self, model: Network, data, t: Times) -> PerExample:
        """What to report: its mean over t is an upper bound on -log p(data), in nats per example."""
        raise NotImplementedError(f"{type(self).__name__} has no likelihood bound")

    def prior(self, n: int) -> State:
        """Draw n states x_T from pure noise."""
        raise NotImplementedError

    def step(self, model: Network, x: State, t: Times, s: Times) -> State:
        """Draw x_s ~ p(x_s | x_t) for any earlier time s < t."""
        raise NotImplementedError

    def fresh(self) -> "Process":
        """What one run of `sample` steps with: itself, or a copy for a process that remembers its last steps."""
        return self

    def encode(self, model: Network, data) -> State:
        """Data to state x_0. The identity unless the system embeds its data."""
        return data

    def decode(self, model: Network, x: State):
        """State back to data. The identity unless the system embeds its data."""
        return x

    def sample_t(self, n: int) -> Times:
        """n training times, one from each of n equal strata of (0, T], in random order.

        Each single time is uniform on 1..T (or on (0, 1]); together they have less variance than n free draws.
        """
        check_count("n", n)
        u = (torch.randperm(n, device=self.device) + torch.rand(n, device=self.device)) / n
        if isinstance(self.T, int):
            return (u * self.T).long().clamp(max=self.T - 1) + 1
        return self.T * (1 - u)  # never exactly 0

    def times(self, steps: int) -> Times:
        """steps + 1 falling times from T to 0, evenly spaced (rounded where time is discrete).

        Raises ValueError unless 1 <= steps (and steps <= T where time is discrete).
        """
        check_count("steps", steps)
        if isinstance(self.T, int):
            if steps > self.T:
                raise ValueError(f"steps must be at most T = {self.T}, not {steps}")
            return ((steps - torch.arange(steps + 1, device=self.device)) * self.T + steps // 2) // steps
        return torch.linspace(float(self.T), 0.0, steps + 1, device=self.device)

    def u(self, t: Times) -> PerExample:
        """t / T as float32: the time that every network is given."""
        return t.float() / self.T

    def check_t(self, name: str, t: Tensor, n: int, first: int = 0) -> None:
        """Raise unless t is one time per example in [first, T], of the process's kind (integer or real).

        Off the CPU the range is not read, since that would make the device wait.
        """
        whole = isinstance(self.T, int)
        if not isinstance(t, Tensor) or t.shape != (n,):
            shape = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
            raise ValueError(f"{name} must be a tensor of shape ({n},), one time per example, not {shape}")
        if t.is_floating_point() == whole or t.is_complex() or t.dtype == torch.bool:
            raise TypeError(f"{name} must hold {'integers' if whole else 'floats'}, not {t.dtype}")
        if t.device.type == "cpu":
            low, high = (t[0].item(),) * 2 if repeated(t) else (t.min().item(), t.max().item())
            if not (low >= first and high <= self.T):
                raise ValueError(f"{name} must lie in [{first}, {self.T}], but spans [{low}, {high}]")

    def check_state(self, name: str, x: Tensor) -> None:
        """Raise unless x is a floating (B, *shape) with B >= 1. For systems that set `shape`."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"{name} must be a float tensor, not {getattr(x, 'dtype', type(x).__name__)}")
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


def sample(
    process: Process,
    model: Network,
    n: int,
    steps: int,
    clamp: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[float, Tensor]]:
    """Yield (t, x_t) from t = T down to t = 0: the sampling loop of the whole course.

    clamp puts known parts back after each step: a prompt, an infilling context, a source sentence.
    Raises ValueError for n < 1 or steps outside 1..T, at the call. `last(...)` keeps only the end.
    """
    check_count("n", n)
    return _sample(process.fresh(), model, n, process.times(steps), clamp or (lambda x: x))


def _sample(process, model, n, times, clamp):
    x = clamp(process.prior(n))
    hours = times.tolist()  # the one synchronisation, before the loop
    yield hours[0], x
    for (t, s), hour in zip(pairwise(times), hours[1:], strict=True):
        with torch.no_grad():
            x = clamp(process.step(model, x, t.expand(n), s.expand(n)))
        yield hour, x


def keep(known: Mask, context: Tokens) -> Callable[[Tensor], Tensor]:
    """For `sample(..., clamp=keep(known, context))`: put the context back wherever it is known.

    A prompt and an infilling task are this alike. Exact for absorbing noise, where a known token is an unmasked one.
    """
    if known.shape != context.shape:
        raise ValueError(
            f"known and context must have one shape, not {tuple(known.shape)} and {tuple(context.shape)}"
        )
    return lambda x: torch.where(known, context, x)


def last(states: Iterable):
    """The last item of an iterator, holding one at a time: `t, x0 = last(sample(...))`."""
    try:
        return deque(states, maxlen=1)[0]
    except IndexError:
        raise ValueError("states must not be empty") from None
