"""The one training loop. It knows the Process contract and nothing about any system.

What it is given is checked in `training_input`; a checkpoint is written and read in `checkpoint`.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from .checkpoint import Resumable
from .files import check_writable, load_tensors, save_tensors
from .finite import Watch, check_finite, note
from .identity import class_of, differences, identity
from .process import Process, check_process
from .shapes import PerExample, Times, check_count
from .training_input import (
    as_precision,
    as_schedule,
    check_gradients,
    check_model,
    check_real,
    checked_rate,
    moved,
    size_of,
)
from .weights import (
    Autocast,
    Averaged,
    averaged,
    bare,
    narrowed,
    plain,
    put,
    weights_of,
)

LOOK = 50  # steps between looks at what is not finite, off the CPU


@dataclass(frozen=True)
class Record:
    """What one step of training says. Its tensors are on the device: reading them makes a GPU wait."""

    step: int  # from 1
    t: Times
    loss: PerExample
    average: Averaged  # a network of the averaged weights so far, in eval mode; or swap them in: average.applied(model)


def train(
    process: Process,
    model: nn.Module,
    batches: Iterable,
    steps: int,
    lr: float | Callable[[int], float] = 1e-3,
    ema: float = 0.999,
    clip: float = 1.0,
    precision: torch.dtype | None = None,
    checkpoint: str | Path | None = None,
    every: int = 1000,
    changed: Collection[str] = (),
) -> Iterator[Record]:
    """Train with AdamW and yield a Record after each step; stop by not asking on.

    batches    tensors, objects with .to(device), or tuples, lists and dicts of these; [x] is taken for x, since
               DataLoader(TensorDataset(x)) says it so
    lr         a number, or a function of the step (1, 2, ...), such as `warmup_cosine`
    ema        decay of the averaged weights, less in the first steps: min(ema, (1 + step) / (10 + step))
    clip       largest norm of the gradient
    precision  torch.bfloat16 or torch.float16 runs the network under autocast, and nothing else; None is float32
    checkpoint a file written every `every` steps and at the end, and continued from if it is there. The batches must
               come in the same order again, or each be drawn afresh from torch's random state; then the continued
               run equals the uninterrupted one bit for bit (CPU). If nothing is left to do, the last Record comes.
    changed    what may differ from the run that wrote the checkpoint: of "process", "network", "lr", "ema", "clip",
               "precision"

    Raises FloatingPointError, naming step and t, when a loss or a gradient is not finite: on a CPU before the weights
    change, elsewhere within 50 steps, and always before a checkpoint, so that the last good one stays. Raises
    ValueError at the call for a checkpoint of another run, OSError for one that cannot be written there.
    """
    check_process(process)
    check_count("steps", steps)
    check_count("every", every)
    check_real("ema", ema)
    check_real("clip", clip)
    if not (0 <= ema < 1 and clip > 0):
        raise ValueError(
            f"ema must lie in [0, 1) and clip be positive, not {ema} and {clip}"
        )
    check_model(model, process)
    check_gradients()
    run = Run(process, model, as_schedule(lr), ema, clip, as_precision(precision))
    if checkpoint:
        check_writable("checkpoint", checkpoint)
        if Path(checkpoint).exists():
            run.load(checkpoint, changed)
            if run.last.step > steps:
                raise ValueError(
                    f"steps must be at least the {run.last.step} of {checkpoint}, not {steps}"
                )
    return _train(run, batches, steps, checkpoint, every)


def _train(run, batches, steps, checkpoint, every):
    step, stream = run.last.step, iter(batches)
    if step == steps:
        yield run.last
    # Batches used before the interruption are skipped first: making them may draw numbers.
    deque(islice(stream, step), maxlen=0)
    run.restore_random()
    for data in islice(stream, steps - step):
        step += 1
        yield run.step(step, data)
        if checkpoint and (step % every == 0 or step == steps):
            run.check_finite()
            run.save(checkpoint)
    run.check_finite()
    if step < steps:
        raise ValueError(
            f"batches must yield at least steps = {steps} batches, but ended after {step}"
        )


class Run(Resumable):
    """All that changes while training: weights, averaged weights, optimiser, gradient scale, random state."""

    def __init__(self, process, model, lr, ema, clip, precision):
        self.process, self.model, self.lr = process, model, lr
        self.ema, self.clip, self.precision = ema, clip, precision
        self.asked = Autocast(model, precision) if precision else model
        self.average = averaged(model)
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, weight_decay=0.0, fused=True
        )
        self.device = self.parameters[0].device
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=precision == torch.float16
        )
        self.watch, self.seed = Watch(), torch.initial_seed()
        self.random: dict[str, Tensor] = {}  # random state to go back to
        self.last = Record(0, torch.empty(0), torch.empty(0), self.average)

    def step(self, step: int, data) -> Record:
        """One step of training on one batch."""
        check_gradients()
        data = moved(data, self.device)
        self.watch.step = step
        with self.watch:
            t = self.process.sample_t(size_of(data, step))
            loss = check_finite("the loss", self.process.loss(self.asked, data, t), t)
            self.descend(step, loss.mean())
        # A short memory at first, so that the average soon forgets the untrained weights.
        self.average.follow(self.model, min(self.ema, (1 + step) / (10 + step)))
        self.last = Record(step, t, loss.detach(), self.average)
        # Off the CPU a look makes the device wait, so it is taken now and then.
        if step % LOOK == 0:
            self.check_finite()
        return self.last

    def descend(self, step: int, loss: Tensor) -> None:
        """One step of the optimiser down the gradient of this loss."""
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        # With float16 the scaler skips steps that are not finite, and then scales less.
        if not self.scaler.is_enabled():
            note("the gradient", norm.isfinite())
        rate = checked_rate(self.lr(step), step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def check_finite(self) -> None:
        """Raise FloatingPointError at the first number seen that is NaN or infinite. Makes a GPU wait."""
        self.watch.read()
        if self.scaler.is_enabled() and self.scaler.get_scale() < 1:
            raise FloatingPointError(
                f"the gradient must be finite, but at step {self.last.step} it is not at any scale of float16"
            )


def warmup_cosine(
    peak: float, steps: int, warmup: int | None = None, restart: int | None = None
) -> Callable[[int], float]:
    """Learning rate as a function of the step: rises to peak over `warmup` steps, then falls to 0 on a half cosine.

    warmup   100 if not given, but never more than half of the steps
    restart  after so many steps it has fallen to 0, and does all of it again until `steps`.  (arXiv:1608.03983)
    """
    check_count("steps", steps)
    if not 0 < peak < math.inf:
        raise ValueError(f"peak must be positive and finite, not {peak}")
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

    def lr(step: int) -> float:
        last = parts[0]
        if len(parts) == 2 and step > last:
            step, last = step - last, parts[1]
        rise = min(100, last // 2) if warmup is None else warmup
        if step < rise:
            return peak * step / rise
        return peak * (1 + math.cos(math.pi * (step - rise) / max(1, last - rise))) / 2

    return lr


# Weights


def save_weights(
    path: str | Path,
    model: nn.Module,
    about: dict,
    dtype: torch.dtype | None = None,
    process: Process | None = None,
) -> None:
    """The model's weights as safetensors, with a dict that says where they come from.

    dtype    that of the parameters in the file; None keeps the model's own. Buffers keep theirs
    process  what they were trained for, for `load_weights` to compare

    Raises OverflowError where dtype cannot hold a parameter (see `narrowed`), ValueError for about = {"kind": ...}.
    """
    reserved = {"kind", "network", "process"}
    if taken := sorted(reserved & set(about)):
        raise ValueError(
            f"about must not hold {taken[0]!r}: the library says that itself"
        )
    about = {**about, "kind": "weights", "network": class_of(bare(model))}
    if process is not None:
        check_process(process)
        about["process"] = identity(process)
    weights, parameters = (
        weights_of(model),
        {plain(k) for k, _ in bare(model).named_parameters()},
    )
    if dtype is not None:
        weights = {
            k: narrowed(k, v, dtype) if k in parameters else v
            for k, v in weights.items()
        }
    save_tensors(path, weights, about)


def load_weights(
    path: str | Path, model: nn.Module, process: Process | None = None
) -> dict:
    """Put saved weights into the model (in its own dtype) and return what was said about them.

    FileNotFoundError if path is missing, ValueError if it is damaged, belongs to another model or, where both are
    known, was trained for another process than this.
    """
    if process is not None:
        check_process(process)
    tensors, about = load_tensors(path)
    if about.get("kind") != "weights":
        raise ValueError(
            f"{path} holds {about.get('kind', 'something else')}, not weights"
        )
    if process is not None and "process" in about:
        found = differences(
            {"process": about["process"]}, {"process": identity(process)}
        )
        if found:
            raise ValueError(
                f"{path} was trained for another process: {'; '.join(found)}"
            )
    put(model, tensors, path)
    return about
