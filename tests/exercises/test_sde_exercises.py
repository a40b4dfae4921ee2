"""Chapter 3's exercises: other right answers pass, and what the library says is what the references say."""

from itertools import pairwise

import pytest
import torch

from course_lib.exercise import find, grade, of_chapter
from course_lib.solutions import sde

SPECS = {spec.name: spec for spec in of_chapter("sde")}


def euler_moments(f, g2, times):
    m, V = 1.0, 0.0
    for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        t, dt = torch.tensor(t, dtype=torch.float64), s - t
        m, V = m + f(t) * m * dt, V + (2 * f(t) * V + g2(t)) * dt
    return torch.tensor([m, V])


def implicit_moments(f, g2, times):
    """Slopes at the far end of each step: of first order, too."""
    m, V = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for t, s in pairwise(times):
        m, V = m / (1 - f(s) * (s - t)), (V + g2(s) * (s - t)) / (1 - 2 * f(s) * (s - t))
    return torch.stack([m, V])


def rows_hutchinson(field, x, probe):
    jacobian = torch.autograd.functional.jacobian(lambda x: field(x).flatten(1).sum(0), x).flatten(2)
    e = probe.flatten(1)
    return torch.einsum("bi,ibj,bj->b", e, jacobian, e)


OTHER = {
    "sde.moments": euler_moments,
    "sde.reverse_step": lambda x, s, f, g2, dt, z: (1 - f * dt) * x + g2 * (dt * s) + z * g2.sqrt() * dt.sqrt(),
    "sde.heun": lambda v, x, t, s: (x + (s - t) * v(x, t) + x + (s - t) * v(x + (s - t) * v(x, t), s)) / 2,
    "sde.hutchinson": rows_hutchinson,
    "sde.log_likelihood": lambda p, d, t: p + ((d[1:] + d[:-1]) / 2 * t.diff()[:, None]).sum(0),
    "sde.dpm_step": lambda x, x0, old, a, b, c: c[1] * (x / b[1] + (c[0] / c[1] - b[0] / b[1]) * (
        x0 + (x0 - old) * torch.log(c[0] * b[1] / c[1] / b[0]) / torch.log(b[0] * a[1] / b[1] / a[0]) / 2)),
    "sde.grid": lambda n: torch.linspace(1, 0, n + 1).double() ** 1.7,
}  # fmt: skip


def test_any_method_of_first_order_solves_the_moments():
    assert grade(SPECS["sde.moments"], implicit_moments) == ("PASS", "")


@pytest.mark.parametrize("name", OTHER)
def test_other_right_answers_pass(name):
    assert grade(SPECS[name], OTHER[name]) == ("PASS", "")


@pytest.mark.parametrize("name, answer, hint", [
    ("sde.moments", lambda f, g2, times: torch.ones(3), "the shape is (3,), expected (2,)"),
    ("sde.moments", lambda f, g2, times: torch.tensor([1.0, 0.5]), "the variance stays 0. There yours gives [1, 0.5]"),
    ("sde.moments", lambda f, g2, times: torch.tensor([1.0, -0.1]), "your variance is -0.1: noise adds to it"),
    ("sde.heun", lambda v, x, t, s: x, "x moves by s - t times it. There yours"),
    ("sde.hutchinson", lambda f, x, e: torch.zeros(1), "the shape is (1,), expected (2,)"),
    ("sde.hutchinson", lambda f, x, e: sde.hutchinson(f, x, e) * (x.ndim == 2), "it gives"),
    ("sde.hutchinson", lambda f, x, e: sde.hutchinson(lambda y: (f(y) + f(y)) / 2, x, e), "calls field 2 times"),
    ("sde.moments", lambda f, g2, times: sde.moments(f, g2, 1 + times), "the mean is what f leaves of 1"),
    ("sde.grid", lambda n: sde.grid(n) + 0.3 * (torch.arange(n + 1) == 3), "rise from entry 2 to 3"),
    ("sde.grid", lambda n: sde.grid(n) / 0, "not all finite"),
    ("sde.grid", lambda n: torch.ones(3), "the shape is (3,), expected (9,)"),
    ("sde.grid", lambda n: 0.9 * sde.grid(n), "your first number is 0.9, and it must be 1"),
    ("sde.grid", lambda n: torch.linspace(1, 0, n + 1).double() ** 1.05, "but not by a factor of 2"),
])  # fmt: skip
def test_unknown_mistakes_get_a_plain_description(name, answer, hint):
    state, text = grade(find(name), answer)
    assert state == "FAIL" and hint in text


def test_the_error_of_a_grid_is_that_of_the_library():
    from course_lib.schedules import linear
    from course_lib.sde import VP
    from course_lib.solvers import Heun

    process, times = VP(linear(), (1,)), sde.grid(8)
    x = torch.ones(1, 1, dtype=torch.float64)

    def model(x, u):
        mean, std = process.marginal(u)
        return x * (std / (mean**2 * 0.09 + std**2))[:, None]

    for t, s in pairwise(times):
        x = Heun(process).step(model, x, t.expand(1), s.expand(1))
    mean, std = process.marginal(times[:1])
    want = abs(x.item() - (0.3 / (mean**2 * 0.09 + std**2).sqrt()).item())
    assert abs(sde.grid_error(times) - want) < 1e-9
