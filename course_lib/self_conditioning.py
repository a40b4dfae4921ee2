"""Self-conditioning: a network that is given its own earlier estimate (Chen, Zhang & Hinton 2023, arXiv:2208.04202).

In training it is given one half of the time, and zeros otherwise; in sampling it is that of the step before.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .nets import Wrapped
from .shapes import Network, PerExample, State, per_example


def half_of_the_time(
    estimate: Callable[[Int[Tensor, " n"]], State], x_t: Float[Tensor, "B *event"]
) -> Float[Tensor, "B *event"]:
    """What training gives as the earlier estimate: estimate(some) for half of the examples, zeros for the others.

    No gradient goes through it.  (section 3.2)
    """
    before = torch.zeros_like(x_t)
    # Of an odd number the middle one is among them every other time.
    n = (len(x_t) + torch.randint(2, ()).item()) // 2
    some = torch.randperm(len(x_t), device=x_t.device)[:n]
    if n:
        with torch.no_grad():
            # Under autocast the network may answer in half precision.
            before[some] = estimate(some).to(before.dtype)
    return before


class SelfConditioned(Wrapped):
    """The network, given at each time its estimate of the time before; zeros where there is none.

    All calls at one time are given the same, whatever they say, and the last one is remembered. So
        ClassifierFree(SelfConditioned(net), ...)  gives f(x, label) and f(x) the last f(x, label), as training does
        SelfConditioned(ClassifierFree(net, ...))  gives both the last guided estimate
    A time that does not fall is a new run: nothing of an earlier one is remembered.
    """

    def __init__(self, inner: Network):
        super().__init__(inner)
        self.u: PerExample | None = None  # the time of the last call
        self.before: State | None = None  # what the calls at that time are given
        self.last: State | None = None  # what the last call said

    def forward(self, x: State, u: PerExample, **given: Tensor | None) -> State:
        """What the network says, given the estimate of the time before; `before` in the call counts more."""
        x0 = self.inner(x, u, **{"before": self.recall_at(x, u), **given})
        self.last = x0.detach()
        return x0

    def explain(
        self, x: State, u: PerExample, **given: Tensor | None
    ) -> tuple[State, Tensor]:
        """The same with the log law of words behind it."""
        x0, log_p = self.inner.explain(
            x, u, **{"before": self.recall_at(x, u), **given}
        )
        self.last = x0.detach()
        return x0, log_p

    def recall_at(self, x: State, u: PerExample) -> State:
        """The estimate of the time before u."""
        if (
            self.last is None
            or self.last.shape != x.shape
            or self.last.device != x.device
        ):
            self.before = torch.zeros_like(x)
        else:
            # By example, on the device: reading them would make it wait.
            falls, stays = per_example(u < self.u, x), per_example(u == self.u, x)
            self.before = torch.where(
                falls, self.last, torch.where(stays, self.before, 0)
            )
        self.u = u
        return self.before
