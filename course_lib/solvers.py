"""Ways back from noise for any SDE: of its reverse SDE and of its probability-flow ODE (arXiv:2011.13456).

Each wraps an SDE, whose forward process, loss and bound it keeps (the bound is that of the reverse SDE, not of an
ODE), and has a step of its own. DPM-Solver++ is in dpm_solver.py, the adaptive solver in likelihood.py.
"""

import math

import torch
from torch import Tensor

from .finite import check_finite
from .linear_sde import Batch, combine, fit
from .process import Process
from .schedules import check_number
from .sde import SDE
from .shapes import (
    Network,
    PerExample,
    Times,
    check_count,
    check_scalar,
    once,
    per_example,
    repeated,
)
from .wrapper import Wrapper


class Solver(Wrapper):
    """An SDE with another way back. A subclass says `move`."""

    def __init__(self, sde: SDE):
        if not isinstance(sde, SDE):
            raise TypeError(
                f"sde must be an SDE, such as VP(linear(), (2,)), not {type(sde).__name__}"
            )
        super().__init__(sde)

    @property
    def sde(self) -> SDE:
        """The SDE inside."""
        return core(self.process)

    def step(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """Check the input, then `move`; FloatingPointError if what it makes is not finite."""
        self.check_state("x", x)
        self.check_step(len(x), t, s)
        return check_finite("x_s", self.move(model, x, t, s), t)

    def move(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """x_s from x_t."""
        raise NotImplementedError(f"{type(self).__name__} has no move")


def core(process: Process) -> Process:
    """What all wrappers are around."""
    while isinstance(process, Wrapper):
        process = process.process
    return process


# The reverse SDE


class Ancestral(Solver):
    """Draw from q(x_s | x_t, x_0) with the network's x_0: exact when x_0 is known, at any step.  (appendix F)

    In y = x / m and sigma = std / m:  y_s = x_0 + (sigma_s / sigma_t)^2 (y - x_0) + sd z,
    sd^2 = sigma_s^2 (sigma_t^2 - sigma_s^2) / sigma_t^2. With VP it is DDPM's step with the small variance.
    """

    def move(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """x_s ~ q(x_s | x_t, x_0 = the network's estimate)."""
        now, then = self.process.coefficients(t, s)
        # sigma only rises, but over a step shorter than the resolution of float64 its log may not
        log_kept = 2 * (then.log_sigma - now.log_sigma).clamp(max=0)
        # Shares of the noise's variance: (sigma_s / sigma_t)^2, and the rest.
        kept = log_kept.exp()
        lost = -torch.expm1(log_kept)
        z = torch.randn_like(x)
        x0 = self.process.predict_x0(model, x, t)
        # In y = x / m it is (sigma_s / sigma_t)^2; back in x the means come in.
        from_x = then.mean / now.mean * kept
        from_x0 = then.mean * lost
        sd = then.std * lost.sqrt()
        return combine((from_x, x), (from_x0, x0), (sd, z))


class Renoise(Solver):
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
        check_scalar("share", share)
        if not 0 <= share <= 1:
            raise ValueError(f"share must lie in [0, 1], not {share}")
        self.share = share

    def move(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """The model's (x_0, eps), put together again at s with other noise."""
        x0, eps = self.process.estimate(model, x, t)
        z = torch.randn_like(x)
        (then,) = self.process.coefficients(s)
        # Squares add up to 1: x_s keeps the variance std_s^2, whatever the share is.
        old = math.sqrt(1 - self.share) * then.std
        new = math.sqrt(self.share) * then.std
        return combine((then.mean, x0), (old, eps), (new, z))

    def lost(self, t: Times, s: Times) -> PerExample:
        """(m_s - sqrt(1 - share) std_s m_t / std_t)^2, float64: times E Var(x_0 | x_t), what x_s lacks with the mean.

        x_s is this root times x_0 plus a multiple of x_t. For share = 1 and VP: alpha_bar_s E Var(x_0 | x_t).
        """
        self.check_step(len(t), t, s)
        m_t, std_t = self.process.marginal(t)
        m_s, std_s = self.process.marginal(s)
        # The weight of x_t, of which x_0 is m_t.
        kept = math.sqrt(1 - self.share) * std_s / std_t
        return (m_s - kept * m_t).square()


class PredictorCorrector(Solver):
    """A step of another process, then `corrections` steps of Langevin dynamics at the new time.  (algorithms 2 to 5)

    predictor    any SDE or way back from one: its step is the prediction
    ratio        length of the Langevin drift over that of its noise; 0.16 in the paper, which calls it r or snr

    The step size is eps = 2 (ratio std)^2: the paper's 2 (ratio |z| / |score|)^2 with both norms replaced by what they
    are on average given x_0, sqrt(d) and sqrt(d) / std. The paper's code averages the drawn norms over the batch, so
    that a sample depends on what else is sampled; norms of each example alone make the size depend on x, which no
    longer leaves the law as it is and explodes in few dimensions, wherever the score happens to be near 0.
    """

    def __init__(self, predictor: Process, ratio: float = 0.16, corrections: int = 1):
        if not isinstance(core(predictor), SDE):
            name = type(predictor).__name__
            raise TypeError(
                f"predictor must be an SDE or a way back from one, such as Ancestral(vp), not {name}"
            )
        # Not Solver's: what it is around may be one itself.
        Wrapper.__init__(self, predictor)
        check_count("corrections", corrections)
        self.ratio = check_number("ratio", ratio, above=0)
        self.corrections = corrections

    @property
    def predictor(self) -> Process:
        """Whose step is the prediction."""
        return self.process

    def move(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """Predict x_s, then correct it; not at s = 0, where there is no noise to exchange."""
        x_s = self.predictor.step(model, x, t, s)
        if shared(s) == 0:
            return x_s
        # A network cannot be asked at 0. Where s is 0 it is asked at t, and what comes of it is dropped.
        then, now = once(s, t)
        at = torch.where(then > 0, then, now).expand(len(s))
        for _ in range(self.corrections):
            x_s = torch.where(per_example(s > 0, x), self.correct(model, x_s, at), x_s)
        return x_s

    def correct(self, model: Network, x: Batch, t: Times) -> Batch:
        """One Langevin step at time t: x + size score + sqrt(2 size) z, size = 2 (ratio std)^2."""
        (now,) = self.process.coefficients(t)
        z = torch.randn_like(x)
        _, eps = self.process.estimate(model, x, t)
        size = 2 * (self.ratio * now.std).square()
        from_eps = -size / now.std  # since score = -eps / std
        # Langevin: noise of variance 2 eps for a drift eps score.
        sd = (2 * size).sqrt()
        return combine((torch.ones_like(size), x), (from_eps, eps), (sd, z))


# The probability-flow ODE


class Heun(Solver):
    """The probability-flow ODE by Heun's second-order method: two calls of the network per step.

    A step to s < t_min, where the score may be infinite, keeps the estimates: x_s = m_s x_0 + std_s eps, one call.
    At s = 0 that is the estimate of x_0.
    """

    def move(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """x_s = x + dt (k_1 + k_2) / 2: the mean of the slopes at both ends."""
        x0, eps = self.process.estimate(model, x, t)
        (then,) = self.process.coefficients(s)
        kept = combine((then.mean, x0), (then.std, eps))
        if shared(s) < self.process.t_min:
            return kept
        # Where s is before t_min, the network is asked at t, and what comes of it is dropped.
        then, now = once(s, t)
        end = torch.where(then < self.process.t_min, now, then).expand(len(s))
        x_s = self.advance(model, x, eps, t, end, self.duration(x, t, s))
        return torch.where(per_example(s < self.process.t_min, x), kept, x_s)

    def advance(
        self, model: Network, x: Batch, eps: Batch, t: Times, s: Times, dt: Tensor
    ) -> Batch:
        """The step itself, s >= t_min; eps is what the network said at (x, t)."""
        k1 = self.process.velocity_from_noise(eps, x, t)
        # The slope where Euler's step ends.
        k2 = self.process.velocity(model, x + dt * k1, s)
        return x + dt / 2 * (k1 + k2)

    def duration(self, x: Batch, t: Times, s: Times) -> Tensor:
        """dt = s - t < 0 as it multiplies x, after both are read as at most t_max."""
        now, then = self.process.coefficients(t, s)
        return fit(then.t - now.t, x)


class RK4(Heun):
    """The probability-flow ODE by the classical Runge-Kutta method: fourth order, four calls per step."""

    def advance(
        self, model: Network, x: Batch, eps: Batch, t: Times, s: Times, dt: Tensor
    ) -> Batch:
        """x_s = x + dt (k_1 + 2 k_2 + 2 k_3 + k_4) / 6: slopes at the start, twice in the middle, and at the end."""
        middle = self.middle(t, s)
        k1 = self.process.velocity_from_noise(eps, x, t)
        k2 = self.process.velocity(model, x + dt / 2 * k1, middle)
        k3 = self.process.velocity(model, x + dt / 2 * k2, middle)
        k4 = self.process.velocity(model, x + dt * k3, s)
        return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    def middle(self, t: Times, s: Times) -> Times:
        """(t + s) / 2, after both are read as at most t_max; one value for all stays one value."""
        later, earlier = (v.clamp(max=self.process.t_max) for v in once(t, s))
        return ((later + earlier) / 2).expand(len(t))


def shared(s: Times) -> float:
    """The one s of all examples; NaN if they differ, or if reading it would make a device wait."""
    return s[0].item() if s.device.type == "cpu" and repeated(s) else math.nan
