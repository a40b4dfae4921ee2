"""SEDD on the State of the Union: network, batch, steps and learning rate of chapter 6, so that the systems compare.

Each takes about 20 minutes on one CPU core; `minute` takes a minute. The measurements need the weights of the others
(`masks` those of chapter 6, too).
"""

import math
from collections.abc import Callable

import torch
from torch import nn

from .. import schedules
from ..absorbing import Absorbing
from ..data import addresses, decode
from ..first_hitting import first_hitting
from ..mask_count import MaskCount
from ..mdlm import MDLM
from ..ngram import NGram
from ..process import Process, last, sample
from ..sedd import SEDD, Mass
from ..shapes import Network
from ..stationary import Uniform
from ..tokens import TokenProcess
from . import d3pm
from .d3pm import LENGTH, K, bits_per_char, judged, network, quality, text
from .run import Measurement, Recipe, draws, shipped, spaced

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


def bits_only(recipe: Recipe, model: nn.Module, repeats: int = 4) -> dict:
    """The bound on the test addresses in bits per character."""
    device = next(model.parameters()).device
    test = recipe.data("test")[0]
    torch.manual_seed(recipe.seed)
    # By the number of masks where there are any,
    # as chapter 6 measures: far less variance.
    mean, se = bits_per_char(
        recipe.process().to(device), model, test.to(device), repeats
    )
    return {
        "bits_per_char": mean,
        "bits_per_char_se": se,
        "windows": len(test),
        "repeats": repeats,
    }


def measure(recipe: Recipe, model: nn.Module, repeats: int = 4, n: int = 64) -> dict:
    """`bits_only`, and texts by sampler and number of steps."""
    device = next(model.parameters()).device
    process = recipe.process().to(device)
    row = addresses("train")
    test, _ = recipe.data("test")
    results = bits_only(recipe, model, repeats)
    judge, words = NGram(row, K, 5), set(decode(row).split())
    made = {
        name: {steps: make(steps) for steps in STEPS}
        for name, make in samplers(process, model, n).items()
    }
    if isinstance(process.noise, Absorbing):
        # One token at a time at its exact time: as
        # many calls as letters, and no error of steps.
        made["first hitting"] = {
            LENGTH: last(first_hitting(process, model, n))[1].cpu()
        }
        made["coarse race"] = {
            # Coarser and finer than what float32 is to
            # a vocabulary of 50,257, and float64's.
            bits: race(process, model, n, RACE_STEPS, bits)
            for bits in (11, 14, 52)
        }
    real = test[spaced(len(test), n)]
    rows = {
        name: {steps: quality(x, judge, words) for steps, x in by_steps.items()}
        for name, by_steps in made.items()
    }
    return results | {
        # Tables of all systems look under `steps` for the process's own sampler.
        "steps": rows.pop("tweedie"),
        "samplers": rows,
        "real": quality(real, judge, words),
        "samples": {
            name: {steps: decode(x[0]) for steps, x in by_steps.items()}
            for name, by_steps in made.items()
        },
    }


def samplers(
    process: TokenProcess, model: nn.Module, n: int
) -> dict[str, Callable[[int], torch.Tensor]]:
    """Tweedie and Euler as functions of the number of steps; MDLM has the first only."""
    # SEDD's own default is Tweedie; what MDLM has is the same step.
    kinds = {"tweedie": process}
    if isinstance(process, SEDD):
        kinds["euler"] = SEDD(
            process.noise, LENGTH, sampler="euler", mass=process.mass
        ).to(process.device)
    return {
        # kind=kind is bound here: a plain lambda would sample with the last one.
        name: lambda steps, kind=kind: last(sample(kind, model, n, steps))[1].cpu()
        for name, kind in kinds.items()
    }


@torch.no_grad()
def race(process: MDLM, model: Network, n: int, steps: int, bits: int) -> torch.Tensor:
    """Samples by a race over all V + 1 states with uniform numbers of few bits: the trap of chapter 6, made large.

    A vocabulary of 50,000 and float32 (24 bits) stand to each other as 27 letters and some 13 bits.
    """
    x, grid = process.prior(n), process.times(steps)
    for t, s in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        now = torch.full((n,), t, device=x.device)
        then = torch.full((n,), s, device=x.device)
        # All states of a token race at once, MASK (it stays) among them; the least of
        # Exp(1) / p wins with probability p. Exact in real numbers.
        law = process.predict_x0(model, x, now).double().exp()
        unmask = process.noise.unmasking_probability(then, now)[:, None, None]
        p = torch.cat([unmask * law, (1 - unmask).expand(*x.shape, 1)], -1)
        # Never 0: -log(1 - 0) = 0 would win every race.
        u = torch.randint(1, 2**bits, p.shape, device=x.device).double() / 2**bits
        x = torch.where(x == process.noise.mask, (-torch.log1p(-u) / p).argmin(-1), x)
    return x.cpu()


def recipe(name: str, process: Callable[[], SEDD], **options) -> Recipe:
    """What they have in common; all numbers are those of chapter 6."""
    common = {
        # As in recipes/d3pm.py, and to be changed there, too, or not at all.
        "steps": 6000,
        "lr": 3e-3,
        "model": lambda: network(process()),
        "measure": measure,
    }
    return Recipe(
        chapter="07_sedd",
        name=name,
        data=text,
        process=process,
        batch=16,
        ema=0.995,
        **common | options,
    )


absorbing = recipe(
    # Trained by the number of masks: the same mean as its loss, with less variance.
    "absorbing",
    absorbing_process,
    trains=lambda: MaskCount(absorbing_process()),
)
# The same with another seed: differences between systems are read against that between
# two trainings of one.
again = recipe(
    "again",
    absorbing_process,
    trains=lambda: MaskCount(absorbing_process()),
    seed=1,
    measure=bits_only,
)
learned_mass = recipe("learned_mass", lambda: absorbing_process("learned"))
uniform = recipe("uniform", uniform_process)
mdlm = recipe("mdlm", mdlm_process)
minute = recipe(
    "minute",
    absorbing_process,
    trains=lambda: MaskCount(absorbing_process()),
    steps=600,
    lr=5e-3,
    model=lambda: network(absorbing_process(), 64, 2),
)


# The same bound for several networks, and two samplers for one


@torch.no_grad()
def paired(
    contestants: dict[str, tuple[Process, Network]],
    data: torch.Tensor,
    repeats: int = 1,
    size: int = 256,
) -> dict:
    """Bits per character of each, and how many more than the first's, with errors over windows.

    The evaluators count masks, and all see the same masks: what they share drops out of the differences.
    """
    values = {}
    for name, (evaluator, model) in contestants.items():
        total = torch.zeros(len(data), dtype=torch.float64)
        for seed in range(repeats):
            # The same seeds for all: the same masks, which drop out of differences.
            torch.manual_seed(seed)
            total += torch.cat(
                [one(evaluator, model, x) for x in data.split(size)]
            ).cpu()
        values[name] = total / (repeats * LENGTH * math.log(2))
    first = next(iter(values.values()))

    def estimate(v):
        return {
            "mean": v.mean().item(),
            "se": v.std().item() / math.sqrt(len(v)),
        }

    return {
        name: {"bits": estimate(v), "more": estimate(v - first)}
        for name, v in values.items()
    }


def one(evaluator: Process, model: Network, x: torch.Tensor) -> torch.Tensor:
    """The bound at one draw of masks; the draws that come after it are set back to be those of any other evaluator."""
    # Drawn before the bound, which uses up more or fewer numbers by evaluator.
    after = torch.randint(2**62, ()).item()
    value = evaluator.bound(model, x, evaluator.sample_t(len(x)))
    torch.manual_seed(after)
    return value


def of_masks(device: str) -> dict:
    """All that was trained on masks, on the test addresses, beside chapter 6's D3PM."""
    known = MaskCount(absorbing_process()).to(device)
    free = MaskCount(absorbing_process("learned")).to(device)
    learned, old = shipped(learned_mass, device), shipped(d3pm.absorbing, device)
    return paired(
        {
            "D3PM": (MaskCount(d3pm.absorbing.process()).to(device), old),
            # On masks D3PM's logits are what SEDD with the mass known wants.
            "its weights, read as SEDD": (known, old),
            "SEDD, mass known": (known, shipped(absorbing, device)),
            "again": (known, shipped(again, device)),
            "MDLM": (MaskCount(mdlm_process()).to(device), shipped(mdlm, device)),
            "SEDD, mass learned": (free, learned),
            # The logits alone, each softmax with the true mass: what phi(m) costs.
            "the same weights, mass set right": (known, learned),
        },
        text("test")[0].to(device),
    )


def uniform_samplers(
    device: str, n: int = 256, counts: tuple[int, ...] = (32, 128)
) -> dict:
    """Tweedie and Euler for random characters, n texts each, with the standard error of what the judge says."""
    row, model = addresses("train"), shipped(uniform, device)
    judge, words, out = NGram(row, K, 5), set(decode(row).split()), {"n": n}
    for sampler in ("tweedie", "euler"):
        process = uniform_process(sampler=sampler).to(device)
        out[sampler] = {
            k: judged(draws(process, model, n, k, size=64), judge, words)
            for k in counts
        }
        print(sampler, out[sampler], flush=True)
    return out


masks = Measurement("07_sedd", "masks", of_masks)
two_samplers = Measurement("07_sedd", "two_samplers", uniform_samplers)
