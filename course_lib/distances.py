"""Distances between laws: Frechet's between two samples, Wasserstein's between a sample and a law on the line."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from .shapes import PerExample, check_count, describe


def frechet(a: Float[Tensor, "N d"], b: Float[Tensor, "M d"]) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)): squared Frechet distance between Gaussians fitted to a and b.

    Biased upwards for few samples: compare only with real against real at the same N and M.  Heusel et al. 2017.
    """
    for name, x in (("a", a), ("b", b)):
        if not isinstance(x, Tensor) or x.ndim == 0:
            raise TypeError(f"{name} must be a tensor (N, d), not {describe(x)}")
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    if min(len(a), len(b)) < 2:
        raise ValueError(
            f"a and b must hold at least 2 samples each, not {len(a)} and {len(b)}"
        )
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not a.shape[1]:
        raise ValueError(
            f"a and b must be rows of as many features, not {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("a and b must be finite")
    d = a.shape[1]
    S_a, S_b = a.T.cov().reshape(d, d), b.T.cov().reshape(d, d)
    shift = (a.mean(0) - b.mean(0)).square().sum()
    # tr (S_a S_b)^(1/2) by the symmetric S_a^(1/2) S_b S_a^(1/2), which has the same eigenvalues
    values, vectors = torch.linalg.eigh(S_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ S_b @ root).clamp(min=0).sqrt().sum()
    return (shift + S_a.trace() + S_b.trace() - 2 * cross).item()


def wasserstein(
    x: PerExample, cdf: Callable[[Tensor], Tensor], points: int = 4001
) -> float:
    """W1 distance between the sample x (N,) and the 1-D law with this distribution function: integral of |F_N - F|.

    By the trapezoid rule, from and to where the law has no mass left outside, be the sample ever so narrow.
    """
    check_count("points", points, least=2)
    if not isinstance(x, Tensor) or x.ndim != 1 or len(x) < 1 or not x.isfinite().all():
        raise ValueError(
            f"x must be a sample of at least one finite number, (N,), not {describe(x)}"
        )
    x = x.detach().cpu().double().sort().values
    cdf = checked(cdf)
    low, high = x[:1], x[-1:]
    # The sample's own width, doubled until the
    # law is inside: the law may be much wider.
    step = (high - low).clamp(min=1e-3)
    while cdf(low - step) > 1e-9 or cdf(high + step) < 1 - 1e-9:
        step = 2 * step
        if not step.isfinite():
            raise ValueError("cdf must rise from 0 to 1")
    grid = torch.linspace(
        (low - step).item(), (high + step).item(), points, dtype=torch.float64
    )
    empirical = torch.searchsorted(x, grid, right=True) / len(x)
    return torch.trapezoid((empirical - cdf(grid)).abs(), grid).item()


def checked(cdf: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The distribution function, which says ValueError where it says no probabilities, one for each point."""

    def F(x: Tensor) -> Tensor:
        """cdf(x), looked at."""
        p = cdf(x)
        if not isinstance(p, Tensor) or p.shape != x.shape:
            raise ValueError(
                f"cdf must return as many numbers as it is given, {tuple(x.shape)}, not {describe(p)}"
            )
        if not ((p >= -1e-6) & (p <= 1 + 1e-6)).all():
            raise ValueError("cdf must return probabilities, in [0, 1]")
        return p

    return F
