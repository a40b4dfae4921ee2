"""What recipes share: how a run is described, made, measured and drawn from. The command line is in `command`.

A run writes <name>.safetensors (averaged weights), <name>.log.json (loss, learning rate, command, seconds, versions)
and <name>.results.json (what the recipe measures). A Measurement trains nothing and writes the last two only.
Notebooks and README read these files; nobody types their numbers.
A log whose weights no single command makes says so in `made` and has no command.
"""

import copy
import difflib
import importlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import __version__
from ..data import batches
from ..files import write_json
from ..learning_rate import OfProgress, warmup_cosine
from ..parallel import first, together, world
from ..process import Process, last, sample
from ..shapes import Network, Times, check_count
from ..train import Record, train
from ..validation import Validation
from ..weights import load_weights, save_weights
from .sitting import Sitting, mean

# Files beside the recipes that hold none: what they read, what they measure, what runs them.
SHARED = {"run", "sitting", "several", "command", "tables"}
SHARED |= {"verse_sets", "verse_rows", "sentence_measures", "word_measures", "tasks"}
SHARED |= {"word_orders"}
SHARED |= {"target_measures", "gaps_and_errors", "scoreboard", "power_measures"}
ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "assets"
RISE = 0.05  # share of a run by minutes in which the learning rate rises, at least
# Where `shipped` looks first: chapters' folders with weights that were made just now.
FRESH: ContextVar[Path | None] = ContextVar("FRESH", default=None)

Rate = Callable[[float], float]  # learning rate, by step


# Frozen: a recipe is what a log refers to by its name. `replace` makes another.
@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run. `data(split)` gives examples and labels; `measure` gives a JSON-able dict.

    trains    what is minimised, where that is not process.loss itself but has the same mean
    restart   the learning rate falls to 0 in so many steps, rises again, and falls until `steps`
    schedule  the learning rate by step, made of its peak and the number of steps; warmup_cosine if None
    options   what else `train` is told: clip, precision, the optimiser, ...
    watch     watch(model) -> number, measured every `look` steps on held-out data; the weights of the least are kept
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
    schedule: Callable[[float, int], Rate] | None = None
    options: Mapping = field(default_factory=dict)
    watch: Callable[[nn.Module], float] | None = None
    look: int = 500

    def fresh_model(self) -> nn.Module:
        """The untrained network, the same each time (sets torch's seed)."""
        torch.manual_seed(self.seed)
        return self.model()

    def rate(self, steps: int) -> Rate:
        """The learning rate by step in a run of so many steps."""
        if self.schedule is not None:
            return self.schedule(self.lr, steps)
        # A restart stands at one step of the whole run; a shortened run has none.
        restart = self.restart if steps == self.steps else None
        return warmup_cosine(self.lr, steps, restart=restart)

    def rate_of_progress(self) -> OfProgress:
        """That of the whole run, stretched or squeezed to any length; a short run still rises slowly."""
        own = self.rate(self.steps)
        return OfProgress(
            lambda done: min(own(done * self.steps), self.lr * done / RISE)
        )

    def train(
        self,
        model: nn.Module,
        steps: int | None = None,
        device="cpu",
        minutes: int | float | None = None,
        **options,
    ) -> Iterator[Record]:
        """Records of the recipe's training; `steps` shortens it, learning-rate schedule included.

        minutes  as many steps as fit into them, in place of a number of steps
        options  those of `train`, in place of the recipe's own
        """
        stream = self.stream(self.data("train")[0], self.batch, self.seed)
        if minutes is None:
            steps = self.steps if steps is None else steps
        lr = self.rate(steps) if minutes is None else self.rate_of_progress()
        options = {"lr": lr, "ema": self.ema, **self.options, **options}
        loss = (self.trains or self.process)().to(device)
        return train(loss, model, stream, steps, minutes=minutes, **options)


@dataclass(frozen=True)
class Measurement:
    """A run without training, of weights that are there already: measure(device) gives a JSON-able dict."""

    chapter: str
    name: str
    measure: Callable[[str], dict]


# A run


def run(
    recipe: Recipe,
    out: Path,
    command: str,
    steps: int | None = None,
    device: str = "cpu",
) -> dict:
    """Train, save and measure; continues from <name>.checkpoint if the last run was interrupted."""
    made = make(recipe, out, command, steps, device)
    results = measure(recipe, out, device)
    made.clear()
    return results


def make(
    recipe: Recipe,
    out: Path,
    command: str,
    steps: int | None = None,
    device: str = "cpu",
    minutes: int | float | None = None,
    about: Mapping | None = None,
) -> Sitting:
    """Train, and write weights and log, unless an interrupted run had done so; `clear()` the sitting at the end.

    steps    in place of the recipe's
    minutes  in place of any number of steps
    about    what else the log says
    """
    sitting = Sitting(recipe, Path(out), steps, minutes)
    if not sitting.trained:
        # A copy of `about`: what the run adds is not the caller's.
        weights = train_and_log(recipe, sitting, command, device, dict(about or {}))
        said = {
            "recipe": full_name(recipe),
            "steps": sitting.done,
            "command": command,
        }
        path = sitting.file("safetensors")
        # float16 halves what a clone downloads. What is measured is read back from this
        # file, rounded as it is.
        save_weights(path, weights, said, torch.float16, recipe.process())
        # Last: only from now on may an interrupted run leave out the training.
        sitting.write(trained=True)
    return sitting


def train_and_log(
    recipe: Recipe, sitting: Sitting, command: str, device: str, about: dict
) -> nn.Module:
    """The averaged network after all steps; writes the log."""
    if world() > 1:
        together(lambda: recipe.data("train") and None)  # fetched or derived once
    model = recipe.fresh_model().to(device)
    looks = None if recipe.watch is None else Validation(recipe.watch, recipe.look)
    for record in recipe.train(
        model,
        sitting.steps,
        device,
        sitting.minutes,
        checkpoint=sitting.file("checkpoint"),
        every=sitting.every,
        validation=looks,
    ):
        sitting.note(record)
    if looks is not None:
        about |= {"kept_step": looks.best[0], "watched": looks.curve}
    log = {
        "recipe": full_name(recipe),
        "steps": sitting.done,
        "command": command,
        **made_on(device, sitting.seconds),
        **about,
        "batch": recipe.batch,
        "lr_every_100_steps": sitting.rates,
        "loss_every_100_steps": [
            round(mean(sitting.losses[i : i + 100]), 5)
            for i in range(0, sitting.done, 100)
        ],
    }
    if first():
        # Those of other weights, if there were any.
        sitting.file("results.json").unlink(missing_ok=True)
        write_json(sitting.file("log.json"), log)
    if looks is None:
        return record.average
    with looks.applied(model) as best:
        # A copy, since the model has its last weights again outside `applied`.
        return copy.deepcopy(best)


def measure(
    recipe: Recipe, out: Path, device: str = "cpu", weights: Path | None = None
) -> dict:
    """Measure the weights in a folder (`out` itself if not given) as they are shipped, rounded; results go to out."""
    # From the file, not from memory: a loss by rounding shows in the results.
    results = recipe.measure(recipe, shipped(recipe, device, weights or out))
    write_json(Path(out) / f"{recipe.name}.results.json", results)
    return results


def take(
    measurement: Measurement, out: Path, command: str, device: str = "cpu"
) -> dict:
    """Measure and write <name>.log.json and <name>.results.json."""
    path, start = Path(out) / measurement.name, time.perf_counter()
    results = measurement.measure(device)
    about = {"recipe": full_name(measurement), "command": command}
    write_json(
        path.with_suffix(".log.json"),
        about | made_on(device, time.perf_counter() - start),
    )
    write_json(path.with_suffix(".results.json"), results)
    return results


def full_name(recipe: Recipe | Measurement) -> str:
    """chapter/name, as its files lie in assets/."""
    return f"{recipe.chapter}/{recipe.name}"


def shipped(
    recipe: Recipe, device: str | torch.device = "cpu", out: Path | None = None
) -> nn.Module:
    """A recipe's network with its shipped weights, or those in out; ValueError for those of another process."""
    model = recipe.fresh_model().to(device)
    folder = Path(out or found(recipe))
    if out is None and not folder.is_dir():
        raise FileNotFoundError(
            f"there is no {folder}: weights are shipped in a clone of the course, not in its wheel"
        )
    load_weights(folder / f"{recipe.name}.safetensors", model, recipe.process())
    return model


def found(recipe: Recipe) -> Path:
    """The folder of its weights: where fresh ones are looked for, if they are there, else assets/."""
    fresh = FRESH.get()
    if fresh and (fresh / f"{full_name(recipe)}.safetensors").is_file():
        return fresh / recipe.chapter
    return ASSETS / recipe.chapter


@contextmanager
def fresh_weights(folder: Path | None) -> Iterator[None]:
    """Within it `shipped` takes weights from <folder>/<chapter>/, where they are there, before those in assets/."""
    before = FRESH.set(folder)
    try:
        yield
    finally:
        FRESH.reset(before)


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
        # To the CPU piece by piece, so that the device holds one only.
        made.append(last(sample(process, model, m, steps))[1].cpu())
    return torch.cat(made)


def draws_from_one_seed(
    process: Process, model: Network, n: int, steps: int, seed: int, size: int = 250
) -> Tensor:
    """n samples on the CPU, `size` at a time, all from one random stream.

    Chapters 1 and 3 were measured so: a method that draws more per step has other starts from its second piece on.
    """
    torch.manual_seed(seed)
    made = [last(sample(process, model, m, steps))[1].cpu() for m in pieces(n, size)]
    return torch.cat(made)


def spaced(total: int, n: int) -> Tensor:
    """n of the numbers 0..total - 1, evenly from the first to the last."""
    check_count("total", total)
    check_count("n", n)
    return torch.linspace(0, total - 1, n).long()


def made_on(device: str, seconds: float) -> dict:
    """How long it took, on what, and with which versions."""
    cpu = f"{device}, {torch.get_num_threads()} thread(s)"
    name = torch.cuda.get_device_name() if device.startswith("cuda") else cpu
    return {
        "seconds": round(seconds),
        "device": name if world() == 1 else f"{name}, {world()} processes",
        "versions": {
            "course_lib": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


# Finding


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
