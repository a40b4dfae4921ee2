"""Samplers beside systems: what the network is asked, and the exact distribution of what any of them writes."""

import pytest
import torch
from torch import tensor
from worlds import masked

from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.d3pm import D3PM
from course_lib.decoding import Unmask, left_to_right
from course_lib.evaluate import exact_law
from course_lib.first_hitting import first_hitting
from course_lib.joint import random_joint, total_variation
from course_lib.mdlm import MDLM
from course_lib.nets import TokenNet
from course_lib.oracle import MarkovOracle, TableOracle
from course_lib.ordered import Ordered
from course_lib.process import last
from course_lib.samplers import MaskedSampler, Sampler, conditionals, time_of
from course_lib.sedd import SEDD
from course_lib.stationary import Uniform


class LeftToRight(MaskedSampler):
    """The one of the documentation."""

    def rounds(self):
        return range(self.length)

    def step(self, model, x, i, draw):
        p = self.conditionals(model, x)
        x = x.clone()
        x[:, i] = draw(p[:, i])
        return x


def test_a_sampler_of_your_own_is_judged_exactly():
    p, process, net = masked()
    assert total_variation(exact_law(LeftToRight(process), net), p) < 1e-15
    assert (LeftToRight(process).sample(net, 5) < 3).all()


def test_exact_law_agrees_with_draws():
    """20,000 draws of a sampler that is not exact, against the distribution that was added up."""
    p, process, net = masked()
    sampler = Unmask(process, steps=2)
    law = exact_law(sampler, net)
    x = sampler.sample(net, 20000)
    seen = torch.zeros_like(law).index_put(tuple(x.T), tensor(1.0).double() / len(x), accumulate=True)
    assert total_variation(law, p) > 0.05
    assert ((seen - law).abs() < 5 * (law * (1 - law) / len(x)).sqrt() + 1e-12).all()


def test_exact_law_of_a_chain_from_given_states():
    """A sampler of no use: with probability p a token goes up by one."""

    class Up(Sampler):
        def rounds(self):
            return range(2)

        def step(self, model, x, now, draw):
            up = draw(tensor([0.7, 0.3]).double().expand(*x.shape, 2))
            return (x + up) % 3

    start = tensor([1.0, 0, 0]).double()
    law = exact_law(Up(), lambda x, u: x, start)
    torch.testing.assert_close(law, tensor([0.49, 0.42, 0.09]).double())


def test_the_conditionals_are_bayes_rule():
    p, process, net = masked()
    x = tensor([[1, 3, 3], [3, 0, 2], [2, 1, 0]])
    c = conditionals(process, net, x)
    torch.testing.assert_close(c[0, 1], p[1].sum(1) / p[1].sum())
    torch.testing.assert_close(c[0, 2], p[1].sum(0) / p[1].sum())
    torch.testing.assert_close(c[1, 0], p[:, 0, 2] / p[:, 0, 2].sum())
    assert c[0, 0].tolist() == [0, 1, 0] and c[2].argmax(-1).tolist() == [2, 1, 0]
    where = tensor([[False, True, False], [True, False, False], [False, False, True]])
    torch.testing.assert_close(conditionals(process, net, x, where), c[where])


def test_the_network_is_told_the_time_of_so_many_masks():
    x = tensor([[3, 3, 3, 3], [0, 3, 3, 3], [0, 1, 2, 3]])
    share = tensor([1.0, 0.75, 0.25])
    line = MDLM(Absorbing(3, S.log_linear(0.0)), 4)
    torch.testing.assert_close(time_of(line, x), share)
    curved = MDLM(Absorbing(3, S.cosine()), 4)
    torch.testing.assert_close(curved.noise.schedule.noise(time_of(curved, x).double()).float(), share)
    assert time_of(Ordered(3, 4), x).tolist() == [4, 3, 1]
    table = D3PM(Absorbing(3, S.table(S.log_linear(0.0), 8, max_beta=1.0)), 4)
    assert time_of(table, x).tolist() == [8, 6, 2]


def test_every_masked_system_can_be_asked():
    clock = S.log_linear(1e-3)
    p = random_joint(3, 3, 0.5, 0)
    for process in (
        MDLM(Absorbing(3, clock), 3),
        SEDD(Absorbing(3, clock), 3, mass="known"),
        D3PM(Absorbing(3, S.table(S.log_linear(0.0), 9, max_beta=1.0)), 3),
        Ordered(3, 3),
    ):
        law = exact_law(Unmask(process, left_to_right), TableOracle(process, p))
        assert total_variation(law, p) < 1e-6


def test_the_table_oracle_is_the_markov_oracle():
    from course_lib.data import MarkovLanguage

    language = MarkovLanguage(K=3, length=3, seed=2)
    x = torch.cartesian_prod(*[torch.arange(3)] * 3)
    p = language.log_prob(x).exp().reshape(3, 3, 3)
    for noise in (Uniform(3, S.log_linear()), Absorbing(3, S.log_linear())):
        process = SEDD(noise, 3)
        x_t = noise.corrupt(x, torch.zeros(27), torch.full((27,), 0.6))
        u = torch.full((27,), 0.6)
        ours, known = TableOracle(process, p)(x_t, u), MarkovOracle(process, language)(x_t, u)
        torch.testing.assert_close(ours, known)


def test_prompts_stay_and_the_rest_follows_them():
    p, process, net = masked()
    start = torch.zeros(4, 4, 4).double()
    start[1, 3, 3] = 1
    law = exact_law(Unmask(process), net, start, states=3)
    want = torch.zeros_like(p)
    want[1] = p[1] / p[1].sum()
    assert total_variation(law, want) < 1e-15
    prompt = tensor([[1, 3, 3]]).expand(6, -1)
    assert (Unmask(process).sample(net, prompt)[:, 0] == 1).all()


def test_states_shows_all_and_training_mode_comes_back():
    process = MDLM(Absorbing(3, S.log_linear()), 3)
    net = TokenNet(4, 3, 16, 2, 1).train()
    states = list(Unmask(process).states(net, 2))
    assert len(states) == 4 and (states[0] == 3).all() and (states[-1] < 3).all()
    assert net.training


def test_first_hitting_and_random_order_have_one_distribution():
    p, process, net = masked()
    x = last(first_hitting(process, net, 20000))[1]
    seen = torch.zeros_like(p).index_put(tuple(x.T), tensor(1.0).double() / len(x), accumulate=True)
    law = exact_law(Unmask(process), net)
    assert ((seen - law).abs() < 5 * (law * (1 - law) / len(x)).sqrt() + 1e-12).all()


class Stops(LeftToRight):
    """Leaves the last mask."""

    def rounds(self):
        return range(self.length - 1)


class Wild(LeftToRight):
    """Draws from what is no distribution."""

    def step(self, model, x, i, draw):
        return draw(torch.full((*x.shape, 3), float("nan")))


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda p, net: exact_law(Stops(p), net), ValueError, "must leave no MASK, but 1 of its"),
        (lambda p, net: exact_law(Wild(p), net), FloatingPointError, "each distribution to draw from"),
        (lambda p, net: LeftToRight(p).sample(net, 0), ValueError, "start must be at least 1"),
        (lambda p, net: LeftToRight(net), ValueError, "process must have absorbing noise, not TableOracle"),
        (
            lambda p, net: Unmask(SEDD(Uniform(3, S.log_linear()), 3)),
            ValueError,
            "process must have absorbing noise, not Uniform",
        ),
        (lambda p, net: Unmask(p, steps=4), ValueError, "steps must be at most 3, not 4"),
        (lambda p, net: LeftToRight(p).sample(net, tensor([[0, 4, 1]])), ValueError, "x must lie in 0..3"),
        (lambda p, net: TableOracle(p, torch.ones(2, 2)), ValueError, "p must have shape (3, 3, 3)"),
    ],
)
def test_bad_input_is_named(unchecked, call, error, words):
    _, process, net = masked()
    with pytest.raises(error) as caught:
        call(process, net)
    assert words in str(caught.value)


def test_a_world_that_is_too_large_is_refused():
    process = MDLM(Absorbing(9, S.log_linear(0.0)), 7)
    with pytest.raises(ValueError, match="make the world smaller"):
        exact_law(Unmask(process, steps=1), TokenNet(10, 9, 16, 2, 1))


def test_random_starts_must_be_given():
    from course_lib.correctors import Corrector

    process = SEDD(Uniform(3, S.log_linear()), 2)
    with pytest.raises(ValueError, match="start must be given"):
        exact_law(Corrector(process, 0.5), TokenNet(3, 3, 16, 2, 1))
