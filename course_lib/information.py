"""Clocks by information: each step takes the same share of what x_t says about x_0 (D3PM, section 3.2)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .categorical import Semigroup
from .schedules import bisect, check_table
from .shapes import PerExample, Table, check_count, widest
from .token_checks import check_law


def information(
    noise: Semigroup, p0: Float[Tensor, " V"], log_alpha: PerExample
) -> PerExample:
    """I(x_t; x_0) in nats per token, for x_0 ~ p0 and each log(alpha_t)."""
    p0 = check_law_of_tokens(noise, p0)
    eye = widest(torch.eye(noise.K, device=noise.device))[: noise.V]
    Q = noise.after(eye.expand(len(log_alpha), -1, -1), widest(log_alpha))  # (N, V, K)
    joint = p0[:, None] * Q
    p_t = joint.sum(1, keepdim=True)
    # The mean of log q(x_t | x_0) - log p(x_t), with 0 log 0 = 0.
    each = torch.xlogy(joint, Q) - torch.xlogy(joint, p_t)
    return each.sum((1, 2))


def information_table(
    noise: Semigroup, p0: Float[Tensor, " V"], T: int, halvings: int = 50
) -> Table:
    """alpha_bar[0..T] with I(x_t; x_0) / H(x_0) = 1 - t / T, by bisection in log sigma.  (D3PM, appendix A.7)

    The clock of `noise` plays no part. For absorbing noise this is 1 - t / T whatever p0 is. Needs about T K^2 numbers.
    """
    check_count("T", T)
    p0 = check_law_of_tokens(noise, p0)
    entropy = torch.special.entr(p0).sum()
    if entropy == 0:
        raise ValueError("p0 must not be certain: there is no information to lose")
    t = widest(torch.arange(1, T, device=p0.device))
    goal = entropy * (1 - t / T)

    def too_little_noise(log_sigma: Float[Tensor, " N"]) -> Bool[Tensor, " N"]:
        return information(noise, p0, -log_sigma.exp()) > goal

    # log sigma: at e^-20 a token is all but kept, at e^10 nothing is left of it.
    least, most = torch.full_like(goal, -20.0), torch.full_like(goal, 10.0)
    sigma = bisect(too_little_noise, least, most, halvings).exp()
    alpha_bar = torch.ones(T + 1, dtype=torch.float64)
    alpha_bar[1:-1] = (-sigma).exp()
    # Nothing is left at T, whatever the bisection's last digits are.
    alpha_bar[-1] = 0
    return check_table(alpha_bar, to_zero=True)


def check_law_of_tokens(noise: Semigroup, p0: Tensor) -> Float[Tensor, " V"]:
    """p0 in float64, or an error: a law over the noise's V tokens."""
    if not isinstance(noise, Semigroup):
        raise TypeError(
            f"noise must be a Semigroup, which has one alpha, not {type(noise).__name__}"
        )
    p0 = check_law("p0", p0)
    if len(p0) != noise.V:
        raise ValueError(
            f"p0 must be a law over the noise's {noise.V} tokens, not over {len(p0)}"
        )
    return p0.to(noise.device)
