"""How good is a model? Bounds on -log p(data) with their standard errors.

Pictures are judged in image_judge.py and distances.py, text in ngram.py and text_metrics.py.
"""

import math
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .finite import Watch, check_finite
from .process import Process, check_process, evaluating
from .shapes import Network, PerExample, Times, check_count, describe
from .wrapper import times_fit

TERMS = {
    "whole": "bound",
    "published": "diffusion_term",
}  # what to measure -> the process's method


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    se: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.se:.3f}"

    def per(self, count: int | float) -> "Estimate":
        """From one number per example to one per part: per dimension, per token."""
        if not count > 0:
            raise ValueError(f"count must be above 0, not {count}")
        return Estimate(self.mean / count, self.se / count)

    def bits_per_dim(self, dims: int | float = 1) -> "Estimate":
        """From nats per example to bits per dimension."""
        return self.per(dims * math.log(2))

    def perplexity(self, tokens: int | float = 1) -> "Estimate":
        """exp(nats per token), from nats per example of so many tokens: of a bound, an upper bound on the perplexity.

        The error is the delta method's, |d exp(m) / dm| se = exp(m) se.
        """
        nats = self.per(tokens)
        perplexity = math.exp(nats.mean)
        return Estimate(perplexity, perplexity * nats.se)


@torch.no_grad()
def bound(
    process: Process,
    model: Network,
    data: Tensor | Sized,
    repeats: int = 1,
    batch: int = 256,
    *,
    term: str = "whole",
    per: PerExample | None = None,
    seed: int | None = None,
) -> Estimate:
    """Mean of process.bound over the data, nats per example, `repeats` random times each, with its standard error.

    An unbiased estimate of the bound. The error is over examples, so it covers the draw of data, times and noise.

    data  examples that can be sliced and counted: a tensor, or a data set such as Pairs
    term  "whole"; "published", without the terms for prior and reconstruction, as papers on text print it; or a method
          of the process with the arguments of `bound`. ValueError where a wrapper draws times that it is not made for
    per   (N,) how many parts each example has, such as `real_tokens(data)`: nats per part, sum over sum
    seed  draw from a random state of its own and leave the caller's as it was: for validation within a training

    The model works in eval mode and gets its own back. FloatingPointError where the bound is not finite.
    """
    check_count("repeats", repeats)
    check_count("batch", batch)
    check_process(process)
    check_model(model)
    check_data(data)
    method = method_for(process, term)
    values = torch.zeros(len(data), dtype=torch.float64)
    with evaluating(model), drawing_from(seed, process.device), Watch() as watch:
        for _ in range(repeats):
            pieces = (data[i : i + batch] for i in range(0, len(data), batch))
            drawn = [
                measured(method, model, x, process.sample_t(len(x))) for x in pieces
            ]
            values += torch.cat(drawn).double().cpu() / repeats
        watch.read()
    return estimate(values) if per is None else ratio(values, per)


def measured(method, model: Network, x, t: Times) -> PerExample:
    """One finite number per example, or an error."""
    values = method(model, x, t)
    if not isinstance(values, Tensor) or values.shape != (len(x),):
        raise ValueError(
            f"the bound must be one number per example, ({len(x)},), not {describe(values)}"
        )
    return check_finite("the bound", values, t)


def estimate(values: Float[Tensor, " N"]) -> Estimate:
    """Mean of N independent numbers and its standard error."""
    return Estimate(values.mean().item(), values.std().item() / math.sqrt(len(values)))


def ratio(values: Float[Tensor, " N"], counts: PerExample) -> Estimate:
    """r = sum of the values v / sum of the counts n. Its error is that of the mean of v - r n, over the mean n."""
    counts = torch.as_tensor(counts).double().cpu()
    if counts.shape != values.shape or not (counts >= 0).all() or not counts.sum() > 0:
        raise ValueError(
            f"per must hold one count for each of the {len(values)} examples, not {describe(counts)}"
        )
    mean = (values.sum() / counts.sum()).item()
    residual = estimate(values - mean * counts)
    return Estimate(mean, residual.se / counts.mean().item())


def real_tokens(data: Tensor | Sized) -> Float[Tensor, " N"]:
    """How many tokens of each row count: those that are not PAD (-1), and of pairs those of the target."""
    tokens = data if isinstance(data, Tensor) else data.tokens
    if tokens.ndim != 2 or tokens.is_floating_point():
        raise ValueError(
            f"data must hold rows of tokens, (N, L) integers, not {describe(tokens)}"
        )
    counted = tokens >= 0
    target = getattr(data, "target", None)
    if target is not None:
        counted = counted & target
    return counted.sum(1).double()


@torch.no_grad()
def bound_by_time(
    process: Process, model: Network, x0: Tensor | Sized
) -> Float[Tensor, " T"]:
    """Mean of process.bound over the data at each t = 1..T (discrete time): what the bound is made of.

    Plain terms, whose mean is the bound, also of a process that draws some times more often than others.
    """
    check_process(process)
    check_model(model)
    check_data(x0, least=1)
    process = process.evenly()
    if not isinstance(process.T, int):
        raise ValueError(f"process must have discrete time 1..T, not T = {process.T}")
    method = method_for(process, "whole")
    ones = torch.ones(len(x0), dtype=torch.long, device=process.device)
    with evaluating(model), Watch() as watch:
        means = [
            measured(method, model, x0, t * ones).mean()
            for t in range(1, process.T + 1)
        ]
        watch.read()
    return torch.stack(means)


@contextmanager
def drawing_from(seed: int | None, device: torch.device) -> Iterator[None]:
    """Inside, torch draws from this seed; afterwards it goes on as if nothing had been drawn. None changes nothing."""
    if seed is None:
        yield
        return
    check_count("seed", seed, least=0)
    on_cpu = device.type == "cpu"
    index = [] if on_cpu else [device.index or 0]
    with torch.random.fork_rng(index, device_type="cuda" if on_cpu else device.type):
        # Not torch.manual_seed, which seeds all devices, also those that are not restored.
        torch.random.default_generator.manual_seed(seed)
        if not on_cpu:
            torch.get_device_module(device).manual_seed(seed)
        yield


# Bad input


def method_for(process: Process, term: str):
    """The process's method for this term, or ValueError where it has none."""
    name = TERMS.get(term, term)
    method = getattr(process, name, None) if name.isidentifier() else None
    if not callable(method):
        known = ", ".join(repr(key) for key in TERMS)
        raise ValueError(
            f"term must be one of {known} or a method of the process, but {type(process).__name__} has no {name!r}"
        )
    if not times_fit(process, name):
        raise ValueError(
            f"process draws times of its own, for which it has no {name!r}: the mean would be wrong. "
            f"Take the process inside, {type(process).__name__}(...).process"
        )
    return method


def check_model(model: Network) -> None:
    """Raise TypeError for what cannot be called, or for a process in the model's place."""
    if isinstance(model, Process) or not callable(model):
        raise TypeError(
            f"model must be callable as model(x_t, u), not {describe(model)}"
        )


def check_data(data: Tensor | Sized, least: int = 2) -> None:
    """Raise unless the data can be counted and sliced, holds enough examples, and no number that is not finite."""
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise TypeError(
            f"data must be a tensor or a data set that can be sliced, not {describe(data)}"
        )
    if len(data) < least:
        raise ValueError(f"data must hold at least {least} examples, not {len(data)}")
    if isinstance(data, Tensor) and data.is_floating_point():
        bad = ~data.isfinite().flatten(1).all(1) if data.ndim > 1 else ~data.isfinite()
        if bad.any():
            raise ValueError(
                f"data must be finite, but {int(bad.sum())} of {len(data)} examples are not"
            )
