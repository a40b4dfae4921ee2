"""What recipes share: how a run is described, made, measured and drawn from; and the command line.

    python -m course_lib.recipes ddpm.mnist            make build/recipes/01_ddpm/mnist.* (continues if interrupted)
    python -m course_lib.recipes ddpm.mnist --force    make assets/01_ddpm/mnist.*: what is shipped
    python -m course_lib.recipes ddpm.mnist --steps 50 --out /tmp/try
    python -m course_lib.recipes ddpm.mnist --measure  measure the shipped weights, or those in --out, again

A run writes <name>.safetensors (averaged weights), <name>.log.json (loss, command, seconds, versions) and
<name>.results.json (what the recipe measures). A Measurement trains nothing and writes the last two only.
Notebooks and README read these files; nobody types their numbers. Nothing is written into assets/ without --force.
A log whose weights no single command makes says so in `made` and has no command.
"""

import argparse
import ctypes
import difflib
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
from ..process import Process, last, sample
from ..shapes import Network, Times
from ..train import Record, load_weights, save_weights, train, warmup_cosine

EVERY = 500  # steps between checkpoints
# Files beside the recipes that hold none: what they read, and what they measure.
SHARED = {"run", "verse_sets", "sentence_measures", "tasks", "target_measures"}
ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "assets"


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
    stream: Callable[[Tensor, int, int], Iterator[Tensor]] = (
        batches  # of data, batch and seed
    )
    trains: Callable[[], Process] | None = None
    restart: int | None = None

    def fresh_model(self) -> nn.Module:
        """The untrained network, the same each time (sets torch's seed)."""
        torch.manual_seed(self.seed)
        return self.model()

    def train(
        self, model: nn.Module, steps: int | None = None, device="cpu", **options
    ) -> Iterator[Record]:
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


def run(
    recipe: Recipe,
    out: Path,
    command: str,
    steps: int | None = None,
    device: str = "cpu",
) -> dict:
    """Train, save and measure; continues from <name>.checkpoint if the last run was interrupted."""
    steps, path = recipe.steps if steps is None else steps, Path(out) / recipe.name
    checkpoint, progress = (
        path.with_suffix(".checkpoint"),
        path.with_suffix(".progress.json"),
    )
    about = {
        "recipe": f"{recipe.chapter}/{recipe.name}",
        "steps": steps,
        "command": command,
    }
    model, past = recipe.fresh_model().to(device), earlier(checkpoint, progress, steps)
    losses, start = past["losses"], time.perf_counter() - past["seconds"]
    for record in recipe.train(
        model, steps, device, checkpoint=checkpoint, every=EVERY
    ):
        losses[record.step - 1 :] = [
            record.loss.mean()
        ]  # cuts off what is newer than the checkpoint
        if record.step % 100 == 0 or record.step == steps:
            print(
                f"{recipe.name}: step {record.step} of {steps}, loss {mean(losses[-100:]):.4f}",
                flush=True,
            )
        if (
            record.step % EVERY == 0 or record.step == steps
        ):  # just before the checkpoint
            losses, seconds = [float(x) for x in losses], time.perf_counter() - start
            write_json(progress, {"steps": steps, "seconds": seconds, "losses": losses})
    log = about | made_on(device, seconds)
    log["loss_every_100_steps"] = [
        round(mean(losses[i : i + 100]), 5) for i in range(0, steps, 100)
    ]
    weights = path.with_suffix(".safetensors")
    save_weights(weights, record.average, about, torch.float16, recipe.process())
    write_json(path.with_suffix(".log.json"), log)
    results = measure(recipe, out, device)
    checkpoint.unlink()
    progress.unlink()
    return results


def measure(
    recipe: Recipe, out: Path, device: str = "cpu", weights: Path | None = None
) -> dict:
    """Measure the weights in a folder (`out` itself if not given) as they are shipped, rounded; results go to out."""
    results = recipe.measure(recipe, shipped(recipe, device, weights or out))
    write_json(Path(out) / f"{recipe.name}.results.json", results)
    return results


def shipped(
    recipe: Recipe, device: str | torch.device = "cpu", out: Path | None = None
) -> nn.Module:
    """A recipe's network with its shipped weights, or those in out; ValueError for those of another process."""
    model, folder = (
        recipe.fresh_model().to(device),
        Path(out or ASSETS / recipe.chapter),
    )
    if out is None and not folder.is_dir():
        raise FileNotFoundError(
            f"there is no {folder}: weights are shipped in a clone of the course, not in its wheel"
        )
    load_weights(folder / f"{recipe.name}.safetensors", model, recipe.process())
    return model


# Drawing


def pieces(n: int, size: int) -> list[int]:
    """n as a list of sizes of at most `size`: what fits in memory at once."""
    return [size] * (n // size) + ([n % size] if n % size else [])


def draws(
    process: Process, model: Network, n: int, steps: int | Times, size: int = 250
) -> Tensor:
    """n samples on the CPU, `size` at a time, each piece seeded by its number.

    So all methods that are compared start from the same x_T, and their differences are surer.
    """
    made = []
    for i, m in enumerate(pieces(n, size)):
        torch.manual_seed(i)
        made.append(last(sample(process, model, m, steps))[1].cpu())
    return torch.cat(made)


def spaced(total: int, n: int) -> Tensor:
    """n of the numbers 0..total - 1, evenly from the first to the last."""
    return torch.linspace(0, total - 1, n).long()


def take(
    measurement: Measurement, out: Path, command: str, device: str = "cpu"
) -> dict:
    """Measure and write <name>.log.json and <name>.results.json."""
    path, start = Path(out) / measurement.name, time.perf_counter()
    results = measurement.measure(device)
    about = {"recipe": f"{measurement.chapter}/{measurement.name}", "command": command}
    write_json(
        path.with_suffix(".log.json"),
        about | made_on(device, time.perf_counter() - start),
    )
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
    every page of them costs a fault. Only the command line asks for it: it is the whole process's, and glibc reads
    the environment's MALLOC_ variables before Python starts.
    """
    mallopt = (
        getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    )
    most, trim, mmap = (
        2**31 - 1,
        -1,
        -3,
    )  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    return mallopt is not None and bool(mallopt(trim, most) and mallopt(mmap, most))


# The command line


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.recipes")
    parser.add_argument("recipe", help="system.name, such as ddpm.mnist")
    parser.add_argument(
        "--steps", type=int, help="fewer or more steps than the recipe's"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the files (default: build/recipes/<chapter>)",
    )
    parser.add_argument(
        "--force", action="store_true", help="write into assets/, over what is shipped"
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="train nothing: measure the weights in --out again",
    )
    chosen = parser.parse_args(arguments)
    keep_memory()
    try:
        recipe = find(chosen.recipe)
        out = folder_for(recipe, chosen.out, chosen.force)
    except ValueError as error:
        parser.error(str(error))
    if chosen.measure and isinstance(recipe, Recipe):
        weights = chosen.out or ASSETS / recipe.chapter
        print(measure(recipe, out, chosen.device, weights))
        return
    command = said(chosen)
    if isinstance(recipe, Measurement):
        take(recipe, out, command, chosen.device)
        print(out / f"{recipe.name}.results.json")
    else:
        print(run(recipe, out, command, chosen.steps, chosen.device))
        print(out / f"{recipe.name}.safetensors")


def said(chosen: argparse.Namespace) -> str:
    """The command that makes the same again: what was chosen, less where the files go."""
    words = ["python -m course_lib.recipes", chosen.recipe]
    if chosen.steps is not None:
        words += ["--steps", str(chosen.steps)]
    return " ".join(words)


def folder_for(recipe: Recipe | Measurement, out: Path | None, force: bool) -> Path:
    """Where a run writes. ValueError for a place under assets/ without force, and for assets/ where there is none."""
    if force and not in_a_clone():
        raise ValueError(
            "--force writes into assets/, which an installed package does not have: use --out"
        )
    if out is None:
        base = (
            ASSETS
            if force
            else (ROOT if in_a_clone() else Path.cwd()) / "build" / "recipes"
        )
        return base / recipe.chapter
    if ASSETS.resolve() in (out.resolve(), *out.resolve().parents) and not force:
        raise ValueError(
            f"--out {out} is under assets/, where shipped results are: add --force to write over them"
        )
    return out


def in_a_clone() -> bool:
    """True where the library lies in its repository, and not in a site-packages folder."""
    return (ROOT / "pyproject.toml").is_file()


def find(name: str) -> Recipe | Measurement:
    """The recipe called system.name. Raises ValueError that lists what there is."""
    system, _, short = name.partition(".")
    if system not in systems():
        raise ValueError(
            f"no recipes for {system!r}: there are {', '.join(systems())}{nearest(system, systems())}"
        )
    have = named(system)
    if short not in have:
        every = [f"{system}.{k}" for k in have]
        raise ValueError(
            f"no recipe {name!r}; there is {', '.join(every)}{nearest(name, every)}"
        )
    return have[short]


def systems() -> list[str]:
    """Names of the files that hold recipes."""
    return sorted(
        p.stem for p in Path(__file__).parent.glob("[!_]*.py") if p.stem not in SHARED
    )


def named(system: str) -> dict[str, Recipe | Measurement]:
    """The recipes of a system by their names."""
    module = importlib.import_module(f".{system}", __package__)
    return {
        k: v for k, v in vars(module).items() if isinstance(v, Recipe | Measurement)
    }


def nearest(name: str, every: list[str]) -> str:
    """A question about the names that look alike; empty if none does."""
    alike = difflib.get_close_matches(name, every, cutoff=0.75)
    return f". Did you mean {' or '.join(alike)}?" if alike else ""
