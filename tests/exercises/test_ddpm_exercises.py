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


@pytest.mark.parametrize("name, answer, hint", [
    ("ddpm.schedule", lambda T: torch.ones(3), "the shape is (3,), expected (51,)"),
    ("ddpm.schedule", lambda T: ddpm.schedule(T) if T == 50 else ddpm.schedule(T)[1:], "T + 1 entries"),
    ("ddpm.posterior_mean", lambda x0, x_t, s, t: x0, "is expected"),
    ("ddpm.ancestral", lambda m, x, ts, a: ddpm.ancestral(m, x, ts, a)[:1], "expected that of x_T, (4000, 1)"),
    ("ddpm.simple_loss", lambda m, x0, t, a: ddpm.simple_loss(m, x0, t, a) * 3, "0.25 is expected"),
    ("ddpm.bits_per_dim", lambda terms, prior, dims: 1.0, "is expected"),
    ("ddpm.gaussian_kl", ddpm._sum_before_broadcast, ddpm.SHARED_VARIANCE),
    ("ddpm.simple_loss", lambda m, x0, t, a: ddpm.simple_loss(m, x0, t, torch.cat([a, a[-1:]])), "u = t / T"),
])  # fmt: skip
def test_unknown_mistakes_get_a_plain_description(name, answer, hint):
    state, text = grade(find(name), answer)
    assert state == "FAIL" and hint in text


def test_too_much_noise_on_the_way_is_seen_by_its_variance():
    double = ddpm._sampler(lambda s, t: (4 * ddpm._small(s, t)).sqrt())
    state, text = grade(find("ddpm.ancestral"), double)
    assert state == "FAIL" and "your samples have variance" in text
