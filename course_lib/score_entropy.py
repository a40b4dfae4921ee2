"""Score entropy: SEDD's loss at one position (Lou, Meng & Ermon 2024, arXiv:2310.16834, definition 3.1).

    sum_{y != x} R[y, x] (s_y - rho_y log s_y + K(rho_y)),   rho_y = q(y | x_0) / q(x | x_0),  x = x_t

K(rho) = rho (log rho - 1), the paper's K(a), makes each term >= 0, and 0 where s_y = rho_y. `score_entropy` is the
definition, for any noise. `score_entropy_stationary` is the same for noise that draws from a law pi, without a table
beside log s itself.

Both are exact in float32 at 65,536 tokens. Rates come as a column of R, since backwards one needs those *into* the
token at hand.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float

from .categorical import LogLaw, PerToken, Semigroup, kept_and_lost, pick
from .shapes import PerExample, Tokens, widest
from .stationary import Stationary


def score_entropy(
    noise: Semigroup, log_s: LogLaw, x0: Tokens, x_t: Tokens, log_alpha: PerExample
) -> PerToken:
    """The definition, with the weights of equation 10: nats per token, float64. s at x_t itself plays no part."""
    # q(. | x_0), one row of exp(sigma R).
    q = noise.after(widest(F.one_hot(x0, noise.K)), log_alpha)
    # The ratio that denoising score entropy (theorem 3.4) has in place of
    # p_t(y) / p_t(x): its mean given x_t is that.
    rho = (q / pick(q, x_t)[..., None])[..., : noise.V]
    # R[y, x], 0 at y = x: the sum over y != x of the definition. Times sigma'(t) it is
    # the paper's weight w_xy = Q_t(x, y).
    rates = noise.rates(x_t)[..., : noise.V]
    return (rates * bregman(widest(log_s), rho)).sum(-1)


def bregman(log_s: Float[torch.Tensor, "*shape"], rho: Float[torch.Tensor, "*shape"]):
    """s - rho log s + K(rho) >= 0: the generalised KL of rho and s. It is not symmetric in them."""
    return (
        # K(rho) = rho log rho - rho makes it >= 0; no network can change K, but the
        # bound needs it. 0 log s is 0, also for s = 0.
        log_s.exp() - torch.where(rho > 0, rho * log_s, 0) + torch.xlogy(rho, rho) - rho
    )


def score_entropy_stationary(
    noise: Stationary, log_s: LogLaw, x0: Tokens, x_t: Tokens, log_alpha: PerExample
) -> PerToken:
    """The same where R[y, x] = pi_x: rho_y = (1 - alpha) pi_y / q_x at all y but x_0, so two sums are enough.

    Nothing cancels, whatever K is: for uniform noise and x = x_0, rho = e1 / (e1 + K) with e1 = expm1(sigma).
    """
    alpha, lost = kept_and_lost(log_alpha, x0)
    pi = noise.pi.to(log_s.dtype)
    pi_x, moved = noise.pi[x_t], x_t != x0
    q_x = alpha * ~moved + lost * pi_x  # q(x_t | x_0)
    flow = pi_x * lost / q_x  # R[y, x] rho_y / pi_y at all y but x_0
    # sum_{y != x} R[y, x] s_y
    at_x = pick(log_s, x_t)
    # The entry at x is taken off rather than masked:
    # a mask would be one more table of B L K.
    positive = pi_x * widest(log_s.exp().sum(-1) - at_x.exp())
    # sum_{y != x} R[y, x] rho_y log s_y, of which x_0 has alpha / (1 - alpha) more
    negative = flow * widest(log_s @ pi - pi[x_t] * at_x)
    negative = negative + torch.where(moved, alpha / lost * widest(pick(log_s, x0)), 0)
    return positive - negative + constant(noise, x0, x_t, log_alpha)


def constant(
    noise: Stationary, x0: Tokens, x_t: Tokens, log_alpha: PerExample
) -> PerToken:
    """sum_{y != x} R[y, x] K(rho_y): what does not depend on the score."""
    alpha, lost = kept_and_lost(log_alpha, x0)
    pi_x, pi_0, moved = noise.pi[x_t], noise.pi[x0], x_t != x0
    q_x = alpha * ~moved + lost * pi_x
    p_log_p = lambda p: torch.xlogy(p, p)  # noqa: E731
    # All y but x and x_0: rho_y log rho_y - rho_y = rho_y (log pi_y + scale)
    scale = (lost / q_x).log() - 1
    mass = 1 - pi_x - pi_0 * moved
    rest = p_log_p(noise.pi).sum() - p_log_p(pi_x) - p_log_p(pi_0) * moved
    others = pi_x * lost / q_x * (rest + mass * scale)
    # x_0, where it is not x itself
    rho_0 = (alpha + lost * pi_0) / q_x
    return others + torch.where(moved, pi_x * rho_0 * (rho_0.log() - 1), 0)
