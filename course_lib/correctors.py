"""Correctors: one token is drawn again from its distribution given the others, at the same noise level.

The noisy data p_t stay as they are if the position is chosen at random. If it is chosen by looking at the state, they
do not, unless the new token is accepted with probability min(1, w_i(y) / w_i(x)), w_i the probability of choosing i
(Metropolis & Hastings). Correctors for uniform noise: arXiv:2605.22765, and Psi-samplers, arXiv:2602.21185.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .categorical import Law, PerToken, pick
from .samplers import Draw, Sampler, happens, position
from .shapes import Network, Tokens, check_count, check_scalar, describe
from .tokens import TokenProcess

Choice = Callable[[Tensor, Tensor], Tensor]  # (c (B, L, K), x) -> probabilities (B, L)
Measure = Callable[[Tensor, Tensor], Tensor]  # (c (B, L, K), x) -> numbers (B, L)


class Corrector(Sampler):
    """`steps` times: choose a position, draw its token from p(x_i | the other tokens) at time t.

    process  D3PM or SEDD
    t        the noise level, a time of the process in (0, T]
    choice   (c, x) -> the probability of choosing each position: `anywhere`, `lowest(margin)`, `softly(margin)`
    repair   accept with min(1, w_i(y) / w_i(x)), which keeps p_t for every choice
    """

    def __init__(
        self,
        process: TokenProcess,
        t: int | float,
        choice: Choice | None = None,
        repair: bool = False,
        steps: int = 1,
    ):
        if not isinstance(process, TokenProcess):
            raise TypeError(f"process must be one of tokens, not {describe(process)}")
        check_count("steps", steps)
        check_scalar("t", t)
        process.check_positive(torch.tensor([t]), 1)
        self.process, self.t, self.steps = process, t, steps
        self.choice, self.repair = choice or anywhere, repair

    def start(self, n: int) -> Tokens:
        """From the prior."""
        return self.process.prior(n)

    def rounds(self) -> range:
        """The numbers of the steps."""
        return range(self.steps)

    def step(self, model: Network, x: Tokens, now: int, draw: Draw) -> Tokens:
        """One position of each row drawn again."""
        c = token_given_others(self.process, model, x, self.t)
        weights = self.choice(c, x)
        i = position(weights, draw)[:, None]
        rows = torch.arange(len(x), device=x.device)
        # Gibbs: p_t stays whatever position is
        # redrawn, if the choice does not depend on x.
        y = x.scatter(1, i, draw(c[rows, i[:, 0]])[:, None])
        if not self.repair:
            return y
        back = self.choice(token_given_others(self.process, model, y, self.t), y)
        # Metropolis-Hastings: c cancels against p_t,
        # and only the chance of choosing i is left.
        ratio = (back.gather(1, i) / weights.gather(1, i)).clamp(max=1)
        return torch.where(happens(ratio, draw), y, x)


def token_given_others(
    process: TokenProcess, model: Network, x: Tokens, t: int | float
) -> Law:
    """c = p_t(x_i = y | the other tokens), (B, L, K): scores normalised, or the leave-one-out noised to t."""
    times = torch.full((len(x),), t, device=x.device)
    if hasattr(process, "log_score"):
        return process.log_score(model, x, times).double().softmax(-1)
    loo = process.predict_x0(model, x, times).exp()
    return process.noise.mix(loo, torch.zeros_like(times), times)


# How the position is chosen


def anywhere(c: Law, x: Tokens) -> PerToken:
    """Every position with the same probability."""
    return torch.full(x.shape, 1 / x.shape[1], dtype=c.dtype, device=c.device)


def lowest(measure: Measure) -> Choice:
    """The position of the lowest measure; equal ones with the same probability."""

    def choice(c: Law, x: Tokens) -> PerToken:
        m = measure(c, x)
        # Ties within rounding: else the last digits of a network would decide.
        least = m <= m.amin(1, keepdim=True) + 1e-9
        return least.to(c) / least.sum(1, keepdim=True)

    return choice


def softly(measure: Measure, temperature: float = 1.0) -> Choice:
    """In proportion to exp(-measure / temperature): Gumbel noise added to a confidence, then the lowest."""
    check_scalar("temperature", temperature)
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    return lambda c, x: (-measure(c, x) / temperature).softmax(-1)


def margin(c: Law, x: Tokens) -> PerToken:
    """log c of the token that is there, minus the highest log c of another one: negative where another is likelier."""
    here = torch.nn.functional.one_hot(x, c.shape[-1]).bool()
    return pick(c, x).log() - c.masked_fill(here, 0).amax(-1).log()


def current(c: Law, x: Tokens) -> PerToken:
    """log c of the token that is there."""
    return pick(c, x).log()


def likeliest(c: Law, x: Tokens) -> PerToken:
    """log c of the likeliest token, whatever is there."""
    return c.amax(-1).log()
