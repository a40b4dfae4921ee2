"""The one training loop. It knows the Process contract and nothing about any system.

A checkpoint is one safetensors file with weights, averages, optimiser and random state, written to a temporary name
and renamed. Batches are skipped on resuming, not stored, so they must come in the same order again.
"""

import math
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from numbers import Real
from pathlib import Path

import torch
from torch import Tensor, nn

from . import __version__
from .files import about_path, check_writable, load_tensors, save_tensors
from .finite import Watch, check_finite, note
from .identity import class_of, differences, identity
from .process import Process, check_process
from .shapes import PerExample, Times, check_count, describe
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
HALF = (torch.bfloat16, torch.float16)


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
    deque(
        islice(stream, step), maxlen=0
    )  # used before the interruption; making them may draw numbers
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


class Run:
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
        self.average.follow(self.model, min(self.ema, (1 + step) / (10 + step)))
        self.last = Record(step, t, loss.detach(), self.average)
        if step % LOOK == 0:
            self.check_finite()
        return self.last

    def descend(self, step: int, loss: Tensor) -> None:
        """One step of the optimiser down the gradient of this loss."""
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if (
            not self.scaler.is_enabled()
        ):  # which skips steps that are not finite, and then scales less
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

    # Checkpoints

    def description(self, step: int) -> dict:
        """Whose checkpoint it is: what a run that continues it must agree with."""
        return {
            "process": identity(self.process),
            "network": class_of(bare(self.model)),
            "lr": float(self.lr(step)) if step else None,
            "ema": self.ema,
            "clip": self.clip,
            "precision": str(self.precision),
        }

    def save(self, path: str | Path) -> None:
        """Write everything to path."""
        step = self.last.step
        tensors = {"last/t": self.last.t, "last/loss": self.last.loss}
        tensors |= {f"random/{k}": v for k, v in random_state(self.device).items()}
        tensors |= {f"process/{k}": v for k, v in remembered(self.process).items()}
        for part, module in (("model", self.model), ("average", self.average)):
            tensors |= {f"{part}/{k}": v for k, v in weights_of(module).items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i}/{k}": v for k, v in state.items()}
        about = {
            "kind": "checkpoint",
            "step": step,
            "scaler": self.scaler.state_dict(),
            "of": self.description(step),
            "seed": self.seed,
            "versions": versions(),
        }
        try:
            save_tensors(path, tensors, about)
        except OSError as error:
            raise about_path(
                error, f"the checkpoint of step {step} was not written", path
            ) from error

    def load(self, path: str | Path, changed: Collection[str] = ()) -> None:
        """Continue from path. ValueError if it is damaged or of another run; nothing has changed then."""
        tensors, about = load_tensors(path)
        if about.get("kind") != "checkpoint":
            raise ValueError(
                f"{path} holds {about.get('kind', 'something else')}, not a training checkpoint"
            )
        self.check_same(path, about, changed)
        put(self.model, select(tensors, "model/"), path)
        put(self.average, select(tensors, "average/"), path)
        for name, value in remembered(self.process).items():
            value.copy_(tensors[f"process/{name}"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in select(tensors, "optimizer/").items():
            i, key = name.split("/")
            p = self.parameters[int(i)]
            if (
                value.shape == p.shape
            ):  # the fused step needs the parameter's memory order, say channels_last
                value = torch.empty_like(p).copy_(value)
            state.setdefault(int(i), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.scaler.load_state_dict(about["scaler"])
        self.random, self.seed = select(tensors, "random/"), about["seed"]
        t, loss = (
            tensors["last/t"].to(self.device),
            tensors["last/loss"].to(self.device),
        )
        self.last = Record(about["step"], t, loss, self.average)

    def check_same(
        self, path: str | Path, about: dict, changed: Collection[str]
    ) -> None:
        """Raise ValueError that says what differs between the checkpoint's run and this one; versions only warn."""
        here = self.description(about["step"])
        if unknown := sorted(set(changed) - set(here)):
            raise ValueError(
                f"changed must hold names among {', '.join(here)}, not {unknown[0]!r}"
            )
        if "of" not in about:
            raise ValueError(
                f"{path} was written by a version of this library that did not say whose it is"
            )
        compared = [k for k in here if k not in changed]
        found = differences(
            {k: about["of"].get(k) for k in compared}, {k: here[k] for k in compared}
        )
        if found:
            raise ValueError(
                f"{path} belongs to another run: {'; '.join(found)}. Go on with it all the same by "
                f"changed={sorted({line.split('.')[0].split(' ')[0] for line in found})}, or delete it"
            )
        if about["versions"] != versions():
            was = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
            warnings.warn(
                f"{path} was written with {was}: the run may not go on bit for bit",
                stacklevel=4,
            )

    def restore_random(self) -> None:
        """Put torch's random state back to what it was at the checkpoint, if the run continues from one."""
        if "cpu" in self.random:
            torch.set_rng_state(self.random["cpu"])
        if "cuda" in self.random:
            torch.cuda.set_rng_state(self.random["cuda"], self.device)


# What train is given


def check_model(model: nn.Module, process: Process) -> None:
    """Raise unless the model is a network with something to train, on the process's device."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, not {describe(model)}")
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError(
            "model must have parameters that require a gradient, but it has none or all are frozen"
        )
    if any(p.is_inference() for p in trained):
        raise ValueError(
            "model must not be made under torch.inference_mode(): its weights cannot be trained"
        )
    tables = next(process.buffers(), None)
    if tables is not None and tables.device != trained[0].device:
        raise ValueError(
            f"model and process must be on one device, not on {trained[0].device} and {tables.device}: use .to(device)"
        )


def check_gradients() -> None:
    """Raise RuntimeError where gradients are switched off."""
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise RuntimeError(
            "train needs gradients, but runs under torch.no_grad() or torch.inference_mode()"
        )


def as_schedule(lr: float | Callable[[int], float]) -> Callable[[int], float]:
    """The learning rate as a function of the step."""
    if callable(lr):
        return lr
    if not isinstance(lr, Real) or isinstance(lr, bool):
        raise TypeError(
            f"lr must be a number or a function of the step, not {describe(lr)}"
        )
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, not {lr}")
    return lambda step: lr


def checked_rate(rate: float, step: int) -> float:
    """A learning rate that a function gave, or ValueError: it may be 0, but not negative or NaN."""
    if not 0 <= rate < math.inf:
        raise ValueError(f"lr must give a rate >= 0, but lr({step}) is {rate}")
    return float(rate)


def as_precision(precision: torch.dtype | None) -> torch.dtype | None:
    """The precision, or an error for what autocast does not do."""
    if precision is not None and not isinstance(precision, torch.dtype):
        raise TypeError(
            f"precision must be a torch.dtype such as torch.bfloat16, not {precision!r}"
        )
    if precision not in (None, *HALF):
        raise ValueError(
            f"precision must be None, torch.bfloat16 or torch.float16, not {precision}"
        )
    return precision


def moved(data, device: torch.device):
    """A batch on the device, part by part."""
    if hasattr(data, "to"):
        return data.to(device, non_blocking=True)
    if isinstance(data, dict):
        return {k: moved(v, device) for k, v in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(moved(v, device) for v in data))
    if isinstance(data, tuple | list):
        parts = [moved(v, device) for v in data]
        return parts[0] if len(parts) == 1 else type(data)(parts)
    raise TypeError(
        f"batches must hold tensors, things with .to(device), or tuples, lists and dicts of these, not {describe(data)}"
    )


def size_of(data, step: int) -> int:
    """How many examples a batch has."""
    sizes = lengths(data)
    if len(sizes) > 1:
        raise ValueError(
            f"the parts of a batch must be equally long, but at step {step} have {sorted(sizes)}"
        )
    if not sizes or 0 in sizes:
        raise ValueError(f"batches must not be empty, but that of step {step} is")
    return sizes.pop()


def lengths(data) -> set[int]:
    """The lengths of all parts of a batch."""
    if isinstance(data, dict):
        data = list(data.values())
    if isinstance(data, tuple | list):
        return set().union(*map(lengths, data))
    return {len(data)}


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


def select(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under a prefix, without it."""
    return {
        k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)
    }


def remembered(process: Process) -> dict[str, Tensor]:
    """The tables of a process that training changes, such as the losses by which it draws its times."""
    return {
        f"{name}.{table}".removeprefix("."): module.get_buffer(table)
        for name, module in process.named_modules()
        for table in getattr(module, "remembers", ())
    }


def random_state(device: torch.device) -> dict[str, Tensor]:
    """torch's random state, of the CPU and of the CUDA device in use."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def versions() -> dict[str, str]:
    """What a run's last digits may depend on."""
    return {"course_lib": __version__, "torch": str(torch.__version__)}
