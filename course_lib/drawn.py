"""What numbers that an answer draws are known by: their size and shape, and whether each is a draw of its own.

Noise is (B, d), B examples of d numbers, and should come from N(0, 1).
"""

import math

import torch
from torch import Tensor

WITHIN = math.erf(2**-0.5)  # of N(0, 1) between -1 and 1


def bell(z: Tensor) -> Tensor:
    """Size and mean of the noise in each example, and the share of it within 1: (3, B)."""
    share = (z.abs() < 1).double().mean(1)
    return torch.stack([z.square().mean(1).sqrt(), z.mean(1), share])


def of_normal(B: int) -> Tensor:
    """The same for N(0, 1)."""
    return torch.tensor([[1.0], [0.0], [WITHIN]], dtype=torch.float64).expand(3, B)


def likeness(z: Tensor, *others: Tensor) -> Tensor:
    """Correlation of draws with themselves, the next in the row, the next row, and with others of their shape."""
    later = [b for b in others if b.numel()]
    pairs = [(z, z), (z[:, 1:], z[:, :-1]), (z[1:], z[:-1]), *((z, b) for b in later)]
    return torch.stack([_correlation(a, b) for a, b in pairs])


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    size = (a.square().mean() * b.square().mean()).sqrt()
    return (a * b).mean() / size.clamp(min=1e-12)


def alone(n: int) -> Tensor:
    """The likeness of draws of which each is its own: 1 with itself, 0 with n others."""
    return torch.tensor([1.0] + [0.0] * n, dtype=torch.float64)


def weights(x: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each part x holds, by least squares, and what is left."""
    rows = torch.stack([p.flatten() for p in parts]).double()
    found = torch.linalg.pinv(rows @ rows.T) @ (rows @ x.flatten().double())
    return found, x.double() - (found @ rows).reshape(x.shape)


def shares(codes: Tensor, among: Tensor, n: int) -> Tensor:
    """How often each of n codes stands in a column of (B, L), among the rows that count there: (L, n)."""
    L = codes.shape[1]
    flat = (codes + n * torch.arange(L))[among]
    counts = torch.bincount(flat, minlength=L * n).double().reshape(L, n)
    return counts / among.sum(0)[:, None]
