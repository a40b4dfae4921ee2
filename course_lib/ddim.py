"""Implicit models: DDIM (Song, Meng & Ermon 2021, arXiv:2010.02502), and its other end, noising afresh.

Every member of the family has the marginals q(x_t | x_0) of DDPM, hence its loss and its network; they differ in how
much fresh noise a step draws. Times are those of ddpm.py: t = 0 is the data, and a step goes from t to any s < t.
"""

import torch
from torch import Tensor

from .ddpm import DDPM, Batch, Prediction, Transition, lost
from .shapes import Network, PerExample, Table, Times, check_scalar


class DDIM(DDPM):
    """Steps that keep every marginal q(x_t), with as much fresh noise as one likes.

    eta       0 is deterministic, 1 is DDPM with the small variance: lambda^2 = eta^2 beta-tilde  (eq. 16)
    settings  levels, decoder_var, clip of DDPM
    """

    def __init__(
        self,
        alpha_bar: Table,
        shape: tuple[int, ...],
        predicts: Prediction = "eps",
        eta: float = 0.0,
        **settings,
    ):
        super().__init__(
            alpha_bar, shape, predicts=predicts, variance="small", **settings
        )
        check_scalar("eta", eta)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], not {eta}")
        self.eta = eta

    @property
    def draws(self) -> bool:
        """Whether a step has noise."""
        return self.eta > 0

    def transition(self, t: Times, s: Times) -> Transition:
        """If x_0 were known: x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - lambda^2) eps + lambda z, eps from x_t and x_0.

        Collected by x_0 and x_t, in sums of positive terms only, so that neighbouring times lose no digits.  (eq. 12)
        """
        log_t, log_s = self.log_alpha_bar[t], self.log_alpha_bar[s]
        log_ts = log_t - log_s  # log of the signal kept between s and t
        lost_t, lost_s, lost_ts = lost(log_t), lost(log_s), lost(log_ts)
        kept, eta2 = lost_s / lost_t, self.eta**2
        # Eq. 16: eta^2 beta-tilde, (1 - abar_s) / (1 - abar_t) (1 - abar_t / abar_s).
        lambda2 = eta2 * lost_ts * kept
        # sqrt((1 - abar_s - lambda^2) / (1 - abar_t)), the noise that is kept
        from_xt = (kept * (1 - eta2 + eta2 * log_ts.exp() * kept)).sqrt()
        # r_s - from_xt r_t as a quotient, (r_s^2 - from_xt^2 r_t^2) / (r_s + from_xt r_t)
        r_t, r_s = (log_t / 2).exp(), (log_s / 2).exp()
        difference = (log_s.exp() * lost_ts + log_t.exp() * lambda2) / lost_t
        from_x0 = difference / (r_s + from_xt * r_t)
        # Eq. 12 with its "direction pointing to x_t" as eps
        # = (x_t - r_t x_0) / sigma_t: so a cut x_0 takes its
        # eps along, which eps_theta as printed would not.
        return Transition(from_x0, from_xt, q_var=lambda2, p_var=lambda2)

    def term_at(self, model: Network, x0: Batch, x_t: Batch, t: Times) -> PerExample:
        """L_{t-1} in nats per example, as in DDPM. ValueError at eta = 0, where it is infinite."""
        self.check_noise()
        return super().term_at(model, x0, x_t, t)

    def check_noise(self) -> None:
        """Raise ValueError where q(x_s | x_t, x_0) has no width, so that a bound would be infinite."""
        if self.eta == 0:
            raise ValueError(
                "eta must be above 0 for a bound: without noise in q it is infinite"
            )


class Renoise(DDIM):
    """Estimate x_0, then noise it afresh: x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s) z. Su's unified view (UDM).

    A network that answers with a draw from p(x_0 | x_t) keeps every marginal, at any step size. One that answers with
    the mean loses the variance abar_s E Var(x_0 | x_t). It is the end of the family: lambda^2 = 1 - abar_s.
    """

    def __init__(
        self,
        alpha_bar: Table,
        shape: tuple[int, ...],
        predicts: Prediction = "eps",
        **settings,
    ):
        super().__init__(alpha_bar, shape, predicts, eta=1.0, **settings)

    def transition(self, t: Times, s: Times) -> Transition:
        """All of x_0, nothing of x_t, and all the noise that x_s has."""
        log_s: Tensor = self.log_alpha_bar[s]
        lost_s = lost(log_s)
        return Transition(
            # Eq. 12 at lambda^2 = 1 - abar_s: the square root is 0, and x_t drops out.
            (log_s / 2).exp(),
            torch.zeros_like(log_s),
            q_var=lost_s,
            p_var=lost_s,
        )
