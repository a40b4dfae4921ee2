"""What tests of several files share: exact numbers, pairs of times, all sequences, a recipe of a second.

Worlds that are written out as a whole are in exact/worlds.py, noises in exact/noises.py, networks of words in words.py,
trainings of several processes in processes.py.
"""

import itertools

import torch

from course_lib import data
from course_lib.ddpm import DDPM
from course_lib.nets import MLP
from course_lib.recipes.run import Recipe
from course_lib.schedules import cosine, table

I = torch.tensor
same = close = torch.testing.assert_close


def f64(*values) -> torch.Tensor:
    """These numbers, in float64."""
    return torch.tensor(values, dtype=torch.float64)


def randn64(*shape) -> torch.Tensor:
    """Normal numbers, in float64."""
    return torch.randn(*shape, dtype=torch.float64)


def one(t: float, n: int = 1) -> torch.Tensor:
    """The time t for n examples, as `sample` gives it."""
    return torch.tensor(t, dtype=torch.float64).expand(n)


def pairs(T: int, n: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """n random pairs s < t; the first three are T -> 0, 1 -> 0 and T -> T - 1."""
    s = torch.randint(0, T, (n,))
    t = s + 1 + (torch.rand(n) * (T - s)).long()
    t[:3], s[:3] = I([T, 1, T]), I([0, 0, T - 1])
    return t, s


def sequences(K: int, length: int) -> torch.Tensor:
    """All sequences of K tokens, (K^length, length), the last token running fastest."""
    return torch.tensor(list(itertools.product(range(K), repeat=length)))


def inside(x: torch.Tensor, K: int) -> torch.Tensor:
    """Where these sequences stand in `sequences(K, L)`."""
    return (x * K ** torch.arange(x.shape[1] - 1, -1, -1)).sum(1)


# A recipe that runs in a second


def points(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """40 numbers of two bumps, the same for each split."""
    torch.manual_seed({"train": 1, "test": 2}[split])
    return data.two_bumps().sample(40), torch.zeros(40)


def sum_of_weights(recipe: Recipe, model) -> dict:
    """A measure that tells networks apart."""
    return {"sum": sum(p.sum().item() for p in model.parameters())}


def tiny(kind=DDPM, measure=sum_of_weights) -> Recipe:
    """Seven steps of a small network; `kind` of DDPM is trained."""
    return Recipe(
        chapter="99_test",
        name="tiny",
        data=points,
        process=lambda: kind(table(cosine(), 10), (1,)),
        model=lambda: MLP((1,), width=8, depth=1),
        measure=measure,
        steps=7,
        batch=8,
    )
