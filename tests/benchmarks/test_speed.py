"""Speed as ratios within one run (`make bench`): each group holds ours and what it is compared with.

The figure in brackets is the ratio to the fastest of the group. Nothing here asserts a time.
"""

import copy
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from course_lib.data import batches
from course_lib.ddim import DDIM
from course_lib.ddpm import DDPM
from course_lib.dpm_solver import DPMSolver
from course_lib.likelihood import ProbabilityFlow, rademacher
from course_lib.nets import UNet
from course_lib.process import last, sample
from course_lib.schedules import Schedule, cosine, ddpm_table, linear, table
from course_lib.sde import VP
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


@pytest.mark.parametrize("who", ["course_lib", "diffusers"])
def test_dpm_solver_with_a_null_network(benchmark, setting, who):
    """DPM-Solver++(2M), x_1 to x_0. Theirs works on a table of 1,000 times, ours on the schedule itself."""
    name, _, _, x, out = setting
    ours = DPMSolver(VP(linear(), x.shape[1:])).to(DEVICE)
    theirs = diffusers.DPMSolverMultistepScheduler(1000, beta_schedule="linear")

    def their_loop():
        theirs.set_timesteps(STEPS)  # it counts its steps, so each run must begin anew
        state = torch.randn_like(x)
        for t in theirs.timesteps:
            state = theirs.step(out, t, state).prev_sample
        return state

    call = {
        "course_lib": lambda: last(sample(ours, lambda x, u: out, len(x), STEPS)),
        "diffusers": their_loop,
    }
    benchmark.group = f"DPM-Solver++(2M), {STEPS} steps, {name}"
    with torch.no_grad():
        benchmark.pedantic(call[who], rounds=10, warmup_rounds=1)


class Table(VP):
    """VP whose schedule is a table, as theirs: no rate, which this solver does not need."""

    def drift(self, t):
        return 0 * t

    diffusion2 = drift


def test_dpm_solver_gives_the_samples_of_diffusers():
    """The same times, the same table, a network that is not trivial: equal up to their float32 table."""
    theirs = diffusers.DPMSolverMultistepScheduler(1000, beta_schedule="linear")
    theirs.set_timesteps(20)
    log = torch.cat([torch.ones(1), theirs.alphas_cumprod]).double().log()
    steps = Schedule("table", lambda u: log[(u * 1000).round().long()])
    ours = DPMSolver(Table(steps, (3,), t_min=1e-3, t_max=1.0))
    x = state = torch.randn(50, 3, dtype=torch.float64)
    hours = [*((t.item() + 1) / 1000 for t in theirs.timesteps), 0.0]
    for t, s in pairwise(hours):
        u = torch.tensor([t], dtype=torch.float64).expand(50)
        x = ours.step(lambda x, u: torch.tanh(x), x, u, torch.tensor([s], dtype=torch.float64).expand(50))
    for t in theirs.timesteps:
        state = theirs.step(torch.tanh(state), t, state).prev_sample
    torch.testing.assert_close(x, state, rtol=1e-3, atol=1e-3)
    assert x.std() > 0.1


class TwoCalls(ProbabilityFlow):
    """The right-hand side as score_sde computes it: drift and divergence from one call of the network each."""

    def at(self, t, x):
        self.x, self.t = x, super().at(t, x)
        return self.t

    def solve(self, rhs, y, start, end):
        def twice(t, y):
            out = rhs(t, y)  # the divergence, and a drift that is thrown away
            n = len(self.x)
            with torch.no_grad():
                v = self.sde.velocity(
                    self.model, torch.tensor(y[n:]).reshape(self.x.shape).to(self.x), self.t
                )
            out[n:] = v.double().cpu().numpy().ravel()
            return out

        return super().solve(twice, y, start, end)


@pytest.mark.parametrize("who", ["one call", "two calls"])
def test_ode_likelihood(benchmark, who):
    """The same solve to the same density; only the number of forward passes for each right-hand side differs."""
    torch.manual_seed(0)
    sde, model = VP(cosine(), (1, 8, 8), t_min=0.02).to(DEVICE), UNet(1, (32, 64)).to(DEVICE)
    for p in model.parameters():
        p.data += 0.02 * torch.randn_like(p)
    x = torch.rand(16, 1, 8, 8, device=DEVICE) * 2 - 1
    probe = rademacher(x)
    ode = {"one call": ProbabilityFlow, "two calls": TwoCalls}[who](sde, 1e-3, 1e-3)
    ode.model = model
    benchmark.group = "ODE likelihood by RK45, 16 digits"
    benchmark.pedantic(lambda: ode.log_prob(model, x, probe), rounds=4, warmup_rounds=1)


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
