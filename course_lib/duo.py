"""Duo (Sahoo et al. 2025, arXiv:2506.10892): uniform-state diffusion is the argmax of Gaussian diffusion.

A token as a one-hot vector e_k is noised to z = a e_k + b eps. argmax z is k with a probability that depends on a / b,
and else any other token, all equally likely: exactly what uniform noise of some alpha does.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .shapes import check_count, describe


def uniform_alpha(
    a: Float[Tensor, "*n"], K: int, points: int = 20001
) -> Float[Tensor, "*n"]:
    """alpha of the uniform noise that argmax(a e_k + (1 - a^2)^(1/2) eps) is, eps of K normal numbers.  (eq. 10)

    P(argmax = k) = int phi(z - a / b) Phi(z)^(K - 1) dz, and alpha = (K P - 1) / (K - 1). a in [0, 1]; float64.
    """
    check_count("K", K, least=2)
    check_count("points", points, least=100)
    if a is None or isinstance(a, str):
        raise TypeError(f"a must be numbers in 0..1, not {describe(a)}")
    a = torch.as_tensor(a, dtype=torch.float64)
    if not ((a >= 0) & (a <= 1)).all():
        raise ValueError(f"a must lie in 0..1, not {a.min():g}..{a.max():g}")
    # a = 1 has no noise, and the ratio is infinite: 1e6 is as certain in float64.
    ratio = (a / (1 - a**2).sqrt()).clamp(max=1e6)
    e = torch.linspace(-9, 9, points, dtype=torch.float64)  # eps of token k itself
    density = torch.exp(-(e**2) / 2) / math.sqrt(2 * math.pi)
    # In logs: Phi near 1 has lost the digits that a power of K - 1 needs.
    others_below = torch.special.log_ndtr(e + ratio[..., None]) * (K - 1)
    P = torch.trapezoid(density * others_below.exp(), e, dim=-1)
    return (K * P - 1) / (K - 1)
