"""Named full runs: data, model, process and numbers in one place, and the loop that makes weights from them.

    python -m course_lib.recipes ddpm.mnist            make assets/01_ddpm/mnist.* (continues if interrupted)
    python -m course_lib.recipes ddpm.mnist --steps 50 --out /tmp/try
    python -m course_lib.recipes ddpm.mnist --measure  measure the weights that are there again

A run writes <name>.safetensors (averaged weights), <name>.log.json (loss, command, seconds, versions) and
<name>.results.json (what the recipe measures). A Measurement trains nothing and writes the last two only.
Notebooks and README read these files; nobody types their numbers.
"""

import argparse
import ctypes
import importlib
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import __version__
from ..data import batches
from ..files import read_json, write_json
from ..process import Process
from ..train import Record, load_weights, save_weights, train, warmup_cosine

EVERY = 500  # steps between checkpoints
ASSETS = Path(__file__).parents[2] / "assets"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run. `data(split)` gives examples and labels; `measure` gives a JSON-able dict.

    trains   what is minimised, where that is not process.loss itself but has the same mean
    restart  the learning rate falls to 0 in so many steps, rises again, and falls until `steps`
    """

    chapter: str
    name: str
    data: Callable[[str], tuple[Tensor, Tensor]]
    process: Callable[[], Process]
    model: Callable[[], nn.Module]
    measure: Callable[["Recipe", nn.Module], dict]
    steps: int
    batch: int = 64
    lr: float = 1e-3
    ema: float = 0.999
    seed: int = 0
    stream: Callable[[Tensor, int, int], Iterator[Tensor]] = batches  # of data, batch and seed
    trains: Callable[[], Process] | None = None
    restart: int | None = None

    def fresh_model(self) -> nn.Module:
        """The untrained network, the same each time (sets torch's seed)."""
        torch.manual_seed(self.seed)
        return self.model()

    def train(self, model: nn.Module, steps: int | None = None, device="cpu", **options) -> Iterator[Record]:
        """Records of the recipe's training; `steps` shortens it, learning-rate schedule included."""
        steps = self.steps if steps is None else steps
        stream = self.stream(self.data("train")[0], self.batch, self.seed)
        restart = self.restart if steps == self.steps else None
        lr = warmup_cosine(self.lr, steps, restart=restart)
        loss = (self.trains or self.process)().to(device)
        return train(loss, model, stream, steps, lr=lr, ema=self.ema, **options)


@dataclass(frozen=True)
class Measurement:
    """A run without training, of weights that are there already: measure(device) gives a JSON-able dict."""

    chapter: str
    name: str
    measure: Callable[[str], dict]


def run(recipe: Recipe, out: Path, command: str, steps: int | None = None, device: str = "cpu") -> dict:
    """Train, save and measure; continues from <name>.checkpoint if the last run was interrupted."""
    steps, path = recipe.steps if steps is None else steps, Path(out) / recipe.name
    checkpoint, progress = path.with_suffix(".checkpoint"), path.with_suffix(".progress.json")
    about = {"recipe": f"{recipe.chapter}/{recipe.name}", "steps": steps, "command": command}
    model, past = recipe.fresh_model().to(device), earlier(checkpoint, progress, steps)
    losses, start = past["losses"], time.perf_counter() - past["seconds"]
    for record in recipe.train(model, steps, device, checkpoint=checkpoint, every=EVERY):
        losses[record.step - 1 :] = [record.loss.mean()]  # cuts off what is newer than the checkpoint
        if record.step % 100 == 0 or record.step == steps:
            print(f"{recipe.name}: step {record.step} of {steps}, loss {mean(losses[-100:]):.4f}", flush=True)
        if record.step % EVERY == 0 or record.step == steps:  # just before the checkpoint
            losses, seconds = [float(x) for x in losses], time.perf_counter() - start
            write_json(progress, {"steps": steps, "seconds": seconds, "losses": losses})
    log = about | made_on(device, seconds)
    log["loss_every_100_steps"] = [round(mean(losses[i : i + 100]), 5) for i in range(0, steps, 100)]
    weights = path.with_suffix(".safetensors")
    save_weights(weights, record.average, about, torch.float16, recipe.process())
    write_json(path.with_suffix(".log.json"), log)
    results = measure(recipe, out, device)
    checkpoint.unlink()
    progress.unlink()
    return results


def measure(recipe: Recipe, out: Path, device: str = "cpu") -> dict:
    """Measure the weights in out as they are shipped, rounded, and write the results beside them."""
    results = recipe.measure(recipe, shipped(recipe, device, out))
    write_json(Path(out) / f"{recipe.name}.results.json", results)
    return results


def shipped(recipe: Recipe, device: str | torch.device = "cpu", out: Path | None = None) -> nn.Module:
    """A recipe's network with its shipped weights, or those in out."""
    model = recipe.fresh_model().to(device)
    load_weights(Path(out or ASSETS / recipe.chapter) / f"{recipe.name}.safetensors", model)
    return model


def spaced(total: int, n: int) -> Tensor:
    """n of the numbers 0..total - 1, evenly from the first to the last."""
    return torch.linspace(0, total - 1, n).long()


def take(measurement: Measurement, out: Path, command: str, device: str = "cpu") -> dict:
    """Measure and write <name>.log.json and <name>.results.json."""
    path, start = Path(out) / measurement.name, time.perf_counter()
    results = measurement.measure(device)
    about = {"recipe": f"{measurement.chapter}/{measurement.name}", "command": command}
    write_json(path.with_suffix(".log.json"), about | made_on(device, time.perf_counter() - start))
    write_json(path.with_suffix(".results.json"), results)
    return results


def made_on(device: str, seconds: float) -> dict:
    """How long it took, on what, and with which versions."""
    cpu = f"{device}, {torch.get_num_threads()} thread(s)"
    return {
        "seconds": round(seconds),
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu,
        "versions": {
            "course_lib": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def earlier(checkpoint: Path, progress: Path, steps: int) -> dict:
    """Losses and seconds of the run that left the checkpoint; ValueError if it was to have other steps."""
    if not checkpoint.exists():
        return {"losses": [], "seconds": 0.0}
    past = read_json(progress)
    if past["steps"] != steps:
        raise ValueError(
            f"{checkpoint} is of a run of {past['steps']} steps, not {steps}: finish that or delete it"
        )
    return past


def mean(losses: list[float | Tensor]) -> float:
    """Mean of numbers, on whatever device they are."""
    return float(sum(losses)) / len(losses)


def keep_memory() -> bool:
    """Ask glibc to keep freed memory for this process; False where there is no glibc.

    Each step of training frees large tensors and then wants the same again. Given back to the system and taken anew,
    every page of them costs a fault.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    most, trim, mmap = 2**31 - 1, -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    return mallopt is not None and bool(mallopt(trim, most) and mallopt(mmap, most))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.recipes")
    parser.add_argument("recipe", help="system.name, such as ddpm.mnist")
    parser.add_argument("--steps", type=int, help="fewer or more steps than the recipe's")
    parser.add_argument("--out", type=Path, help="folder for the files (default: assets/<chapter>)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--measure", action="store_true", help="train nothing: measure the weights in --out again"
    )
    chosen = parser.parse_args(arguments)
    keep_memory()
    recipe = find(chosen.recipe)
    out = chosen.out or ASSETS / recipe.chapter
    if chosen.measure and isinstance(recipe, Recipe):
        print(measure(recipe, out, chosen.device))
        return
    command = f"python -m course_lib.recipes {chosen.recipe}" + (
        f" --steps {chosen.steps}" if chosen.steps else ""
    )
    if isinstance(recipe, Measurement):
        take(recipe, out, command, chosen.device)
        print(out / f"{recipe.name}.results.json")
    else:
        print(run(recipe, out, command, chosen.steps, chosen.device))


def find(name: str) -> Recipe | Measurement:
    """The recipe called system.name. Raises ValueError that lists what there is."""
    system, _, short = name.partition(".")
    try:
        module = importlib.import_module(f".{system}", __package__)
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}.{system}":  # the recipes are there, and need a package that is not
            raise
        raise ValueError(f"no recipes for {system!r}: there is no file recipes/{system}.py") from None
    have = {k: v for k, v in vars(module).items() if isinstance(v, (Recipe, Measurement))}
    if short not in have:
        raise ValueError(f"no recipe {name!r}; there is " + ", ".join(f"{system}.{k}" for k in have))
    return have[short]
