"""Noise on tokens: closed forms against dense matrices, one-hot laws and Gumbel noise, as textbooks have it."""

import torch
import torch.nn.functional as F

from course_lib.absorbing import Absorbing
from course_lib.d3pm import D3PM
from course_lib.mdlm import MDLM
from course_lib.schedules import cosine, log_linear, table
from course_lib.sedd import SEDD
from course_lib.stationary import Uniform

from .measure import Comparison, comparison

T, BIG = 1000, 50_257


def gumbel(logits):
    """A token from each law, by the largest logit plus Gumbel noise."""
    u = torch.rand_like(logits).clamp(1e-30, 1)
    return (logits - (-u.log()).log()).argmax(-1)


class Head(torch.nn.Module):
    """The last layer of a network: states and a table of words."""

    takes_at = True

    def __init__(self, B, L, K=BIG, width=128):
        super().__init__()
        self.h = torch.nn.Parameter(torch.randn(B, L, width))
        self.words = torch.nn.Parameter(torch.randn(K, width) / width**0.5)

    def forward(self, x, u, at=None):
        """The numbers at all positions, or at some."""
        return (self.h if at is None else self.h[at]) @ self.words.T


@comparison
def corrupt(device: str, small: bool) -> Comparison:
    K, B = (16, 2) if small else (256, 32)
    noise = Uniform(K, table(cosine(power=1), T)).to(device)
    x0, t = torch.randint(0, K, (B, 128), device=device), torch.randint(1, T, (B,), device=device)
    a = noise.log_alpha(torch.arange(T + 1, device=device)).exp().float()[:, None, None]
    Q = a * torch.eye(K, device=device) + (1 - a) / K  # (T + 1, K, K)
    start = torch.zeros_like(t)
    calls = {
        "course_lib": lambda: noise.corrupt(x0, start, t),
        "rows of Q, Gumbel": lambda: gumbel(Q[t[:, None], x0].log()),
    }
    return Comparison(
        f"corrupt, uniform, K = {K}, {B} x 128", calls, 16 * x0.numel(), 0, "tokens read and written"
    )


@comparison
def uniform_loss(device: str, small: bool) -> Comparison:
    """KL between the reverse steps and its gradient, from the network's logits on."""
    K, B = (8, 2) if small else (256, 8)
    process = D3PM(Uniform(K, table(cosine(power=1), T)), 128).to(device)
    noise, x0 = process.noise, torch.randint(0, K, (B, 128), device=device)
    t = torch.linspace(2, T, B, device=device).long()
    x_t = noise.corrupt(x0, torch.zeros_like(t), t)
    logits = torch.randn(B, 128, K, device=device, requires_grad=True)
    a = noise.log_alpha(torch.arange(T + 1, device=device)).exp().float()[:, None, None]
    eye = torch.eye(K, device=device)
    up_to = a * eye + (1 - a) / K  # Q_1 ... Q_t of every t, (T + 1, K, K)
    step = torch.cat([eye[None], a[1:] / a[:-1] * eye + (1 - a[1:] / a[:-1]) / K])

    def dense():
        """(x_t Q_t^T) (.) (x_0 Qbar_{t-1}), D3PM eq. 3, and the same with the network's law."""
        back = F.one_hot(x_t, K).float() @ step[t].mT
        laws = [back * (p @ up_to[t - 1]) for p in (F.one_hot(x0, K).float(), logits.softmax(-1))]
        want, have = (q / q.sum(-1, keepdim=True) for q in laws)
        return (want * ((want + 1e-20).log() - (have + 1e-20).log())).sum((1, 2)).mean() * T / 128

    def with_gradient(loss):
        def call():
            logits.grad = None
            value = loss()
            value.backward()
            return value.detach()

        return call

    calls = {
        "course_lib": with_gradient(lambda: process.loss_at(lambda x, u: logits, x0, x_t, t).mean()),
        "dense K x K": with_gradient(dense),
    }
    name = f"D3PM loss and gradient, uniform, K = {K}, {B} x 128"
    return Comparison(name, calls, 8 * logits.numel(), 0, "logits read, their gradient written", equal=True)


@comparison
def absorbing_loss(device: str, small: bool) -> Comparison:
    """The head is part of it: only masks need it."""
    K, B = (50, 2) if small else (BIG, 4)
    process = D3PM(Absorbing(K, table(log_linear(0.0), T, max_beta=1.0)), 64).to(device)
    noise, model = process.noise, Head(B, 64, K).to(device)
    x0 = torch.randint(0, K, (B, 64), device=device)
    t = torch.linspace(2, T, B, device=device).long()
    x_t = noise.corrupt(x0, torch.zeros_like(t), t)

    def dense():
        """D3PM's formula with laws of all K + 1 states at every position."""
        a_s, a_t = (noise.log_alpha(v).exp().float()[:, None, None] for v in (t - 1, t))
        seen = F.one_hot(x_t, K + 1).float()
        mask = F.one_hot(torch.tensor(K, device=device), K + 1).float()
        p0 = F.pad(model(x_t, t).softmax(-1), (0, 1))
        back = seen * a_t / a_s + (1 - a_t / a_s) * seen[..., K:]  # x_t Q^T
        laws = [back * (a_s * p + (1 - a_s) * mask) for p in (F.one_hot(x0, K + 1).float(), p0)]
        want, have = (q / q.sum(-1, keepdim=True) for q in laws)
        each = (want * ((want + 1e-20).log() - (have + 1e-20).log())).sum(-1)
        return each.sum(1).mean() * T / 64

    def with_gradient(loss):
        def call():
            model.zero_grad()
            value = loss()
            value.backward()
            return value.detach()

        return call

    calls = {
        "course_lib": with_gradient(lambda: process.loss_at(model, x0, x_t, t).mean()),
        "dense one-hot": with_gradient(dense),
    }
    name = f"D3PM head, loss and gradient, absorbing, K = {K:,}, {B} x 64"
    return Comparison(name, calls, 0, None, "the head's products at masks", equal=True)


@comparison
def uniform_step(device: str, small: bool) -> Comparison:
    """A step of uniform noise from logits of p(x_0 | x_t): theirs draws x_0, then a route; so does ours."""
    from diffusers import DiscreteDDIMScheduler

    K, B, steps = (16, 2, 8) if small else (BIG, 4, 32)
    process = D3PM(Uniform(K, table(log_linear(0.0), steps, max_beta=1.0)), 64, "posterior").to(device)
    theirs = DiscreteDDIMScheduler(num_inference_steps=steps)
    logits, x = torch.randn(B, 64, K, device=device), torch.randint(0, K, (B, 64), device=device)
    t = torch.full((B,), steps // 2, device=device)
    calls = {
        "course_lib": lambda: process.step(lambda x, u: logits, x, t, t - 1),
        "diffusers": lambda: theirs.step(logits, steps - steps // 2, x, temperature=1.0).prev_sample,
    }
    return Comparison(f"step, uniform, K = {K:,}, {B} x 64", calls, 4 * logits.numel(), 0, "logits read once")


@comparison
def masked_step(device: str, small: bool) -> Comparison:
    """One token in a hundred is unmasked. The network's work is not timed: its logits are given."""
    K, B = (50, 2) if small else (BIG, 4)
    noise, x = Absorbing(K, log_linear(0.0)).to(device), torch.full((B, 256), K, device=device)
    t, s = torch.full((B,), 1.0, device=device), torch.full((B,), 0.99, device=device)
    logits = torch.randn(B, 256, K, device=device)

    def network(x, u, at):
        return logits.reshape(-1, K) if at.all() else logits[at]

    network.takes_at = True
    steady = Absorbing(K, log_linear(1e-3)).to(device)  # scores need a share of tokens that is left

    def everywhere():
        unmasks = noise.unmasking_probability(s, t).float()[:, None, None]
        p = torch.cat([unmasks * logits.softmax(-1), (1 - unmasks).expand(B, 256, 1)], -1)
        return torch.where(x == K, gumbel(p.log()), x)

    calls = {
        "course_lib, MDLM": lambda: MDLM(noise, 256).step(network, x, t, s),
        "course_lib, SEDD": lambda: SEDD(steady, 256).step(network, x, t, s),
        "Gumbel everywhere": everywhere,
    }
    unmasked = B * 256 * 0.01
    return Comparison(
        f"step, 1 % of tokens unmasked, K = {K:,}, {B} x 256",
        calls,
        4 * K * unmasked,
        0,
        "logits read where tokens are unmasked",
    )
