"""Variances for each coordinate at each x_t: the network gives two answers, and the second is about the variance.

What the second answer means is another paper's matter each time: `learned_variance`, `sn_npr`. Its variances of
p(x_s | x_t) are diagonal, where DDPM's are the same for all coordinates.
"""

import torch
from torch import Tensor

from .ddim import DDIM
from .ddpm import Batch, Prediction, Transition, Variance
from .finite import check_finite
from .shapes import Network, PerExample, Table, Times, check_answer, per_example


def halves(out: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Split the output along the one axis on which it is twice as long as x: the prediction, and the second answer.

    Channels of images, the last axis of vectors and embeddings: the network decides by the shape it returns.
    """
    doubled = [axis for axis in range(x.ndim) if out.shape == twice(x.shape, axis)]
    if len(doubled) != 1:
        raise ValueError(
            f"model must return twice x, {tuple(x.shape)}, along one axis, not {tuple(out.shape)}"
        )
    return out.chunk(2, doubled[0])


def twice(shape: torch.Size, axis: int) -> torch.Size:
    """The shape, twice as long on one axis."""
    return torch.Size([*shape[:axis], 2 * shape[axis], *shape[axis + 1 :]])


class DiagonalVariance(DDIM):
    """A process whose network says two numbers per coordinate: the prediction, and something about the variance.

    Its kinds say which variance that makes (`best_variance`).

    last_noise  at s = 0: False shows the mean of p(x_0 | x_t), True draws from it
    """

    draws = True  # with eta = 0, too: the noise is not DDIM's

    def __init__(
        self,
        alpha_bar: Table,
        shape: tuple[int, ...],
        predicts: Prediction = "eps",
        eta: float = 1.0,
        last_noise: bool = False,
        **settings,
    ):
        super().__init__(alpha_bar, shape, predicts, eta, **settings)
        self.last_noise = last_noise

    def ask(self, model: Network, x_t: Batch, t: Times) -> Tensor:
        """model(x_t, u), checked: finite floats on its device, twice as many as x_t along one axis."""
        out = model(x_t, self.u(t))
        its_shape = tuple(getattr(out, "shape", ()))
        check_answer(out, its_shape, x_t)
        halves(out, x_t)
        return check_finite("the model's output", out, t)

    def x0_from(self, out: Tensor, x_t: Batch, t: Times) -> Batch:
        """The estimate of x_0 in the first answer, clipped if `clip` is set."""
        return super().x0_from(halves(out, x_t)[0], x_t, t)

    def best_variance(
        self, out: Tensor, x_t: Batch, t: Times, s: Times, step: Transition
    ) -> Variance:
        """The variance of p(x_s | x_t) per coordinate that the second answer means; float64."""
        raise NotImplementedError(f"{type(self).__name__} has no best_variance")

    def variance_from(
        self, out: Tensor, x_t: Batch, t: Times, s: Times, step: Transition
    ) -> Variance:
        """The same, but 0 at s = 0 unless last_noise."""
        var = self.best_variance(out, x_t, t, s, step)
        return var if self.last_noise else torch.where(per_example(s > 0, x_t), var, 0)

    def bound_variance(
        self, out: Tensor, x_t: Batch, t: Times, step: Transition
    ) -> Variance:
        """The variance of p(x_{t-1} | x_t) in the bound: decoder_var at t = 1."""
        var = self.best_variance(out, x_t, t, t - 1, step)
        return torch.where(per_example(t == 1, x_t), self.decoder_var, var)

    def weight(self, t: Times) -> PerExample:
        """There is none: the weight of an error depends on x_t."""
        raise NotImplementedError(
            f"{type(self).__name__} has no weight per time: its variance depends on x_t"
        )
