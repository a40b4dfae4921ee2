"""Token systems in tiny worlds: the exact mean of a bound, and the exact distribution of what steps write.

All K^L states and all V^L sequences are written out, so nothing is drawn and no number has an error bar. What is left
of a bound above the entropy, or of a sampler's total variation, with a perfect network is the system's own.
"""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .categorical import Law
from .joint import Joint, check_joint
from .shapes import Network, Times, Tokens, check_count
from .tokens import TokenProcess

MANY = 2**16  # states


def states(K: int, length: int) -> Int[Tensor, "N L"]:
    """All sequences of `length` tokens in 0..K-1, the last token fastest."""
    check_count("K", K)
    check_count("length", length)
    if K**length > MANY:
        raise ValueError(
            f"length must leave at most {MANY} states, not {K}^{length} = {K**length}"
        )
    return torch.cartesian_prod(*[torch.arange(K)] * length).reshape(-1, length)


@torch.no_grad()
def expected_bound(
    process: TokenProcess, model: Network, p: Joint, nodes: int = 48
) -> float:
    """sum over x_0 of p(x_0) E[bound(x_0)], nats per sequence: at least the entropy of p.

    p      (V,) * L, the distribution of the data
    nodes  Gauss-Legendre points in (0, 1) where time is continuous; all of 1..T where it is discrete
    """
    V, K = process.noise.V, process.noise.K
    check_world(process, p)
    x0, x = states(V, p.ndim), states(K, p.ndim)
    u, weights = moments(process, nodes)
    total = (p.flatten() * process.prior_term(x0)).sum().item()
    for t, weight in zip(u, weights.tolist(), strict=True):
        joint = p.flatten()[:, None] * reached(process, x0, x, t)  # (V^L, K^L)
        rows, columns = (joint > 0).nonzero(as_tuple=True)
        term = process.diffusion_term_at(
            model, x0[rows], x[columns], t.expand(len(rows))
        )
        total += weight * (joint[rows, columns] * term).sum().item()
    return total + reconstruction(process, model, p, x0, x)


def moments(process: TokenProcess, nodes: int) -> tuple[Times, Float[Tensor, " n"]]:
    """The times that the mean is over, and their weights."""
    if isinstance(process.T, int):
        T = process.T
        return torch.arange(1, T + 1), torch.full((T,), 1 / T, dtype=torch.float64)
    check_count("nodes", nodes)
    at, weights = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy((at + 1) / 2), torch.from_numpy(weights / 2)


def reached(
    process: TokenProcess, x0: Tokens, x: Int[Tensor, "M L"], t: Tensor
) -> Float[Tensor, "B M"]:
    """q(x_t = x | x_0) of all pairs, token by token."""
    rows = process.noise.row(x0, torch.zeros(len(x0)).to(t), t.expand(len(x0)))
    out = torch.ones(len(x0), len(x), dtype=torch.float64)
    for i in range(x0.shape[1]):
        out *= rows[:, i][:, x[:, i]]
    return out


def reconstruction(
    process: TokenProcess,
    model: Network,
    p: Joint,
    x0: Tokens,
    x: Int[Tensor, "M L"],
) -> float:
    """E[-log p(x_0 | x just after 0)]; 0 where there is no noise at once."""
    if not process.noisy_at_once:
        return 0.0
    first = torch.tensor(1e-30, dtype=torch.float64)
    joint = p.flatten()[:, None] * reached(process, x0, x, first)
    rows, columns = (joint > 0).nonzero(as_tuple=True)
    nll = process.reconstruction_term_at(model, x0[rows], x[columns])
    return (joint[rows, columns] * nll).sum().item()


@torch.no_grad()
def chain(process: TokenProcess, model: Network, steps: int | Times) -> Joint:
    """The exact distribution of what `sample` writes in so many steps, (V,) * L; or at the falling times given."""
    L, V, K = process.length, process.noise.V, process.noise.K
    times = (
        process.times(steps) if isinstance(steps, int) else process.check_times(steps)
    )
    x = states(K, L)
    law = process.noise.prior()[x].prod(1)
    for t, s in pairwise(times):
        here = law > 0
        now, then = (v.expand(int(here.sum())) for v in (t, s))
        each = step_law(process, model, x[here], now, then)  # (n, L, K)
        to = torch.ones(len(each), 1, dtype=torch.float64)
        for i in range(L):
            to = (to[:, :, None] * each[:, i, None, :]).flatten(1)
        law = law[here] @ to
    law = law.reshape([K] * L)
    return law[tuple(slice(0, V) for _ in range(L))].contiguous()


def step_law(
    process: TokenProcess, model: Network, x: Tokens, t: Times, s: Times
) -> Law:
    """p(x_s at i | x_t) of each token on its own, (B, L, K): what `step` draws from."""
    own = getattr(process, "law", None)  # SEDD's samplers have theirs
    if own is not None:
        p = own(process.log_score(model, x, t), x, t, s)
        # The last step of SEDD leaves no MASK.
        return torch.nn.functional.pad(p, (0, process.noise.K - p.shape[-1]))
    return process.noise.posterior(process.predict_x0(model, x, t).exp(), x, s, t)


def check_world(process: TokenProcess, p: Joint) -> None:
    """Raise unless p is a distribution of the process's sequences."""
    check_joint("p", p)
    want = (process.noise.V,) * process.length
    if p.shape != want:
        raise ValueError(f"p must have shape {want}, not {tuple(p.shape)}")
