"""Score entropy: closed sums against the definition and against the form that paper and code of SEDD have."""

import torch
import torch.nn.functional as F

from course_lib.absorbing import Absorbing
from course_lib.schedules import geometric, log_linear
from course_lib.score_entropy import score_entropy_stationary
from course_lib.sedd import SEDD
from course_lib.stationary import Uniform

from .measure import Comparison, comparison
from .tokens import BIG, Head


def printed_uniform(log_s, sigma, x_t, x0):
    """Score entropy of uniform noise term by term as SEDD has it: positive, negative, constant."""
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
    """One term for every neighbour, rho_y as a law over the vocabulary."""
    K, a = log_s.shape[-1], (-sigma).exp()[..., None]
    q = F.one_hot(x0, K) * a + (1 - a) / K
    rho = q / q.gather(-1, x_t[..., None])
    terms = log_s.exp() - rho * log_s + rho * (rho.log() - 1)
    return terms.scatter(-1, x_t[..., None], 0.0).sum(-1) / K


@comparison
def uniform(device: str, small: bool) -> Comparison:
    K, B = (16, 2) if small else (BIG, 2)
    noise = Uniform(K, geometric()).to(device)
    log_s = torch.randn(B, 64, K, device=device, requires_grad=True)
    x0, t = torch.randint(0, K, (B, 64), device=device), torch.linspace(0.7, 0.9, B, device=device)
    x_t, log_alpha = noise.corrupt(x0, torch.zeros_like(t), t), noise.log_alpha(t)
    sigma = -log_alpha.float()[:, None]

    def with_gradient(loss):
        def call():
            log_s.grad = None
            value = loss().sum()
            value.backward()
            return value.detach().float()

        return call

    calls = {
        "course_lib": with_gradient(lambda: score_entropy_stationary(noise, log_s, x0, x_t, log_alpha)),
        "definition": with_gradient(lambda: definition(log_s, sigma, x_t, x0)),
        "released form": with_gradient(lambda: printed_uniform(log_s, sigma, x_t, x0)),
    }
    name = f"score entropy and gradient, uniform, K = {K:,}, {B} x 64"
    return Comparison(name, calls, 8 * log_s.numel(), 0, "log s read, its gradient written", equal=True)


@comparison
def absorbing(device: str, small: bool) -> Comparison:
    """Half of the positions are masked; the head is part of it."""
    K, B = (50, 2) if small else (BIG, 4)
    process, model = SEDD(Absorbing(K, log_linear()), 64).to(device), Head(B, 64, K).to(device)
    x0, t = torch.randint(0, K, (B, 64), device=device), torch.full((B,), 0.5, device=device)
    x_t = process.noise.corrupt(x0, torch.zeros_like(t), t)
    rate = process.weight(t).float()

    def everywhere():
        """The released form: log s over all states at all positions, then the masked ones."""
        r = process.noise.log_alpha(t).exp().float() / -process.noise.log_alpha(t).expm1().float()
        r = r[:, None]
        log_s = model(x_t, t) + (r / K).log()[..., None]
        each = log_s.exp().sum(-1) - r * log_s.gather(-1, x0[..., None])[..., 0] + r * (r.log() - 1)
        return rate * ((each / r) * (x_t == K)).sum(1) / 64

    def with_gradient(loss):
        def call():
            model.zero_grad()
            value = loss().mean()
            value.backward()
            return value.detach()

        return call

    calls = {
        "course_lib": with_gradient(lambda: process.loss_at(model, x0, x_t, t)),
        "released form": with_gradient(everywhere),
    }
    name = f"SEDD head, loss and gradient, half masked, K = {K:,}, {B} x 64"
    return Comparison(name, calls, 0, None, "the head's products at masks", equal=True)
