"""A run through its interruptions: its files, its losses, its seconds, and when it is over."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..files import check_writable, read_json, write_json
from ..train import Record
from .budget import Budget

if TYPE_CHECKING:
    from .run import Recipe

EVERY = 500  # steps between checkpoints
FOREVER = 10**9  # steps, more than any run by minutes takes


class Sitting:
    """A run's losses, seconds and files, through interruptions. <name>.progress.json keeps them beside the checkpoint.

    Raises ValueError if the checkpoint there is of a run of other length.
    """

    def __init__(
        self, recipe: "Recipe", out: Path, steps: int | None, budget: Budget | None
    ):
        self.path, self.budget = out / recipe.name, budget
        self.name, self.start = recipe.name, time.perf_counter()
        self.steps, self.every = recipe.steps if steps is None else steps, EVERY
        if budget is not None:
            self.steps = budget.last or FOREVER
        self.plan = {"steps": self.steps}
        if self.steps == FOREVER:
            self.plan = {"minutes": budget.seconds / 60}
        for kind in ("safetensors", "log.json", "results.json", "progress.json"):
            check_writable("out", self.file(kind))
        past = self.earlier()
        self.losses, self.spent = past["losses"], past["seconds"]
        self.trained, self.done = past.get("trained", False), len(self.losses)
        if budget is not None and "progress" in past:
            budget.resume(past["progress"], self.spent)
        self.rate = (
            recipe.rate(self.steps)
            if budget is None
            else budget.rate(recipe.rate(recipe.steps), recipe.steps, recipe.lr)
        )

    def file(self, kind: str) -> Path:
        """out/<name>.<kind>"""
        return self.path.with_name(f"{self.path.name}.{kind}")

    @property
    def seconds(self) -> float:
        """Of all sittings."""
        return self.spent + time.perf_counter() - self.start

    def over(self, step: int) -> bool:
        """Whether this step was the last."""
        return step == self.steps if self.budget is None else self.budget.over(step)

    def note(self, record: Record) -> None:
        """Keep a step's loss; say now and then how it goes, and write what a checkpoint goes with."""
        step, over = record.step, self.over(record.step)
        # Cuts off what is newer than the checkpoint.
        self.losses[step - 1 :] = [record.loss.mean()]
        self.done = step
        if step % 100 == 0 or over:
            of = self.steps if self.steps < FOREVER else f"{self.budget.seconds:.0f} s"
            loss = mean(self.losses[-100:])
            print(f"{self.name}: step {step} of {of}, loss {loss:.4f}", flush=True)
        if step % self.every == 0 or over:  # just before the checkpoint
            self.losses = [float(x) for x in self.losses]
            self.write()

    def write(self, trained: bool = False) -> None:
        """What is known so far."""
        known = {**self.plan, "seconds": self.seconds, "losses": self.losses}
        if self.budget is not None:
            known["progress"] = self.budget.knots
        write_json(self.file("progress.json"), known | {"trained": trained})

    def earlier(self) -> dict:
        """What the run that left the checkpoint had written; ValueError if it was to have other steps."""
        checkpoint, progress = self.file("checkpoint"), self.file("progress.json")
        past = kept(progress) if progress.exists() else {}
        if not (checkpoint.exists() or past.get("trained")):
            return {"losses": [], "seconds": 0.0}
        if not past:
            raise ValueError(
                f"{checkpoint} has no {progress.name} beside it: delete it"
            )
        have, want = (says(plan) for plan in (past, self.plan))
        if have != want:
            raise ValueError(
                f"{checkpoint} is of a run of {have}, not {want}: finish that or delete it"
            )
        return past

    def clear(self) -> None:
        """Delete what is for going on with."""
        self.file("checkpoint").unlink(missing_ok=True)
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
        return {**past, "losses": list(past["losses"]), "seconds": past["seconds"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{progress} is damaged: delete it and the checkpoint beside it"
        ) from error


def every_100(steps: int) -> list[int]:
    """100, 200, ... and the last step."""
    return [min(n + 100, steps) for n in range(0, steps, 100)]


def mean(losses: list[float | Tensor]) -> float:
    """Mean of numbers, on whatever device they are."""
    return float(sum(losses)) / len(losses)
