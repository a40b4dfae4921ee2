"""Perfect networks: what a model would answer if it knew the data's law by heart.

They need no training, so they separate 'is the process right?' from 'did the network learn?'. Each is called
model(x_t, u) like a network and answers in the process's own kind of prediction.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .data import GaussianMixture
from .ddpm import mix
from .process import Process
from .shapes import PerExample, exact, like


class Oracle(nn.Module):
    """A network that answers from posterior_mean(x_t, alpha_bar) = E[x_0 | x_t], in exact arithmetic.

    The process says by kernel(u) = (r, sigma) that x_t = r x_0 + sigma eps. Divided by its size (r^2 + sigma^2)^(1/2),
    any such x_t is one of r^2 + sigma^2 = 1, so one posterior_mean serves them all.
    """

    def __init__(self, process: Process):
        super().__init__()
        self.process = process

    def posterior_mean(
        self, x: Float[Tensor, "B *event"], alpha_bar: PerExample
    ) -> Float[Tensor, "B *event"]:
        """E[x_0 | x_t = x]."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "B *event"], u: PerExample) -> Float[Tensor, "B *event"]:
        r, sigma = self.process.kernel(u)
        z, size = exact(x), torch.hypot(r, sigma)
        mean = self.posterior_mean(z / like(size, z), (r / size).square())
        a, b = mix("x0", self.process.predicts, r, sigma)
        return (like(a, z) * z + like(b, z) * mean).to(x.dtype)


class MixtureOracle(Oracle):
    """The perfect network for data from a Gaussian mixture (points (B, d))."""

    def __init__(self, process: Process, mixture: GaussianMixture):
        super().__init__(process)
        self.mixture = mixture

    def moments(
        self, x: Float[Tensor, "B d"], alpha_bar: PerExample
    ) -> tuple[Float[Tensor, "B d"], Float[Tensor, " B"]]:
        """E[x_0 | x_t] and Var(x_0 | x_t) summed over dimensions: Bayes in each bump, then a mixture over bumps."""
        means, sds, weights = (v.to(x) for v in (self.mixture.means, self.mixture.sds, self.mixture.weights))
        a = alpha_bar[:, None]  # (B, 1) against (K,)
        var_t = a * sds.square() + 1 - a  # (B, K): variance of x_t in each bump
        far = x[:, None] - a[..., None].sqrt() * means  # (B, K, d)
        log_w = weights.log() - x.shape[1] / 2 * var_t.log() - far.square().sum(-1) / (2 * var_t)
        w = log_w.softmax(1)  # which bump x_t came from
        gain = a.sqrt() * sds.square() / var_t
        mean_k = means + gain[..., None] * far
        mean = (w[..., None] * mean_k).sum(1)
        inside = x.shape[1] * sds.square() * (1 - a) / var_t
        between = (mean_k - mean[:, None]).square().sum(-1)
        return mean, (w * (inside + between)).sum(1)

    def posterior_mean(self, x: Float[Tensor, "B d"], alpha_bar: PerExample) -> Float[Tensor, "B d"]:
        return self.moments(x, alpha_bar)[0]


class DataOracle(Oracle):
    """The perfect network for a finite data set: it has seen exactly these N examples, each equally often."""

    def __init__(self, process: Process, data: Float[Tensor, "N *event"]):
        super().__init__(process)
        if not len(data):
            raise ValueError("data must not be empty")
        self.data = data

    def weights(self, x: Float[Tensor, "B *event"], alpha_bar: PerExample) -> Float[Tensor, "B N"]:
        """p(x_0 = each example | x_t)."""
        a, data = alpha_bar[:, None], self.data.flatten(1).to(x)
        # |x - sqrt(a) d|^2 without what does not depend on d
        square = a * data.square().sum(1) - 2 * a.sqrt() * (x.flatten(1) @ data.T)
        return (-square / (2 * (1 - a))).softmax(1)

    def posterior_mean(
        self, x: Float[Tensor, "B *event"], alpha_bar: PerExample
    ) -> Float[Tensor, "B *event"]:
        return (self.weights(x, alpha_bar) @ self.data.flatten(1).to(x)).reshape(x.shape)
