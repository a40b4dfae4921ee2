"""Estimate x_0, corrupt it again: which estimates keep the marginals, by matrices over every state."""

import itertools
import math

import pytest
import torch
from torch import tensor

from course_lib import schedules as S
from course_lib import unified as U
from course_lib.absorbing import Absorbing
from course_lib.d3pm import D3PM
from course_lib.data import two_bumps
from course_lib.ddim import Renoise
from course_lib.ddpm import DDPM
from course_lib.insertion import Insertion
from course_lib.joint import random_joint, total_correlation
from course_lib.mdlm import MDLM
from course_lib.oracle import MixtureOracle, TableOracle
from course_lib.process import last, sample
from course_lib.stationary import Uniform
from tests.helpers import close

V, L = 3, 2
TEXTS = [(0, 1, 0), (1, 1), (2,), (0, 1, 2, 0), ()]


def tv(p, q):
    return (p - q).abs().sum().item() / 2


def worlds():
    """name -> (p, F_t, F_s) with s < t: five corruptions, more at t than at s."""
    p = random_joint(V, L, 0.4, 1).flatten()
    few = random_joint(5, 1, 1.0, 2).flatten()
    grid = torch.linspace(-4, 5, 181, dtype=torch.float64)
    points = tensor([-1.5, 0.2, 0.4, 2.0, 2.2], dtype=torch.float64)

    def gauss(abar):
        far = grid - math.sqrt(abar) * points[:, None]
        return (-far.square() / (2 * (1 - abar))).softmax(1)

    torch.manual_seed(0)
    images = torch.randint(0, 5, (5, 4, 4)).double() / 4
    of = {k: U.deletions(TEXTS, k)[0] for k in (0.3, 0.7)}
    return {
        "noise": (few, gauss(0.3), gauss(0.8)),
        "masks": (p, U.tokenwise(U.masked(V, 0.3), L), U.tokenwise(U.masked(V, 0.7), L)),
        "letters": (p, U.tokenwise(U.random_letters(V, 0.3), L), U.tokenwise(U.random_letters(V, 0.7), L)),
        "blur": (few, U.blurs(images, 4, 3)[0], U.blurs(images, 2, 3)[0]),
        "deletion": (few, of[0.3], of[0.7]),
    }


@pytest.mark.parametrize("name", worlds())
def test_a_draw_of_the_posterior_keeps_the_marginals_whatever_the_corruption(name):
    p, F_t, F_s = worlds()[name]
    P = U.posterior(p, F_t)
    close(p @ F_t @ P, p)
    assert tv(p @ F_t @ P @ F_s, p @ F_s) < 1e-14


@pytest.mark.parametrize("name", worlds())
def test_the_likeliest_does_not(name):
    p, F_t, F_s = worlds()[name]
    assert tv(p @ F_t @ U.likeliest(U.posterior(p, F_t)) @ F_s, p @ F_s) > 0.01


def test_without_loss_of_information_any_estimate_keeps_them():
    """A blur that can be undone is no noise: the posterior is one point, its mode and mean."""
    p = random_joint(5, 1, 1.0, 2).flatten()
    images = torch.arange(5 * 16).reshape(5, 4, 4).double()
    F, seen = U.blurs(images, 2)
    P = U.posterior(p, F)
    close(P, U.likeliest(P))
    assert seen.shape == (5, 4, 4) and len(seen.unique(dim=0)) == 5
    assert (seen[:, :2, :2] == seen[:, :1, :1]).all()
    close(seen[F.argmax(1)].mean((1, 2)), images.mean((1, 2)))


def test_a_blurred_picture_is_rounded_to_the_levels_of_the_picture():
    """Three levels from 0 to 4 are 0, 2 and 4; the means 0.5, 1.5 and 3.5 go to the nearest."""
    images = tensor([[[0.0, 1.0]], [[1.0, 2.0]], [[3.0, 4.0]]])[:, :, [0, 1, 0, 1]].repeat(1, 2, 1)
    F, seen = U.blurs(images, 2, 3)
    close(F @ seen[:, 0, 0], tensor([0.0, 2.0, 4.0]).double())
    F, seen = U.blurs(images, 2)
    close(F @ seen[:, 0, 0], tensor([0.5, 1.5, 3.5]).double())


def test_tokens_drawn_alone_lose_the_total_correlation_and_nothing_else():
    """From all masks to the data in one step: the product of the marginals, KL(p || q) = total correlation."""
    p = random_joint(V, L, 0.4, 1)
    F = U.tokenwise(U.masked(V, 0.0), L)
    q = p.flatten() @ F @ U.alone(U.posterior(p.flatten(), F), V, L)
    close(q, (p.sum(1)[:, None] * p.sum(0)).flatten())
    there = p.flatten() > 0
    kl = (p.flatten()[there] * (p.flatten()[there] / q[there]).log()).sum().item()
    assert kl == pytest.approx(total_correlation(p, [0, 1]), abs=1e-12)


@pytest.mark.parametrize("kernel", [U.masked, U.random_letters])
def test_alone_keeps_what_each_token_is(kernel):
    """The pair is off, the marginal of each token is not."""
    p = random_joint(V, L, 0.4, 1)
    F_t, F_s = (U.tokenwise(kernel(V, a), L) for a in (0.3, 0.7))
    q = p.flatten() @ F_t @ U.alone(U.posterior(p.flatten(), F_t), V, L)
    for axis in (0, 1):
        close(q.reshape(V, V).sum(axis), p.sum(axis))
    assert tv(q @ F_s, p.flatten() @ F_s) > 1e-3


def test_three_tokens_alone_are_a_product():
    P = torch.rand(4, 27, dtype=torch.float64)
    P /= P.sum(1, keepdim=True)
    J, A = P.reshape(4, 3, 3, 3), U.alone(P, 3, 3).reshape(4, 3, 3, 3)
    a, b, c = J.sum((2, 3)), J.sum((1, 3)), J.sum((1, 2))
    close(A, a[:, :, None, None] * b[:, None, :, None] * c[:, None, None, :])
    close(U.alone(P[:, :9] / P[:, :9].sum(1, keepdim=True), 9, 1), P[:, :9] / P[:, :9].sum(1, keepdim=True))


@pytest.mark.parametrize("kernel, step", [(U.masked, "mask"), (U.random_letters, "letters")])
def test_the_bridge_uses_the_noise_again_and_keeps_the_marginals(kernel, step):
    """The other exact way back; of one token it is the posterior of D3PM and MDLM."""
    a_t, a_s = 0.3, 0.7
    between = kernel(V, a_t / a_s)
    if step == "mask":
        between = torch.cat([between, torch.eye(V + 1)[-1:].double()])
    p = random_joint(V, L, 0.4, 1)
    F_t, F_s, F_st = (U.tokenwise(Q, L) for Q in (kernel(V, a_t), kernel(V, a_s), between))
    close(F_s @ F_st, F_t)
    B = U.bridge(U.posterior(p.flatten(), F_t), F_s, F_st)
    close(B.sum(1), torch.ones(len(B)).double())
    assert tv(p.flatten() @ F_t @ B, p.flatten() @ F_s) < 1e-14
    anew = U.posterior(p.flatten(), F_t) @ F_s
    assert (B - anew).abs().max() > 0.05
    one = p.sum(1)
    table = tensor([1.0, a_s, a_t]).double()
    noise = (Absorbing if step == "mask" else Uniform)(V, table)
    times = [tensor([k] * noise.K) for k in (1, 2)]
    x = torch.arange(noise.K)[:, None]
    law = U.bridge(U.posterior(one, kernel(V, a_t)), kernel(V, a_s), between)
    expected = noise.posterior(one.expand(noise.K, 1, V), x, *times)[:, 0]
    close(law, expected)


def test_the_sampler_draws_what_the_matrices_say():
    p = random_joint(V, L, 0.4, 1)
    for noise, kernel, kind in (
        (Absorbing(V, S.log_linear(0.0)), U.masked, MDLM),
        (Uniform(V, S.table(S.log_linear(0.0), 4, max_beta=1.0)), U.random_letters, D3PM),
    ):
        process = kind(noise, L)
        n, net = 20000, TableOracle(process, p)
        x = last(sample(U.Unified(process, U.drawn), net, n, 2))[1]
        F_t, F_s = (U.tokenwise(kernel(V, a), L) for a in (0.0, 0.5))
        q = p.flatten() @ F_t
        for F, G in ((F_t, F_s), (F_s, None)):
            P = U.alone(U.posterior(p.flatten(), F), V, L)
            q = q @ P if G is None else q @ P @ G
        seen = torch.bincount(x[:, 0] * V + x[:, 1], minlength=V * V) / n
        assert tv(seen.double(), q) < 0.012
        assert tv(q, p.flatten()) > 0.03


def test_with_the_mean_it_is_the_renoising_of_ddim_py():
    table = S.table(S.cosine(), 40)
    mixture = two_bumps()
    process = DDPM(table, (1,), predicts="x0")
    net = MixtureOracle(process, mixture)
    torch.manual_seed(3)
    a = last(sample(U.Unified(process, U.mean), net, 500, 5))[1]
    torch.manual_seed(3)
    b = last(sample(Renoise(table, (1,), predicts="x0"), net, 500, 5))[1]
    assert (a.mean() - b.mean()).abs() < 0.15 and (a.std() - b.std()).abs() < 0.1
    t, s, x = tensor([30]), tensor([12]), torch.randn(1, 1).double()
    torch.manual_seed(5)
    got = U.Unified(process, U.mean).step(net, x, t, s)
    torch.manual_seed(5)
    close(got, process.corrupt(process.predict_x0(net, x, t), s))
    close(U.Unified(process, U.mean).step(net, x, t, 0 * s), process.predict_x0(net, x, t))


def test_deletions_are_the_marginals_of_insertion():
    p = dict(zip(TEXTS, (0.1, 0.3, 0.2, 0.25, 0.15), strict=True))
    F, states = U.deletions(TEXTS, 0.6)
    process = Insertion(p)
    assert states == process.states
    close(tensor(list(p.values())).double() @ F, process.marginal(0.6))
    close(F.sum(1), torch.ones(5).double())
    assert U.parts((0, 0)) == {(): 1, (0,): 2, (0, 0): 1}
    row = F[TEXTS.index((0, 1, 0)), states.index((0,))].item()
    assert row == pytest.approx(2 * 0.6 * 0.4**2)


def test_kernels_of_sequences():
    Q = U.masked(2, 0.25)
    F = U.tokenwise(Q, 3)
    pairs = itertools.product(itertools.product(range(2), repeat=3), itertools.product(range(3), repeat=3))
    by_hand = tensor([math.prod(Q[a, b].item() for a, b in zip(x, y, strict=True)) for x, y in pairs])
    close(F, by_hand.double().reshape(8, 27))
    close(U.masked(2, 0.25), tensor([[0.25, 0, 0.75], [0, 0.25, 0.75]]).double())
    close(U.random_letters(2, 0.5), tensor([[0.75, 0.25], [0.25, 0.75]]).double())


def test_states_that_never_come_and_equal_likeliest():
    P = U.posterior(tensor([0.25, 0.75]).double(), tensor([[1.0, 0.0], [1.0, 0.0]]).double())
    close(P, tensor([[0.25, 0.75], [0.25, 0.75]]).double())
    close(U.likeliest(tensor([[0.5, 0.5], [0.2, 0.8]]).double()), torch.eye(2).double())


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: U.masked(3, 1.5), ValueError, "alpha must lie in [0, 1], not 1.5"),
        (lambda: U.deletions(TEXTS, float("nan")), ValueError, "kappa must lie in [0, 1], not nan"),
        (lambda: U.random_letters(3, -1.0), ValueError, "alpha must lie in [0, 1], not -1.0"),
        (lambda: U.blurs(torch.zeros(2, 4, 4), 3), ValueError, "block must divide 4 and 4, not 3"),
        (lambda: U.blurs(torch.zeros(2, 4, 4), 2, 1), ValueError, "levels must be at least 2"),
        (lambda: U.likeliest(torch.ones(2, 2)), TypeError, "P must be float64 (n, m)"),
        (lambda: U.likeliest(torch.ones(2, 2).double()), ValueError, "but one sums to 2"),
        (
            lambda: U.posterior(torch.full((2,), 0.5).double(), torch.eye(3).double()),
            ValueError,
            "F must have shape (2, 3), not (3, 3)",
        ),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
