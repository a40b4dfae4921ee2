"""Grey levels as the data of a density: the mass of a level's bin, in place of a density at a point.

The levels lie evenly over [-1, 1], 2 / (levels - 1) apart. To make a density of them instead, see
`likelihood.dequantise`.
"""

import math

import torch
from torch import Tensor

from .shapes import check_count


def log_prob_of_level(
    x: Tensor, mean: Tensor, sd: float | Tensor, levels: int
) -> Tensor:
    """log of the mass that N(mean, sd^2) puts on x's bin; the two outer bins are open. Elementwise.  (eq. 13)

    The difference of two normal CDFs is taken in logs and in the lower tail, where it does not cancel.
    """
    check_count("levels", levels, least=2)
    # Half a bin: the levels are 2 / (levels - 1) apart on [-1, 1].
    half = 1 / (levels - 1)
    low = torch.where(x <= half - 1, -math.inf, (x - half - mean) / sd)
    high = torch.where(x >= 1 - half, math.inf, (x + half - mean) / sd)
    # N(0, 1) is symmetric: measure an upper-tail interval in the lower tail.
    flip = low + high > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return log_high + torch.log(-torch.expm1(log_low - log_high))
