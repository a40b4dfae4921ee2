"""The one training loop. It knows the Process contract and nothing about any system."""

import copy
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from .files import load_tensors, save_tensors
from .process import Process
from .shapes import PerExample, Times, check_count


@dataclass(frozen=True)
class Record:
    """What one step of training says. loss is on the device: reading it makes a GPU wait."""

    step: int  # from 1
    t: Times
    loss: PerExample
    average: nn.Module  # the averaged weights so far: sample with these


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
) -> Iterator[Record]:
    """Train with AdamW and yield a Record after each step; stop by not asking on.

    lr         a number, or a function of the step (1, 2, ...), such as `warmup_cosine`
    ema        decay of the averaged weights, less in the first steps: min(ema, (1 + step) / (10 + step))
    clip       largest norm of the gradient
    precision  torch.bfloat16 or torch.float16 runs the network under autocast; None is plain float32
    checkpoint a file written every `every` steps and at the end, and continued from if it is there. The batches must
               come in the same order again, or each be drawn afresh from torch's random state; then the continued
               run equals the uninterrupted one bit for bit (CPU). If nothing is left to do, the last Record comes.

    Raises FloatingPointError, naming step and t, when a loss is not finite; the last good checkpoint stays.
    """
    check_count("steps", steps)
    check_count("every", every)
    if not (0 <= ema < 1 and clip > 0):
        raise ValueError(f"ema must lie in [0, 1) and clip be positive, not {ema} and {clip}")
    run = Run(process, model, lr, ema, clip, precision)
    if checkpoint and Path(checkpoint).exists():
        run.load(checkpoint)
        if run.last.step > steps:
            raise ValueError(f"steps must be at least the {run.last.step} of {checkpoint}, not {steps}")
    return _train(run, batches, steps, checkpoint, every)


def _train(run, batches, steps, checkpoint, every):
    step, stream = run.last.step, iter(batches)
    if step == steps:
        yield run.last
    deque(islice(stream, step), maxlen=0)  # used before the interruption; making them may draw numbers
    run.restore_random()
    for data in islice(stream, steps - step):
        step += 1
        yield run.step(step, data)
        if checkpoint and (step % every == 0 or step == steps):
            run.check_finite()
            run.save(checkpoint)
    run.check_finite()
    if step < steps:
        raise ValueError(f"batches must yield at least steps = {steps} batches, but ended after {step}")


class Run:
    """All that changes while training: weights, averaged weights, optimiser, gradient scale, random state."""

    def __init__(self, process, model, lr, ema, clip, precision):
        self.process, self.model, self.ema, self.clip, self.precision = process, model, ema, clip, precision
        self.lr = lr if callable(lr) else lambda step: lr
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.parameters, self.averages = list(model.parameters()), list(self.average.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=0.0, fused=True)
        self.device = self.parameters[0].device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == torch.float16)
        self.unread: list[tuple[int, Tensor, Tensor]] = []  # losses not yet looked at
        self.random: dict[str, Tensor] = {}  # random state to go back to
        self.last = Record(0, torch.empty(0), torch.empty(0), self.average)

    def step(self, step: int, data) -> Record:
        """One step of training on one batch."""
        data = data.to(self.device, non_blocking=True)
        t = self.process.sample_t(len(data))
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            loss = self.process.loss(self.model, data, t)
        self.watch(step, t, loss.detach())
        self.optimizer.zero_grad()
        self.scaler.scale(loss.mean()).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        decay = min(self.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)
        self.last = Record(step, t, loss.detach(), self.average)
        return self.last

    # Losses that are not numbers

    def watch(self, step: int, t: Tensor, loss: Tensor) -> None:
        """On a CPU look at each loss before it is used; elsewhere only now and then: looking makes the device wait."""
        self.unread.append((step, t, loss))
        if self.device.type == "cpu" or len(self.unread) == 50:
            self.check_finite()

    def check_finite(self) -> None:
        """Raise FloatingPointError at the first loss that is NaN or infinite."""
        for step, t, loss in self.unread:
            if not loss.isfinite().all():
                i = int((~loss.isfinite()).nonzero()[0])
                raise FloatingPointError(f"loss is {loss[i].item()} at step {step}, for t = {t[i].item()}")
        self.unread.clear()

    # Checkpoints

    def save(self, path: str | Path) -> None:
        """Write everything to path."""
        tensors = {"last/t": self.last.t, "last/loss": self.last.loss}
        tensors |= {f"random/{k}": v for k, v in random_state(self.device).items()}
        for part, module in (("model", self.model), ("average", self.average)):
            tensors |= {f"{part}/{k}": v for k, v in module.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i}/{k}": v for k, v in state.items()}
        about = {"kind": "checkpoint", "step": self.last.step, "scaler": self.scaler.state_dict()}
        save_tensors(path, tensors, about)

    def load(self, path: str | Path) -> None:
        """Continue from path. ValueError if it is damaged or of another model."""
        tensors, about = load_tensors(path)
        if about.get("kind") != "checkpoint":
            raise ValueError(f"{path} holds {about.get('kind', 'something else')}, not a training checkpoint")
        put(self.model, select(tensors, "model/"), path)
        put(self.average, select(tensors, "average/"), path)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in select(tensors, "optimizer/").items():
            i, key = name.split("/")
            p = self.parameters[int(i)]
            if value.shape == p.shape:  # the fused step needs the parameter's memory order, say channels_last
                value = torch.empty_like(p).copy_(value)
            state.setdefault(int(i), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.scaler.load_state_dict(about["scaler"])
        self.random = select(tensors, "random/")
        t, loss = tensors["last/t"].to(self.device), tensors["last/loss"].to(self.device)
        self.last = Record(about["step"], t, loss, self.average)

    def restore_random(self) -> None:
        """Put torch's random state back to what it was at the checkpoint, if the run continues from one."""
        if "cpu" in self.random:
            torch.set_rng_state(self.random["cpu"])
        if "cuda" in self.random:
            torch.cuda.set_rng_state(self.random["cuda"], self.device)


def warmup_cosine(
    peak: float, steps: int, warmup: int = 100, restart: int | None = None
) -> Callable[[int], float]:
    """Learning rate as a function of the step: rises to peak over `warmup` steps, then falls to 0 on a half cosine.

    restart  after so many steps it has fallen to 0, and does all of it again until `steps`.  (arXiv:1608.03983)
    """
    check_count("steps", steps)
    if restart is not None and not 1 <= restart < steps:
        raise ValueError(f"restart must lie in 1..{steps - 1}, below steps = {steps}, not {restart}")

    def lr(step: int) -> float:
        last = restart or steps
        if step > last:
            step, last = step - last, steps - last
        if step < warmup:
            return peak * step / warmup
        return peak * (1 + math.cos(math.pi * (step - warmup) / max(1, last - warmup))) / 2

    return lr


# Weights


def save_weights(path: str | Path, model: nn.Module, about: dict, dtype: torch.dtype = torch.float16) -> None:
    """The model's weights as safetensors in dtype, with a dict that says where they come from."""
    weights = {k: v.to(dtype) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_tensors(path, weights, {**about, "kind": "weights"})


def load_weights(path: str | Path, model: nn.Module) -> dict:
    """Put saved weights into the model (in its own dtype) and return what was said about them.

    FileNotFoundError if path is missing, ValueError if it is damaged or belongs to another model.
    """
    tensors, about = load_tensors(path)
    if about.get("kind") != "weights":
        raise ValueError(f"{path} holds {about.get('kind', 'something else')}, not weights")
    put(model, tensors, path)
    return about


def put(model: nn.Module, tensors: dict[str, Shaped[Tensor, "..."]], path: str | Path) -> None:
    """load_state_dict, with an error that names the first entry that does not fit. The model is left alone then."""
    want = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    have = {k: tuple(v.shape) for k, v in tensors.items()}
    if want != have:
        name = next(k for k in [*want, *have] if want.get(k) != have.get(k))
        raise ValueError(
            f"{path} belongs to another model: {name} has shape {have.get(name)} there, {want.get(name)} here"
        )
    model.load_state_dict(tensors)


def select(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def random_state(device: torch.device) -> dict[str, Tensor]:
    """torch's random state, of the CPU and of the CUDA device in use."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state
