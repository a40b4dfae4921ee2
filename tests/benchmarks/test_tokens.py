"""Speed of token noise as ratios within one run: closed forms against what released code of D3PM and SEDD does.

The other side of each group is the textbook way, written out here: rows of matrices, one-hot laws, Gumbel noise.
"""

import pytest
import torch
import torch.nn.functional as F

from course_lib.categorical import Absorbing, Uniform
from course_lib.d3pm import D3PM
from course_lib.schedules import cosine, log_linear, table

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

    takes_rows = True

    def __init__(self, B, L, width=128):
        super().__init__()
        self.h = torch.nn.Parameter(torch.randn(B, L, width))
        self.words = torch.nn.Parameter(torch.randn(BIG, width) / width**0.5)

    def forward(self, x, u, rows=None):
        return (self.h if rows is None else self.h[rows]) @ self.words.T


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

    def network(x, u, rows):
        return logits[rows]  # its work is not what is timed

    network.takes_rows = True

    def everywhere():
        reveal = noise.reveals(t - 1, t).float()[:, None, None]
        p = torch.cat([reveal * logits.softmax(-1), (1 - reveal).expand(8, 256, 1)], -1)
        return torch.where(x == BIG, gumbel(p.log()), x)

    call = {"course_lib": lambda: process.step(network, x, t, t - 1), "Gumbel everywhere": everywhere}
    timed(benchmark, "one step of sampling, 1 % opens, K = 50,257, 8 x 256", call[who], rounds=10)
