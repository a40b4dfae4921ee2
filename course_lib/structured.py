"""Structured noise, dense K x K: similar tokens turn into each other (D3PM, arXiv:2107.03006, appendix A.2).

Neighbours     a walk on a graph of similar tokens;  nearest_neighbours
StepMatrices   any matrices, one for each step;  gaussian, band

Discretised Gaussian matrices of different beta do not commute, so there is no common eigenbasis: StepMatrices keeps
the products at every sqrt(T)-th time, and multiplies vectors by the matrices in between.
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .categorical import Law, Noise, Semigroup
from .schedules import Schedule
from .shapes import (
    PerExample,
    Table,
    Times,
    Tokens,
    check_choice,
    check_count,
    describe,
    widest,
)
from .token_checks import check_constant, check_order

# A walk on a graph


class Neighbours(Semigroup):
    """A walk on a graph of similar tokens: Q = expm(sigma R), sigma = -log alpha.  (D3PM, appendix A.2.4)

    rates R (K, K) is symmetric, its rows sum to 0 and what is off its diagonal is not negative; `nearest_neighbours`
    makes one. Uniform in the end, if the graph is connected; ValueError if it is not. One eigendecomposition at the
    start; 8 K^2 bytes.
    """

    def __init__(self, rates: Float[Tensor, "K K"], clock: Table | Schedule):
        super().__init__(clock)
        R = check_rates(rates)
        values, vectors = torch.linalg.eigh(R)
        # Rounding leaves some eigenvalues above 0, which would grow with time.
        values = values.clamp(max=0)
        # Each piece of the graph has an eigenvalue 0: the law that is uniform on it does not change.
        tiny = 1e-9 * R.abs().max()
        pieces = int((values > -tiny).sum())
        if pieces > 1:
            raise ValueError(
                f"rates must join all tokens, but the graph has {pieces} pieces: the noise would never mix them"
            )
        # eigh sorts upwards: the last is that of the
        # uniform law, exactly 0 in exact arithmetic.
        values[-1] = 0
        self.register_buffer("values", values)
        self.register_buffer("vectors", vectors)
        self.K = self.V = len(R)

    def power(self, log_alpha: PerExample) -> Float[Tensor, "B 1 K"]:
        """Eigenvalues of Q(alpha); that of the uniform law stays 1 even when nothing else is left."""
        power = (-log_alpha[:, None] * self.values).exp()
        return torch.where(self.values == 0, 1.0, power)[:, None]

    # Rounding makes entries that should be 0 slightly negative, hence the clamps.

    def after(self, p: Law, log_alpha: PerExample) -> Law:
        U = self.vectors
        in_basis = p @ U * self.power(log_alpha)
        return (in_basis @ U.T).clamp(min=0)

    def column(self, x: Tokens, log_alpha: PerExample) -> Law:
        U = self.vectors
        in_basis = U[x] * self.power(log_alpha)
        return (in_basis @ U.T).clamp(min=0)

    def rates(self, x: Tokens) -> Law:
        U = self.vectors
        column = (U[x] * self.values) @ U.T
        elsewhere = 1 - F.one_hot(x, self.K)
        return column.clamp(min=0) * elsewhere


def nearest_neighbours(
    embeddings: Float[Tensor, "K D"],
    k: int,
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> Float[Tensor, "K K"]:
    """R = A - diag(A 1), A = (G + G^T) / 2k, G[i, j] = 1 if j is among the k nearest to i.  (D3PM, A.2.4)

    Nearest by angle ("cosine") or by distance ("euclidean", as D3PM's code has it). Raises ValueError unless
    1 <= k < K, for embeddings that are not finite, and for one that is zero, which has no angle.
    """
    e = check_embeddings(embeddings)
    check_count("k", k)
    check_choice("metric", metric, ("cosine", "euclidean"))
    if k >= len(e):
        raise ValueError(f"k must be less than the {len(e)} tokens, not {k}")
    distance = cosine_distance(e) if metric == "cosine" else euclidean_distance(e)
    distance.fill_diagonal_(math.inf)  # nobody is its own neighbour
    nearest = distance.topk(k, 1, largest=False).indices
    G = torch.zeros_like(distance).scatter_(1, nearest, 1.0)
    # Made symmetric: being a neighbour is not,
    # and only a symmetric R is doubly stochastic.
    A = (G + G.T) / (2 * k)
    return A - A.sum(1).diag()


def euclidean_distance(e: Float[Tensor, "K D"]) -> Float[Tensor, "K K"]:
    """|e_i - e_j| of each two."""
    check_embeddings(e)
    # By matrix products, its default, near points would come out at random distances.
    return torch.cdist(e, e, compute_mode="donot_use_mm_for_euclid_dist")


def cosine_distance(e: Float[Tensor, "K D"]) -> Float[Tensor, "K K"]:
    """1 - cos of the angle between each two, or ValueError if one is zero."""
    check_embeddings(e)
    length = e.norm(dim=1, keepdim=True)
    if not length.all():
        zero = int(length.argmin())
        raise ValueError(
            f'embeddings must not be zero for metric="cosine", but that of token {zero} is: metric="euclidean" takes it'
        )
    direction = e / length
    return 1 - direction @ direction.T


# Any matrices, one for each step


class StepMatrices(Noise):
    """Any noise with one matrix for each step: one_step(t), (K, K) float64, for t = 1..T.

    Products of steps are kept at every sqrt(T)-th time only: 8 K^2 sqrt(T) bytes. A call costs up to sqrt(T) products
    with (L, K) per distinct time in the batch, and reads the times (on a GPU that waits).
    Raises ValueError for a matrix that is not stochastic, naming t, row and excess.
    """

    def __init__(self, one_step: Callable[[int], Tensor], T: int):
        super().__init__()
        check_count("T", T)
        # sqrt(T) products kept, at most sqrt(T) multiplied:
        # the least of memory and time together.
        self.one_step, self.T, self.every = one_step, T, math.isqrt(T)
        first = check_stochastic("one_step(1)", one_step(1))
        self.K = self.V = len(first)
        Q = torch.eye(self.K, dtype=torch.float64)
        products = [Q]
        for t in range(1, T + 1):
            step = check_stochastic(f"one_step({t})", one_step(t), self.K)
            Q = Q @ step.to(Q)
            if t % self.every == 0:
                products.append(Q)
        # Of the steps 1 .. i * every.
        self.register_buffer("products", torch.stack(products))

    def distinct(self, s: Times, t: Times) -> Iterator[tuple[int, int, Tensor]]:
        """Each pair of times once, with the examples that have it."""
        self.check_moments("s", s)
        self.check_moments("t", t)
        check_order(s, t)
        pairs, which = torch.stack([s, t], 1).unique(dim=0, return_inverse=True)
        for i, (first, final) in enumerate(pairs.tolist()):
            yield first, final, which == i

    def factors(self, s: int, t: int) -> list[Tensor]:
        """Matrices whose product is Q_{s->t}, as few as are at hand."""
        if s > 0:
            return self.steps(s, t)
        last_kept = t // self.every
        return [self.products[last_kept], *self.steps(last_kept * self.every, t)]

    def steps(self, s: int, t: int) -> list[Tensor]:
        """The matrices of the steps s + 1 .. t."""
        matrices = map(self.one_step, range(s + 1, t + 1))
        return [Q.to(self.products) for Q in matrices]

    def mix(self, p: Float[Tensor, "B L _"], s: Times, t: Times) -> Law:
        p = widest(p)
        out = torch.empty_like(p)
        for first, final, here in self.distinct(s, t):
            v = p[here]
            # Vector times matrix from the left: (L, K) each time, where a product of
            # matrices would be (K, K).
            for Q in self.factors(first, final):
                v = v @ Q
            out[here] = v
        return out

    def likelihood(self, x_t: Tokens, s: Times, t: Times) -> Law:
        out = widest(F.one_hot(x_t, self.K))
        for first, final, here in self.distinct(s, t):
            v = out[here]
            # A column: the same product from the other end.
            for Q in reversed(self.factors(first, final)):
                v = v @ Q.T
            out[here] = v
        return out


def gaussian(K: int, beta: Float[Tensor, " T"]) -> StepMatrices:
    """Discretised Gaussian steps for ordinal data.  (D3PM, appendix A.2.3)

    Off the diagonal Q_t[i, j] = exp(-4 (i - j)^2 / ((K - 1)^2 beta_t)) / Z, where Z sums over all 2K - 1 offsets and so
    is the same in every row; the diagonal takes what is left. So Q_t is symmetric, and uniform noise in the end.
    beta_t > 0 is a width, and may be above 1. Matrices of different beta do not commute: their product has no closed
    form.
    """
    check_count("K", K, least=2)
    beta = check_beta(beta)
    if not (beta > 0).all():
        raise ValueError("beta must be positive for gaussian noise")
    offset = torch.arange(K, dtype=torch.float64)
    width = (K - 1) ** 2 * beta[:, None]
    w = (-4 * offset.square() / width).exp()  # (T, K)
    Z = 2 * w.sum(1, keepdim=True) - 1  # both signs of an offset, but 0 once
    w = w / Z
    return StepMatrices(ByOffset(w), len(beta))


def band(K: int, beta: Float[Tensor, " T"], width: int) -> StepMatrices:
    """Steps to one of the `width` tokens on either side, each with probability beta_t / K; the rest stays.

    (D3PM, appendix A.2.5, as its code for images has it.)  beta_t lies in [0, 1].
    """
    check_count("K", K, least=2)
    check_count("width", width)
    if width >= K:
        raise ValueError(f"width must be less than K = {K}, not {width}")
    beta = check_beta(beta, most=1.0)
    # Over K and not over the width, so that beta means what it does for uniform noise.
    near = (torch.arange(K) <= width).double() / K
    return StepMatrices(ByOffset(beta[:, None] * near), len(beta))


class ByOffset:
    """Q_t of noise that only looks at |i - j|, from the chances of each offset, (T, K). A class, since it pickles."""

    def __init__(self, chances: Float[Tensor, "T K"]):
        self.chances = chances

    def __call__(self, t: int) -> Float[Tensor, "K K"]:
        return by_offset(self.chances[t - 1])


def by_offset(w: Float[Tensor, " K"]) -> Float[Tensor, "K K"]:
    """The symmetric matrix with w[|i - j|] off the diagonal, and rows that sum to 1."""
    i = torch.arange(len(w))
    Q = w[(i[:, None] - i).abs()]
    excess = Q.sum(1) - 1
    return Q - excess.diag()


# Bad input


def check_beta(beta: Tensor, most: float = math.inf) -> Float[Tensor, " T"]:
    """beta in float64, or an error: (T,), T >= 1, each in [0, most] and finite."""
    check_constant("beta", beta, "(T,)")
    good = (beta >= 0) & (beta <= most) & beta.isfinite()
    if not good.all():
        t = int((~good).nonzero()[0])
        must = (
            "be finite and not negative"
            if most == math.inf
            else f"lie in [0, {most:g}]"
        )
        raise ValueError(
            f"beta must {must}, but at t = {t + 1} it is {beta[t].item():g}"
        )
    return widest(beta)


def check_stochastic(
    name: str, Q: Tensor, K: int | None = None, tol: float = 1e-9
) -> Float[Tensor, "K K"]:
    """Q in float64, or an error that says which row is no law, and by how much."""
    check_constant(name, Q, "(K, K)")
    if K is not None and len(Q) != K:
        raise ValueError(
            f"{name} must have shape ({K}, {K}) as one_step(1) has, not {tuple(Q.shape)}"
        )
    Q = widest(Q)
    if (Q < 0).any():
        i, j = (Q < 0).nonzero()[0].tolist()
        raise ValueError(
            f"{name} must not be negative, but row {i} holds {Q[i, j].item():g} at {j}"
        )
    excess = Q.sum(1) - 1
    if not (excess.abs() <= tol).all():
        i = int(excess.abs().nan_to_num(nan=torch.inf).argmax())
        raise ValueError(
            f"each row of {name} must sum to 1, but row {i} sums to 1 {excess[i].item():+.3g}"
        )
    return Q


def check_rates(R: Tensor) -> Float[Tensor, "K K"]:
    """R in float64, or an error: (K, K), symmetric, not negative off the diagonal, rows sum to 0."""
    check_constant("rates", R, "(K, K)")
    R = widest(R)
    if not R.isfinite().all():
        raise ValueError("rates must be finite")
    small = 1e-9 * R.abs().max().clamp(min=1e-300)
    if not ((R - R.T).abs() <= small).all():
        raise ValueError("rates must be symmetric")
    off_diagonal = R - R.diag().diag()
    if (off_diagonal < 0).any():
        raise ValueError("rates must not be negative off the diagonal")
    sums = R.sum(1)
    if not (sums.abs() <= small).all():
        i = int(sums.abs().argmax())
        raise ValueError(
            f"each row of rates must sum to 0, but row {i} sums to {sums[i].item():.3g}"
        )
    # eigh reads one triangle only.
    return (R + R.T) / 2


def check_embeddings(e: Tensor) -> Float[Tensor, "K D"]:
    """e in float64, or ValueError unless it is (K, D), finite, and nothing trains it."""
    if not (isinstance(e, Tensor) and e.is_floating_point() and e.ndim == 2):
        raise ValueError(f"embeddings must be a float tensor (K, D), not {describe(e)}")
    if e.requires_grad:
        raise ValueError(
            "embeddings must not require a gradient: no rate passes it on, give embeddings.detach()"
        )
    if not e.isfinite().all():
        raise ValueError("embeddings must be finite")
    return widest(e)
