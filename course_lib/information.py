"""Clocks by information: the noise of each step takes the same share of what x_t says about x_0 (D3PM, section 3.3)."""

import torch
from jaxtyping import Float
from torch import Tensor

from .categorical import Semigroup, check_law
from .schedules import check_table
from .shapes import PerExample, Table, check_count, widest


def information(noise: Semigroup, p0: Float[Tensor, " V"], log_alpha: PerExample) -> PerExample:
    """I(x_t; x_0) in nats per token, for x_0 ~ p0 and each log(alpha_t)."""
    eye = torch.eye(noise.K, dtype=torch.float64)[: noise.V]
    Q = noise.after(eye.expand(len(log_alpha), -1, -1), widest(log_alpha))  # (N, V, K)
    joint = widest(p0)[:, None] * Q
    return (torch.xlogy(joint, Q) - torch.xlogy(joint, joint.sum(1, keepdim=True))).sum((1, 2))


def information_table(noise: Semigroup, p0: Float[Tensor, " V"], T: int, halvings: int = 50) -> Table:
    """alpha_bar[0..T] with I(x_t; x_0) / H(x_0) = 1 - t / T, by bisection in log sigma.  (D3PM, section 3.3)

    The clock of `noise` plays no part. For absorbing noise this is 1 - t / T whatever p0 is. Needs about T K^2 numbers.
    """
    check_count("T", T)
    p0 = check_law("p0", p0)
    goal = torch.special.entr(p0).sum() * (1 - widest(torch.arange(1, T)) / T)
    low, high = torch.full((T - 1,), -20.0).double(), torch.full((T - 1,), 10.0).double()
    for _ in range(halvings):
        middle = (low + high) / 2
        more = information(noise, p0, -middle.exp()) > goal  # too little noise
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    ends = torch.tensor([1.0]).double(), torch.tensor([0.0]).double()
    return check_table(torch.cat([ends[0], (-high.exp()).exp(), ends[1]]), to_zero=True)
