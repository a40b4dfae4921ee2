"""From words to vectors and back: what a system of words wants of its network, and rounding.

The step from words to vectors is learned, so it belongs to the network. Where words are told apart, at rounding, it is
done in float32 at least, also under autocast: in half precision neighbours of a large vocabulary change places.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .sentences import PAD, check_tokens
from .shapes import Network, PerExample, Tokens

Vectors = Float[Tensor, "B L D"]
LogLaw = Float[
    Tensor, "*places K_out"
]  # (B, L, K_out), or (n, K_out) at the places asked for
CHUNK = 2**22  # logits held at once by `nearest`: 16 MB


class WordNetwork(Protocol):
    """What Diffusion-LM and DiffuSeq want of a network. It is called as network(x_t, u, **given), by keyword:

    mask    (B, L)     False where there is padding, which changes nothing elsewhere
    label   (B,)       a class per sentence; only where `classes` > 0
    before  (B, L, D)  an earlier estimate of x_0; only where `recall` is True
    at      (B, L)     the places asked for; only where `takes_at` is True

    Here networks are annotated as any callable, since a call that only decodes needs a table only; what is missing is
    named by `check_word_network`. A network that lacks recall, classes or takes_at is taken for one that cannot.
    Wrappers (`Wrapped`) have what the network inside has.
    """

    recall: bool
    classes: int
    takes_at: bool

    @property
    def table(self) -> Float[Tensor, "K_out D"]:
        """The vectors of the words that can be its answer."""

    def __call__(self, x: Vectors, u: PerExample, **given: Tensor | None) -> Vectors:
        """The estimate of x_0; of Emb(w) at t = 1."""

    def explain(
        self, x: Vectors, u: PerExample, **given: Tensor | None
    ) -> tuple[Vectors, LogLaw]:
        """The estimate of x_0 and the log law of words behind it: (n, K_out) if asked `at` n places."""

    def embed(self, tokens: Tokens) -> Vectors:
        """Emb(w), place by place."""

    def logits(self, x: Float[Tensor, "*places D"]) -> LogLaw:
        """Of p(w | x_0): highest for the nearest word."""


def check_word_network(model: Network, *needed: str) -> None:
    """Raise TypeError, naming what is missing, unless the network has all that a call needs of a WordNetwork."""
    missing = [name for name in needed if not hasattr(model, name)]
    if missing:
        raise TypeError(
            f"model must be a network of words, such as EmbeddingNet, but {type(model).__name__} has no "
            f"{', '.join(missing)}: course_lib.embeddings.WordNetwork says what it needs"
        )


def full_precision(x: Tensor) -> torch.autocast:
    """`with full_precision(x):` what follows is not run in half precision, even under autocast."""
    return torch.autocast(x.device.type, enabled=False)


def at_least_single(x: Tensor) -> Tensor:
    """x in float32, if it is narrower."""
    return x if x.dtype == torch.float64 else x.float()


def embed(model: Network, tokens: Tokens) -> Vectors:
    """Emb(w), at least float32; zeros at PAD. Raises for tokens that are no integers (B, L)."""
    check_word_network(model, "embed")
    tokens = check_tokens(tokens)
    vectors = at_least_single(model.embed(tokens.clamp(min=0)))
    # Token 0 stood in for PAD above, since no table has a row -1.
    return vectors * (tokens != PAD)[..., None]


def nearness(
    x: Float[Tensor, "*places D"], table: Float[Tensor, "K D"]
) -> Float[Tensor, "*places K"]:
    """x . e_w - |e_w|^2 / 2, which is -|x - e_w|^2 / 2 but for what all words share. At least float32."""
    with full_precision(x):
        dtype = torch.promote_types(
            torch.promote_types(x.dtype, table.dtype), torch.float32
        )
        x, e = x.to(dtype), table.to(dtype)
        return F.linear(x, e, -e.square().sum(-1) / 2)


def nearest(
    x: Float[Tensor, "*shape D"], table: Float[Tensor, "K D"]
) -> Int[Tensor, "*shape"]:
    """argmin_w |x - e_w|, a part of the rows at a time.

    Raises FloatingPointError where x or the table is not finite, since argmax of NaN would be a word.
    """
    words, finite = nearest_where_finite(x, table)
    if not finite.all():
        bad = int((~finite).sum())
        raise FloatingPointError(
            f"x must be finite to become words, but is not at {bad} of {finite.numel()} places"
        )
    return words


def nearest_where_finite(
    x: Float[Tensor, "*shape D"], table: Float[Tensor, "K D"]
) -> tuple[Int[Tensor, "*shape"], Bool[Tensor, "*shape"]]:
    """argmin_w |x - e_w|, and where that means something. Nothing is read, so that a GPU need not wait."""
    # Not all at once: rows x words of logits would be gigabytes for a large vocabulary.
    rows = max(1, CHUNK // len(table))
    parts = [
        nearness(part, table).max(-1) for part in x.reshape(-1, x.shape[-1]).split(rows)
    ]
    best = torch.cat([part.values for part in parts])
    words = torch.cat([part.indices for part in parts])
    return words.reshape(x.shape[:-1]), best.isfinite().reshape(x.shape[:-1])
