"""Discrete flow matching from masks (Campbell et al. 2024, arXiv:2402.04997; Gat et al. 2024, arXiv:2407.15595).

Time runs forwards here: kappa goes from 0 (all masks) to 1 (data), kappa = alpha of absorbing noise. A mask becomes y
at the rate

    u(MASK -> y) = (kappa' + eta kappa) / (1 - kappa) p(x_1 = y | x),      u(y -> MASK) = eta.

eta = 0 is absorbing diffusion run backwards. Any eta >= 0 has the same p_t at every time: the two rates that it adds
carry as much one way as the other (detailed balance). That is what is free to choose.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .categorical import Law
from .samplers import Draw, MaskedSampler
from .schedules import check_number
from .shapes import Network, Tokens, check_count, check_scalar
from .tokens import TokenProcess


def velocity(
    p1: Float[Tensor, "B L V"], x: Tokens, kappa: float, slope: float, eta: float = 0.0
) -> Law:
    """u(x -> y) at each position, (B, L, V + 1), MASK last: rates >= 0, and minus their sum at y = x.

    p1     p(x_1 at i = y | x)
    kappa  share of tokens that are there; slope is its derivative in time
    eta    how fast tokens become masks again
    """
    check_scalar("kappa", kappa)
    if not 0 <= kappa < 1:
        raise ValueError(f"kappa must lie in [0, 1), not {kappa}: at 1 no mask is left")
    # A rate below 0 is none: the share of tokens grows, and masks come back at eta >= 0.
    slope = check_number("slope", slope, least=0)
    eta = check_number("eta", eta, least=0)
    V = p1.shape[-1]
    # Tokens that become masks again have to be made up for, so the rate of unmasking is
    # larger by as much: the marginals stay.
    rate = (slope + eta * kappa) / (1 - kappa)
    from_mask = F.pad(rate * p1, (0, 1), value=-rate)
    stays = -eta * F.one_hot(x, V + 1)[..., :V].to(p1)
    from_token = F.pad(stays, (0, 1), value=eta)
    return torch.where((x == V)[..., None], from_mask, from_token)


class Euler(MaskedSampler):
    """x moves with the probabilities delta_x + h u, position by position; the step is halved into what has room.

    process  with absorbing noise; kappa = 1 - t, the linear path
    steps    of equal length h in kappa
    eta      how fast tokens become masks again; not in the last step
    """

    def __init__(self, process: TokenProcess, steps: int, eta: float = 0.0):
        super().__init__(process)
        check_count("steps", steps)
        check_scalar("eta", eta)
        if not eta >= 0:
            raise ValueError(f"eta must not be negative, not {eta}")
        self.kappas, self.eta = [k / steps for k in range(steps + 1)], eta

    def rounds(self) -> list[tuple[float, float]]:
        """kappa at the beginning and at the end of each step."""
        return list(pairwise(self.kappas))

    def step(self, model: Network, x: Tokens, now, draw: Draw) -> Tokens:
        """Each position on its own."""
        kappa, then = now
        # What is masked in the last step nobody would unmask.
        eta = self.eta if then < 1 else 0.0
        u = velocity(self.conditionals(model, x), x, kappa, 1.0, eta)
        stays = F.one_hot(x, self.V + 1).to(u)
        # Euler's chances may pass 1 where h times
        # the rate does; then what stays is cut to 0.
        p = (stays + (then - kappa) * u).clamp(min=0)
        return draw(p / p.sum(-1, keepdim=True))
