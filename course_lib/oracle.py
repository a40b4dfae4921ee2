"""Perfect networks: what a model would answer if it knew the data's law by heart.

They need no training, so they separate 'is the process right?' from 'did the network learn?'. Each is called
model(x_t, u) like a network and answers in the process's own kind of prediction.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .data import GaussianMixture, MarkovLanguage
from .ddpm import solve_prediction
from .process import Process, check_process
from .shapes import Mask, PerExample, Tokens, describe, per_example, widest
from .sn_npr import NPR
from .token_checks import check_masses
from .tokens import TokenProcess


class Oracle(nn.Module):
    """A network that answers from posterior_mean(x_t, alpha_bar) = E[x_0 | x_t], in exact arithmetic.

    The process says by marginal(u) = (r, sigma) that x_t = r x_0 + sigma eps. Divided by its size
    (r^2 + sigma^2)^(1/2), any such x_t is one of r^2 + sigma^2 = 1, so one posterior_mean serves them all.
    """

    def __init__(self, process: Process):
        super().__init__()
        check_process(process)
        self.process = process

    def posterior_mean(
        self, x: Float[Tensor, "B *event"], alpha_bar: PerExample
    ) -> Float[Tensor, "B *event"]:
        """E[x_0 | x_t = x]."""
        raise NotImplementedError(f"{type(self).__name__} has no posterior_mean")

    def forward(
        self, x: Float[Tensor, "B *event"], u: PerExample
    ) -> Float[Tensor, "B *event"]:
        r, sigma = self.process.marginal(u)
        # VE has r = 1 and a sigma that grows; divided
        # by its size it is VP at another time.
        z, size = widest(x), torch.hypot(r, sigma)
        mean = self.posterior_mean(z / per_example(size, z), (r / size).square())
        a, b = solve_prediction("x0", self.process.predicts, r, sigma)
        return (per_example(a, z) * z + per_example(b, z) * mean).to(x.dtype)


class MixtureOracle(Oracle):
    """The perfect network for data from a Gaussian mixture (points (B, d))."""

    def __init__(self, process: Process, mixture: GaussianMixture):
        super().__init__(process)
        self.mixture = mixture

    def posterior(
        self, x: Float[Tensor, "B d"], alpha_bar: PerExample
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K d"], Float[Tensor, "B K"]]:
        """p(x_0 | x_t), again a mixture: weights, means and variances of its bumps. Bayes in each bump."""
        mixture, d = self.mixture, x.shape[1]
        means = mixture.means.to(x)
        variances = mixture.sds.to(x).square()
        weights = mixture.weights.to(x)
        a = alpha_bar[:, None]  # (B, 1) against (K,)
        r = a.sqrt()
        var_t = a * variances + 1 - a  # (B, K): variance of x_t in each bump
        far = x[:, None] - r[..., None] * means  # (B, K, d)
        log_density = -d / 2 * var_t.log() - far.square().sum(-1) / (2 * var_t)
        w = (weights.log() + log_density).softmax(1)  # which bump x_t came from
        # The rest is Bayes' rule for a Gaussian x_0 seen through r x_0 + noise.
        gain = r * variances / var_t
        return w, means + gain[..., None] * far, variances * (1 - a) / var_t

    def variance(
        self, x: Float[Tensor, "B d"], alpha_bar: PerExample
    ) -> Float[Tensor, "B d"]:
        """Var(x_0 | x_t) of each coordinate: the mean variance inside the bumps, and the variance between them."""
        w, means, inside = self.posterior(x, alpha_bar)
        mean = (w[..., None] * means).sum(1)
        between = (means - mean[:, None]).square()
        return (w[..., None] * (inside[..., None] + between)).sum(1)

    def moments(
        self, x: Float[Tensor, "B d"], alpha_bar: PerExample
    ) -> tuple[Float[Tensor, "B d"], Float[Tensor, " B"]]:
        """E[x_0 | x_t], and Var(x_0 | x_t) summed over dimensions."""
        return self.posterior_mean(x, alpha_bar), self.variance(x, alpha_bar).sum(1)

    def posterior_mean(
        self, x: Float[Tensor, "B d"], alpha_bar: PerExample
    ) -> Float[Tensor, "B d"]:
        w, means, _ = self.posterior(x, alpha_bar)
        return (w[..., None] * means).sum(1)


class PosteriorDraw(MixtureOracle):
    """Answers with a fresh draw from p(x_0 | x_t) instead of its mean: not a good guess, but a good sampler."""

    def posterior_mean(
        self, x: Float[Tensor, "B d"], alpha_bar: PerExample
    ) -> Float[Tensor, "B d"]:
        """One draw per example."""
        w, means, var = self.posterior(x, alpha_bar)
        # First which bump, then a Gaussian in it: that is a draw of the mixture.
        k = torch.multinomial(w, 1).squeeze(1)
        b = torch.arange(len(x), device=x.device)
        return means[b, k] + var[b, k, None].sqrt() * torch.randn_like(x)


class VarianceOracle(MixtureOracle):
    """The perfect network of NPR and SN: its prediction, and E[(eps - eps_hat)^2 | x_t], for SN E[eps^2 | x_t]."""

    def __init__(self, process: NPR, mixture: GaussianMixture):
        super().__init__(process, mixture)

    def forward(
        self, x: Float[Tensor, "B d"], u: PerExample
    ) -> Float[Tensor, "B two_d"]:
        r, sigma = (per_example(v, x) for v in self.process.marginal(u))
        z, abar = widest(x), (r * r)[:, 0]
        # eps = (x_t - r x_0) / sigma: given x_t its variance is that of x_0, times (r / sigma)^2.
        noise_variance = (r / sigma).square() * self.variance(z, abar)
        eps_hat = (z - r * self.posterior_mean(z, abar)) / sigma
        head = self.process.perfect_head(noise_variance, eps_hat)
        return torch.cat([super().forward(x, u), head.to(x.dtype)], 1)


class DataOracle(Oracle):
    """The perfect network for a finite data set: it has seen exactly these N examples, each equally often."""

    def __init__(self, process: Process, data: Float[Tensor, "N *event"]):
        super().__init__(process)
        if not isinstance(data, Tensor) or not data.is_floating_point():
            raise TypeError(f"data must be a float tensor, not {describe(data)}")
        if not len(data):
            raise ValueError("data must not be empty")
        if not data.isfinite().all():
            raise ValueError("data must be finite everywhere")
        self.data = data

    def weights(
        self, x: Float[Tensor, "B *event"], alpha_bar: PerExample
    ) -> Float[Tensor, "B N"]:
        """p(x_0 = each example | x_t)."""
        a, data = alpha_bar[:, None], self.data.flatten(1).to(x)
        # |x - sqrt(a) d|^2 without what does not depend on d
        square = a * data.square().sum(1) - 2 * a.sqrt() * (x.flatten(1) @ data.T)
        return (-square / (2 * (1 - a))).softmax(1)

    def posterior_mean(
        self, x: Float[Tensor, "B *event"], alpha_bar: PerExample
    ) -> Float[Tensor, "B *event"]:
        return (self.weights(x, alpha_bar) @ self.data.flatten(1).to(x)).reshape(
            x.shape
        )


class MarkovOracle(nn.Module):
    """The perfect network for sentences of a MarkovLanguage: forward-backward, all positions at once.

    It answers as the process asks (`process.answer`): with log p(x_0 at i | the other tokens of x_t),
    log p(x_0 at i | x_t), or the log score of the V tokens; `loo` gives the first whatever is asked. float64.
    """

    def __init__(self, process: TokenProcess, language: MarkovLanguage):
        super().__init__()
        check_process(process)
        if process.noise.V != language.K:
            raise ValueError(
                f"the language must have the noise's {process.noise.V} tokens, not {language.K}"
            )
        self.process, self.language = process, language

    def loo(
        self, x: Tokens, t: Tensor, mask: Mask | None = None
    ) -> Float[Tensor, "B L V"]:
        """log p(x_0 at i = k | the other tokens of x_t): what comes from the left times what comes from the right."""
        noise = self.process.noise
        seen = noise.likelihood(x, torch.zeros_like(t), t)[..., : noise.V]  # (B, L, V)
        # Put there by clamp, not by the noise.
        said = torch.nn.functional.one_hot(x, noise.K)[..., : noise.V]
        seen = normalised(torch.where(seen.amax(-1, keepdim=True) > 0, seen, said))
        if mask is not None:  # after its end a sentence says nothing
            seen = torch.where(mask[..., None], seen, 1 / noise.V)
        return from_others(self.language, seen).log()

    def forward(
        self, x: Tokens, u: PerExample, mask: Mask | None = None
    ) -> Float[Tensor, "B L V"]:
        t = (
            (u * self.process.T).round().long()
            if isinstance(self.process.T, int)
            else u
        )
        answer = self.process.answer(self.loo(x, t, mask), x, t)
        # Of an x_t that cannot be, where any answer is right.
        return torch.where(answer.isnan(), 0, answer)


class TableOracle(nn.Module):
    """The perfect network for a joint distribution that is written out, by adding up all sequences. float64.

    Called like a network, it answers as the process asks: log p(x_0 at i | the other tokens of x_t), and so on.

    process  MDLM, D3PM, SEDD or BlockDiffusion
    p        (V,) * length, p[x] the probability of the sequence x
    """

    def __init__(self, process: TokenProcess, p: Float[Tensor, "..."]):
        super().__init__()
        check_process(process)
        wanted = (process.noise.V,) * process.length
        if tuple(p.shape) != wanted:
            raise ValueError(f"p must have shape {wanted}, not {tuple(p.shape)}")
        check_masses("p", p)
        self.process = process
        self.register_buffer("p", widest(p))

    def loo(self, x: Tokens, t: Tensor) -> Float[Tensor, "B L V"]:
        """log p(x_0 at i | the other tokens of x_t); of tokens that cannot be, NaN."""
        noise, L = self.process.noise, self.process.length
        seen = noise.likelihood(x, torch.zeros_like(t), t)[..., : noise.V]
        said = torch.nn.functional.one_hot(x, noise.K)[..., : noise.V]
        # At a time when no token is left, one that a sampler has put there says what it is.
        seen = normalised(torch.where(seen.amax(-1, keepdim=True) > 0, seen, said))
        out = []
        for i in range(L):
            joint = self.p.expand(len(x), *self.p.shape)
            for j in set(range(L)) - {i}:
                joint = joint * seen[:, j].reshape(
                    -1, *[1] * j, noise.V, *[1] * (L - 1 - j)
                )
            others = [j + 1 for j in range(L) if j != i]
            out.append(normalised(joint.sum(others) if others else joint))
        return torch.stack(out, 1).log()

    def forward(
        self, x: Tokens, u: PerExample, mask: Mask | None = None
    ) -> Float[Tensor, "B L V"]:
        T = self.process.T
        t = (u * T).round().long() if isinstance(T, int) else u
        answer = self.process.answer(self.loo(x, t), x, t)
        return torch.where(answer.isnan(), 0, answer)


def from_others(
    language: MarkovLanguage, seen: Float[Tensor, "B L K"]
) -> Float[Tensor, "B L K"]:
    """p(token at i | what is seen of the others), by forward-backward; seen is each place's evidence for each token."""
    move = language.move.to(seen.device)
    left = [language.start.to(seen.device).expand(len(seen), -1)]
    right = [torch.ones_like(seen[:, 0])]
    for i in range(1, seen.shape[1]):
        left.append(normalised(left[-1] * seen[:, i - 1]) @ move)
        right.append(normalised((right[-1] * seen[:, -i]) @ move.T))
    return normalised(torch.stack(left, 1) * torch.stack(right[::-1], 1))


def normalised(p: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """p over its sum."""
    return p / p.sum(-1, keepdim=True)
