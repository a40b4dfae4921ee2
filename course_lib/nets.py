"""Networks: an MLP for points, a small U-Net for images, one Transformer for sequences.

All are called model(x_t, u) with u = t / T in [0, 1], one per example. All end in a zero layer, so an untrained
network says 0: no noise found, or every token equally likely. None has dropout or batch statistics.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .shapes import Mask, PerExample, Tokens


def time_features(u: PerExample, n: int) -> Float[Tensor, "B n"]:
    """n / 2 cosines and n / 2 sines of u, with angular frequencies from 1 to 1000 in equal ratios."""
    if n < 4 or n % 2:
        raise ValueError(f"n must be even and at least 4, not {n}")
    frequency = torch.linspace(0, math.log(1000), n // 2, device=u.device).exp()
    angle = u.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)


def zero(layer: nn.Module) -> nn.Module:
    """The layer with its weights and bias set to 0."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


class TimeEmbedding(nn.Sequential):
    """u -> a vector of the given width that conditions every block."""

    def __init__(self, width: int, features: int = 64):
        super().__init__(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.features = features

    def forward(self, u: PerExample) -> Float[Tensor, "B width"]:
        return super().forward(time_features(u, self.features))


class MLP(nn.Module):
    """For points of any small shape: residual layers, each shifted and scaled by the time.

    answers: how many numbers it says per coordinate; the last axis of the output is that much longer.
    """

    def __init__(self, shape: tuple[int, ...] = (2,), width: int = 128, depth: int = 3, answers: int = 1):
        super().__init__()
        dims = math.prod(shape)
        self.answers = answers
        self.time = TimeEmbedding(width)
        self.enter, self.leave = nn.Linear(dims, width), zero(nn.Linear(width, dims * answers))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.film = nn.Linear(width, 2 * width * depth)

    def forward(self, x: Float[Tensor, "B *event"], u: PerExample) -> Float[Tensor, "B *out"]:
        h = self.enter(x.flatten(1))
        film = self.film(self.time(u)).chunk(2 * len(self.layers), 1)
        for layer, scale, shift in zip(self.layers, film[::2], film[1::2], strict=True):
            h = h + F.silu(layer(h) * (1 + scale) + shift)
        return self.leave(h).reshape(*x.shape[:-1], -1)


# Images


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions around a skip; the time scales and shifts what is between them."""

    def __init__(self, c_in: int, c_out: int, c_time: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, c_out), zero(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.film = nn.Linear(c_time, 2 * c_out)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(
        self, x: Float[Tensor, "B c_in H W"], c: Float[Tensor, "B c_time"]
    ) -> Float[Tensor, "B c_out H W"]:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(c)[:, :, None, None].chunk(2, 1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return h + self.skip(x)


class PixelAttention(nn.Module):
    """Every pixel looks at every other (one head): what makes far strokes of a digit agree."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, 2)  # (B, H W, C) each
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(h.transpose(1, 2).reshape(x.shape))


class UNet(nn.Module):
    """For images from 8 x 8 to 28 x 28: down, attend, up, with the way down handed across.

    widths: channels at each resolution, multiples of 8; each after the first halves height and width,
    which 2^(len(widths) - 1) must divide.
    answers: how many numbers it says per pixel and channel; the output has that many times the channels.
    """

    def __init__(self, channels: int = 1, widths: tuple[int, ...] = (32, 64), answers: int = 1):
        super().__init__()
        if any(w % 8 for w in widths):
            raise ValueError(f"widths must be multiples of 8, not {widths}")
        self.factor, c_time, above = 2 ** (len(widths) - 1), 2 * widths[0], (widths[0], *widths[:-1])
        self.time = TimeEmbedding(c_time)
        self.enter = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(ResBlock(a, w, c_time) for a, w in zip(above, widths, strict=True))
        self.middle = nn.ModuleList(ResBlock(widths[-1], widths[-1], c_time) for _ in range(2))
        self.attend = PixelAttention(widths[-1])
        self.up = nn.ModuleList(ResBlock(2 * w, a, c_time) for a, w in zip(above, widths, strict=True))
        self.norm = nn.GroupNorm(8, widths[0])
        self.leave = zero(nn.Conv2d(widths[0], channels * answers, 3, padding=1))

    def forward(self, x: Float[Tensor, "B C H W"], u: PerExample) -> Float[Tensor, "B C_out H W"]:
        return self.read(self.features(x, u))

    def read(self, h: Float[Tensor, "B width H W"]) -> Float[Tensor, "B C_out H W"]:
        """What the network says, from its last features."""
        return self.leave(F.silu(self.norm(h)))

    def features(self, x: Float[Tensor, "B C H W"], u: PerExample) -> Float[Tensor, "B width H W"]:
        """The last feature maps, before they are read."""
        if x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(
                f"x must have height and width divisible by {self.factor}, not {tuple(x.shape[2:])}"
            )
        c, h, kept = self.time(u), self.enter(x), []
        for i, block in enumerate(self.down):
            h = block(F.avg_pool2d(h, 2) if i else h, c)
            kept.append(h)
        h = self.middle[1](self.attend(self.middle[0](h, c)), c)
        for i, block in reversed(list(enumerate(self.up))):
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
        self.head = nn.Sequential(nn.GroupNorm(norm.num_groups, norm.num_channels), nn.SiLU(), zero(head))

    def forward(self, x: Float[Tensor, "B C H W"], u: PerExample) -> Float[Tensor, "B C_out H W"]:
        with torch.no_grad():
            h = self.backbone.features(x, u)
            said = self.backbone.read(h)
        return torch.cat([said, self.head(h)], 1)

    def state_dict(self, *args, **kwargs):
        """The head's: the backbone's weights are kept where it came from."""
        return self.head.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict, *args, **kwargs):
        """Into the head."""
        return self.head.load_state_dict(state_dict, *args, **kwargs)


# Sequences


def rotate(x: Float[Tensor, "B heads L d"]) -> Float[Tensor, "B heads L d"]:
    """Rotary positions: turn pair i of a vector at position l by the angle l / 10000^(2i/d).

    Dot products of turned vectors depend on the difference of their positions only.  Su et al. 2021 (arXiv:2104.09864).
    """
    L, d = x.shape[-2:]
    frequency = 10000 ** (-torch.arange(0, d, 2, device=x.device) / d)
    angle = torch.arange(L, device=x.device)[:, None] * frequency  # (L, d / 2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the time; the gates start at 0.

    adaLN-zero: Peebles & Xie 2023 (arXiv:2212.09748), section 3.2.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.ada = zero(nn.Linear(width, 6 * width))

    def forward(
        self, h: Float[Tensor, "B L H"], c: Float[Tensor, "B H"], keys: Bool[Tensor, "_ 1 _ L"] | None
    ) -> Float[Tensor, "B L H"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.ada(c)[:, None].chunk(6, -1)  # (B, 1, H) each
        q, k, v = (
            z.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, L, H / heads)
            for z in self.qkv(self.norm(h) * (1 + scale1) + shift1).chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(rotate(q), rotate(k), v, attn_mask=keys)
        h = h + gate1 * self.proj(attended.transpose(1, 2).flatten(2))
        return h + gate2 * self.mlp(self.norm(h) * (1 + scale2) + shift2)


class Transformer(nn.Module):
    """Trunk: (B, L, H) and a time in, (B, L, H) out. Positions where mask is False are not seen.

    causal  no position sees a later one
    """

    def __init__(self, width: int = 128, heads: int = 4, depth: int = 4, causal: bool = False):
        super().__init__()
        self.causal = causal
        if width % (2 * heads):
            raise ValueError(f"width must be a multiple of 2 x heads = {2 * heads}, not {width}")
        self.time = TimeEmbedding(width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, h: Float[Tensor, "B L H"], u: PerExample, mask: Mask | None = None
    ) -> Float[Tensor, "B L H"]:
        c, keys = self.time(u), None if mask is None else mask[:, None, None]
        if self.causal:
            earlier = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device).tril()[None, None]
            keys = earlier if keys is None else keys & earlier
        for block in self.blocks:
            h = block(h, c, keys)
        return self.norm(h)


class TokenNet(nn.Module):
    """Tokens in, one number per vocabulary entry out: D3PM reads logits, SEDD reads log ratios.

    rows (B, L) asks for these positions only and gets (n, K_out): with many tokens the head is the dearest part.
    spread > 0 adds a depthwise convolution over that many tokens to either side of the embedding, so that the trunk
    starts from pieces of words.
    """

    def __init__(
        self, K_in: int, K_out: int, width: int = 128, heads: int = 4, depth: int = 4, spread: int = 0
    ):
        super().__init__()
        self.embedding = nn.Embedding(K_in, width)
        reach = 2 * spread + 1
        self.spread = nn.Conv1d(width, width, reach, padding=spread, groups=width) if spread else None
        self.trunk = Transformer(width, heads, depth)
        self.head = zero(nn.Linear(width, K_out))
        self.takes_rows = K_out >= 1024  # for fewer, picking rows costs what it saves, and a GPU would wait

    def forward(
        self, x: Tokens, u: PerExample, mask: Mask | None = None, rows: Mask | None = None
    ) -> Float[Tensor, "*rows K_out"]:
        h = self.embedding(x)
        if self.spread:
            h = h + self.spread(h.transpose(1, 2)).transpose(1, 2)
        h = self.trunk(h, u, mask)
        return self.head(h if rows is None else h[rows])


class CausalNet(nn.Module):
    """Tokens in, logits of the next token out: what stands at position i is said from the tokens before i only."""

    def __init__(self, K: int, width: int = 128, heads: int = 4, depth: int = 4):
        super().__init__()
        self.K, self.embedding = K, nn.Embedding(K + 1, width)  # K stands before the first token
        self.trunk, self.head = Transformer(width, heads, depth, causal=True), zero(nn.Linear(width, K))

    def forward(self, x: Tokens, u: PerExample | None = None) -> Float[Tensor, "B L K"]:
        """u is ignored: what has been written says how far one is."""
        before = F.pad(x[:, :-1], (1, 0), value=self.K)
        return self.head(self.trunk(self.embedding(before), torch.zeros(len(x), device=x.device)))


class EmbeddingNet(nn.Module):
    """Vectors in, vectors out, with the embedding of tokens and the rounding that share its weights.

    normalised  embeddings have length sqrt(D), so that no loss can shrink or grow them; False is Diffusion-LM's way
    recall      the network is also given its earlier estimate of x_0 (zeros if there is none)
    classes     number of labels; label `classes` says "any", as a missing one does
    spread      > 0 adds a depthwise convolution over that many words to either side, as in TokenNet
    said        only the first so many tokens can be its answer; by default all K
    """

    takes_rows = False

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
        spread: int = 0,
        said: int | None = None,
    ):
        super().__init__()
        self.normalised, self.recall, self.classes, self.said = normalised, recall, classes, said or K
        self.embedding = nn.Embedding(K, D)
        self.enter, self.leave = nn.Linear(D, width), zero(nn.Linear(width, D))
        self.remember = zero(nn.Linear(D, width, bias=False)) if recall else None
        self.label = nn.Embedding(classes + 1, width) if classes else None
        reach = 2 * spread + 1
        self.spread = nn.Conv1d(width, width, reach, padding=spread, groups=width) if spread else None
        self.trunk = Transformer(width, heads, depth)

    @property
    def table(self) -> Float[Tensor, "said D"]:
        """The embeddings of the tokens that can be its answer."""
        return self.scaled(self.embedding.weight[: self.said])

    def scaled(self, e: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape D"]:
        """Embeddings from their weights."""
        return F.normalize(e, dim=-1) * math.sqrt(e.shape[-1]) if self.normalised else e

    def embed(self, tokens: Tokens) -> Float[Tensor, "B L D"]:
        """Emb(w), position by position. On a CPU ValueError for a token out of the vocabulary; a GPU would wait."""
        K = len(self.embedding.weight)
        if tokens.device.type == "cpu" and not 0 <= tokens.min() <= tokens.max() < K:
            raise ValueError(f"tokens must lie in 0..{K - 1}, not {tokens.min()}..{tokens.max()}")
        return self.scaled(self.embedding(tokens))

    def logits(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L said"]:
        """x . e_w - |e_w|^2 / 2: highest for the word whose embedding is nearest to x."""
        e = self.table
        return x @ e.T - e.square().sum(-1) / 2

    def features(
        self,
        x: Float[Tensor, "B L D"],
        u: PerExample,
        mask: Mask | None = None,
        before: Float[Tensor, "B L D"] | None = None,
        label: Int[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B L width"]:
        """What the last layer reads. ValueError for `before` or `label` where the network was not built for it.

        ValueError, too, for a mask of another shape than the places of x.
        """
        if (before is not None and not self.recall) or (label is not None and not self.classes):
            raise ValueError("before needs a network with recall=True, and label one with classes")
        if mask is not None and mask.shape != x.shape[:2]:
            raise ValueError(f"mask must have shape {tuple(x.shape[:2])}, not {tuple(mask.shape)}")
        h = self.take_in(x, u, mask)
        if before is not None:
            h = h + self.remember(before)
        if self.spread:
            h = h if mask is None else h * mask[..., None]
            h = h + self.spread(h.transpose(1, 2)).transpose(1, 2)
        if self.classes:
            label = torch.full_like(u, self.classes, dtype=torch.long) if label is None else label
            h = h + self.label(label)[:, None]
        return self.trunk(h, u, mask)

    def take_in(
        self, x: Float[Tensor, "B L D"], u: PerExample, mask: Mask | None
    ) -> Float[Tensor, "B L width"]:
        """x_t in the width of the trunk, place by place."""
        return self.enter(x)

    def forward(self, x, u, mask=None, before=None, label=None) -> Float[Tensor, "B L D"]:
        """The estimate of x_0; the arguments are those of `features`."""
        return self.leave(self.features(x, u, mask, before, label))

    def explain(self, *given) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B L said"]]:
        """The estimate of x_0, and the log law of words near it; the arguments are those of `features`."""
        x0 = self(*given)
        return x0, self.logits(x0).log_softmax(-1)


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

    rows (B, L) asks for these positions only: log p has one row for each, and elsewhere the estimate of x_0 is x.
    """

    takes_rows = True  # with many words the sum over them is the dearest part

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
        self.register_buffer("alpha_bar", alpha_bar.double(), persistent=False)
        self.bias = nn.Parameter(torch.zeros(self.said))
        if not tied:
            self.leave = zero(nn.Linear(self.leave.in_features, self.said, bias=False))
        self.tied, self.guess = tied, None
        if guess:
            self.register_buffer("prior", torch.zeros(self.said))
            self.guess = zero(
                nn.Linear(D if tied else self.leave.in_features, self.enter.out_features, bias=False)
            )

    def forward(self, x, u, mask=None, before=None, label=None, rows=None) -> Float[Tensor, "B L D"]:
        """The estimate of x_0; the arguments are those of `features`, and rows."""
        return self.explain(x, u, mask, before, label, rows)[0]

    def explain(self, x, u, mask=None, before=None, label=None, rows: Mask | None = None):
        """The estimate of x_0, and the log law of words behind it; the arguments are those of `features`, and rows."""
        h = self.features(x, u, mask, before, label)
        if rows is None:
            return self.mix(h, x, *self.reading(x, u))
        x0, log_p = self.mix(h[rows], x[rows], *self.reading(x, u, rows))
        return x.masked_scatter(rows[..., None], x0), log_p

    def take_in(self, x, u, mask) -> Float[Tensor, "B L width"]:
        """x_t in the width of the trunk, and the guess if there is one; PAD has none."""
        h = super().take_in(x, u, mask)
        if self.guess is None:
            return h
        mask = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        guess = self.guess(self.without_context(x[mask], *self.reading(x, u, mask)[:2]))
        return h + torch.zeros_like(h).masked_scatter(mask[..., None], guess.to(h.dtype))

    @torch.no_grad()
    def without_context(self, x: Float[Tensor, "n D"], r: Tensor, noise: Tensor) -> Float[Tensor, "n keys"]:
        """The mean of what the last layer has for each word, under p(w | x_t^i): no gradient, it would cost double."""
        return self.law((r / noise) * x, self.table, self.prior, r, noise).exp() @ self.keys()

    def load_state_dict(self, state_dict, *args, **kwargs):
        """ValueError, too, if a prior was set and the weights have another: they were made for other words."""
        if self.guess is not None and self.prior.any() and "prior" in state_dict:
            theirs = state_dict["prior"].to(self.prior)
            if theirs.shape == self.prior.shape and not theirs.allclose(
                self.prior, atol=0.02
            ):  # float16 is closer
                raise ValueError("the weights belong to another vocabulary: its words have other frequencies")
        return super().load_state_dict(state_dict, *args, **kwargs)

    def keys(self) -> Float[Tensor, "said keys"]:
        """What the last layer has for each word: its embedding if tied, else its weights, layer-normed."""
        return self.table if self.tied else F.layer_norm(self.leave.weight, self.leave.weight.shape[1:])

    def mix(
        self, h: Float[Tensor, "*n width"], x: Float[Tensor, "*n D"], r: Tensor, noise: Tensor, gain: Tensor
    ) -> tuple[Float[Tensor, "*n D"], Float[Tensor, "*n said"]]:
        """The estimate of x_0 and log p, from the features, x_t and what `reading` says, place by place."""
        e, clue = self.table, (r / noise) * x
        if self.tied:
            log_p = self.law(self.leave(h) + clue, e, self.bias, r, noise)
        else:
            query, keys = torch.cat([h, clue], -1), torch.cat([self.leave.weight, e], 1)
            log_p = self.law(query, keys, self.bias, r, noise)
        return (1 - gain * r) * (log_p.exp() @ e) + gain * x, log_p

    def law(
        self, query: Tensor, keys: Tensor, bias: Tensor, r: Tensor, noise: Tensor
    ) -> Float[Tensor, "*n said"]:
        """log p(w) = query . key_w + b_w - |r e_w|^2 / (2 noise); the last is the same for all if normalised."""
        log_p = F.linear(query, keys, bias)
        if not self.normalised:
            log_p = log_p - (r.square() / noise) * self.table.square().sum(-1) / 2
        return log_p.log_softmax(-1)

    def reading(
        self, x: Float[Tensor, "B L D"], u: PerExample, rows: Mask | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """r, sigma^2 + r^2 sigma_0^2, and the gain, 0 at t = 1: to multiply with x or x[rows], in the dtype of x."""
        t = (u * (len(self.alpha_bar) - 1)).round().long()
        a, spread = self.alpha_bar[t], 1 - self.alpha_bar[1]
        noise = 1 - a + a * spread
        each = [v.to(x.dtype)[:, None] for v in (a.sqrt(), noise, a.sqrt() * spread / noise * (t > 1))]
        return tuple(v[..., None] if rows is None else v.expand(rows.shape)[rows][:, None] for v in each)


class Reader(nn.Module):
    """Vectors in, one law over classes out, from the mean over the words of each sentence: a classifier of x_t."""

    def __init__(self, D: int, classes: int, width: int = 64, heads: int = 4, depth: int = 2):
        super().__init__()
        self.enter, self.leave = nn.Linear(D, width), zero(nn.Linear(width, classes))
        self.trunk = Transformer(width, heads, depth)

    def forward(
        self, x: Float[Tensor, "B L D"], u: PerExample, mask: Mask | None = None
    ) -> Float[Tensor, "B classes"]:
        h = self.trunk(self.enter(x), u, mask)
        if mask is None:
            return self.leave(h.mean(1))
        return self.leave((h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
