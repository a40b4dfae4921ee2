"""Layers that several networks share: the time, what is masked, dropped, around a place; tied embeddings.

All run in the dtype of their weights.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .shapes import Mask, PerExample, Tokens, check_count, check_scalar, describe


def time_features(u: PerExample, n: int) -> Float[Tensor, "B n"]:
    """n / 2 cosines and n / 2 sines of u, with angular frequencies from 1 to 1000 in equal ratios."""
    if n < 4 or n % 2:
        raise ValueError(f"n must be even and at least 4, not {n}")
    # u lies in [0, 1], where the usual 1 to 1 / 10000 would all be nearly constant;
    # 1000 tells steps of a thousandth apart.
    frequency = torch.linspace(0, math.log(1000), n // 2, device=u.device).exp()
    # Never narrower: in bfloat16 the fast ones would be noise.
    angle = u.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)


def zero(layer: nn.Module) -> nn.Module:
    """The layer with its weights and bias set to 0."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


def dropping(share: float) -> nn.Module:
    """Dropout of this share in training; nothing at all, and no number drawn, for 0. ValueError outside [0, 1)."""
    check_scalar("dropout", share)
    if not 0 <= share < 1:
        raise ValueError(f"dropout must lie in [0, 1), not {share}")
    return nn.Dropout(share) if share else nn.Identity()


class TimeEmbedding(nn.Sequential):
    """u -> a vector of the given width that conditions every block."""

    def __init__(self, width: int, features: int = 64):
        check_count("width", width)
        super().__init__(
            nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.features = features

    def forward(self, u: PerExample) -> Float[Tensor, "B width"]:
        """The vector, in the dtype of the weights."""
        return super().forward(time_features(u, self.features).to(self[0].weight.dtype))


def check_mask(mask: Mask | None, shape: tuple[int, int]) -> None:
    """Raise unless mask is None or a bool tensor (B, L) with a place to see in each row.

    The rows are read on a CPU only: elsewhere the answers of a row without one are NaN.
    """
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"mask must be a bool tensor, not {describe(mask)}")
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(
            f"mask must have shape {tuple(shape)}, not {tuple(mask.shape)}"
        )
    if mask.device.type == "cpu" and not (rows := mask.any(1)).all():
        raise ValueError(
            f"mask must show a place in each row, but row {int((~rows).nonzero()[0])} has none"
        )


def only(h: Float[Tensor, "B L H"], mask: Mask | None) -> Float[Tensor, "B L H"]:
    """h, and 0 where mask is False: attention gives these places no weight, but 0 x NaN would still be NaN."""
    check_mask(mask, h.shape[:2])
    return h if mask is None else h.masked_fill(~mask[..., None], 0)


def convolution(width: int, radius: int) -> nn.Conv1d | None:
    """What `around` adds: a filter of 2 radius + 1 places for each channel. None for radius 0."""
    check_count("radius", radius, least=0)
    return (
        nn.Conv1d(width, width, 2 * radius + 1, padding=radius, groups=width)
        if radius
        else None
    )


def around(
    spread: nn.Conv1d | None, h: Float[Tensor, "B L H"], mask: Mask | None
) -> Float[Tensor, "B L H"]:
    """h, and what stands around each place; places where mask is False are not seen."""
    if spread is None:
        return h
    h = only(h, mask)
    return h + spread(h.transpose(1, 2)).transpose(1, 2)


# Reading and answering with one table


class TokenEmbedding(nn.Embedding):
    """The embedding of a network whose last layer has the same weights: entries of variance 1 / width.

    What the trunk reads is sqrt(width) times as large, so that its entries have variance 1, as with nn.Embedding.
    Vaswani et al. 2017 (arXiv:1706.03762), section 3.4.
    """

    def __init__(self, K: int, width: int):
        check_count("K", K)
        check_count("width", width)
        super().__init__(K, width)
        with torch.no_grad():
            # As a last layer it takes products with it: with variance 1 an untrained
            # network's logits would be width^(1/2) wide.
            self.weight.div_(math.sqrt(width))

    def forward(self, x: Tokens) -> Float[Tensor, "B L width"]:
        """The vector of each token."""
        return super().forward(x) * math.sqrt(self.embedding_dim)


class TiedHead(nn.Module):
    """f_k = e_k . (W h + c) + b_k, e_k the embedding of token k: one table of vectors to read and to answer with.

    W, c and b start at 0, so an untrained network says 0.  Press & Wolf 2017 (arXiv:1608.05859).
    """

    def __init__(self, width: int, K_out: int):
        super().__init__()
        check_count("width", width)
        check_count("K_out", K_out)
        self.out_features = K_out
        self.turn = zero(nn.Linear(width, width))
        self.bias = nn.Parameter(torch.zeros(K_out))

    def forward(
        self, h: Float[Tensor, "*places width"], table: Float[Tensor, "K width"]
    ) -> Float[Tensor, "*places K_out"]:
        """The numbers, given the table of embeddings, of which the first K_out are meant."""
        return F.linear(self.turn(h), table[: self.out_features], self.bias)


# What a network is given


def check_time(u: PerExample, n: int) -> None:
    """Raise unless u is t / T as floats, one for each of n examples. Integers would be t itself."""
    if not isinstance(u, Tensor) or not u.is_floating_point():
        raise TypeError(f"u must be a float tensor of times t / T, not {describe(u)}")
    if u.shape != (n,):
        raise ValueError(
            f"u must have shape ({n},), one time per example, not {tuple(u.shape)}"
        )


def check_numbers(x: Tensor, *shape: int | None) -> None:
    """Raise unless x is a real tensor (B, *shape); None stands for any length from 1 on."""
    if not isinstance(x, Tensor) or x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"x must be a float tensor, not {describe(x)}")
    fits = len(shape) == x.ndim - 1 and all(
        have == want if want is not None else have > 0
        for have, want in zip(x.shape[1:], shape, strict=True)
    )
    if not fits:
        axes = ", ".join("n >= 1" if want is None else str(want) for want in shape)
        raise ValueError(f"x must have shape (B, {axes}), not {tuple(x.shape)}")


def check_token_input(x: Tokens, K: int) -> Tokens:
    """x as int64 (int32 stays), or an error unless it holds tokens 0..K-1 in shape (B, L >= 1).

    The range is read on a CPU only, and not while torch.compile traces.
    """
    if (
        not isinstance(x, Tensor)
        or x.is_floating_point()
        or x.is_complex()
        or x.dtype == torch.bool
    ):
        raise TypeError(f"x must hold tokens, integers (B, L), not {describe(x)}")
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"x must have shape (B, L >= 1), not {tuple(x.shape)}")
    x = x if x.dtype == torch.int32 else x.long()
    read = x.device.type == "cpu" and x.numel() and not torch.compiler.is_compiling()
    if read and not 0 <= x.min() <= x.max() < K:
        raise ValueError(f"x must lie in 0..{K - 1}, not {x.min()}..{x.max()}")
    return x
