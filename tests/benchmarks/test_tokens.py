"""Speed of token noise as ratios within one run: closed forms against what released code of D3PM and SEDD does.

The other side of each group is the textbook way, written out here: rows of matrices, one-hot laws, Gumbel noise.
"""

import os

import pytest
import torch
import torch.nn.functional as F

from course_lib.absorbing import Absorbing
from course_lib.d3pm import D3PM
from course_lib.mdlm import MDLM
from course_lib.schedules import cosine, geometric, log_linear, table
from course_lib.score_entropy import score_entropy_stationary
from course_lib.sedd import SEDD
from course_lib.stationary import Uniform

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
T, K, BIG = 1000, 256, 50_257


def timed(benchmark, group, call, rounds=20):
    """Time a call, to the end of the device's work."""

    def whole():
        call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.group = group
    benchmark.pedantic(whole, rounds=rounds, warmup_rounds=2)


def peak(call):
    """Bytes that a call takes at most beside what is there: of the device, or of a child process's memory."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    import resource  # not on Windows, nor is fork

    here, there = os.pipe()
    if not (child := os.fork()):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        call()
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        os.write(there, str((most - before) * 1024).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return int(os.read(here, 100))


def gumbel(logits):
    u = torch.rand_like(logits).clamp(1e-30, 1)
    return (logits - (-u.log()).log()).argmax(-1)


@pytest.mark.parametrize("who", ["course_lib", "rows of Q and Gumbel"])
def test_corrupt(benchmark, who):
    noise = Uniform(K, table(cosine(power=1), T)).to(DEVICE)
    x0, t = torch.randint(0, K, (32, 128), device=DEVICE), torch.randint(1, T, (32,), device=DEVICE)
    a = noise.log_alpha(torch.arange(T + 1, device=DEVICE)).exp().float()[:, None, None]
    Q = a * torch.eye(K, device=DEVICE) + (1 - a) / K  # (T + 1, K, K)
    start = torch.zeros_like(t)
    call = {
        "course_lib": lambda: noise.corrupt(x0, start, t),
        "rows of Q and Gumbel": lambda: gumbel(Q[t[:, None], x0].log()),
    }
    timed(benchmark, f"corrupt, uniform, K = {K}, 32 x 128", call[who], rounds=60)


class Head(torch.nn.Module):
    """The last layer of a network: states and a table of words."""

    takes_at = True

    def __init__(self, B, L, width=128):
        super().__init__()
        self.h = torch.nn.Parameter(torch.randn(B, L, width))
        self.words = torch.nn.Parameter(torch.randn(BIG, width) / width**0.5)

    def forward(self, x, u, at=None):
        return (self.h if at is None else self.h[at]) @ self.words.T


def dense_loss(model, noise, x0, t):
    """D3PM's formula, one-hot laws of all K states at every position."""
    x_t = noise.corrupt(x0, torch.zeros_like(t), t)
    K, V = noise.K, noise.V
    a_s, a_t = (noise.log_alpha(v).exp().float()[:, None, None] for v in (t - 1, t))
    seen, mask = F.one_hot(x_t, K).float(), F.one_hot(torch.tensor(V, device=DEVICE), K).float()
    p0 = F.pad(model(x_t, t).softmax(-1), (0, 1))
    back = seen * a_t / a_s + (1 - a_t / a_s) * seen[..., V:]  # x_t Q^T
    laws = [back * (a_s * p + (1 - a_s) * mask) for p in (F.one_hot(x0, K).float(), p0)]
    want, have = (q / q.sum(-1, keepdim=True) for q in laws)
    return (want * ((want + 1e-20).log() - (have + 1e-20).log())).sum((1, 2)).mean()


@pytest.mark.parametrize("who", ["course_lib", "dense one-hot"])
def test_absorbing_loss(benchmark, who):
    process = D3PM(Absorbing(BIG, table(log_linear(0.0), T, max_beta=1.0)), 256).to(DEVICE)
    torch.manual_seed(0)
    model = Head(8, 256).to(DEVICE)
    x0 = torch.randint(0, BIG, (8, 256), device=DEVICE)
    t = torch.linspace(1, T, 8, device=DEVICE).long()
    loss = {
        "course_lib": lambda: process.loss(model, x0, t).mean(),
        "dense one-hot": lambda: dense_loss(model, process.noise, x0, t),
    }
    timed(
        benchmark, "absorbing loss and its gradient, K = 50,257, 8 x 256", lambda: loss[who]().backward(), 4
    )


@pytest.mark.parametrize("who", ["course_lib", "Gumbel everywhere"])
def test_sampling_when_one_in_a_hundred_opens(benchmark, who):
    process = D3PM(Absorbing(BIG, table(log_linear(0.0), 100, max_beta=1.0)), 256).to(DEVICE)
    noise = process.noise
    model = Head(8, 256).to(DEVICE)
    x = torch.full((8, 256), BIG, device=DEVICE)
    t = torch.full((8,), 100, device=DEVICE)
    logits = model(x, t).detach()

    def network(x, u, at):
        return logits[at]  # its work is not what is timed

    network.takes_at = True

    def everywhere():
        reveal = noise.reveals(t - 1, t).float()[:, None, None]
        p = torch.cat([reveal * logits.softmax(-1), (1 - reveal).expand(8, 256, 1)], -1)
        return torch.where(x == BIG, gumbel(p.log()), x)

    call = {"course_lib": lambda: process.step(network, x, t, t - 1), "Gumbel everywhere": everywhere}
    timed(benchmark, "one step of sampling, 1 % opens, K = 50,257, 8 x 256", call[who], rounds=10)


# SEDD


def printed_uniform(log_s, sigma, x_t, x0):
    """Score entropy for uniform noise term by term as SEDD's paper and code have it, all over the full vocabulary."""
    K = log_s.shape[-1]
    e1 = torch.where(sigma < 0.5, torch.expm1(sigma), sigma.exp() - 1)
    rho = 1 - K / (e1 + K)
    here = lambda v: v.gather(-1, x_t[..., None])[..., 0]  # noqa: E731
    neg = log_s.mean(-1) - here(log_s) / K
    neg = torch.where(x_t == x0, rho * neg, log_s.gather(-1, x0[..., None])[..., 0] / e1 + neg)
    const = torch.where(
        x_t == x0, (K - 1) / K * rho * (rho.log() - 1), ((-rho.log() - 1) / rho - (K - 2)) / K
    )
    s = log_s.exp()
    return s.mean(-1) - here(s) / K - neg + const


def definition(log_s, sigma, x_t, x0):
    """The definition: one term for every neighbour, rho_y as a law over the vocabulary."""
    K, a = log_s.shape[-1], (-sigma).exp()[..., None]
    q = F.one_hot(x0, K) * a + (1 - a) / K
    rho = q / q.gather(-1, x_t[..., None])
    terms = log_s.exp() - rho * log_s + rho * (rho.log() - 1)
    return terms.scatter(-1, x_t[..., None], 0.0).sum(-1) / K


@pytest.mark.parametrize("who", ["course_lib", "definition", "released form"])
def test_score_entropy_uniform(benchmark, who):
    noise = Uniform(BIG, geometric()).to(DEVICE)
    torch.manual_seed(0)
    log_s = torch.randn(4, 256, BIG, device=DEVICE, requires_grad=True)
    x0 = torch.randint(0, BIG, (4, 256), device=DEVICE)
    t = torch.tensor([0.5, 0.7, 0.8, 0.9], device=DEVICE)
    x_t, log_alpha = noise.corrupt(x0, torch.zeros_like(t), t), noise.log_alpha(t)
    sigma = -log_alpha.float()[:, None]
    loss = {
        "course_lib": lambda: score_entropy_stationary(noise, log_s, x0, x_t, log_alpha).sum(),
        "definition": lambda: definition(log_s, sigma, x_t, x0).sum(),
        "released form": lambda: printed_uniform(log_s, sigma, x_t, x0).sum(),
    }[who]

    def call():
        log_s.grad = None
        loss().backward()

    benchmark.extra_info["extra MiB"] = round(peak(call) / 2**20)
    timed(benchmark, "score entropy and its gradient, uniform, K = 50,257, 4 x 256", call, 4)


@pytest.mark.parametrize("who", ["course_lib", "all positions"])
def test_absorbing_head_and_loss(benchmark, who):
    process = SEDD(Absorbing(BIG, log_linear()), 256).to(DEVICE)
    torch.manual_seed(0)
    model = Head(4, 256).to(DEVICE)
    x0 = torch.randint(0, BIG, (4, 256), device=DEVICE)
    t = torch.full((4,), 0.5, device=DEVICE)

    def everywhere():
        x_t = process.noise.corrupt(x0, torch.zeros_like(t), t)
        f = model(x_t, t)
        each = f.exp().mean(-1) - 1 - f.gather(-1, x0[..., None])[..., 0]
        return (each * (x_t == BIG)).sum(1) / t

    loss = {"course_lib": lambda: process.loss(model, x0, t), "all positions": everywhere}[who]

    def call():
        model.zero_grad()
        loss().mean().backward()

    timed(benchmark, "SEDD absorbing, half masked: head, loss, gradient, K = 50,257, 4 x 256", call, 6)


@pytest.mark.parametrize("who", ["MDLM", "SEDD, mass known", "SEDD, mass learned", "Gumbel everywhere"])
def test_continuous_step_when_one_in_a_hundred_opens(benchmark, who):
    noise = Absorbing(BIG, log_linear()).to(DEVICE)
    torch.manual_seed(0)
    model = Head(4, 256).to(DEVICE)
    x = torch.full((4, 256), BIG, device=DEVICE)
    t, s = torch.full((4,), 1.0, device=DEVICE), torch.full((4,), 0.99, device=DEVICE)
    logits = model(x, t).detach()

    def network(x, u, at):  # its work is not what is timed
        return logits.reshape(-1, BIG) if at.all() else logits[at]

    network.takes_at = True

    def everywhere():
        reveal = noise.reveals(s, t).float()[:, None, None]
        p = torch.cat([reveal * logits.softmax(-1), (1 - reveal).expand(4, 256, 1)], -1)
        return torch.where(x == BIG, gumbel(p.log()), x)

    calls = {
        "MDLM": lambda: MDLM(noise, 256).step(network, x, t, s),
        "SEDD, mass known": lambda: SEDD(noise, 256, mass="known").step(network, x, t, s),
        "SEDD, mass learned": lambda: SEDD(noise, 256).step(network, x, t, s),
        "Gumbel everywhere": everywhere,
    }
    timed(benchmark, "one step in continuous time, 1 % opens, K = 50,257, 4 x 256", calls[who], 10)
