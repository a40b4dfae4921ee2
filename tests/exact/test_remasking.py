"""ReMDM: marginals kept for every sigma; when remasking helps a perfect network, in closed form."""

import math

import pytest
import torch
from worlds import masked

from course_lib import joint as J
from course_lib import remasking as R
from course_lib.decoding import Unmask
from course_lib.evaluate import exact_law

LINE = [1.0, 2 / 3, 1 / 3, 0.0]


@pytest.mark.parametrize("alpha_t, alpha_s", [(0.2, 0.5), (0.05, 0.4), (0.6, 0.9), (0.0, 0.3)])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_the_marginal_of_a_token_is_kept(alpha_t, alpha_s, share):
    """One token: q_t times the step is q_s, whatever sigma is."""
    p = torch.tensor([0.5, 0.3, 0.2]).double()

    def q(a):
        return torch.cat([a * p, torch.tensor([1 - a]).double()])

    x = torch.arange(4)[:, None]
    sigma = share * R.largest_sigma(alpha_t, alpha_s)
    step = R.remasked(p.expand(4, 1, 3), x, alpha_t, alpha_s, sigma)[:, 0]
    torch.testing.assert_close(q(alpha_t) @ step, q(alpha_s))
    torch.testing.assert_close(step.sum(1), torch.ones(4).double())
    assert (step > -1e-15).all()


def test_above_the_largest_sigma_there_is_no_such_step():
    p, x = torch.full((1, 1, 2), 0.5).double(), torch.tensor([[2]])
    most = R.largest_sigma(0.6, 0.9)
    step = R.remasked(p, x, 0.6, 0.9, most)
    # Here every mask is unmasked; more of them than there are would have to be, beyond it.
    torch.testing.assert_close(step[..., :2].sum(), torch.tensor(1.0).double())
    for sigma in (most + 0.01, 1.0):
        with pytest.raises(ValueError, match="sigma must be at most 0.166667 here"):
            R.remasked(p, x, 0.6, 0.9, sigma)


def times(*alphas):
    """Falling times of the linear clock at which these shares of tokens are left."""
    return torch.tensor([1 - a for a in alphas])


@pytest.mark.parametrize("alpha_1, alpha_2", [(1 / 3, 2 / 3), (0.5, 0.8), (0.2, 0.7), (0.1, 0.9)])
@pytest.mark.parametrize("eta", [0.0, 0.2, 1.0])
def test_two_tokens_three_steps_in_closed_form(alpha_1, alpha_2, eta):
    """The law is (1 - c) data + c product of marginals, c = k^2 + (alpha_2 - k)^2 + (1 - alpha_2)^2,
    k = (1 - sigma) alpha_1."""
    p, process, net = masked(3, 2, 0.6)
    q = exact_law(R.ReMDM(process, times(0.0, alpha_1, alpha_2, 1.0), R.share(eta)), net)
    k = (1 - eta * R.largest_sigma(alpha_1, alpha_2)) * alpha_1
    c = k**2 + (alpha_2 - k) ** 2 + (1 - alpha_2) ** 2
    product = J.marginal(p, [0])[:, None] * J.marginal(p, [1])
    torch.testing.assert_close(q, (1 - c) * p + c * product, rtol=0, atol=1e-6)


@pytest.mark.parametrize("alpha_1, alpha_2", [(0.5, 0.8), (0.45, 0.8), (0.35, 0.8), (0.2, 0.7)])
def test_a_little_remasking_helps_if_and_only_if_the_grid_reveals_too_early(alpha_1, alpha_2):
    p, process, net = masked(3, 2, 0.6)
    off = [
        J.total_variation(
            p, exact_law(R.ReMDM(process, times(0.0, alpha_1, alpha_2, 1.0), R.share(eta)), net)
        )
        for eta in (0.0, 0.01)
    ]
    assert (off[1] < off[0]) == (alpha_1 > alpha_2 / 2)


def test_no_grid_with_remasking_beats_the_linear_one_without():
    """Two tokens, three steps: c is least, 1 / 3, at alpha = 1/3, 2/3 and sigma = 0."""
    p, process, net = masked(3, 2, 0.6)
    best = J.total_variation(p, exact_law(R.ReMDM(process, 3, R.share(0.0)), net))
    for a in (0.2, 1 / 3, 0.5):
        for b in (0.55, 2 / 3, 0.8):
            for eta in (0.0, 0.3, 1.0):
                grid = times(0.0, a, b, 1.0)
                off = J.total_variation(p, exact_law(R.ReMDM(process, grid, R.share(eta)), net))
                assert off > best - 1e-7


def test_two_steps_cannot_remask():
    """The first finds only masks, and in the last sigma may only be 0."""
    _, process, net = masked(3, 2, 0.6)
    one, other = (exact_law(R.ReMDM(process, 2, R.share(eta)), net) for eta in (0.0, 1.0))
    torch.testing.assert_close(one, other)


def test_without_remasking_and_with_many_steps_it_is_the_data():
    p, process, net = masked(3, 2, 0.6)
    off = [J.total_variation(p, exact_law(R.ReMDM(process, n, R.share(0.0)), net)) for n in (4, 8, 16)]
    assert off[0] / off[1] == pytest.approx(2, rel=1e-3) and off[1] / off[2] == pytest.approx(2, rel=1e-3)
    one_by_one = exact_law(Unmask(process), net)
    assert J.total_variation(p, one_by_one) < 1e-15


def test_rules():
    assert R.largest_sigma(0.0, 0.5) == 1 and R.largest_sigma(0.6, 0.9) == pytest.approx(1 / 6)
    assert R.largest_sigma(0.1, 0.2) == 1
    assert R.share(0.5)(0.6, 0.9) == pytest.approx(1 / 12)
    assert R.at_most(0.1)(0.6, 0.9) == 0.1 and R.at_most(0.5)(0.6, 0.9) == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda p: R.share(1.5), ValueError, "eta must lie in 0..1, not 1.5"),
        (lambda p: R.at_most(math.nan), ValueError, "cap must lie in 0..1"),
        (lambda p: R.ReMDM(p, 3, 0.5), TypeError, "sigma must be a rule, such as share(0.2), not float"),
        (
            lambda p: exact_law(R.ReMDM(p, 3, lambda a, b: 0.9), lambda x, u: torch.zeros(*x.shape, 3)),
            ValueError,
            "sigma must return a number in 0..0 at alpha_t",
        ),
    ],
)
def test_bad_input_is_named(unchecked, call, error, words):
    _, process, _ = masked(3, 2)
    with pytest.raises(error) as caught:
        call(process)
    assert words in str(caught.value)
