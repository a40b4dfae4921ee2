"""text8 as D3PM, SEDD and MD4 trained on it: 12 layers of 768 numbers, 512 windows of 256 characters in a step.

Not for a laptop: a million steps read 512 million windows. `--minutes` makes what fits. Published are

    d3pm_*   Austin et al. 2021, section 5 and appendix B.2: a million steps. Code, google-research/d3pm/text/configs.py
             (text8_base): Adam 2e-4 after a warm-up of 5,000 steps, gradients clipped at 0.25, crops anywhere
             in the text, T = 1000, cross-entropy of weight 0.01 for masks and 0 for uniform noise
    sedd_*   Lou et al. 2024, appendix C. Code, configs/config.yaml and model/small.yaml: AdamW 3e-4 after 2,500 steps,
             clip 1, average of 0.9999, dropout 0.1, log-linear noise of 1e-3, geometric noise of 1e-4 to 20 (the code
             has no text8: its steps are D3PM's)
    md4      Shi et al. 2024, appendix. Code, google-deepmind/md4: AdamW 5e-4 to 0 on a cosine after 2,000 steps, weight
             decay 0.03, no clipping, average of 0.9999, dropout 0.05, alpha = 1 - t up to 1e-4 at both ends

The network is this library's (adaLN in each block, rotary positions): the papers' have the same depth, width and heads.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from .. import schedules
from ..absorbing import Absorbing
from ..d3pm import D3PM
from ..data import ALPHABET, decode
from ..downloads import text8
from ..evaluate import bound
from ..learning_rate import warmup_cosine
from ..mask_count import MaskCount
from ..mdlm import MDLM
from ..nets import TokenNet
from ..process import last, sample
from ..schedules import Schedule
from ..sedd import SEDD
from ..shapes import Tokens
from ..stationary import Uniform
from ..tokens import TokenProcess
from .run import Rate, Recipe

K, LENGTH, T = len(ALPHABET), 256, 1000
SAMPLES = (64, 256, 1000)  # steps


def rows(split: str) -> tuple[Tokens, None]:
    """Windows of 256 characters, one byte each, no labels."""
    row = text8(split)
    return row[: len(row) // LENGTH * LENGTH].reshape(-1, LENGTH), None


def crops(data: Tokens, size: int, seed: int) -> Iterator[Tokens]:
    """Endless batches of windows that start anywhere in the text; the same for the same seed."""
    # Windows lie one after the other in the text, so flat they are the text again.
    row, generator = data.flatten(), torch.Generator().manual_seed(seed)
    places = torch.arange(data.shape[1])
    while True:
        start = torch.randint(
            len(row) - len(places) + 1, (size, 1), generator=generator
        )
        yield row[start + places]


def network(
    process: TokenProcess, dropout: float, width: int = 768, depth: int = 12
) -> TokenNet:
    """Heads of 64 numbers."""
    # 64 numbers to a head, as in all three papers' networks of this width.
    heads = width // 64
    return TokenNet(process.noise.K, K, width, heads, depth, dropout=dropout)


# Learning rates


def constant(warmup: int, peak: float, steps: int) -> Rate:
    """Rises to its peak in so many steps, at most half of all, and stays there."""
    # A run by minutes may be shorter than the papers' warm-up.
    rise = min(warmup, steps // 2)
    return lambda step: peak * min(1.0, step / max(1, rise))


def falling(warmup: int, peak: float, steps: int) -> Rate:
    """Rises like that, and falls to 0 on a half cosine."""
    return warmup_cosine(peak, steps, min(warmup, steps // 2))


# Processes


def d3pm_absorbing_process() -> D3PM:
    """beta_t = 1 / (T - t + 1), and the cross-entropy beside the bound."""
    table = schedules.table(schedules.log_linear(0.0), T, max_beta=1.0)
    return D3PM(Absorbing(K, table), LENGTH, ce_weight=0.01)


def d3pm_uniform_process() -> D3PM:
    """The cosine schedule of multinomial diffusion."""
    table = schedules.table(schedules.cosine(power=1), T)
    return D3PM(Uniform(K, table), LENGTH)


def sedd_absorbing_process() -> SEDD:
    """Log-linear noise."""
    return SEDD(Absorbing(K, schedules.log_linear(1e-3)), LENGTH)


def sedd_uniform_process() -> SEDD:
    """Geometric noise."""
    return SEDD(Uniform(K, schedules.geometric(1e-4, 20.0)), LENGTH)


def md4_process() -> MDLM:
    """alpha = eps + (1 - 2 eps)(1 - t)."""
    return MDLM(Absorbing(K, md4_linear()), LENGTH)


def md4_linear(eps: float = 1e-4) -> Schedule:
    """MD4's "linear" with its room at both ends: alpha(0) = 1 - eps, alpha(1) = eps."""
    return Schedule(
        "md4-linear", lambda u: torch.log(eps + (1 - 2 * eps) * (1 - u)), eps=eps
    )


# What is measured


def measure(recipe: Recipe, model: nn.Module, n: int = 16, windows: int = 4096) -> dict:
    """Bits per character on the test text, whole and as papers print them, and samples at three numbers of steps.

    For masks, by their number; `windows` of the test text, evenly.
    """
    device = next(model.parameters()).device
    process = recipe.process().to(device)
    test, _ = recipe.data("test")
    test = test[:: max(1, len(test) // windows)].long().to(device)
    masked = isinstance(process.noise, Absorbing)
    # The same bound with far less variance.
    evaluator = MaskCount(process) if masked else process
    results: dict = {"windows": len(test)}
    for name, term in (("bits_per_char", "whole"), ("published_bits", "published")):
        bits = bound(evaluator, model, test, term=term, seed=recipe.seed)
        results[name], results[f"{name}_se"] = bits.bits_per_dim(LENGTH)
    torch.manual_seed(recipe.seed)
    made = {steps: last(sample(process, model, n, steps))[1].cpu() for steps in SAMPLES}
    return results | {
        "samples": {steps: [decode(row) for row in x] for steps, x in made.items()}
    }


# Recipes


def recipe(
    name: str,
    process: Callable[[], TokenProcess],
    lr: float,
    schedule: Callable[[float, int], Rate],
    dropout: float = 0.0,
    **rest,
) -> Recipe:
    """What they have in common."""
    return Recipe(
        chapter="text8",
        name=name,
        data=rows,
        process=process,
        model=lambda: network(process(), dropout),
        measure=measure,
        steps=1_000_000,
        batch=512,
        lr=lr,
        schedule=schedule,
        **{"ema": 0.9999} | rest,
    )


as_d3pm = partial(
    recipe,
    lr=2e-4,
    schedule=partial(constant, 5000),
    stream=crops,
    ema=0.0,
    options={"clip": 0.25},
)
as_sedd = partial(recipe, lr=3e-4, schedule=partial(constant, 2500), dropout=0.1)

d3pm_absorbing = as_d3pm("d3pm_absorbing", d3pm_absorbing_process)
d3pm_uniform = as_d3pm("d3pm_uniform", d3pm_uniform_process)
sedd_absorbing = as_sedd("sedd_absorbing", sedd_absorbing_process)
sedd_uniform = as_sedd("sedd_uniform", sedd_uniform_process)
md4 = recipe(
    "md4",
    md4_process,
    lr=5e-4,
    schedule=partial(falling, 2000),
    dropout=0.05,
    options={
        "clip": math.inf,
        "optimizer": partial(torch.optim.AdamW, weight_decay=0.03, fused=True),
    },
)
