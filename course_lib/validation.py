"""Held-out data measured while training: the curve, the best weights, and whether it still gets better."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .parallel import agreed
from .random_state import drawing_from
from .shapes import check_count, describe
from .weights import Kept, Swappable


class Validation:
    """What `train(..., validation=...)` measures every `every` steps and at the end, with averaged weights.

    measure  measure(model) -> number; the model is in eval mode, with the averaged weights, and without gradients.
             On many processes all of them are asked, and what the first one says counts
    larger   True if a larger number is better

    It draws the same each time, so that weights are compared and not draws; the training goes on as without it.
    `curve` holds (step, value), and a checkpoint keeps it all.
    """

    def __init__(
        self, measure: Callable[[nn.Module], float], every: int, larger: bool = False
    ):
        if not callable(measure):
            raise TypeError(
                f"measure must be a function of the model, not {describe(measure)}"
            )
        check_count("every", every)
        self.measure, self.every, self.larger = measure, every, larger
        self.curve: list[tuple[int, float]] = []
        self.kept: Kept | None = None

    @property
    def best(self) -> tuple[int, float]:
        """Step and value of the best measure. ValueError before the first."""
        if not self.curve:
            raise ValueError("nothing has been measured yet, so nothing is best")
        sign = -1 if self.larger else 1
        return min(self.curve, key=lambda point: sign * point[1])

    def stale(self, n: int) -> bool:
        """True if the last n measures brought nothing better: the time to stop early."""
        check_count("n", n)
        steps = [step for step, _ in self.curve]
        return len(steps) > n and self.best[0] < steps[-n]

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model with the best weights, in eval mode; afterwards it has its own again."""
        if self.kept is None:
            raise ValueError("nothing has been measured yet, so nothing is best")
        with self.kept.applied(model):
            yield model

    def look(
        self, step: int, model: nn.Module, average: Swappable, device: torch.device
    ) -> float:
        """Measure the averaged weights; they are kept if nothing was better before."""
        with average.applied(model), torch.no_grad(), drawing_from(0, device):
            value = agreed(float(self.measure(model)))
        if math.isnan(value):
            raise FloatingPointError(f"what measure returns is NaN at step {step}")
        self.curve.append((step, value))
        if self.best[0] == step:
            self.kept = Kept(average.tensors())
        return value
