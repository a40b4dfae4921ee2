"""D3PM on the State of the Union: one network, three ways to train it; each about half an hour on one CPU core."""

import torch
from torch import nn

from .. import schedules
from ..categorical import Absorbing, Uniform
from ..d3pm import D3PM, MaskCount
from ..data import ALPHABET, addresses, windows
from ..evaluate import bound
from ..nets import TokenNet
from ..process import Process
from . import Recipe

K, LENGTH, T = len(ALPHABET), 128, 1000


def text(split: str) -> tuple[torch.Tensor, None]:
    """Windows of 128 characters, no labels."""
    return windows(addresses(split), LENGTH), None


def absorbing_process() -> D3PM:
    """MASK at the rate 1 / (T - t + 1), so that alpha_bar falls on a line to 0."""
    return D3PM(Absorbing(K, schedules.table(schedules.log_linear(0.0), T, max_beta=1.0)), LENGTH)


def uniform_process(**options) -> D3PM:
    """Random characters by the cosine schedule of multinomial diffusion."""
    return D3PM(Uniform(K, schedules.table(schedules.cosine(power=1), T)), LENGTH, **options)


def network(process: Process) -> TokenNet:
    """The network of all of them: 0.4 million weights."""
    return TokenNet(process.noise.K, K, width=96, heads=4, depth=3, spread=4)


def measure(recipe: Recipe, model: nn.Module, repeats: int = 4) -> dict:
    """The bound on the test addresses, in bits per character."""
    device = next(model.parameters()).device
    process, (test, _) = recipe.process().to(device), recipe.data("test")
    torch.manual_seed(recipe.seed)
    evaluator = MaskCount(process) if isinstance(process.noise, Absorbing) else process
    bits = bound(evaluator, model, test.to(device), repeats=repeats).bits_per_dim(LENGTH)
    return {"bits_per_char": bits.mean, "bits_per_char_se": bits.se, "windows": len(test), "repeats": repeats}


def recipe(name: str, process) -> Recipe:
    """What the three have in common."""
    return Recipe(
        chapter="06_d3pm",
        name=name,
        data=text,
        process=process,
        model=lambda: network(process()),
        measure=measure,
        steps=6000,
        batch=16,
        lr=3e-3,
        ema=0.995,
    )


absorbing = recipe("absorbing", absorbing_process)
uniform = recipe("uniform", uniform_process)
hybrid = recipe("hybrid", lambda: uniform_process(ce_weight=0.01))  # as D3PM's code weighs it
