"""Gaussian noise against diffusers' schedulers, with a network that says nothing: what is timed is all the rest."""

import torch

from course_lib.ddim import DDIM
from course_lib.ddpm import DDPM
from course_lib.dpm_solver import DPMSolver
from course_lib.process import last, sample
from course_lib.schedules import ddpm_table, linear
from course_lib.sde import VP

from .measure import Comparison, comparison

SHAPES = {"64 x 1 x 28 x 28": (64, 1, 28, 28), "64 x 64 x 128": (64, 64, 128)}
PASS = "both inputs read once, the output written once"


def of(shape: str, small: bool) -> tuple[int, ...]:
    """The numbers of a shape, with two examples for a test."""
    return (2, *SHAPES[shape][1:]) if small else SHAPES[shape]


def scheduler(name: str, steps: int, **options):
    """One of diffusers', on Ho's table of 1,000 variances."""
    import diffusers

    made = getattr(diffusers, name)(1000, beta_schedule="linear", **options)
    made.set_timesteps(steps)
    return made


def corrupting(shape: str, device: str, small: bool) -> Comparison:
    """x_t from x_0 and noise."""
    ours, theirs = DDPM(ddpm_table(1000), SHAPES[shape][1:]).to(device), scheduler("DDPMScheduler", 1000)
    x, eps = torch.randn(2, *of(shape, small), device=device)
    t = torch.randint(1, 1000, (len(x),), device=device)
    calls = {
        "course_lib": lambda: ours.corrupt(x, t, eps),
        "diffusers": lambda: theirs.add_noise(x, eps, t - 1),
    }
    return Comparison(f"corrupt, {shape}", calls, 12 * x.numel(), 0, PASS, equal=True)


def stepping(shape: str, device: str, small: bool) -> Comparison:
    """x_t to x_{t-1}, the network's output given."""
    ours = DDPM(ddpm_table(1000), SHAPES[shape][1:]).to(device)
    theirs = scheduler("DDPMScheduler", 1000, clip_sample=False)
    x, out = torch.randn(2, *of(shape, small), device=device)
    t = torch.full((len(x),), 500, device=device)
    calls = {
        "course_lib": lambda: ours.step(lambda x, u: out, x, t, t - 1),
        "diffusers": lambda: theirs.step(out, 499, x).prev_sample,
    }
    return Comparison(f"DDPM step, {shape}", calls, 12 * x.numel(), 0, PASS)


def sampling(name: str, ours, theirs: str, steps: int, device: str, small: bool, **options) -> Comparison:
    """A whole sampler."""
    x, out = torch.randn(2, *of("64 x 64 x 128", small), device=device)
    steps = 3 if small else steps

    def their_loop():
        made = scheduler(theirs, steps, **options)  # it counts its steps, so each run begins anew
        state = torch.randn_like(x)
        for t in made.timesteps:
            state = made.step(out, t, state).prev_sample
        return state

    calls = {
        "course_lib": lambda: last(sample(ours.to(device), lambda x, u: out, len(x), steps))[1],
        "diffusers": their_loop,
    }
    return Comparison(f"{name}, {steps} steps, 64 x 64 x 128", calls, steps * 12 * x.numel(), 0, PASS)


@comparison
def corrupt_images(device: str, small: bool) -> Comparison:
    return corrupting("64 x 1 x 28 x 28", device, small)


@comparison
def corrupt_vectors(device: str, small: bool) -> Comparison:
    return corrupting("64 x 64 x 128", device, small)


@comparison
def step_images(device: str, small: bool) -> Comparison:
    return stepping("64 x 1 x 28 x 28", device, small)


@comparison
def step_vectors(device: str, small: bool) -> Comparison:
    return stepping("64 x 64 x 128", device, small)


@comparison
def ddpm(device: str, small: bool) -> Comparison:
    ours = DDPM(ddpm_table(1000), (64, 128))
    return sampling("DDPM", ours, "DDPMScheduler", 100, device, small, clip_sample=False)


@comparison
def ddim(device: str, small: bool) -> Comparison:
    ours = DDIM(ddpm_table(1000), (64, 128))
    return sampling("DDIM", ours, "DDIMScheduler", 100, device, small, clip_sample=False)


@comparison
def dpm_solver(device: str, small: bool) -> Comparison:
    """Theirs works on a table of 1,000 times, ours on the schedule itself."""
    ours = DPMSolver(VP(linear(), (64, 128)))
    return sampling("DPM-Solver++(2M)", ours, "DPMSolverMultistepScheduler", 20, device, small)
