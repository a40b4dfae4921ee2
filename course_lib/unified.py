"""One reverse step for every corruption: estimate x_0, then corrupt it again (Su's unified diffusion model, UDM).

Nothing is asked of the data but that it can be corrupted to any level t: vectors and noise, tokens and masks or random
letters, pictures and blur, strings and deletion. Here are the sampler, `Unified`, and finite worlds in which its
distributions are matrix products. There F_t (N, M_t) holds q(x_t | x_0) by rows, P (M_t, N) an estimate by rows, and

    p_s = p_t P F_s.

With P = p(x_0 | x_t), Bayes' rule, p_t P is the distribution of the data, so p_s is the marginal p F_s whatever the
corruption and the size of the step. With another P it is not, in general: with the likeliest x_0, with the mean, with
each token drawn on its own.  (kexue.fm/archives/9271; arXiv:2208.09392 for blur)
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .process import Process
from .shapes import Network, State, Times, check_count, check_scalar, describe
from .wrapper import Wrapper

Text = tuple[int, ...]
Rows = Float[Tensor, "_ _"]  # each row is a distribution, float64
Estimate = Callable[[Process, Network, State, Times], State]


class Unified(Wrapper):
    """A process whose step estimates x_0 and corrupts it again: x_s ~ q(x_s | x_0 = estimate).

    estimate  (process, model, x_t, t) -> x_0; `drawn` or `mean`, or your own
    """

    def __init__(self, process: Process, estimate: Estimate):
        super().__init__(process)
        if not callable(estimate):
            raise TypeError(
                f"estimate must be callable as estimate(process, model, x, t), not {describe(estimate)}"
            )
        self.estimate = estimate

    def step(self, model: Network, x: State, t: Times, s: Times) -> State:
        """x_s ~ q(x_s | x_0 = estimate); at s = 0, where nothing is corrupted, the estimate itself."""
        self.check_step(len(x), t, s)
        x0 = self.estimate(self.process, model, x, t)
        return self.process.corrupt(x0, s)


def mean(process: Process, model: Network, x: State, t: Times) -> State:
    """E[x_0 | x_t], of systems of real numbers."""
    return process.predict_x0(model, x, t)


def drawn(process: Process, model: Network, x: State, t: Times) -> State:
    """Each token on its own from p(x_0 at i | x_t), of systems of tokens."""
    # A noise's step to time 0 weighs p(x_0 | the others) by the evidence of x_t itself.
    return process.noise.step(
        process.predict_x0(model, x, t), x, torch.zeros_like(t), t
    )


# Finite worlds: estimates


def posterior(p: Float[Tensor, " N"], F: Rows) -> Rows:
    """P = p(x_0 | x_t), (M, N), by Bayes' rule; rows of x_t that never come are p."""
    check_rows("p", p[None])
    check_rows("F", F, len(p))
    joint = (p[:, None] * F).T
    total = joint.sum(1, keepdim=True)
    return torch.where(total > 0, joint / total.clamp(min=1e-300), p)


def likeliest(P: Rows) -> Rows:
    """All probability on the likeliest x_0, the first of equal ones."""
    check_rows("P", P)
    return torch.nn.functional.one_hot(P.argmax(1), P.shape[1]).double()


def alone(P: Rows, V: int, length: int) -> Rows:
    """Each token drawn on its own: the product of P's marginals. Columns of P are sequences, the last token fastest."""
    check_rows("P", P, None, V**length)
    joint = P.reshape(len(P), *[V] * length)
    out = torch.ones(len(P), 1, dtype=torch.float64)
    for i in range(1, length + 1):
        others = [j for j in range(1, length + 1) if j != i]
        marginal = joint.sum(others) if others else joint
        out = (out[:, :, None] * marginal[:, None, :]).flatten(1)
    return out


def bridge(P: Rows, F_s: Rows, F_st: Rows) -> Rows:
    """p(x_s | x_t) = sum over x_0 of P(x_0) q(x_s | x_t, x_0), (M_t, M_s): noise that is there is used again.

    F_st  (M_s, M_t), q(x_t | x_s). With P = p(x_0 | x_t) it is the exact way back, as `F_s` anew is another one
    """
    check_rows("P", P, None, len(F_s))
    check_rows("F_s", F_s)
    check_rows("F_st", F_st, F_s.shape[1], len(P))
    reached = F_s @ F_st  # q(x_t | x_0)
    weight = torch.where(reached > 0, P.T / reached.clamp(min=1e-300), 0)  # (N, M_t)
    return (F_s.T @ weight * F_st).T


# Finite worlds: corruptions


def tokenwise(Q: Rows, length: int) -> Rows:
    """F (V^L, K^L) of sequences whose tokens are corrupted alone, each by Q (V, K); the last token fastest."""
    check_rows("Q", Q)
    check_count("length", length)
    F = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(length):
        F = torch.kron(F, Q)
    return F


def masked(V: int, alpha: float) -> Rows:
    """Q (V, V + 1): a token stays with probability alpha, else it is MASK, the last state."""
    check_share("alpha", alpha)
    eye = alpha * torch.eye(V, dtype=torch.float64)
    return torch.cat([eye, torch.full((V, 1), 1 - alpha, dtype=torch.float64)], 1)


def random_letters(V: int, alpha: float) -> Rows:
    """Q (V, V): a token stays with probability alpha, else it is drawn from all V evenly."""
    check_share("alpha", alpha)
    return alpha * torch.eye(V, dtype=torch.float64) + (1 - alpha) / V


def deletions(texts: Sequence[Text], kappa: float) -> tuple[Rows, list[Text]]:
    """F (N, S) where each letter stays with probability kappa and gaps close; and the S strings that can be left.

    q(y | x) = (ways to find y in x) kappa^|y| (1 - kappa)^(|x| - |y|).
    """
    check_share("kappa", kappa)
    ways = [parts(x) for x in texts]
    states = sorted({y for w in ways for y in w}, key=lambda y: (len(y), y))
    index = {y: n for n, y in enumerate(states)}
    F = torch.zeros(len(texts), len(states), dtype=torch.float64)
    for n, (x, w) in enumerate(zip(texts, ways, strict=True)):
        for y, count in w.items():
            gone = len(x) - len(y)
            F[n, index[y]] = count * kappa ** len(y) * (1 - kappa) ** gone
    return F, states


def parts(x: Text) -> dict[Text, int]:
    """Every string that deletion can leave of x, and in how many ways."""
    ways = {(): 1}
    for token in x:
        longer = {(*y, token): count for y, count in ways.items()}
        # Each y once: a dict.
        ways = {y: ways.get(y, 0) + longer.get(y, 0) for y in [*ways, *longer]}
    return ways


def blurs(
    images: Float[Tensor, "N H W"], block: int, levels: int | None = None
) -> tuple[Rows, Float[Tensor, "M H W"]]:
    """F (N, M) of a blur without any noise, the mean of each block; and the M blurred images that there are.

    levels  means are rounded to so many grey levels from the least to the largest: then images begin to look alike
    """
    H, W = images.shape[1:]
    check_count("block", block)
    if H % block or W % block:
        raise ValueError(f"block must divide {H} and {W}, not {block}")
    means = torch.nn.functional.avg_pool2d(images[:, None].double(), block)
    if levels is not None:
        check_count("levels", levels, least=2)
        low, high = images.min(), images.max()
        step = (high - low) / (levels - 1)
        means = low + ((means - low) / step).round() * step
    seen, which = means[:, 0].unique(dim=0, return_inverse=True)
    F = torch.nn.functional.one_hot(which, len(seen)).double()
    wide = seen.repeat_interleave(block, 1).repeat_interleave(block, 2)
    return F, wide


# Bad input


def check_rows(
    name: str, F: Tensor, rows: int | None = None, columns: int | None = None
) -> None:
    """Raise unless F is a float64 matrix of so many rows and columns, each row a distribution."""
    good = isinstance(F, Tensor) and F.ndim == 2 and F.dtype == torch.float64
    if not good:
        raise TypeError(f"{name} must be float64 (n, m), not {describe(F)}")
    want = (rows or F.shape[0], columns or F.shape[1])
    if F.shape != want:
        raise ValueError(f"{name} must have shape {want}, not {tuple(F.shape)}")
    sums = F.sum(1)
    if (F < 0).any() or ((sums - 1).abs() > 1e-6).any():
        worst = sums[(sums - 1).abs().argmax()]
        raise ValueError(
            f"{name} must hold distributions: rows that are not negative and sum to 1, but one sums to {worst:g}"
        )


def check_share(name: str, value: float) -> None:
    """Raise unless 0 <= value <= 1."""
    check_scalar(name, value)
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError(f"{name} must lie in [0, 1], not {value}")
