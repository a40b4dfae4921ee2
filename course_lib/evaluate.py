"""How good is a model? Bounds on -log p(data) with their standard errors.

Pictures are judged in image_judge.py and distances.py, text in ngram.py and text_metrics.py.
"""

import math
from collections.abc import Callable, Sequence, Sized
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .finite import Watch, check_finite
from .joint import Joint, check_joint
from .process import Process, check_process, check_together, evaluating, has_tables
from .random_state import drawing_from
from .shapes import Network, PerExample, Times, check_count, check_scalar, describe
from .wrapper import times_fit

# What to measure -> the process's method
TERMS = {"whole": "bound", "published": "diffusion_term"}


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    se: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.se:.3f}"

    def per(self, count: int | float) -> "Estimate":
        """From one number per example to one per part: per dimension, per token."""
        check_scalar("count", count)
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
    term  "whole"; "published", without the terms for prior and reconstruction, as SEDD and MDLM print it (D3PM's has
          L_0, its term t = 1, and lacks L_T only, which its code adds); or a method of the process with the
          arguments of `bound`. ValueError where a wrapper draws times that it is not made for
    per   (N,) how many parts each example has, such as `real_tokens(data)`: nats per part, sum over sum
    seed  draw from a random state of its own and leave the caller's as it was: for validation within a training

    The model works in eval mode and gets its own back. FloatingPointError where the bound is not finite.
    """
    values = bounds(process, model, data, repeats, batch, term=term, seed=seed)
    return estimate(values) if per is None else ratio(values, per)


@torch.no_grad()
def bounds(
    process: Process,
    model: Network,
    data: Tensor | Sized,
    repeats: int = 1,
    batch: int = 256,
    *,
    term: str = "whole",
    seed: int | None = None,
) -> Float[Tensor, " N"]:
    """What `bound` is the mean of: one number per example, the mean of its `repeats` times. Same arguments, same draws.

    Two systems on the same data from the same seed are compared by `estimate(a - b)`: an error that both make in one
    example drops out, so the difference is surer than either.
    """
    check_count("repeats", repeats)
    check_count("batch", batch)
    check_process(process)
    check_together(process, model)
    check_data(data, process)
    method = method_for(process, term)
    values = torch.zeros(len(data), dtype=torch.float64)
    with evaluating(model), drawing_from(seed, process.device), Watch() as watch:
        for _ in range(repeats):
            pieces = (data[i : i + batch] for i in range(0, len(data), batch))
            drawn = [
                measured(method, model, x, process.sample_t(len(x))) for x in pieces
            ]
            # Per example over its repeats first: the standard error is then over
            # examples, since draws of one depend on each other. It is conservative: the
            # times of a batch are stratified, which makes the mean less variable.
            values += torch.cat(drawn).double().cpu() / repeats
        watch.read()
    return values


def measured(method, model: Network, x, t: Times) -> PerExample:
    """One finite number per example, or an error."""
    values = method(model, x, t)
    if not isinstance(values, Tensor) or values.shape != (len(x),):
        raise ValueError(
            f"the bound must be one number per example, ({len(x)},), not {describe(values)}"
        )
    return check_finite("the bound", values, t)


def estimate(values: Float[Tensor, " N"]) -> Estimate:
    """Mean of N independent numbers and its standard error; NaN for a single one, which says nothing of it."""
    if not isinstance(values, Tensor) or values.ndim != 1 or not len(values):
        raise ValueError(
            f"values must be at least one number, (N,), not {describe(values)}"
        )
    sd = values.std().item() if len(values) > 1 else math.nan
    return Estimate(values.mean().item(), sd / math.sqrt(len(values)))


def jackknife(without: Sequence[float]) -> float:
    """Standard error of any statistic from its values v without one of g groups: sqrt((g - 1) / g sum (v - mean v)^2).

    Of two statistics on the same groups `jackknife` of the differences is the paired error. Source: Tukey 1958.
    """
    values = torch.as_tensor(without).double()
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(
            f"without must hold two numbers or more, one for each group, not {describe(values)}"
        )
    return (values.var(correction=0).item() * (len(values) - 1)) ** 0.5


def ratio(values: Float[Tensor, " N"], counts: PerExample) -> Estimate:
    """r = sum of the values v / sum of the counts n. Its error is that of the mean of v - r n, over the mean n."""
    counts = torch.as_tensor(counts).double().cpu()
    if counts.shape != values.shape or not (counts >= 0).all() or not counts.sum() > 0:
        raise ValueError(
            f"per must hold one count for each of the {len(values)} examples, not {describe(counts)}"
        )
    mean = (values.sum() / counts.sum()).item()
    # Linearised (delta method): to first order the error of a ratio of means is that of
    # the mean residual.
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
    check_together(process, model)
    check_data(x0, process, least=1)
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


# What a sampler writes, exactly


@torch.no_grad()
def exact_law(
    sampler, model: Network, start: Joint | None = None, states: int | None = None
) -> Joint:
    """The exact distribution of what a sampler writes, (V,) * L, by following every outcome of every draw.

    sampler  one of `samplers`, or your own with start, rounds and step: all that is random must go through `draw`
    model    a network, or a perfect one such as `TableOracle`
    start    the distribution of the states it starts from, (states,) * L; without it, `sampler.start`
    states   how many values a token may have, MASK included; that many the answer has, too. By default the answer is
             over the V tokens, and a state that still holds MASK is an error

    For tiny worlds: equal states are merged after each step, and a step may have at most 2^20 outcomes in all.
    """
    if not all(hasattr(sampler, name) for name in ("start", "rounds", "step")):
        raise TypeError(
            "sampler must have start, rounds and step, as decoding.Unmask(process) has, "
            f"not be a {type(sampler).__name__}"
        )
    x, w = starts(sampler, start)
    with evaluating(model), Watch() as watch:
        for now in sampler.rounds():
            x, w = outcomes(
                lambda x, draw, now=now: sampler.step(model, x, now, draw), x, w
            )
        watch.read()
    K = states or start_states(sampler, start)
    masked = (x >= K).any(1)
    if w[masked].sum() > 1e-9:  # below that it is rounding
        raise ValueError(
            f"sampler must leave no MASK, but {w[masked].sum():.3g} of its probability is on states with one"
        )
    x, w = x[~masked], w[~masked]
    law = torch.zeros((K,) * x.shape[1], dtype=torch.float64)
    return law.index_put(tuple(x.T), w, accumulate=True)


def starts(sampler, start: Joint | None) -> tuple[Tensor, Tensor]:
    """The states to start from, and their probabilities."""
    if start is None:
        x = sampler.start(64)
        if (x != x[0]).any():
            raise ValueError(
                "start must be given for a sampler that starts from random states"
            )
        return x[:1], torch.ones(1, dtype=torch.float64)
    check_joint("start", start)
    x = (start > 0).nonzero()
    return x, start[tuple(x.T)]


def start_states(sampler, start: Joint | None) -> int:
    """V of a masked sampler; as many as the start has otherwise."""
    return start.shape[0] if start is not None else sampler.V


def outcomes(
    step: Callable[[Tensor, Callable], Tensor], x: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    """All that one random step makes of states x (N, L) of probabilities w (N,): states, each once, and theirs.

    The step is run again and again: each time its next draw is answered with every outcome that has a probability.
    """
    # Each row is one history of answers; `source` says which state it began from.
    source, given = torch.arange(len(x)), []
    while True:
        try:
            y = step(x[source], Answers(given))
        except Asked as asked:
            rows, w, answer = every_answer(asked.p, w)
            source, given = source[rows], [a[rows] for a in given] + [answer]
            continue
        # Equal states meet again: without that
        # their number would multiply at every step.
        y, same = y.unique(dim=0, return_inverse=True)
        return y, torch.zeros(len(y), dtype=torch.float64).index_add(0, same, w)


class Asked(Exception):
    """A draw that has no answer yet."""

    def __init__(self, p: Tensor):
        super().__init__(
            "a step must not catch this: its draw is answered when it is run again"
        )
        self.p = p


class Answers:
    """`draw` with given answers, in their order; raises Asked at the first draw beyond them."""

    def __init__(self, given: list[Tensor]):
        self.given, self.count = given, 0

    def __call__(self, p: Tensor) -> Tensor:
        self.count += 1
        if self.count > len(self.given):
            raise Asked(p)
        return self.given[self.count - 1]


def every_answer(
    p: Float[Tensor, "R *shape K"], w: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Every joint outcome of independent draws: its row of p, its probability, and the outcome (R2, *shape)."""
    if not (p.isfinite().all() and (p >= 0).all() and (p.sum(-1) > 0).all()):
        raise FloatingPointError(
            "each distribution to draw from must be finite, not negative and not 0 everywhere"
        )
    shape, flat = p.shape[1:-1], p.double().reshape(len(p), -1, p.shape[-1])
    flat = flat / flat.sum(-1, keepdim=True)
    rows = torch.arange(len(p))
    answer = torch.zeros(len(p), 0, dtype=torch.long)
    for i in range(flat.shape[1]):
        q = flat[rows, i]
        row, outcome = (q > 0).nonzero(as_tuple=True)
        rows, w = rows[row], w[row] * q[row, outcome]
        answer = torch.cat([answer[row], outcome[:, None]], 1)
        if len(rows) > 2**20:
            raise ValueError(
                "sampler must have at most 2^20 outcomes in a step: make the world smaller"
            )
    return rows, w, answer.reshape(-1, *shape)


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


def check_data(data: Tensor | Sized, process: Process, least: int = 2) -> None:
    """Raise unless the data can be counted and sliced, is where the process is, and has enough, finite examples."""
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise TypeError(
            f"data must be a tensor or a data set that can be sliced, not {describe(data)}"
        )
    if len(data) < least:
        raise ValueError(f"data must hold at least {least} examples, not {len(data)}")
    tensor = data if isinstance(data, Tensor) else getattr(data, "tokens", None)
    there = isinstance(tensor, Tensor) and has_tables(process)
    if there and tensor.device != process.device:
        raise ValueError(
            f"data must be on the process's device, {process.device}, not on {tensor.device}: use .to(device)"
        )
    if isinstance(data, Tensor) and data.is_floating_point():
        bad = ~data.isfinite().flatten(1).all(1) if data.ndim > 1 else ~data.isfinite()
        if bad.any():
            raise ValueError(
                f"data must be finite, but {int(bad.sum())} of {len(data)} examples are not"
            )
