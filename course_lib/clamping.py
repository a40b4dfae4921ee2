"""The clamping trick: an estimate of x_0 becomes the nearest word's vector (Li et al. 2022, arXiv:2205.14217, 4.2).

Not to be taken for `sample(..., clamp=...)`, which puts known parts back.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .embeddings import LogLaw, Vectors, check_word_network, nearest_where_finite
from .nets import Wrapped
from .shapes import Network, PerExample, check_scalar, per_example


class ClampingTrick(Wrapped):
    """The network, whose estimate of x_0 becomes the nearest embedding, from u = start on down.

    The estimate of the noise then follows from the rounded x_0 in every sampler. What is not finite stays so, for
    the sampler to see. Raises ValueError for a start outside [0, 1], TypeError for a network without words.
    """

    def __init__(self, inner: Network, start: float = 1.0):
        super().__init__(inner)
        check_word_network(inner, "table")
        check_scalar("start", start)
        if not 0 <= start <= 1:
            raise ValueError(f"start must lie in [0, 1], not {start}")
        self.start = start

    def forward(self, x: Vectors, u: PerExample, **given: Tensor | None) -> Vectors:
        """The estimate of x_0, rounded where u <= start."""
        return self.rounded(self.inner(x, u, **given), u)

    def explain(
        self, x: Vectors, u: PerExample, **given: Tensor | None
    ) -> tuple[Vectors, LogLaw]:
        """The same, and the log law of words behind it as the network has it."""
        x0, log_p = self.inner.explain(x, u, **given)
        return self.rounded(x0, u), log_p

    def rounded(self, x0: Vectors, u: PerExample) -> Vectors:
        """The vector of the word nearest to x0, where u <= start."""
        table = self.inner.table
        words, finite = nearest_where_finite(x0, table)
        late = per_example(u <= self.start, x0)
        return torch.where(late & finite[..., None], F.embedding(words, table), x0)
