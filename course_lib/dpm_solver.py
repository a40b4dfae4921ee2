"""DPM-Solver++ (Lu, Zhou, Bao, Chen, Li & Zhu 2022, arXiv:2211.01095): the probability-flow ODE with few calls.

In lambda = log(m / std) the ODE's linear part is solved exactly. What is left is an integral over the estimates of x_0,

    x_s = (std_s / std_t) x + std_s * integral from lambda_t to lambda_s of e^lambda x_0(lambda) dlambda,

taken of a polynomial through the last estimates: one (order 1, which is DDIM with eta = 0), two or three.

A solver that remembers gives `sample` a `fresh()` copy of itself, so that two runs cannot mix.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .finite import check_finite
from .linear_sde import Batch, Coefficients, Numbers, combine
from .sde import SDE
from .shapes import Network, Times, check_count, repeated
from .solvers import Solver

FAR = (
    5  # a slope is good for a step this many times as long as the one it was taken over
)


class Past(NamedTuple):
    """An earlier step: the estimate of x_0 at its start, and its length in lambda."""

    x0: Batch
    h: Numbers


class DPMSolver(Solver):
    """DPM-Solver++ as a multistep method: one call of the network per step, by remembering the last estimates of x_0.

    order   2 is the paper's algorithm 2, "2M"; 3 is "3M", with one more estimate; 1 is DDIM

    The first step is of order 1, the second of at most 2; the last, to s = 0, shows the estimate of x_0. `sample` works
    with a fresh copy, so that runs cannot mix; called by hand, `step` uses what it remembers only if it starts at the
    time where the last step ended, with as many examples.
    """

    def __init__(self, sde: SDE, order: int = 2):
        super().__init__(sde)
        check_count("order", order)
        if order > 3:
            raise ValueError(f"order must be 1, 2 or 3, not {order}")
        self.order = order
        self.past: tuple[
            Past, ...
        ] = ()  # the last step first, at most order - 1 of them
        self.ended: Times | None = None  # the s of the last step

    def fresh(self) -> "DPMSolver":
        """A copy that remembers nothing."""
        other = self.around(self.process.fresh())
        other.past, other.ended = (), None
        return other

    def move(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """x_s, of the highest order that what is remembered allows."""
        now, then = self.process.coefficients(t, s)
        # What is not finite is not remembered: the step that made it can be tried again.
        x0 = check_finite(
            "the estimate of x_0", self.process.predict_x0(model, x, t), t
        )
        h = now.log_sigma - then.log_sigma
        past = self.recall(x0, t)
        # The buffer Q of algorithm 2: only estimates are remembered, never states.
        x_s = self.advance(x, x0, past, now, then)
        self.past, self.ended = (Past(x0, h), *past)[: self.order - 1], s
        return x_s

    def advance(
        self,
        x: Batch,
        x0: Batch,
        past: tuple[Past, ...],
        now: Coefficients,
        then: Coefficients,
    ) -> Batch:
        """x_s from x_t and the estimates of x_0 at t (`x0`) and before (`past`)."""
        # h_i = lambda_s - lambda_t of algorithm 2, > 0; log_sigma is -lambda.
        h = now.log_sigma - then.log_sigma
        # sigma_{t_i} / sigma_{t_{i-1}}.
        shrink = then.std / now.std
        # -alpha_{t_i} (e^{-h_i} - 1).
        gain = -then.mean * torch.expm1(-h)
        first = combine((shrink, x), (gain, x0))
        if not past:
            return first
        if len(past) == 1:
            # Algorithm 2's gain times D_i, with D_i = (1 + 1/(2r)) x_0 - 1/(2r) x_0
            # before, r = h before / h, that is x_0 + slope / 2.
            return first + combine((gain / 2, slope(x0, h, past[0])))
        D1, D2 = self.derivatives(x0, h, past)
        # Exact integrals of the parabola against e^lambda; 2M has their value at a
        # short step, h / 2.
        of_slope, of_curvature = moments(h)
        return first + combine(
            (then.mean * of_slope, D1), (then.mean * of_curvature, D2)
        )

    def derivatives(
        self, x0: Batch, h: Numbers, past: tuple[Past, ...]
    ) -> tuple[Batch, Batch]:
        """(h x_0', h^2 x_0'') in lambda at t, of the parabola through the last three estimates.

        The authors' code and diffusers have half of this h^2 x_0'', and so converge like h^2 only.
        """
        before, long_before = past
        D1_0 = slope(x0, h, before)
        D1_1 = slope(before.x0, h, long_before)
        bend = D1_0 - D1_1
        both = before.h + long_before.h
        # Without a slope in both of the last steps there is no telling how it bends.
        known = (ratio(h, before.h) > 0) & (ratio(h, long_before.h) > 0)
        of_first = torch.where(known, before.h / both, 0)
        of_second = torch.where(known, 2 * h / both, 0)
        D1 = D1_0 + combine((of_first, bend))
        D2 = combine((of_second, bend))
        return D1, D2

    def recall(self, x0: Batch, t: Times) -> tuple[Past, ...]:
        """What is remembered, if the last step ended at t with examples like these."""
        if not self.past or not same_times(self.ended, t):
            return ()
        if any(described(step.x0) != described(x0) for step in self.past):
            return ()
        # Off the CPU a number that is not finite may have been remembered: the new estimate stands in for it.
        return tuple(
            Past(torch.where(step.x0.isfinite(), step.x0, x0), step.h)
            for step in self.past
        )


def slope(x0: Batch, h: Numbers, last: Past) -> Batch:
    """h x_0' in lambda, from the estimate before, which is last.h away: the paper's D_1 is (x_0 - x_0 before) / r."""
    return combine((ratio(h, last.h), x0 - last.x0))


def ratio(h: Numbers, h_last: Numbers) -> Numbers:
    """h / h_last = 1 / r; 0, and the step one order lower, where a slope over h_last does not reach over h.

    So for the infinite h of a step to s = 0, and after a step so short that all its slope is rounding, or Langevin's
    noise: h times that slope would throw samples out of the data.
    """
    return torch.where(h < FAR * h_last, h / h_last, 0)


def moments(h: Numbers) -> tuple[Numbers, Numbers]:
    """h^-k times the integral of e^(tau - h) tau^k / k! over tau from 0 to h, for k = 1 and 2."""
    lost = torch.expm1(-h)
    first = 1 + lost / h
    second = 0.5 - 1 / h - lost / h.square()
    # Over a short step these are differences of nearly equal numbers: then the first terms of their series.
    short = h < 0.05
    first_short = h / 2 - h**2 / 6 + h**3 / 24 - h**4 / 120
    second_short = h / 6 - h**2 / 24 + h**3 / 120 - h**4 / 720
    return torch.where(short, first_short, first), torch.where(
        short, second_short, second
    )


def same_times(one: Tensor, other: Tensor) -> bool:
    """True where they are equal; seen without reading a device for the time that `sample` hands from step to step."""
    if (
        one.shape != other.shape
        or one.dtype != other.dtype
        or one.device != other.device
    ):
        return False
    pointed_at = one.data_ptr() == other.data_ptr()
    return (repeated(one) and repeated(other) and pointed_at) or torch.equal(one, other)


def described(x: Tensor) -> tuple:
    """What two tensors must share to be compared."""
    return x.shape, x.dtype, x.device
