"""Bounds and chains written out: every system against the entropy, the samplers and each other."""

import math

import pytest
import torch
from torch import tensor

from course_lib import enumerated as E
from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.d3pm import D3PM
from course_lib.evaluate import bound, exact_law
from course_lib.joint import entropy, kl, marginal, random_joint, total_correlation, total_variation
from course_lib.mdlm import MDLM
from course_lib.oracle import TableOracle
from course_lib.process import last, sample
from course_lib.remasking import ReMDM, share
from course_lib.sedd import SEDD
from course_lib.stationary import Uniform
from tests.helpers import close

V, L = 3, 2
P = random_joint(V, L, 0.4, 1)
H = entropy(P)
line = lambda T: S.table(S.log_linear(0.0), T, max_beta=1.0)  # noqa: E731

SYSTEMS = {
    "MDLM": lambda: MDLM(Absorbing(V, S.log_linear(0.0)), L),
    "MDLM, noise at once": lambda: MDLM(Absorbing(V, S.geometric(0.02, 12.0)), L),
    "SEDD, masks": lambda: SEDD(Absorbing(V, S.log_linear(1e-6)), L),
    "SEDD, masks, mass known": lambda: SEDD(Absorbing(V, S.log_linear(1e-6)), L, mass="known"),
    "SEDD, letters": lambda: SEDD(Uniform(V, S.geometric(1e-5, 12.0)), L),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_in_continuous_time_the_bound_of_a_perfect_network_is_the_entropy(name):
    process = SYSTEMS[name]()
    value = E.expected_bound(process, TableOracle(process, P), P, 120)
    assert value == pytest.approx(H, abs=2e-4)


def test_masks_in_steps_cost_the_mutual_information_over_T():
    """T6 of two tokens: E[bound] - H = I(x_1; x_2) / T on a line of alpha."""
    I = total_correlation(P, [0, 1])
    for T in (1, 2, 5, 16):
        process = D3PM(Absorbing(V, line(T)), L)
        gap = E.expected_bound(process, TableOracle(process, P), P) - H
        assert gap == pytest.approx(I / T, abs=1e-10)


def test_it_is_what_evaluate_draws():
    x0 = torch.multinomial(P.flatten(), 4000, replacement=True)
    x0 = torch.stack([x0 // V, x0 % V], 1)
    for process in (D3PM(Uniform(V, S.table(S.cosine(), 6)), L), SYSTEMS["MDLM, noise at once"]()):
        net = lambda x, u: torch.zeros(*x.shape, V)  # noqa: E731  the same for all: log V each
        exact = E.expected_bound(process, net, P)
        drawn = bound(process, net, x0, 4)
        assert abs(drawn.mean - exact) < 4.5 * drawn.se
    assert E.expected_bound(D3PM(Absorbing(V, line(4)), L), net, P) == pytest.approx(L * math.log(V))


def test_a_worse_network_has_a_larger_bound_by_its_divergence():
    """MDLM: the bound of another distribution's perfect network, for one token, is the cross-entropy."""
    p, q = (random_joint(4, 1, 1.0, k) for k in (0, 1))
    process = MDLM(Absorbing(4, S.log_linear(0.0)), 1)
    value = E.expected_bound(process, TableOracle(process, q), p)
    assert value == pytest.approx(entropy(p) + kl(p, q), abs=1e-9)


def test_what_the_prior_gets_wrong_is_part_of_the_bound():
    """One token, perfect network: H(p) + KL(p_T || prior), where the noise ends before all is forgotten."""
    p, uniform = random_joint(4, 1, 1.0, 0), torch.full((4,), 0.25).double()
    for alpha in (0.3, 0.6):
        process = D3PM(Uniform(4, tensor([1.0, 0.8, alpha]).double()), 1)
        value = E.expected_bound(process, TableOracle(process, p), p)
        at_the_end = alpha * p + (1 - alpha) * uniform
        assert kl(at_the_end, uniform) > 0.005
        assert value == pytest.approx(entropy(p) + kl(at_the_end, uniform), abs=1e-7)


CHAINS = {
    "D3PM, letters": lambda: D3PM(Uniform(V, line(6)), L),
    "D3PM, masks": lambda: D3PM(Absorbing(V, line(6)), L),
    "MDLM": SYSTEMS["MDLM"],
    "SEDD, letters": SYSTEMS["SEDD, letters"],
    "SEDD, letters, Euler": lambda: SEDD(Uniform(V, S.geometric(1e-2, 6.0)), L, sampler="euler"),
    "SEDD, masks": lambda: SEDD(Absorbing(V, S.log_linear(1e-3)), L),
    "SEDD, masks, mass known": lambda: SEDD(Absorbing(V, S.log_linear(1e-3)), L, mass="known"),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_chain_is_what_sample_draws(name, steps):
    process, n = CHAINS[name](), 12000
    net = TableOracle(process, P)
    law = E.chain(process, net, steps)
    assert law.shape == P.shape and law.sum().item() == pytest.approx(1, abs=1e-9)
    x = last(sample(process, net, n, steps))[1]
    seen = torch.bincount(x[:, 0] * V + x[:, 1], minlength=V * V).double() / n
    assert total_variation(law, (seen / seen.sum()).reshape(V, V)) < 0.018


def test_masks_step_by_step():
    """After N even steps p_N = (1 - 1/N) p + (1/N) p_1 p_2; one step is the product of the marginals."""
    product = marginal(P, [0])[:, None] * marginal(P, [1])
    process = SYSTEMS["MDLM"]()
    net = TableOracle(process, P)
    for N in (1, 2, 7):
        close(E.chain(process, net, N), (1 - 1 / N) * P + product / N)
    times = tensor([1.0, 0.9, 0.3, 0.0], dtype=torch.float64)
    share_at_once = 0.1**2 + 0.6**2 + 0.3**2
    close(E.chain(process, net, times), (1 - share_at_once) * P + share_at_once * product)
    close(E.chain(process, net, 3), exact_law(ReMDM(process, 3, share(0.0)), net))


def test_the_three_readings_of_masks_write_the_same():
    d3pm, mdlm = D3PM(Absorbing(V, line(4)), L), SYSTEMS["MDLM"]()
    close(E.chain(d3pm, TableOracle(d3pm, P), 4), E.chain(mdlm, TableOracle(mdlm, P), 4))


def test_letters_get_better_with_steps_and_one_token_is_exact():
    process = SYSTEMS["SEDD, letters"]()
    net = TableOracle(process, P)
    off = [total_variation(P, E.chain(process, net, N)) for N in (4, 16, 64)]
    assert off[0] > off[1] > off[2] and off[2] < 0.03
    p = random_joint(4, 1, 1.0, 0)
    one = D3PM(Uniform(4, line(5)), 1)
    for N in (1, 2, 5):
        close(E.chain(one, TableOracle(one, p), N), p)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: E.states(10, 9), ValueError, "length must leave at most 65536 states, not 10^9"),
        (
            lambda: E.expected_bound(SYSTEMS["MDLM"](), torch.sin, random_joint(3, 3, 1.0, 0)),
            ValueError,
            "p must have shape (3, 3), not (3, 3, 3)",
        ),
        (
            lambda: E.expected_bound(SYSTEMS["MDLM"](), torch.sin, P * 2),
            ValueError,
            "p must not be negative and must sum",
        ),
        (
            lambda: E.expected_bound(SYSTEMS["MDLM"](), torch.sin, P, 0),
            ValueError,
            "nodes must be at least 1",
        ),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


def test_states_count_up():
    assert E.states(2, 3).tolist() == [[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    assert E.states(3, 1).tolist() == [[0], [1], [2]]
