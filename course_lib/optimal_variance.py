"""The reverse variance: chosen (DDIM), learned (improved DDPM), computed (Analytic-DPM), predicted (SN, NPR).

One fact carries the file. If q(x_s | x_t, x_0) has mean (from_x0 x_0 + from_xt x_t) and variance lambda^2, then
q(x_s | x_t) has variance lambda^2 + from_x0^2 Var(x_0 | x_t): the law of total variance. The methods differ in what
they put for the last factor: 0, something learned, its average over x_t, or a network's answer at this x_t.

    DDIM                     Song et al. 2021 (arXiv:2010.02502)
    Learned, LossAware       Nichol & Dhariwal 2021 (arXiv:2102.09672)
    Analytic, optimal_grid   Bao et al. 2022 (arXiv:2201.06503)
    NPR, SN                  Bao et al. 2022 (arXiv:2206.07309)

Times are those of ddpm.py: t = 0 is the data, and a step goes from t to any s < t.
"""

import math
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .ddpm import DDPM, Batch, Prediction
from .process import Process
from .shapes import Network, PerExample, Table, Times, check_choice, check_count, per_example, widest

Costs = Float[Tensor, "T_plus_1 T_plus_1"]  # [t, s]: what the step t -> s costs


class DDIM(DDPM):
    """Steps that keep every marginal q(x_t), with as much fresh noise as one likes.

    eta   0 is deterministic, 1 is DDPM with the small variance: lambda^2 = eta^2 beta-tilde  (eq. 16)
    grid  the falling times that `sample` visits, from T to 0; None spreads them evenly
    The rest is DDPM's.
    """

    def __init__(
        self,
        alpha_bar: Table,
        shape: tuple[int, ...],
        predicts: Prediction = "eps",
        eta: float = 0.0,
        grid: Int[Tensor, " n"] | None = None,
        levels: int | None = None,
        decoder_var: float | None = None,
        clip: float | None = None,
    ):
        super().__init__(alpha_bar, shape, predicts, "small", levels, decoder_var, clip)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], not {eta}")
        self.eta, self.draws = eta, eta > 0
        self.register_buffer("grid", None if grid is None else check_grid(grid, self.T))

    def times(self, steps: int) -> Times:
        """The grid if there is one (ValueError unless it has that many steps), else evenly spaced times."""
        if self.grid is None:
            return super().times(steps)
        check_count("steps", steps)
        if steps != len(self.grid) - 1:
            raise ValueError(f"steps must be the {len(self.grid) - 1} of the grid, not {steps}")
        return self.grid

    def _kernel(self, t, s, m=torch):
        from_x0, from_xt, lambda2 = self._known(t, s, m)
        return from_x0, from_xt, lambda2, lambda2

    def _known(self, t, s, m):
        """If x_0 were known: x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - lambda^2) eps + lambda z, eps from x_t and x_0.

        Collected by x_0 and x_t, in sums of positive terms only, so that neighbouring times lose no digits.  (eq. 12)
        """
        log_t, log_s = self._logs(t, s, m)
        lost_t, lost_s, lost_ts = (-m.expm1(v) for v in (log_t, log_s, log_t - log_s))
        kept, eta2 = lost_s / lost_t, self.eta**2
        lambda2 = eta2 * lost_ts * kept
        from_xt = (kept * (1 - eta2 + eta2 * m.exp(log_t - log_s) * kept)) ** 0.5
        both = m.exp(log_s) * lost_ts + m.exp(log_t) * lambda2
        from_x0 = both / (lost_t * (m.exp(log_s / 2) + from_xt * m.exp(log_t / 2)))
        return from_x0, from_xt, lambda2

    def term(self, model: Network, x0: Batch, t: Times) -> PerExample:
        """L_{t-1} in nats per example, as in DDPM. ValueError at eta = 0, where it is infinite."""
        if self.eta == 0:
            raise ValueError("eta must be above 0 for a bound: without noise in q it is infinite")
        return super().term(model, x0, t)


def check_grid(grid: Tensor, T: int) -> Tensor:
    """The grid itself as int64, or an error: whole numbers that start at T, fall at each step and end at 0."""
    if not isinstance(grid, Tensor) or grid.is_floating_point() or grid.dtype == torch.bool:
        raise TypeError(
            f"grid must be a tensor of integers, not {getattr(grid, 'dtype', type(grid).__name__)}"
        )
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"grid must have shape (steps + 1,) with steps >= 1, not {tuple(grid.shape)}")
    values = grid.tolist()
    if values[0] != T or values[-1] != 0:
        raise ValueError(f"grid must run from T = {T} to 0, not from {values[0]} to {values[-1]}")
    if any(s >= t for t, s in pairwise(values)):
        raise ValueError(f"grid must fall at every step, but is {values}")
    return grid.long()


class Renoise(DDIM):
    """Estimate x_0, then noise it afresh: x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s) z. Su's unified view (UDM).

    A network that answers with a draw from p(x_0 | x_t) keeps every marginal, at any step size. One that answers with
    the mean loses the variance abar_s E Var(x_0 | x_t). It is the end of the family: lambda^2 = 1 - abar_s.
    """

    def __init__(self, alpha_bar: Table, shape: tuple[int, ...], predicts: Prediction = "eps", **settings):
        super().__init__(alpha_bar, shape, predicts, 1.0, **settings)

    def _known(self, t, s, m):
        log_s = self._logs(t, s, m)[1]
        return m.exp(log_s / 2), 0 * log_s, -m.expm1(log_s)


# Analytic-DPM: one variance per step, computed


class Analytic(DDIM):
    """The best variance that is the same for all x_t: sigma*^2 = lambda^2 + from_x0^2 E Var(x_0 | x_t).

    eta = 1 is Analytic-DDPM, eta = 0 Analytic-DDIM. Theorem 1 of Bao et al., for a step from t to any s < t.

    spread      E Var(x_0 | x_t), mean over dimensions, at t = 0..T, as the function `spread` estimates it; NaN where
                it is not known. A step from such a time is an error, and so is any step while there is no table.
    last_noise  at s = 0: False shows the mean of p(x_0 | x_t), True draws from it
    The variance of p(x_0 | x_1) in the bound is spread[1] unless decoder_var is given.
    """

    def __init__(
        self,
        alpha_bar: Table,
        shape: tuple[int, ...],
        predicts: Prediction = "eps",
        eta: float = 1.0,
        grid: Int[Tensor, " n"] | None = None,
        levels: int | None = None,
        decoder_var: float | None = None,
        clip: float | None = None,
        spread: Table | None = None,
        last_noise: bool = False,
    ):
        super().__init__(alpha_bar, shape, predicts, eta, grid, levels, decoder_var, clip)
        self.last_noise, self.draws = last_noise, True
        spread = torch.full_like(self.alpha_bar, math.nan) if spread is None else check_spread(spread, self.T)
        self.register_buffer("spread", spread)
        self._spread_rows = spread.tolist()  # the same on the host
        if decoder_var is None and self._spread_rows[1] > 0:
            self.decoder_var = self._spread_rows[1]

    def _kernel(self, t, s, m=torch):
        from_x0, from_xt, lambda2 = self._known(t, s, m)
        var = lambda2 + from_x0**2 * self._spread_at(t)
        return from_x0, from_xt, lambda2, var if self.last_noise else var * (s > 0)

    def _spread_at(self, t: int | Tensor) -> float | Tensor:
        """The table at t; ValueError where it holds nothing. Off the CPU a NaN goes on into the samples."""
        if isinstance(t, int):
            found = self._spread_rows[t]
            missing = [t] if math.isnan(found) else []
        else:
            found = self.spread[t]
            missing = t[found.isnan()].tolist() if t.device.type == "cpu" else []
        if missing:
            raise ValueError(
                f"spread is not known at t = {missing[0]}: estimate it there with "
                "optimal_variance.spread(process, model, data) and give it to Analytic(spread=...)"
            )
        return found


def check_spread(spread: Table, T: int) -> Table:
    """The table itself in float64, or an error that names what it must be."""
    if not isinstance(spread, Tensor) or not spread.is_floating_point():
        got = getattr(spread, "dtype", type(spread).__name__)
        raise TypeError(f"spread must be a float tensor, not {got}")
    if spread.shape != (T + 1,):
        raise ValueError(f"spread must have shape (T + 1,) = ({T + 1},), not {tuple(spread.shape)}")
    if (spread < 0).any() or spread.isinf().any():
        raise ValueError("spread must not be negative or infinite: it is a variance")
    return widest(spread.detach())


@torch.no_grad()
def spread(
    process: DDPM,
    model: Network,
    data: Tensor,
    estimator: Literal["residual", "score norm"] = "residual",
    times: Times | None = None,
    repeats: int = 1,
    batch: int = 256,
    limit: float | None = None,
) -> Table:
    """E Var(x_0 | x_t), mean over dimensions, at each of the times (default: all of 1..T); NaN elsewhere, 0 at t = 0.

    "residual"    E (x_0 - x0_hat)^2: what the mean in use really misses, so sigma*^2 is best for it, right or wrong
    "score norm"  (1 - abar)/abar (1 - E eps_hat^2), as in Bao et al. Right only for a perfect mean, and at high noise
                  a tiny difference times a huge factor
    limit         values are cut to [0, limit]; by default the data's variance per dimension, which no average of
                  conditional variances exceeds (law of total variance)

    Each time costs `repeats` passes over the data. Raises ValueError for fewer than 2 examples.
    """
    check_choice("estimator", estimator, ("residual", "score norm"))
    check_count("repeats", repeats)
    check_count("batch", batch)
    if len(data) < 2:
        raise ValueError(f"data must hold at least 2 examples, not {len(data)}")
    if limit is None:
        limit = widest(data).flatten(1).var(0, correction=0).mean().item()
    measure = {"residual": _residual, "score norm": _score_norm}[estimator]
    out = torch.full_like(process.alpha_bar, math.nan)
    out[0] = 0
    for t in range(1, process.T + 1) if times is None else times.tolist():
        total = sum(measure(process, model, x, t) for _ in range(repeats) for x in data.split(batch))
        mean = total / (repeats * len(data) * process.dims)
        if estimator == "score norm":
            log = process.log_alpha_bar[t]
            mean = -torch.expm1(log) / log.exp() * (1 - mean)
        out[t] = mean.clamp(0, limit)
    return out


def _residual(process: DDPM, model: Network, x0: Batch, t: int) -> Tensor:
    """Sum of (x_0 - x0_hat)^2 over examples and dimensions."""
    now = torch.full((len(x0),), t, device=x0.device)
    return (widest(x0) - widest(process.predict_x0(model, process.corrupt(x0, now), now))).square().sum()


def _score_norm(process: DDPM, model: Network, x0: Batch, t: int) -> Tensor:
    """Sum of eps_hat^2 over examples and dimensions; eps_hat^2 is (1 - abar) times the squared score."""
    now = torch.full((len(x0),), t, device=x0.device)
    x_t = process.corrupt(x0, now)
    return widest(process.convert(model(x_t, process.u(now)), x_t, now, "eps")).square().sum()


# The best times to visit


def costs(process: DDPM, spread: Table) -> Costs:
    """What each step t -> s adds to the bound, nats per dimension; infinite for s >= t.

    With lambda^2 and sigma^2 the variances of q(x_s | x_t, x_0) and of p(x_s | x_t), c = spread[t], w = from_x0:
        1/2 (lambda^2/sigma^2 - 1 + ln(sigma^2/lambda^2) + w^2 c/sigma^2), which is 1/2 ln(sigma*^2/lambda^2) at sigma*.
    The last step costs 1/2 ln(2 pi e c), the variance that fits; with grey levels it goes from t = 1 and counts as 0.
    The sum over the steps of a grid, plus L_T, is the bound of those steps, if `spread` belongs to the mean in use.
    """
    c = check_spread(spread, process.T)
    t, s = torch.tril_indices(process.T + 1, process.T + 1, -1, device=c.device)
    t, s = t[s > 0], s[s > 0]
    w, _, lambda2, var = process._kernel(t, s)
    if not (lambda2 > 0).all():
        raise ValueError("eta must be above 0 for a bound: without noise in q it is infinite")
    out = torch.full((process.T + 1, process.T + 1), math.inf, dtype=c.dtype, device=c.device)
    out[t, s] = (lambda2 / var - 1 + (var / lambda2).log() + w.square() * c[t] / var) / 2
    if process.levels is None:
        out[1:, 0] = (2 * math.pi * math.e * c[1:]).log() / 2
    else:
        out[1, 0] = 0
    return out


def optimal_grid(cost: Costs, steps: int) -> Times:
    """The falling times T = t_0 > ... > t_steps = 0 of least total cost[t, s], by dynamic programming.

    best[k][t] = min_s cost[t, s] + best[k - 1][s] is the least cost of reaching 0 from t in k steps: O(steps T^2).
    Bao et al. 2022, "optimal trajectory".  ValueError unless 1 <= steps <= T, or where every grid costs infinity.
    """
    T = len(cost) - 1
    check_count("steps", steps)
    if steps > T:
        raise ValueError(f"steps must be at most T = {T}, not {steps}")
    if cost.isnan().any():
        raise ValueError("cost must be known for all steps: estimate the spread at every t")
    best, choices = cost[:, 0], [torch.zeros(T + 1, dtype=torch.long, device=cost.device)]
    for _ in range(steps - 1):
        best, choice = (cost + best).min(1)
        choices.append(choice)
    if best[T].isinf():
        raise ValueError(f"every grid of {steps} steps has infinite cost")
    grid = [T]
    for choice in reversed(choices):
        grid.append(int(choice[grid[-1]]))
    return torch.tensor(grid, device=cost.device)


# Variances that depend on x_t: the network says two numbers per coordinate


def halves(out: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Split the output along the one axis on which it is twice as long as x: the prediction, and the second answer.

    Channels of images, the last axis of vectors and embeddings: the network decides by the shape it returns.
    """
    differ = [i for i, (n, m) in enumerate(zip(out.shape, x.shape, strict=False)) if n != m]
    if out.ndim != x.ndim or len(differ) != 1 or out.shape[differ[0]] != 2 * x.shape[differ[0]]:
        raise ValueError(
            f"the network's output must be twice x, {tuple(x.shape)}, along one axis, not {tuple(out.shape)}"
        )
    return out.chunk(2, differ[0])


class Elementwise(DDIM):
    """A process whose network says two numbers per coordinate: the prediction, and something about the variance.

    Its kinds say which variance that makes (`_variance`).
    """

    last_noise = False

    def _variance(self, said: Tensor, x: Batch, t: Times, s: Times) -> Tensor:
        """Variance of p(x_s | x_t), per coordinate and in float64, from the network's whole output."""
        raise NotImplementedError

    def predict_x0(self, model: Network, x_t: Batch, t: Times) -> Batch:
        """The network's estimate of x_0, clipped if `clip` is set."""
        return self._x0(model(x_t, self.u(t)), x_t, t)

    def _x0(self, said: Tensor, x_t: Batch, t: Times) -> Batch:
        x0 = self.convert(halves(said, x_t)[0], x_t, t, to="x0")
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)

    def step(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """x_s = mean + sd z, with a standard deviation for each coordinate."""
        self.check_state("x", x)
        self.check_step(len(x), t, s)
        said = model(x, self.u(t))
        from_x0, from_xt, _, _ = (per_example(v.to(x.dtype), x) for v in self._kernel(t, s))
        sd = self._variance(said, x, t, s).sqrt().to(x.dtype)
        if not self.last_noise:
            sd = sd * per_example(s > 0, x)
        return from_x0 * self._x0(said, x, t) + from_xt * x + sd * torch.randn_like(x)

    def term(self, model: Network, x0: Batch, t: Times) -> PerExample:
        """L_{t-1} in nats per example, as in DDPM, with a variance for each coordinate."""
        self.check_state("x0", x0)
        self.check_t("t", t, len(x0), first=1)
        if self.eta == 0:
            raise ValueError("eta must be above 0 for a bound: without noise in q it is infinite")
        x_t = self.corrupt(x0, t)
        said = model(x_t, self.u(t))
        return self._kl(x0, self._x0(said, x_t, t), self._decoder(said, x_t, t), t)

    def _decoder(self, said: Tensor, x_t: Batch, t: Times) -> Tensor:
        """The variance of p(x_{t-1} | x_t) in the bound; decoder_var at t = 1."""
        return torch.where(per_example(t == 1, x_t), self.decoder_var, self._variance(said, x_t, t, t - 1))

    def _kl(self, x0: Batch, x0_hat: Batch, var: Tensor, t: Times) -> PerExample:
        from_x0, _, lambda2, _ = (per_example(v, x0) for v in self._kernel(t, t - 1))
        ratio = torch.where(per_example(t == 1, x0), 1.0, lambda2 / var)
        error = (widest(x0) - widest(x0_hat)).square()
        kl = (ratio - 1 - ratio.log() + from_x0.square() * error / var).flatten(1).sum(1) / 2
        return torch.where(t == 1, self._reconstruction(x0, x0_hat, var), kl)

    def weight(self, t: Times) -> PerExample:
        """There is none: the weight of an error depends on x_t."""
        raise NotImplementedError(
            f"{type(self).__name__} has no weight per time: its variance depends on x_t"
        )


class Learned(Elementwise):
    """Improved DDPM: the second answer v places ln sigma^2 between its two natural values.

    ln sigma^2 = f ln beta + (1 - f) ln beta-tilde with f = (v + 1) / 2, not cut to [0, 1].  (eq. 15)
    At s = 0, where beta-tilde is 0, the beta-tilde of t = 2 stands in (as in its code), which is decoder_var's default.

    vlb_weight  L_hybrid = L_simple + vlb_weight * (sum over t of L_{t-1} in bits per dimension)  (eq. 16)
    """

    def __init__(
        self,
        alpha_bar: Table,
        shape: tuple[int, ...],
        predicts: Prediction = "eps",
        grid: Int[Tensor, " n"] | None = None,
        levels: int | None = None,
        decoder_var: float | None = None,
        clip: float | None = None,
        vlb_weight: float = 0.001,
    ):
        super().__init__(alpha_bar, shape, predicts, 1.0, grid, levels, decoder_var, clip)
        if not vlb_weight >= 0:
            raise ValueError(f"vlb_weight must not be negative, but is {vlb_weight}")
        self.vlb_weight = vlb_weight

    def _variance(self, said: Tensor, x: Batch, t: Times, s: Times) -> Tensor:
        f = (widest(halves(said, x)[1]) + 1) / 2
        log_beta = torch.log(-torch.expm1(self.log_alpha_bar[t] - self.log_alpha_bar[s]))
        small = torch.where(s > 0, self._kernel(t, s)[2], self.decoder_var)
        return (f * per_example(log_beta, x) + (1 - f) * per_example(small.log(), x)).exp()

    def _decoder(self, said: Tensor, x_t: Batch, t: Times) -> Tensor:
        return self._variance(said, x_t, t, t - 1)  # at t = 1 too: it was trained there

    def loss(self, model: Network, x0: Batch, t: Times) -> PerExample:
        """L_hybrid: squared error of the prediction, mean over dimensions, plus vlb_weight T L_{t-1} in bits per dim.

        The mean over t of T L_{t-1} is the sum over t. Only v gets a gradient from it: the mean is detached.
        """
        self.check_state("x0", x0)
        self.check_t("t", t, len(x0), first=1)
        eps = torch.randn_like(x0)
        x_t = self.corrupt(x0, t, eps)
        said = model(x_t, self.u(t))
        x0_hat = self._x0(said, x_t, t).detach()
        vlb = self._kl(x0, x0_hat, self._decoder(said, x_t, t), t) / (self.dims * math.log(2))
        return self._simple(halves(said, x_t)[0], x_t, eps, t) + (self.vlb_weight * self.T * vlb).float()


class NPR(Elementwise):
    """The second answer is the expected squared error of the noise, E[(eps - eps_hat)^2 | x_t], per coordinate.

    sigma^2 = lambda^2 + from_x0^2 (1 - abar_t)/abar_t * answer: the best variance at this x_t for the mean in use, be
    it right or wrong (noise prediction residual; Bao et al. 2022, arXiv:2206.07309). Made for a frozen network with a
    new head (`nets.TwoHeads`): the target is detached, so that the head does not move the mean.

    limit  Var(x_0 | x_t) is cut to [0, limit]; 1 fits images in [-1, 1]
    The rest is Analytic's.
    """

    def __init__(
        self,
        alpha_bar: Table,
        shape: tuple[int, ...],
        predicts: Prediction = "eps",
        eta: float = 1.0,
        grid: Int[Tensor, " n"] | None = None,
        levels: int | None = None,
        decoder_var: float | None = None,
        clip: float | None = None,
        limit: float = 1.0,
        last_noise: bool = False,
    ):
        super().__init__(alpha_bar, shape, predicts, eta, grid, levels, decoder_var, clip)
        if not limit > 0:
            raise ValueError(f"limit must be positive, not {limit}")
        self.limit, self.last_noise = limit, last_noise

    def spread_at(self, said: Tensor, x_t: Batch, t: Times) -> Tensor:
        """Var(x_0 | x_t) per coordinate, as the network's whole output has it; float64, in [0, limit]."""
        log = self.log_alpha_bar[t]
        error = self._squared_error(said, x_t, t)
        return (per_example(-torch.expm1(log) / log.exp(), x_t) * error).clamp(0, self.limit)

    def _squared_error(self, said: Tensor, x_t: Batch, t: Times) -> Tensor:
        """E[(eps - eps_hat)^2 | x_t]: what the head says."""
        return widest(halves(said, x_t)[1])

    def _target(self, said: Tensor, x0: Batch, x_t: Batch, eps: Batch, t: Times) -> Tensor:
        """What the head learns the mean of: the squared error of the mean in use, in units of the noise."""
        log = self.log_alpha_bar[t]
        error = (x0 - self._x0(said, x_t, t)).square()
        return per_example((log.exp() / -torch.expm1(log)).to(x0.dtype), x0) * error

    def _variance(self, said: Tensor, x: Batch, t: Times, s: Times) -> Tensor:
        from_x0, _, lambda2, _ = (per_example(v, x) for v in self._kernel(t, s))
        return lambda2 + from_x0.square() * self.spread_at(said, x, t)

    def loss(self, model: Network, x0: Batch, t: Times) -> PerExample:
        """Squared error of the prediction plus squared error of the head, each a mean over dimensions."""
        self.check_state("x0", x0)
        self.check_t("t", t, len(x0), first=1)
        eps = torch.randn_like(x0)
        x_t = self.corrupt(x0, t, eps)
        said = model(x_t, self.u(t))
        target = self._target(said, x0, x_t, eps, t).detach()
        head = (target - halves(said, x_t)[1]).float().square().flatten(1).mean(1)
        return self._simple(halves(said, x_t)[0], x_t, eps, t) + head


class SN(NPR):
    """The second answer is the expected squared noise E[eps^2 | x_t].

    Var(x_0 | x_t) = (1 - abar)/abar (answer - eps_hat^2): right for a perfect mean only. NPR corrects an imperfect one.
    """

    def _squared_error(self, said: Tensor, x_t: Batch, t: Times) -> Tensor:
        out, head = halves(said, x_t)
        return widest(head) - widest(self.convert(out, x_t, t, "eps")).square()

    def _target(self, said: Tensor, x0: Batch, x_t: Batch, eps: Batch, t: Times) -> Tensor:
        return eps.square()


# Training where the loss is large


class LossAware(Process):
    """Any discrete-time process, trained with times drawn by the size of their loss; pass it to `train`.

    p_t ~ sqrt(mean of the last `history` squared losses at t), mixed with `uniform` of the uniform law; uniform until
    every t has that many. A loss is divided by T p_t, so that its mean over the draws is the plain mean over t.
    Improved DDPM, section 3.3. The history is part of a training checkpoint.
    """

    remembers = ("losses", "seen")

    def __init__(self, process: Process, history: int = 10, uniform: float = 0.001):
        super().__init__()
        check_count("history", history)
        if not isinstance(process.T, int):
            raise TypeError(f"process must have discrete time, but its T is {process.T}")
        if not 0 < uniform <= 1:
            raise ValueError(f"uniform must lie in (0, 1], not {uniform}")
        self.process, self.T, self.uniform = process, process.T, uniform
        self.corrupt, self.prior, self.step, self.times = (
            process.corrupt,
            process.prior,
            process.step,
            process.times,
        )
        self.bound, self.encode, self.decode = process.bound, process.encode, process.decode
        device = process.device
        self.register_buffer("losses", torch.zeros(self.T, history, dtype=torch.float64, device=device))
        self.register_buffer("seen", torch.zeros(self.T, dtype=torch.long, device=device))

    def p(self) -> Float[Tensor, " T"]:
        """The law of the next training times 1..T."""
        size = self.losses.square().mean(1).sqrt()
        p = (1 - self.uniform) * size / size.sum().clamp(min=1e-300) + self.uniform / self.T
        warm = (self.seen >= self.losses.shape[1]).all() & (size.sum() > 0)
        return torch.where(warm, p, 1 / self.T)

    def sample_t(self, n: int) -> Times:
        """n times with law p_t, one from each of n equal strata of its distribution function, in random order."""
        check_count("n", n)
        u = (torch.randperm(n, device=self.device) + torch.rand(n, device=self.device)) / n
        return torch.searchsorted(self.p().cumsum(0), u.to(self.losses), right=True).clamp(max=self.T - 1) + 1

    def loss(self, model: Network, data, t: Times) -> PerExample:
        """The process's loss over T p_t. Remembers the plain loss, for the next draw."""
        plain = self.process.loss(model, data, t)
        weight = 1 / (self.T * self.p()[t - 1])
        self.remember(t, plain.detach())
        return weight.to(plain.dtype) * plain

    def remember(self, t: Times, loss: PerExample) -> None:
        """Write losses over the oldest entries of their times; of one time's many, in the order given."""
        order = t.argsort(stable=True)
        i, loss = t[order] - 1, loss[order].double()
        among = torch.arange(len(i), device=i.device) - torch.searchsorted(i, i)  # 0, 1, ... within each time
        count = torch.zeros_like(self.seen).index_add_(0, i, torch.ones_like(i))
        newest = among >= count[i] - self.losses.shape[1]
        place = (self.seen[i] + among) % self.losses.shape[1]
        self.losses[i[newest], place[newest]] = loss[newest].to(self.losses.dtype)
        self.seen += count
