"""Networks of words: vectors in, vectors out, with the embedding and the rounding that share their weights.

`EmbeddingNet` is Diffusion-LM's. `MixingNet` knows the noise too, and answers with a mean over words.

To a `MixingNet`'s law of words the density of x_t itself is added. It must start from something: from random
embeddings it learned no context in 6,000 steps, from vectors of the words' company it does at once. Its trunk reads
each place's guess without context (`guess`): on top of 27,500 steps, 800 more took the cross-entropy, mean over ten
levels of noise, from 1.810 to 1.790 with the guess and to 1.808 without; in a network of one minute it changes
nothing.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .embeddings import LogLaw, Vectors, at_least_single, full_precision, nearness
from .layers import (
    around,
    check_mask,
    check_numbers,
    check_time,
    convolution,
    zero,
)
from .shapes import Mask, PerExample, Tokens, check_count, describe, widest
from .transformer import Transformer

Features = Float[Tensor, "B L width"]


class EmbeddingNet(nn.Module):
    """Vectors in, vectors out, with the embedding of tokens and the rounding that share its weights.

    normalised  embeddings have length sqrt(D), so that no loss can shrink or grow them; False is Diffusion-LM's way
    recall      the network is also given its earlier estimate of x_0 (zeros if there is none): self-conditioning
    classes     number of labels; label `classes` says "any", as a missing one does
    radius      > 0 adds a depthwise convolution over that many words to either side, as in TokenNet
    K_out       only the first so many tokens can be its answer; by default all K
    """

    takes_at = True

    def __init__(
        self,
        K: int,
        D: int,
        width: int = 128,
        heads: int = 4,
        depth: int = 4,
        normalised: bool = True,
        recall: bool = False,
        classes: int = 0,
        radius: int = 0,
        K_out: int | None = None,
    ):
        super().__init__()
        check_count("K", K)
        check_count("D", D)
        check_count("width", width)
        check_count("classes", classes, least=0)
        K_out = K if K_out is None else K_out
        check_count("K_out", K_out)
        if K_out > K:
            raise ValueError(f"K_out must be at most K = {K}, not {K_out}")
        self.normalised, self.recall = normalised, recall
        self.classes, self.K_out = classes, K_out
        self.embedding = nn.Embedding(K, D)
        self.enter, self.leave = nn.Linear(D, width), zero(nn.Linear(width, D))
        self.remember = zero(nn.Linear(D, width, bias=False)) if recall else None
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.spread = convolution(width, radius)  # the name that shipped weights have
        self.trunk = Transformer(width, heads, depth)

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights, in which the network runs."""
        return self.enter.weight.dtype

    # From words to vectors and back

    @property
    def table(self) -> Float[Tensor, "K_out D"]:
        """The embeddings of the tokens that can be its answer, at least float32."""
        return self.scaled(self.embedding.weight[: self.K_out])

    def scaled(self, e: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape D"]:
        """Embeddings from their weights, at least float32."""
        e = at_least_single(e)
        return F.normalize(e, dim=-1) * math.sqrt(e.shape[-1]) if self.normalised else e

    def embed(self, tokens: Tokens) -> Vectors:
        """Emb(w), position by position. On a CPU ValueError for a token out of the vocabulary; a GPU would wait."""
        K = len(self.embedding.weight)
        if tokens.device.type == "cpu" and not 0 <= tokens.min() <= tokens.max() < K:
            raise ValueError(
                f"tokens must lie in 0..{K - 1}, not {tokens.min()}..{tokens.max()}"
            )
        return self.scaled(self.embedding(tokens))

    def logits(self, x: Float[Tensor, "*places D"]) -> LogLaw:
        """x . e_w - |e_w|^2 / 2: highest for the word whose embedding is nearest to x. At least float32."""
        return nearness(x, self.table)

    # The estimate of x_0

    def forward(
        self,
        x: Vectors,
        u: PerExample,
        mask: Mask | None = None,
        before: Vectors | None = None,
        label: Int[Tensor, " B"] | None = None,
        at: Mask | None = None,
    ) -> Vectors:
        """The estimate of x_0, everywhere; the arguments are those of `features`, and `at`."""
        return self.estimate(self.features(x, u, mask, before, label), x, u, at)

    def explain(
        self,
        x: Vectors,
        u: PerExample,
        mask: Mask | None = None,
        before: Vectors | None = None,
        label: Int[Tensor, " B"] | None = None,
        at: Mask | None = None,
    ) -> tuple[Vectors, LogLaw]:
        """The estimate of x_0, and the log law of words behind it, at all places or at those of `at`."""
        return self.estimate_and_law(self.features(x, u, mask, before, label), x, u, at)

    # From the features to the estimate: what a network of another kind changes

    def estimate(
        self, h: Features, x: Vectors, u: PerExample, at: Mask | None
    ) -> Vectors:
        """The estimate of x_0 alone; to be asked at some places only saves nothing here."""
        return self.leave(h)

    def estimate_and_law(
        self, h: Features, x: Vectors, u: PerExample, at: Mask | None
    ) -> tuple[Vectors, LogLaw]:
        """The estimate, and the law of the words near it."""
        x0 = self.leave(h)
        return x0, self.logits(x0 if at is None else x0[at]).log_softmax(-1)

    def features(
        self,
        x: Vectors,
        u: PerExample,
        mask: Mask | None = None,
        before: Vectors | None = None,
        label: Int[Tensor, " B"] | None = None,
    ) -> Features:
        """What the last layer reads.

        mask    False where there is padding: what stands there changes nothing elsewhere
        before  the network's earlier estimate of x_0
        label   one class per example

        ValueError for `before` or `label` where the network was not built for it, a label that is none of the
        classes, and a mask of another shape than the places of x.
        """
        if (before is not None and not self.recall) or (
            label is not None and not self.classes
        ):
            raise ValueError(
                "before needs a network with recall=True, and label one with classes"
            )
        check_numbers(x, None, self.enter.in_features)
        check_time(u, len(x))
        check_mask(mask, x.shape[:2])
        h = self.take_in(x.to(self.dtype), u, mask)
        if before is not None:
            # remember starts at 0: an untrained network is the same with and without an
            # earlier estimate.
            h = h + self.remember(before.to(self.dtype))
        h = around(self.spread, h, mask)
        if self.classes:
            h = h + self.label(self.named(label, u))[:, None]
        return self.trunk(h, u, mask)

    def named(
        self, label: Int[Tensor, " B"] | None, u: PerExample
    ) -> Int[Tensor, " B"]:
        """The labels, or "any" for each. Raises unless there is one for each example, of the classes."""
        if label is None:
            return torch.full_like(u, self.classes, dtype=torch.long)
        if (
            not isinstance(label, Tensor)
            or label.is_floating_point()
            or label.dtype == torch.bool
            or label.shape != u.shape
        ):
            raise ValueError(
                f"label must hold {len(u)} integers, one per example, not {describe(label)}"
            )
        readable = label.device.type == "cpu"
        if readable and not 0 <= label.min() <= label.max() <= self.classes:
            raise ValueError(
                f"label must lie in 0..{self.classes}, not {label.min()}..{label.max()}"
            )
        return label.long()

    def take_in(self, x: Vectors, u: PerExample, mask: Mask | None) -> Features:
        """x_t in the width of the trunk, place by place."""
        return self.enter(x)


class MixingNet(EmbeddingNet):
    """An EmbeddingNet whose estimate is a mean over words, as E[x_0 | x_t] is: sum_w p(w) E[x_0 | x_t, w].

    Its last layer says which words the others leave likely, the process adds what x_t itself says of them:
    log p(w) = f . e_w + b_w + log N(x_t; r e_w, sigma^2 + r^2 sigma_0^2) + const, r^2 = alpha_bar, sigma^2 = 1 - r^2,
    sigma_0^2 = 1 - alpha_bar_1. So an untrained network is Bayes without context, and nothing is asked of it at low
    noise.  E[x_0 | x_t, w] = e_w + gain (x_t - r e_w), and e_w at t = 1, whose target is Emb(w).
    (as in PLAID, arXiv:2305.18619)

    alpha_bar   the table of its process, with T + 1 entries
    tied        False: in place of f . e_w, the last layer has `width` weights for each word
    guess       the trunk is also given each place's guess without context: the mean of the last layer's weights under
                p(w | x_t^i), whose p(w) is the buffer `prior` (logs; 0, all words alike, until it is set). Which of
                K words is near is too much for a few layers to find out from D numbers. Not where some places are
                shown without noise: it reads every x_t^i as noised

    at (B, L) asks for these positions only: log p has one row for each, and elsewhere the estimate of x_0 is x. With
    many words the sum over them is the dearest part. It is done in float32 at least, whatever the weights are.
    """

    def __init__(
        self,
        K: int,
        D: int,
        alpha_bar: Float[Tensor, " T_plus_1"],
        *args,
        tied: bool = True,
        guess: bool = False,
        **settings,
    ):
        super().__init__(K, D, *args, **settings)
        if not isinstance(alpha_bar, Tensor) or alpha_bar.ndim != 1:
            raise TypeError(
                f"alpha_bar must be a table (T + 1,), not {describe(alpha_bar)}"
            )
        if not alpha_bar.isfinite().all():
            raise ValueError("alpha_bar must be finite everywhere")
        # Not in the weights: it is the process's,
        # and files of weights stay as they were.
        self.register_buffer("alpha_bar", widest(alpha_bar), persistent=False)
        self.bias = nn.Parameter(torch.zeros(self.K_out))
        if not tied:
            self.leave = zero(nn.Linear(self.leave.in_features, self.K_out, bias=False))
        self.tied, self.guess = tied, None
        if guess:
            keys = D if tied else self.leave.in_features
            self.register_buffer("prior", torch.zeros(self.K_out))
            self.guess = zero(nn.Linear(keys, self.enter.out_features, bias=False))

    def _apply(self, fn, recurse: bool = True):
        """As nn.Module does, but the table stays wide: in half precision 1 - alpha_bar would lose its digits."""
        table, self.alpha_bar = self.alpha_bar, None  # what is None is left alone
        super()._apply(fn, recurse)
        device = self.bias.device
        self.alpha_bar = table.to(
            device, torch.float32 if device.type == "mps" else torch.float64
        )
        return self

    def estimate(
        self, h: Features, x: Vectors, u: PerExample, at: Mask | None
    ) -> Vectors:
        """The mean over words; elsewhere than at `at` it is x."""
        return self.estimate_and_law(h, x, u, at)[0]

    def estimate_and_law(
        self, h: Features, x: Vectors, u: PerExample, at: Mask | None
    ) -> tuple[Vectors, LogLaw]:
        """The mean over words, and the law that it is the mean under."""
        with full_precision(x):
            h = at_least_single(h)
            # Sums over words are done in the dtype of h; a wider x would not meet it.
            x = x.to(h.dtype)
            if at is None:
                return self.mix(h, x, *self.reading(x, u))
            x0, log_p = self.mix(h[at], x[at], *self.reading(x, u, at))
            return x.to(x0.dtype).masked_scatter(at[..., None], x0), log_p

    def take_in(self, x: Vectors, u: PerExample, mask: Mask | None) -> Features:
        """x_t in the width of the trunk, and the guess if there is one; PAD has none."""
        h = super().take_in(x, u, mask)
        if self.guess is None:
            return h
        mask = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        guess = self.guess(
            self.without_context(x[mask], *self.reading(x, u, mask)[:2]).to(self.dtype)
        )
        return h + torch.zeros_like(h).masked_scatter(
            mask[..., None], guess.to(h.dtype)
        )

    @torch.no_grad()
    def without_context(
        self, x: Float[Tensor, "n D"], r: Tensor, noise: Tensor
    ) -> Float[Tensor, "n keys"]:
        """The mean of what the last layer has for each word, under p(w | x_t^i): no gradient, it would cost double."""
        with full_precision(x):
            x = x.to(at_least_single(self.bias).dtype)
            log_p = self.law((r / noise) * x, self.table, self.prior, r, noise)
            return log_p.exp() @ self.keys()

    def load_state_dict(self, state_dict, *args, **kwargs):
        """ValueError, too, if a prior was set and the weights have another: they were made for other words."""
        if self.guess is not None and self.prior.any() and "prior" in state_dict:
            theirs = state_dict["prior"].to(self.prior)
            close = 0.02  # float16 is closer
            if theirs.shape == self.prior.shape and not theirs.allclose(
                self.prior, atol=close
            ):
                raise ValueError(
                    "the weights belong to another vocabulary: its words have other frequencies"
                )
        return super().load_state_dict(state_dict, *args, **kwargs)

    def keys(self) -> Float[Tensor, "K_out keys"]:
        """What the last layer has for each word: its embedding if tied, else its weights, layer-normed."""
        if self.tied:
            return self.table
        weights = at_least_single(self.leave.weight)
        return F.layer_norm(weights, weights.shape[1:])

    def mix(
        self,
        h: Float[Tensor, "*n width"],
        x: Float[Tensor, "*n D"],
        r: Tensor,
        noise: Tensor,
        gain: Tensor,
    ) -> tuple[Float[Tensor, "*n D"], Float[Tensor, "*n K_out"]]:
        """The estimate of x_0 and log p, from the features, x_t and what `reading` says, place by place."""
        # Expanding the Gaussian: x . r e_w / noise - |r e_w|^2 / (2 noise); |x|^2 is
        # the same for all words.
        e, clue = self.table, (r / noise) * x
        weights = at_least_single(self.leave.weight)
        if self.tied:
            f = F.linear(h, weights, at_least_single(self.leave.bias))
            log_p = self.law(f + clue, e, self.bias, r, noise)
        else:
            # One product for both parts: the sum over words is the dearest thing here.
            query, keys = torch.cat([h, clue], -1), torch.cat([weights, e], 1)
            log_p = self.law(query, keys, self.bias, r, noise)
        # sum_w p(w) (e_w + gain (x - r e_w)): the
        # mean over words has to be taken of e_w only.
        return (1 - gain * r) * (log_p.exp() @ e) + gain * x, log_p

    def law(
        self, query: Tensor, keys: Tensor, bias: Tensor, r: Tensor, noise: Tensor
    ) -> Float[Tensor, "*n K_out"]:
        """log p(w) = query . key_w + b_w - |r e_w|^2 / (2 noise); the last is the same for all if normalised."""
        log_p = F.linear(query, keys, at_least_single(bias))
        if not self.normalised:
            log_p = log_p - (r.square() / noise) * self.table.square().sum(-1) / 2
        return log_p.log_softmax(-1)

    def reading(
        self, x: Vectors, u: PerExample, at: Mask | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """r, sigma^2 + r^2 sigma_0^2, and the gain, 0 at t = 1: to multiply with x or x[at]; at least float32."""
        T = len(self.alpha_bar) - 1
        t = (u.float() * T).round().long()
        a, sigma_0_squared = self.alpha_bar[t], 1 - self.alpha_bar[1]
        r, noise = a.sqrt(), 1 - a + a * sigma_0_squared
        gain = r * sigma_0_squared / noise * (t > 1)
        dtype = at_least_single(x[:0]).dtype
        r, noise, gain = (v.to(dtype)[:, None] for v in (r, noise, gain))
        if at is None:
            return r[..., None], noise[..., None], gain[..., None]
        return tuple(v.expand(at.shape)[at][:, None] for v in (r, noise, gain))


class SentenceClassifier(nn.Module):
    """Vectors in, one law over classes out, from the mean over the words of each sentence: a classifier of x_t."""

    def __init__(
        self, D: int, classes: int, width: int = 64, heads: int = 4, depth: int = 2
    ):
        super().__init__()
        check_count("D", D)
        check_count("width", width)
        check_count("classes", classes)
        self.enter, self.leave = nn.Linear(D, width), zero(nn.Linear(width, classes))
        self.trunk = Transformer(width, heads, depth)

    def forward(
        self, x: Vectors, u: PerExample, mask: Mask | None = None
    ) -> Float[Tensor, "B classes"]:
        """Logits of the classes. ValueError for a row without a word."""
        check_numbers(x, None, self.enter.in_features)
        check_time(u, len(x))
        h = self.trunk(self.enter(x.to(self.enter.weight.dtype)), u, mask)
        if mask is None:
            return self.leave(h.mean(1))
        # A mean over the words that are there: PAD
        # must not pull long and short sentences apart.
        words = mask.sum(1, keepdim=True)
        return self.leave(torch.where(mask[..., None], h, 0).sum(1) / words)
