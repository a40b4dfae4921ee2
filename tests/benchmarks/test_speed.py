"""Speed as ratios within one run (`make bench`): each group holds ours and what it is compared with.

The figure in brackets is the ratio to the fastest of the group. Nothing here asserts a time.
"""

import copy
import subprocess
import sys

import pytest
import torch

from course_lib.data import batches
from course_lib.ddpm import DDPM
from course_lib.nets import UNet
from course_lib.optimal_variance import DDIM
from course_lib.process import last, sample
from course_lib.schedules import cosine, ddpm_table, table
from course_lib.train import train

diffusers = pytest.importorskip("diffusers", reason='needs the extra "bench": pip install -e ".[bench]"')

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = {"images 64 x 1 x 28 x 28": (64, 1, 28, 28), "embeddings 64 x 64 x 128": (64, 64, 128)}
STEPS = 100


@pytest.fixture(params=SHAPES)
def setting(request):
    shape = SHAPES[request.param]
    torch.manual_seed(0)
    theirs = diffusers.DDPMScheduler(1000, beta_schedule="linear", clip_sample=False)
    theirs.set_timesteps(1000)
    x, out = torch.randn(2, *shape, device=DEVICE)
    return request.param, DDPM(ddpm_table(1000), shape[1:]).to(DEVICE), theirs, x, out


def timed(benchmark, group, call):
    """Time a call without gradients, to the end of the device's work."""

    def whole():
        with torch.no_grad():
            call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.group = group
    benchmark.pedantic(whole, rounds=60, iterations=5, warmup_rounds=5)


@pytest.mark.parametrize("who", ["course_lib", "diffusers"])
def test_corrupt(benchmark, setting, who):
    name, ours, theirs, x, eps = setting
    t = torch.randint(1, 1000, (len(x),), device=DEVICE)
    call = {"course_lib": lambda: ours.corrupt(x, t, eps), "diffusers": lambda: theirs.add_noise(x, eps, t)}
    timed(benchmark, f"corrupt, {name}", call[who])


@pytest.mark.parametrize("who", ["course_lib", "diffusers"])
def test_step(benchmark, setting, who):
    name, ours, theirs, x, out = setting
    t, model = torch.full((len(x),), 500, device=DEVICE), lambda x, u: out
    call = {
        "course_lib": lambda: ours.step(model, x, t, t - 1),
        "diffusers": lambda: theirs.step(out, 499, x),
    }
    timed(benchmark, f"step, {name}", call[who])


@pytest.mark.parametrize("who", ["course_lib", "diffusers"])
def test_sampler_with_a_null_network(benchmark, setting, who):
    name, ours, theirs, x, out = setting
    theirs.set_timesteps(STEPS)

    def their_loop():
        state = torch.randn_like(x)
        for t in theirs.timesteps:
            state = theirs.step(out, t, state).prev_sample
        return state

    call = {
        "course_lib": lambda: last(sample(ours, lambda x, u: out, len(x), STEPS)),
        "diffusers": their_loop,
    }
    benchmark.group = f"sampler, {STEPS} steps, {name}"
    with torch.no_grad():
        benchmark.pedantic(call[who], rounds=10, warmup_rounds=1)


@pytest.mark.parametrize("who", ["course_lib", "diffusers"])
def test_ddim_sampler_with_a_null_network(benchmark, setting, who):
    name, ddpm, _, x, out = setting
    ours = DDIM(ddpm.alpha_bar.cpu(), x.shape[1:]).to(DEVICE)
    theirs = diffusers.DDIMScheduler(1000, beta_schedule="linear", clip_sample=False)
    theirs.set_timesteps(STEPS)

    def their_loop():
        state = torch.randn_like(x)
        for t in theirs.timesteps:
            state = theirs.step(out, t, state).prev_sample
        return state

    call = {
        "course_lib": lambda: last(sample(ours, lambda x, u: out, len(x), STEPS)),
        "diffusers": their_loop,
    }
    benchmark.group = f"DDIM sampler, {STEPS} steps, {name}"
    with torch.no_grad():
        benchmark.pedantic(call[who], rounds=10, warmup_rounds=1)


@pytest.mark.parametrize("who", ["train", "bare loop"])
def test_training_loop(benchmark, who):
    """The overhead of train over the same work written out."""
    process = DDPM(table(cosine(), 1000), (1, 8, 8)).to(DEVICE)
    data = torch.rand(1000, 1, 8, 8, device=DEVICE) * 2 - 1
    torch.manual_seed(0)
    model = UNet(1, (32, 64)).to(DEVICE)

    def generator():
        for _ in train(process, model, batches(data, 64), 20):
            pass

    def bare():
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.0, fused=True)
        average = copy.deepcopy(model).requires_grad_(False)
        ours, stream = list(model.parameters()), batches(data, 64)
        for _ in range(20):
            x = next(stream)
            loss = process.loss(model, x, process.sample_t(64)).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(ours, 1.0)
            optimizer.step()
            torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in ours], 0.001)

    benchmark.group = "training, 20 steps"
    benchmark.pedantic({"train": generator, "bare loop": bare}[who], rounds=8, warmup_rounds=1)


@pytest.mark.parametrize("what", ["course_lib.ddpm", "torch and jaxtyping"])
def test_import(benchmark, what):
    code = {"course_lib.ddpm": "import course_lib.ddpm", "torch and jaxtyping": "import torch, jaxtyping"}[
        what
    ]
    benchmark.group = "import, in a new process"
    benchmark.pedantic(
        lambda: subprocess.run([sys.executable, "-c", code], check=True), rounds=5, warmup_rounds=1
    )
