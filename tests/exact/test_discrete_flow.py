"""Discrete flow matching from masks is absorbing diffusion run backwards; what is free to choose."""

import itertools
import math

import pytest
import torch
from torch import tensor
from worlds import masked

from course_lib import joint as J
from course_lib.absorbing import Absorbing
from course_lib.discrete_flow import Euler, velocity
from course_lib.evaluate import exact_law
from course_lib.oracle import TableOracle
from course_lib.samplers import conditionals
from course_lib.schedules import log_linear
from course_lib.sedd import SEDD

V, L = 3, 2
STATES = tensor(list(itertools.product(range(V + 1), repeat=L)))


def at_kappa(p, kappa):
    """q of all states: each token of the data is there with probability kappa."""
    eye = torch.eye(V).double()
    keep = torch.cat([kappa * eye, (1 - kappa) * torch.ones(V, 1).double()], 1)
    return torch.einsum("ab,ax,by->xy", p, keep, keep)


def generator(process, net, kappa, eta):
    """The rates between all states, (S, S), from the velocity of each position."""
    u = velocity(conditionals(process, net, STATES), STATES, kappa, 1.0, eta)
    R = torch.zeros(len(STATES), len(STATES)).double()
    for n, x in enumerate(STATES.tolist()):
        for i in range(L):
            for y in range(V + 1):
                to = [*x[:i], y, *x[i + 1 :]]
                R[n, to[0] * (V + 1) + to[1]] += u[n, i, y]
    return R


def test_velocities_are_rates():
    _, process, net = masked(V, L)
    R = generator(process, net, 0.4, 0.7)
    torch.testing.assert_close(R.sum(1), torch.zeros(len(R)).double())
    assert (R - R.diag().diag() >= 0).all()


@pytest.mark.parametrize("eta", [0.0, 0.5, 3.0])
def test_p_t_moves_as_the_path_says_for_every_eta(eta):
    """d p / d kappa = p R, against differences of the path itself."""
    p, process, net = masked(V, L)
    for kappa in (0.1, 0.5, 0.9):
        h = 1e-5
        slope = (at_kappa(p, kappa + h) - at_kappa(p, kappa - h)).flatten() / (2 * h)
        flow = at_kappa(p, kappa).flatten() @ generator(process, net, kappa, eta)
        torch.testing.assert_close(flow, slope, rtol=0, atol=1e-8)


def test_the_rates_that_eta_adds_carry_nothing():
    """Detailed balance: p(x) R(x, y) = p(y) R(y, x)."""
    p, process, net = masked(V, L)
    added = generator(process, net, 0.4, 1.0) - generator(process, net, 0.4, 0.0)
    flux = at_kappa(p, 0.4).flatten()[:, None] * (added - added.diag().diag())
    torch.testing.assert_close(flux, flux.T)
    assert flux.max() > 0.01


def test_it_is_the_reverse_chain_of_absorbing_diffusion():
    """SEDD's reverse rates sigma' s R at t are the velocity at kappa = alpha(t), slope -alpha'(t)."""
    p, process, net = masked(V, L)
    sedd = SEDD(Absorbing(V, log_linear(1e-3)), L, mass="known")
    t = torch.full((len(STATES),), 0.6)
    score = sedd.log_score(TableOracle(sedd, p), STATES, t).exp()
    reverse = score[..., :V] * sedd.noise.rates(STATES)[..., :V] * sedd.rate(t)[:, None, None]
    kappa = 1 - 0.999 * 0.6
    u = velocity(conditionals(process, net, STATES), STATES, kappa, 0.999)
    possible = at_kappa(p, kappa).flatten() > 0
    torch.testing.assert_close(
        u[possible][..., :V].clamp(min=0), reverse[possible].double(), rtol=1e-5, atol=1e-6
    )


def test_a_matrix_exponential_over_the_rates_ends_in_the_data():
    """In the time tau = -log(1 - kappa) the rates of eta = 0 are constant: one exponential from masks to data."""
    p, process, net = masked(V, L)
    R = generator(process, net, 0.0, 0.0)  # slope / (1 - kappa) = 1 at kappa = 0, as dtau asks
    start = torch.zeros(len(STATES)).double()
    start[-1] = 1
    for tau in (0.3, 1.0, 40.0):
        law = start @ torch.matrix_exp(tau * R)
        torch.testing.assert_close(law, at_kappa(p, -math.expm1(-tau)).flatten(), rtol=0, atol=1e-9)


def test_euler_comes_nearer_with_more_steps():
    p, process, net = masked(V, L, 0.6)
    off = [J.total_variation(p, exact_law(Euler(process, n), net)) for n in (8, 16)]
    assert off[0] / off[1] == pytest.approx(2, rel=0.02)
    noisy = [J.total_variation(p, exact_law(Euler(process, n, eta=1.0), net)) for n in (8, 16)]
    assert noisy[1] < noisy[0] < 0.2


def test_bad_input_is_named(unchecked):
    _, process, _ = masked(V, L)
    with pytest.raises(ValueError, match="eta must not be negative, not -1"):
        Euler(process, 4, eta=-1.0)
