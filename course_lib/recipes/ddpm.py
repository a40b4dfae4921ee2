"""DDPM on digits: 8 x 8 in a minute, 28 x 28 in half an hour (one CPU core)."""

import torch
from torch import nn

from .. import data
from ..ddpm import DDPM
from ..distances import frechet
from ..evaluate import bound
from ..image_judge import Judge
from ..nets import UNet
from ..schedules import cosine, table
from .run import Recipe, draws_from_one_seed, spaced


def measure(recipe: Recipe, model: nn.Module, steps: int = 250, n: int = 500) -> dict:
    """Bound on test images, and n samples judged beside real images and noise."""
    device = next(model.parameters()).device
    process = recipe.process().to(device)
    x, y = recipe.data("train")
    test, _ = recipe.data("test")
    n, judge = min(n, len(test)), Judge(x, y)
    real = test[spaced(len(test), n)]  # evenly: the files are sorted by digit
    made = draws_from_one_seed(process, model, n, steps, recipe.seed)
    bits = bound(process, model, test.to(device), repeats=20).bits_per_dim(process.dims)
    shown = {
        "samples": made,
        "real": real,
        # What a judge must refuse: without it nobody knows what its shares mean.
        "noise": torch.randn(n, *process.shape).clamp(-1, 1),
    }
    return {
        "bits_per_dim": bits.mean,
        "bits_per_dim_se": bits.se,
        "sampling_steps": steps,
        "n": n,
        "accepted": {k: judge.accepted(v) for k, v in shown.items()},
        "frechet": {
            k: frechet(judge.features(v), judge.features(x)) for k, v in shown.items()
        },
    }


digits = Recipe(
    chapter="01_ddpm",
    name="digits",
    data=data.digits,
    # These digits have grey levels 0..16, scaled to [-1, 1]: 17 levels for the bound,
    # and estimates of x_0 are clipped to where they lie.
    process=lambda: DDPM(table(cosine(), 1000), (1, 8, 8), levels=17, clip=1.0),
    model=lambda: UNet(1, (32, 64)),
    measure=measure,
    steps=1200,
    lr=2e-3,
    ema=0.995,
)

mnist = Recipe(
    chapter="01_ddpm",
    name="mnist",
    data=data.mnist,
    process=lambda: DDPM(table(cosine(), 1000), (1, 28, 28), levels=256, clip=1.0),
    # channels_last: a CPU's convolutions want the channels of a pixel side by side.
    model=lambda: UNet(1, (24, 48, 64)).to(memory_format=torch.channels_last),
    measure=measure,
    steps=4000,
    lr=2e-3,
)
