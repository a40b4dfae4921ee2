"""What the recipes of words train on and are measured by: rows of verses, whose lengths are part of the bound."""

import copy
from functools import cache

import torch
from jaxtyping import Int
from torch import Tensor

from ..diffusion_lm import log_law
from ..mdlm import MDLM
from ..process import Process
from ..sentences import PAD, written
from ..shapes import Network, PerExample, Times, Tokens
from ..wrapper import Wrapper
from .verse_sets import LENGTH, sentences, vocabulary


def size() -> int:
    """How many words there are, UNK among them; END, which only autoregression writes, has this number."""
    return len(vocabulary())


@cache
def rows(split: str = "train") -> Tokens:
    """The verses of at most LENGTH words, PAD after each end."""
    return sentences(split)[0].tokens


@cache
def ended(split: str = "train") -> Tokens:
    """The same with END after the last word: (N, LENGTH + 1)."""
    x = rows(split)
    x = torch.cat([x, torch.full((len(x), 1), PAD)], 1)
    # At the place after the last word, where PAD stood.
    return x.scatter(1, written(x).sum(1, keepdim=True), size())


def unended(x: Tokens) -> Tokens:
    """Rows of words up to the first END, PAD from there on; a row that begins with END has one UNK."""
    over = (x == size()).cumsum(1) > 0
    x = x.masked_fill(over, PAD)
    x[:, 0] = x[:, 0].clamp(min=0)
    return x


def words_and_ends(x: Tokens) -> PerExample:
    """How many words each row has, its end counted as a word as in Diffusion-LM's results."""
    return ((x != PAD) & (x != size())).sum(1).double() + 1


@cache
def lengths() -> Int[Tensor, " length_plus_1"]:
    """How often each length 0..LENGTH occurs among the training verses."""
    return written(rows()).sum(1).bincount(minlength=LENGTH + 1)


class Verses(Wrapper):
    """A process of tokens for rows of several lengths: -log p(x) <= -log p(length) + its bound given the length.

    Batches are cut to their longest row, and the process of that length is asked. Lengths have the law of the
    training verses, each counted once more than it was seen, as in Diffusion-LM's recipe.
    """

    def __init__(self, process: Process):
        super().__init__(process)
        self.register_buffer("log_length", log_law(lengths(), LENGTH))

    def cut(self, data: Tokens) -> tuple[Process, Int[Tensor, "B longest"]]:
        """The process of the longest row's length, and the rows so long."""
        longest = int((data != PAD).sum(1).max())
        # Shallow: it shares the tables, and only its length is another.
        process = copy.copy(self.process)
        process.length = longest
        return process, data[:, :longest]

    def loss(self, model: Network, data: Tokens, t: Times) -> PerExample:
        """That of the process inside: nats per word."""
        process, x = self.cut(data)
        return process.loss(model, x, t)

    def bound(self, model: Network, data: Tokens, t: Times) -> PerExample:
        """Nats per verse, its length included."""
        process, x = self.cut(data)
        return process.bound(model, x, t) - self.log_length[(data != PAD).sum(1)]


class AnyOrder(Verses):
    """The bound of any-order autoregression by a network of masks: n of l words are masked, n uniform on 1..l.

    -log p(x) <= -log p(l) + sum over n of 1/n E[cost of n masks], each set of n equally likely: chapter 6's sum over
    the number of masks, for rows of several lengths. The network is told that u = n / l. Far less variance than by
    time, and no prior term.
    """

    def __init__(self, process: MDLM):
        super().__init__(process)

    def bound(self, model: Network, data: Tokens, t: Times) -> PerExample:
        """At n = the least number >= t l, for t uniform on (0, 1]: its mean is the bound, nats per verse."""
        process, x = self.cut(data)
        there = x != PAD
        length = there.sum(1)
        # t is uniform, so n is uniform on 1..l; rounding must not make it 0.
        n = (t.double() * length).ceil().long().clamp(min=1)
        x_t = self.masked(x, n)
        told = (n / length).float()
        cost = process.mask_cost(model, x, x_t, told).sum(1)
        # l times the mean over n of cost / n is the sum over n.
        return length / n * cost - self.log_length[length]

    def masked(self, x: Tokens, n: Times) -> Tokens:
        """n words of each row masked, all choices equally likely."""
        # 2 is beyond all keys of words: PAD is never among the first n <= l.
        keys = torch.rand(x.shape, device=x.device).masked_fill(x == PAD, 2.0)
        turn = keys.argsort(1).argsort(1)
        return torch.where(turn < n[:, None], self.process.noise.mask, x)
