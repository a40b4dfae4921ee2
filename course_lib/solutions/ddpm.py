"""Chapter 1, DDPM: the reference answers, their checks and the classic wrong answers.

alpha_bar is a table of T + 1 entries with alpha_bar[0] = 1; a network is called model(x_t, u), u = t / T.
The checks probe small cases whose answer is known exactly; only the sampler is judged by moments.
"""

import math
from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor

from ..exercise import close, define, diagnose
from ..shapes import like

ALPHA_BAR = torch.tensor([1.0, 0.9, 0.7, 0.45, 0.2, 0.05], dtype=torch.float64)  # T = 5
T = len(ALPHA_BAR) - 1

Mistakes = dict[str, tuple[Callable, str]]  # label -> (wrong answer, its hint)


def functions(mistakes: Mistakes) -> dict[str, Callable]:
    """Label -> wrong answer, as `define` wants them."""
    return {label: wrong for label, (wrong, _) in mistakes.items()}


def compare(fn: Callable, reference: Callable, mistakes: Mistakes, *probe) -> str | None:
    """None when fn answers the probe like the reference, else the hint of the mistake that it answers like."""
    want = reference(*probe)
    suspects = {hint: wrong(*probe) for wrong, hint in mistakes.values()}
    return diagnose(fn(*probe), want, suspects)


def hear(x_t: Tensor, u: Tensor) -> None:
    """Refuse what a float32 network would refuse."""
    if getattr(u, "shape", None) != x_t.shape[:1]:
        got = tuple(u.shape) if isinstance(u, Tensor) else type(u).__name__
        raise ValueError(f"the network needs one time u per example, shape ({len(x_t)},), not {got}")
    if x_t.dtype != torch.float32:
        raise TypeError(f"the network computes in float32 and was given an x_t in {x_t.dtype}")


# --- q_sample ---


def q_sample(x0, t, alpha_bar, eps):
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, one time per example."""
    abar = alpha_bar[t]  # not t - 1: entry 0 is the data
    abar = abar.reshape(-1, *[1] * (x0.ndim - 1))  # (B, 1, ..., 1): else it may land on the wrong axis
    x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * eps  # roots: alpha_bar is a share of the variance
    return x_t.to(x0.dtype)


Q_SAMPLE: Mistakes = {
    "alpha_bar without its root": (
        lambda x0, t, a, eps: like(a[t], x0) * x0 + like(1 - a[t], x0).sqrt() * eps,
        "the data is multiplied by alpha_bar itself. alpha_bar is the share of the variance that is left: "
        "what does that make the factor on x0?",
    ),
    "noise scaled by the variance": (
        lambda x0, t, a, eps: like(a[t], x0).sqrt() * x0 + like(1 - a[t], x0) * eps,
        "the noise is multiplied by 1 - alpha_bar, so its standard deviation is what should be its variance",
    ),
    "the two roots swapped": (
        lambda x0, t, a, eps: like(1 - a[t], x0).sqrt() * x0 + like(a[t], x0).sqrt() * eps,
        "at t = 0 you return pure noise. Which of the two roots must be 1 there?",
    ),
    "the table read at t - 1": (
        lambda x0, t, a, eps: q_sample(x0, t - 1, a, eps),
        "you give x_{t-1}: the table has T + 1 entries and entry 0 is the data, so which entry belongs to t?",
    ),
    "one coefficient per column": (
        lambda x0, t, a, eps: a[t].sqrt() * x0 + (1 - a[t]).sqrt() * eps,
        "the times run along the last axis of x0, one per column. Which axis holds the examples, "
        "and what shape does alpha_bar[t] need?",
    ),
    "one coefficient per channel": (
        lambda x0, t, a, eps: q_sample(x0.transpose(0, 1), t, a, eps.transpose(0, 1)).transpose(0, 1),
        "alpha_bar[t] is right for points and lands on the second axis of images: "
        "how many axes of size 1 must follow the first?",
    ),
}


def check_q_sample(fn):
    t = torch.tensor([0, 2, 5])
    for shape in ((3, 2), (3, 3), (3, 3, 3)):  # (3, 3): a wrong axis raises no error
        x0, eps = torch.randn(2, *shape)
        points = {label: m for label, m in Q_SAMPLE.items() if shape[1] == 3 or "per" not in label}
        for noise in (0 * eps, eps):  # first the signal alone
            if hint := compare(fn, q_sample, points, x0, t, ALPHA_BAR, noise):
                return hint
    return None


define("ddpm.q_sample", q_sample, check_q_sample, functions(Q_SAMPLE))
