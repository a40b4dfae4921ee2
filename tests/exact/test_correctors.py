"""Correctors: which choice of the position keeps p_t, and the factor that makes every choice keep it."""

import itertools

import pytest
import torch
from torch import tensor

from course_lib import correctors as C
from course_lib import joint as J
from course_lib import schedules as S
from course_lib.d3pm import D3PM
from course_lib.evaluate import exact_law
from course_lib.oracle import TableOracle
from course_lib.sedd import SEDD
from course_lib.stationary import Uniform

MEASURES = (C.margin, C.current, C.likeliest)
LOOKING = [C.lowest(m) for m in MEASURES] + [C.softly(m) for m in MEASURES]


def world(V=3, L=2, t=0.25, seed=0):
    """p_t under uniform noise, SEDD with a perfect network, and the time."""
    p = J.random_joint(V, L, 0.5, seed)
    process = SEDD(Uniform(V, S.log_linear()), L)
    Q = process.noise.matrix(torch.zeros(1), tensor([t]))[0]
    p_t = p
    for _ in range(L):
        p_t = torch.tensordot(p_t, Q, ([0], [0]))
    return p_t, process, TableOracle(process, p), t


def moved(choice, repair=False, steps=1, seed=0):
    """How far p_t is from itself after the corrector."""
    p_t, process, net, t = world(seed=seed)
    corrector = C.Corrector(process, t, choice, repair, steps)
    return J.total_variation(p_t, exact_law(corrector, net, p_t))


def test_a_random_position_keeps_p_t():
    for seed in range(3):
        assert moved(C.anywhere, seed=seed) < 1e-6
        assert moved(None, steps=3, seed=seed) < 1e-6


def test_a_choice_may_look_at_what_it_does_not_redraw():
    """The first or the second token, by what stands third: w_i(y) = w_i(x), and p_t stays without any repair."""
    p_t, process, net, t = world(2, 3)

    def by_the_third(c, x):
        first = (x[:, 2] == 0).to(c)
        return torch.stack([first, 1 - first, torch.zeros_like(first)], 1)

    assert J.total_variation(p_t, exact_law(C.Corrector(process, t, by_the_third, steps=2), net, p_t)) < 1e-6


class BothAtOnce(C.Corrector):
    """Every position is drawn again in one step, each from its distribution given the old others."""

    def step(self, model, x, now, draw):
        return draw(C.token_given_others(self.process, model, x, self.t))


def test_two_positions_at_once_do_not_keep_it_even_blindly():
    """Gibbs changes one at a time; drawn from the old values of each other, two forget what they know of each other."""
    for seed in range(3):
        p_t, process, net, t = world(seed=seed)
        assert J.total_variation(p_t, exact_law(BothAtOnce(process, t), net, p_t)) > 0.01


@pytest.mark.parametrize("choice", LOOKING)
def test_a_position_chosen_by_looking_does_not(choice):
    off = [moved(choice, seed=seed) for seed in range(3)]
    assert max(off) > 0.005
    assert max(moved(choice, steps=20, seed=seed) for seed in range(3)) > max(off)


@pytest.mark.parametrize("choice", LOOKING)
def test_the_metropolis_factor_repairs_every_choice(choice):
    for seed in range(3):
        assert moved(choice, repair=True, seed=seed) < 1e-6


def test_repaired_it_still_goes_to_p_t():
    """From the prior, many steps: what keeps p_t and reaches all states ends there."""
    p_t, process, net, t = world()
    start = torch.full((3, 3), 1 / 9).double()
    choice = C.softly(C.margin)
    repaired = exact_law(C.Corrector(process, t, choice, True, 60), net, start)
    as_it_is = exact_law(C.Corrector(process, t, choice, False, 60), net, start)
    assert J.total_variation(p_t, repaired) < 1e-4 < J.total_variation(p_t, as_it_is)


def test_the_conditionals_are_those_of_p_t():
    p_t, process, net, t = world()
    x = tensor(list(itertools.product(range(3), repeat=2)))
    c = C.token_given_others(process, net, x, t)
    torch.testing.assert_close(c[:, 0], (p_t / p_t.sum(0)).T[x[:, 1]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(c[:, 1], (p_t / p_t.sum(1, keepdim=True))[x[:, 0]], rtol=1e-5, atol=1e-6)


def test_d3pm_and_sedd_ask_for_the_same():
    p = J.random_joint(3, 2, 0.5, 1)
    table = S.table(S.log_linear(), 8)
    x = tensor([[0, 1], [2, 2]])
    for predicts in ("loo", "posterior"):
        d3pm = D3PM(Uniform(3, table), 2, predicts=predicts)
        c = C.token_given_others(d3pm, TableOracle(d3pm, p), x, 3)
        at = tensor([3])
        Q = d3pm.noise.matrix(torch.zeros_like(at), at)[0]
        p_t = Q.T @ p @ Q
        torch.testing.assert_close(c[0, 0], p_t[:, 1] / p_t[:, 1].sum())
        torch.testing.assert_close(c[1, 1], p_t[2] / p_t[2].sum())


def test_measures():
    c = tensor([[[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]]]).double()
    x = tensor([[0, 1]])
    torch.testing.assert_close(C.margin(c, x).exp(), tensor([[3.5, 0.75]]).double())
    torch.testing.assert_close(C.current(c, x).exp(), tensor([[0.7, 0.3]]).double())
    torch.testing.assert_close(C.likeliest(c, x).exp(), tensor([[0.7, 0.4]]).double())
    assert C.lowest(C.margin)(c, x).tolist() == [[0, 1]]
    torch.testing.assert_close(C.softly(C.current)(c, x), tensor([[0.3, 0.7]]).double())


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda p: C.softly(C.margin, 0.0), ValueError, "temperature must be above 0"),
        (
            lambda p: C.Corrector(lambda x, u: x, 0.5),
            TypeError,
            "process must be one of tokens, not function",
        ),
        (lambda p: C.Corrector(p, 0.5, steps=0), ValueError, "steps must be at least 1"),
    ],
)
def test_bad_input_is_named(unchecked, call, error, words):
    with pytest.raises(error) as caught:
        call(world()[1])
    assert words in str(caught.value)
