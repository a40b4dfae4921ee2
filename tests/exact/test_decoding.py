"""Decoding of masked models: which rules keep the model's distribution, and what opening several at once loses."""

import math
from functools import partial

import pytest
import torch
from torch import tensor
from worlds import masked

from course_lib import decoding as D
from course_lib import joint as J
from course_lib.categorical import draw
from course_lib.evaluate import exact_law
from course_lib.oracle import TableOracle

ORDERS = (
    D.left_to_right,
    D.random_order,
    D.lowest_entropy,
    D.highest_probability,
    D.largest_margin,
    D.entropy_bounded(0.0),
)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", range(4))
def test_choosing_the_position_keeps_the_distribution(order, seed):
    p, process, net = masked(seed=seed)
    assert J.total_variation(exact_law(D.Unmask(process, order), net), p) < 1e-15


@pytest.mark.parametrize("seed", range(4))
def test_choosing_by_the_sampled_token_does_not(seed):
    """It sharpens: far from the data, and of lower entropy."""
    p, process, net = masked(seed=seed)
    q = exact_law(D.SampledConfidence(process), net)
    assert J.total_variation(p, q) > 0.1
    assert J.entropy(q) < J.entropy(p) - 0.2


def test_by_the_sampled_token_in_closed_form():
    """Two independent coins, P(1) = a > b = P(1): the first kept token is a 1 more often than either coin says."""
    a, b = 0.9, 0.6
    p = tensor([[0.1 * 0.4, 0.1 * 0.6], [0.9 * 0.4, 0.9 * 0.6]]).double()
    _, process, _ = masked(2, 2)

    q = exact_law(D.SampledConfidence(process), TableOracle(process, p))
    # Drawn (1, .): the first stays. Drawn (0, .): the second stays, and the first is drawn anew.
    want = {(1, y): a * [1 - b, b][y] + (1 - a) * [1 - b, b][y] * a for y in (0, 1)}
    assert q[1, 0].item() == pytest.approx(want[1, 0]) and q[1, 1].item() == pytest.approx(want[1, 1])
    assert q[1].sum().item() == pytest.approx(a + (1 - a) * a)


def test_at_temperature_0_the_two_kinds_of_confidence_are_one():
    _, process, net = masked()
    cold = partial(D.temper, temperature=0.0)
    one = exact_law(D.SampledConfidence(process, change=cold), net)
    other = exact_law(D.Unmask(process, D.highest_probability, change=cold), net)
    torch.testing.assert_close(one, other)
    assert J.entropy(one) == 0


@pytest.mark.parametrize("seed", range(3))
def test_what_parallel_steps_lose_is_total_correlation(seed):
    """KL(p || sampler) = sum over steps of TC(opened | visible), for a fixed order."""
    p, process, net = masked(seed=seed)
    groups = {1: [[0, 1, 2]], 2: [[0, 1], [2]], 3: [[0], [1], [2]]}
    for steps, opened in groups.items():
        q = exact_law(D.Unmask(process, D.left_to_right, steps), net)
        seen, lost = [], 0.0
        for group in opened:
            lost += J.total_correlation(p, group, seen)
            seen = seen + group
        assert J.kl(p, q) == pytest.approx(lost, abs=1e-12)


class Certified(D.Unmask):
    """Entropy-bounded unmasking that writes down what each step may lose at most."""

    def __init__(self, process, gamma):
        super().__init__(process, D.entropy_bounded(gamma))
        self.costs = []

    def step(self, model, x, now, draw):
        p, masks = self.conditionals(model, x), x == self.mask
        opens = self.order(p, masks, now, draw)
        H = D.entropies(p) * opens
        self.costs.append((H.sum(1) - H.amax(1)).max().item())
        return super().step(model, x, now, draw)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.8, 1.2, 9.0])
@pytest.mark.parametrize("seed", range(3))
def test_entropy_bounded_keeps_its_certificate(gamma, seed):
    """No step may lose more than gamma, and the whole no more than the sum over its steps."""
    p, process, net = masked(seed=seed)
    sampler = Certified(process, gamma)
    q = exact_law(sampler, net)
    assert max(sampler.costs) <= gamma + 1e-12
    assert J.kl(p, q) <= gamma * process.length + 1e-12
    if gamma == 0:
        assert J.total_variation(p, q) < 1e-15
    if gamma == 9:  # all at once
        everything = exact_law(D.Unmask(process, steps=1), net)
        torch.testing.assert_close(q, everything)


def test_entropy_bounded_opens_the_most_it_may():
    """Entropies .1, .2, .5, .6: sum - max is 0, .1, .3, .8 for the first one, two, three, four."""
    H = tensor([0.5, 0.1, 0.6, 0.2])
    p = torch.stack([coin(h) for h in H])[None]
    masks = torch.ones(1, 4, dtype=torch.bool)
    for gamma, want in (
        (0.05, [1]),
        (0.1001, [1, 3]),
        (0.29, [1, 3]),
        (0.31, [0, 1, 3]),
        (0.81, [0, 1, 2, 3]),
    ):
        opens = D.entropy_bounded(gamma)(p, masks, 1, draw)
        assert opens[0].nonzero().flatten().tolist() == want
    hidden = tensor([[True, False, True, True]])
    assert D.entropy_bounded(0.3)(p, hidden, 1, draw)[0].nonzero().flatten().tolist() == [0, 3]


def coin(h):
    """A coin of entropy h, by bisection."""
    low, high = 0.0, 0.5
    for _ in range(60):
        a = (low + high) / 2
        entropy = -a * math.log(a) - (1 - a) * math.log(1 - a)
        low, high = (a, high) if entropy < h else (low, a)
    return tensor([a, 1 - a]).double()


def test_orders_choose_what_they_say():
    p = tensor([[[0.5, 0.5, 0.0], [0.6, 0.2, 0.2], [0.62, 0.37, 0.01], [1.0, 0, 0]]]).double()
    masks = tensor([[True, True, True, False]])

    def first(order):
        return order(p, masks, 1, draw)[0].nonzero().item()

    assert first(D.left_to_right) == 0
    assert first(D.lowest_entropy) == 0
    assert first(D.highest_probability) == 2
    assert first(D.largest_margin) == 1
    assert D.largest_margin(p, masks, 2, draw)[0].tolist() == [False, True, True, False]
    assert D.left_to_right(p, masks, 9, draw)[0].tolist() == [True, True, True, False]


def test_random_order_takes_every_set_alike():
    masks = tensor([[True, True, False, True, True]]).expand(60000, -1)
    p = torch.full((*masks.shape, 2), 0.5)

    opens = D.random_order(p, masks, 2, draw)
    assert (opens.sum(1) == 2).all() and not opens[:, 2].any()
    pairs = opens[:, [0, 1, 3, 4]].double() @ tensor([8.0, 4, 2, 1]).double()
    counts = torch.bincount(pairs.long(), minlength=16)
    counts = counts[counts > 0]
    assert len(counts) == 6 and ((counts - 10000).abs() < 5 * 10000**0.5).all()


def test_steps_are_as_equal_as_they_can_be():
    _, process, _ = masked(L=5)
    assert [D.Unmask(process, steps=n).rounds() for n in (1, 2, 3, 5)] == [[5], [3, 2], [2, 2, 1], [1] * 5]


def test_temperature_and_nucleus():
    p = tensor([0.5, 0.3, 0.15, 0.05]).double()
    torch.testing.assert_close(D.temper(p, 1.0), p)
    torch.testing.assert_close(D.temper(p, 0.5), p**2 / (p**2).sum())
    assert D.temper(p, 0.0).tolist() == [1, 0, 0, 0]
    torch.testing.assert_close(D.nucleus(p, 1.0), p)
    torch.testing.assert_close(D.nucleus(p, 0.79), tensor([5, 3, 0, 0]).double() / 8)
    torch.testing.assert_close(D.nucleus(p.flip(0), 0.81), tensor([0, 15, 30, 50]).double() / 95)
    assert D.nucleus(p, 0.01).tolist() == [1, 0, 0, 0]


def test_temperature_sharpens_what_is_written():
    p, process, net = masked()
    H = [
        J.entropy(exact_law(D.Unmask(process, change=partial(D.temper, temperature=t)), net))
        for t in (1.0, 0.7, 0.4)
    ]
    assert H[0] == pytest.approx(J.entropy(p)) and H[0] > H[1] > H[2]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: D.entropy_bounded(-1.0), "gamma must not be negative, not -1"),
        (lambda: D.temper(tensor([0.5, 0.5]), -1.0), "temperature must not be negative"),
        (lambda: D.nucleus(tensor([0.5, 0.5]), 0.0), "mass must lie in (0, 1], not 0"),
    ],
)
def test_bad_input_is_named(unchecked, call, words):
    with pytest.raises(ValueError) as caught:
        call()
    assert words in str(caught.value)
