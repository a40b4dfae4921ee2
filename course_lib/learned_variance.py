"""Improved DDPM: a learned variance, and training times drawn by importance.

Nichol & Dhariwal 2021 (arXiv:2102.09672), whose equation numbers these are.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .ddpm import Batch, Prediction, Transition, Variance, squared_error
from .diagonal_variance import DiagonalVariance, halves
from .finite import check_finite
from .process import Process
from .schedules import check_number
from .shapes import Network, PerExample, Table, Times, check_count, per_example, widest
from .wrapper import Wrapper


class Learned(DiagonalVariance):
    """Improved DDPM: the second answer v places ln sigma^2 between its two natural values.

    ln sigma^2 = f ln beta + (1 - f) ln beta-tilde with f = (v + 1) / 2, not cut to [0, 1].  (eq. 15)
    At s = 0, where beta-tilde is 0, the beta-tilde of t = 2 stands in (as in its code), which is decoder_var's default.

    vlb_weight  L_hybrid = L_simple + vlb_weight * (sum over t of L_{t-1} in bits per dimension)  (eq. 16)
    settings    last_noise as in Analytic; levels, decoder_var, clip of DDPM
    """

    def __init__(
        self,
        alpha_bar: Table,
        shape: tuple[int, ...],
        predicts: Prediction = "eps",
        vlb_weight: float = 0.001,
        **settings,
    ):
        super().__init__(alpha_bar, shape, predicts, eta=1.0, **settings)
        self.vlb_weight = check_number("vlb_weight", vlb_weight, least=0)

    def best_variance(
        self, out: Tensor, x_t: Batch, t: Times, s: Times, step: Transition
    ) -> Variance:
        """beta^f beta-tilde^(1 - f)."""
        # The head says v in [-1, 1] or so; 0, where
        # it starts, is the geometric mean of the two.
        f = (widest(halves(out, x_t)[1]) + 1) / 2
        log_beta = torch.log(
            -torch.expm1(self.log_alpha_bar[t] - self.log_alpha_bar[s])
        )
        # beta-tilde is 0 at s = 0, and its log would be -inf.
        log_small = torch.where(s > 0, step.q_var, self.decoder_var).log()
        log_var = f * per_example(log_beta, x_t) + (1 - f) * per_example(log_small, x_t)
        return log_var.exp()

    def bound_variance(
        self, out: Tensor, x_t: Batch, t: Times, step: Transition
    ) -> Variance:
        """What the network says at t = 1 too: it was trained there."""
        return self.best_variance(out, x_t, t, t - 1, step)

    def loss_at(self, model: Network, x0: Batch, x_t: Batch, t: Times) -> PerExample:
        """L_hybrid: squared error of the prediction, mean over dimensions, plus vlb_weight T L_{t-1} in bits per dim.

        The mean over t of T L_{t-1} is the sum over t. Only v gets a gradient from it: the mean is detached.
        """
        self.check_pair(x0, x_t, t)
        out = self.ask(model, x_t, t)
        simple = squared_error(halves(out, x_t)[0], self.target(x0, x_t, t))
        step = self.transition(t, t - 1)
        var = self.bound_variance(out, x_t, t, step)
        # Section 3.1: L_vlb is to teach the variance, L_simple the mean.
        mean = self.x0_from(out, x_t, t).detach()
        bits = self._divergence(x0, mean, step, var, t) / (self.dims * math.log(2))
        return simple + (self.vlb_weight * self.T * bits).to(simple.dtype)


class LossAware(Wrapper):
    """Any discrete-time process, trained with times drawn by the size of their loss; pass it to `train`.

    p_t ~ sqrt(mean of the last `history` squared losses at t), mixed with `uniform` of the uniform law; uniform until
    every t has that many. A loss is divided by T p_t, so that its mean over the draws is the plain mean over t.
    Section 3.3. The history is two buffers, which copies, pickles and training checkpoints carry.
    """

    remembers = ("losses", "seen")

    def __init__(self, process: Process, history: int = 10, uniform: float = 0.001):
        super().__init__(process)
        check_count("history", history)
        if not isinstance(process.T, int):
            raise TypeError(
                f"process must have discrete time, but its T is {process.T}"
            )
        if not 0 < check_number("uniform", uniform) <= 1:
            raise ValueError(f"uniform must lie in (0, 1], not {uniform}")
        self.uniform, device = uniform, process.device
        self.register_buffer(
            "losses", widest(torch.zeros(self.T, history, device=device))
        )
        self.register_buffer(
            "seen", torch.zeros(self.T, dtype=torch.long, device=device)
        )

    def p(self) -> Float[Tensor, " T"]:
        """The law of the next training times 1..T."""
        # The root of E L_t^2: of all laws of t the
        # one under which L_t / p_t varies least.
        size = self.losses.square().mean(1).sqrt()
        full = self.seen >= self.losses.shape[1]
        warm = full.all() & (size.sum() > 0)
        even = torch.full_like(size, 1 / self.T)
        # 0 / 0 where all losses are 0 is not chosen.
        by_size = torch.where(warm, size / size.sum(), even)
        return (1 - self.uniform) * by_size + self.uniform * even

    def sample_t(self, n: int) -> Times:
        """n times with law p_t, one from each of n equal strata of its distribution function, in random order."""
        check_count("n", n)
        stratum = torch.randperm(n, device=self.device)
        # In float32 the sum would now and then round up to the next stratum.
        within = widest(torch.rand(n, device=self.device))
        u = ((stratum + within) / n).to(self.losses)
        below = torch.searchsorted(self.p().cumsum(0), u, right=True)
        # The last of the sums may be a little below 1, and u above it.
        return below.clamp(max=self.T - 1) + 1

    def loss(self, model: Network, data, t: Times) -> PerExample:
        """The process's loss over T p_t. Remembers the plain loss, for the next draw."""
        return self.weighted(self.process.loss(model, data, t), t)

    def loss_at(self, model: Network, x0, x_t, t: Times) -> PerExample:
        """The same at this x_t."""
        return self.weighted(self.process.loss_at(model, x0, x_t, t), t)

    def bound(self, model: Network, data, t: Times) -> PerExample:
        """The process's bound over T p_t, so that its mean over these times is the bound; nothing is remembered."""
        plain = self.process.bound(model, data, t)
        return self.time_weight(t).to(plain.dtype) * plain

    def bound_at(self, model: Network, *drawn) -> PerExample:
        """The same at this x_t."""
        plain = self.process.bound_at(model, *drawn)
        return self.time_weight(drawn[-1]).to(plain.dtype) * plain

    def evenly(self) -> Process:
        """The process inside: whoever looks at each time as often as any other wants plain terms."""
        return self.process.evenly()

    def time_weight(self, t: Times) -> PerExample:
        """1 / (T p_t), by the law that drew t."""
        return 1 / (self.T * self.p()[t - 1])

    def weighted(self, plain: PerExample, t: Times) -> PerExample:
        """The plain loss over T p_t; then remembered, if it is finite."""
        weight = self.time_weight(t)  # before this loss is remembered
        self.remember(t, check_finite("the loss", plain.detach(), t))
        return weight.to(plain.dtype) * plain

    def remember(self, t: Times, loss: PerExample) -> None:
        """Write losses over the oldest entries of their times; of one time's many, in the order given."""
        history, nowhere = self.losses.shape[1], self.T
        # Tables with one row more, for what is not kept: picking the others by a mask would make a GPU wait.
        losses, seen = F.pad(self.losses, (0, 0, 0, 1)), F.pad(self.seen, (0, 1))
        # Off the CPU the loop raises only later: until then what is not finite must not get in.
        row = torch.where(loss.isfinite(), t - 1, nowhere)
        order = row.argsort(stable=True)
        row, loss = row[order], loss[order].to(losses.dtype)
        first_of_row = torch.searchsorted(row, row)
        # 0, 1, ... within each time.
        rank = torch.arange(len(row), device=row.device) - first_of_row
        count = torch.zeros_like(seen).index_add_(0, row, torch.ones_like(row))
        kept = rank >= count[row] - history  # of more than fit, the newest
        column = (seen[row] + rank) % history
        losses[torch.where(kept, row, nowhere), column] = loss
        self.losses.copy_(losses[:-1])
        self.seen += count[:-1]
