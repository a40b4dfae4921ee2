"""Networks of the released codes of SEDD and MDLM, for the processes of this library (docs/COMPARE.md).

Both are called net(x, sigma), sigma = -log alpha_bar(t), and answer with one number for each of V tokens and MASK:
SEDD's with log scores, for `SEDD(..., scaled=False)`; MDLM's with logits, or with the log probabilities made of them,
for `MDLM`. Nothing of their code is needed here; `net` is theirs, or anything that is called so.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .categorical import Semigroup
from .nets import Wrapped
from .shapes import Network, PerExample, Tokens, check_answer, check_count, describe


class Released(Wrapped):
    """net(x, sigma) -> (B, L, V + 1) as a model(x, u) -> (B, L, V): sigma for u, and MASK's number left out.

    noise             that of the process: its clock says sigma, and whether there is a MASK
    mask              MASK's number where it is not V, the last one: BERT's is 103. `encode` and `decode` translate
    time_conditioning False gives sigma = 0 at all times, as MDLM's code does by default
    dtype             of the sigma that net is given
    """

    def __init__(
        self,
        net: Network,
        noise: Semigroup,
        mask: int | None = None,
        time_conditioning: bool = True,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(net)
        if not isinstance(noise, Semigroup):
            raise TypeError(
                f"noise must be one with a clock alpha_bar, not {describe(noise)}"
            )
        if mask is not None:
            check_count("mask", mask, least=0)
            if noise.mask is None or mask > noise.V:
                raise ValueError(
                    f"mask must be one of the {noise.K} states of a noise that masks, not {mask}"
                )
        self.noise, self.K, self.V = noise, noise.K, noise.V
        self.place = noise.mask if mask is None else mask
        self.time_conditioning, self.dtype = time_conditioning, dtype

    def forward(self, x: Tokens, u: PerExample) -> Float[Tensor, "B L V"]:
        """What the network says of the V tokens at time u."""
        sigma = -self.noise.log_alpha(u.to(x.device)).to(self.dtype)
        if not self.time_conditioning:
            sigma = torch.zeros_like(sigma)
        out = self.inner(self.decode(x), sigma)
        check_answer(out, (*x.shape, self.K), x)
        if self.place is None:
            return out
        return torch.cat([out[..., : self.place], out[..., self.place + 1 :]], -1)

    def encode(self, x: Tokens) -> Tokens:
        """Their numbers of tokens as ours: MASK is V, and those behind it move up."""
        if self.place is None:
            return x
        return torch.where(x == self.place, self.V, x - (x > self.place).to(x.dtype))

    def decode(self, x: Tokens) -> Tokens:
        """Our numbers of tokens as theirs."""
        if self.place is None:
            return x
        theirs = x + (x >= self.place).to(x.dtype)
        return torch.where(x == self.V, self.place, theirs)
