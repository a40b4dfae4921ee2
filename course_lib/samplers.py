"""Samplers: objects beside systems, each a way to draw sequences from a network that was trained by any of them.

A sampler says what it starts with, how many steps it takes and what a step does. All that is random goes through the
function `draw` that the step is given: `draw(p)` returns one outcome from each distribution p (*shape, K). Given
`categorical.draw`, a sampler draws; given another function, `evaluate.exact_law` follows every outcome instead and
adds up the exact distribution of what the sampler writes. A sampler of your own is a few lines:

    class LeftToRight(MaskedSampler):
        def rounds(self):
            return range(self.length)

        def step(self, model, x, i, draw):
            p = self.conditionals(model, x)            # (B, L, V): a distribution at each position
            x = x.clone()
            x[:, i] = draw(p[:, i])
            return x
"""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .absorbing import Absorbing
from .categorical import Law, draw
from .finite import Watch
from .mask_count import moment
from .process import evaluating
from .shapes import Mask, Network, Times, Tokens, check_count, describe, widest
from .tokens import TokenProcess

Draw = Callable[[Tensor], Tensor]  # p (*shape, K) -> (*shape), one outcome of each


class Sampler:
    """A way to draw sequences from a network. A new one fills in start, rounds and step."""

    def start(self, n: int) -> Tokens:
        """What n sequences begin as, (n, L)."""
        raise NotImplementedError(f"{type(self).__name__} has no start")

    def rounds(self) -> Iterable:
        """What each step is given: a count, a pair of times, a position."""
        raise NotImplementedError(f"{type(self).__name__} has no rounds")

    def step(self, model: Network, x: Tokens, now, draw: Draw) -> Tokens:
        """The next state of each row of x; all that is random goes through draw."""
        raise NotImplementedError(f"{type(self).__name__} has no step")

    def sample(self, model: Network, start: int | Tokens) -> Tokens:
        """Sequences (n, L): n of them from scratch, or from given states, as prompts (with MASK where to write)."""
        *_, x = self.states(model, start)
        return x

    def states(self, model: Network, start: int | Tokens) -> Iterator[Tokens]:
        """The same, with every state on the way, the first one included. The model works in eval mode."""
        x = start if isinstance(start, Tensor) else self.begin(start)
        return self.follow(model, x)

    def begin(self, n: int) -> Tokens:
        """`start`, after a look at n."""
        check_count("start", n)
        return self.start(n)

    def follow(self, model: Network, x: Tokens) -> Iterator[Tokens]:
        """The states from x on; the last is checked for what went wrong on a GPU."""
        watch = Watch()
        yield x
        for number, now in enumerate(self.rounds(), 1):
            watch.step = number
            with torch.no_grad(), evaluating(model), watch:
                x = self.step(model, x, now, draw)
            yield x
        watch.read()


class MaskedSampler(Sampler):
    """A sampler that starts from masks.

    process  MDLM, D3PM or SEDD with absorbing noise: it knows MASK, and how its network is asked
    """

    def __init__(self, process: TokenProcess):
        noise = getattr(process, "noise", None)
        if not isinstance(noise, Absorbing):
            raise ValueError(
                "process must have absorbing noise, not "
                f"{describe(process if noise is None else noise)}"
            )
        self.process, self.length = process, process.length
        self.V, self.mask = noise.V, noise.mask

    def start(self, n: int) -> Tokens:
        """All MASK."""
        shape = (n, self.length)
        return torch.full(shape, self.mask, device=self.process.device)

    def conditionals(self, model: Network, x: Tokens) -> Law:
        """p(x_0 at i | the visible tokens), (B, L, V), float64: what the network says at each position."""
        return conditionals(self.process, model, x)

    def unmask(self, x: Tokens, p: Law, where: Mask, draw: Draw) -> Tokens:
        """x with a token drawn from p at each position `where`."""
        return torch.where(where, draw(only_at(where, p)), x)

    def fill(self, x: Tokens, p: Law, opens: Mask, draw: Draw) -> Tokens:
        """Old name of `unmask`."""
        return self.unmask(x, p, opens, draw)


def conditionals(
    process: TokenProcess, model: Network, x: Tokens, where: Mask | None = None
) -> Float[Tensor, "*n V"]:
    """p(x_0 at i | the visible tokens of x), float64: softmax at masks, 1 on the token that is visible.

    (B, L, V); or (n, V) at the positions `where` (B, L), which spares the network the others if it can.
    The network is told the time at which one expects as many masks as x has.
    """
    x = process.check_state("x", x, process.noise.K)
    V, mask = process.noise.V, process.noise.mask
    said = process.ask(model, x, time_of(process, x), where)
    p = widest(said).softmax(-1)
    there = x if where is None else x[where]
    # MASK is V, which one_hot has no place for; those rows are replaced below.
    known = F.one_hot(there.clamp(max=V - 1), V).to(p)
    return torch.where((there == mask)[..., None], p, known)


def time_of(process: TokenProcess, x: Tokens) -> Times:
    """The time at which a token is MASK with the probability that is the share of masks in x, one per example."""
    noise = process.noise
    share = widest((x == noise.mask).sum(1)) / x.shape[1]
    if noise.schedule is None:
        level = -torch.expm1(noise.log_alpha_bar)
        # A step less than equal counts as equal, lest rounding ask for the step after.
        return torch.searchsorted(level, share - 1e-9).clamp(1, noise.T)
    most = noise.schedule.noise(widest(torch.ones_like(share)))
    return moment(noise.schedule, torch.minimum(share, most))


def only_at(positions: Mask, p: Law) -> Law:
    """p at these positions and certainty elsewhere, where what is drawn is not used."""
    certain = torch.zeros_like(p)
    # Any certain outcome will do: it has one branch when every outcome is followed.
    certain[..., 0] = 1
    return torch.where(positions[..., None], p, certain)


def happens(p: Float[Tensor, "*shape"], draw: Draw) -> Bool[Tensor, "*shape"]:
    """True with probability p."""
    return draw(torch.stack([1 - p, p], -1)).bool()


def position(weights: Float[Tensor, "B L"], draw: Draw) -> Int[Tensor, " B"]:
    """One position of each row, in proportion to the weights."""
    return draw(weights)
