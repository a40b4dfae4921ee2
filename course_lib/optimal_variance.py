"""The reverse variance, computed: Analytic-DPM (Bao, Li, Zhu & Zhang 2022, arXiv:2201.06503), and its best times.

One fact carries the chapter. If q(x_s | x_t, x_0) has mean (from_x0 x_0 + from_xt x_t) and variance lambda^2, then
q(x_s | x_t) has variance lambda^2 + from_x0^2 Var(x_0 | x_t): the law of total variance. The methods differ in what
they put for the last factor:

    ddim               0
    learned_variance   something learned
    optimal_variance   its average over x_t, computed
    sn_npr             a network's answer at this x_t

Times are those of ddpm.py: t = 0 is the data, and a step goes from t to any s < t.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .ddim import DDIM
from .ddpm import DDPM, Prediction, Transition
from .finite import Watch, note
from .process import evaluating
from .schedules import check_number
from .shapes import (
    Network,
    PerExample,
    Table,
    Times,
    check_choice,
    check_count,
    describe,
    widest,
)

Costs = Float[Tensor, "T_plus_1 T_plus_1"]  # [t, s]: what the step t -> s costs


class Analytic(DDIM):
    """The best variance that is the same for all x_t: sigma*^2 = lambda^2 + from_x0^2 E Var(x_0 | x_t).

    eta = 1 is Analytic-DDPM, eta = 0 Analytic-DDIM. Theorem 1 of Bao et al., for a step from t to any s < t.

    conditional_variance  E Var(x_0 | x_t), mean over dimensions, at t = 0..T, as `estimate_conditional_variance` has
                it; NaN where it is not known. A step from such a time is an error, and so is any without a table.
    last_noise  at s = 0: False shows the mean of p(x_0 | x_t), True draws from it
    settings    levels, decoder_var, clip of DDPM; the variance of p(x_0 | x_1) in the bound is conditional_variance[1]
                unless decoder_var is given
    """

    draws = True  # with eta = 0, too: the noise is not DDIM's

    def __init__(
        self,
        alpha_bar: Table,
        shape: tuple[int, ...],
        predicts: Prediction = "eps",
        eta: float = 1.0,
        conditional_variance: Table | None = None,
        last_noise: bool = False,
        **settings,
    ):
        super().__init__(alpha_bar, shape, predicts, eta, **settings)
        self.last_noise = last_noise
        if conditional_variance is None:
            conditional_variance = torch.full_like(self.alpha_bar, math.nan)
        known = check_conditional_variance(conditional_variance, self.T)
        self.register_buffer("conditional_variance", known.cpu())
        if settings.get("decoder_var") is None and known[1] > 0:
            self.decoder_var = known[1].item()

    def transition(self, t: Times, s: Times) -> Transition:
        """That of DDIM, with the best variance for p; none at s = 0 unless last_noise."""
        step = super().transition(t, s)
        var = step.q_var + step.from_x0.square() * self._known(t)
        return step._replace(p_var=var if self.last_noise else var * (s > 0))

    def _known(self, t: Times) -> PerExample:
        """The table at t; ValueError where it holds nothing. Off the CPU the running loop raises at its end."""
        found = self.conditional_variance[t]
        missing = found.isnan()
        if found.device.type == "cpu" and missing.any():
            raise ValueError(
                f"conditional_variance is not known at t = {t[missing][0]}: estimate it there with "
                "estimate_conditional_variance(process, model, data) and give it to Analytic"
            )
        note("conditional_variance", ~missing, t)
        return found


def check_conditional_variance(conditional_variance: Table, T: int) -> Table:
    """The table itself in float64, or an error that names what it must be."""
    if (
        not isinstance(conditional_variance, Tensor)
        or not conditional_variance.is_floating_point()
    ):
        raise TypeError(
            f"conditional_variance must be a float tensor, not {describe(conditional_variance)}"
        )
    if conditional_variance.shape != (T + 1,):
        got = tuple(conditional_variance.shape)
        raise ValueError(
            f"conditional_variance must have shape (T + 1,) = ({T + 1},), not {got}"
        )
    if (conditional_variance < 0).any() or conditional_variance.isinf().any():
        raise ValueError("conditional_variance must not be negative or infinite")
    return widest(conditional_variance.detach())


@torch.no_grad()
def estimate_conditional_variance(
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

    Each time costs `repeats` passes over the data, in eval mode. Raises ValueError for fewer than 2 examples or data
    that is not finite, FloatingPointError for a model that says NaN.
    """
    check_choice("estimator", estimator, ("residual", "score norm"))
    check_count("repeats", repeats)
    check_count("batch", batch)
    process.check_state("data", data)
    if len(data) < 2:
        raise ValueError(f"data must hold at least 2 examples, not {len(data)}")
    if not data.isfinite().all():
        raise ValueError("data must be finite")
    times = torch.arange(1, process.T + 1) if times is None else times
    process.check_t("times", times, len(times), first=1)
    if limit is None:
        limit = widest(data).flatten(1).var(0, correction=0).mean().item()
    check_number("limit", limit, least=0)
    average = {"residual": mean_residual, "score norm": mean_from_score}[estimator]
    out = torch.full_like(process.alpha_bar, math.nan)
    out[0] = 0
    watch = Watch()
    with evaluating(model), watch:
        for t in times.tolist():
            passes = [x0 for _ in range(repeats) for x0 in data.split(batch)]
            # Few samples at high noise: the score's estimate is a small difference
            # times (1 - abar) / abar, and comes out negative or huge.
            out[t] = average(process, model, passes, t).clamp(0, limit)
    watch.read()
    return out


def mean_residual(
    process: DDPM, model: Network, passes: list[Tensor], t: int
) -> Tensor:
    """E (x_0 - x0_hat)^2 over examples and dimensions."""

    def residual(x0: Tensor, x_t: Tensor, now: Times) -> Tensor:
        return widest(x0) - widest(process.predict_x0(model, x_t, now))

    return mean_square(process, passes, t, residual)


def mean_from_score(
    process: DDPM, model: Network, passes: list[Tensor], t: int
) -> Tensor:
    """(1 - abar)/abar (1 - E eps_hat^2); eps_hat^2 is (1 - abar) times the squared score."""

    def eps_hat(x0: Tensor, x_t: Tensor, now: Times) -> Tensor:
        return process.convert(process.ask(model, x_t, now), x_t, now, "eps")

    log = process.log_alpha_bar[t]
    noise_to_signal = -torch.expm1(log) / log.exp()
    return noise_to_signal * (1 - mean_square(process, passes, t, eps_hat))


def mean_square(
    process: DDPM,
    passes: list[Tensor],
    t: int,
    values: Callable[[Tensor, Tensor, Times], Tensor],
) -> Tensor:
    """E values(x_0, x_t, t)^2 over examples and dimensions, each x_0 at one draw of x_t."""
    total, count = 0, 0
    for x0 in passes:
        now = torch.full((len(x0),), t, device=x0.device)
        square = widest(values(x0, process.corrupt(x0, now), now)).square()
        total, count = total + square.sum(), count + x0.numel()
    return total / count


# The best times to visit


def costs(process: DDPM, conditional_variance: Table) -> Costs:
    """What each step t -> s adds to the bound, nats per dimension; infinite for s >= t.

    With lambda^2 and sigma^2 the variances of q(x_s | x_t, x_0) and of p(x_s | x_t), c = E Var(x_0 | x_t), w = from_x0:
        1/2 (lambda^2/sigma^2 - 1 + ln(sigma^2/lambda^2) + w^2 c/sigma^2), which is 1/2 ln(sigma*^2/lambda^2) at sigma*.
    The last step costs 1/2 ln(2 pi e c), the variance that fits; with grey levels it goes from t = 1 and counts as 0.
    The sum over the steps of a run, plus L_T, is the bound of those steps, if c belongs to the mean in use.
    """
    c = check_conditional_variance(conditional_variance, process.T)
    t, s = torch.tril_indices(process.T + 1, process.T + 1, -1, device=c.device)
    t, s = t[s > 0], s[s > 0]
    step = process.transition(t, s)
    w, lambda2, var = step.from_x0, step.q_var, step.p_var
    if not (lambda2 > 0).all():
        raise ValueError(
            "eta must be above 0 for a bound: without noise in q it is infinite"
        )
    out = torch.full(
        (process.T + 1, process.T + 1), math.inf, dtype=c.dtype, device=c.device
    )
    ratio, error = lambda2 / var, w.square() * c[t] / var
    # KL of two Gaussians, whose means differ by w (x_0 - x_0_hat).
    out[t, s] = (ratio - 1 - ratio.log() + error) / 2
    if process.levels is None:
        out[1:, 0] = (2 * math.pi * math.e * c[1:]).log() / 2
    else:
        out[1, 0] = 0
    return out


def optimal_times(cost: Costs, steps: int) -> Times:
    """The falling times T = t_0 > ... > t_steps = 0 of least total cost[t, s], by dynamic programming.

    best[k][t] = min_s cost[t, s] + best[k - 1][s] is the least cost of reaching 0 from t in k steps: O(steps T^2).
    Bao et al. 2022, "optimal trajectory".  ValueError unless 1 <= steps <= T, or where every choice costs infinity.
    """
    T = len(cost) - 1
    check_count("steps", steps)
    if steps > T:
        raise ValueError(f"steps must be at most T = {T}, not {steps}")
    if cost.isnan().any():
        raise ValueError(
            "cost must be known for all steps: estimate the conditional variance at every t"
        )
    best = cost[:, 0]
    choices = [torch.zeros(T + 1, dtype=torch.long, device=cost.device)]
    for _ in range(steps - 1):
        # Row t, column s: the best first step from
        # t, then the best of k - 1 steps from s.
        best, choice = (cost + best).min(1)
        choices.append(choice)
    if best[T].isinf():
        raise ValueError(f"every choice of {steps} steps has infinite cost")
    times = [T]
    for choice in reversed(choices):
        times.append(int(choice[times[-1]]))
    return torch.tensor(times, device=cost.device)
