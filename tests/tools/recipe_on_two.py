"""What torchrun starts in test_recipes_on_two: the recipes' command line, with one more recipe, that may be killed."""

import os
import signal
import sys

import torch

from course_lib import parallel
from course_lib.absorbing import Absorbing
from course_lib.d3pm import D3PM
from course_lib.nets import TokenNet
from course_lib.recipes import d3pm, sitting
from course_lib.recipes.command import main
from course_lib.recipes.run import Recipe
from course_lib.schedules import log_linear, table


def rows(split):
    g = torch.Generator().manual_seed(3)
    return torch.randint(0, 5, (64, 6), generator=g), None


def measure(recipe, model):
    return {"sum": sum(p.double().sum().item() for p in model.parameters())}


TINY = Recipe(
    chapter="99_test",
    name="tiny",
    data=rows,
    process=lambda: D3PM(Absorbing(5, table(log_linear(), 20)), 6),
    model=lambda: TokenNet(6, 5, 16, 2, 1),
    measure=measure,
    steps=12,
    batch=8,
    lr=1e-2,
)


class Mortal(sitting.Sitting):
    """Dies at a step, on the process that is named, as if the machine had; and leaves what a run would clear."""

    def note(self, record):
        if os.environ.get("DIES") == f"{parallel.rank()} {record.step}":
            os.kill(os.getpid(), signal.SIGKILL)
        super().note(record)

    def clear(self):
        pass


if __name__ == "__main__":
    torch.set_num_threads(1)
    from course_lib.recipes import run

    sitting.EVERY = 4
    run.Sitting, d3pm.tiny = Mortal, TINY
    main(sys.argv[1:])
