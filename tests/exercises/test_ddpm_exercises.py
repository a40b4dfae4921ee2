"""Chapter 1's exercises: other right answers pass, and what the library says is what the references say."""

import math
from itertools import pairwise

import pytest
import torch

from course_lib.exercise import find, grade, of_chapter
from course_lib.solutions import ddpm

SPECS = {spec.name: spec for spec in of_chapter("ddpm")}


def loop_q_sample(x0, t, alpha_bar, eps):
    rows = [
        math.sqrt(alpha_bar[k]) * x + math.sqrt(1 - alpha_bar[k]) * e
        for x, k, e in zip(x0, t, eps, strict=True)
    ]
    return torch.stack(rows)


def bumpy_schedule(T):
    beta = torch.full((T,), 0.3)
    beta[::2] = 0.2
    return torch.cat([torch.ones(1), (1 - beta).cumprod(0)])  # float32 is fine


def weights_posterior_mean(x0, x_t, abar_s, abar_t):
    k = (abar_t / abar_s).sqrt() * (1 - abar_s) / (1 - abar_t)
    return k * x_t + (abar_s.sqrt() - k * abar_t.sqrt()) * x0


def torch_kl(mean1, var1, mean2, var2):
    n = torch.distributions.Normal
    return torch.distributions.kl_divergence(n(mean1, var1.sqrt()), n(mean2, var2.sqrt())).sum(-1)


def loop_loss(model, x0, t, alpha_bar):
    eps = torch.randn(x0.shape)
    error = model(loop_q_sample(x0, t, alpha_bar, eps), t.float() / (len(alpha_bar) - 1)) - eps
    return torch.stack([(e**2).mean() for e in error])


def noise_first_ancestral(model, x_T, times, alpha_bar):
    x = x_T
    for t, s in pairwise(times):
        a, b = alpha_bar[t].float(), alpha_bar[s].float()
        eps = model(x, t / (len(alpha_bar) - 1) * torch.ones(len(x)))
        mean = (a / b).rsqrt() * (x - (1 - a / b) / (1 - a).sqrt() * eps)  # eq. 11 of the paper
        x = mean + ((1 - b) / (1 - a) * (1 - a / b)).sqrt() * torch.randn(x.shape)
    return x


def ddim_like_repair(x0_hat, x_t, abar_s, abar_t, z):
    eps = (x_t - abar_t.sqrt() * x0_hat) / (1 - abar_t).sqrt()
    var = (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)
    return abar_s.sqrt() * x0_hat + (1 - abar_s - var).clamp(min=0).sqrt() * eps + var.sqrt() * z


def plain_bits(terms, prior_term, dims):
    return sum(v.item() for v in [*terms, prior_term]) / dims / math.log(2)


OTHER = {
    "ddpm.q_sample": loop_q_sample, "ddpm.schedule": bumpy_schedule, "ddpm.posterior_mean": weights_posterior_mean,
    "ddpm.gaussian_kl": torch_kl, "ddpm.simple_loss": loop_loss, "ddpm.ancestral": noise_first_ancestral,
    "ddpm.repair": ddim_like_repair, "ddpm.bits_per_dim": plain_bits,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_other_right_answers_pass(name):
    assert grade(SPECS[name], OTHER[name]) == ("PASS", "")


def test_checks_hear_what_a_network_would_refuse():
    with pytest.raises(ValueError, match=r"one time u per example, shape \(3,\), not \(1,\)"):
        ddpm.hear(torch.zeros(3, 2), torch.zeros(1))
    with pytest.raises(ValueError, match="not float"):
        ddpm.hear(torch.zeros(3, 2), 0.5)
    with pytest.raises(TypeError, match="torch.float64"):
        ddpm.hear(torch.zeros(3, 2).double(), torch.zeros(3))
    ddpm.hear(torch.zeros(3, 2), torch.zeros(3))


def sampler(noise, mean=ddpm.posterior_mean):
    """A sampler whose noise and mean are those given: noise(abar_s, abar_t) is a standard deviation."""

    def walk(model, x_T, times, a):
        x = x_T
        for t, s in pairwise(times):
            eps = model(x, torch.full((len(x),), t / (len(a) - 1)))
            x0 = (x - (1 - a[t]).sqrt() * eps) / a[t].sqrt()
            x = (mean(x0, x, a[s], a[t]) + noise(a[s], a[t]) * torch.randn_like(x)).float()
        return x

    return walk


def small(s, t):
    return ((1 - s) * (1 - t / s) / (1 - t)).sqrt()


def halved(x0, x, s, t):
    return ddpm.posterior_mean(x0, x, s, t) - x * (s < 1) / 2


def loss(factor=1.0, u=lambda t, T: t / T, root=False, x=lambda x0, eps, a: ddpm.q_sample(x0, *a, eps)):
    """simple_loss with a part of it replaced."""

    def wrong(model, x0, t, alpha_bar):
        eps = torch.randn_like(x0)
        error = (
            (eps - model(x(x0, eps, (t, alpha_bar)), u(t, len(alpha_bar) - 1))).square().flatten(1).mean(1)
        )
        return factor * (error.sqrt() if root else error)

    return wrong


@pytest.mark.parametrize("name, answer, hint", [
    ("ddpm.schedule", lambda T: torch.ones(3), "the shape is (3,), expected (51,)"),
    ("ddpm.schedule", lambda T: ddpm.schedule(T) if T == 50 else ddpm.schedule(T)[1:], "(101,): one for each t"),
    ("ddpm.schedule", lambda T: -ddpm.schedule(T), "it cannot be below 0: it is a share"),
    ("ddpm.schedule", lambda T: ddpm.schedule(T) + 0.1 * (torch.arange(T + 1) == 7), "yours rises or stays"),
    ("ddpm.posterior_mean", lambda x0, x_t, s, t: x0, "x_t has no part in your answer"),
    ("ddpm.ancestral", lambda m, x, ts, a: ddpm.ancestral(m, x, ts, a)[:1], "expected that of x_T, (3000, 4)"),
    ("ddpm.ancestral", sampler(lambda s, t: 2 * small(s, t)), "for the standard deviation of each"),
    ("ddpm.ancestral", sampler(small, halved), "the weight of x_0 and of x_t in each step is wrong"),
    ("ddpm.ancestral", lambda m, x, ts, a: ddpm.ancestral(m, x, [*ts[:-2], 0], a), "which the network hears, is 5, 3:"),
    ("ddpm.ancestral", lambda m, x, ts, a: 2 * ddpm.ancestral(m, x, ts, a), "it gives 2 at [2, 0] for the weight"),
    ("ddpm.simple_loss", loss(3.0), "the loss is wrong: it is 3 times what is expected"),
    ("ddpm.simple_loss", loss(root=True), "the loss is wrong: it is the root of what is expected"),
    ("ddpm.simple_loss", loss(u=lambda t, T: t / (T + 1)), "[0.3333, 0.5] for the time u where [0.4, 0.6]"),
    ("ddpm.simple_loss", loss(u=lambda t, T: t / t.max()), "for the time u where [0.4, 0.6] is expected"),
    ("ddpm.simple_loss", loss(x=lambda x0, eps, a: 0.5 * ddpm.q_sample(x0, *a, eps)), "the weight of x_0 in"),
    ("ddpm.simple_loss", lambda m, x0, t, a: m(x0, t / (len(a) - 1)).flatten(1).mean(1), "for the weight of x_0"),
    ("ddpm.simple_loss", lambda m, x0, t, a: torch.zeros(len(x0)), "your loss never asks the model"),
    ("ddpm.simple_loss", lambda m, x0, t, a: ddpm.simple_loss(m, x0, t, a)[:2], "the loss is wrong"),
    ("ddpm.bits_per_dim", lambda terms, prior, dims: 1.0, "terms"),
    ("ddpm.bits_per_dim", lambda terms, prior, dims: terms.sum() / dims / math.log(2) + prior, "dims ln 2 times what"),
    ("ddpm.gaussian_kl", lambda *a: ddpm.gaussian_kl(*a).detach(), "they carry no gradient"),
    ("ddpm.gaussian_kl", lambda m1, v1, m2, v2: ddpm.gaussian_kl(m1, v1, m2, v2.detach()), "no gradient reaches var2"),
])  # fmt: skip
def test_unknown_mistakes_are_described(name, answer, hint):
    state, text = grade(find(name), answer)
    assert state == "FAIL" and hint in text, text


def test_noise_of_each_example_and_call():
    def one_number(model, x0, t, a):
        eps = torch.randn(len(x0), *[1] * (x0.ndim - 1)).expand_as(x0)
        return (eps - model(ddpm.q_sample(x0, t, a, eps), t / (len(a) - 1))).square().flatten(1).mean(1)

    def seeded(model, x0, t, a):
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
        return (eps - model(ddpm.q_sample(x0, t, a, eps), t / (len(a) - 1))).square().flatten(1).mean(1)

    text = grade(find("ddpm.simple_loss"), one_number)[1]
    assert "for the likeness of a draw to itself, to the next number and the next example where" in text
    assert "two calls give the same numbers" in grade(find("ddpm.simple_loss"), seeded)[1]
