"""Guidance for tokens: where the tilted distribution is reached, and where not."""

import itertools

import pytest
import torch
from torch import tensor
from worlds import masked

from course_lib import joint as J
from course_lib import schedules as S
from course_lib.evaluate import exact_law
from course_lib.stationary import Uniform
from course_lib.token_guidance import Guided, guided, log_ratios, neighbours, total_rate


def classifier(p, pc):
    """log p(c | x) of any state with masks, from p(c | x_0): exact."""
    V = p.shape[0]

    def log_p(x):
        out = []
        for row in x.tolist():
            index = tuple(slice(None) if a == V else a for a in row)
            out.append(((p[index] * pc[index]).sum() / p[index].sum()).log())
        return torch.stack(out)

    return log_p


def world(L, seed=0, V=3):
    p, process, net = masked(V, L, 0.5, seed)
    pc = torch.rand(p.shape, generator=torch.Generator().manual_seed(seed)).double() * 0.96 + 0.02
    return p, pc, process, net


def tilted(p, pc, gamma):
    q = p * pc**gamma
    return q / q.sum()


def off(L, gamma, seed=0):
    p, pc, process, net = world(L, seed)
    return J.total_variation(tilted(p, pc, gamma), exact_law(Guided(process, classifier(p, pc), gamma), net))


@pytest.mark.parametrize("L", [1, 2, 3])
def test_gamma_1_is_bayes_rule(L):
    assert max(off(L, 1.0, seed) for seed in range(2)) < 1e-12


@pytest.mark.parametrize("gamma", [0.0, 2.0, 4.0])
def test_one_masked_position_is_exact_for_every_gamma(gamma):
    assert max(off(1, gamma, seed) for seed in range(3)) < 1e-12


def test_two_positions_miss_the_tilted_distribution():
    for gamma in (2.0, 4.0):
        assert max(off(2, gamma, seed) for seed in range(3)) > 0.005
    assert off(2, 0.0) < 1e-12  # no guidance at all


def test_under_uniform_noise_one_position_misses_it_too():
    """One token, p_t = alpha p + (1 - alpha) / K: the guided reverse chain, integrated from the prior to the data."""
    p = tensor([0.5, 0.3, 0.15, 0.05]).double()
    pc = tensor([0.1, 0.7, 0.4, 0.9]).double()
    noise = Uniform(4, S.Schedule("sigma = u", lambda u: -u))
    R = noise.rates(torch.arange(4)[:, None])[:, 0]  # column x: how fast each other state becomes x

    def end(gamma, sigma=8.0, steps=1200):
        law, h = torch.full((4,), 0.25).double(), sigma / steps
        for n in range(steps):
            a = torch.exp(tensor(-(sigma - (n + 0.5) * h)).double())
            Q = a * torch.eye(4).double() + (1 - a) / 4
            p_t, joint = p @ Q, (p * pc) @ Q
            log_pc = (joint / p_t).log()
            rates = guided(p_t[None] / p_t[:, None] * R, log_pc[None] - log_pc[:, None], gamma)
            law = law + h * (law @ (rates - rates.sum(1).diag()))
        return law

    for gamma, low in ((1.0, 0.0), (2.0, 0.003), (4.0, 0.01)):
        q = p * pc**gamma
        tv = (end(gamma) - q / q.sum()).abs().sum().item() / 2
        assert tv >= low if gamma > 1 else tv < 2e-3


def test_guidance_changes_how_fast_masks_open():
    """One position: sum of p(y) ratio^gamma is 1 at gamma = 1 and above 1 beyond (Jensen)."""
    p, pc, process, net = world(1)
    speed = [
        total_rate(Guided(process, classifier(p, pc), g).rates(net, tensor([[3]]))).item()
        for g in (1.0, 2.0, 3.0)
    ]
    assert speed[0] == pytest.approx(1) and 1 < speed[1] < speed[2]


def test_neighbours_and_their_ratios():
    x = tensor([[0, 2], [1, 1]])
    near = neighbours(x, 3)
    assert near.shape == (2, 2, 3, 2)
    assert near[0, 0].tolist() == [[0, 2], [1, 2], [2, 2]] and near[1, 1].tolist() == [[1, 0], [1, 1], [1, 2]]
    said = log_ratios(lambda z: z[:, 0].double() + 10 * z[:, 1].double(), x, 3)
    assert said[0].tolist() == [[0, 1, 2], [-20, -10, 0]]


def test_a_rate_of_0_stays_0():
    rates = tensor([0.0, 2.0]).double()
    log_ratio = tensor([float("inf"), 1.0]).double()
    torch.testing.assert_close(guided(rates, log_ratio, 2.0), tensor([0.0, 2 * torch.e**2]).double())


def test_bad_input_is_named(unchecked):
    _, _, process, net = world(2)
    with pytest.raises(ValueError, match=r"classifier must return one log p\(c \| x\) per state"):
        Guided(process, lambda x: torch.zeros(3, 3), 1.0).sample(net, 2)


def test_states_are_all_reached():
    """Every sequence of the data is written with some probability."""
    p, pc, process, net = world(2)
    q = exact_law(Guided(process, classifier(p, pc), 2.0), net)
    assert all(q[x] > 0 for x in itertools.product(range(3), repeat=2))
