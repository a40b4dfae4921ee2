"""One small noise of each kind, with its matrices written out in loops; and how to count draws."""

import math

import torch
from torch import tensor
from torch.utils._python_dispatch import TorchDispatchMode

from course_lib.absorbing import Absorbing
from course_lib.categorical import Noise
from course_lib.mask_uniform import MaskUniform
from course_lib.stationary import Stationary, Uniform
from course_lib.structured import Neighbours, band, gaussian

V, T, L = 4, 6, 3
TABLE = tensor([1.0, 0.9, 0.62, 0.4, 0.3, 0.11, 0.02], dtype=torch.float64)
BETA = tensor([0.05, 0.3, 0.2, 0.6, 0.9, 0.5], dtype=torch.float64)
PI = tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
RATES = tensor(
    [[-2.0, 1, 0.5, 0.5], [1, -1, 0, 0], [0.5, 0, -0.5, 0], [0.5, 0, 0, -0.5]], dtype=torch.float64
)

NOISES = {
    "replace": lambda: Stationary(PI, TABLE),
    "uniform": lambda: Uniform(V, TABLE),
    "absorbing": lambda: Absorbing(V, TABLE),
    "absorbing to 0": lambda: Absorbing(V, torch.cat([TABLE[:-1], torch.zeros(1)])),
    "uniform to 0": lambda: Uniform(V, torch.cat([TABLE[:-1], torch.zeros(1)])),
    "mask and uniform": lambda: MaskUniform(V, TABLE, 0.3),
    "neighbours": lambda: Neighbours(RATES, TABLE),
    "gaussian": lambda: gaussian(V, BETA),
    "band": lambda: band(V, BETA, 1),
}
CLOSED = [name for name in NOISES if name.startswith(("replace", "uniform", "absorbing"))]
DOUBLY = ["uniform", "neighbours", "gaussian", "band"]


def times(*values):
    return tensor(values)


def step_matrix(name: str, t: int) -> torch.Tensor:
    """Q_t as the papers print it, in loops; rows are from."""
    alpha = (TABLE[t] / TABLE[t - 1]).item()
    beta, K = 1 - alpha, V + (name.startswith(("absorbing", "mask")))
    if "to 0" in name and t == T:
        alpha, beta = 0.0, 1.0
    Q = torch.zeros(K, K, dtype=torch.float64)
    for i in range(K):
        for j in range(K):
            if name.startswith("uniform"):
                Q[i, j] = 1 - (K - 1) / K * beta if i == j else beta / K
            elif name == "replace":
                Q[i, j] = alpha * (i == j) + beta * PI[j]
            elif name.startswith("absorbing"):
                Q[i, j] = 1.0 * (j == V) if i == V else alpha * (i == j) + beta * (j == V)
            elif name == "gaussian":
                w = lambda n: math.exp(-4 * n**2 / ((K - 1) ** 2 * BETA[t - 1].item()))  # noqa: E731
                Q[i, j] = w(i - j) / sum(w(n) for n in range(-(K - 1), K)) if i != j else 0
            elif name == "band":
                Q[i, j] = BETA[t - 1] / K if abs(i - j) == 1 else 0
    if name in ("gaussian", "band"):
        for i in range(K):
            Q[i, i] = 1 - Q[i].sum()
    if name == "neighbours":
        Q = torch.matrix_exp(-math.log(alpha) * RATES)
    if name == "mask and uniform":
        R = torch.zeros(K, K, dtype=torch.float64)
        R[:V, :V] = 0.7 / V
        R[:V, V] = 0.3
        R[:V, :V] -= torch.eye(V)
        Q = torch.matrix_exp(-math.log(alpha) * R)
    return Q


def counted(draws: torch.Tensor, K: int) -> torch.Tensor:
    return draws.flatten().bincount(minlength=K) / draws.numel()


def agree(draws: torch.Tensor, law: torch.Tensor, sigmas: float = 5.0) -> bool:
    error = (law * (1 - law) / draws.numel()).sqrt()
    return bool(((counted(draws, len(law)) - law).abs() <= sigmas * error + 1e-12).all())


def pairs(noise, t):
    """All (x_0, x_t) that can happen, as rows of one token; and their times."""
    Q = noise.matrix(times(0), times(t))[0]
    x0, x_t = (Q[: noise.V] > 0).nonzero(as_tuple=True)
    return x0[:, None], x_t[:, None], torch.full_like(x0, t), Q[x0, x_t]


def general(noise, method):
    """The method as the base class has it."""
    return getattr(Noise, method).__get__(noise)


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has that was made inside `with Largest() as made:`."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.untyped_storage().nbytes() // out.element_size())
        return out
