"""Variances for chapter 1's networks: a learned one, two heads, the analytic statistics, and the table of all.

In this order (each needs the one before): learned, npr, sn, digits_spread, digits_quality; mnist_spread, mnist_quality;
linear, linear_spread, linear_quality. Little more than an hour together on one CPU core.
"""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from .. import data
from ..ddim import DDIM
from ..ddpm import DDPM
from ..distances import frechet
from ..evaluate import bounds, estimate, jackknife
from ..image_judge import Judge
from ..learned_variance import Learned
from ..nets import TwoHeads, UNet
from ..optimal_variance import Analytic, estimate_conditional_variance
from ..process import Process
from ..schedules import cosine, ddpm_table, table
from ..sn_npr import NPR, SN
from . import ddpm
from .run import ASSETS, Measurement, Recipe, draws, shipped

CHAPTER = "02_optimal_variance"
# As chapter 1 has them, whose networks these are.
DIGITS = {"shape": (1, 8, 8), "levels": 17, "clip": 1.0}
MNIST = {"shape": (1, 28, 28), "levels": 256, "clip": 1.0}


def alpha_bar() -> Tensor:
    """Chapter 1's table."""
    return table(cosine(), 1000)


def two_heads() -> TwoHeads:
    """Chapter 1's digits network, frozen, with a new head."""
    # Frozen, so that the mean stays chapter 1's and the table compares variances.
    return TwoHeads(shipped(ddpm.digits))


def measure(recipe: Recipe, model: nn.Module) -> dict:
    """Chapter 1's measurements, with 50 steps."""
    return ddpm.measure(recipe, model, steps=50)


learned = Recipe(
    chapter=CHAPTER,
    name="learned",
    data=data.digits,
    process=lambda: Learned(alpha_bar(), **DIGITS),
    # Chapter 1's network, steps and rate: only the second answer is new.
    model=lambda: UNet(1, (32, 64), answers=2),
    measure=measure,
    steps=1200,
    lr=2e-3,
    ema=0.995,
)

npr = Recipe(
    chapter=CHAPTER,
    name="npr",
    data=data.digits,
    process=lambda: NPR(alpha_bar(), **DIGITS),
    model=two_heads,
    measure=measure,
    # Only a head learns, on features that stand still: fewer steps, a larger rate.
    steps=500,
    lr=1e-2,
    ema=0.99,
)

sn = Recipe(
    chapter=CHAPTER,
    name="sn",
    data=data.digits,
    process=lambda: SN(alpha_bar(), **DIGITS),
    model=two_heads,
    measure=measure,
    steps=500,
    lr=1e-2,
    ema=0.99,
)


linear = replace(  # the schedule of DDPM's and Analytic-DPM's CIFAR networks, all else as in chapter 1
    ddpm.digits,
    chapter=CHAPTER,
    name="linear",
    process=lambda: DDPM(ddpm_table(1000), **DIGITS),
    measure=measure,
)


# The analytic statistics


def statistics(
    backbone: Recipe, residual: int, score_norm: int
) -> Callable[[str], dict]:
    """E Var(x_0 | x_t) at t = 0..1000 by both estimators, from that many training images each."""

    def tables(device: str) -> dict:
        process, model = backbone.process().to(device), shipped(backbone).to(device)
        x = backbone.data("train")[0]
        out = {}
        for estimator, n in (("residual", residual), ("score norm", score_norm)):
            torch.manual_seed(0)
            some = x[torch.randperm(len(x))[:n]].to(device)
            values = estimate_conditional_variance(process, model, some, estimator)
            out[estimator] = {
                "n": n,
                # Six digits are far finer than the error of so few images. `spread` is
                # the key that shipped files have.
                "spread": [float(f"{v:.6g}") for v in values.tolist()],
            }
        return out

    return tables


def read_conditional_variance(name: str, estimator: str = "residual") -> Tensor:
    """The table that the measurement `name` left in the chapter's assets."""
    results = json.loads(
        (ASSETS / CHAPTER / f"{name}.results.json").read_text(encoding="utf-8")
    )
    return torch.tensor(results[estimator]["spread"], dtype=torch.float64)


digits_spread = Measurement(CHAPTER, "digits_spread", statistics(ddpm.digits, 64, 16))
linear_spread = Measurement(CHAPTER, "linear_spread", statistics(linear, 64, 16))
mnist_spread = Measurement(CHAPTER, "mnist_spread", statistics(ddpm.mnist, 12, 4))


# The table: quality against number of steps

Method = tuple[Process, nn.Module]


def digits_methods() -> dict[str, Method]:
    """Every way to set the variance, with the network it needs."""
    a = alpha_bar()
    c = read_conditional_variance("digits_spread")
    plain = shipped(ddpm.digits)
    head, head_sn = shipped(npr), shipped(sn)
    return {
        "DDPM, small": (DDPM(a, **DIGITS), plain),
        "DDPM, large": (DDPM(a, variance="large", **DIGITS), plain),
        "DDPM, learned": (learned.process(), shipped(learned)),
        "Analytic-DDPM": (Analytic(a, conditional_variance=c, **DIGITS), plain),
        "NPR-DDPM": (npr.process(), head),
        "SN-DDPM": (sn.process(), head_sn),
        "DDIM": (DDIM(a, **DIGITS), plain),
        "Analytic-DDIM": (
            Analytic(a, eta=0.0, conditional_variance=c, **DIGITS),
            plain,
        ),
        "NPR-DDIM": (NPR(a, eta=0.0, **DIGITS), head),
    }


def plain_methods(backbone: Recipe, statistics: str, form: dict) -> dict[str, Method]:
    """The ways that need nothing but a network of the noise and its statistics."""
    # The schedule of the network, whichever it was trained with.
    a = backbone.process().alpha_bar
    c = read_conditional_variance(statistics)
    plain = shipped(backbone)
    return {
        "DDPM, small": (DDPM(a, **form), plain),
        "DDPM, large": (DDPM(a, variance="large", **form), plain),
        "Analytic-DDPM": (Analytic(a, conditional_variance=c, **form), plain),
        "DDIM": (DDIM(a, **form), plain),
        "Analytic-DDIM": (Analytic(a, eta=0.0, conditional_variance=c, **form), plain),
    }


def mnist_methods() -> dict[str, Method]:
    """With chapter 1's network of MNIST."""
    return plain_methods(ddpm.mnist, "mnist_spread", MNIST)


def linear_methods() -> dict[str, Method]:
    """With the digits network of the linear schedule."""
    return plain_methods(linear, "linear_spread", DIGITS)


def floor(space: Tensor, n: int) -> dict:
    """What n draws from the Gaussian with the training images' own moments score: the estimate's own bias."""
    # m + root z has the covariance root root^T.
    root = torch.linalg.cholesky(space.T.cov())
    torch.manual_seed(0)
    values = [
        frechet(space.mean(0) + torch.randn(n, len(root)).double() @ root.T, space)
        for _ in range(20)
    ]
    values = torch.tensor(values)
    return {"frechet": values.mean().item(), "frechet_se": values.std().item()}


def judged(judge: Judge, space: Tensor, x: Tensor, groups: int = 10) -> dict:
    """Share accepted, Frechet distance to the training images' features, and its standard error.

    The error is the jackknife's, leaving out one of `groups` groups of samples at a time; these distances are kept.
    """
    features = judge.features(x)
    # Rounded up, so that there are at most so many groups.
    parts = features.split(-(-len(x) // groups))
    without = [
        frechet(torch.cat([*parts[:i], *parts[i + 1 :]]), space)
        for i in range(len(parts))
    ]
    return {
        "accepted": judge.accepted(x),
        "frechet": frechet(features, space),
        "frechet_se": jackknife(without),
        "frechet_without": without,
    }


def compared(lengths: dict[str, Tensor], dims: int) -> dict:
    """By how many bits per dimension each method's code is shorter than each other's, and the paired error.

    lengths  nats per image of the same images, times and noise, by method
    """
    less: dict = {name: {} for name in lengths}
    for name, other in itertools.permutations(lengths, 2):
        difference = estimate(lengths[other] - lengths[name]).bits_per_dim(dims)
        less[name][other] = difference._asdict()
    return less


def short_start(T: int, steps: int) -> Tensor:
    """T, then even times from 0.95 T to 0: the guess at T, where x_0 is all but lost, gets little weight."""
    return torch.cat(
        [torch.tensor([T]), torch.linspace(int(0.95 * T), 0, steps).round().long()]
    )


def quality(
    images: Callable,
    methods: Callable[[], dict[str, Method]],
    steps: dict[int, set[str]],
    n: int,
    bits: bool,
    short: tuple[int, ...] = (),
) -> Callable[[str], dict]:
    """n samples per method and number of steps, judged; and the bound on test images where `bits`, also pair by pair.

    steps  number of steps -> names of the methods that are run with so many, an empty set for all; even times
    short  numbers of steps that all methods are also run with at the times `short_start`
    """

    def results(device: str) -> dict:
        (x, y), (test, _) = images("train"), images("test")
        judge = Judge(x, y)
        space = judge.features(x)
        torch.manual_seed(0)
        # In the range of pixels, as samples are,
        # so that it is not refused for its range.
        noise = torch.randn(n, *x.shape[1:]).clamp(-1, 1)
        # As many, if there are; the files are sorted by digit.
        some = test[torch.randperm(len(test))[:n]]
        out: dict = {"n": n, "n_real": len(some), "methods": {}}
        out |= {
            "real": judged(judge, space, some),
            "noise": judged(judge, space, noise),
            "floor": floor(space, n),
        }
        lengths = {}
        for name, (process, model) in methods().items():
            process, model, row = process.to(device), model.to(device), {}
            runs = {
                str(k): process.times(k)
                for k, names in steps.items()
                if not names or name in names
            }
            runs |= {
                f"{k}, short start": short_start(process.T, k).to(device) for k in short
            }
            for k, times in runs.items():
                # `draws` seeds each piece, so all methods start from the same x_T.
                row[k] = judged(judge, space, draws(process, model, n, times))
                print(f"{name}, {k} steps: {row[k]}", flush=True)
            out["methods"][name] = {"steps": row}
            # With eta = 0 a step draws nothing: p(x_s
            # | x_t) has no density and no bound.
            if bits and getattr(process, "eta", 1.0) > 0:
                torch.manual_seed(0)
                lengths[name] = bounds(process, model, test.to(device), repeats=10)
                length = estimate(lengths[name]).bits_per_dim(process.dims)
                out["methods"][name] |= {
                    "bits_per_dim": length.mean,
                    "bits_per_dim_se": length.se,
                }
        if lengths:
            out["bits_less"] = compared(lengths, math.prod(x.shape[1:]))
        return out

    return results


digits_quality = Measurement(
    CHAPTER,
    "digits_quality",
    quality(
        data.digits,
        digits_methods,
        {5: set(), 10: set(), 25: set(), 50: set()},
        1000,
        True,
    ),
)
mnist_quality = Measurement(
    CHAPTER,
    "mnist_quality",
    quality(data.mnist, mnist_methods, {10: set(), 50: set()}, 400, False, (10,)),
)
linear_quality = Measurement(
    CHAPTER,
    "linear_quality",
    quality(data.digits, linear_methods, {10: set(), 50: set()}, 1000, False),
)
