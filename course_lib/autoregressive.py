"""Autoregression as a process: one token after the other, the baseline of the sequence systems.

Time counts the tokens that are still missing: at t all but the last t stand, at T = length none. A step from t to s
writes t - s tokens. So `sample` and `train` serve it as they serve diffusion, and `clamp` is a prompt.

A network that declares `takes_cache = True` is called model(x, u, cache=cache): each position is then worked out once
in a run of `sample` (KV cache), and the samples are the same.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .finite import note
from .process import Process
from .sentences import PAD, Pairs, check_tokens, written
from .shapes import (
    Mask,
    Network,
    PerExample,
    State,
    Times,
    Tokens,
    check_answer,
    check_count,
    check_scalar,
    upcast,
    widest,
)
from .tokens import inside
from .transformer import KVCache

BLANK = PAD  # a place where nothing is written yet


class Autoregressive(Process):
    """log p(x) = sum_i log p(x_i | x_<i) of K tokens, in rows of `length`; model(tokens, u) gives logits (B, L, K).

    Data is tokens with PAD at the end, or Pairs, of which the target is counted given the source.
    temperature  of the draws: 1 is the model's law, 0 its likeliest token each time
    """

    def __init__(self, K: int, length: int, temperature: float = 1.0):
        super().__init__()
        check_count("K", K)
        check_count("length", length)
        check_scalar("temperature", temperature)
        if not temperature >= 0:
            raise ValueError(f"temperature must not be negative, not {temperature}")
        self.K, self.length, self.T, self.temperature = K, length, length, temperature
        self.past: Past | None = None  # of one run of `sample`
        # It has no tables: this says where it was moved to.
        self.register_buffer("place", torch.empty(0), persistent=False)

    def prior(self, n: int) -> Tokens:
        """Nothing written yet: n rows of BLANK."""
        check_count("n", n)
        return torch.full((n, self.length), BLANK, device=self.device)

    def corrupt(self, x0: Tokens, t: Times) -> Tokens:
        """x_0 with BLANK in its last t places."""
        x0 = self.check_rows("x0", x0)
        self.check_t("t", t, len(x0))
        return torch.where(self.missing(x0, t), BLANK, x0)

    def missing(self, x: Tokens, t: Times) -> Mask:
        """The last t places of the row."""
        return torch.arange(x.shape[1], device=x.device) >= self.length - t[:, None]

    # Scoring: nothing is drawn, so x_t plays no part

    def loss(self, model: Network, data: Tokens | Pairs, t: Times) -> PerExample:
        """Mean of -log p(x_i | x_<i) over the words counted, nats; the same at every t."""
        self.check_positive(t, len(self.counted(data)[0]))
        nll, counted = self.each(model, data)
        return nll.sum(1) / counted.sum(1)

    def loss_at(
        self, model: Network, x0: Tokens | Pairs, x_t: State, t: Times
    ) -> PerExample:
        """The loss."""
        return self.loss(model, x0, t)

    def bound(self, model: Network, data: Tokens | Pairs, t: Times) -> PerExample:
        """-log p(x) itself, or -log p(y | x) of pairs: nats per example, float64, the same at every t."""
        self.check_positive(t, len(self.counted(data)[0]))
        return widest(self.each(model, data)[0]).sum(1)

    def bound_at(
        self, model: Network, x0: Tokens | Pairs, x_t: State, t: Times
    ) -> PerExample:
        """The bound."""
        return self.bound(model, x0, t)

    def counted(self, data: Tokens | Pairs) -> tuple[Tokens, Mask]:
        """The tokens in int64, and which count: the target of pairs, else all. Raises for rows that are none."""
        if isinstance(data, Pairs):
            tokens, count = data.checked()
        else:
            tokens, count = data, written(data)
        return self.check_rows("data", tokens), count

    def each(self, model: Network, data: Tokens | Pairs) -> tuple[Tensor, Mask]:
        """-log p(x_i | x_<i) at each place, 0 where it does not count, and where it counts."""
        tokens, counted = self.counted(data)
        logits = self.ask(
            model,
            tokens,
            torch.zeros(len(tokens), dtype=torch.long, device=tokens.device),
        )
        # PAD is cross_entropy's ignore_index: one call for rows of all lengths.
        gold = tokens.masked_fill(~counted, PAD)
        return F.cross_entropy(
            logits.transpose(1, 2), gold, ignore_index=PAD, reduction="none"
        ), counted

    def ask(
        self, model: Network, x_t: Tokens, t: Times, cache: KVCache | None = None
    ) -> Float[Tensor, "B new K"]:
        """Logits of the token at each place from those before it, float32 or wider; checked as in TokenProcess.

        cache  what the model has read already: the logits are those of the places behind it
        """
        first, given = (0, {}) if cache is None else (cache.length, {"cache": cache})
        logits = model(x_t.clamp(min=0), self.u(t), **given)
        new = x_t[:, first:]
        check_answer(logits, (*new.shape, self.K), x_t)
        good = logits.detach().amax(-1).isfinite() | (new == PAD)
        note("the model's output", good.all(1), t)
        return upcast(logits)

    def check_rows(self, name: str, x: Tokens) -> Tokens:
        """x in int64, or an error unless it holds at most `length` of the K tokens a row, or PAD (BLANK)."""
        x = check_tokens(x, name)
        if x.shape[1] > self.length:
            raise ValueError(
                f"{name} must have at most {self.length} places, not {x.shape[1]}"
            )
        if x.device.type == "cpu" and x.max() >= self.K:
            raise ValueError(
                f"{name} must lie in 0..{self.K - 1}, or be PAD = {PAD}, but holds {x.max()}"
            )
        return x

    # Sampling

    def fresh(self) -> "Autoregressive":
        """A copy that remembers what the network has read, for one run of `sample`."""
        other = copy.copy(self)
        other.past = Past(self.length)
        return other

    def step(self, model: Network, x: Tokens, t: Times, s: Times) -> Tokens:
        """Write the t - s tokens from place length - t on, one at a time, where none stands yet.

        All examples must make the same step. A place where all have a token is not asked about.
        """
        x = self.check_rows("x", x)
        self.check_step(len(x), t, s)
        if x.shape[1] != self.length:
            raise ValueError(
                f"x must have shape (B, {self.length}), not {tuple(x.shape)}"
            )
        if (t != t[0]).any() or (s != s[0]).any():
            raise ValueError(
                "t and s must be one value each: all rows are written at the same place"
            )
        x, past = x.clone(), None
        if takes_cache(model):
            past = self.past or Past(self.length)
            past.check(x)
        for place in range(self.length - int(t[0]), self.length - int(s[0])):
            blank = x[:, place] == BLANK
            if not blank.any():  # a prompt: what comes after it reads it
                continue
            # The place itself must not be BLANK, or its logits would not be looked at.
            before = x[:, : place + 1].clamp(min=0)
            cache = past and past.cache
            word = self.choose(self.ask(model, before, t, cache)[:, -1])
            x[:, place] = torch.where(blank, word, x[:, place])
        if past:
            past.read = x.clone()  # who is given x may change it
        return x

    def choose(self, logits: Float[Tensor, "B K"]) -> Tensor:
        """A token from each row of logits."""
        if self.temperature == 0:
            return logits.argmax(-1)
        # float64 before the softmax: a small temperature makes large exponents.
        return torch.multinomial((widest(logits) / self.temperature).softmax(-1), 1)[
            :, 0
        ]

    def check_clamp(self, clamp: Callable[[State], State]) -> None:
        """Raise ValueError for known parts other than a beginning: what stands before has not read them."""
        known = getattr(clamp, "known", None)
        if known is not None and (known[:, 1:] <= known[:, :-1]).all():
            return
        super().check_clamp(clamp)


class Past:
    """What a network has read of the rows that are being written: its cache, and the tokens in it."""

    def __init__(self, length: int):
        self.cache = KVCache(length)
        self.read: Tokens | None = None

    def check(self, x: Tokens) -> None:
        """Forget what was read of tokens that are others now, as a clamp may make them."""
        if self.read is None:
            return
        same = (x == self.read).all(0)
        agree = int(same.cumprod(0).sum())
        # Position i has read the tokens before i.
        self.cache.crop(min(self.cache.length, agree + 1))


def takes_cache(model: Network) -> bool:
    """Whether the network declares that it can be given a KV cache."""
    return bool(getattr(inside(model), "takes_cache", False))
