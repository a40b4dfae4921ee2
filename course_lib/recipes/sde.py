"""Digits in continuous time: trained for likelihood, and what chapter 1's weights are worth as an ODE."""

import math

import torch
from torch import Tensor, nn

from .. import data
from ..dpm_solver import DPMSolver
from ..evaluate import bound
from ..image_judge import Judge
from ..likelihood import ProbabilityFlow, bits_per_dim, dequantise, rademacher
from ..nets import UNet
from ..schedules import cosine
from ..sde import SDE, VP
from ..solvers import RK4, Ancestral, Heun
from .optimal_variance import judged
from .run import Recipe, draws_from_one_seed, find, shipped

STARTS = (
    1e-5,
    1e-3,
    1e-2,
    2e-2,
    4e-2,
)  # t_min; the noise is half a grey level at about 0.03
WAYS = {  # what, calls of the network per step, from the SDE
    "Euler-Maruyama": (1, lambda sde: sde),
    "ancestral": (1, Ancestral),
    "Heun": (2, Heun),
    "RK4": (4, RK4),
    "DPM-Solver++(2M)": (1, DPMSolver),
}
CALLS = (8, 16, 32, 64)  # of the network, for each sample
DRAWN = 1000  # samples for each way and number of calls


def process(t_min: float = 2e-2, clip: float | None = 1.0) -> VP:
    """Chapter 1's digits in continuous time: the same schedule, network and grey levels, from t_min on."""
    return VP(cosine(), (1, 8, 8), levels=17, clip=clip, t_min=t_min)


def trained(weighting: str = "likelihood") -> VP:
    """What the recipe trains: a density of dequantised digits, between times where there is something to learn."""
    return VP(cosine(), (1, 8, 8), weighting=weighting, t_min=5e-3, t_max=0.97)


def dequantised(split: str) -> tuple[Tensor, Tensor]:
    """The digits, each with eight draws of uniform noise in its cells (one for the test digits), and labels."""
    x, y = data.digits(split)
    # What is learned is a density on cells, not on their centres: several draws from
    # each cell show more of it.
    copies = 8 if split == "train" else 1
    # In a fork: who asks for data finds the random numbers where they were.
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        return dequantise(x.repeat(copies, 1, 1, 1), 17), y.repeat(copies)


def measure(
    recipe: Recipe,
    model: nn.Module,
    n: int | None = None,
    drawn: int = DRAWN,
    calls: tuple[int, ...] = CALLS,
) -> dict:
    """Bound, ODE likelihood and samples of this network; then chapter 1's weights by start time and by solver.

    n: of the test images (all of them by default); drawn: samples for each way and number of calls
    """
    device = next(model.parameters()).device
    (x, y), test = data.digits("train"), data.digits("test")[0][:n]
    judge, earlier = Judge(x, y), shipped(find("ddpm.digits"), device)
    torch.manual_seed(recipe.seed)
    smooth = (recipe.data("train")[0], recipe.data("test")[0][:n])
    points = (x, test)
    space = judge.features(x)
    bits = likelihoods(model, recipe.process().to(device), *smooth)
    made = draws_from_one_seed(
        DPMSolver(recipe.process()).to(device), model, drawn, 32, seed=0
    )
    shown = {
        "samples": made,
        "real": test,
        "noise": torch.randn(made.shape).clamp(-1, 1),
    }
    scores = {k: judged(judge, space, v) for k, v in shown.items()}
    return {
        "bits_per_dim": bits["bound"],
        "bits_per_dim_se": bits["bound_se"],
        "ode": bits["ode"],
        "ode_se": bits["ode_se"],
        "sampling_steps": 32,
        "n": len(test),
        "drawn": drawn,
        **{
            part: {k: v[part] for k, v in scores.items()}
            for part in ("accepted", "frechet", "frechet_se")
        },
        "chapter_1": [
            {"t_min": t} | likelihoods(earlier, process(t).to(device), *points)
            for t in STARTS
        ],
        "solvers": solvers(earlier, judge, space, drawn, calls),
    }


def likelihoods(model: nn.Module, sde: VP, train: Tensor, test: Tensor) -> dict:
    """Bits per dimension of the SDE's bound and of the ODE, with standard errors.

    With levels the bound is that of grey levels, as in chapter 1, and the ODE's images are dequantised here; without,
    the images must be dequantised already.
    """
    # log2 of the width of a grey level, 2 / 16: from a density to a mass.
    device, cell = sde.device, math.log2(2 / 16)
    # Fitted to the training images, so that the bound on the test is one.
    sde.decoder_var = decoder_variance(sde, model, train.to(device))
    of_bound = bound(sde, model, test.to(device), repeats=5).bits_per_dim(sde.dims)
    y = (dequantise(test, 17) if sde.levels else test).to(device)
    # Without clip, so that it is smooth.
    flow = VP(cosine(), sde.shape, t_min=sde.t_min, t_max=sde.t_max).to(device)
    ode = ProbabilityFlow(flow, 1e-3, 1e-3)
    bits = bits_per_dim(ode.log_prob(model, y, rademacher(y)), sde.dims, 17)
    return {
        "noise": sde.marginal(torch.tensor([sde.t_min]))[1].item(),
        "bound": of_bound.mean - (0 if sde.levels else cell),
        "bound_se": of_bound.se,
        "ode": bits.mean().item(),
        "ode_se": bits.std().item() / len(bits) ** 0.5,
        "calls": ode.calls,
    }


@torch.no_grad()
def decoder_variance(sde: SDE, model: nn.Module, x: Tensor) -> float:
    """Mean squared error of x_0 predicted from x_{t_min}: the decoder's variance that fits the training images."""
    t = torch.full((1,), sde.t_min, device=x.device).expand(len(x))
    return (sde.predict_x0(model, sde.corrupt(x, t), t) - x).square().mean().item()


def solvers(
    model: nn.Module, judge: Judge, space: Tensor, n: int, calls: tuple[int, ...]
) -> list[dict]:
    """Frechet distance to the training digits' features, and share accepted, of each way for each number of calls."""
    device, rows = next(model.parameters()).device, []
    for name, (each, way) in WAYS.items():
        for k in calls:
            back = way(process()).to(device)
            # As many calls for all: what asks twice in a step takes half the steps.
            made = draws_from_one_seed(back, model, n, k // each, seed=0)
            rows.append({"way": name, "calls": k} | judged(judge, space, made))
            print(rows[-1], flush=True)
    return rows


digits = Recipe(
    chapter="03_sde_and_ode",
    name="digits",
    data=dequantised,
    process=trained,
    model=lambda: UNet(1, (32, 64)),
    measure=measure,
    steps=1000,
    lr=2e-3,
    ema=0.995,
)
