"""The one training loop. It knows the Process contract and nothing about any system.

What it is given is checked in `training_input`; a checkpoint is written and read in `checkpoint`; how a batch is cut
up and shared by processes is in `shares`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .budget import Budget
from .checkpoint import Resumable
from .files import check_writable
from .finite import Watch, check_finite, note
from .learning_rate import OfProgress
from .parallel import agreed, check_backends, start_alike, together, world
from .process import Process, check_process
from .random_state import by_itself
from .shapes import PerExample, Times, check_count
from .shares import Shares, shares_itself
from .training_input import (
    as_optimizer,
    as_precision,
    as_schedule,
    check_alone,
    check_gradients,
    check_model,
    check_real,
    checked_rate,
    moved,
    size_of,
)
from .validation import Validation
from .weights import Averaged, averaged, reached, tensors_of, whole

LOOK = 50  # steps between looks at what is not finite, off the CPU


@dataclass(frozen=True)
class Record:
    """What one step of training says. Its tensors are on the device: reading them makes a GPU wait."""

    step: int  # from 1
    t: Times
    loss: PerExample
    # A network of the averaged weights so far, in eval mode; average.applied(model) swaps them in
    average: Averaged
    norm: Tensor | None = None  # of the gradient, before it is clipped
    lr: float | None = None  # None where the optimiser keeps its own
    progress: float = 0.0  # how much of the steps or minutes is done, 0 to 1
    elapsed: float = 0.0  # seconds of training
    dev: float | None = None  # what the validation measured, if it did at this step


def train(
    process: Process,
    model: nn.Module,
    batches: Iterable,
    steps: int | None = None,
    lr: float | Callable[[int], float] | OfProgress | None = None,
    ema: float = 0.999,
    clip: float = 1.0,
    precision: torch.dtype | None = None,
    checkpoint: str | Path | None = None,
    every: int = 1000,
    changed: Collection[str] = (),
    *,
    minutes: int | float | None = None,
    optimizer: torch.optim.Optimizer | Callable | None = None,
    micro: int = 1,
    seed: int | None = None,
    validation: Validation | None = None,
) -> Iterator[Record]:
    """Train with AdamW and yield a Record after each step; stop by not asking on.

    batches    tensors, objects with .to(device), or tuples, lists and dicts of these; a list of one tensor counts as
               the tensor (DataLoader(TensorDataset(x)) yields it). Each is the whole batch of a step, on every process
    steps, minutes  how long: the first that is reached ends it. Minutes are of the clock, less what an interrupted run
               did after its last checkpoint
    lr         a number (1e-3 if not given), a function of the step (1, 2, ...) such as `warmup_cosine`, or OfProgress
    ema        decay of the averaged weights, less in the first steps: min(ema, (1 + step) / (10 + step))
    clip       largest norm of the gradient
    precision  torch.bfloat16 or torch.float16 runs the network under autocast, and nothing else; None is float32
    checkpoint a file written every `every` steps and at the end, and continued from if it is there, by any number of
               processes. Batches with state_dict and load_state_dict go on where they were; others must come in the
               same order again, or each be drawn afresh from torch's random state. Then the continued run equals the
               uninterrupted one bit for bit (CPU). If nothing is left to do, the last Record comes.
    changed    what may differ from the run that wrote the checkpoint: of "process", "network", "optimizer", "lr",
               "ema", "clip", "precision", "micro", "draws"
    optimizer  one of torch's, over the model's parameters, or a function that makes it from the list of them. Its own
               learning rate stays unless lr is given. AdamW without weight decay if not given
    micro      number of parts that each batch is cut into; gradients add up over them. Processes share the parts
    seed       what is drawn at a step depends on it, the step and the part only; None: on torch's random state
    validation what to measure on held-out data now and then; keeps the best weights

    Times and x_t are drawn for the whole batch and then cut up, so neither `micro` nor the number of processes changes
    them. What the network draws (dropout), or a loss that draws itself (`Process.loss` overridden), is drawn part by
    part: the same for equally many parts, whoever works on them.

    The model trains in the mode that it is in, as everywhere in torch: after model.eval() there is no dropout.

    Raises FloatingPointError, naming step and t, when a loss or a gradient is not finite: on a CPU before the weights
    change, elsewhere within 50 steps, and always before a checkpoint, so that the last good one stays. Raises
    ValueError at the call for a checkpoint of another run, OSError for one that cannot be written there.
    """
    check_process(process)
    check_count("every", every)
    check_real("ema", ema)
    check_real("clip", clip)
    if not (0 <= ema < 1 and clip > 0):
        raise ValueError(
            f"ema must lie in [0, 1) and clip be positive, not {ema} and {clip}"
        )
    check_model(model, process)
    check_gradients()
    check_backends()
    budget, shares = Budget(steps, minutes), Shares(process, model, micro, seed)
    check_alone(process, model, shares.count, precision)
    run = Run(process, model, budget, shares, ema, clip, as_precision(precision))
    run.optimizer = as_optimizer(optimizer, model)
    run.lr = as_schedule(lr, keeps_its_own=optimizer is not None)
    run.validation = validation
    if checkpoint:
        together(lambda: check_writable("checkpoint", checkpoint))
        if together(Path(checkpoint).exists):
            run.load(checkpoint, changed)
            budget.check(run.last.step, checkpoint)
    records = _train(run, batches, checkpoint, every)
    return records if world() == 1 else by_itself(records, run.device, agreed)


def _train(run, batches, checkpoint, every):
    run.budget.start()
    over, stream = run.budget.over(run.last.step), run.rest_of(batches)
    if over:
        yield run.last
    # Algorithm 1, lines 1, 2 and 6: the loop and its data
    while not over:
        data = next(stream, None)
        if data is None:
            raise ValueError(
                f"batches must yield {run.budget.wanted()}, but ended after {run.last.step}"
            )
        yield run.step(data)
        over = run.budget.over(run.last.step)
        if checkpoint and (over or run.last.step % every == 0):
            run.check_finite()
            run.save(checkpoint)
    run.check_finite()


class Run(Resumable):
    """All that changes while training: weights, averaged weights, optimiser, gradient scale, random state."""

    def __init__(self, process, model, budget, shares, ema, clip, precision):
        self.process = process
        self.model = model
        self.budget = budget
        self.shares = shares
        self.ema, self.clip, self.precision = ema, clip, precision
        self.parameters = list(model.parameters())
        self.device = self.parameters[0].device
        if not shares_itself(model):
            start_alike(tensors_of(model).values())
        self.asked = reached(model, precision)
        self.average = averaged(model)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=precision == torch.float16
        )
        self.watch = Watch()
        self.last = Record(0, torch.empty(0), torch.empty(0), self.average)

    def step(self, data) -> Record:
        """One step of training on one batch."""
        check_gradients()
        step = self.watch.step = self.last.step + 1
        data = moved(data, self.device)
        self.optimizer.zero_grad()
        with self.watch:
            t, loss = self.gradients(step, data)
            norm, rate = self.descend(step)
        # A short memory at first, so that the average soon forgets the untrained weights.
        self.average.follow(self.model, min(self.ema, (1 + step) / (10 + step)))
        self.last = Record(
            step, t, loss, self.average, norm, rate, *self.budget.at(step)
        )
        # Off the CPU a look makes the device wait, so it is taken now and then.
        if step % LOOK == 0:
            self.check_finite()
        return self.validated()

    def gradients(self, step: int, data) -> tuple[Times, PerExample]:
        """Add up the gradients of all parts of a batch; its times and losses."""
        # Algorithm 1, lines 3 and 4: t and x_t
        t, parts = self.shares.draw(step, data, size_of(data, step))
        # Algorithm 1, line 5: the gradient of the loss
        losses = []
        for part in parts:
            with part:
                loss = check_finite("the loss", part.loss(self.asked), part.t)
                self.scaler.scale(part.weight * loss.mean()).backward()
            losses.append(loss.detach())
        return t, self.shares.put_together(losses)

    def descend(self, step: int) -> tuple[Tensor, float | None]:
        """One step of the optimiser down the gradient; the gradient's norm and the learning rate."""
        self.scaler.unscale_(self.optimizer)
        norm = whole(nn.utils.clip_grad_norm_(self.parameters, self.clip))
        # With float16 the scaler skips steps that are not finite, and then scales less.
        if not self.scaler.is_enabled():
            note("the gradient", norm.isfinite())
        rate = self.rate(step)
        for group in self.optimizer.param_groups if rate is not None else ():
            group["lr"] = rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm, rate

    def rate(self, step: int) -> float | None:
        """The learning rate of a step; None where the optimiser keeps its own."""
        return checked_rate(self.lr(step, self.budget.progress(step)), step)

    def validated(self) -> Record:
        """The last record, with what held-out data says if it is time to ask."""
        validation, step = self.validation, self.last.step
        if validation and (step % validation.every == 0 or self.budget.over(step)):
            dev = validation.look(step, self.model, self.average, self.device)
            self.last = replace(self.last, dev=dev)
        return self.last

    def check_finite(self) -> None:
        """Raise FloatingPointError at the first number seen that is NaN or infinite. Makes a GPU wait."""
        self.watch.read()
        if self.scaler.is_enabled() and self.scaler.get_scale() < 1:
            raise FloatingPointError(
                f"the gradient must be finite, but at step {self.last.step} it is not at any scale of float16"
            )
