"""SEDD on the State of the Union: network, batch, steps and learning rate of chapter 6, so that the systems compare.

Each takes about 20 minutes on one CPU core; `minute` takes a minute.
"""

from collections.abc import Callable

import torch
from torch import nn

from .. import schedules
from ..categorical import Absorbing, Uniform
from ..data import addresses, decode
from ..evaluate import Estimate, NGram, bound
from ..mdlm import MDLM
from ..process import last, sample
from ..sedd import SEDD, Counted, Mass, first_hitting
from ..shapes import Network
from . import Recipe
from .d3pm import LENGTH, K, network, quality, text

STEPS, RACE_STEPS = (8, 32, 128, 512), 128


def absorbing_process(mass: Mass = "known", **options) -> SEDD:
    """MASK by the paper's log-linear noise; the mass of the scores as it must be, or "learned" as in the paper."""
    return SEDD(Absorbing(K, schedules.log_linear()), LENGTH, mass=mass, **options)


def uniform_process(**options) -> SEDD:
    """Random characters by the geometric noise of the paper's code, sigma from 1e-4 to 20."""
    return SEDD(Uniform(K, schedules.geometric()), LENGTH, **options)


def mdlm_process() -> MDLM:
    """The same masks, by cross-entropy."""
    return MDLM(Absorbing(K, schedules.log_linear()), LENGTH)


def measure(recipe: Recipe, model: nn.Module, repeats: int = 4, n: int = 64) -> dict:
    """The bound on the test addresses in bits per character, and texts by sampler and number of steps."""
    device = next(model.parameters()).device
    process, row, (test, _) = recipe.process().to(device), addresses("train"), recipe.data("test")
    torch.manual_seed(recipe.seed)
    bits = bits_per_char(process, model, test.to(device), repeats)
    judge, words = NGram(row, K, 5), set(decode(row).split())
    made = {
        name: {steps: make(steps) for steps in STEPS} for name, make in samplers(process, model, n).items()
    }
    if isinstance(process.noise, Absorbing):
        made["first hitting"] = {LENGTH: last(first_hitting(process, model, n))[1].cpu()}
        made["coarse race"] = {bits: race(process, model, n, RACE_STEPS, bits) for bits in (11, 14, 52)}
    real = test[torch.linspace(0, len(test) - 1, n).long()]
    judged = {
        name: {steps: quality(x, judge, words) for steps, x in by_steps.items()}
        for name, by_steps in made.items()
    }
    return {
        "bits_per_char": bits.mean,
        "bits_per_char_se": bits.se,
        "windows": len(test),
        "repeats": repeats,
        "steps": judged.pop("tweedie"),
        "samplers": judged,
        "real": quality(real, judge, words),
        "samples": {
            name: {steps: decode(x[0]) for steps, x in by_steps.items()} for name, by_steps in made.items()
        },
    }


def samplers(process: SEDD, model: nn.Module, n: int) -> dict[str, Callable[[int], torch.Tensor]]:
    """Tweedie and Euler as functions of the number of steps; MDLM has the first only."""
    kinds = {"tweedie": process}
    if not isinstance(process, MDLM):
        kinds["euler"] = SEDD(process.noise, LENGTH, sampler="euler", mass=process.mass).to(process.device)
    return {
        name: lambda steps, kind=kind: last(sample(kind, model, n, steps))[1].cpu()
        for name, kind in kinds.items()
    }


@torch.no_grad()
def race(process: SEDD, model: Network, n: int, steps: int, bits: int) -> torch.Tensor:
    """Samples by a race over all V + 1 states with uniform numbers of few bits: the trap of chapter 6, made large.

    A vocabulary of 50,000 and float32 (24 bits) stand to each other as 27 letters and some 13 bits.
    """
    x, grid = process.prior(n), process.times(steps)
    for t, s in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        now, then = torch.full((n,), t, device=x.device), torch.full((n,), s, device=x.device)
        law = process.convert(process.log_score(model, x, now), x, now, "loo").double().exp()
        opens = process.noise.reveals(then, now)[:, None, None]
        p = torch.cat([opens * law, (1 - opens).expand(*x.shape, 1)], -1)
        u = torch.randint(1, 2**bits, p.shape, device=x.device).double() / 2**bits
        x = torch.where(x == process.noise.mask, (-torch.log1p(-u) / p).argmin(-1), x)
    return x.cpu()


def bits_per_char(process: SEDD, model: nn.Module, data: torch.Tensor, repeats: int) -> Estimate:
    """The bound in bits per character; by number of masks where the noise is absorbing."""
    evaluator = Counted(process) if isinstance(process.noise, Absorbing) else process
    return bound(evaluator, model, data, repeats=repeats).bits_per_dim(LENGTH)


def recipe(name: str, process: Callable[[], SEDD], **options) -> Recipe:
    """What they have in common; all numbers are those of chapter 6."""
    common = {"steps": 6000, "lr": 3e-3, "model": lambda: network(process())}
    return Recipe(
        chapter="07_sedd",
        name=name,
        data=text,
        process=process,
        measure=measure,
        batch=16,
        ema=0.995,
        **common | options,
    )


absorbing = recipe("absorbing", absorbing_process)
learned_mass = recipe("learned_mass", lambda: absorbing_process("learned"))
uniform = recipe("uniform", uniform_process)
mdlm = recipe("mdlm", mdlm_process)
minute = recipe(
    "minute", absorbing_process, steps=600, lr=5e-3, model=lambda: network(absorbing_process(), 64, 2)
)
