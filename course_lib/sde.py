"""Score-based models in continuous time (Song, Sohl-Dickstein, Kingma, Kumar, Ermon & Poole 2021, arXiv:2011.13456).

Forward  dx = f(t) x dt + g(t) dw,  so that  x_t = m(t) x_0 + std(t) eps  exactly, t from 0 (data) to T = 1.0.
    VP      f = -beta / 2    g^2 = beta                        m = sqrt(abar)   std = sqrt(1 - abar)
    SubVP   f = -beta / 2    g^2 = beta (1 - abar^2)           m = sqrt(abar)   std = 1 - abar
    VE      f = 0            g^2 = d sigma^2 / dt              m = 1            std = sqrt(sigma(t)^2 - sigma(0)^2)

An SDE is a process like any other and steps back by Euler-Maruyama. The other ways back wrap one, `solvers.py`:
`Ancestral(VP(linear(), (2,)))` has the forward process and the loss of its SDE, and a step of its own.
Equation numbers are the paper's unless another is named.

A schedule that ends at alpha_bar = 0 is read up to 1e-5 (`t_max`), since beta is infinite at its end. `times` calls
the first time 1 and spaces the others evenly below t_max: no step is shorter than the next, which a multistep method
would take badly. Likelihood weighting is a choice of times: lambda = g^2 at even t is the plain loss at times even in
log sigma, so loss and bound are drawn there, with constant weight.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .ddpm import (
    COMPONENTS,
    Prediction,
    solve_prediction,
)
from .finite import check_finite
from .grey_levels import log_prob_of_level
from .linear_sde import Batch, Coefficients, LinearSDE, combine, fit
from .schedules import Schedule, bisect, check_number
from .shapes import (
    Network,
    PerExample,
    Times,
    check_choice,
    check_count,
    widest,
)

LEAST = 1e-5  # alpha_bar at t_max, for a schedule that ends at 0 (cosine, sqrt), where beta is infinite


class SDE(LinearSDE):
    """A linear SDE and a network that turns it round; subclasses say m(t), std(t), f(t) and g(t)^2.

    shape, t_min, t_max   as in LinearSDE
    predicts   what the network outputs, as in DDPM; a network of a DDPM with alpha_bar(t / T) fits as it is
    weighting  of the loss: "simple" is lambda = std^2, "likelihood" is g^2 with times drawn to match
    levels, decoder_var, clip   as in DDPM; decoder_var is the variance of p(x_0 | x_{t_min}) in the bound,
               by default sigma(t_min)^2 = std^2 / m^2
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
        check_choice("predicts", predicts, COMPONENTS)
        check_choice("weighting", weighting, ("simple", "likelihood"))
        if levels is not None:
            check_count("levels", levels, least=2)
        if decoder_var is not None:
            check_number("decoder_var", decoder_var, above=0)
        if clip is not None:
            check_number("clip", clip, above=0)
        super().__init__(shape, t_min, t_max)
        self.predicts, self.weighting = predicts, weighting
        self.levels, self.clip = levels, clip
        first, _ = self.ends
        self.decoder_var = decoder_var or math.exp(2 * first.log_sigma)

    # What the network says

    def estimate(self, model: Network, x: Batch, t: Times) -> tuple[Batch, Batch]:
        """The network's (x_0, eps) at (x, t > 0), with x = m x_0 + std eps; x_0 clipped if `clip` is set."""
        out, now = self._asked(model, x, t)
        x0 = self._x0(out, x, now)
        if self.clip is None:
            return x0, convert(out, x, now, self.predicts, "eps")
        return x0, convert(x0, x, now, "x0", "eps")  # eps must fit the x_0 that was cut

    def predict_x0(self, model: Network, x: Batch, t: Times) -> Batch:
        """The network's estimate of x_0 (Tweedie's formula for a score), clipped if `clip` is set."""
        out, now = self._asked(model, x, t)
        return self._x0(out, x, now)

    def _asked(self, model: Network, x: Batch, t: Times) -> tuple[Batch, Coefficients]:
        self.check_positive(t, len(x))
        (now,) = self.coefficients(t)
        # A network may answer in less precision than its state has (autocast): the state's is kept.
        return self.ask(model, x, t).to(x.dtype), now

    def _x0(self, out: Batch, x: Batch, now: Coefficients) -> Batch:
        x0 = convert(out, x, now, self.predicts, "x0")
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)

    def score(self, model: Network, x: Batch, t: Times) -> Batch:
        """The network's estimate of grad log q(x_t): -eps / std."""
        _, eps = self.estimate(model, x, t)
        (now,) = self.coefficients(t)
        return -eps / fit(now.std, x)

    def velocity(self, model: Network, x: Batch, t: Times) -> Batch:
        """dx/dt of the probability-flow ODE at (x, t > 0): f x - g^2 score / 2.  (eq. 13)"""
        _, eps = self.estimate(model, x, t)
        return self.velocity_from_noise(eps, x, t)

    def velocity_from_noise(self, eps: Batch, x: Batch, t: Times) -> Batch:
        """f x + g^2 eps / (2 std): `velocity` where eps is known, since score = -eps / std."""
        self.check_like("eps", eps, x)
        (now,) = self.coefficients(t)
        f, g2 = self.drift(now.t), self.diffusion2(now.t)
        return combine((f, x), (g2 / (2 * now.std), eps))

    # Training

    def loss(self, model: Network, x0: Batch, t: Times) -> PerExample:
        """lambda |score - grad log q(x_t | x_0)|^2 = (lambda / std^2) |eps - eps_hat|^2, mean over dimensions.  (eq. 7)

        "simple": lambda = std^2, the plain error of the noise at t. "likelihood": lambda = g^2, whose 1 / t is taken
        into the choice of times: t even in (0, 1] becomes importance_times(t), and the weight the constant `scale`.
        """
        self.check_state("x0", x0)
        self.check_positive(t, len(x0))
        if self.weighting == "likelihood":
            t = self.importance_times(t).to(t.dtype)
        # not loss_at(corrupt(x0, t)): close to the data eps could not be read off x_t to all its digits
        eps = torch.randn_like(x0)
        return self._weighted(
            self._noise_error(model, self.corrupt(x0, t, eps), eps, t)
        )

    def loss_at(self, model: Network, x0: Batch, x_t: Batch, t: Times) -> PerExample:
        """The loss at this x_t; t is its time, for the likelihood weighting too."""
        return self._weighted(self._noise_error(model, x_t, self.noise(x0, x_t, t), t))

    def _weighted(self, error: Float[Tensor, "B d"]) -> PerExample:
        return (
            error.mean(1) if self.weighting == "simple" else self.scale * error.mean(1)
        )

    @property
    def scale(self) -> float:
        """Integral of g^2 / std^2 over t from t_min to t_max: 2 log(sigma(t_max) / sigma(t_min))."""
        low, high = (end.log_sigma.item() for end in self.ends)
        return 2 * (high - low)

    def weight(self, t: Times) -> PerExample:
        """g^2 / (2 std^2): times |eps - eps_hat|^2, summed over dimensions, what the bound pays at time t."""
        self.check_positive(t, len(t))
        now = self._coefficients(widest(t))
        return self.diffusion2(now.t) / (2 * now.std.square())

    def _noise_error(
        self, model: Network, x_t: Batch, eps: Batch, t: Times
    ) -> Float[Tensor, "B d"]:
        _, said = self.estimate(model, x_t, t)
        return (eps - said).float().square().flatten(1)

    def bound(self, model: Network, x0: Batch, t: Times) -> PerExample:
        """Nats, float64; the mean over t even in (0, 1] bounds -log p(x_0) from above:

        KL(q(x_1 | x_0) || prior) + integral, t_min to t_max, of weight |eps - eps_hat|^2 + E -log p(x_0 | x_{t_min}).
        The integral is taken over log sigma, at importance_times(t), where the weight is constant.  arXiv:2101.09258,
        theorem 3, with data in place of x_{t_min} as in Kingma et al. 2021 (arXiv:2107.00630), eqs. 11 and 17.
        """
        self.check_state("x0", x0)
        self.check_positive(t, len(x0))
        t = self.importance_times(t).to(t.dtype)
        eps = torch.randn_like(x0)
        return self._bound(
            model, x0, self._noise_error(model, self.corrupt(x0, t, eps), eps, t)
        )

    def bound_at(self, model: Network, x0: Batch, x_t: Batch, t: Times) -> PerExample:
        """The bound's term at this x_t, whose time is t; the bound is its mean over t = importance_times(even)."""
        return self._bound(
            model, x0, self._noise_error(model, x_t, self.noise(x0, x_t, t), t)
        )

    def _bound(
        self, model: Network, x0: Batch, error: Float[Tensor, "B d"]
    ) -> PerExample:
        # E over log sigma of |eps - eps_hat|^2, times its length; scale is twice that.
        integral = self.scale / 2 * widest(error.sum(1))
        return self.prior_term(x0) + integral + self.reconstruction(model, x0)

    def prior_term(self, x0: Batch) -> PerExample:
        """KL(q(x_{t_max} | x_0) || prior), nats; no network can change it."""
        self.check_state("x0", x0)
        # As if the prior were N(0, I): x / prior_std for all.
        mean, std = (v.item() / self.prior_std for v in self.ends[1][1:3])
        far = mean**2 * widest(x0).square().flatten(1).sum(1)
        return far / 2 + self.dims / 2 * (std**2 - 1 - math.log(std**2))

    def reconstruction(self, model: Network, x0: Batch) -> PerExample:
        """-log p(x_0 | x_{t_min}), nats, at one draw of x_{t_min}: a density, or the mass of grey levels if set."""
        self.check_state("x0", x0)
        t = torch.full((1,), self.t_min, dtype=x0.dtype, device=x0.device).expand(
            len(x0)
        )
        mean = widest(self.predict_x0(model, self.corrupt(x0, t), t))
        if self.levels is not None:
            sd = math.sqrt(self.decoder_var)
            return (
                -log_prob_of_level(widest(x0), mean, sd, self.levels).flatten(1).sum(1)
            )
        error = (widest(x0) - mean).square().flatten(1).sum(1)
        return self.dims / 2 * math.log(2 * math.pi * self.decoder_var) + error / (
            2 * self.decoder_var
        )

    # Sampling

    def step(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """x_s = x - (t - s) (f x - g^2 score) + g sqrt(t - s) z: Euler-Maruyama, no noise at s = 0.  (eq. 6)

        Stable only where beta (t - s) stays well below 2: with few steps use `Ancestral`, which is exact for known x_0.
        """
        self.check_state("x", x)
        self.check_step(len(x), t, s)
        now, then = self.coefficients(t, s)
        f, g2 = self.drift(now.t), self.diffusion2(now.t)
        dt = now.t - then.t
        z = torch.randn_like(x)  # before the network, which may draw, too
        _, eps = self.estimate(model, x, t)
        from_eps = -dt * g2 / now.std  # since score = -eps / std
        # The last step shows its mean: noise put on data would only blur it.
        sd = (g2 * dt).sqrt() * (then.t > 0)
        x_s = combine((1 - dt * f, x), (from_eps, eps), (sd, z))
        return check_finite("x_s", x_s, t)


def convert(
    out: Batch, x: Batch, now: Coefficients, source: Prediction, target: Prediction
) -> Batch:
    """What the network said of x_t, as another kind of prediction."""
    a, b = solve_prediction(source, target, now.mean, now.std)
    return combine((a, x), (b, out))


# The three SDEs


class VP(SDE):
    """Variance preserving: dx = -beta/2 x dt + sqrt(beta) dw, for any schedule of alpha_bar; DDPM as T -> infinity.

    (eq. 11; linear() is eq. 33.) settings: see SDE. A schedule that ends at 0 is read up to alpha_bar = 1e-5.
    """

    def __init__(self, schedule: Schedule, shape: tuple[int, ...], **settings):
        if not isinstance(schedule, Schedule):
            raise TypeError(
                f"schedule must be a Schedule, such as linear(), not {type(schedule).__name__}"
            )
        start = schedule.log_alpha_bar(torch.zeros(1, dtype=torch.float64)).item()
        if start != 0:
            raise ValueError(
                f"schedule must start at alpha_bar(0) = 1, but {schedule} starts at {math.exp(start):g}"
            )
        self.schedule = schedule  # first: SDE.__init__ asks for log_mean and the others
        super().__init__(shape, **({"t_max": last_time(schedule)} | settings))
        # Not std(1), which is a little below 1 for schedules that leave something: the
        # prior is N(0, I) as in DDPM.
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

    std^2 = sigma(t)^2 - sigma(0)^2, which is the kernel of this SDE. In the paper (appendix C) sigma jumps from 0 to
    sigma_min at t = 0, so that x_t of the smallest t > 0 is blurred by sigma_min already. settings: see SDE.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        **settings,
    ):
        sigma_min = check_number("sigma_min", sigma_min, above=0)
        sigma_max = check_number("sigma_max", sigma_max, above=sigma_min)
        self.sigma_min, self.ratio = sigma_min, math.log(sigma_max / sigma_min)
        super().__init__(shape, **settings)

    def log_mean(self, t: Tensor) -> Tensor:
        return 0 * t

    def log_std(self, t: Tensor) -> Tensor:
        # std^2 = sigma_min^2 (e^(2 ratio t) - 1): sigma(t)^2 - sigma(0)^2 near t = 0
        # without cancellation.
        return math.log(self.sigma_min) + torch.expm1(2 * self.ratio * t).log() / 2

    def drift(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion2(self, t: Tensor) -> Tensor:
        return 2 * self.ratio * self.sigma_min**2 * (2 * self.ratio * t).exp()


def last_time(schedule: Schedule) -> float:
    """The last u in [0, 1] at which alpha_bar is at least 1e-5: 1 unless the schedule ends lower."""
    start, end = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    enough_left = lambda u: schedule.log_alpha_bar(u) >= math.log(LEAST)  # noqa: E731
    return 1.0 if enough_left(end) else bisect(enough_left, start, end).item()
