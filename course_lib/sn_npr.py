"""Predicted variances: NPR and SN (Bao, Li, Sun, Zhu & Zhang 2022, arXiv:2206.07309).

If q(x_s | x_t, x_0) has mean from_x0 x_0 + from_xt x_t and variance lambda^2, then by the law of total variance the
best variance of p(x_s | x_t) is lambda^2 + from_x0^2 Var(x_0 | x_t). A second answer of the network tells the last
factor at this x_t, for each coordinate.
"""

from torch import Tensor

from .ddpm import Batch, Prediction, Transition, Variance, squared_error
from .diagonal_variance import DiagonalVariance, halves
from .schedules import check_number
from .shapes import Network, PerExample, Table, Times, per_example, widest


class NPR(DiagonalVariance):
    """The second answer is the expected squared error of the noise, E[(eps - eps_hat)^2 | x_t], per coordinate.

    sigma^2 = lambda^2 + from_x0^2 (1 - abar_t)/abar_t * answer: the best variance at this x_t for the mean in use, be
    it right or wrong (noise prediction residual; Bao et al. 2022, arXiv:2206.07309). Made for a frozen network with a
    new head (`nets.TwoHeads`): the target is detached, so that the head does not move the mean.

    limit     Var(x_0 | x_t) is cut to [0, limit]; 1 fits images in [-1, 1]
    settings  eta, last_noise as in Analytic; levels, decoder_var, clip of DDPM
    """

    def __init__(
        self,
        alpha_bar: Table,
        shape: tuple[int, ...],
        predicts: Prediction = "eps",
        eta: float = 1.0,
        limit: float = 1.0,
        **settings,
    ):
        super().__init__(alpha_bar, shape, predicts, eta, **settings)
        self.limit = check_number("limit", limit, above=0)

    def conditional_variance(self, out: Tensor, x_t: Batch, t: Times) -> Variance:
        """Var(x_0 | x_t) per coordinate, as the network's whole output has it; float64, in [0, limit]."""
        r, sigma = self._r_sigma(t, x_t)
        # x_0 = (x_t - sigma eps) / r: given x_t its variance is that of eps, times (sigma / r)^2.
        of_x0 = (sigma / r).square() * self.squared_noise(out, x_t, t)
        return of_x0.clamp(0, self.limit)

    def squared_noise(self, out: Tensor, x_t: Batch, t: Times) -> Variance:
        """E[(eps - eps_hat)^2 | x_t]: what the head says."""
        return widest(halves(out, x_t)[1])

    def perfect_head(self, noise_variance: Batch, eps_hat: Batch) -> Batch:
        """What the head should say where eps given x_t has this variance, and eps_hat for its mean."""
        return noise_variance

    def head_target(self, out: Tensor, x0: Batch, x_t: Batch, t: Times) -> Batch:
        """What the head learns the mean of: the squared error of the mean in use, in units of the noise; detached."""
        r, sigma = self._r_sigma(t, x_t)
        error = widest(x0) - widest(self.x0_from(out, x_t, t).detach())
        return (r / sigma * error).square()

    def best_variance(
        self, out: Tensor, x_t: Batch, t: Times, s: Times, step: Transition
    ) -> Variance:
        """lambda^2 + from_x0^2 Var(x_0 | x_t): the law of total variance."""
        from_x0, lambda2 = per_example(step.from_x0, x_t), per_example(step.q_var, x_t)
        return lambda2 + from_x0.square() * self.conditional_variance(out, x_t, t)

    def loss_at(self, model: Network, x0: Batch, x_t: Batch, t: Times) -> PerExample:
        """Squared error of the prediction plus squared error of the head, each a mean over dimensions."""
        self.check_pair(x0, x_t, t)
        out = self.ask(model, x_t, t)
        prediction, head = halves(out, x_t)
        simple = squared_error(prediction, self.target(x0, x_t, t))
        # The target is detached: the head must not move the mean.
        return simple + squared_error(head, self.head_target(out, x0, x_t, t))


class SN(NPR):
    """The second answer is the expected squared noise E[eps^2 | x_t].

    Var(x_0 | x_t) = (1 - abar)/abar (answer - eps_hat^2): right for a perfect mean only. NPR corrects an imperfect one.
    """

    def squared_noise(self, out: Tensor, x_t: Batch, t: Times) -> Variance:
        """E[(eps - eps_hat)^2 | x_t] = E[eps^2 | x_t] - eps_hat^2, if eps_hat is the mean."""
        prediction, head = halves(out, x_t)
        eps_hat = self.convert(prediction, x_t, t, "eps")
        return widest(head) - widest(eps_hat).square()

    def perfect_head(self, noise_variance: Batch, eps_hat: Batch) -> Batch:
        """E[eps^2 | x_t]: the variance, and the square of the mean."""
        return noise_variance + eps_hat.square()

    def head_target(self, out: Tensor, x0: Batch, x_t: Batch, t: Times) -> Batch:
        """eps^2, of the noise that made this x_t."""
        r, sigma = self._r_sigma(t, x_t)
        return ((widest(x_t) - r * widest(x0)) / sigma).square()
