"""Structured noise, dense K x K: similar tokens turn into each other (D3PM, arXiv:2107.03006, appendix A.2).

Neighbours     a walk on a graph of similar tokens;  nearest_neighbours
StepMatrices   any matrices, one for each step;  gaussian, band
"""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .categorical import Law, Noise, Semigroup
from .schedules import Schedule
from .shapes import PerExample, Table, Times, Tokens, check_count, describe, widest


class Neighbours(Semigroup):
    """A walk on a graph of similar tokens: Q = expm(sigma R), sigma = -log alpha.  (D3PM, appendix A.2.5)

    rates R (K, K) is symmetric, its rows sum to 0 and what is off its diagonal is not negative; `nearest_neighbours`
    makes one. Uniform in the end, if the graph is connected; ValueError if it is not. One eigendecomposition at the
    start; 8 K^2 bytes.
    """

    def __init__(self, rates: Float[Tensor, "K K"], clock: Table | Schedule):
        super().__init__(clock)
        R = check_rates(rates)
        values, vectors = torch.linalg.eigh(R)
        values = values.clamp(max=0)
        if (pieces := int((values > -1e-9 * R.abs().max()).sum())) > 1:
            raise ValueError(
                f"rates must join all tokens, but the graph has {pieces} pieces: the noise would never mix them"
            )
        values[-1] = 0
        self.register_buffer("values", values)
        self.register_buffer("vectors", vectors)
        self.K = self.V = len(R)

    def _power(self, log_alpha: PerExample) -> Float[Tensor, "B 1 K"]:
        """Eigenvalues of Q(alpha); that of the uniform law stays 1 even when nothing else is left."""
        power = (-log_alpha[:, None] * self.values).exp()
        return torch.where(self.values == 0, 1.0, power)[:, None]

    def after(self, p: Law, log_alpha: PerExample) -> Law:
        U = self.vectors.to(p.dtype)
        return ((p @ U * self._power(log_alpha).to(p.dtype)) @ U.T).clamp(min=0)

    def column(self, x: Tokens, log_alpha: PerExample) -> Law:
        return ((self.vectors[x] * self._power(log_alpha)) @ self.vectors.T).clamp(min=0)

    def rates(self, x: Tokens) -> Law:
        return ((self.vectors[x] * self.values) @ self.vectors.T).clamp(min=0) * (1 - F.one_hot(x, self.K))


def nearest_neighbours(embeddings: Float[Tensor, "K D"], k: int) -> Float[Tensor, "K K"]:
    """R = A - diag(A 1), A = (G + G^T) / 2k, G[i, j] = 1 if j is among the k nearest to i by cosine.  (D3PM, A.2.5)

    Raises ValueError unless 1 <= k < K, and for an embedding that is zero.
    """
    K = len(embeddings)
    check_count("k", k)
    if k >= K:
        raise ValueError(f"k must be less than the {K} tokens, not {k}")
    e = widest(embeddings)
    if not (length := e.norm(dim=1, keepdim=True)).all():
        raise ValueError(f"embeddings must not be zero, but that of token {int(length.argmin())} is")
    cosine = (e / length) @ (e / length).T
    near = cosine.fill_diagonal_(-2).topk(k, 1).indices
    G = torch.zeros_like(cosine).scatter_(1, near, 1.0)
    A = (G + G.T) / (2 * k)
    return A - A.sum(1).diag()


class StepMatrices(Noise):
    """Any noise with one matrix for each step: one_step(t), (K, K) float64, for t = 1..T.

    Products of steps are kept at every sqrt(T)-th time only: 8 K^2 sqrt(T) bytes. A call costs up to sqrt(T) products
    with (L, K) per distinct time in the batch, and reads the times (on a GPU that waits).
    Raises ValueError for a matrix that is not stochastic, naming t, row and excess.
    """

    def __init__(self, one_step: Callable[[int], Tensor], T: int):
        super().__init__()
        check_count("T", T)
        self.one_step, self.T, self.every = one_step, T, max(1, math.isqrt(T))
        Q = torch.eye(len(one_step(1)), dtype=torch.float64)
        self.K = self.V = len(Q)
        kept = [Q]
        for t in range(1, T + 1):
            Q = Q @ check_stochastic(f"one_step({t})", one_step(t))
            if t % self.every == 0:
                kept.append(Q)
        self.register_buffer("products", torch.stack(kept))  # of the steps 1 .. i * every

    def _distinct(self, s: Times, t: Times) -> Iterator[tuple[int, int, Tensor]]:
        """Each pair of times once, with the examples that have it."""
        pairs, which = torch.stack([s, t], 1).unique(dim=0, return_inverse=True)
        for i, (first, final) in enumerate(pairs.tolist()):
            yield first, final, which == i

    def _factors(self, s: int, t: int) -> list[Tensor]:
        """Matrices whose product is Q_{s->t}, as few as are at hand."""
        jump = t // self.every * self.every if s == 0 else s
        steps = [self.one_step(i).to(self.products) for i in range(jump + 1, t + 1)]
        return ([self.products[jump // self.every]] if s == 0 else []) + steps

    def mix(self, p: Float[Tensor, "B L _"], s: Times, t: Times) -> Law:
        out = torch.empty_like(p)
        for first, final, here in self._distinct(s, t):
            v = widest(p[here])
            for Q in self._factors(first, final):
                v = v @ Q
            out[here] = v.to(p.dtype)
        return out

    def likelihood(self, x_t: Tokens, s: Times, t: Times) -> Law:
        out = widest(F.one_hot(x_t, self.K))
        for first, final, here in self._distinct(s, t):
            v = out[here]
            for Q in reversed(self._factors(first, final)):
                v = v @ Q.T
            out[here] = v
        return out


def gaussian(K: int, beta: Float[Tensor, " T"]) -> StepMatrices:
    """Discretised Gaussian steps for ordinal data.  (D3PM, appendix A.2.3)

    Off the diagonal Q_t[i, j] = exp(-4 (i - j)^2 / ((K - 1)^2 beta_t)) / Z, where Z sums over all 2K - 1 offsets and so
    is the same in every row; the diagonal takes what is left. So Q_t is symmetric, and uniform noise in the end.
    Matrices of different beta do not commute: the product has no closed form.
    """
    check_count("K", K, least=2)
    beta = check_beta(beta)
    if not (beta > 0).all():
        raise ValueError("beta must be positive for gaussian noise")
    offset = torch.arange(K, dtype=torch.float64)
    w = (-4 * offset.square() / ((K - 1) ** 2 * beta[:, None])).exp()
    w = w / (2 * w.sum(1, keepdim=True) - 1)  # (T, K): both signs of an offset, but 0 once
    return StepMatrices(lambda t: symmetric(w[t - 1]), len(beta))


def band(K: int, beta: Float[Tensor, " T"], width: int) -> StepMatrices:
    """Steps to one of the `width` tokens on either side, each with probability beta_t / K; the rest stays.

    (D3PM, appendix A.2.4, as its code for images has it.)
    """
    check_count("K", K, least=2)
    check_count("width", width)
    if width >= K:
        raise ValueError(f"width must be less than K = {K}, not {width}")
    near = (torch.arange(K) <= width).double() / K
    beta = check_beta(beta)
    return StepMatrices(lambda t: symmetric(beta[t - 1] * near), len(beta))


def symmetric(w: Float[Tensor, " K"]) -> Float[Tensor, "K K"]:
    """The symmetric matrix with w[|i - j|] off the diagonal, and rows that sum to 1."""
    i = torch.arange(len(w))
    Q = w[(i[:, None] - i).abs()]
    return Q + (1 - Q.sum(1)).diag()


# Bad input


def check_beta(beta: Tensor) -> Tensor:
    """beta in float64, or an error: (T,), T >= 1, each in [0, 1]."""
    if not (isinstance(beta, Tensor) and beta.is_floating_point() and beta.ndim == 1 and len(beta)):
        raise ValueError(f"beta must be a float tensor (T,) with T >= 1, not {describe(beta)}")
    if not ((beta >= 0) & (beta <= 1)).all():
        t = int((~((beta >= 0) & (beta <= 1))).nonzero()[0])
        raise ValueError(f"beta must lie in [0, 1], but at t = {t + 1} it is {beta[t].item():g}")
    return widest(beta.detach())


def check_stochastic(name: str, Q: Tensor, tol: float = 1e-9) -> Tensor:
    """Q in float64, or an error that says which row is no law, and by how much."""
    if not (
        isinstance(Q, Tensor) and Q.is_floating_point() and Q.ndim == 2 and Q.shape[0] == Q.shape[1] >= 2
    ):
        raise ValueError(f"{name} must be a float tensor (K, K) with K >= 2, not {describe(Q)}")
    Q = widest(Q.detach())
    if (Q < 0).any():
        i, j = (int(v) for v in (Q < 0).nonzero()[0])
        raise ValueError(f"{name} must not be negative, but row {i} holds {Q[i, j].item():g} at {j}")
    excess = Q.sum(1) - 1
    if not (excess.abs() <= tol).all():
        i = int(excess.abs().nan_to_num(nan=torch.inf).argmax())
        raise ValueError(f"each row of {name} must sum to 1, but row {i} sums to 1 {excess[i].item():+.3g}")
    return Q


def check_rates(R: Tensor) -> Tensor:
    """R in float64, or an error: (K, K), symmetric, not negative off the diagonal, rows sum to 0."""
    if not (
        isinstance(R, Tensor) and R.is_floating_point() and R.ndim == 2 and R.shape[0] == R.shape[1] >= 2
    ):
        raise ValueError(f"rates must be a float tensor (K, K) with K >= 2, not {describe(R)}")
    R = widest(R.detach())
    scale = R.abs().max().clamp(min=1e-300)
    if not ((R - R.T).abs() <= 1e-9 * scale).all():
        raise ValueError("rates must be symmetric")
    if ((R - R.diag().diag()) < 0).any():
        raise ValueError("rates must not be negative off the diagonal")
    if not (R.sum(1).abs() <= 1e-9 * scale).all():
        i = int(R.sum(1).abs().argmax())
        raise ValueError(f"each row of rates must sum to 0, but row {i} sums to {R[i].sum().item():.3g}")
    return (R + R.T) / 2
