"""Chapter 2's exercises: other right answers pass, and what the library says is what the references say."""

import pytest
import torch

from course_lib.ddim import DDIM
from course_lib.ddpm import DDPM
from course_lib.exercise import find, grade, of_chapter
from course_lib.learned_variance import Learned
from course_lib.optimal_variance import Analytic
from course_lib.schedules import ddpm_table
from course_lib.solutions import optimal_variance as ov

SPECS = {spec.name: spec for spec in of_chapter("optimal_variance")}


A = ddpm_table(100)


def test_references_agree_with_the_library():
    t, s = torch.tensor([100, 60, 7]), torch.tensor([40, 59, 0])
    x0, x = torch.randn(2, 3, 1, dtype=torch.float64)
    for eta in (0.0, 0.4, 1.0):
        process = DDIM(A, (1,), "x0", eta=eta)
        mean, _ = process.posterior(x0, x, t, s)
        at = (A[s][:, None], A[t][:, None], torch.tensor(eta, dtype=torch.float64))
        torch.testing.assert_close(ov.ddim_step(x0, x, *at, 0 * x), mean, rtol=1e-6, atol=1e-7)
        c = torch.linspace(0, 1, 101, dtype=torch.float64)
        want = Analytic(A, (1,), eta=eta, conditional_variance=c).transition(t, s.clamp(min=1)).p_var
        s_ = s.clamp(min=1)
        l2 = eta**2 * ov.small(A[s_], A[t])
        torch.testing.assert_close(ov.best_variance(l2, c[t], A[s_], A[t]), want, rtol=1e-6, atol=1e-9)
    assert ov.pairs(100, 10) == [(t, t - 10) for t in range(100, 0, -10)]
    v = torch.tensor([[-0.3], [0.2]], dtype=torch.float64)
    process, t, s = Learned(A, (1,)), torch.tensor([50, 9]), torch.tensor([20, 8])
    small, beta = ov.small(A[s], A[t]), 1 - A[t] / A[s]
    step = process.transition(t, s)
    want = process.best_variance(torch.cat([v, v], 1), v, t, s, step)[:, 0]
    torch.testing.assert_close(ov.learned_variance(v[:, 0], beta, small), want, rtol=1e-6, atol=1e-9)
    for T, K in ((1000, 10), (100, 100), (9, 8)):
        a = ddpm_table(T) if T > 20 else torch.linspace(1, 0.1, T + 1)
        DDIM(a, (1,)).check_times(torch.tensor(ov.grid(T, K)))


def posterior_ddim(x0_hat, x_t, abar_s, abar_t, eta, z):
    k = ((1 - abar_s - eta**2 * ov.small(abar_s, abar_t)).clamp(min=0) / (1 - abar_t)).sqrt()
    return (abar_s.sqrt() - k * abar_t.sqrt()) * x0_hat + k * x_t + eta * ov.small(abar_s, abar_t).sqrt() * z


def while_pairs(T, gap):
    out = []
    while T > 0:
        out.append([T, max(T - gap, 0)])
        T -= gap
    return out


def moments_best(lambda2, spread, abar_s, abar_t):
    k = ((1 - abar_s - lambda2) / (1 - abar_t)).sqrt()
    one, zero = (abar_s.sqrt() * x - k * abar_t.sqrt() * x for x in (1.0, 0.0))  # the mean at x_0 = 1 and 0
    return lambda2 + spread * (one - zero) ** 2


def loop_spread(eps2, abar, data_var):
    return torch.stack(
        [min(max((1 - a) / a * (1 - e), 0 * a), data_var[0]) for e, a in zip(eps2, abar, strict=True)]
    )


def power_variance(v, beta, beta_tilde):
    return beta ** ((1 + v) / 2) * beta_tilde ** ((1 - v) / 2)


def cubic_grid(T, steps):
    times = {0, T}
    for k in range(steps + 1):
        times.add(round(T * (k / steps) ** 3))
    free = (t for t in range(1, T) if t not in times)
    while len(times) < steps + 1:
        times.add(next(free))
    return torch.tensor(sorted(times, reverse=True))


OTHER = {
    "optimal_variance.ddim_step": posterior_ddim, "optimal_variance.pairs": while_pairs,
    "optimal_variance.best_variance": moments_best, "optimal_variance.spread_from_eps": loop_spread,
    "optimal_variance.learned_variance": power_variance, "optimal_variance.grid": cubic_grid,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_other_right_answers_pass(name):
    assert grade(SPECS[name], OTHER[name]) == ("PASS", "")


@pytest.mark.parametrize("name, answer, hint", [
    ("optimal_variance.pairs", lambda T, gap: [(T, 0)], "gap is not used"),
    ("optimal_variance.pairs", lambda T, gap: [], "starts at nowhere, and pure noise is at T = 20"),
    ("optimal_variance.grid", lambda T, K: [T + 1, *ov.grid(T, K)[1:]], "1001, and it must be 1000"),
    ("optimal_variance.best_variance", lambda l2, c, s, t: l2, "the right one for 0 in the place of spread"),
    ("optimal_variance.learned_variance", lambda v, b, bt: 2 * b, "There yours gives [0.6, 0.4], and it is [0.3, 0.2]"),
    ("optimal_variance.ddim_step", lambda x0, x, s, t, eta, z: x0, "x_t has no part in your answer"),
    ("optimal_variance.spread_from_eps", lambda e, a, v: e[:1], "the shape is (1,), expected (2,)"),
])  # fmt: skip
def test_unknown_mistakes_get_a_plain_description(name, answer, hint):
    state, text = grade(find(name), answer)
    assert state == "FAIL" and hint in text


def test_small_is_ddpm_s():
    t, s = torch.tensor([100, 3]), torch.tensor([50, 2])
    _, var = DDPM(A, (1,)).posterior(torch.zeros(2, 1), torch.zeros(2, 1), t, s)
    torch.testing.assert_close(ov.small(A[s], A[t]), var)
