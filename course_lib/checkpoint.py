"""A training run written to one file and continued from it: weights, averages, optimiser, random state.

The file is the same whatever ran: names are plain and tensors whole, so that one process goes on where several stopped
and the other way round. Weights that are spread over processes are the exception: they lie beside it, part by part
(`checkpoint_parts`), and can be read in any other division.

Batches go on where they were if they know it (state_dict), and else are skipped, so that they must come in the same
order again.
"""

import warnings
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import __version__
from .budget import Budget
from .checkpoint_parts import keep_only, read_parts, write_parts
from .files import about_path, load_tensors, save_tensors
from .identity import class_of, differences, identity
from .parallel import together
from .process import Process
from .random_state import random_state, restore
from .shares import Shares
from .validation import Validation
from .weights import (
    Kept,
    Swappable,
    bare,
    placed,
    plain,
    put,
    spread,
    tensors_of,
    weights_of,
)


class Resumable:
    """The part of a training run that knows how to stop and go on; `train` has the part that steps."""

    process: Process
    model: nn.Module
    average: Swappable
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    budget: Budget
    shares: Shares
    validation: Validation | None
    ema: float
    clip: float
    precision: torch.dtype | None
    device: torch.device
    last: Any  # the Record of the last step
    random: dict[str, Tensor] | None = None  # random state to go back to
    source: Any = None  # the batches, if they know where they are
    place: dict | None = None  # where they were at the checkpoint

    def rate(self, step: int) -> float | None:
        """The learning rate of a step."""
        raise NotImplementedError

    def rest_of(self, batches: Iterable) -> Iterator:
        """The batches after the last step, and torch's random state as it was then."""
        knows = hasattr(batches, "state_dict") and hasattr(batches, "load_state_dict")
        self.source = batches if knows else None
        if knows and self.place is not None:
            try:
                batches.load_state_dict(self.place)
            except (KeyError, TypeError) as error:
                raise ValueError(
                    f"batches must be of the kind that the checkpoint was written with, at {str(self.place)[:60]}"
                ) from error
        stream = iter(batches)
        if not knows or self.place is None:
            # Batches used before the interruption are skipped first: making them may draw numbers.
            deque(islice(stream, self.last.step), maxlen=0)
        if self.random is not None:
            restore(self.random, self.device)
        return stream

    def description(self, step: int) -> dict:
        """Whose checkpoint it is: what a run that continues it must agree with."""
        return {
            "process": identity(self.process),
            "network": class_of(bare(self.model)),
            "optimizer": settings(self.optimizer),
            "lr": self.rate(step) if step else None,
            "ema": self.ema,
            "clip": self.clip,
            "precision": str(self.precision),
            "micro": self.shares.micro,
            "draws": "torch's random state"
            if self.shares.seed is None
            else f"seed {self.shares.seed}",
        }

    # Writing

    def save(self, path: str | Path) -> None:
        """Write everything to path. All processes call it, and the first one writes."""
        step, last = self.last.step, self.last
        tensors = {"last/t": last.t, "last/loss": last.loss, "last/norm": last.norm}
        tensors |= under("random", random_state(self.device))
        tensors |= under("process", remembered(self.process))
        states, numbers = self.optimizer_state()
        large = under("model", weights_of(self.model)) | under("optimizer", states)
        large |= under("average", self.average.entries(self.model))
        about = {
            "kind": "checkpoint",
            "step": step,
            "scaler": self.scaler.state_dict(),
            "optimizer": numbers,
            "of": self.description(step),
            "seed": self.shares.start,
            "versions": versions(),
        }
        if self.budget.minutes is not None:
            about["elapsed"] = last.elapsed
        if self.source is not None:
            about["batches"] = self.source.state_dict()
        if self.validation is not None and self.validation.curve:
            about["validation"] = self.validation.curve
            large |= under("best", self.validation.kept.entries(self.model))
        try:
            if spread(self.model):
                about["parts"], large = write_parts(path, step, large), {}
            together(lambda: save_tensors(path, tensors | large, about))
            keep_only(path, step if "parts" in about else None)
        except OSError as error:
            raise about_path(
                error, f"the checkpoint of step {step} was not written", path
            ) from error

    def optimizer_state(self) -> tuple[dict[str, Tensor], dict]:
        """The optimiser's tensors and numbers, as name of the parameter / name of the value."""
        tensors, numbers = {}, {}
        for name, p in named(self.model).items():
            for key, value in self.optimizer.state.get(p, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{name}/{key}"] = value
                else:
                    numbers[f"{name}/{key}"] = value
        return tensors, numbers

    # Reading

    def load(self, path: str | Path, changed: Collection[str] = ()) -> None:
        """Continue from path. ValueError if it is damaged or of another run; nothing has changed then."""
        tensors, about = together(lambda: self.read(path, changed), everywhere=True)
        if "parts" in about:
            tensors |= read_parts(path, about["parts"], self.like)
        # The model's own last: on the way it has other weights, for those who take them from it.
        if self.validation is not None and "validation" in about:
            put(self.model, select(tensors, "best/"), path)
            self.validation.curve = [(k, v) for k, v in about["validation"]]
            self.validation.kept = Kept(tensors_of(self.model))
        put(self.model, select(tensors, "average/"), path)
        self.average.take(self.model)
        put(self.model, select(tensors, "model/"), path)
        for name, value in remembered(self.process).items():
            value.copy_(tensors[f"process/{name}"])
        self.put_optimizer(select(tensors, "optimizer/"), about["optimizer"])
        self.scaler.load_state_dict(about["scaler"])
        self.random, self.shares.start = select(tensors, "random/"), about["seed"]
        self.place = about.get("batches")
        t, loss, norm = (
            tensors[f"last/{k}"].to(self.device) for k in ("t", "loss", "norm")
        )
        step = about["step"]
        self.last = replace(
            self.last,
            step=step,
            t=t,
            loss=loss,
            norm=norm,
            lr=about["of"]["lr"],
            elapsed=self.budget.elapsed,
            progress=self.budget.progress(step),
            dev=dict(about.get("validation", ())).get(step),
        )

    def read(
        self, path: str | Path, changed: Collection[str]
    ) -> tuple[dict[str, Tensor], dict]:
        """What is in the file; ValueError if that is not this run's."""
        tensors, about = load_tensors(path)
        if about.get("kind") != "checkpoint":
            raise ValueError(
                f"{path} holds {about.get('kind', 'something else')}, not a training checkpoint"
            )
        self.budget.elapsed = about.get("elapsed", 0.0)
        self.check_same(path, about, changed)
        return tensors, about

    def like(self, name: str) -> Tensor | None:
        """The parameter or buffer of the model that an entry of the file belongs to."""
        part, _, rest = name.partition("/")
        own = tensors_of(self.model)
        return own.get(rest.rsplit("/", 1)[0] if part == "optimizer" else rest)

    def put_optimizer(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Give the optimiser its state back, each parameter's by the parameter's name."""
        parameters, whose = named(self.model), self.optimizer.state_dict()
        order = [p for group in self.optimizer.param_groups for p in group["params"]]
        place = {id(p): i for i, p in enumerate(order)}
        state: dict[int, dict] = {}
        for name, value in (tensors | numbers).items():
            name, key = name.rsplit("/", 1)
            p = parameters[name]
            # The fused step needs the parameter's memory order, say channels_last.
            if isinstance(value, Tensor) and value.shape == p.shape:
                value = placed(value, p.detach())
            state.setdefault(place[id(p)], {})[key] = value
        self.optimizer.load_state_dict({**whose, "state": state})

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
                stacklevel=7,
            )


def named(model: nn.Module) -> dict[str, nn.Parameter]:
    """The model's parameters by their plain names."""
    return {plain(k): p for k, p in bare(model).named_parameters()}


def settings(optimizer: torch.optim.Optimizer) -> dict:
    """The optimiser's class and settings, but for the learning rate; of each group."""
    groups = [
        {k: v for k, v in group.items() if k not in ("params", "lr", "initial_lr")}
        for group in optimizer.param_groups
    ]
    said = {
        f"group {i}": {k: str(v) for k, v in g.items()} for i, g in enumerate(groups)
    }
    return {"class": type(optimizer).__name__, **said}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with a prefix before their names."""
    return {f"{prefix}/{k}": v for k, v in tensors.items()}


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


def versions() -> dict[str, str]:
    """What a run's last digits may depend on."""
    return {"course_lib": __version__, "torch": str(torch.__version__)}
