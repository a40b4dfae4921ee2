"""DiffuSeq: sequence to sequence by partial noising (Gong et al. 2023, arXiv:2210.08933).

Source x and target y stand in one row, z = x (+) y, and only the target is noised. The network sees the source clean
at every time, in training and in sampling, so it learns p(y | x). A batch is `sentences.Pairs`.

A target is filled up with END, which is a word, since there the network must say where it ends. Words are asked for
where they are wanted: elsewhere the estimate of x_0 is x_t itself, which for a source is the truth. A learned
absorbing state is a change of origin: measured from m, every posterior, prior and solver is plain.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .diffusion_lm import DiffusionLM
from .embeddings import LogLaw, Vectors, embed, nearness
from .infilling import Keep
from .nets import Wrapped
from .process import evaluating
from .sentences import Pairs, written
from .shapes import (
    Mask,
    Network,
    PerExample,
    Times,
    Tokens,
    check_choice,
    check_scalar,
    describe,
)
from .word_nets import EmbeddingNet, MixingNet


class DiffuSeq(DiffusionLM):
    """Diffusion-LM of the target given the source: the source is never noised, and the bound counts the target only.

    over    the loss counts the "target", as in the paper, or "all", as in its code, where a part of it is copying
    absorb  gamma of DiffuSeq-v2: in training the vector of a target's word becomes 0 with probability
            gamma sqrt(1 - alpha_bar_t); for a network in `SoftAbsorbing`, whose origin is the learned absorbing state
    """

    def __init__(
        self,
        *args,
        over: Literal["target", "all"] = "target",
        absorb: float = 0.0,
        **settings,
    ):
        super().__init__(*args, **settings)
        check_choice("over", over, ("target", "all"))
        check_scalar("absorb", absorb)
        if not 0 <= absorb <= 1:
            raise ValueError(f"absorb must lie in [0, 1], not {absorb}")
        self.over, self.absorb = over, absorb

    # What a batch is

    def unpack(self, data: Pairs) -> tuple[Tokens, None, Mask]:
        """The tokens, no labels, and where the target is. Raises for a row without a target, or one at PAD."""
        if not isinstance(data, Pairs):
            raise TypeError(f"data must be Pairs, not {describe(data)}")
        tokens, target = data.checked()
        return tokens, None, target

    def loss_mask(self, data: Pairs) -> Mask:
        """The places that the loss counts."""
        # The bound is that of p(y | x): the source is given. Over all places a part of
        # the loss is copying.
        return data.target if self.over == "target" else written(data.tokens)

    # Partial noising (section 3.1)

    def noise_first(self, clean: Vectors, data: Pairs) -> Vectors:
        """x_0: Emb(w) on the source, N(Emb(w), sigma_0^2 I) on the target."""
        return torch.where(
            data.target[..., None], super().noise_first(clean, data), clean
        )

    def noise_on(self, x0: Vectors, data: Pairs, t: Times) -> Vectors:
        """x_t on the target; the source stays."""
        # Section 3.1: q(z_t | z_0) for y only. At every t the source is what it was, in
        # training as in sampling.
        return torch.where(data.target[..., None], super().noise_on(x0, data, t), x0)

    def disturb(self, x_t: Vectors, data: Pairs, t: Times) -> Vectors:
        """Soft absorbing: a word of the target is nothing for a moment.  (arXiv:2310.05793, eq. 6)"""
        if not self.absorb:
            return x_t
        # More words are lost where there is more noise: gamma sqrt(1 - alpha_bar_t).
        sigma = (-torch.expm1(self.log_alpha_bar[t])).sqrt()
        p = self.absorb * sigma.to(x_t.dtype)
        gone = data.target & (
            torch.rand(data.target.shape, device=x_t.device) < p[:, None]
        )
        return x_t.masked_fill(gone[..., None], 0)

    def anchor(self, model: Network, data: Pairs) -> Keep:
        """For `sample(..., clamp=process.anchor(model, data))`: the source is put back, as clean as in training.

        So it is exact: the network never saw a source with noise, and gives the law of targets given it.
        """
        tokens, _, target = self.unpack(data)
        with torch.no_grad(), evaluating(model):
            return Keep(~target, embed(model, tokens), exact=True)


class SoftAbsorbing(Wrapped):
    """A network whose vectors are measured from a learned point m, the soft absorbing state of DiffuSeq-v2.

    x_t = m + sqrt(abar) (x_0 - m) + sqrt(1 - abar) eps  is plain diffusion of x - m. So every posterior and solver
    is right as it is, and the prior is N(m, I); the released code shifts the noise only.  (arXiv:2310.05793, eq. 5)
    """

    def __init__(self, inner: EmbeddingNet):
        super().__init__(inner)
        if isinstance(inner, MixingNet):
            raise TypeError(
                "inner must be an EmbeddingNet: a MixingNet reads x_t as noise around multiples of Emb(w)"
            )
        self.m = nn.Parameter(torch.zeros(inner.embedding.embedding_dim))

    @property
    def table(self) -> Float[Tensor, "K_out D"]:
        """The embeddings of the words that can be its answer, from m."""
        return self.inner.table - self.m

    def embed(self, tokens: Tokens) -> Vectors:
        """Emb(w) - m."""
        return self.inner.embed(tokens) - self.m

    def logits(self, x: Float[Tensor, "*places D"]) -> LogLaw:
        """x . e_w - |e_w|^2 / 2, both from m."""
        return nearness(x, self.table)

    def explain(
        self, x: Vectors, u: PerExample, **given: Tensor | None
    ) -> tuple[Vectors, LogLaw]:
        """The estimate of x_0 - m, and the log law of words."""
        x0, log_p = self.inner.explain(x + self.m, u, **self.from_origin(given))
        return x0 - self.m, log_p

    def forward(self, x: Vectors, u: PerExample, **given: Tensor | None) -> Vectors:
        """The estimate of x_0 - m."""
        return self.inner(x + self.m, u, **self.from_origin(given)) - self.m

    def from_origin(self, given: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
        """What the network inside is given: its earlier estimate is measured from m, too."""
        before = given.get("before")
        return given if before is None else {**given, "before": before + self.m}
