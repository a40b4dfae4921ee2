"""Score-based models in continuous time (Song, Sohl-Dickstein, Kingma, Kumar, Ermon & Poole 2021, arXiv:2011.13456).

Forward  dx = f(t) x dt + g(t) dw,  so that  x_t = m(t) x_0 + std(t) eps  exactly, t from 0 (data) to T = 1.0.
    VP      f = -beta / 2    g^2 = beta                        m = sqrt(abar)   std = sqrt(1 - abar)
    SubVP   f = -beta / 2    g^2 = beta (1 - abar^2)           m = sqrt(abar)   std = 1 - abar
    VE      f = 0            g^2 = d sigma^2 / dt              m = 1            std = sqrt(sigma(t)^2 - sigma(0)^2)

An SDE is a process like any other and steps back by Euler-Maruyama. The other ways back wrap one:
`Ancestral(VP(linear(), (2,)))` has the forward process and the loss of its SDE, and a step of its own.
Equation numbers are the paper's unless another is named.
"""

import copy
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .ddpm import MADE_OF, Prediction, log_prob_of_level, mix
from .files import needs
from .process import Process
from .schedules import Schedule
from .shapes import Network, PerExample, Times, check_choice, check_count, per_example, repeated, widest

Batch = Float[Tensor, "B *event"]
LEAST = 1e-5  # alpha_bar at t_max, for a schedule that ends at 0 (cosine, sqrt), where beta is infinite


class Row(NamedTuple):
    """All that a step needs to know of one time: floats, or float64 tensors (B,)."""

    t: float | Tensor
    mean: float | Tensor  # x_t = mean x_0 + std eps
    std: float | Tensor
    log_sigma: float | Tensor  # log(std / mean), which only rises
    f: float | Tensor  # dx = f x dt + g dw
    g2: float | Tensor
    x0_x: float | Tensor  # x0 = x0_x x_t + x0_out (network's output)
    x0_out: float | Tensor
    eps_x: float | Tensor  # eps = eps_x x_t + eps_out (network's output)
    eps_out: float | Tensor

    @property
    def m(self):
        """The module that computes with these numbers."""
        return math if isinstance(self.t, float) else torch


class SDE(Process):
    """A linear SDE whose transition kernel is known; subclasses say m(t), std(t), f(t) and g(t)^2.

    shape      of one example
    predicts   what the network outputs, as in DDPM; a network of a DDPM with alpha_bar(t / T) fits as it is
    weighting  of the loss: "simple" is lambda = std^2, "likelihood" is g^2 with times drawn to match
    levels, decoder_var, clip   as in DDPM; decoder_var is the variance of p(x_0 | x_{t_min}) in the bound,
               by default sigma(t_min)^2 = std^2 / m^2
    t_min      where the bound and the ODE stop: at 0 the score of data that lies on points is infinite
    t_max      later times are read as t_max; 1 unless the forward process leaves nothing at 1
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        predicts: Prediction = "eps",
        weighting: Literal["simple", "likelihood"] = "simple",
        levels: int | None = None,
        decoder_var: float | None = None,
        clip: float | None = None,
        t_min: float = 1e-5,
        t_max: float = 1.0,
    ):
        super().__init__()
        check_choice("predicts", predicts, MADE_OF)
        check_choice("weighting", weighting, ("simple", "likelihood"))
        if levels is not None:
            check_count("levels", levels, least=2)
        for name, value in (("decoder_var", decoder_var), ("clip", clip)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")
        if not 0 < t_min < t_max <= 1:
            raise ValueError(f"0 < t_min < t_max <= 1 must hold, not t_min = {t_min}, t_max = {t_max}")
        self.T, self.shape, self.dims = 1.0, tuple(shape), math.prod(shape)
        self.predicts, self.weighting, self.levels, self.clip = predicts, weighting, levels, clip
        self.t_min, self.t_max = t_min, t_max
        self.register_buffer("span", torch.tensor([t_min, t_max], dtype=torch.float64))
        self._row_at = lru_cache(4096)(self._row_of_float)
        first = self._row_at(t_min)
        self.decoder_var = decoder_var or math.exp(2 * first.log_sigma)
        self.prior_std = self._row_at(1.0).std

    # What a subclass says, for float64 t in [0, t_max]

    def log_mean(self, t: Tensor) -> Tensor:
        """log m(t)."""
        raise NotImplementedError

    def log_std(self, t: Tensor) -> Tensor:
        """log std(t), -inf at t = 0."""
        raise NotImplementedError

    def drift(self, t: Tensor) -> Tensor:
        """f(t) in dx = f x dt + g dw."""
        raise NotImplementedError

    def diffusion2(self, t: Tensor) -> Tensor:
        """g(t)^2."""
        raise NotImplementedError

    # Its numbers

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

    def kernel(self, u: PerExample) -> tuple[PerExample, PerExample]:
        """(m, std) of x_t = m x_0 + std eps at time u, float64."""
        t = widest(u).clamp(max=self.t_max)
        return self.log_mean(t).exp(), self.log_std(t).exp()

    def row(self, t: Times) -> Row:
        """The numbers at t. One time for all examples on a CPU (as `sample` gives it) is kept as plain floats."""
        if t.device.type == "cpu" and repeated(t):
            return self._row_at(t[0].item())
        return self._row(widest(t))

    def rows(self, t: Times, s: Times) -> tuple[Row, Row]:
        """The numbers at t and at s, both as floats or both as tensors."""
        if repeated(t) and repeated(s):
            return self.row(t), self.row(s)
        return self._row(widest(t)), self._row(widest(s))

    def _row_of_float(self, t: float) -> Row:
        row = self._row(torch.tensor([t], dtype=self.span.dtype, device=self.span.device))
        return Row(*[v.item() for v in row])

    def _row(self, t: Tensor) -> Row:
        t = t.clamp(max=self.t_max)
        log_mean, log_std = self.log_mean(t), self.log_std(t)
        mean, std = log_mean.exp(), log_std.exp()
        to_x0, to_eps = (mix(self.predicts, kind, mean, std) for kind in ("x0", "eps"))
        rates = self.drift(t), self.diffusion2(t)
        numbers = [t, mean, std, log_std - log_mean, *rates, *to_x0, *to_eps]
        return Row(*[torch.as_tensor(v, dtype=t.dtype, device=t.device).expand_as(t) for v in numbers])

    def time_at(self, log_sigma: Tensor) -> Tensor:
        """The t in [t_min, t_max] at which log(std / m) is log_sigma, by bisection, float64."""
        want = widest(log_sigma)
        low, high = (torch.full_like(want, v) for v in (self.t_min, self.t_max))
        for _ in range(54):
            middle = (low + high) / 2
            early = self.log_std(middle) - self.log_mean(middle) < want
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return (low + high) / 2

    def spread(self, t: Times) -> Times:
        """For t even in (0, 1]: times whose log sigma is even between t_min (t -> 0) and t_max (t = 1).

        Their density is proportional to g^2 / std^2: importance sampling for the likelihood weighting, exactly.
        Song, Durkan, Murray & Ermon 2021 (arXiv:2101.09258), section 4.
        """
        low, high = self._ends()
        return self.time_at(low + widest(t) * (high - low))

    def _ends(self) -> tuple[float, float]:
        return self._row_at(self.t_min).log_sigma, self._row_at(self.t_max).log_sigma

    # Forward process

    def corrupt(self, x0: Batch, t: Times, eps: Batch | None = None) -> Batch:
        """x_t = m(t) x_0 + std(t) eps, eps ~ N(0, I) unless given; t = 0 is the data.  (eq. 29)"""
        self.check_state("x0", x0)
        self.check_t("t", t, len(x0))
        eps = torch.randn_like(x0) if eps is None else eps
        mean, std = self.kernel(t)
        return (per_example(mean.to(x0.dtype), x0) * x0).addcmul_(per_example(std.to(x0.dtype), x0), eps)

    def prior(self, n: int) -> Batch:
        """x_1 ~ N(0, std(1)^2 I), with std 1 for VP and sub-VP."""
        return self.prior_std * torch.randn(n, *self.shape, device=self.device)

    def log_prior(self, x: Batch) -> PerExample:
        """Log density of the prior at x, nats, float64."""
        z = widest(x).flatten(1) / self.prior_std
        return -z.square().sum(1) / 2 - self.dims * math.log(math.sqrt(2 * math.pi) * self.prior_std)

    # What the network says

    def estimate(self, model: Network, x: Batch, t: Times) -> tuple[Batch, Batch]:
        """The network's (x_0, eps) at (x, t > 0), with x = m x_0 + std eps; x_0 clipped if `clip` is set."""
        out, row = model(x, self.u(t)).to(x.dtype), self.row(t)
        x0 = self._x0(out, x, row)
        if self.clip is None:
            return x0, self._mixed(out, x, row.eps_x, row.eps_out)
        return x0, self._mixed(x0, x, 1 / row.std, -row.mean / row.std)  # eps must fit the x_0 that was cut

    def predict_x0(self, model: Network, x: Batch, t: Times) -> Batch:
        """The network's estimate of x_0 (Tweedie's formula for a score), clipped if `clip` is set."""
        return self._x0(model(x, self.u(t)).to(x.dtype), x, self.row(t))

    def _x0(self, out: Batch, x: Batch, row: Row) -> Batch:
        x0 = self._mixed(out, x, row.x0_x, row.x0_out)
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)

    @staticmethod
    def _mixed(out: Batch, x: Batch, a: float | Tensor, b: float | Tensor) -> Batch:
        a, b = fit(x, a, b)
        return (a * x).addcmul(b, out)

    def score(self, model: Network, x: Batch, t: Times) -> Batch:
        """The network's estimate of grad log q(x_t): -eps / std."""
        return -self.estimate(model, x, t)[1] / fit(x, self.row(t).std)[0]

    def velocity(self, model: Network, x: Batch, t: Times) -> Batch:
        """dx/dt of the probability-flow ODE: f x - g^2 score / 2.  (eq. 13)"""
        return self._flow(x, self.estimate(model, x, t)[1], self.row(t))

    def _flow(self, x: Batch, eps: Batch, row: Row) -> Batch:
        f, pull = fit(x, row.f, row.g2 / (2 * row.std))
        return (f * x).addcmul(pull, eps)

    # Training

    def loss(self, model: Network, x0: Batch, t: Times) -> PerExample:
        """lambda |score - grad log q(x_t | x_0)|^2 = (lambda / std^2) |eps - eps_hat|^2, mean over dimensions.  (eq. 7)

        "simple": lambda = std^2, the plain error of the noise at t. "likelihood": lambda = g^2, whose 1 / t is taken
        into the choice of times: t even in (0, 1] becomes spread(t), and the weight the constant `scale`.
        """
        self.check_state("x0", x0)
        self.check_positive(t, len(x0))
        if self.weighting == "simple":
            return self._noise_error(model, x0, t).mean(1)
        return self.scale * self._noise_error(model, x0, self.spread(t).to(t.dtype)).mean(1)

    @property
    def scale(self) -> float:
        """Integral of g^2 / std^2 over t from t_min to t_max: 2 log(sigma(t_max) / sigma(t_min))."""
        low, high = self._ends()
        return 2 * (high - low)

    def weight(self, t: Times) -> PerExample:
        """g^2 / (2 std^2): times |eps - eps_hat|^2, summed over dimensions, what the bound pays at time t."""
        self.check_positive(t, len(t))
        row = self._row(widest(t))
        return row.g2 / (2 * row.std.square())

    def _noise_error(self, model: Network, x0: Batch, t: Times) -> Float[Tensor, "B d"]:
        eps = torch.randn_like(x0)
        said = self.estimate(model, self.corrupt(x0, t, eps), t)[1]
        return (eps - said).float().square().flatten(1)

    def bound(self, model: Network, x0: Batch, t: Times) -> PerExample:
        """Nats, float64; the mean over t even in (0, 1] bounds -log p(x_0) from above:

        KL(q(x_1 | x_0) || prior) + integral, t_min to t_max, of weight |eps - eps_hat|^2 + E -log p(x_0 | x_{t_min}).
        The integral is taken over log sigma, at spread(t), where the weight is constant.  arXiv:2101.09258, theorem 3,
        with data in place of x_{t_min} as in Kingma et al. 2021 (arXiv:2107.00630), eqs. 11 and 17.
        """
        self.check_state("x0", x0)
        self.check_positive(t, len(x0))
        error = self._noise_error(model, x0, self.spread(t).to(t.dtype)).sum(1)
        return self.prior_term(x0) + self.scale / 2 * widest(error) + self.reconstruction(model, x0)

    def prior_term(self, x0: Batch) -> PerExample:
        """KL(q(x_{t_max} | x_0) || prior), nats; no network can change it."""
        self.check_state("x0", x0)
        end = self._row_at(self.t_max)
        ratio = (end.std / self.prior_std) ** 2
        far = (end.mean / self.prior_std) ** 2 * widest(x0).square().flatten(1).sum(1)
        return far / 2 + self.dims / 2 * (ratio - 1 - math.log(ratio))

    def reconstruction(self, model: Network, x0: Batch) -> PerExample:
        """-log p(x_0 | x_{t_min}), nats, at one draw of x_{t_min}: a density, or the mass of grey levels if set."""
        self.check_state("x0", x0)
        t = torch.full((1,), self.t_min, dtype=x0.dtype, device=x0.device).expand(len(x0))
        mean = widest(self.predict_x0(model, self.corrupt(x0, t), t))
        if self.levels is not None:
            sd = math.sqrt(self.decoder_var)
            return -log_prob_of_level(widest(x0), mean, sd, self.levels).flatten(1).sum(1)
        error = (widest(x0) - mean).square().flatten(1).sum(1)
        return self.dims / 2 * math.log(2 * math.pi * self.decoder_var) + error / (2 * self.decoder_var)

    # Sampling

    def step(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """x_s = x - (t - s) (f x - g^2 score) + g sqrt(t - s) z: Euler-Maruyama, no noise at s = 0.  (eq. 6)

        Stable only where beta (t - s) stays well below 2: with few steps use `Ancestral`, which is exact for known x_0.
        """
        self.check_state("x", x)
        self.check_step(len(x), t, s)
        now, then = self.rows(t, s)
        dt = now.t - then.t
        from_x, from_eps, sd = fit(
            x, 1 - dt * now.f, -dt * now.g2 / now.std, (now.g2 * dt) ** 0.5 * (then.t > 0)
        )
        x_s = torch.randn_like(x).mul_(sd).addcmul_(from_x, x)
        return self.finite(x_s.addcmul_(from_eps, self.estimate(model, x, t)[1]), t)

    # Bad input

    def check_positive(self, t: Tensor, n: int) -> None:
        """Raise unless t is one time per example in (0, 1]."""
        self.check_t("t", t, n)
        if t.device.type == "cpu" and not (t > 0).all():
            raise ValueError("t must be positive: at t = 0 there is no noise to predict")

    @staticmethod
    def finite(x: Batch, t: Times) -> Batch:
        """x itself; on a CPU, FloatingPointError that names the first t from which a step was not finite."""
        if x.device.type == "cpu" and not math.isfinite(x.sum().item()):
            bad = ~x.flatten(1).isfinite().all(1)
            if bad.any():
                raise FloatingPointError(
                    f"the drift at t = {t[bad][0].item():g} is not finite in {int(bad.sum())} of {len(x)} examples: "
                    "look at what the network says there"
                )
        return x


def fit(x: Tensor, *numbers: float | Tensor) -> list[Tensor]:
    """Numbers of a Row, ready to multiply x: in its dtype, with its axes."""
    return [
        per_example(v.to(x.dtype), x) if isinstance(v, Tensor) else torch.tensor(v, dtype=x.dtype)
        for v in numbers
    ]


# The three SDEs


class VP(SDE):
    """Variance preserving: dx = -beta/2 x dt + sqrt(beta) dw, for any schedule of alpha_bar; DDPM as T -> infinity.

    (eq. 11; linear() is eq. 33.) settings: see SDE. A schedule that ends at 0 is read up to alpha_bar = 1e-5.
    """

    def __init__(self, schedule: Schedule, shape: tuple[int, ...], **settings):
        start = schedule.log_alpha_bar(torch.zeros(1, dtype=torch.float64)).item()
        if start != 0:
            raise ValueError(
                f"schedule must start at alpha_bar(0) = 1, but {schedule} starts at {math.exp(start):g}"
            )
        self.schedule = schedule  # first: SDE.__init__ asks for log_mean and the others
        super().__init__(shape, **({"t_max": last_time(schedule)} | settings))
        self.prior_std = 1.0

    def log_mean(self, t: Tensor) -> Tensor:
        return self.schedule.log_alpha_bar(t) / 2

    def log_std(self, t: Tensor) -> Tensor:
        return self.schedule.noise(t).log() / 2

    def drift(self, t: Tensor) -> Tensor:
        return -self.schedule.rate(t) / 2

    def diffusion2(self, t: Tensor) -> Tensor:
        return self.schedule.rate(t)


class SubVP(VP):
    """Sub-VP: the mean of VP, its variance squared: std = 1 - abar, g^2 = beta (1 - abar^2).  (eq. 12)"""

    def log_std(self, t: Tensor) -> Tensor:
        return self.schedule.noise(t).log()

    def diffusion2(self, t: Tensor) -> Tensor:
        return -self.schedule.rate(t) * torch.expm1(2 * self.schedule.log_alpha_bar(t))


class VE(SDE):
    """Variance exploding: dx = g dw with sigma(t) = sigma_min (sigma_max / sigma_min)^t, g^2 = d sigma^2 / dt.  (eq. 9)

    std^2 = sigma(t)^2 - sigma(0)^2, which is the kernel of this SDE; the paper's code (eq. 31) leaves out - sigma(0)^2
    and so starts from blurred data. settings: see SDE.
    """

    def __init__(self, shape: tuple[int, ...], sigma_min: float = 0.01, sigma_max: float = 50.0, **settings):
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"0 < sigma_min < sigma_max must hold, not {sigma_min} and {sigma_max}")
        self.sigma_min, self.ratio = sigma_min, math.log(sigma_max / sigma_min)
        super().__init__(shape, **settings)

    def log_mean(self, t: Tensor) -> Tensor:
        return 0 * t

    def log_std(self, t: Tensor) -> Tensor:
        return math.log(self.sigma_min) + torch.expm1(2 * self.ratio * t).log() / 2

    def drift(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion2(self, t: Tensor) -> Tensor:
        return 2 * self.ratio * self.sigma_min**2 * (2 * self.ratio * t).exp()


def last_time(schedule: Schedule) -> float:
    """The last u in [0, 1] at which alpha_bar is at least 1e-5: 1 unless the schedule ends lower."""
    left = lambda u: schedule.log_alpha_bar(torch.tensor(u, dtype=torch.float64)).item() - math.log(LEAST)  # noqa: E731
    low, high = 0.0, 1.0
    if left(high) >= 0:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if left(middle) >= 0 else (low, middle)
    return low


# Other ways back


class Sampler(Process):
    """An SDE with another way back: forward process, loss and bound are the SDE's, `step` is its own."""

    def __init__(self, sde: SDE):
        super().__init__()
        if not isinstance(sde, SDE):
            raise TypeError(f"sde must be an SDE, such as VP(linear(), (2,)), not {type(sde).__name__}")
        self.sde, self.T, self.shape, self.dims = sde, sde.T, sde.shape, sde.dims

    def corrupt(self, x0: Batch, t: Times, eps: Batch | None = None) -> Batch:
        """That of the SDE."""
        return self.sde.corrupt(x0, t, eps)

    def loss(self, model: Network, x0: Batch, t: Times) -> PerExample:
        """That of the SDE."""
        return self.sde.loss(model, x0, t)

    def bound(self, model: Network, x0: Batch, t: Times) -> PerExample:
        """That of the SDE, which is a bound for its reverse SDE, not for an ODE."""
        return self.sde.bound(model, x0, t)

    def prior(self, n: int) -> Batch:
        """That of the SDE."""
        return self.sde.prior(n)

    def times(self, steps: int) -> Times:
        """That of the SDE."""
        return self.sde.times(steps)

    def step(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """Check the input, then `move`."""
        self.check_state("x", x)
        self.check_step(len(x), t, s)
        return self.sde.finite(self.move(model, x, t, s), t)

    def move(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """x_s from x_t."""
        raise NotImplementedError


class Ancestral(Sampler):
    """Draw from q(x_s | x_t, x_0) with the network's x_0: exact when x_0 is known, at any step.  (appendix F)

    In y = x / m and sigma = std / m:  y_s = x_0 + (sigma_s / sigma_t)^2 (y - x_0) + sd z,
    sd^2 = sigma_s^2 (sigma_t^2 - sigma_s^2) / sigma_t^2. With VP it is DDPM's step with the small variance.
    """

    def move(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """x_s ~ q(x_s | x_t, x_0 = the network's estimate)."""
        now, then = self.sde.rows(t, s)
        log_kept = 2 * (then.log_sigma - now.log_sigma)  # of the share of noise that stays
        kept, new = now.m.exp(log_kept), -now.m.expm1(log_kept)
        from_x, from_x0, sd = fit(x, then.mean / now.mean * kept, then.mean * new, then.std * new**0.5)
        x_s = torch.randn_like(x).mul_(sd).addcmul_(from_x, x)
        return x_s.addcmul_(from_x0, self.sde.predict_x0(model, x, t))


class Renewal(Sampler):
    """Estimate x_0, then noise it again: x_s = m_s x_0 + std_s (sqrt(1 - share) eps + sqrt(share) z).

    share   share of the noise's variance that is drawn anew, in [0, 1]: 0 is DDIM without noise, 1 forgets x_t,
              1 - (sigma_s / sigma_t)^2 would be `Ancestral`

    If the model answers with a draw from p(x_0 | x_t), as oracle.PosteriorDraw does, every marginal is kept at any
    step and any `share`: (x_0, x_t) is then drawn from their joint law, so eps is N(0, I) and knows nothing of x_0.
    With the mean E[x_0 | x_t] in its place the variance of x_s lacks lost(t, s) E Var(x_0 | x_t).
    Su's unified diffusion model (kexue.fm/archives/9271), which draws x_0 and re-noises it, is share = 1.
    """

    def __init__(self, sde: SDE, share: float = 1.0):
        super().__init__(sde)
        if not 0 <= share <= 1:
            raise ValueError(f"share must lie in [0, 1], not {share}")
        self.share = share

    def move(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """The model's (x_0, eps), put together again at s with other noise."""
        then, (x0, eps) = self.sde.row(s), self.sde.estimate(model, x, t)
        shares = then.mean, math.sqrt(1 - self.share) * then.std, math.sqrt(self.share) * then.std
        from_x0, from_eps, sd = fit(x, *shares)
        x_s = torch.randn_like(x).mul_(sd).addcmul_(from_x0, x0)
        return x_s.addcmul_(from_eps, eps)

    def lost(self, t: Times, s: Times) -> PerExample:
        """(m_s - sqrt(1 - share) std_s m_t / std_t)^2, float64: times E Var(x_0 | x_t), what x_s lacks with the mean.

        x_s is this root times x_0 plus a multiple of x_t. For share = 1 and VP: alpha_bar_s E Var(x_0 | x_t).
        """
        self.check_step(len(t), t, s)
        now, then = (self.sde._row(widest(v)) for v in (t, s))
        kept = math.sqrt(1 - self.share) * then.std * now.mean / now.std
        return (then.mean - kept).square()


class PredictorCorrector(Sampler):
    """A step of another process, then `corrections` steps of Langevin dynamics at the new time.  (algorithms 2 to 5)

    predictor    any SDE or Sampler: its step is the prediction
    ratio        length of the Langevin drift over that of its noise; 0.16 in the paper, which calls it r or snr

    The step size is eps = 2 (ratio std)^2: the paper's 2 (ratio |z| / |score|)^2 with both norms replaced by what they
    are on average given x_0, sqrt(d) and sqrt(d) / std. The paper's code averages the drawn norms over the batch, so
    that a sample depends on what else is sampled; norms of each example alone make the size depend on x, which no
    longer leaves the law as it is and explodes in few dimensions, wherever the score happens to be near 0.
    """

    def __init__(self, predictor: SDE | Sampler, ratio: float = 0.16, corrections: int = 1):
        super().__init__(getattr(predictor, "sde", predictor))
        check_count("corrections", corrections)
        if not ratio > 0:
            raise ValueError(f"ratio must be positive, not {ratio}")
        self.predictor, self.ratio, self.corrections = predictor, ratio, corrections

    def fresh(self) -> Process:
        """A copy whose predictor is fresh."""
        return PredictorCorrector(self.predictor.fresh(), self.ratio, self.corrections)

    def move(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """Predict x_s, then correct it; not at s = 0, where there is no noise to exchange."""
        x = self.predictor.step(model, x, t, s)
        at = s.clamp(min=self.sde.t_min)
        for _ in range(self.corrections):
            if repeated(s) and s.device.type == "cpu" and s[0] == 0:
                return x
            x = torch.where(per_example(s > 0, x), self.correct(model, x, at), x)
        return x

    def correct(self, model: Network, x: Batch, t: Times) -> Batch:
        """One Langevin step at time t: x + size score + sqrt(2 size) z, size = 2 (ratio std)^2."""
        std = self.sde.row(t).std
        pull, sd = fit(x, -2 * self.ratio**2 * std, 2 * self.ratio * std)
        x_new = torch.randn_like(x).mul_(sd).add_(x)
        return x_new.addcmul_(pull, self.sde.estimate(model, x, t)[1])


class Heun(Sampler):
    """The probability-flow ODE by Heun's second-order method: two calls of the network per step.

    The last step, to s = 0, shows the estimate of x_0 (there the score may be infinite): one call.
    """

    def move(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """Mean of the slopes at both ends."""
        x0, eps = self.sde.estimate(model, x, t)
        if self.ends(s):
            return x0
        now, then, dt = self.sde.row(t), s.clamp(min=self.sde.t_min), self.length(x, t, s)
        k1 = self.sde._flow(x, eps, now)
        k2 = self.sde.velocity(model, x + dt * k1, then)
        return torch.where(per_example(s > 0, x), x + dt / 2 * (k1 + k2), x0)

    def length(self, x: Batch, t: Times, s: Times) -> Tensor:
        """s - t < 0 as it multiplies x, after both are read as at most t_max."""
        later, earlier = (widest(v).clamp(max=self.sde.t_max) for v in (t, s))
        return per_example((earlier - later).to(x.dtype), x)

    @staticmethod
    def ends(s: Times) -> bool:
        """True where all examples step to 0, and that can be seen without waiting for a device."""
        return s.device.type == "cpu" and repeated(s) and s[0].item() == 0


class RK4(Heun):
    """The probability-flow ODE by the classical Runge-Kutta method: fourth order, four calls per step."""

    def move(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """Slopes at the start, twice in the middle, and at the end, weighed 1, 2, 2, 1."""
        x0, eps = self.sde.estimate(model, x, t)
        if self.ends(s):
            return x0
        dt, then, middle = self.length(x, t, s), s.clamp(min=self.sde.t_min), self.middle(t, s)
        k1 = self.sde._flow(x, eps, self.sde.row(t))
        k2 = self.sde.velocity(model, x + dt / 2 * k1, middle)
        k3 = self.sde.velocity(model, x + dt / 2 * k2, middle)
        k4 = self.sde.velocity(model, x + dt * k3, then)
        return torch.where(per_example(s > 0, x), x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4), x0)

    def middle(self, t: Times, s: Times) -> Times:
        """(t + s) / 2, after both are read as at most t_max; one value for all stays one value."""
        n = len(t)
        if repeated(t) and repeated(s):
            t, s = t[:1], s[:1]
        return ((t.clamp(max=self.sde.t_max) + s.clamp(max=self.sde.t_max)) / 2).expand(n)


class DPMSolver(Sampler):
    """DPM-Solver++(2M), the probability-flow ODE in lambda = log(m / std), where its linear part is solved exactly.

    Lu et al. 2022 (arXiv:2211.01095), algorithm 2: second order with one call of the network per step, by remembering
    the last estimate of x_0. The first step is of first order, which is DDIM with eta = 0; the last, to s = 0, shows
    the estimate of x_0. `sample` works with a fresh copy, so that runs cannot mix; called by hand, `step` uses what it
    remembers only if it starts at the time where the last step ended, with as many examples.
    """

    def __init__(self, sde: SDE):
        super().__init__(sde)
        self.past: tuple[Tensor, Tensor, float | Tensor] | None = None  # (s, x0, h) of the last step

    def fresh(self) -> Process:
        """A copy that remembers nothing."""
        other = copy.copy(self)
        other.past = None
        return other

    def move(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """x_s = (std_s / std_t) x - m_s (e^-h - 1) (x0 + h / (2 h_last) (x0 - x0_last)), h = lambda_s - lambda_t."""
        (now, then), x0 = self.sde.rows(t, s), self.sde.predict_x0(model, x, t)
        h = now.log_sigma - then.log_sigma
        gain, past = -then.mean * now.m.expm1(-h), self.recall(t, x)
        self.past = (s, x0, h)
        if past is None:
            from_x, from_x0 = fit(x, then.std / now.std, gain)
            return (from_x * x).addcmul_(from_x0, x0)
        more = extrapolation(h, past[1])
        from_x, from_x0, from_last = fit(x, then.std / now.std, gain * (1 + more), -gain * more)
        return (from_x * x).addcmul_(from_x0, x0).addcmul_(from_last, past[0])

    def recall(self, t: Times, x: Batch) -> tuple[Batch, float | Tensor] | None:
        """(x0, h) of the last step if it ended at t, with examples like x."""
        if self.past is None:
            return None
        s, x0, h = self.past
        if x0.shape != x.shape or x0.dtype != x.dtype or x0.device != x.device or s.dtype != t.dtype:
            return None
        same = repeated(s) and repeated(t) and s.data_ptr() == t.data_ptr()  # seen without reading a device
        return (x0, h) if same or torch.equal(s, t) else None


def extrapolation(h: float | Tensor, h_last: float | Tensor) -> float | Tensor:
    """h / (2 h_last), and 0 for the infinite h of a step to s = 0."""
    if isinstance(h, float) and isinstance(h_last, float):
        return h / (2 * h_last) if math.isfinite(h) else 0.0
    ratio = torch.as_tensor(h / (2 * h_last))
    return torch.where(ratio.isfinite(), ratio, 0.0)


class ProbabilityFlow(Sampler):
    """The probability-flow ODE by an adaptive solver (scipy), which makes it a bijection with a known density.

    rtol, atol, method   of scipy.integrate.solve_ivp; the error is measured over the whole batch

    It runs between t_min and t_max of the SDE: earlier and later times are read as these. After a solve, `calls` holds
    how often the network was called. The network should be smooth in x: `clip` puts kinks into the field.
    """

    def __init__(
        self,
        sde: SDE,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        method: Literal["RK45", "RK23", "DOP853", "LSODA"] = "RK45",
    ):
        super().__init__(sde)
        check_choice("method", method, ("RK45", "RK23", "DOP853", "LSODA"))
        if not (rtol > 0 and atol > 0):
            raise ValueError(f"rtol and atol must be positive, not {rtol} and {atol}")
        self.rtol, self.atol, self.method, self.calls = rtol, atol, method, 0

    def move(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """x_s on the curve through x_t. All examples must have the same t, and the same s."""
        if not ((t == t[0]).all() and (s == s[0]).all()):
            raise ValueError("t and s must each hold one value for all examples: they share one solve")
        return self.flow(model, x, t[0].item(), s[0].item())

    def latent(self, model: Network, x: Batch) -> Batch:
        """The noise at t_max that belongs to the data x (at t_min)."""
        self.check_state("x", x)
        return self.flow(model, x, self.sde.t_min, self.sde.t_max)

    def data(self, model: Network, z: Batch) -> Batch:
        """The data (at t_min) that belongs to the noise z: the inverse of `latent`."""
        self.check_state("z", z)
        return self.flow(model, z, self.sde.t_max, self.sde.t_min)

    def flow(self, model: Network, x: Batch, start: float, end: float) -> Batch:
        """Follow the ODE from x at time start to time end, either way."""

        def rhs(t: float, y):
            now, times = torch.tensor(y).reshape(x.shape).to(x), self.at(t, x)
            with torch.no_grad():
                v = self.sde.velocity(model, now, times)
            return self.sde.finite(widest(v.cpu()), times.cpu()).numpy().ravel()

        y = self.solve(rhs, widest(x.detach().cpu()).numpy().ravel(), start, end)
        return torch.from_numpy(y).reshape(x.shape).to(x)

    def log_prob(
        self,
        model: Network,
        x: Batch,
        probe: Batch | None = None,
        log_prior: Callable[[Tensor], Tensor] | None = None,
    ) -> PerExample:
        """log p(x) of the ODE's law at t_min, nats, float64: log prior(z) + integral of div v dt.  (eq. 39)

        probe      None takes the exact trace (d backward passes per call); a draw of `rademacher(x)` takes Hutchinson's
                   unbiased estimate probe . (dv/dx) probe (one), with the probe held fixed along the curve  (eq. 40)
        log_prior  log density at t_max, if it is not the SDE's own

        Each right-hand side calls the network once: drift and divergence come from the same forward pass.
        """
        self.check_state("x", x)
        n, prior = len(x), log_prior or self.sde.log_prior

        def rhs(t: float, y):
            now, times = torch.tensor(y[n:]).reshape(x.shape).to(x), self.at(t, x)
            v, div = with_divergence(lambda z: self.sde.velocity(model, z, times), now, probe)
            both = torch.cat([widest(div.cpu()), widest(v.cpu()).flatten()])
            self.sde.finite(both[n:].reshape(x.shape), times.cpu())
            return both.numpy()

        y = torch.cat([torch.zeros(n, dtype=torch.float64), widest(x.detach().cpu()).flatten()]).numpy()
        y = torch.from_numpy(self.solve(rhs, y, self.sde.t_min, self.sde.t_max))
        return y[:n] + widest(prior(y[n:].reshape(x.shape).to(x.device))).cpu()

    def at(self, t: float, x: Batch) -> Times:
        """The time t for every example of x."""
        return torch.full((1,), t, dtype=x.dtype, device=x.device).expand(len(x))

    def solve(self, rhs: Callable, y, start: float, end: float):
        """y at `end`, from y at `start`, float64 arrays; times outside [t_min, t_max] are read as its ends."""
        start, end = (min(max(t, self.sde.t_min), self.sde.t_max) for t in (start, end))
        solve_ivp = needs("scipy.integrate", "scipy").solve_ivp
        found = solve_ivp(rhs, (start, end), y, method=self.method, rtol=self.rtol, atol=self.atol)
        self.calls = found.nfev
        if not found.success:
            raise FloatingPointError(f"the solver stopped at t = {found.t[-1]:g}: {found.message}")
        return found.y[:, -1]


def with_divergence(
    field: Callable[[Tensor], Tensor], x: Batch, probe: Batch | None = None
) -> tuple[Batch, PerExample]:
    """(field(x), its divergence) from one call: exact if probe is None, else probe . J probe for each example."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        v = field(x)
        if probe is not None:
            (pulled,) = torch.autograd.grad(v, x, probe.to(v))
            return v.detach(), (pulled * probe).flatten(1).sum(1)
        div, columns = 0, v.flatten(1)
        for i in range(columns.shape[1]):
            (row,) = torch.autograd.grad(columns[:, i].sum(), x, retain_graph=True)
            div = div + row.flatten(1)[:, i]
    return v.detach(), div.detach()


def rademacher(x: Batch) -> Batch:
    """Signs -1 or 1, equally likely, like x: the probe with the least variance of all that have independent entries."""
    return torch.randint_like(x, 0, 2) * 2 - 1


# Grey levels


def dequantise(x: Batch, levels: int) -> Batch:
    """x on an even grid of levels over [-1, 1], plus noise uniform on its cell: a density, no longer points."""
    check_count("levels", levels, least=2)
    return x + (2 * torch.rand_like(x) - 1) / (levels - 1)


def bits_per_dim(log_p: PerExample, dims: int, levels: int) -> PerExample:
    """-log2 of the grey levels' probability per dimension, at most, from the density log_p (nats) of dequantised data.

    A cell has width 2 / (levels - 1), and E log p over it is at most the log of its mass (Jensen): Theis et al. 2016.
    """
    check_count("dims", dims)
    check_count("levels", levels, least=2)
    return -(log_p / dims + math.log(2 / (levels - 1))) / math.log(2)
