"""The learning rate as a function of the step or of the progress, and which weights decay."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from .shapes import check_count, check_scalar


@dataclass(frozen=True)
class OfProgress:
    """A learning rate as a function of how much of the training is done, 0 to 1: rate(progress).

    For `train` with a budget of minutes, where nobody knows the number of steps. The progress is step / steps, or the
    share of the minutes that has gone by, whichever is larger.
    """

    rate: Callable[[float], float]


def cosine_of_progress(peak: float, warmup: float = 0.02) -> OfProgress:
    """Rises to peak in the first `warmup` of the training, then falls to 0 on a half cosine, whatever its length.

    Raises ValueError unless peak is positive and 0 <= warmup < 1.
    """
    check_peak(peak)
    check_scalar("warmup", warmup)
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must lie in [0, 1), not {warmup}")

    def rate(progress: float) -> float:
        if progress < warmup:
            return peak * progress / warmup
        falling = (progress - warmup) / (1 - warmup)
        return peak * (1 + math.cos(math.pi * falling)) / 2

    return OfProgress(rate)


def warmup_cosine(
    peak: float, steps: int, warmup: int | None = None, restart: int | None = None
) -> Callable[[int], float]:
    """Learning rate as a function of the step: rises to peak over `warmup` steps, then falls to 0 on a half cosine.

    warmup   100 if not given, but never more than half of the steps
    restart  after so many steps it has fallen to 0, and does all of it again until `steps`.  (arXiv:1608.03983)

    It may be asked between two steps.
    """
    check_count("steps", steps)
    check_peak(peak)
    if restart is not None and not 1 <= restart < steps:
        raise ValueError(
            f"restart must lie in 1..{steps - 1}, below steps = {steps}, not {restart}"
        )
    parts = [steps] if restart is None else [restart, steps - restart]
    if warmup is not None:
        check_count("warmup", warmup, least=0)
        if warmup > min(parts):
            raise ValueError(
                f"warmup must be at most the {min(parts)} steps there are, not {warmup}"
            )

    def lr(step: int | float) -> float:
        last = parts[0]
        if len(parts) == 2 and step > last:
            step, last = step - last, parts[1]
        rise = min(100, last // 2) if warmup is None else warmup
        if step < rise:
            return peak * step / rise
        return peak * (1 + math.cos(math.pi * (step - rise) / max(1, last - rise))) / 2

    return lr


def check_peak(peak: float) -> None:
    """Raise ValueError unless the largest rate is positive and finite."""
    check_scalar("peak", peak)
    if not 0 < peak < math.inf:
        raise ValueError(f"peak must be positive and finite, not {peak}")


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Parameter groups for an optimiser: matrices decay, and vectors (biases, gains of norms) do not.

    torch.optim.AdamW(decay_groups(model, 0.1), betas=(0.9, 0.95)).  Frozen parameters are in neither group.
    """
    check_scalar("weight_decay", weight_decay)
    if not 0 <= weight_decay < math.inf:
        raise ValueError(
            f"weight_decay must not be negative and be finite, not {weight_decay}"
        )
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
