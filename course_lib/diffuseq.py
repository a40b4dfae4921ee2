"""DiffuSeq: sequence to sequence by partial noising (Gong et al. 2023, arXiv:2210.08933).

Source x and target y stand in one row, z = x (+) y, and only the target is noised. The network sees the source clean
at every time, in training and in sampling, so it learns p(y | x). A batch is `sentences.Pairs`.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .diffusion_lm import DiffusionLM, Vectors, embed
from .infilling import Keep
from .sentences import Pairs, written
from .shapes import Mask, Times, Tokens, check_choice
from .word_nets import EmbeddingNet, MixingNet


class DiffuSeq(DiffusionLM):
    """Diffusion-LM of the target given the source: the source is never noised, and the bound counts the target only.

    over    the loss counts the "target", as in the paper, or "all", as in its code, where a part of it is copying
    absorb  gamma of DiffuSeq-v2: in training the vector of a target's word becomes 0 with probability
            gamma sqrt(1 - alpha_bar_t); for a network in `Centred`, whose origin is the learned absorbing state
    """

    def __init__(self, *args, over: Literal["target", "all"] = "target", absorb: float = 0.0, **settings):
        super().__init__(*args, **settings)
        check_choice("over", over, ("target", "all"))
        if not 0 <= absorb <= 1:
            raise ValueError(f"absorb must lie in [0, 1], not {absorb}")
        self.over, self.absorb = over, absorb

    def read(self, data: Pairs) -> tuple[Tokens, None, Mask]:
        """The tokens, no labels, and where the target is."""
        return data.tokens, None, data.target

    def trained(self, data: Pairs) -> Mask:
        """The positions that the loss counts."""
        return data.target if self.over == "target" else written(data.tokens)

    def encode(self, model, data: Pairs) -> Vectors:
        """x_0: Emb(w) on the source, N(Emb(w), sigma_0^2 I) on the target."""
        clean = embed(model, data.tokens)
        return torch.where(data.target[..., None], self._noised(clean), clean)

    def draw(self, model, data: Pairs, t: Times) -> tuple[Mask, Vectors, Vectors, Vectors]:
        """Where the network may look, and one draw of Emb(w), x_0, x_t: on the source all three are Emb(w)."""
        clean, noised = embed(model, data.tokens), data.target[..., None]
        x0 = torch.where(noised, self._noised(clean), clean)
        return written(data.tokens), clean, x0, torch.where(noised, self.corrupt(x0, t), clean)

    def disturb(self, x_t: Vectors, data: Pairs, t: Times) -> Vectors:
        """Soft absorbing: a word of the target is nothing for a moment.  (arXiv:2310.05793, eq. 6)"""
        if not self.absorb:
            return x_t
        p = self.absorb * (-torch.expm1(self.log_alpha_bar[t])).sqrt().to(x_t.dtype)
        gone = data.target & (torch.rand(data.target.shape, device=x_t.device) < p[:, None])
        return x_t.masked_fill(gone[..., None], 0)

    def anchor(self, model, data: Pairs) -> Keep:
        """For `sample(..., clamp=process.anchor(model, data))`: the source is put back, as clean as in training.

        So it is exact: the network never saw a source with noise, and gives the law of targets given it.
        """
        with torch.no_grad():
            return Keep(~data.target, embed(model, data.tokens), exact=True)


class Centred(nn.Module):
    """A network whose vectors are measured from a learned point m, the soft absorbing state of DiffuSeq-v2.

    x_t = m + sqrt(abar) (x_0 - m) + sqrt(1 - abar) eps  is plain diffusion of x - m. So every posterior and solver
    is right as it is, and the prior is N(m, I); the released code shifts the noise only.  (arXiv:2310.05793, eq. 5)
    """

    def __init__(self, model: EmbeddingNet):
        super().__init__()
        if isinstance(model, MixingNet):
            raise TypeError(
                "model must be an EmbeddingNet: a MixingNet reads x_t as noise around multiples of Emb(w)"
            )
        self.model, self.m = model, nn.Parameter(torch.zeros(model.embedding.embedding_dim))
        self.recall, self.classes = model.recall, model.classes

    @property
    def table(self) -> Float[Tensor, "K D"]:
        """The embeddings of all tokens, from m."""
        return self.model.table - self.m

    def embed(self, tokens: Tokens) -> Vectors:
        """Emb(w) - m."""
        return self.model.embed(tokens) - self.m

    def logits(self, x: Vectors) -> Float[Tensor, "B L K"]:
        """x . e_w - |e_w|^2 / 2, both from m."""
        return x @ self.table.T - self.table.square().sum(-1) / 2

    def explain(self, x: Vectors, u, mask=None, before=None, label=None):
        """The estimate of x_0 - m, and the log law of words."""
        before = None if before is None else before + self.m
        x0, log_p = self.model.explain(x + self.m, u, mask, before, label)
        return x0 - self.m, log_p

    def forward(self, x: Vectors, u, *given) -> Vectors:
        """The estimate of x_0 - m."""
        return self.explain(x, u, *given)[0]
