"""A process around another process: another way back, a control, another choice of times.

What a wrapper does not change is that of the process inside, so that wrappers compose, copy and pickle.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from .process import Process, check_process
from .shapes import Network, PerExample, State, Times


class Wrapper(Process):
    """A process around another one: what it does not change is that of the one inside, `process`.

    It forwards the whole contract and every further attribute, so that wrappers compose, copy and pickle.
    """

    def __init__(self, process: Process):
        super().__init__()
        check_process(process)
        self.process, self.T = process, process.T

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Not for what Python itself looks for while it copies or unpickles: then there is no process yet.
            inner = self.__dict__.get("_modules", {}).get("process")
            if inner is None or name.startswith("__"):
                raise
            return getattr(inner, name)

    @property
    def device(self) -> torch.device:
        """Where the process inside is."""
        return self.process.device

    @property
    def clamps_exactly(self) -> bool:
        """As the process inside does."""
        return self.process.clamps_exactly

    def corrupt(self, x0: State, t: Times, *given, **more) -> State:
        """That of the process inside."""
        return self.process.corrupt(x0, t, *given, **more)

    def prior(self, n: int) -> State:
        """That of the process inside."""
        return self.process.prior(n)

    def loss(self, model: Network, data, t: Times) -> PerExample:
        """That of the process inside."""
        return self.process.loss(model, data, t)

    def loss_at(self, model: Network, *drawn) -> PerExample:
        """That of the process inside."""
        return self.process.loss_at(model, *drawn)

    def bound(self, model: Network, data, t: Times) -> PerExample:
        """That of the process inside."""
        return self.process.bound(model, data, t)

    def bound_at(self, model: Network, *drawn) -> PerExample:
        """That of the process inside."""
        return self.process.bound_at(model, *drawn)

    def step(self, model: Network, x: State, t: Times, s: Times) -> State:
        """That of the process inside."""
        return self.process.step(model, x, t, s)

    def fresh(self) -> "Process":
        """A copy around a fresh process, if the one inside remembers; else itself."""
        inner = self.process.fresh()
        return self if inner is self.process else self.around(inner)

    def around(self, process: Process) -> "Wrapper":
        """A copy of this wrapper around another process."""
        other = copy.copy(self)
        # copy.copy shares the dictionary.
        other.__dict__["_modules"] = {
            **self._modules,
            "process": process,
        }
        return other

    def encode(self, model: Network, data) -> State:
        """That of the process inside."""
        return self.process.encode(model, data)

    def decode(self, model: Network, x: State):
        """That of the process inside."""
        return self.process.decode(model, x)

    def ask(self, model: Network, x_t: State, t: Times, *given, **more) -> Tensor:
        """That of the process inside."""
        return self.process.ask(model, x_t, t, *given, **more)

    def u(self, t: Times) -> PerExample:
        """That of the process inside."""
        return self.process.u(t)

    def sample_t(self, n: int) -> Times:
        """That of the process inside."""
        return self.process.sample_t(n)

    def evenly(self) -> "Process":
        """A copy around the process inside with times drawn evenly, if that is another; else itself."""
        inner = self.process.evenly()
        return self if inner is self.process else self.around(inner)

    def times(self, steps: int) -> Times:
        """That of the process inside."""
        return self.process.times(steps)

    def check_start(self, t: int | float) -> None:
        """That of the process inside."""
        self.process.check_start(t)

    def check_state(self, name: str, x: Tensor, *given, **more):
        """That of the process inside."""
        return self.process.check_state(name, x, *given, **more)

    def check_clamp(self, clamp: Callable[[State], State]) -> None:
        """That of the process inside."""
        self.process.check_clamp(clamp)


def times_fit(process: Process, name: str) -> bool:
    """Whether the mean of this method over process.sample_t is what it is for the process that defines the method.

    Not where a wrapper draws times of its own and only forwards the method: it knows nothing of these times.
    """
    # From the outside in, until someone defines the method: it knows the times of all
    # wrappers inside it only.
    while isinstance(process, Wrapper) and not defines(process, name):
        if defines(process, "sample_t"):
            return False
        process = process.process
    return True


def defines(wrapper: Wrapper, name: str) -> bool:
    """Whether the wrapper has a method of its own, which is not that of the process inside."""
    # In the instance too: someone may have set a method on this one object.
    own = getattr(type(wrapper), name, None)
    return name in vars(wrapper) or own is not getattr(Wrapper, name, None)
