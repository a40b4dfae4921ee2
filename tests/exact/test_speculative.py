"""Speculative decoding: exact, and how often a draft is kept."""

import pytest
import torch
from torch import tensor
from worlds import masked

from course_lib import joint as J
from course_lib.evaluate import exact_law
from course_lib.samplers import Sampler
from course_lib.speculative import Speculative, acceptance, expected_length, judge, residual

P = tensor([0.5, 0.2, 0.2, 0.1]).double()
Q = tensor([0.1, 0.3, 0.2, 0.4]).double()


class OneToken(Sampler):
    """A token of Q, judged by P; the second entry says whether it was kept."""

    def rounds(self):
        return [None]

    def step(self, model, x, now, draw):
        y = draw(Q.expand(len(x), -1))
        z, kept = judge(P.expand(len(x), -1), Q.expand(len(x), -1), y, draw)
        return torch.stack([z, kept.long()], 1)


def test_the_judged_token_has_the_distribution_of_the_model():
    start = torch.zeros(4, 4).double()
    start[0, 0] = 1
    law = exact_law(OneToken(), lambda x, u: x, start)
    torch.testing.assert_close(law.sum(1), P)
    assert law[:, 1].sum().item() == pytest.approx(1 - J.total_variation(P, Q))
    assert acceptance(P, Q).item() == pytest.approx(1 - J.total_variation(P, Q))


def test_the_residual():
    torch.testing.assert_close(residual(P, Q), tensor([1.0, 0, 0, 0]).double())
    torch.testing.assert_close(residual(P, P), P)


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_self_speculative_decoding_is_exact(ahead):
    for seed in range(2):
        p, process, net = masked(seed=seed)
        assert J.total_variation(p, exact_law(Speculative(process, ahead), net)) < 1e-12


class OneDraft(Speculative):
    """A single step."""

    def rounds(self):
        return range(1)


def test_a_draft_ends_at_its_first_rejection():
    """The second token is rejected with the mean total variation of p(x_2 | x_1) and p(x_2); then the third is open."""
    p, process, net = masked()
    law = exact_law(OneDraft(process, 3), net, everything_masked(), states=4)
    alone = J.marginal(p, [1])
    rejected = sum(
        first.item() * J.total_variation(J.marginal(p, [0, 1])[a] / first, alone)
        for a, first in enumerate(J.marginal(p, [0]))
    )
    assert rejected > 0.05
    assert law[..., 3].sum().item() == pytest.approx(rejected)


def everything_masked():
    start = torch.zeros(4, 4, 4).double()
    start[3, 3, 3] = 1
    return start


def test_it_settles_several_tokens_at_once_where_they_are_independent():
    """A product of marginals: every draft is kept, and one step writes all."""
    torch.manual_seed(0)
    a = torch.rand(3, 3).double()
    a = a / a.sum(1, keepdim=True)
    p = a[0][:, None, None] * a[1][None, :, None] * a[2]
    _, process, _ = masked()
    from course_lib.categorical import draw
    from course_lib.oracle import TableOracle

    sampler = Speculative(process, 3)
    x = sampler.step(TableOracle(process, p), sampler.start(500), 0, draw)
    assert (x < 3).all()


def test_expected_length():
    assert expected_length(0.5, 3) == pytest.approx(1 + 0.5 + 0.25)
    assert expected_length(1.0, 4) == 4 and expected_length(0.0, 4) == 1


def test_bad_input_is_named(unchecked):
    with pytest.raises(ValueError, match="accept must lie in 0..1, not 2"):
        expected_length(2.0, 3)
    with pytest.raises(ValueError, match="ahead must be at least 1"):
        Speculative(masked()[1], 0)


@pytest.mark.parametrize(
    "call, kind, words",
    [
        (
            lambda: judge(P[None], Q[None], tensor([4]), draw_first),
            ValueError,
            r"y must lie in 0\.\.3, but holds 4",
        ),
        (
            lambda: judge(P[None], Q[None], tensor([-1]), draw_first),
            ValueError,
            r"y must lie in 0\.\.3, but holds -1",
        ),
        (
            lambda: judge(P[None], Q[None], tensor([1.0]), draw_first),
            TypeError,
            r"y must be an int64 tensor of shape \(1,\)",
        ),
        (
            lambda: judge(P[None], Q[None], tensor([1, 2]), draw_first),
            TypeError,
            r"y must be an int64 tensor of shape \(1,\)",
        ),
        (lambda: judge(P, Q, tensor([1]), draw_first), ValueError, r"p must have shape \(B, V\), not \(4,\)"),
        (
            lambda: judge(P[None], Q[None, :3], tensor([1]), draw_first),
            ValueError,
            "p and q must have one shape",
        ),
        (
            lambda: acceptance(P, Q[:1]),
            ValueError,
            r"p and q must have one shape \(..., V\), not \(4,\) and \(1,\)",
        ),
        (lambda: residual(P, Q[:1]), ValueError, r"p and q must have one shape"),
        (lambda: residual(P, None), TypeError, "q must be a float tensor of probabilities, not NoneType"),
        (lambda: acceptance(P.long(), Q), TypeError, "p must be a float tensor of probabilities, not "),
    ],
)
def test_what_cannot_be_judged_is_named(call, kind, words, unchecked):
    with pytest.raises(kind, match=words):
        call()


def draw_first(p):
    return p.argmax(-1)
