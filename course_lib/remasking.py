"""ReMDM: tokens that are there may become masks again (Wang et al. 2025, arXiv:2503.00307).

On the way from t to s a token is masked with probability sigma; a mask is unmasked with the probability that keeps
q(x_s | x_0) as it was. That there is one asks for sigma <= min(1, (1 - alpha_s) / alpha_t).  (eqs. 5 and 6)
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .categorical import Law
from .samplers import Draw, MaskedSampler
from .schedules import check_number
from .shapes import Network, Tokens, check_count, check_scalar, describe
from .tokens import TokenProcess

Rule = Callable[[float, float], float]  # (alpha_t, alpha_s) -> sigma


class ReMDM(MaskedSampler):
    """The reverse chain of a masked model with remasking.

    process  with absorbing noise
    times    falling times from T to 0, or a number of steps of equal length
    sigma    how often a token is masked again: `share(eta)`, `at_most(cap)`, or (alpha_t, alpha_s) -> sigma.
             share(0) is the reverse chain of MDLM
    """

    def __init__(self, process: TokenProcess, times: int | Tensor, sigma: Rule):
        super().__init__(process)
        if not callable(sigma):
            raise TypeError(
                f"sigma must be a rule, such as share(0.2), not {describe(sigma)}"
            )
        if isinstance(times, Tensor):
            times = process.check_times(times)
        else:
            check_count("times", times)
            times = process.times(int(times))
        alpha = process.noise.log_alpha(times).exp()
        self.alpha, self.sigma = alpha.tolist(), sigma

    def rounds(self) -> list[tuple[float, float]]:
        """alpha at the beginning and at the end of each step."""
        return list(pairwise(self.alpha))

    def step(self, model: Network, x: Tokens, now, draw: Draw) -> Tokens:
        """Masks are unmasked, tokens are masked again; each position on its own."""
        alpha_t, alpha_s = now
        sigma = self.sigma(alpha_t, alpha_s)
        most = largest_sigma(alpha_t, alpha_s)
        check_scalar("what sigma returns", sigma)
        if not 0 <= sigma <= most + 1e-12:
            raise ValueError(
                f"sigma must return a number in 0..{most:g} at alpha_t = {alpha_t:g} and "
                f"alpha_s = {alpha_s:g}, not {sigma:g}"
            )
        p = self.conditionals(model, x)
        law = remasked(p, x, alpha_t, alpha_s, sigma)
        return draw(law.clamp(min=0))  # where rounding went below


def remasked(
    p: Float[Tensor, "B L V"], x: Tokens, alpha_t: float, alpha_s: float, sigma: float
) -> Law:
    """The distribution of x_s at each position, (B, L, V + 1), MASK last.  (arXiv:2503.00307, eq. 5)

    A token: MASK with probability sigma. A mask: a token of p with probability
    (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t).
    Raises ValueError for shares that are none, and for a sigma above `largest_sigma`.
    """
    most = largest_sigma(alpha_t, alpha_s)
    check_number("alpha_t", alpha_t, below=1)
    sigma = check_number("sigma", sigma, least=0)
    if sigma > most + 1e-12:
        raise ValueError(f"sigma must be at most {most:g} here, not {sigma:g}")
    V = p.shape[-1]
    # So that q(x_s | x_0) stays what it was: what sigma masks again has to be made up for.
    p_unmask = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
    from_mask = F.pad(p_unmask * p, (0, 1), value=1 - p_unmask)
    from_token = F.pad(
        (1 - sigma) * F.one_hot(x, V + 1)[..., :V].to(p), (0, 1), value=sigma
    )
    return torch.where((x == V)[..., None], from_mask, from_token)


def largest_sigma(alpha_t: float, alpha_s: float) -> float:
    """min(1, (1 - alpha_s) / alpha_t): above it no probability of unmasking keeps q(x_s | x_0).  (eq. 6)

    Raises ValueError unless 0 <= alpha_t <= alpha_s <= 1, the shares that are no masks at t and at s < t.
    """
    alpha_t = check_number("alpha_t", alpha_t, least=0)
    alpha_s = check_number("alpha_s", alpha_s, least=alpha_t)
    if alpha_s > 1:
        raise ValueError(f"alpha_s must be at most 1, not {alpha_s:g}")
    return min(1.0, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1.0


def share(eta: float) -> Rule:
    """eta times the largest sigma: "rescale".  (section 4.1)"""
    check_scalar("eta", eta)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in 0..1, not {eta}")
    return lambda alpha_t, alpha_s: eta * largest_sigma(alpha_t, alpha_s)


def at_most(cap: float) -> Rule:
    """The largest sigma, but no more than this: "cap".  (section 4.1)"""
    check_scalar("cap", cap)
    if not 0 <= cap <= 1:
        raise ValueError(f"cap must lie in 0..1, not {cap}")
    return lambda alpha_t, alpha_s: min(cap, largest_sigma(alpha_t, alpha_s))
