"""What the cases of exercises are made of: numbers in float64."""

import torch
from torch import Tensor


def numbers(*values: int | float) -> Tensor:
    """These values."""
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape: int) -> Tensor:
    """Draws from N(0, 1)."""
    return torch.randn(shape, dtype=torch.float64)


def uniform(*shape: int, low: float = 0.0) -> Tensor:
    """Draws between low and low + 1."""
    return torch.rand(shape, dtype=torch.float64) + low


def laws(*shape: int) -> Tensor:
    """Distributions along the last axis, none of them flat."""
    return (2 * normal(*shape)).softmax(-1)
