"""Networks: an MLP for points, a small U-Net for images, one Transformer for sequences; networks around networks.

All are called model(x_t, u) with u = t / T in [0, 1], one per example; all else is given by keyword. All end in a zero
layer, so an untrained network says 0: no noise found, or every token equally likely. None has batch statistics, and
dropout only where it is asked for. Every one runs in the dtype of its weights, whatever the dtype of x_t and u, and
answers in it.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .layers import (
    TiedHead,
    TimeEmbedding,
    TokenEmbedding,
    around,
    check_numbers,
    check_time,
    check_token_input,
    convolution,
    zero,
)
from .shapes import Mask, Network, PerExample, Tokens, check_count, describe
from .transformer import KVCache, Transformer


class MLP(nn.Module):
    """For points of any small shape: residual layers, each shifted and scaled by the time.

    answers: how many numbers it says per coordinate; the last axis of the output is that much longer.
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (2,),
        width: int = 128,
        depth: int = 3,
        answers: int = 1,
    ):
        super().__init__()
        dims = math.prod(shape)
        for name, n in (("width", width), ("depth", depth), ("answers", answers)):
            check_count(name, n)
        self.answers = answers
        self.time = TimeEmbedding(width)
        self.enter = nn.Linear(dims, width)
        self.leave = zero(nn.Linear(width, dims * answers))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.film = nn.Linear(width, 2 * width * depth)

    def forward(
        self, x: Float[Tensor, "B *event"], u: PerExample
    ) -> Float[Tensor, "B *out"]:
        """As many numbers as x has, times `answers`."""
        self.check(x, u)
        h = self.enter(x.flatten(1).to(self.enter.weight.dtype))
        film = self.film(self.time(u)).chunk(2 * len(self.layers), 1)
        for layer, scale, shift in zip(self.layers, film[::2], film[1::2], strict=True):
            # 1 + scale: an untrained time does nothing.
            h = h + F.silu(layer(h) * (1 + scale) + shift)
        return self.leave(h).reshape(*x.shape[:-1], self.answers * x.shape[-1])

    def check(self, x: Tensor, u: PerExample) -> None:
        """Raise unless x has the numbers of its points, and u a time for each."""
        dims = self.enter.in_features
        if not isinstance(x, Tensor) or x.is_complex():
            raise TypeError(f"x must be a float tensor, not {describe(x)}")
        if x.ndim < 2 or math.prod(x.shape[1:]) != dims:
            raise ValueError(
                f"x must have {dims} numbers per example, not shape {tuple(x.shape)}"
            )
        check_time(u, len(x))


# Images


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions around a skip; the time scales and shifts what is between them."""

    def __init__(self, c_in: int, c_out: int, c_time: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, c_out)
        self.conv2 = zero(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.film = nn.Linear(c_time, 2 * c_out)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(
        self, x: Float[Tensor, "B c_in H W"], c: Float[Tensor, "B c_time"]
    ) -> Float[Tensor, "B c_out H W"]:
        """The skip and what the convolutions add, given the time's vector c."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(c)[:, :, None, None].chunk(2, 1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return h + self.skip(x)


class PixelAttention(nn.Module):
    """Every pixel looks at every other (one head): what makes far strokes of a digit agree."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """x and what each pixel has seen."""
        # (B, H W, C) each.
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, 2)
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(h.transpose(1, 2).reshape(x.shape))


class UNet(nn.Module):
    """For images from 8 x 8 to 28 x 28: down, attend, up, with the way down handed across.

    widths: channels at each resolution, multiples of 8; each after the first halves height and width,
    which 2^(len(widths) - 1) must divide.
    answers: how many numbers it says per pixel and channel; the output has that many times the channels.
    """

    def __init__(
        self, channels: int = 1, widths: tuple[int, ...] = (32, 64), answers: int = 1
    ):
        super().__init__()
        check_count("channels", channels)
        check_count("answers", answers)
        if not widths or any(w % 8 or w < 8 for w in widths):
            raise ValueError(f"widths must be multiples of 8, not {widths}")
        self.factor = 2 ** (len(widths) - 1)
        c_time = 2 * widths[0]
        above = (widths[0], *widths[:-1])
        self.time = TimeEmbedding(c_time)
        self.enter = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            ResBlock(a, w, c_time) for a, w in zip(above, widths, strict=True)
        )
        self.middle = nn.ModuleList(
            ResBlock(widths[-1], widths[-1], c_time) for _ in range(2)
        )
        self.attend = PixelAttention(widths[-1])
        self.up = nn.ModuleList(
            ResBlock(2 * w, a, c_time) for a, w in zip(above, widths, strict=True)
        )
        self.norm = nn.GroupNorm(8, widths[0])
        self.leave = zero(nn.Conv2d(widths[0], channels * answers, 3, padding=1))

    def forward(
        self, x: Float[Tensor, "B C H W"], u: PerExample
    ) -> Float[Tensor, "B C_out H W"]:
        """As many numbers as x has, times `answers`. ValueError for a size that cannot be halved."""
        return self.read(self.features(x, u))

    def read(self, h: Float[Tensor, "B width H W"]) -> Float[Tensor, "B C_out H W"]:
        """What the network says, from its last features."""
        return self.leave(F.silu(self.norm(h)))

    def features(
        self, x: Float[Tensor, "B C H W"], u: PerExample
    ) -> Float[Tensor, "B width H W"]:
        """The last feature maps, before they are read."""
        check_numbers(x, self.enter.in_channels, None, None)
        check_time(u, len(x))
        if x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(
                f"x must have height and width divisible by {self.factor}, not {tuple(x.shape[2:])}"
            )
        c, h, kept = self.time(u), self.enter(x.to(self.enter.weight.dtype)), []
        for i, block in enumerate(self.down):
            h = block(F.avg_pool2d(h, 2) if i else h, c)
            kept.append(h)
        h = self.middle[1](self.attend(self.middle[0](h, c)), c)
        for i, block in reversed(list(enumerate(self.up))):
            # What was lost in halving is handed
            # across: edges come back where they were.
            h = block(torch.cat([h, kept[i]], 1), c)
            h = F.interpolate(h, scale_factor=2.0) if i else h
        return h


class TwoHeads(nn.Module):
    """A frozen U-Net, and a new head that reads the same features: twice the channels, its own answer first.

    Only the head is trained, which costs a forward pass and next to no backward pass, and only the head is saved.
    """

    def __init__(self, backbone: UNet):
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        norm, leave = backbone.norm, backbone.leave
        head = nn.Conv2d(leave.in_channels, leave.out_channels, 3, padding=1)
        self.head = nn.Sequential(
            nn.GroupNorm(norm.num_groups, norm.num_channels), nn.SiLU(), zero(head)
        )

    def forward(
        self, x: Float[Tensor, "B C H W"], u: PerExample
    ) -> Float[Tensor, "B C_out H W"]:
        """The backbone's answer and, behind it, the head's."""
        with torch.no_grad():
            h = self.backbone.features(x, u)
            answer = self.backbone.read(h)
        return torch.cat([answer, self.head(h)], 1)

    def state_dict(self, *args, **kwargs):
        """The head's: the backbone's weights are kept where it came from."""
        return self.head.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict, *args, **kwargs):
        """Into the head."""
        return self.head.load_state_dict(state_dict, *args, **kwargs)


# Sequences


class TokenNet(nn.Module):
    """Tokens in, one number per vocabulary entry out: D3PM reads logits, SEDD reads log ratios.

    K_in, K_out  how many tokens there are to be read, and to be answered with: MASK is read only
    radius       > 0 adds a depthwise convolution over that many tokens to either side of the embedding, so that the
                 trunk starts from pieces of words
    dropout      what share of the embedding's entries, and of each branch's, is dropped in training
    tied         the last layer has the embedding's weights (`TiedHead`): for vocabularies of words
    """

    takes_at = True  # says to a process that it may ask for some positions

    def __init__(
        self,
        K_in: int,
        K_out: int,
        width: int = 128,
        heads: int = 4,
        depth: int = 4,
        radius: int = 0,
        dropout: float = 0.0,
        tied: bool = False,
    ):
        super().__init__()
        check_count("K_in", K_in)
        check_count("width", width)
        check_count("K_out", K_out)
        if tied and K_out > K_in:
            raise ValueError(
                f"K_out must be at most K_in = {K_in} where they are tied, not {K_out}"
            )
        self.tied = tied
        self.embedding = (TokenEmbedding if tied else nn.Embedding)(K_in, width)
        self.spread = convolution(width, radius)  # the name that shipped weights have
        self.trunk = Transformer(width, heads, depth, dropout=dropout)
        self.head = TiedHead(width, K_out) if tied else zero(nn.Linear(width, K_out))

    def forward(
        self, x: Tokens, u: PerExample, mask: Mask | None = None, at: Mask | None = None
    ) -> Float[Tensor, "*places K_out"]:
        """The numbers at every position, (B, L, K_out); with `at` (B, L) at these n positions only, (n, K_out).

        mask (B, L) is False where there is padding. Raises TypeError or ValueError for a mask that is none.
        """
        x = check_token_input(x, self.embedding.num_embeddings)
        check_time(u, len(x))
        if at is not None:
            check_places(at, x)
        h = self.trunk(around(self.spread, self.embedding(x), mask), u, mask)
        if at is None:
            return self.read(h)
        # for fewer, picking first costs what it saves
        many = self.head.out_features >= 1024
        return self.read(h[at]) if many else self.read(h)[at]

    def read(self, h: Float[Tensor, "*places width"]) -> Float[Tensor, "*places K_out"]:
        """What the last layer says of the trunk's features."""
        return self.head(h, self.embedding.weight) if self.tied else self.head(h)


def check_places(at: Mask, x: Tokens) -> None:
    """Raise unless `at` is a bool tensor (B, L): the places asked for."""
    if not isinstance(at, Tensor) or at.dtype != torch.bool or at.shape != x.shape:
        raise ValueError(
            f"at must be a bool tensor {tuple(x.shape)}, not {describe(at)}"
        )


class CausalNet(nn.Module):
    """Tokens in, logits of the next token out: what stands at position i is said from the tokens before i only.

    dropout, tied  as in TokenNet
    """

    takes_cache = True  # says to a process that it may be asked for new positions only

    def __init__(
        self,
        K: int,
        width: int = 128,
        heads: int = 4,
        depth: int = 4,
        dropout: float = 0.0,
        tied: bool = False,
    ):
        super().__init__()
        check_count("K", K)
        check_count("width", width)
        self.K, self.tied = K, tied
        # K stands before the first token
        self.embedding = (TokenEmbedding if tied else nn.Embedding)(K + 1, width)
        self.trunk = Transformer(width, heads, depth, causal=True, dropout=dropout)
        self.head = TiedHead(width, K) if tied else zero(nn.Linear(width, K))

    def forward(
        self, x: Tokens, u: PerExample | None = None, cache: KVCache | None = None
    ) -> Float[Tensor, "B new K"]:
        """Logits of each token of the rows x; with a cache, of those positions that it does not hold yet.

        u is ignored: what has been written says how far one is.
        """
        x = check_token_input(x, self.K)
        # Shifted by one: what is read at position i is
        # token i - 1, so its answer may be token i.
        before = F.pad(x[:, :-1], (1, 0), value=self.K)
        if cache is not None:
            before = before[:, cache.length :]
        start = torch.zeros(len(x), device=x.device)
        h = self.trunk(self.embedding(before), start, cache=cache)
        return self.head(h, self.embedding.weight) if self.tied else self.head(h)


# Networks around networks


class Wrapped(nn.Module):
    """A network around another, `inner`: what it does not define (embed, table, logits) is that of the one inside.

    A subclass overrides `forward`, and passes on every keyword it does not know, so that all of them compose, copy
    and pickle. What else runs the network, as `explain` does, it overrides too if it changes that.
    """

    def __init__(self, inner: Network):
        super().__init__()
        if not callable(inner):
            raise TypeError(f"inner must be a network, not {describe(inner)}")
        self.inner = inner

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Not for what Python itself looks for while it copies or unpickles: then there is no network yet.
            inner = self.__dict__.get(
                "inner", self.__dict__.get("_modules", {}).get("inner")
            )
            if inner is None or name.startswith("__"):
                raise
            return getattr(inner, name)

    def forward(self, x: Tensor, u: PerExample, **given) -> Tensor:
        """What the network inside says."""
        return self.inner(x, u, **given)


class Given(Wrapped):
    """The network, given something by keyword at every call: `Given(net, mask=mask, label=genre)`.

    What a call gives itself counts more.
    """

    def __init__(self, inner: Network, **given: Tensor | None):
        super().__init__(inner)
        self.given = given

    def _apply(self, fn, recurse: bool = True):
        """What is given goes where the network goes."""
        super()._apply(fn, recurse)
        self.given = {
            name: value if value is None else fn(value)
            for name, value in self.given.items()
        }
        return self

    @property
    def mask(self) -> Mask | None:
        """Where there are words, as far as this network or one inside was told: `decode` asks."""
        return self.given.get("mask", getattr(self.inner, "mask", None))

    def forward(self, x: Tensor, u: PerExample, **given) -> Tensor:
        """What the network inside says, given that."""
        return self.inner(x, u, **{**self.given, **given})

    def explain(self, x: Tensor, u: PerExample, **given) -> tuple[Tensor, Tensor]:
        """Its estimate and the log law of words behind it, given that."""
        return self.inner.explain(x, u, **{**self.given, **given})
