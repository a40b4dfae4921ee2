"""Perfect networks of words: E[x_0 | x_t] for word vectors under a law of sentences that is known."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .data import MarkovLanguage
from .diffusion_lm import DiffusionLM
from .oracle import from_others, normalised
from .process import check_process
from .shapes import (
    Mask,
    PerExample,
    Times,
    Tokens,
    describe,
    per_example,
    widest,
)
from .token_checks import check_masses


class WordOracle(nn.Module):
    """What the perfect networks of words share: the embeddings `table`, and how far x_t is from each. float64."""

    recall, classes = False, 0

    def __init__(self, process: DiffusionLM, table: Float[Tensor, "K D"]):
        super().__init__()
        check_process(process)
        if not isinstance(table, Tensor) or not table.is_floating_point():
            raise TypeError(
                f"table must be a float tensor of embeddings, not {describe(table)}"
            )
        if table.ndim != 2 or not table.isfinite().all():
            raise ValueError("table must have shape (K, D) and be finite everywhere")
        self.process, self.table = process, widest(table)

    def embed(self, tokens: Tokens) -> Float[Tensor, "B L D"]:
        """Emb(w)."""
        return self.table[tokens]

    def logits(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L K"]:
        """x . e_w - |e_w|^2 / 2."""
        return widest(x) @ self.table.T - self.table.square().sum(-1) / 2

    def time(self, u: PerExample) -> Times:
        """t = u T."""
        return (u * self.process.T).round().long()

    def far(
        self, x: Float[Tensor, "B _ _ D"], t: Times, e: Float[Tensor, "*shape D"]
    ) -> Float[Tensor, "B _ _"]:
        """-log N(x_t; r e, 1 - r^2 + r^2 sigma_0^2) + const, r^2 = alpha_bar_t."""
        log = self.process.log_alpha_bar[t]
        r = (log / 2).exp()
        noise = -torch.expm1(log) + log.exp() * self.process.sigma_0_squared
        return (x - per_example(r, x) * e).square().sum(-1) / (2 * noise[:, None, None])

    def estimate(
        self, mean: Float[Tensor, "B L D"], x: Float[Tensor, "B L D"], t: Times
    ) -> Float[Tensor, "B L D"]:
        """E[x_0 | x_t] from E[Emb(w) | x_t], which stands for it at t = 1."""
        return torch.where(
            per_example(t == 1, x), mean, self.process.known_word(mean, x, t)[0]
        )


class SentenceOracle(WordOracle):
    """The perfect network of Diffusion-LM for sentences of a MarkovLanguage, whose words have these embeddings.

    E[x_0 | x_t] = sum_w p(w | x_t) E[x_0 | x_t, w] at each place, and E[Emb(w) | x_1] at t = 1. float64.
    """

    def __init__(
        self,
        process: DiffusionLM,
        language: MarkovLanguage,
        table: Float[Tensor, "K D"],
    ):
        super().__init__(process, table)
        if table.shape != (language.K, process.width):
            want = (language.K, process.width)
            raise ValueError(f"table must have shape {want}, not {tuple(table.shape)}")
        self.language = language

    def explain(
        self, x: Float[Tensor, "B L D"], u: PerExample, mask: Mask | None = None, **_
    ) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B L K"]]:
        """E[x_0 | x_t], and log p(w | x_t) at each place. ValueError for a mask with padding: a language has none."""
        if mask is not None and mask.device.type == "cpu" and not mask.all():
            raise ValueError(
                "mask must be True everywhere: all sentences of a MarkovLanguage have one length"
            )
        t, z = self.time(u), widest(x)
        seen = (-self.far(z[..., None, :], t, self.table)).softmax(-1)  # (B, L, K)
        p = normalised(from_others(self.language, seen) * seen)
        return self.estimate(p @ self.table, z, t).to(x.dtype), p.log()

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        u: PerExample,
        mask: Mask | None = None,
        **given,
    ) -> Float[Tensor, "B L D"]:
        """E[x_0 | x_t]."""
        return self.explain(x, u, mask, **given)[0]


class PairOracle(WordOracle):
    """The perfect network of DiffuSeq for rows (N, L) with probabilities p: it reads each source as it stands.

    E[x_0 | x_t] on the `target` (L,), over the rows whose source is there, clean; E[Emb(w) | x_1] at t = 1. float64.
    p may be p(y | x), or a law of whole rows; where all of a row is target it is the perfect network of that law.
    """

    def __init__(
        self,
        process: DiffusionLM,
        rows: Int[Tensor, "N L"],
        p: Float[Tensor, " N"],
        target: Bool[Tensor, " L"],
        table: Float[Tensor, "K D"],
    ):
        super().__init__(process, table)
        check_masses("p", p)
        if not ((rows >= 0) & (rows < len(table))).all():
            raise ValueError(f"rows must lie in 0..{len(table) - 1}, the rows of table")
        if p.shape != rows.shape[:1] or target.shape != rows.shape[1:]:
            raise ValueError(
                "rows must be (N, L), p (N,) and target (L,), not "
                f"{tuple(rows.shape)}, {tuple(p.shape)} and {tuple(target.shape)}"
            )
        self.rows, self.p, self.target = rows, p, target

    def posterior(self, x: Float[Tensor, "B L D"], t: Times) -> Float[Tensor, "B N"]:
        """p(row | x_t)."""
        z, e = widest(x)[:, None], self.table[self.rows]  # (N, L, D)
        there = torch.where((z - e).abs().amax(-1) < 1e-4, 0.0, -torch.inf)
        return (
            self.p.log() + torch.where(self.target, -self.far(z, t, e), there).sum(-1)
        ).softmax(1)

    def forward(
        self, x: Float[Tensor, "B L D"], u: PerExample, mask: Mask | None = None, **_
    ) -> Float[Tensor, "B L D"]:
        """E[x_0 | x_t] on the target, and the source itself."""
        t, z = self.time(u), widest(x)
        words = torch.einsum("bn,nld->bld", self.posterior(x, t), self.table[self.rows])
        return torch.where(self.target[:, None], self.estimate(words, z, t), words).to(
            x.dtype
        )
