"""How good is it? Bounds with standard errors, and pictures judged by a classifier that knows real ones."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .files import needs
from .process import Process
from .shapes import Network, PerExample, check_count


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    se: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.se:.3f}"

    def bits_per_dim(self, dims: int) -> "Estimate":
        """From nats per example to bits per dimension."""
        return Estimate(*(v / (dims * math.log(2)) for v in self))


@torch.no_grad()
def bound(process: Process, model: Network, data: Tensor, repeats: int = 1, batch: int = 256) -> Estimate:
    """Mean of process.bound over the data, nats per example, `repeats` random times each, with its standard error.

    An unbiased estimate of the bound. The error is over examples, so it covers the draw of data, times and noise.
    """
    check_count("repeats", repeats)
    check_count("batch", batch)
    if len(data) < 2:
        raise ValueError(f"data must hold at least 2 examples, not {len(data)}")
    values = torch.zeros(len(data), dtype=torch.float64)
    for _ in range(repeats):
        parts = [process.bound(model, x, process.sample_t(len(x))) for x in data.split(batch)]
        values += torch.cat(parts).double().cpu() / repeats
    return Estimate(values.mean().item(), values.std().item() / math.sqrt(len(data)))


@torch.no_grad()
def bound_by_time(process: Process, model: Network, x0: Tensor) -> Float[Tensor, " T"]:
    """Mean of process.bound over the data at each t = 1..T (discrete time): what the bound is made of."""
    times = range(1, process.T + 1)
    ones = torch.ones(len(x0), dtype=torch.long, device=x0.device)
    return torch.stack([process.bound(model, x0, t * ones).mean() for t in times])


# Pictures


class Judge:
    """Fitted once on real images and labels: how sure is a classifier, and where do images lie in feature space?

    The classifier is ten nearest neighbours in pixel space: it is surer than 0.9 when all ten real digits around an
    image agree, which they seldom do far from the data. Features are the leading principal components.
    """

    def __init__(
        self, x: Float[Tensor, "N *event"], y: Int[Tensor, " N"], neighbours: int = 10, components: int = 30
    ):
        knn = needs("sklearn.neighbors", "scikit-learn").KNeighborsClassifier(neighbours)
        pca = needs("sklearn.decomposition", "scikit-learn").PCA(components, random_state=0)
        pixels = x.flatten(1).cpu().numpy()
        self.classifier, self.pca = knn.fit(pixels, y.cpu().numpy()), pca.fit(pixels)

    def features(self, x: Float[Tensor, "N *event"]) -> Float[Tensor, "N components"]:
        """Principal components, float64."""
        return torch.from_numpy(self.pca.transform(x.flatten(1).cpu().numpy())).double()

    def label(self, x: Float[Tensor, "N *event"]) -> Int[Tensor, " N"]:
        """The classifier's favourite class."""
        return torch.from_numpy(self.classifier.predict(x.flatten(1).cpu().numpy()))

    def confidence(self, x: Float[Tensor, "N *event"]) -> Float[Tensor, " N"]:
        """The classifier's probability for its favourite class."""
        return torch.from_numpy(self.classifier.predict_proba(x.flatten(1).cpu().numpy())).max(1).values

    def accepted(self, x: Float[Tensor, "N *event"], above: float = 0.9) -> float:
        """Share of images whose class the classifier is surer of than `above`."""
        return (self.confidence(x) > above).double().mean().item()


def frechet(a: Float[Tensor, "N d"], b: Float[Tensor, "M d"]) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)): squared Frechet distance between Gaussians fitted to a and b.

    Biased upwards for few samples: compare only with real against real at the same N and M.  Heusel et al. 2017.
    """
    a, b = a.cpu().double(), b.cpu().double()
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a and b must hold at least 2 samples each, not {len(a)} and {len(b)}")
    S_a, S_b = a.T.cov().reshape(2 * a.shape[1:]), b.T.cov().reshape(2 * b.shape[1:])
    values, vectors = torch.linalg.eigh(S_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ S_b @ root).clamp(min=0).sqrt().sum()  # = tr (S_a S_b)^(1/2)
    return ((a.mean(0) - b.mean(0)).square().sum() + S_a.trace() + S_b.trace() - 2 * cross).item()


def wasserstein(x: PerExample, cdf: Callable[[Tensor], Tensor], points: int = 4001) -> float:
    """W1 distance between the sample x (N,) and the 1-D law with this distribution function: integral of |F_N - F|.

    By the trapezoid rule, from and to where the law has no mass left outside, be the sample ever so narrow.
    """
    x = x.cpu().double().sort().values
    low, high = x[:1], x[-1:]
    step = (high - low).clamp(min=1e-3)
    while cdf(low - step) > 1e-9 or cdf(high + step) < 1 - 1e-9:
        step = 2 * step
    grid = torch.linspace((low - step).item(), (high + step).item(), points, dtype=torch.float64)
    empirical = torch.searchsorted(x, grid, right=True) / len(x)
    return torch.trapezoid((empirical - cdf(grid)).abs(), grid).item()
