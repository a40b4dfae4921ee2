"""A run through its interruptions: its files, its losses, its seconds, and when it is over."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..checkpoint_parts import delete
from ..files import check_writable, read_json, write_json
from ..parallel import first, together
from ..train import Record

if TYPE_CHECKING:
    from .run import Recipe

EVERY = 500  # steps between checkpoints


class Sitting:
    """A run's losses, seconds and files, through interruptions. <name>.progress.json keeps them beside the checkpoint.

    Raises ValueError if the checkpoint there is of a run of other length, OSError if files cannot be written there.
    Of many processes the first one reads and writes.
    """

    def __init__(
        self,
        recipe: "Recipe",
        out: Path,
        steps: int | None = None,
        minutes: int | float | None = None,
    ):
        self.path, self.minutes, self.every = out / recipe.name, minutes, EVERY
        self.name, self.start = recipe.name, time.perf_counter()
        by_steps = recipe.steps if steps is None else steps
        self.steps = by_steps if minutes is None else None
        self.plan = {"steps": self.steps} if minutes is None else {"minutes": minutes}
        past = together(self.earlier)
        self.losses, self.rates = past["losses"], past["rates"]
        self.spent, self.trained = past["seconds"], past["trained"]
        self.done = len(self.losses)

    def file(self, kind: str) -> Path:
        """out/<name>.<kind>"""
        return self.path.with_name(f"{self.path.name}.{kind}")

    @property
    def seconds(self) -> float:
        """Of all sittings."""
        return self.spent + time.perf_counter() - self.start

    def note(self, record: Record) -> None:
        """Keep a step's loss; say now and then how it goes, and write what a checkpoint goes with."""
        step, over = record.step, record.progress == 1
        # Cuts off what is newer than the checkpoint.
        self.losses[step - 1 :] = [record.loss.mean()]
        # One of a hundred is enough to draw the curve.
        self.rates[(step - 1) // 100 :] = [record.lr and float(f"{record.lr:.5g}")]
        self.done = step
        if (step % 100 == 0 or over) and first():
            of = f"step {step}" if self.minutes else f"step {step} of {self.steps}"
            loss = mean(self.losses[-100:])
            print(f"{self.name}: {of}, loss {loss:.4f}", flush=True)
        if step % self.every == 0 or over:  # just before the checkpoint
            self.losses = [float(x) for x in self.losses]
            self.write()

    def write(self, trained: bool = False) -> None:
        """What is known so far."""
        known = {"seconds": self.seconds, "losses": self.losses, "rates": self.rates}
        if first():
            path = self.file("progress.json")
            write_json(path, {**self.plan, **known, "trained": trained})

    def earlier(self) -> dict:
        """What the run that left the checkpoint had written; ValueError if it was to have other steps."""
        for kind in ("safetensors", "log.json", "results.json", "progress.json"):
            # Before the first step: after the last one it would be late.
            check_writable("out", self.file(kind))
        checkpoint, progress = self.file("checkpoint"), self.file("progress.json")
        past = kept(progress) if progress.exists() else {}
        if not (checkpoint.exists() or past.get("trained")):
            return {"losses": [], "rates": [], "seconds": 0.0, "trained": False}
        if not past:
            raise ValueError(
                f"{checkpoint} has no {progress.name} beside it: delete it"
            )
        have, want = says(past), says(self.plan)
        if have != want:
            raise ValueError(
                f"{checkpoint} is of a run of {have}, not {want}: finish that or delete it"
            )
        return past

    def clear(self) -> None:
        """Delete what is for going on with."""
        # In this order: a checkpoint without its progress would be refused next time.
        delete(self.file("checkpoint"))
        if first():
            self.file("progress.json").unlink(missing_ok=True)


def says(plan: Mapping) -> str:
    """How long a run was to be."""
    if "minutes" in plan:
        return f"{plan['minutes']:g} minutes"
    return f"{plan['steps']} steps"


def kept(progress: Path) -> dict:
    """What `write` wrote. ValueError if it is damaged."""
    try:
        past = read_json(progress)
        losses, seconds = list(past["losses"]), float(past["seconds"])
        # Files of version 0.1 have no rates, and no runs by minutes.
        known = {"rates": [None] * -(-len(losses) // 100), "trained": False, **past}
        return {**known, "losses": losses, "seconds": seconds}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{progress} is damaged: delete it and the checkpoint beside it"
        ) from error


def mean(losses: list[float | Tensor]) -> float:
    """Mean of numbers, on whatever device they are."""
    return float(sum(losses)) / len(losses)
