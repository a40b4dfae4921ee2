"""DDPM: denoising diffusion probabilistic models (Ho, Jain & Abbeel 2020, arXiv:2006.11239).

Equation numbers refer to the paper; every formula is written for a step from t to any s < t, of which the paper's
s = t - 1 is one case. The tables are float64 and start at alpha_bar[0] = 1 (no noise at t = 0).
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .process import Process
from .schedules import check_table
from .shapes import (
    Network,
    PerExample,
    Table,
    Times,
    check_choice,
    check_count,
    per_example,
    repeated,
    widest,
)

Batch = Float[Tensor, "B *event"]
Prediction = Literal["eps", "x0", "v", "score"]

# What each kind of prediction is made of: (share of x0, share of eps), given r = sqrt(alpha_bar) and
# sigma = sqrt(1 - alpha_bar).  v: Salimans & Ho 2022 (arXiv:2202.00512), section 4.
MADE_OF = {
    "x0": lambda r, sigma: (1, 0),
    "eps": lambda r, sigma: (0, 1),
    "v": lambda r, sigma: (-sigma, r),
    "score": lambda r, sigma: (0, -1 / sigma),
}


def conversion(source: Prediction, target: Prediction, log_alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """The (a, b) for which target = a x_t + b source, at each log alpha_bar < 0."""
    return mix(source, target, (log_alpha_bar / 2).exp(), (-torch.expm1(log_alpha_bar)).sqrt())


def mix(source: Prediction, target: Prediction, r: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The (a, b) for which target = a x_t + b source where x_t = r x0 + sigma eps, r and sigma > 0.

    Two linear equations (that one, and what the source is made of) solved for x0 and eps.
    """
    p, q = MADE_OF[source](r, sigma)
    p_, q_ = MADE_OF[target](r, sigma)
    det = r * q - sigma * p
    return (p_ * q - q_ * p) / det, (q_ * r - p_ * sigma) / det


class DDPM(Process):
    """Gaussian diffusion of real vectors of the given shape, with a table alpha_bar[0..T].

    predicts   what the network outputs; loss is the squared error in it
    variance   of p(x_s | x_t): "small" is beta-tilde (right if x_0 is known), "large" is beta (right if x_0 ~ N(0, I))
    levels     number of grey levels of data on an even grid over [-1, 1] (256 for 8 bits), None for continuous data
    decoder_var  variance of p(x_0 | x_1) in the bound; by default beta-tilde at t = 2, as in improved DDPM
    clip       estimates of x_0 are cut to [-clip, clip] (1 for images), None for no cut
    """

    draws = True  # False in a system whose steps have no noise: then none is drawn

    def __init__(
        self,
        alpha_bar: Table,
        shape: tuple[int, ...],
        predicts: Prediction = "eps",
        variance: Literal["small", "large"] = "small",
        levels: int | None = None,
        decoder_var: float | None = None,
        clip: float | None = None,
    ):
        super().__init__()
        alpha_bar = check_table(alpha_bar)
        check_choice("predicts", predicts, MADE_OF)
        check_choice("variance", variance, ("small", "large"))
        if levels is not None:
            check_count("levels", levels, least=2)
        for name, value in (("decoder_var", decoder_var), ("clip", clip)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")
        self.register_buffer("alpha_bar", alpha_bar)
        self.register_buffer("log_alpha_bar", alpha_bar.log())
        self.T, self.shape, self.dims = len(alpha_bar) - 1, tuple(shape), math.prod(shape)
        self.predicts, self.variance, self.levels, self.clip = predicts, variance, levels, clip
        x0_from = torch.stack(conversion(predicts, "x0", self.log_alpha_bar), 1)
        self.register_buffer("_x0_from", x0_from)  # (T + 1, 2): x0 = a x_t + b (network's output)
        self._rows = torch.cat([self.log_alpha_bar[:, None], x0_from], 1).tolist()  # the same on the host
        self.decoder_var = decoder_var or self._beta_tilde_2()

    @property
    def beta(self) -> Table:
        """beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}; entry 0 is 0."""
        return -torch.expm1(torch.cat([self.log_alpha_bar[:1], self.log_alpha_bar.diff()]))

    # Forward process

    def corrupt(self, x0: Batch, t: Times, eps: Batch | None = None) -> Batch:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, eps ~ N(0, I) unless given; t = 0 is the data.  (eq. 4)"""
        self.check_state("x0", x0)
        self.check_t("t", t, len(x0))
        eps = torch.randn_like(x0) if eps is None else eps
        log = self.log_alpha_bar[t]
        r, sigma = (log / 2).exp().to(x0.dtype), (-torch.expm1(log)).sqrt().to(x0.dtype)
        return (per_example(r, x0) * x0).addcmul_(per_example(sigma, x0), eps)

    def kernel(self, u: PerExample) -> tuple[PerExample, PerExample]:
        """(r, sigma) of x_t = r x_0 + sigma eps at u = t / T, float64: what an oracle asks."""
        log = self.log_alpha_bar[(u * self.T).round().long()]
        return (log / 2).exp(), (-torch.expm1(log)).sqrt()

    def prior(self, n: int) -> Batch:
        """x_T ~ N(0, I)."""
        return torch.randn(n, *self.shape, device=self.device)

    def posterior(self, x0: Batch, x_t: Batch, t: Times, s: Times) -> tuple[Batch, PerExample]:
        """Mean and variance of q(x_s | x_t, x_0), for any s < t; mean x_0 and variance 0 at s = 0.  (eqs. 6 and 7)"""
        self.check_state("x_t", x_t)
        self.check_step(len(x_t), t, s)
        from_x0, from_xt, var, _ = self._kernel(t, s)
        return per_example(from_x0.to(x0.dtype), x0) * x0 + per_example(from_xt.to(x0.dtype), x0) * x_t, var

    @staticmethod
    def _posterior(log_t, log_s, m=torch):
        """The posterior's weight of x_0, its weight of x_t, and its variance; of tensors, or of numbers with m = math.

        Each minus-expm1 is a 1 - alpha_bar; the minus signs cancel in the two weights.
        """
        log_ts = log_t - log_s  # log of the signal kept between s and t
        lost_t, lost_s, lost_ts = m.expm1(log_t), m.expm1(log_s), m.expm1(log_ts)
        from_x0 = m.exp(log_s / 2) * lost_ts / lost_t
        return from_x0, m.exp(log_ts / 2) * lost_s / lost_t, abs(lost_ts * lost_s / lost_t)

    def _kernel(self, t, s, m=torch):
        """Of the step t -> s: weight of x_0, weight of x_t, the variance if x_0 were known, and the variance p has.

        Times are tensors, or plain ints with m = math. What a system of this family changes, it changes here.
        """
        log_t, log_s = self._logs(t, s, m)
        from_x0, from_xt, small = self._posterior(log_t, log_s, m)
        if self.variance == "small":
            return from_x0, from_xt, small, small
        # only before the last step, where beta-tilde is 0
        return from_x0, from_xt, small, small + (-m.expm1(log_t - log_s) - small) * (s > 0)

    def _logs(self, t, s, m):
        """log alpha_bar at both times."""
        return [self._rows[v][0] if m is math else self.log_alpha_bar[v] for v in (t, s)]

    # What the network says

    def convert(self, out: Batch, x_t: Batch, t: Times, to: Prediction) -> Batch:
        """The network's output at (x_t, t) as eps, x0, v or score. Needs t >= 1."""
        check_choice("to", to, MADE_OF)
        self.check_t("t", t, len(x_t), first=1)
        a, b = conversion(self.predicts, to, self.log_alpha_bar[t])
        return per_example(a.to(x_t.dtype), x_t) * x_t + per_example(b.to(x_t.dtype), x_t) * out.to(x_t.dtype)

    def predict_x0(self, model: Network, x_t: Batch, t: Times) -> Batch:
        """The network's estimate of x_0, clipped if `clip` is set."""
        x0 = self.convert(model(x_t, self.u(t)), x_t, t, to="x0")
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)

    # Training

    def loss(self, model: Network, x0: Batch, t: Times) -> PerExample:
        """L_simple: squared error of the prediction, mean over dimensions.  (eq. 14, for any kind of prediction)"""
        self.check_state("x0", x0)
        self.check_t("t", t, len(x0), first=1)
        eps = torch.randn_like(x0)
        x_t = self.corrupt(x0, t, eps)
        return self._simple(model(x_t, self.u(t)), x_t, eps, t)

    def _simple(self, out: Batch, x_t: Batch, eps: Batch, t: Times) -> PerExample:
        a, b = conversion("eps", self.predicts, self.log_alpha_bar[t])  # target = a x_t + b eps
        target = per_example(a.to(x_t.dtype), x_t) * x_t + per_example(b.to(x_t.dtype), x_t) * eps
        return (target - out).float().square().flatten(1).mean(1)

    def bound(self, model: Network, x0: Batch, t: Times) -> PerExample:
        """T L_{t-1} + L_T in nats, float64: the mean over t = 1..T is the negative ELBO of x_0.  (eq. 5)"""
        return self.T * self.term(model, x0, t) + self.prior_term(x0)

    def term(self, model: Network, x0: Batch, t: Times) -> PerExample:
        """L_{t-1} in nats per example: KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), or -log p(x_0 | x_1) at t = 1."""
        self.check_state("x0", x0)
        self.check_t("t", t, len(x0), first=1)
        x0_hat = self.predict_x0(model, self.corrupt(x0, t), t)
        from_x0, beta_tilde, var = self._reverse(t)
        error = (widest(x0) - widest(x0_hat)).square().flatten(1).sum(1)
        first = t == 1
        ratio = torch.where(first, 1.0, beta_tilde / var)
        kl = self.dims / 2 * (ratio - 1 - ratio.log()) + from_x0.square() * error / (2 * var)
        return torch.where(first, self._reconstruction(x0, x0_hat, self.decoder_var), kl)

    def prior_term(self, x0: Batch) -> PerExample:
        """L_T = KL(q(x_T | x_0) || N(0, I)) in nats per example; no network can change it."""
        self.check_state("x0", x0)
        left = self.log_alpha_bar[-1].exp()
        return left / 2 * widest(x0).square().flatten(1).sum(1) - self.dims / 2 * (left + torch.log1p(-left))

    def weight(self, t: Times) -> PerExample:
        """What L_simple drops: L_{t-1} = weight * (summed squared error of the prediction) + a constant."""
        self.check_t("t", t, len(t), first=1)
        from_x0, _, var = self._reverse(t)
        b = self._x0_from[t, 1]
        return (from_x0 * b).square() / (2 * var)

    def _reverse(self, t: Times) -> tuple[Tensor, Tensor, Tensor]:
        """For the step t -> t - 1: weight of x_0 in the mean, beta-tilde, and the variance that p has in the bound."""
        from_x0, _, beta_tilde, var = self._kernel(t, t - 1)
        return from_x0, beta_tilde, torch.where(t == 1, self.decoder_var, var)

    def _reconstruction(self, x0: Batch, mean: Batch, var: float | Batch) -> PerExample:
        """L_0 = -log p(x_0 | x_1) in nats: a density, or the probability of the grey level."""
        x0, mean = widest(x0), widest(mean)
        var = torch.as_tensor(var, dtype=x0.dtype, device=x0.device)
        if self.levels is None:
            log_p = -((x0 - mean).square() / var + (2 * math.pi * var).log()) / 2
        else:
            log_p = log_prob_of_level(x0, mean, var.sqrt(), self.levels)
        return -log_p.flatten(1).sum(1)

    def _beta_tilde_2(self) -> float:
        """beta-tilde at t = 2, improved DDPM's stand-in for t = 1, where it is 0. beta_1 if T = 1."""
        if self.T == 1:
            return self.beta[1].item()
        return self._posterior(self.log_alpha_bar[2], self.log_alpha_bar[1])[2].item()

    # Sampling

    def step(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """x_s = mean + sd z: Algorithm 2 for any s < t. Without noise at s = 0, because there the variance is 0."""
        self.check_state("x", x)
        self.check_step(len(x), t, s)
        from_x, from_said, sd = self._step_numbers(x, t, s)
        x_s = torch.randn_like(x).mul_(sd).addcmul_(from_x, x) if self.draws else from_x * x
        said = model(x, self.u(t)).to(x.dtype) if self.clip is None else self.predict_x0(model, x, t)
        return x_s.addcmul_(from_said, said)

    def _step_numbers(self, x: Batch, t: Times, s: Times) -> list[Tensor]:
        """What multiplies x, the network's output (with clip: its estimate of x_0) and the noise, each fit for x.

        On a CPU, times that are one repeated value (as `sample` gives them) are worked out as plain numbers: a dozen
        operations on tensors of B entries would take as long as the noise.
        """
        if x.device.type == "cpu" and repeated(t) and repeated(s):
            m, t, s = math, t[0].item(), s[0].item()
            _, a, b = self._rows[t]
        else:
            m, (a, b) = torch, self._x0_from[t].unbind(1)
        from_x0, from_xt, _, var = self._kernel(t, s, m)
        if self.clip is None:  # x0 = a x + b out goes into the mean: two passes over x, not four
            from_xt, from_x0 = from_xt + from_x0 * a, from_x0 * b
        numbers = (from_xt, from_x0, var**0.5)
        return [
            torch.as_tensor(v, dtype=x.dtype) if m is math else per_example(v.to(x.dtype), x) for v in numbers
        ]


def log_prob_of_level(x: Tensor, mean: Tensor, sd: float | Tensor, levels: int) -> Tensor:
    """log of the mass that N(mean, sd^2) puts on x's bin; the two outer bins are open. Elementwise.  (eq. 13)

    The difference of two normal CDFs is taken in logs and in the lower tail, where it does not cancel.
    """
    half = 1 / (levels - 1)
    low = torch.where(x <= half - 1, -math.inf, (x - half - mean) / sd)
    high = torch.where(x >= 1 - half, math.inf, (x + half - mean) / sd)
    flip = low + high > 0  # N(0, 1) is symmetric: measure an upper-tail interval in the lower tail
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return log_high + torch.log(-torch.expm1(log_low - log_high))
