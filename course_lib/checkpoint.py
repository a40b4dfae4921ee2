"""A training run written to one file and continued from it: weights, averages, optimiser, random state.

Batches are skipped on resuming, not stored, so they must come in the same order again.
"""

import warnings
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import __version__
from .files import about_path, load_tensors, save_tensors
from .identity import class_of, differences, identity
from .process import Process
from .weights import Averaged, bare, put, weights_of


class Resumable:
    """The part of a training run that knows how to stop and go on; `train` has the part that steps."""

    process: Process
    model: nn.Module
    average: Averaged
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    lr: Callable[[int], float]
    ema: float
    clip: float
    precision: torch.dtype | None
    device: torch.device
    seed: int
    random: dict[str, Tensor]  # random state to go back to
    last: Any  # the Record of the last step

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
            # The fused step needs the parameter's memory order, say channels_last.
            if value.shape == p.shape:
                value = torch.empty_like(p).copy_(value)
            state.setdefault(int(i), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.scaler.load_state_dict(about["scaler"])
        self.random, self.seed = select(tensors, "random/"), about["seed"]
        t = tensors["last/t"].to(self.device)
        loss = tensors["last/loss"].to(self.device)
        self.last = replace(self.last, step=about["step"], t=t, loss=loss)

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
