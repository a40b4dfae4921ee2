"""Kneser-Ney models of text, which judge what a diffusion model wrote: of rows of tokens, and of whole sentences."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from .shapes import check_count, describe


class Level(NamedTuple):
    """What an NGram remembers of one order k. Pieces of tokens are numbers in base K, in rising order."""

    grams: Int[Tensor, " n"]  # the k-grams seen
    count: Int[Tensor, " n"]  # c(h w) of each
    histories: Int[Tensor, " m"]  # their first k - 1 tokens
    total: Int[Tensor, " m"]  # c(h) of each
    followers: Int[Tensor, " m"]  # N(h .) of each
    discount: float  # D


class NGram:
    """Interpolated Kneser-Ney model of a row of tokens: what the last order - 1 tokens say about the next.

    p_k(w | h) = max(c(h w) - D, 0) / c(h) + D N(h .) / c(h) p_{k-1}(w | h without its first token), and p_0 = 1 / K.
    c is the number of occurrences at the top order and of left neighbours below it, N(h .) that of followers, and
    D = n_1 / (n_1 + 2 n_2) from the numbers of k-grams seen once and twice.  Kneser & Ney 1995; Chen & Goodman 1999.
    A token that is none of the K, such as a MASK that is left in a text, is a ValueError.
    """

    def __init__(self, row: Int[Tensor, " N"], K: int, order: int = 5):
        check_count("K", K, least=2)
        check_count("order", order)
        if K**order >= 2**62:
            raise ValueError(
                f"order must be such that K^order fits in 62 bits, not {order} with K = {K}"
            )
        row = known(row, K, "row", axes=1)
        if len(row) < order:
            raise ValueError(
                f"row must hold at least {order} tokens in 0..{K - 1}, not {len(row)}"
            )
        self.K, self.order = K, order
        self.levels: dict[int, Level] = {}
        grams, count = self.codes(row, order).unique(return_counts=True)
        for k in range(order, 0, -1):
            self.levels[k] = self.level(grams, count)
            if (
                k > 1
            ):  # below the top a piece counts once for each token that stood before it
                grams, count = (grams % K ** (k - 1)).unique(return_counts=True)

    def level(self, grams: Int[Tensor, " n"], count: Int[Tensor, " n"]) -> Level:
        """What is known of one order, from its pieces and their counts."""
        histories, place, followers = (grams // self.K).unique(
            return_inverse=True, return_counts=True
        )
        total = torch.zeros(len(histories), dtype=torch.long).index_add_(
            0, place, count
        )
        n_1 = (count == 1).sum().item()
        n_2 = (count == 2).sum().item()
        # Ney's estimate: where nothing was seen once, nothing new is to be expected.
        discount = n_1 / (n_1 + 2 * n_2) if n_1 else 0.0
        return Level(grams, count, histories, total, followers, discount)

    def codes(self, x: Int[Tensor, "*B L"], k: int) -> Int[Tensor, "*B M"]:
        """Each piece of k tokens as one number in base K."""
        pieces = x.shape[-1] - k + 1
        codes = x[..., :pieces]
        for i in range(1, k):
            codes = codes * self.K + x[..., i : i + pieces]
        return codes

    def log_prob(self, x: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """log p of each token given those before it in its row, nats, float64."""
        x = known(x, self.K, "x")
        p = torch.full(x.shape, 1 / self.K, dtype=torch.float64)
        for k in range(1, min(self.order, x.shape[1]) + 1):
            level, D = self.levels[k], self.levels[k].discount
            gram = self.codes(x, k)
            history = gram // self.K
            count = looked_up(gram, level.grams, level.count)
            total = looked_up(history, level.histories, level.total)
            followers = looked_up(history, level.histories, level.followers)
            shorter = p[:, k - 1 :]  # p_{k-1}
            # What the discount takes off, D for each follower, goes to the shorter
            # history: the sum stays 1.
            longer = ((count - D).clamp(min=0) + D * followers * shorter) / total.clamp(
                min=1
            )
            p[:, k - 1 :] = torch.where(total > 0, longer, shorter)
        return p.log()

    def bits(self, x: Int[Tensor, "B L"], skip: int = 0) -> float:
        """Mean bits per token, without the first `skip` of each row."""
        x = known(x, self.K, "x")
        check_count("skip", skip, least=0)
        if not x.numel() or not 0 <= skip < x.shape[-1]:
            raise ValueError(
                f"x must hold tokens after the first skip = {skip} of a row, not {describe(x)}"
            )
        nats = -self.log_prob(x)[:, skip:].mean().item()
        return nats / math.log(2)


def looked_up(
    codes: Int[Tensor, "*shape"], keys: Int[Tensor, " n"], values: Shaped[Tensor, " n"]
) -> Float[Tensor, "*shape"]:
    """values at the keys, which must rise; 0 for a code that is no key. float64."""
    place = torch.searchsorted(keys, codes).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == codes, values[place], 0).double()


def known(
    x: Int[Tensor, "*shape"], K: int, name: str, least: int = 0, axes: int = 2
) -> Int[Tensor, "*shape"]:
    """The tokens as int64 on the CPU. ValueError for one outside of least..K - 1: its code would be another's."""
    if (
        not isinstance(x, Tensor)
        or x.is_floating_point()
        or x.is_complex()
        or x.dtype == torch.bool
    ):
        raise TypeError(f"{name} must hold integer tokens, not {describe(x)}")
    if x.ndim != axes:
        want = "(N,)" if axes == 1 else "(B, L)"
        raise ValueError(f"{name} must have shape {want}, not {tuple(x.shape)}")
    x = x.cpu().long()
    strange = x[(x < least) | (x >= K)]
    if len(strange):
        raise ValueError(
            f"{name} must hold tokens in 0..{K - 1}, but has {strange[0].item()}"
        )
    return x


# Sentences


class SentenceJudge:
    """A Kneser-Ney model of whole sentences: (B, L) tokens in 0..K-1, filled up at the end with PAD = -1."""

    def __init__(self, sentences: Int[Tensor, "N L"], K: int, order: int = 4):
        check_count("K", K)
        check_count("order", order)
        self.end, self.order = K, order
        sentences = self.checked(sentences)
        rows = self.framed(sentences)
        self.model = NGram(rows[self.judged(sentences, order)], K + 1, order)

    def checked(self, x: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
        """The sentences, or ValueError for one with an unknown word or with PAD before a word."""
        x = known(x, self.end, "sentences", least=-1)
        padding = x < 0
        if (padding[:, :-1] & ~padding[:, 1:]).any():
            raise ValueError(
                "sentences must be filled up at the end, but there is PAD before a word"
            )
        return x

    def framed(self, x: Int[Tensor, "B L"]) -> Int[Tensor, "B M"]:
        """Each sentence between ends."""
        # order - 1 ends before the first word: it has a whole history, and what begins
        # a sentence is learned, too.
        ends = torch.full((len(x), self.order), self.end)
        words = torch.where(x >= 0, x, self.end)
        return torch.cat([ends[:, 1:], words, ends[:, :1]], 1)

    def judged(self, x: Int[Tensor, "B L"], before: int) -> Tensor:
        """True at the words and the end after each sentence, and at the `before - 1` ends before it."""
        length = (x >= 0).sum(1, keepdim=True)
        place = torch.arange(x.shape[1] + self.order)
        first, last = self.order - before, self.order - 1 + length
        return (place >= first) & (place <= last)

    def nats(self, x: Int[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """-log p(sentence), its end included."""
        x = self.checked(x)
        each = -self.model.log_prob(self.framed(x))
        return torch.where(self.judged(x, 1), each, 0).sum(1)

    def perplexity(self, x: Int[Tensor, "B L"]) -> float:
        """exp of the nats per word, each end counted as a word."""
        x = self.checked(x)
        if not len(x):
            raise ValueError("sentences must be at least 1, not 0")
        words_and_ends = (x >= 0).sum() + len(x)
        return math.exp(self.nats(x).sum() / words_and_ends)
