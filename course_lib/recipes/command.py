"""The command line of the recipes.

    python -m course_lib.recipes list                        what there is, and how long the shipped runs took
    python -m course_lib.recipes run ddpm.mnist              make build/recipes/01_ddpm/mnist.* (goes on if interrupted)
    python -m course_lib.recipes run ddpm.mnist --force      make assets/01_ddpm/mnist.*: what is shipped
    python -m course_lib.recipes run ddpm.mnist --minutes 5  as many steps as fit, learning rate and all
    python -m course_lib.recipes run d3pm.absorbing:3 sedd.mdlm --minutes 8    in this order; the first has 3/4
    python -m course_lib.recipes run ddpm.mnist --set batch=128 --set lr=1e-3
    python -m course_lib.recipes run ddpm.mnist --measure    train nothing: measure the weights that are there
    python -m course_lib.recipes table                       what was reached
    torchrun --nproc_per_node=2 -m course_lib.recipes run ddpm.mnist    the same run, on two processes or GPUs

`run` may be left out. Everything is checked before anything runs. Nothing is written into assets/ without --force.
"""

import argparse
import ctypes
import os
import sys
from dataclasses import replace
from inspect import Parameter, signature
from pathlib import Path

import torch

from .. import parallel
from ..files import check_writable
from ..train import train
from . import tables
from .run import (
    ASSETS,
    ROOT,
    Measurement,
    Recipe,
    find,
    measure,
    nearest,
)
from .several import NEVER, Job, run_all, say

PROGRAM = "python -m course_lib.recipes"
VERBS = ("list", "run", "table")
OWN = ("batch", "lr", "ema", "seed", "restart")  # numbers of a Recipe
INTERRUPTED = "interrupted: the same command goes on from what was saved"


def main(arguments: list[str] | None = None) -> None:
    """The command line. Exit status 2: not understood, nothing was run; 1: it ran and failed; 130: Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] not in VERBS and not words[0].startswith("-"):
        # `run` may be left out: what is no verb is the name of a recipe.
        words.insert(0, "run")
    parser = options()
    chosen = parser.parse_args(words)
    if chosen.verb is None:
        parser.print_help()
    elif chosen.verb == "list":
        print(tables.listing(chosen.words))
    elif chosen.verb == "table":
        print(tables.results(chosen.out))
    else:
        keep_memory()
        try:
            # What is refused here has run nothing: exit status 2. Later errors are 1.
            chosen.device = device_for(chosen.device)
            jobs = plan(chosen)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        try:
            carry_out(jobs, chosen)
        except (ValueError, OSError, FloatingPointError) as error:
            parser.exit(1, f"{parser.prog}: {error}\n")
        except KeyboardInterrupt:
            parser.exit(130, f"\n{parser.prog}: {INTERRUPTED}\n")
        finally:
            # After an error, too: torchrun's other
            # processes must not wait for this one.
            parallel.leave()


def options() -> argparse.ArgumentParser:
    """What may be said."""
    parser = argparse.ArgumentParser(prog=PROGRAM)
    verbs = parser.add_subparsers(dest="verb", metavar="{list,run,table}")
    listing = verbs.add_parser("list", help="the recipes")
    listing.add_argument("words", nargs="?", default="", help="part of their names")
    table = verbs.add_parser("table", help="what runs reached, as Markdown")
    table.add_argument(
        "--out", type=Path, default=ASSETS, help="folder of chapters (assets/)"
    )
    run = verbs.add_parser("run", help="make one recipe or several")
    run.add_argument(
        "recipes",
        nargs="+",
        metavar="NAME[:SHARE]",
        help="in order of priority, such as ddpm.mnist",
    )
    length = run.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="in place of the recipe's")
    length.add_argument(
        "--minutes", type=float, help="that all of it may take, a fifth to measure"
    )
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another number in the recipe, such as batch=128",
    )
    run.add_argument("--out", type=Path, help="folder for the files (build/recipes/)")
    run.add_argument("--force", action="store_true", help="write over what is shipped")
    run.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    what = run.add_mutually_exclusive_group()
    what.add_argument(
        "--measure", action="store_true", help="train nothing, measure what is in --out"
    )
    what.add_argument(
        "--unmeasured", action="store_true", help="train only, and measure later"
    )
    return parser


# What is asked for, checked


def plan(chosen: argparse.Namespace) -> list[Job]:
    """The jobs that were asked for. ValueError or OSError for what cannot be done, before anything is."""
    shares = dict(share_of(word) for word in chosen.recipes)
    # A dict keeps one of equal names, which is how two of them are noticed.
    if len(shares) < len(chosen.recipes):
        raise ValueError("each recipe may be named once only")
    if chosen.minutes is not None and not chosen.minutes > 0:
        raise ValueError(f"--minutes must be positive, not {chosen.minutes:g}")
    if chosen.steps is not None and chosen.steps < 1:
        raise ValueError(f"--steps must be at least 1, not {chosen.steps}")
    recipes = {name: find(name) for name in shares}
    jobs = []
    for name, recipe in recipes.items():
        out = folder_for(recipe, chosen.out, chosen.force, len(recipes) > 1)
        about = {}
        if isinstance(recipe, Recipe):
            changes = settings(chosen.set, recipe)
            check_changes(changes, recipe)
            recipe = changed(recipe, changes)
            about = {"set": changes} if changes else {}
        path = out / f"{recipe.name}.log.json"
        # Now, not after hours of training. path=path is bound here: a plain lambda
        # would see the last path of the loop.
        parallel.together(lambda path=path: check_writable("--out", path))
        jobs.append(Job(name, recipe, out, shares[name], about, chosen.steps))
    if chosen.set and not any(isinstance(job.recipe, Recipe) for job in jobs):
        raise ValueError("--set changes a recipe, but only measurements were named")
    return jobs


def share_of(word: str) -> tuple[str, float]:
    """A name and its share, from NAME or NAME:SHARE."""
    name, colon, share = word.partition(":")
    try:
        value = float(share) if colon else 1.0
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"a share must be a positive number, not {share!r} in {word}")
    return name, value


def device_for(asked: str | None) -> str:
    """The device to work on; under torchrun a GPU for each process. ValueError for one that is not there."""
    device = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    if "RANK" in os.environ:
        mine = parallel.join()
        device = str(mine) if device == mine.type else device
    try:
        # The one sure test: a device can be named, and even be there, and not work.
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {device} cannot be used: {reason}") from error
    return device


def settings(words: list[str], recipe: Recipe) -> dict[str, int | float]:
    """{"batch": 128} from ["batch=128"]. ValueError for what the recipe does not have, or another kind of value."""
    have, found = numbers(recipe), {}
    for word in words:
        key, _, text = word.partition("=")
        if key not in have:
            raise ValueError(
                f"--set {word}: there is no {key!r}; there are {', '.join(have)}{nearest(key, list(have))}"
            )
        kind = have[key]
        try:
            found[key] = kind(text)
        except ValueError as error:
            raise ValueError(
                f"--set {key} must be {kind.__name__}, not {text!r}"
            ) from error
    return found


def numbers(recipe: Recipe) -> dict[str, type]:
    """What can be set, and its type: the recipe's numbers, and those that `train` takes."""
    own = {key: float if key in ("lr", "ema") else int for key in OWN}
    of_train = {
        name: type(p.default)
        for name, p in signature(train).parameters.items()
        if p.default is not Parameter.empty and type(p.default) in (int, float)
    }
    # How often checkpoints are written belongs to the sitting, which passes it.
    del of_train["every"]
    return {**of_train, **own}


def check_changes(changes: dict[str, int | float], recipe: Recipe) -> None:
    """ValueError for a number that the recipe does not have, or that makes no sense whatever the recipe is."""
    have = numbers(recipe)
    for key, value in changes.items():
        if key not in have:
            raise ValueError(
                f"there is no {key!r} to be set; there are {', '.join(have)}{nearest(key, list(have))}"
            )
        if key in ("batch", "lr", "restart") and not value > 0:
            raise ValueError(f"--set {key} must be positive, not {value}")


def changed(recipe: Recipe, changes: dict[str, int | float]) -> Recipe:
    """The recipe with other numbers."""
    own = {key: value for key, value in changes.items() if key in OWN}
    rest = {key: value for key, value in changes.items() if key not in OWN}
    return replace(recipe, **own, options={**recipe.options, **rest})


def folder_for(
    recipe: Recipe | Measurement, out: Path | None, force: bool, several: bool = False
) -> Path:
    """Where a run writes; several have a folder for each chapter in --out.

    ValueError for a place under assets/ without force, and for assets/ where there is none.
    """
    if force and not in_a_clone():
        raise ValueError(
            "--force writes into assets/, which an installed package does not have: use --out"
        )
    if out is None:
        return base(force) / recipe.chapter
    # Resolved: links and `..` may lead into assets/ where the words do not say so.
    if ASSETS.resolve() in (out.resolve(), *out.resolve().parents) and not force:
        raise ValueError(
            f"--out {out} is under assets/, where shipped results are: add --force to write over them"
        )
    return out / recipe.chapter if several else out


def base(force: bool) -> Path:
    """The folder of chapters, where none is named."""
    if force:
        return ASSETS
    return (ROOT if in_a_clone() else Path.cwd()) / "build" / "recipes"


def in_a_clone() -> bool:
    """True where the library lies in its repository, and not in a site-packages folder."""
    return (ROOT / "pyproject.toml").is_file()


# What is done


def carry_out(jobs: list[Job], chosen: argparse.Namespace) -> None:
    """Run or measure, and say at the end what there was no time for."""
    if chosen.measure:
        for job in jobs:
            # Without --out what is shipped is measured, and the results go beside it
            # only with --force.
            weights = job.out if chosen.out else ASSETS / job.recipe.chapter
            if isinstance(job.recipe, Recipe) and parallel.first():
                print(measure(job.recipe, job.out, chosen.device, weights))
        return
    where = chosen.out or base(chosen.force)
    became = run_all(
        jobs,
        said(chosen),
        where
        # Cut, since file systems refuse long names.
        / f"{'+'.join(job.recipe.name for job in jobs)[:80]}.session.progress.json",
        chosen.minutes,
        chosen.device,
        not chosen.unmeasured,
        # A single run with --out has no folders of chapters to look in.
        fresh=where if len(jobs) > 1 or chosen.out is None else None,
    )
    if late := [name for name, how in became.items() if how == NEVER]:
        say(f"{NEVER}: {', '.join(late)}")


def said(chosen: argparse.Namespace) -> str:
    """The command that makes the same again: what was chosen, less where the files go."""
    words = [PROGRAM, "run", *chosen.recipes]
    for key in ("steps", "minutes"):
        value = getattr(chosen, key)
        if value is not None:
            words += [f"--{key}", f"{value:g}" if key == "minutes" else str(value)]
    for change in chosen.set:
        words += ["--set", change]
    return " ".join(words)


def keep_memory() -> bool:
    """Ask glibc to keep freed memory for this process; False where there is no glibc.

    Each step of training frees large tensors and then wants the same again. Given back to the system and taken anew,
    every page of them costs a fault. Only the command line asks for it: it is the whole process's, and glibc reads
    the environment's MALLOC_ variables before Python starts.
    """
    mallopt = (
        getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    )
    most = 2**31 - 1
    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h.
    trim = -1
    mmap = -3
    return mallopt is not None and bool(mallopt(trim, most) and mallopt(mmap, most))
