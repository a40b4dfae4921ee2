"""A linear SDE whose transition kernel is known: the forward process, without any network.

    dx = f(t) x dt + g(t) dw,   so that   x_t = m(t) x_0 + std(t) eps   exactly, t from 0 (data) to T = 1.0

`sde.SDE` adds a network, loss, bound and a step back; VP, sub-VP and VE are there, too. Equation numbers are those of
Song et al. 2021 (arXiv:2011.13456) unless another paper is named.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .ddpm import check_start
from .finite import settled
from .process import Process
from .schedules import bisect, check_number
from .shapes import PerExample, Times, check_count, once, per_example, widest

Batch = Float[Tensor, "B *event"]
Numbers = Float[Tensor, " _"]  # one for each example, or one that all share


class Coefficients(NamedTuple):
    """Of x_t = mean x_0 + std eps at one time for all examples (1,), or at one for each (B,); float64.

    t          as it is read, at most t_max
    log_sigma  log(std / mean), which only rises; -lambda of DPM-Solver
    """

    t: Numbers
    mean: Numbers
    std: Numbers
    log_sigma: Numbers


class LinearSDE(Process):
    """The forward process of an SDE; subclasses say m(t), std(t), f(t) and g(t)^2.

    shape      of one example
    t_min      where the bound and the ODE's likelihood stop: at 0 the score of data that lies on points is infinite
    t_max      later times are read as t_max; 1 unless the forward process leaves nothing at 1
    """

    def __init__(self, shape: tuple[int, ...], t_min: float = 1e-5, t_max: float = 1.0):
        super().__init__()
        t_min, t_max = check_number("t_min", t_min), check_number("t_max", t_max)
        if not 0 < t_min < t_max <= 1:
            raise ValueError(
                f"0 < t_min < t_max <= 1 must hold, not t_min = {t_min}, t_max = {t_max}"
            )
        self.T, self.shape, self.dims = 1.0, tuple(shape), math.prod(shape)
        self.t_min, self.t_max = t_min, t_max
        # A process is where its buffers are, so it needs one.
        self.register_buffer("span", torch.tensor([t_min, t_max], dtype=torch.float64))
        self.prior_std = self.ends[1].std.item()

    # What a subclass says, for float64 t in [0, t_max]

    def log_mean(self, t: Tensor) -> Tensor:
        """log m(t)."""
        raise NotImplementedError(f"{type(self).__name__} has no log_mean")

    def log_std(self, t: Tensor) -> Tensor:
        """log std(t), -inf at t = 0."""
        raise NotImplementedError(f"{type(self).__name__} has no log_std")

    def drift(self, t: Tensor) -> Tensor:
        """f(t) in dx = f x dt + g dw."""
        raise NotImplementedError(f"{type(self).__name__} has no drift")

    def diffusion2(self, t: Tensor) -> Tensor:
        """g(t)^2."""
        raise NotImplementedError(f"{type(self).__name__} has no diffusion2")

    # Times and numbers

    def u(self, t: Times) -> PerExample:
        """t itself, in its own precision: what a network is given."""
        return t

    def times(self, steps: int) -> Times:
        """steps + 1 falling times from 1 to 0. The 1 is read as t_max, so all others are even between t_max and 0.

        Without that the first step would be shorter than the next by any factor, which DPM-Solver++ takes badly.
        """
        times = super().times(steps) * self.t_max
        times[0] = self.T
        return times

    def coefficients(self, *times: Times) -> list[Coefficients]:
        """The numbers at each of the times given; of one entry where all examples share them all."""
        return [self._coefficients(widest(t)) for t in once(*times)]

    def _coefficients(self, t: Tensor) -> Coefficients:
        t = t.clamp(max=self.t_max)
        # Logs first: solvers work in lambda = log(m
        # / std), which std near 0 would have lost.
        log_mean, log_std = self.log_mean(t), self.log_std(t)
        return Coefficients(t, log_mean.exp(), log_std.exp(), log_std - log_mean)

    @property
    def ends(self) -> list[Coefficients]:
        """The numbers at t_min and at t_max, on the CPU, where reading them waits for no device."""
        return [
            self._coefficients(torch.tensor([t], dtype=torch.float64))
            for t in (self.t_min, self.t_max)
        ]

    def marginal(self, u: PerExample) -> tuple[PerExample, PerExample]:
        """(m, std) of x_t = m x_0 + std eps at time u, float64."""
        at_u = self._coefficients(widest(u))
        return at_u.mean, at_u.std

    def check_start(self, t: int | float) -> None:
        """Raise ValueError unless x_t is nearly a draw of the prior."""
        check_start(self, t, self.prior_std)

    def time_at(self, log_sigma: Tensor) -> Tensor:
        """The t in [t_min, t_max] at which log(std / m) is log_sigma, by bisection, float64."""
        want = widest(log_sigma)
        if not settled("log_sigma", ~want.isnan(), "numbers"):
            raise ValueError("log_sigma must hold numbers, but holds NaN")
        first, last = (torch.full_like(want, t) for t in (self.t_min, self.t_max))
        return bisect(lambda t: self._coefficients(t).log_sigma < want, first, last)

    def importance_times(self, t: Times) -> Times:
        """For t even in (0, 1]: times whose log sigma is even between t_min (t -> 0) and t_max (t = 1); float64.

        Their density is proportional to g^2 / std^2: importance sampling for the likelihood weighting, exactly.
        Song, Durkan, Murray & Ermon 2021 (arXiv:2101.09258), section 4.
        """
        low, high = (end.log_sigma.item() for end in self.ends)
        # d log sigma / dt = g^2 / (2 std^2), so even
        # steps in log sigma are draws of that density.
        return self.time_at(low + widest(t) * (high - low))

    # Forward process

    def corrupt(self, x0: Batch, t: Times, eps: Batch | None = None) -> Batch:
        """x_t = m(t) x_0 + std(t) eps, eps ~ N(0, I) unless given; t = 0 is the data.  (eq. 29)"""
        self.check_state("x0", x0)
        self.check_t("t", t, len(x0))
        if eps is None:
            eps = torch.randn_like(x0)
        self.check_like("eps", eps, x0)
        (now,) = self.coefficients(t)
        return combine((now.mean, x0), (now.std, eps))

    def prior(self, n: int) -> Batch:
        """x_1 ~ N(0, std(1)^2 I), with std 1 for VP and sub-VP."""
        check_count("n", n)
        return self.prior_std * torch.randn(n, *self.shape, device=self.device)

    def log_prior(self, x: Batch) -> PerExample:
        """Log density of the prior at x, nats, float64."""
        z = widest(x).flatten(1) / self.prior_std
        log_size = math.log(math.sqrt(2 * math.pi) * self.prior_std)
        return -z.square().sum(1) / 2 - self.dims * log_size

    def noise(self, x0: Batch, x_t: Batch, t: Times) -> Batch:
        """The eps of x_t = m x_0 + std eps, t > 0."""
        self.check_state("x0", x0)
        self.check_state("x_t", x_t)
        self.check_like("x_t", x_t, x0)
        self.check_positive(t, len(x0))
        (now,) = self.coefficients(t)
        eps = (widest(x_t) - per_example(now.mean, x0) * widest(x0)) / per_example(
            now.std, x0
        )
        return eps.to(x0.dtype)


def combine(*terms: tuple[Numbers, Batch]) -> Batch:
    """Sum of number times state, in the states' dtype; numbers (B,), or (1,) for all, in the widest float."""
    (number, state), *others = terms
    total = fit(number, state) * state
    for number, state in others:
        total.addcmul_(fit(number, state), state)
    return total


def fit(number: Numbers, x: Tensor) -> Tensor:
    """A number for each example, or one for all, ready to multiply x: in its dtype, with its axes."""
    return per_example(number.to(x.dtype), x)
