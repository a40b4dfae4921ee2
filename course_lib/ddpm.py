"""DDPM: denoising diffusion probabilistic models (Ho, Jain & Abbeel 2020, arXiv:2006.11239).

Equation numbers refer to the paper; every formula is written for a step from t to any s < t, of which the paper's
s = t - 1 is one case. The tables are float64 and start at alpha_bar[0] = 1 (no noise at t = 0).

    x_t = r x_0 + sigma eps     r = sqrt(alpha_bar_t), sigma = sqrt(1 - alpha_bar_t), eps ~ N(0, I)

`r` and `sigma` are those of the SDE papers. The paper's sigma_t is another: the standard deviation of the step back,
here `sd`, of variance `p_var`. eps, x0, v and the score are each a mix of x0 and eps: one formula solves the two linear
equations, for any signal and noise level, so DDPM, the SDEs and their oracles share it. The last step (s = 0) adds no
noise. With the small variance that follows, since beta-tilde is 0 there; with the large one `transition` sets it so, as
Algorithm 2, line 3 does. In the bound p(x_0 | x_1) has to have a variance, `decoder_var`: by default beta-tilde at
t = 2, as in DDPM's released code for both variances (with the large one eq. 13 as printed has beta_1). That is fine for
pixels and poor for continuous data; the fitting value is E Var(x_0 | x_1).
"""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .finite import check_finite
from .grey_levels import log_prob_of_level
from .process import Process
from .schedules import check_number, check_table
from .shapes import (
    Network,
    PerExample,
    Table,
    Times,
    check_choice,
    check_count,
    describe,
    once,
    per_example,
    widest,
)

Batch = Float[Tensor, "B *event"]
# (B, 1, ..., 1), or per coordinate; to be broadcast against x_t
Variance = Float[Tensor, "..."]
Prediction = Literal["eps", "x0", "v", "score"]

# What each kind of prediction is made of: its share of x0 and of eps.
# v: Salimans & Ho 2022 (arXiv:2202.00512), section 4.
COMPONENTS = {
    "x0": lambda r, sigma: (1, 0),
    "eps": lambda r, sigma: (0, 1),
    "v": lambda r, sigma: (-sigma, r),
    "score": lambda r, sigma: (0, -1 / sigma),
}


class Transition(NamedTuple):
    """The step from t to s in numbers, one of each per pair of times; float64.  (eqs. 6 and 7)

    q(x_s | x_t, x_0) = N(from_x0 x_0 + from_xt x_t, q_var I).
    p(x_s | x_t) is the same with an estimate in the place of x_0, and with p_var for q_var.
    """

    from_x0: PerExample
    from_xt: PerExample
    # beta-tilde in DDPM, lambda^2 in its successors
    q_var: PerExample
    # What sampling adds, the paper's sigma_t^2
    p_var: PerExample


def r_and_sigma(log_alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """(sqrt(alpha_bar), sqrt(1 - alpha_bar)), the latter without cancellation."""
    return (log_alpha_bar / 2).exp(), lost(log_alpha_bar).sqrt()


def conversion(
    source: Prediction, target: Prediction, log_alpha_bar: Tensor
) -> tuple[Tensor, Tensor]:
    """The (a, b) for which target = a x_t + b source, at each log alpha_bar < 0."""
    return solve_prediction(source, target, *r_and_sigma(log_alpha_bar))


def solve_prediction(
    source: Prediction, target: Prediction, r: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor]:
    """The (a, b) for which target = a x_t + b source where x_t = r x0 + sigma eps, r and sigma > 0.

    Two linear equations, x_t = r x0 + sigma eps and source = p x0 + q eps, solved for x0 and eps by Cramer's rule.
    """
    p, q = COMPONENTS[source](r, sigma)
    p_target, q_target = COMPONENTS[target](r, sigma)
    # For eps: r; for x0: -sigma; for v: r^2 + sigma^2; for a score: -r / sigma. Never 0
    # while r, sigma > 0.
    det = r * q - sigma * p
    a = (p_target * q - q_target * p) / det
    b = (q_target * r - p_target * sigma) / det
    return a, b


class DDPM(Process):
    """Gaussian diffusion of real vectors of the given shape, with a table alpha_bar[0..T].

    predicts   what the network outputs; loss is the squared error in it
    variance   of p(x_s | x_t): "small" is beta-tilde (right if x_0 is known), "large" is beta (right if x_0 ~ N(0, I))
    levels     number of grey levels of data on an even grid over [-1, 1] (256 for 8 bits), None for continuous data
    decoder_var  variance of p(x_0 | x_1) in the bound; by default beta-tilde at t = 2, as in DDPM's released code
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
        check_choice("predicts", predicts, COMPONENTS)
        check_choice("variance", variance, ("small", "large"))
        if levels is not None:
            check_count("levels", levels, least=2)
        if decoder_var is not None:
            check_number("decoder_var", decoder_var, above=0)
        if clip is not None:
            check_number("clip", clip, above=0)
        self.register_buffer("alpha_bar", alpha_bar)
        self.register_buffer("log_alpha_bar", alpha_bar.log())
        self.T, self.shape = len(alpha_bar) - 1, tuple(shape)
        self.dims = math.prod(self.shape)
        self.predicts = predicts
        self.variance = variance
        self.levels = levels
        self.clip = clip
        self.decoder_var = decoder_var or self._beta_tilde_2()

    @property
    def beta(self) -> Table:
        """beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}; entry 0 is 0."""
        # log alpha_t, of which entry 0 is log 1.
        log_alphas = torch.cat([self.log_alpha_bar[:1], self.log_alpha_bar.diff()])
        return lost(log_alphas)

    # Forward process

    def corrupt(self, x0: Batch, t: Times, eps: Batch | None = None) -> Batch:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, eps ~ N(0, I) unless given; t = 0 is the data.  (eq. 4)"""
        self.check_state("x0", x0)
        self.check_t("t", t, len(x0))
        # Algorithm 1, line 4
        if eps is None:
            eps = torch.randn_like(x0)
        elif eps.shape != x0.shape:
            raise ValueError(
                f"eps must have the shape of x0, {tuple(x0.shape)}, not {tuple(eps.shape)}"
            )
        r, sigma = self._r_sigma(t, x0)
        return (r.to(x0.dtype) * x0).addcmul_(sigma.to(x0.dtype), eps)

    def _r_sigma(self, t: Times, x: Batch) -> tuple[Tensor, Tensor]:
        """(r, sigma) at t, to be broadcast against x; float64."""
        r, sigma = r_and_sigma(self.log_alpha_bar[t])
        return per_example(r, x), per_example(sigma, x)

    def marginal(self, u: PerExample) -> tuple[PerExample, PerExample]:
        """(r, sigma) of q(x_t | x_0) = N(r x_0, sigma^2 I) at u = t / T, float64: what an oracle asks."""
        t = (u * self.T).round().long()
        return r_and_sigma(self.log_alpha_bar[t])

    def prior(self, n: int) -> Batch:
        """x_T ~ N(0, I).  (Algorithm 2, line 1)"""
        check_count("n", n)
        return torch.randn(n, *self.shape, device=self.device)

    def check_start(self, t: int | float) -> None:
        """Raise ValueError unless x_t is nearly N(0, I)."""
        check_start(self, t, 1.0)

    # The step

    def transition(self, t: Times, s: Times) -> Transition:
        """The numbers of the step t -> s, for any s < t. What a system of this family changes, it changes here."""
        # All through logs and expm1: beta of two neighbouring
        # times is a difference of numbers near 1.
        log_t, log_s = self.log_alpha_bar[t], self.log_alpha_bar[s]
        log_ts = log_t - log_s  # log of the signal kept between s and t
        lost_t, lost_s, lost_ts = lost(log_t), lost(log_s), lost(log_ts)
        beta_tilde = lost_ts * lost_s / lost_t
        # Algorithm 2, line 3: no noise in the last step, where beta-tilde is 0 by itself.
        large = torch.where(s > 0, lost_ts, 0)
        p_var = beta_tilde if self.variance == "small" else large
        return Transition(
            # Eq. 7 with alpha_bar_t / alpha_bar_s for the paper's alpha_t:
            # sqrt(abar_s) beta / (1 - abar_t).
            from_x0=(log_s / 2).exp() * lost_ts / lost_t,
            # sqrt(alpha_{t|s}) (1 - abar_s) / (1 - abar_t).
            from_xt=(log_ts / 2).exp() * lost_s / lost_t,
            q_var=beta_tilde,
            p_var=p_var,
        )

    def posterior(
        self, x0: Batch, x_t: Batch, t: Times, s: Times
    ) -> tuple[Batch, PerExample]:
        """Mean and variance of q(x_s | x_t, x_0), for any s < t; mean x_0 and variance 0 at s = 0.  (eqs. 6 and 7)"""
        self.check_state("x_t", x_t)
        self.check_like("x0", x0, x_t)
        self.check_step(len(x_t), t, s)
        step = self.transition(t, s)
        return self._mean(step, x0, x_t), step.q_var

    def _mean(self, step: Transition, x0: Batch, x_t: Batch) -> Batch:
        """from_x0 x_0 + from_xt x_t."""
        from_x0, from_xt = (
            per_example(v.to(x_t.dtype), x_t) for v in (step.from_x0, step.from_xt)
        )
        return from_x0 * x0 + from_xt * x_t

    # What the network says

    def convert(self, out: Batch, x_t: Batch, t: Times, to: Prediction) -> Batch:
        """The network's output at (x_t, t) as eps, x0, v or score. Needs t >= 1."""
        check_choice("to", to, COMPONENTS)
        self.check_t("t", t, len(x_t), first=1)
        self.check_like("out", out, x_t)
        a, b = conversion(self.predicts, to, self.log_alpha_bar[t])
        a, b = (per_example(v.to(x_t.dtype), x_t) for v in (a, b))
        return a * x_t + b * out.to(x_t.dtype)

    def predict_x0(self, model: Network, x_t: Batch, t: Times) -> Batch:
        """The network's estimate of x_0, clipped if `clip` is set."""
        return self.x0_from(self.ask(model, x_t, t), x_t, t)

    def x0_from(self, out: Tensor, x_t: Batch, t: Times) -> Batch:
        """The estimate of x_0 in what the network says, clipped if `clip` is set."""
        x0 = self.convert(out, x_t, t, to="x0")
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)

    def variance_from(
        self, out: Tensor, x_t: Batch, t: Times, s: Times, step: Transition
    ) -> Variance:
        """The variance of p(x_s | x_t) in float64. Here the network says nothing about it, and the step does."""
        return per_example(step.p_var, x_t)

    # Training

    def loss_at(self, model: Network, x0: Batch, x_t: Batch, t: Times) -> PerExample:
        """L_simple: squared error of the prediction, mean over dimensions.  (eq. 14, for any kind of prediction)"""
        self.check_pair(x0, x_t, t)
        # Algorithm 1, line 5: |eps - eps_theta(x_t, t)|^2; the paper's sum over pixels is
        # a mean here. The lines before it are in train.py and shares.py.
        return squared_error(self.ask(model, x_t, t), self.target(x0, x_t, t))

    def target(self, x0: Batch, x_t: Batch, t: Times) -> Batch:
        """What the network should say: p x_0 + q eps with the eps that made this x_t, worked out in float64."""
        self.check_like("x0", x0, x_t)
        r, sigma = self._r_sigma(t, x_t)
        x0, x_t = widest(x0), widest(x_t)
        # The eps of Algorithm 1, line 4, read off x_t, so that any x_t can be scored; in
        # float64 early times keep its digits.
        eps = (x_t - r * x0) / sigma
        p, q = COMPONENTS[self.predicts](r, sigma)
        return p * x0 + q * eps

    def bound_at(self, model: Network, x0: Batch, x_t: Batch, t: Times) -> PerExample:
        """T L_{t-1} + L_T in nats, float64: the mean over t = 1..T is the negative ELBO of x_0.  (eq. 5)"""
        return self.T * self.term_at(model, x0, x_t, t) + self.prior_term(x0)

    def term(self, model: Network, x0: Batch, t: Times) -> PerExample:
        """L_{t-1} in nats per example, at one draw of x_t."""
        return self.term_at(model, x0, self.corrupt(x0, t), t)

    def term_at(self, model: Network, x0: Batch, x_t: Batch, t: Times) -> PerExample:
        """L_{t-1} in nats per example: KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), or -log p(x_0 | x_1) at t = 1."""
        self.check_pair(x0, x_t, t)
        out, step = self.ask(model, x_t, t), self.transition(t, t - 1)
        var = self.bound_variance(out, x_t, t, step)
        return self._divergence(x0, self.x0_from(out, x_t, t), step, var, t)

    def _divergence(
        self, x0: Batch, x0_hat: Batch, step: Transition, var: Variance, t: Times
    ) -> PerExample:
        """L_{t-1} of Gaussians that differ in x_0 and in the variance."""
        from_x0, q_var = per_example(step.from_x0, x0), per_example(step.q_var, x0)
        # At t = 1 q_var is 0: log 0 would put NaN in the gradient of the unused branch.
        ratio = torch.where(per_example(t == 1, x0), 1.0, q_var / var)
        # Both means share from_xt x_t, so what is left of their difference is x_0's.
        error = from_x0.square() * (widest(x0) - widest(x0_hat)).square()
        # KL of two Gaussians; with p_var = q_var only the error stays, as in eq. 8.
        kl = (ratio - 1 - ratio.log() + error / var).flatten(1).sum(1) / 2
        return torch.where(t == 1, self._reconstruction(x0, x0_hat, var), kl)

    def bound_variance(
        self, out: Tensor, x_t: Batch, t: Times, step: Transition
    ) -> Variance:
        """The variance of p(x_{t-1} | x_t) in the bound: decoder_var at t = 1, where p has to have a width."""
        var = self.variance_from(out, x_t, t, t - 1, step)
        return torch.where(per_example(t == 1, x_t), self.decoder_var, var)

    def prior_term(self, x0: Batch) -> PerExample:
        """L_T = KL(q(x_T | x_0) || N(0, I)) in nats per example; no network can change it."""
        self.check_state("x0", x0)
        # x_T given x_0 is N(sqrt(left) x_0, (1 - left) I).
        left = self.log_alpha_bar[-1].exp()
        square = widest(x0).square().flatten(1).sum(1)
        return left / 2 * square - self.dims / 2 * (left + torch.log1p(-left))

    def weight(self, t: Times) -> PerExample:
        """What L_simple drops: L_{t-1} = weight * squared error + a constant; no `levels`, no `clip`.  (eq. 12)"""
        self.check_t("t", t, len(t), first=1)
        step = self.transition(t, t - 1)
        p_var = torch.where(t == 1, self.decoder_var, step.p_var)
        # An error e of the prediction is b e of x0.
        _, b = conversion(self.predicts, "x0", self.log_alpha_bar[t])
        return (step.from_x0 * b).square() / (2 * p_var)

    def _reconstruction(self, x0: Batch, mean: Batch, var: Variance) -> PerExample:
        """L_0 = -log p(x_0 | x_1) in nats: a density, or the probability of the grey level."""
        x0, mean = widest(x0), widest(mean)
        if self.levels is None:
            log_p = -((x0 - mean).square() / var + (2 * math.pi * var).log()) / 2
        else:
            log_p = log_prob_of_level(x0, mean, var.sqrt(), self.levels)
        return -log_p.flatten(1).sum(1)

    def _beta_tilde_2(self) -> float:
        """beta-tilde at t = 2, the released code's stand-in for t = 1, where it is 0. beta_1 if T = 1."""
        if self.T == 1:
            return self.beta[1].item()
        # DDPM's own, whatever the system that stands on it does with its steps
        return DDPM.transition(self, torch.tensor([2]), torch.tensor([1])).q_var.item()

    # Sampling

    def step(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """x_s = mean + sd z: Algorithm 2 for any s < t. Without noise at s = 0, because there the variance is 0."""
        self.check_state("x", x)
        self.check_step(len(x), t, s)
        # Algorithm 2, line 3. Before the network is called, so that one that draws does
        # not change which z a seed gives.
        z = torch.randn_like(x) if self.draws else None
        out = self.ask(model, x, t)
        move = self.transition(*once(t, s))
        # Algorithm 2, line 4, with the estimate of x_0, so that it can be cut. For
        # s = t - 1 it is the printed mean, (x_t - (1 - alpha_t) / sqrt(1 - abar_t) eps)
        # / sqrt(alpha_t).  (eq. 11)
        mean = self._mean(move, self.x0_from(out, x, t), x)
        if z is None:
            return check_finite("x_s", mean, t)
        sd = self.variance_from(out, x, t, s, move).sqrt()
        return check_finite("x_s", mean.addcmul(sd.to(x.dtype), z), t)

    # Bad input

    def check_pair(self, x0: Batch, x_t: Batch, t: Times) -> None:
        """Raise unless x0 and x_t are states of one shape and t are times in [1, T], one per example."""
        self.check_state("x0", x0)
        self.check_state("x_t", x_t)
        if x_t.shape != x0.shape:
            raise ValueError(
                f"x_t must have the shape of x0, {describe(x0)}, not {describe(x_t)}"
            )
        self.check_t("t", t, len(x0), first=1)


def squared_error(out: Batch, target: Batch) -> PerExample:
    """Mean square of each example's error, in the network's precision, but at least float32."""
    # A mean of many squares in half precision would stop growing.
    dtype = torch.promote_types(out.dtype, torch.float32)
    error = out.to(dtype) - target.to(dtype)
    return error.square().flatten(1).mean(1)


def check_start(process: Process, t: int | float, prior_std: float) -> None:
    """Raise ValueError unless x_t = r x_0 + sigma eps is nearly N(0, prior_std^2), which sampling starts from.

    Allowed are a tenth of the prior's variance from the data and a tenth more or less noise: the first of few times
    may lie below T, as in DDIM's code, but a draw of pure noise is no state of an early time.
    """
    u = process.u(torch.tensor([t]).to(process.device))
    r, sigma = (v.item() for v in process.marginal(u))
    left, size = (r / prior_std) ** 2, sigma / prior_std
    if left > 0.1 or abs(size - 1) > 0.1:
        raise ValueError(
            f"the times must start where x_t is nearly noise, but at t = {t:g} its noise has {size:.3g} of the "
            f"prior's standard deviation and data of size 1 has {left:.3g} of its variance"
        )


def lost(log_alpha_bar: Tensor) -> Tensor:
    """1 - alpha_bar from its logarithm, to the last digit, by which neighbouring times differ."""
    # The minus sign goes with abs: -expm1(0) would be -0.
    return torch.expm1(log_alpha_bar).abs()
