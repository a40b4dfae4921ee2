"""Joint distributions written out: entropy, distances, total correlation."""

import math

import pytest
import torch
from torch import tensor

from course_lib import joint as J

HALF = tensor([[0.5, 0.0], [0.0, 0.5]], dtype=torch.float64)  # two equal coins
FREE = torch.full((2, 2), 0.25, dtype=torch.float64)


def test_two_coins():
    assert J.entropy(HALF) == pytest.approx(math.log(2))
    assert J.total_variation(HALF, FREE) == pytest.approx(0.5)
    assert J.kl(HALF, FREE) == pytest.approx(math.log(2))
    assert J.kl(FREE, HALF) == math.inf
    assert J.total_correlation(HALF, [0, 1]) == pytest.approx(math.log(2))
    assert J.conditional_entropy(HALF, [1], [0]) == pytest.approx(0.0)
    assert J.conditional_entropy(FREE, [1], [0]) == pytest.approx(math.log(2))


def test_a_judge_that_knows_p_sees_a_cross_entropy():
    """CE(q, p) = H(q) + KL(q || p). One sequence again and again is judged better than the data: CE = -log max p."""
    for seed in range(20):
        p, q = J.random_joint(3, 3, 0.5, seed), J.random_joint(3, 3, 0.5, seed + 100)
        judged = -(q * p.log()).sum().item()
        assert judged == pytest.approx(J.entropy(q) + J.kl(q, p))
        always = torch.zeros(27).double().index_fill(0, p.flatten().argmax(), 1.0).reshape(3, 3, 3)
        assert J.entropy(always) + J.kl(always, p) == pytest.approx(-p.max().log().item())
        assert -p.max().log().item() < J.entropy(p) - 0.1


def test_total_correlation_is_a_divergence_and_has_the_bound():
    """KL(p || product of marginals), given others its mean; at most sum H - max H."""
    for seed in range(200):
        p = J.random_joint(3, 3, 0.3, seed)
        a, b, c = (J.marginal(p, [i]) for i in range(3))
        product = a[:, None, None] * b[None, :, None] * c
        assert J.total_correlation(p, [0, 1, 2]) == pytest.approx(J.kl(p, product), abs=1e-12)
        H = [J.entropy(m) for m in (a, b, c)]
        assert J.total_correlation(p, [0, 1, 2]) <= sum(H) - max(H) + 1e-12
    given = sum(
        a[x].item() * J.total_correlation((p[x] / a[x]).contiguous(), [0, 1]) for x in range(3) if a[x] > 0
    )
    assert J.total_correlation(p, [1, 2], [0]) == pytest.approx(given)


def test_marginals_keep_the_order_of_positions():
    p = J.random_joint(3, 3, 1.0, 0)
    torch.testing.assert_close(J.marginal(p, [0, 2]), p.sum(1))
    torch.testing.assert_close(J.marginal(p, [0, 1, 2]), p)


GROUPS = [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[2], [0, 3], [1]], [[3], [1], [0], [2]]]


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_independence_costs_is_the_divergence_of_what_is_written(groups, seed):
    """KL(p || sampler) = sum of conditional total correlations, to rounding; 0 one at a time."""
    p = J.random_joint(3, 4, 0.3, seed)
    q = J.drawn_in_groups(p, groups)
    costs = J.independence_cost(p, groups)
    assert q.sum().item() == pytest.approx(1) and len(costs) == len(groups)
    assert J.kl(p, q) == pytest.approx(sum(costs), abs=1e-12)
    assert (sum(costs) < 1e-12) == (len(groups) == 4)
    first = groups[0]
    product = 1.0
    for i in range(4):
        if i in first:
            product = product * J.marginal(p, [i]).reshape([3 if j == i else 1 for j in range(4)])
    rest = [i for i in range(4) if i not in first]
    torch.testing.assert_close(q.sum(rest, keepdim=True) if rest else q, product)


def test_groups_where_some_pasts_never_come():
    p = tensor([[0.5, 0.5], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(J.drawn_in_groups(p, [[0], [1]]), p)


def test_random_joints_are_distributions_and_reproducible():
    p = J.random_joint(3, 2, 0.5, 7)
    assert p.shape == (3, 3) and p.sum().item() == pytest.approx(1.0)
    torch.testing.assert_close(p, J.random_joint(3, 2, 0.5, 7))
    flat, peaked = (J.entropy(J.random_joint(3, 4, c, 0)) for c in (50.0, 0.1))
    assert peaked < 3 < flat


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: J.entropy(HALF * 2), ValueError, "p must not be negative and must sum to 1, but sums to 2"),
        (lambda: J.entropy(HALF.float()), TypeError, "p must be a float64 tensor"),
        (lambda: J.kl(HALF, torch.full((4,), 0.25).double()), ValueError, "one shape, not (2, 2) and (4,)"),
        (
            lambda: J.independence_cost(HALF, [[0], [0]]),
            ValueError,
            "groups must hold each of the positions 0..1 once, not [[0], [0]]",
        ),
        (
            lambda: J.drawn_in_groups(HALF, [[0]]),
            ValueError,
            "groups must hold each of the positions 0..1 once",
        ),
        (lambda: J.marginal(HALF, [0, 0]), ValueError, "positions must be different numbers in 0..1"),
        (lambda: J.random_joint(3, 2, 0.0, 0), ValueError, "concentration must be above 0"),
    ],
)
def test_bad_input_is_named(unchecked, call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
