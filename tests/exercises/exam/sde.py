"""Answers to the exercises of chapter 3."""

import math
from itertools import pairwise

import torch

from tests.exercises.exam.paper import paper

wrong, right, ANSWERS = paper()


# --- moments ---


@wrong("sde.moments", "g2 is squared once more", r"\bg2\b|\bg\b")
def g_squared(f, g2, times):
    m, V = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    for t, s in pairwise(times):
        m, V = m + (s - t) * f(t) * m, V + (s - t) * (2 * f(t) * V + g2(t) ** 2)
    return torch.stack([m, V])


@wrong("sde.moments", "every step as long as the first", r"\beven|spac|as long|\bdt\b")
def even_steps(f, g2, times):
    m, V = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    dt = times[1] - times[0]
    for t in times[:-1]:
        m, V = m + dt * f(t) * m, V + dt * (2 * f(t) * V + g2(t))
    return torch.stack([m, V])


@right("sde.moments", "the exact solution for rates that are constant over a step")
def exponential(f, g2, times):
    m, V = 1.0, 0.0
    for t, s in pairwise(times):
        mid, dt = (t + s) / 2, float(s - t)
        a, b = float(f(mid)), float(g2(mid))
        V = V * math.exp(2 * a * dt) + (b * math.expm1(2 * a * dt) / (2 * a) if a else b * dt)
        m = m * math.exp(a * dt)
    return torch.tensor([m, V], dtype=torch.float64)


# --- reverse_step ---


@wrong("sde.reverse_step", "half the score, as in the ODE, and noise as well", r"\bscore\b")
def half_score(x, score, f, g2, dt, z):
    return x - dt * (f * x - g2 * score / 2) + (g2 * dt).sqrt() * z


@wrong("sde.reverse_step", "g2 stands outside of the root", r"\bz\b|\bg2\b")
def g2_times_z(x, score, f, g2, dt, z):
    return x - dt * (f * x - g2 * score) + g2 * dt.sqrt() * z


@right("sde.reverse_step", "sorted by x, score and z")
def sorted_step(x, score, f, g2, dt, z):
    return (1 - f * dt) * x + g2 * dt * score + g2.sqrt() * dt.sqrt() * z


# --- heun ---


@wrong("sde.heun", "the rule of the midpoint", r"midpoint|middle|halfway|both ends|Heun")
def midpoint(velocity, x, t, s):
    k1 = velocity(x, t)
    return x + (s - t) * velocity(x + (s - t) / 2 * k1, (s + t) / 2)


@wrong("sde.heun", "the second slope is taken where half a step leads", r"half|place|whole step|full step")
def half_way(velocity, x, t, s):
    k1 = velocity(x, t)
    k2 = velocity(x + (s - t) / 2 * k1, s)
    return x + (s - t) * (k1 + k2) / 2


@right("sde.heun", "Euler's step corrected")
def corrected(velocity, x, t, s):
    slope = velocity(x, t)
    euler = x + (s - t) * slope
    return euler + 0.5 * (s - t) * (velocity(euler, s) - slope)


# --- hutchinson ---


@wrong("sde.hutchinson", "the mean over dimensions", r"\bmean\b|\bsum|dimensions|\bd\b")
def mean_of_dimensions(field, x, probe):
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(field(x), x, probe)
    return (g * probe).flatten(1).mean(1)


@wrong("sde.hutchinson", "probes of its own in place of those given", r"\bprobe")
def own_probe(field, x, probe):
    e = torch.randint_like(x, 2) * 2 - 1
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(field(x), x, e)
    return (g * e).flatten(1).sum(1)


@right("sde.hutchinson", "backward twice")
def twice_backward(field, x, probe):
    _, pushed = torch.autograd.functional.jvp(field, x.detach(), probe)
    return torch.einsum("bd,bd->b", pushed.flatten(1), probe.flatten(1))


@right("sde.hutchinson", "the gradient of the product")
def product(field, x, probe):
    y = x.clone().requires_grad_(True)
    (field(y) * probe).sum().backward()
    return sum((y.grad * probe).reshape(len(x), -1).unbind(1))


# --- log_likelihood ---


@wrong("sde.log_likelihood", "left sums in place of trapezoids", r"trapez|left|both ends|mean of")
def left_sum(log_prior, divergence, times):
    return log_prior + (divergence[:-1] * times.diff()[:, None]).sum(0)


@wrong("sde.log_likelihood", "as if the times were even", r"\beven|uneven|spac|\btimes\b")
def even_times(log_prior, divergence, times):
    return log_prior + torch.trapezoid(divergence, dx=float(times[-1] - times[0]) / (len(times) - 1), dim=0)


@right("sde.log_likelihood", "the weights of the trapezoid rule in a loop")
def trapezoids(log_prior, divergence, times):
    total = log_prior
    for k in range(len(times) - 1):
        total = total + (times[k + 1] - times[k]) * (divergence[k] + divergence[k + 1]) / 2
    return total


# --- dpm_step ---


@wrong("sde.dpm_step", "the two steps' ratio upside down", r"h_last|ratio|\bx0_last\b|upside")
def ratio_upside_down(x, x0, x0_last, before, now, then):
    lam = [torch.log(m / std) for m, std in (before, now, then)]
    h, h_last = lam[2] - lam[1], lam[1] - lam[0]
    guess = x0 + h_last / (2 * h) * (x0 - x0_last)
    return then[1] / now[1] * x - then[0] * torch.expm1(-h) * guess


@wrong(
    "sde.dpm_step", "the whole step ahead in place of half of it", r"\bx0_last\b|half|twice|\b2\b.{0,20}too"
)
def whole_step_ahead(x, x0, x0_last, before, now, then):
    lam = [torch.log(m / std) for m, std in (before, now, then)]
    h, h_last = lam[2] - lam[1], lam[1] - lam[0]
    guess = x0 + h / h_last * (x0 - x0_last)
    return then[1] / now[1] * x - then[0] * torch.expm1(-h) * guess


@right("sde.dpm_step", "weights D_1 and D_0 of the paper, by powers")
def paper_weights(x, x0, x0_last, before, now, then):
    snr = [m / s for m, s in (before, now, then)]
    r = torch.log(snr[1] / snr[0]) / torch.log(snr[2] / snr[1])
    guess = (1 + 1 / (2 * r)) * x0 - x0_last / (2 * r)
    return x * then[1] / now[1] + then[0] * (1 - snr[1] / snr[2]) * guess


# --- grid ---


@wrong("sde.grid", "finer at the noise", r"\bnoise\b|other end|wrong end|\bdata\b|towards|near (0|1)\b")
def fine_at_noise(n):
    return 1 - torch.linspace(0, 1, n + 1, dtype=torch.float64) ** 2


@wrong("sde.grid", "n times in place of n + 1", r"n \+ 1|number of times|\d+ times")
def one_too_few(n):
    return torch.linspace(1, 0, n, dtype=torch.float64) ** 2


@right("sde.grid", "another power, built from the data up")
def other_power(n):
    return torch.tensor([(k / n) ** 1.8 for k in range(n, -1, -1)], dtype=torch.float64)


# --- ode_velocity ---


@wrong("sde.ode_velocity", "the reverse SDE's drift without its noise", r"half|g2|\bscore\b|eps_hat")
def reverse_drift(x, eps_hat, f, g2, std):
    return f * x + g2 * eps_hat / std


@wrong("sde.ode_velocity", "half of everything", r"\bx\b|\bf\b|half")
def half_of_all(x, eps_hat, f, g2, std):
    return (f * x + g2 * eps_hat / std) / 2


@right("sde.ode_velocity", "by the noise")
def by_the_noise(x, eps_hat, f, g2, std):
    return f * x + 0.5 * g2 * eps_hat / std
