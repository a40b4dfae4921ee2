"""SEDD and MDLM against enumeration: every x_0, every x_t, times by quadrature; rates as matrices, entry by entry."""

# ruff: noqa: E501 (one line for each bad input)

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn, tensor

from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.categorical import draw
from course_lib.d3pm import D3PM
from course_lib.data import MarkovLanguage
from course_lib.evaluate import bound
from course_lib.first_hitting import first_hitting
from course_lib.mask_count import MaskCount
from course_lib.mask_uniform import MaskUniform
from course_lib.mdlm import MDLM
from course_lib.nets import TokenNet
from course_lib.oracle import MarkovOracle
from course_lib.process import last, sample
from course_lib.score_entropy import bregman, score_entropy, score_entropy_stationary
from course_lib.sedd import SEDD, KnownMassSEDD, MaskedSEDD
from course_lib.stationary import Stationary, Uniform
from course_lib.structured import Neighbours, gaussian
from course_lib.tokens import FIRST
from course_lib.tweedie import SAMPLERS
from tests.helpers import inside, sequences

V, L = 3, 2
PI = tensor([0.2, 0.3, 0.5], dtype=torch.float64)
WALK = tensor([[-1.0, 1, 0], [1, -2, 1], [0, 1, -1]], dtype=torch.float64)
NOISES = {
    "uniform": lambda: Uniform(V, S.geometric(1e-3, 20.0)),
    "uniform, log-linear": lambda: Uniform(V, S.log_linear()),
    "absorbing": lambda: Absorbing(V, S.log_linear()),
    "absorbing, geometric": lambda: Absorbing(V, S.geometric(1e-3, 20.0)),
    "replace": lambda: Stationary(PI, S.geometric(1e-2, 10.0)),
    "mask and uniform": lambda: MaskUniform(V, S.log_linear(0.01)),
    "neighbours": lambda: Neighbours(WALK, S.geometric(1e-2, 8.0)),
}
LANGUAGE = MarkovLanguage(V, L, sharpness=1.5, seed=3)
SENTENCES = torch.cartesian_prod(torch.arange(V), torch.arange(V))
LOG_P = LANGUAGE.log_prob(SENTENCES)
P = LOG_P.exp()


@pytest.fixture(params=NOISES)
def noise(request):
    return NOISES[request.param]()


def rate_matrix(noise) -> torch.Tensor:
    """R, (K, K), from the words that describe the noise."""
    if isinstance(noise, Neighbours):
        return WALK
    K = noise.K
    R = torch.zeros(K, K).double()
    for i, j in itertools.product(range(V), range(K)):
        if isinstance(noise, Stationary):
            R[i, j] = noise.pi[j]
        elif isinstance(noise, Absorbing):
            R[i, j] = float(j == V)
        else:
            R[i, j] = noise.mask_share if j == V else (1 - noise.mask_share) / V
    return R - R.sum(1).diag()


def power(log_alpha, R) -> torch.Tensor:
    """exp(sigma R); torch's own is good to 1e-11 only."""
    return torch.from_numpy(scipy.linalg.expm(-log_alpha.item() * R.numpy()))


def times(n: int = 40) -> tuple[list[float], list[float]]:
    """Nodes and weights on (0, 1], dense near 0: t = v^4, Gauss-Legendre in v."""
    v, w = np.polynomial.legendre.leggauss(n)
    v, w = (v + 1) / 2, w / 2
    return (v**4).tolist(), (4 * v**3 * w).tolist()


def at(t: float, n: int) -> torch.Tensor:
    return torch.full((n,), t, dtype=torch.float64)


def precise(process):
    """The process with times told to the network in float64."""
    process.u = lambda t: t.double()
    return process


def forward(noise, t: float, length: int) -> torch.Tensor:
    """q(x_t | x_0) of whole sequences, (V^L, K^L)."""
    Q = power(noise.log_alpha(at(t, 1)), rate_matrix(noise))
    out = Q[:V]
    for _ in range(length - 1):
        out = torch.kron(out, Q[:V])
    return out


def over_x_t(process, x0, t: float, values) -> torch.Tensor:
    """sum_{x_t} q(x_t | x_0) values(x_0, t) with x_t put in by hand, for each x_0."""
    noise, K = process.noise, process.noise.K
    q = forward(noise, t, x0.shape[1])[inside(x0, V)]
    a, b = (q > 0).nonzero(as_tuple=True)
    all_x = sequences(K, x0.shape[1])
    return torch.zeros(len(x0)).double().index_add(0, a, q[a, b] * values(x0[a], all_x[b], at(t, len(a))))


def dwdse(process, net, x0, n: int = 40) -> torch.Tensor:
    """The integral over time of the diffusion term, for each x_0; nothing is drawn."""
    terms = (
        w * over_x_t(process, x0, t, lambda x, x_t, t: process.diffusion_term_at(net, x, x_t, t))
        for t, w in zip(*times(n), strict=True)
    )
    return sum(terms)


def zeros(x, u):
    return torch.zeros(*x.shape, V).double()


class Loose(nn.Module):
    """A network that knows nothing and depends on everything, also on the time."""

    def __init__(self, K: int, length: int, scale: float = 1.0):
        super().__init__()
        self.table = scale * torch.randn(2, K**length, length, V, dtype=torch.float64)
        self.K = K

    def forward(self, x, u):
        a, b = self.table[:, inside(x, self.K)]
        return a + b * u[:, None, None].double()


# Rates


def test_rates_are_those_of_the_noise(noise):
    R, x = rate_matrix(noise), torch.arange(noise.K)[None]
    off = R - R.diag().diag()
    torch.testing.assert_close(noise.rates(x)[0], off.T, rtol=0, atol=1e-12)
    for t in (0.2, 1.0):
        Q = power(noise.log_alpha(at(t, 1)), R)
        torch.testing.assert_close(noise.matrix(at(0.0, 1), at(t, 1))[0], Q, rtol=0, atol=1e-10)


def test_time_0_is_the_data_and_the_moment_after_is_not():
    process = SEDD(Uniform(V, S.geometric(0.5, 20.0)), L)
    assert process.noise.log_alpha(tensor([0.0])) == 0
    torch.testing.assert_close(process.noise.log_alpha(tensor([FIRST])), tensor([-0.5]).double())
    x0 = SENTENCES.repeat(1000, 1)
    assert torch.equal(process.corrupt(x0, torch.zeros(9000)), x0)
    changed = (process.corrupt(x0, torch.full((9000,), FIRST)) != x0).double().mean()
    assert abs(changed - (1 - math.exp(-0.5)) * 2 / 3) < 0.02


def test_schedules_are_inverted():
    for schedule in (S.log_linear(), S.geometric(), S.cosine(), S.linear()):
        u = tensor([0.0, 1e-6, 0.3, 0.99, 1.0]).double()
        back = schedule.inverse(schedule.log_alpha_bar(u))
        torch.testing.assert_close(back, u, rtol=1e-7, atol=1e-9)
    assert S.geometric(0.1, 2.0).inverse(tensor([-0.01, -9.0]).double()).round(decimals=9).tolist() == [0, 1]


# Score entropy


def test_bregman_is_zero_at_the_ratio_only_and_not_symmetric():
    """(r = 2, s = 0.5) 1.273, (r = 0.5, s = 2) 0.807."""
    r = torch.logspace(-3, 3, 40, dtype=torch.float64)
    assert bregman(r.log(), r).abs().max() < 1e-12
    others = bregman(r.log()[:, None].expand(40, 40), r.expand(40, 40))
    assert (others[~torch.eye(40).bool()] > 0).all()
    got = bregman(tensor([0.5, 2.0]).double().log(), tensor([2.0, 0.5]).double())
    assert got.tolist() == pytest.approx([1.2725887, 0.8068528], abs=1e-6)
    assert (
        bregman(tensor([0.5]).log(), tensor([0.0])).item() == 0.5
    )  # no mass at y: the rate itself is the cost
    assert bregman(tensor([-torch.inf]), tensor([0.0])).item() == 0


def by_hand(noise, log_s, x0, x_t, log_alpha):
    """The definition with matrices: each y on its own."""
    R, Q = rate_matrix(noise), power(log_alpha, rate_matrix(noise))
    total = 0.0
    for y in range(V):
        if y != x_t and (w := R[y, x_t].item()):
            rho, ls = (Q[x0, y] / Q[x0, x_t]).item(), log_s[y].item()
            total += w * (math.exp(ls) - rho * ls + (rho * (math.log(rho) - 1) if rho else 0))
    return total


@pytest.mark.parametrize("t", [1e-3, 0.4, 1.0])
def test_score_entropy_is_the_sum_over_neighbours(noise, t):
    """General and closed forms against the definition, for all x_0 and all reachable x_t."""
    log_alpha = noise.log_alpha(at(t, 1))
    Q = noise.matrix(at(0.0, 1), at(t, 1))[0]
    x0, x_t = (v[None] for v in torch.cartesian_prod(torch.arange(V), torch.arange(noise.K)).T)
    log_s = 2 * torch.randn(1, x0.shape[1], V, dtype=torch.float64)
    want = [
        by_hand(noise, log_s[0, i], a, b, log_alpha) if Q[a, b] > 0 else None
        for i, (a, b) in enumerate(zip(x0[0].tolist(), x_t[0].tolist(), strict=True))
    ]
    ok = tensor([v is not None for v in want])
    want = tensor([v for v in want if v is not None], dtype=torch.float64)
    got = score_entropy(noise, log_s, x0, x_t, log_alpha)[0]
    torch.testing.assert_close(got[ok], want, rtol=1e-10, atol=1e-11)
    if isinstance(noise, Stationary):
        fast = score_entropy_stationary(noise, log_s, x0, x_t, log_alpha)[0]
        torch.testing.assert_close(fast, want, rtol=1e-10, atol=1e-11)
    if isinstance(noise, Absorbing):
        process = SEDD(noise, x0.shape[1], scaled=False)
        r = 1 / torch.expm1(-log_alpha)
        closed = r * precise(process).mask_cost(lambda x, u: log_s, x0, x_t, at(t, 1))
        torch.testing.assert_close(closed[0][ok], want, rtol=1e-10, atol=1e-11)
        f = log_s - process.base(x_t, at(t, 1))
        scaled = precise(SEDD(noise, x0.shape[1])).mask_cost(lambda x, u: f, x0, x_t, at(t, 1))
        torch.testing.assert_close(r * scaled, closed)


def test_the_printed_closed_forms():
    """SEDD's released uniform and absorbing losses, term by term, against ours; e1 = expm1(sigma)."""
    K, sigma = 5, 0.7
    log_s, e1 = torch.randn(1, 2, K, dtype=torch.float64), math.expm1(sigma)
    x_t, x0 = tensor([[2, 2]]), tensor([[2, 4]])
    log_s.scatter_(-1, x_t[..., None], 0.0)
    rho = e1 / (e1 + K)
    pos = (log_s.exp().sum(-1) - 1) / K
    same = pos[0, 0] - rho * log_s[0, 0].sum() / K + (K - 1) / K * rho * (math.log(rho) - 1)
    const = ((-math.log(rho) - 1) / rho - (K - 2)) / K
    other = pos[0, 1] - log_s[0, 1, 4] / e1 - log_s[0, 1].sum() / K + const
    got = score_entropy_stationary(
        Uniform(K, S.log_linear()), log_s, x0, x_t, tensor([-sigma], dtype=torch.float64)
    )
    torch.testing.assert_close(got[0], torch.stack([same, other]), rtol=1e-12, atol=0)
    mask, r = tensor([[K]]), 1 / e1
    want = log_s[0, 1].exp().sum() - r * log_s[0, 1, 4] + r * (math.log(r) - 1)
    got = score_entropy(
        Absorbing(K, S.log_linear()), log_s[:, 1:], x0[:, 1:], mask, tensor([-sigma], dtype=torch.float64)
    )
    torch.testing.assert_close(got[0, 0], want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", [Uniform, MaskUniform, Absorbing])
def test_what_the_network_says_of_the_token_itself_costs_nothing(kind):
    """Nothing trains it, so it may be large: e^60 beside the other scores would leave no digit of them in float32."""
    process, x0, x_t, t = SEDD(kind(V, S.log_linear()), L), tensor([[0, 2]]), tensor([[1, 2]]), tensor([0.4])
    f = torch.randn(1, L, V)
    at = x_t[..., None]
    large = f.scatter(-1, at, 60.0)
    losses = [process.loss_at(lambda x, u, f=f: f, x0, x_t, t) for f in (f, large, f.scatter(-1, at, 0.0))]
    assert losses[0] == losses[1] == losses[2] and (losses[0] > 0) == (kind is not Absorbing)
    large.requires_grad_()
    process.loss_at(lambda x, u: large, x0, x_t, t).sum().backward()
    if kind is not Absorbing:
        assert (large.grad.gather(-1, at) == 0).all() and large.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["uniform", "replace", "absorbing"])
def test_no_number_is_lost_at_a_vocabulary_of_65536(kind):
    """float32 scores, all noise levels: finite, and as the float64 computation has it."""
    K = 65_536
    pi = torch.rand(K, dtype=torch.float64) + 0.1
    clock = S.geometric(1e-6, 20.0)
    noise = {
        "uniform": lambda: Uniform(K, clock),
        "replace": lambda: Stationary(pi / pi.sum(), clock),
        "absorbing": lambda: Absorbing(K, clock),
    }[kind]()
    process, x0 = SEDD(noise, 3), tensor([[5, 7, 65_535]])
    f = torch.randn(1, 3, K)
    for t in (1e-7, 0.3, 0.8, 1.0):
        x_t = torch.where(tensor([[True, False, False]]), x0, K if kind == "absorbing" else 11)
        with torch.no_grad():
            got = process.diffusion_term_at(lambda x, u: f, x0, x_t, tensor([t]))
        short = process.loss_at(lambda x, u: f, x0, x_t, tensor([t])) * 3
        if kind != "absorbing":
            log_s = f.double() if kind == "uniform" else f.double() + process.base(x_t, tensor([t]))
            want = (
                process.rate(tensor([t]))
                * score_entropy(noise, log_s, x0, x_t, noise.log_alpha(tensor([t]))).sum()
            )
            torch.testing.assert_close(got, want, rtol=1e-9, atol=0)
        assert short.dtype == torch.float32
        torch.testing.assert_close(short.double(), got, rtol=2e-5, atol=0)


def test_gradients():
    """Of the closed form, against finite differences; and that of score entropy is 1/s times that of squares."""
    noise = Stationary(PI, S.log_linear())
    x0, x_t = (v[None] for v in SENTENCES.T)
    log_s = torch.randn(1, 9, V, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z: score_entropy_stationary(noise, z, x0, x_t, tensor([-0.8]).double()), log_s
    )
    s = tensor([0.3, 2.0, 5.0], dtype=torch.float64, requires_grad=True)
    rho = tensor([0.4, 1.0, 7.0], dtype=torch.float64)
    slope = torch.autograd.grad(bregman(s.log(), rho).sum(), s)[0]
    squares = torch.autograd.grad((s - rho).square().sum() / 2, s)[0]
    torch.testing.assert_close(slope, squares / s)


@pytest.mark.parametrize("name", ["uniform", "replace", "mask and uniform", "neighbours"])
def test_explicit_denoising_and_implicit_differ_by_constants(name):
    """SE, DSE and ISE of two scores differ by the same, over all sentences and neighbours at one t."""
    noise, t = NOISES[name](), 0.5
    K, R = noise.K, rate_matrix(noise)
    x_t = sequences(K, L)
    q = forward(noise, t, L)
    p = P @ q
    place = inside(x_t, K)

    def swap(x, i, y):
        return torch.cat([x[:, :i], torch.full_like(x[:, :1], y), x[:, i + 1 :]], 1)

    def losses(log_s):  # (K^L, L, K): one number for every neighbour
        se = dse = ise = 0.0
        for i, y in itertools.product(range(L), range(K)):
            w = torch.where(x_t[:, i] == y, 0, R[y, x_t[:, i]])
            ls, there = log_s[:, i, y], inside(swap(x_t, i, y), K)
            se = se + (p * w * bregman(ls, p[there] / p)).sum()
            dse = dse + (P[:, None] * q * w * bregman(ls.expand_as(q), q[:, there] / q)).nan_to_num(0).sum()
            back = log_s[there, i, x_t[:, i]]  # the score at the neighbour, of coming here
            w_back = torch.where(x_t[:, i] == y, 0, R[x_t[:, i], y])
            ise = ise + (p * (w * ls.exp() - w_back * back)).sum()
        return torch.stack([se, dse, ise])

    assert (place == torch.arange(K**L)).all()
    a, b = (losses(torch.randn(K**L, L, K, dtype=torch.float64)) for _ in range(2))
    torch.testing.assert_close((a - b), (a - b)[0].expand(3), rtol=0, atol=1e-10)


def test_the_minimum_over_scores_is_the_true_score(noise):
    """The denoising loss, weighted by the data's law, is flat at the oracle's answer."""
    process = precise(SEDD(noise, L))
    x, t = sequences(noise.K, L), 0.5
    log_s = MarkovOracle(process, LANGUAGE)(x, at(t, len(x))).nan_to_num(0).requires_grad_()
    total = over_x_t(
        process,
        SENTENCES,
        t,
        lambda x0, x, t: process.diffusion_term_at(lambda x, u: log_s[inside(x, noise.K)], x0, x, t),
    )
    assert torch.autograd.grad((P * total).sum(), log_s)[0].abs().max() < 1e-12


# The bound


def test_one_token_and_the_exact_score_give_minus_log_p(noise):
    """L = 1: diffusion + prior + reconstruction = -log p(x_0) for every x_0, once x_1 starts from its true law."""
    p0 = tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    process = precise(SEDD(noise, 1))

    def net(x, u):
        return process.answer(p0.log().expand(len(x), 1, V), x, u)

    x0 = torch.arange(V)[:, None]
    end = forward(noise, 1.0, 1)
    change = torch.where(end > 0, end * (noise.prior() / (p0 @ end)).log(), 0).sum(1)
    got = dwdse(process, net, x0, 80) + process.prior_term(x0) + change
    got = got + over_x_t(process, x0, FIRST, lambda x, x_t, t: process.reconstruction_term_at(net, x, x_t))
    torch.testing.assert_close(got, -p0.log(), rtol=0, atol=2e-7)


def test_two_tokens_and_the_exact_score(noise):
    """DWDSE + KL(q(x_1 | x_0) || p_1) - log p(x_0 | x just after 0), by Bayes, is -log p(x_0) for every x_0."""
    process = precise(SEDD(noise, L))
    net = MarkovOracle(process, LANGUAGE)
    total = dwdse(process, net, SENTENCES, 80)
    end, start = forward(noise, 1.0, L), forward(noise, FIRST, L)
    total = total + torch.where(end > 0, end * (end / (P @ end)).log(), 0).sum(1)
    left = P[:, None] * start / (P @ start)
    deficit = -torch.where(start > 0, start * left.log(), 0).sum(1)
    torch.testing.assert_close(total + deficit, -LOG_P, rtol=0, atol=5e-7)
    mine = over_x_t(process, SENTENCES, FIRST, lambda x, x_t, t: process.reconstruction_term_at(net, x, x_t))
    assert (
        mine - deficit
    ).abs().max() < 0.05 * deficit.max() + 1e-12  # token by token: second order in the first noise
    if noise.schedule.name == "geometric":
        assert (deficit > 1e-3).all()  # what published bounds leave out
    else:
        assert deficit.abs().max() < 1e-12 and mine.abs().max() < 1e-12
        assert not process.reconstruction_term(net, SENTENCES).any()
    worse = Loose(noise.K, L, 0.3)
    bent = dwdse(process, lambda x, u: net(x, u).nan_to_num(0) + worse(x, u), SENTENCES)
    assert ((P * bent).sum() - (P * total).sum()) > 0


def test_a_network_that_says_0_pays_log_V_per_token(noise):
    """Diffusion + prior + reconstruction = L log V; for every sentence where all tokens are alike to the noise."""
    process = precise(SEDD(noise, L))
    got = dwdse(process, zeros, SENTENCES, 80) + process.prior_term(SENTENCES)
    got = got + over_x_t(
        process, SENTENCES, FIRST, lambda x, x_t, t: process.reconstruction_term_at(zeros, x, x_t)
    )
    assert abs(got.mean() - L * math.log(V)) < 1e-6
    if not isinstance(noise, Neighbours) and type(noise) is not Stationary:
        torch.testing.assert_close(got, torch.full_like(got, L * math.log(V)), rtol=0, atol=1e-6)


def test_bound_and_loss_are_made_of_the_named_terms(noise):
    process = SEDD(noise, L)
    net, t, x0 = Loose(noise.K, L), torch.rand(9) * 0.9 + 0.05, SENTENCES
    x_t = process.corrupt(x0, t)
    torch.manual_seed(1)
    rest = process.prior_term(x0) + process.reconstruction_term(net, x0)
    diffusion = process.diffusion_term_at(net, x0, x_t, t)
    torch.manual_seed(1)
    torch.testing.assert_close(process.bound_at(net, x0, x_t, t), diffusion + rest, rtol=1e-12, atol=0)
    torch.testing.assert_close(process.prior_term(x0), noise.prior_kl(x0).sum(1))
    loss = process.loss_at(net, x0, x_t, t)
    assert loss.dtype == torch.float32 and diffusion.dtype == torch.float64
    torch.testing.assert_close(loss, (diffusion / L).float())
    log_s = process.log_score(net, x_t, t)
    torch.testing.assert_close(
        log_s.gather(-1, x_t.clamp(max=V - 1)[..., None])[x_t < V],
        torch.zeros(int((x_t < V).sum()), 1).double(),
    )
    want = process.rate(t) * score_entropy(noise, log_s, x0, x_t, noise.log_alpha(t)).sum(1)
    torch.testing.assert_close(diffusion, want, rtol=1e-9, atol=1e-12)


def test_drawn_bounds_have_the_right_mean():
    """The evaluator against the exact value, network wrong; stratified times and counted masks."""
    process = precise(SEDD(Absorbing(V, S.geometric(1e-2, 10.0)), L))
    net = Loose(V + 1, L, 0.5)
    want = dwdse(process, net, SENTENCES).mean() + process.prior_term(SENTENCES).mean()
    want = (
        want
        + over_x_t(
            process, SENTENCES, FIRST, lambda x, x_t, t: process.reconstruction_term_at(net, x, x_t)
        ).mean()
    )
    data = SENTENCES.repeat(3000, 1)
    plain, counted = bound(process, net, data, batch=27000), bound(MaskCount(process), net, data, batch=27000)
    assert abs(plain.mean - want) < 5 * plain.se and abs(counted.mean - want) < 5 * counted.se
    assert counted.se < 0.7 * plain.se and plain.se < 0.05


# Absorbing noise: five names, one object


@pytest.mark.parametrize("clock", [S.log_linear(), S.geometric(1e-2, 10.0)])
def test_sedd_is_mdlm_plus_phi_of_the_mass(clock):
    """SEDD - MDLM = weight sum_masks phi(S / r) >= 0, 0 where the mass is right."""
    noise = Absorbing(V, clock)
    one, other, net = precise(SEDD(noise, L)), precise(MDLM(noise, L)), Loose(V + 1, L)
    x0, t = SENTENCES, torch.linspace(0.1, 1, 9).double()
    x_t = one.corrupt(x0, t)
    r = 1 / torch.expm1(-noise.log_alpha(t))
    mass = one.log_score(net, x_t, t).exp().sum(-1) / r[:, None]
    phi = torch.where(x_t == V, mass - 1 - mass.log(), 0)
    gap = one.diffusion_term_at(net, x0, x_t, t) - other.diffusion_term_at(net, x0, x_t, t)
    torch.testing.assert_close(gap, (process_weight(noise, t) * phi.sum(1)), rtol=1e-8, atol=1e-10)
    assert (gap[(x_t == V).any(1)] > 0).all()
    right = lambda x, u: net(x, u).log_softmax(-1) + math.log(V)  # noqa: E731
    torch.testing.assert_close(
        one.diffusion_term_at(right, x0, x_t, t), other.diffusion_term_at(net, x0, x_t, t)
    )
    masks = (x_t == V).any(-1)
    torch.testing.assert_close(
        other.log_score(net, x_t, t).exp().sum(-1)[x_t == V], r[:, None].expand(9, 2)[x_t == V]
    )
    assert masks.any()


@pytest.mark.parametrize("clock", [S.log_linear(), S.geometric(1e-2, 10.0)])
@pytest.mark.parametrize("scaled", [True, False])
def test_sedd_with_the_known_mass_is_mdlm(clock, scaled):
    """Every x_0 and x_t: scores, losses, gradients and laws of steps; score entropy by its definition, not by phi."""
    noise, net = Absorbing(V, clock), Loose(V + 1, L)
    one, other = precise(SEDD(noise, L, scaled=scaled, mass="known")), precise(MDLM(noise, L))
    x0, t = SENTENCES, torch.linspace(0.1, 1, 9).double()
    for _ in range(5):
        x_t = one.corrupt(x0, t)
        log_s = one.log_score(net, x_t, t)
        torch.testing.assert_close(log_s, other.log_score(net, x_t, t))
        masks = x_t == V
        r = 1 / torch.expm1(-noise.log_alpha(t))[:, None].expand(9, 2)
        law = net(x_t, t).softmax(-1)
        torch.testing.assert_close(log_s.exp()[masks], r[masks][:, None] * law[masks])  # r p(y | x_t)
        want = one.rate(t) * score_entropy(noise, log_s, x0, x_t, noise.log_alpha(t)).sum(1)
        got = one.diffusion_term_at(net, x0, x_t, t)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(got, other.diffusion_term_at(net, x0, x_t, t), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(one.loss_at(net, x0, x_t, t), other.loss_at(net, x0, x_t, t))
        out = net(x_t, t).requires_grad_()
        slopes = [
            torch.autograd.grad(p.diffusion_term_at(lambda x, u, f=out: f, x0, x_t, t).sum(), out)[0]
            for p in (one, other)
        ]
        torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-9, atol=1e-12)
        s = t / 2
        torch.testing.assert_close(one.law(log_s, x_t, t, s).sum(-1), torch.ones(9, 2).double())
        opens = (noise.schedule(s) - noise.schedule(t)) / (1 - noise.schedule(t))
        moved = one.law(log_s, x_t, t, s)[..., :V][masks]
        torch.testing.assert_close(moved, (opens[:, None].expand(9, 2)[masks])[:, None] * law[masks])
    assert one.mass == "known" and SEDD(noise, L).mass == "learned"
    answer = one.answer(law.log_softmax(-1), x_t, t)
    again = one.log_score(lambda x, u: answer, x_t, t)
    loo = one.convert(again, x_t, t, "loo")
    torch.testing.assert_close(loo[masks], law.log_softmax(-1)[masks])


def test_the_mass_that_is_known_costs_nothing():
    """What a network pays with a learned mass, less phi(m) of each mask: what it pays with the known one."""
    noise, net = Absorbing(V, S.log_linear()), Loose(V + 1, L)
    free, known = precise(SEDD(noise, L)), precise(SEDD(noise, L, mass="known"))
    x_t, t = tensor([[V, V], [V, 1], [2, V]]), tensor([0.9, 0.5, 0.2]).double()
    x0 = tensor([[0, 2], [1, 1], [2, 2]])
    m = net(x_t, t).exp().mean(-1)
    phi = torch.where(x_t == V, m - 1 - m.log(), 0)
    masks = x_t == V
    gap = free.mask_cost(net, x0, x_t, t) - known.mask_cost(net, x0, x_t, t)
    torch.testing.assert_close(gap, phi)
    assert (phi[masks] > 0).all()


def process_weight(noise, t):
    """-alpha' / (1 - alpha), by a difference quotient."""
    h = 1e-6
    a = lambda t: noise.schedule(t.clamp(max=1))  # noqa: E731
    slope = (a(t) - a(t - h)) / h
    near = (a(t - h) - a(t - 2 * h)) / h
    slope = 1.5 * slope - 0.5 * near  # second order, from the left
    return -slope / (1 - a(t))


def test_weight_is_one_over_t_for_log_linear_noise():
    t = torch.linspace(0.01, 1, 50)
    process = SEDD(Absorbing(V, S.log_linear()), L)
    torch.testing.assert_close(process.weight(t), 1 / t.double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(process.rate(t), 0.999 / (1 - 0.999 * t.double()), rtol=1e-9, atol=0)


def test_d3pm_tends_to_mdlm():
    """The bound of D3PM with T steps tends to MDLM's, whose clock does not matter; and that is any-order autoregression."""
    net = Loose(V + 1, L)
    net.table[1] = 0  # no time: the loss depends on which tokens are masked only
    process = precise(MDLM(Absorbing(V, S.log_linear(1e-9)), L))
    limit = dwdse(process, net, SENTENCES)
    other = dwdse(precise(MDLM(Absorbing(V, S.geometric(1e-9, 20.0)), L)), net, SENTENCES, 120)
    torch.testing.assert_close(limit, other, rtol=0, atol=1e-6)
    both = torch.full((9, 2), V)
    one = [torch.stack([SENTENCES[:, 0], both[:, 1]], 1), torch.stack([both[:, 0], SENTENCES[:, 1]], 1)]
    nll = lambda x: -net(x, torch.zeros(9)).log_softmax(-1).gather(-1, SENTENCES[..., None])[..., 0]  # noqa: E731
    orders = [nll(both)[:, 0] + nll(one[0])[:, 1], nll(both)[:, 1] + nll(one[1])[:, 0]]
    torch.testing.assert_close(limit, sum(orders) / 2, rtol=0, atol=1e-8)
    gaps = []
    for T in (50, 100):
        chain = D3PM(Absorbing(V, S.table(S.log_linear(0.0), T, max_beta=1.0)), L)
        counter = MaskCount(chain)
        value = (
            counter.weight[2] * nll(both).sum(1)
            + counter.weight[1] * (nll(one[0])[:, 1] + nll(one[1])[:, 0]) / 2
        )
        gaps.append((value - limit).abs().max().item())
    assert gaps[1] < 0.02 and gaps[0] / gaps[1] == pytest.approx(2, abs=0.05)


def test_mdlm_reads_its_network_as_a_law():
    process, net = MDLM(Absorbing(V, S.log_linear()), L), Loose(V + 1, L)
    x, t = tensor([[V, 1], [V, V]]), tensor([0.3, 0.8])
    log_p = process.predict_x0(net, x, t)
    want = net(x, t).log_softmax(-1)
    torch.testing.assert_close(log_p[x == V], want[x == V])
    assert log_p[0, 1].tolist() == [-math.inf, 0, -math.inf]
    oracle = MarkovOracle(process, LANGUAGE)
    torch.testing.assert_close(process.predict_x0(oracle, x, t)[x == V], oracle.loo(x, t)[x == V])


def test_counting_weights_and_times():
    """w(n) = int weight(t) P(M = n) dt; given n the time has the law weight(t) P(M = n) / w(n)."""
    for clock in (S.log_linear(0.2), S.geometric(0.1, 3.0)):
        noise = Absorbing(V, clock)
        counter = MaskCount(SEDD(noise, 4))
        assert counter.T == 4 and counter.weight[0] == 0
        for n in (1, 3, 4):
            nodes, weights = (tensor(v).double() for v in times(60))
            q = -torch.expm1(noise.log_alpha(nodes))
            density = counter.process.weight(nodes) * math.comb(4, n) * q**n * (1 - q) ** (4 - n)
            torch.testing.assert_close(counter.weight[n], (weights * density).sum(), rtol=1e-7, atol=0)
            told = counter.law.told(torch.full((20000,), n))
            assert told.dtype == torch.float32 and told.min() > 0 and told.max() <= 1
            mean = (weights * density * nodes).sum() / counter.weight[n]
            square = (weights * density * nodes**2).sum() / counter.weight[n]
            assert abs(told.double().mean() - mean) < 5 * ((square - mean**2) / 20000).sqrt()
            assert abs(told.double().square().mean() - square) < 0.01


def test_counted_loss_is_per_token():
    process = SEDD(Absorbing(V, S.geometric(1e-2, 10.0)), L)
    counter, n = MaskCount(process), tensor([1, 2, 2])
    net, x0 = Loose(V + 1, L), SENTENCES[:3]
    torch.manual_seed(1)
    loss = counter.loss(net, x0, n)
    torch.manual_seed(1)
    value = counter.diffusion_term(net, x0, n)
    torch.testing.assert_close(loss, (value / 2).float())
    torch.manual_seed(1)
    all_of_it = counter.bound(net, x0, n)
    torch.manual_seed(1)
    value = counter.diffusion_term(net, x0, n)
    torch.testing.assert_close(
        all_of_it, value + process.prior_term(x0) + process.reconstruction_term(net, x0)
    )


def test_rows_give_the_same_loss_and_samples():
    net = TokenNet(V + 1, V, 16, 2, 1, radius=1)
    for p in net.parameters():
        p.data.normal_(std=0.3)
    known = lambda noise, length: SEDD(noise, length, mass="known")  # noqa: E731
    for kind in (SEDD, MDLM, known):
        process, asked = kind(Absorbing(V, S.log_linear()), 5), []
        x0, t = torch.randint(0, V, (8, 5)), process.sample_t(8)
        outcomes = []
        for picks in (False, True):
            net.takes_at = picks
            torch.manual_seed(1)
            loss = process.loss(net, x0, t)
            outcomes.append([loss, *torch.autograd.grad(loss.mean(), list(net.parameters()))])
            x = last(sample(process, net, 2000, 4))[1]
            outcomes[-1].append((x == 0).double().mean())
        for a, b in zip(*(o[:-1] for o in outcomes), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert abs(outcomes[0][-1] - outcomes[1][-1]) < 0.04

        def spy(x, u, at, asked=asked):
            asked.append(int(at.sum()))
            return torch.zeros(asked[-1], V)

        spy.takes_at = True
        x = tensor([[0, 3, 1, 3, 3]])
        process.loss(spy, x0[:1], t[:1])
        process.step(spy, x, tensor([1.0]), tensor([0.0]))
        assert asked[-1] == 3
        calls = len(asked)
        assert torch.equal(process.step(spy, x0[:1], tensor([1.0]), tensor([0.5])), x0[:1])
        assert len(asked) == calls  # no masks, no question


@pytest.mark.parametrize("sampler", ["tweedie", "euler"])
def test_a_known_mass_asks_about_masks_that_open(sampler):
    """How many are asked is how many open: a fair draw with the noise's chance, Euler's its own."""
    asked = []

    def spy(x, u, at):
        asked.append(int(at.sum()))
        return torch.randn(asked[-1], V)

    spy.takes_at = True
    x, clock = torch.full((500, 6), V), S.geometric(1e-2, 10.0)
    process = SEDD(Absorbing(V, clock), 6, sampler, mass="known")
    for t, s in ((0.9, 0.8), (0.5, 0.45), (0.7, 0.0)):
        t_, s_ = torch.full((500,), t), torch.full((500,), s)
        out = process.step(spy, x, t_, s_)
        assert int((out < V).sum()) == asked[-1]
        a_t, a_s = (clock(tensor(v).double()) if v else 1.0 for v in (t, s))
        chance = (a_s - a_t) / (1 - a_t)
        if sampler == "euler" and s:
            slope = clock.rate(tensor([t]).double())[0]
            chance = (t - s) * slope * a_t / (1 - a_t)
        chance = min(float(chance), 1.0)
        assert abs(asked[-1] / 3000 - chance) < 5 * math.sqrt(chance * (1 - chance) / 3000) + 1e-9


def half(x, u):
    return torch.full((*x.shape, V), 0.1).bfloat16()


def test_half_precision_logits_are_widened():
    for noise in (Uniform(V, S.geometric()), Absorbing(V, S.log_linear())):
        process = SEDD(noise, L)
        assert process.log_score(half, SENTENCES, torch.full((9,), 0.3)).dtype == torch.float32
        torch.manual_seed(1)
        low = process.loss(half, SENTENCES, torch.full((9,), 0.9))
        torch.manual_seed(1)
        want = process.loss(lambda x, u: half(x, u).float(), SENTENCES, torch.full((9,), 0.9))
        assert torch.equal(low, want) and low.dtype == torch.float32
        assert process.step(half, SENTENCES, torch.full((9,), 0.9), torch.full((9,), 0.1)).shape == (9, 2)


# Conversions


def test_scores_convert_to_laws_and_back(noise):
    process, x, t = precise(SEDD(noise, L)), sequences(noise.K, L), 0.5
    oracle = MarkovOracle(process, LANGUAGE)
    times_ = at(t, len(x))
    log_s = process.log_score(oracle, x, times_)
    q = forward(noise, t, L)
    p = P @ q
    for i, y in itertools.product(range(L), range(V)):
        there = x.clone()
        there[:, i] = y
        torch.testing.assert_close(log_s[:, i, y].exp(), p[inside(there, noise.K)] / p, rtol=1e-9, atol=1e-12)
    loo = process.convert(log_s, x, times_, "loo")
    torch.testing.assert_close(loo.exp(), oracle.loo(x, times_).exp(), rtol=0, atol=1e-9)
    posterior = process.convert(log_s, x, times_, "posterior").exp()
    first = (P[:, None] * q / p).T  # p(x_0 | x_t)
    for i, k in itertools.product(range(L), range(V)):
        want = first[:, SENTENCES[:, i] == k].sum(1)
        torch.testing.assert_close(posterior[:, i, k], want, rtol=0, atol=1e-9)
    back = process.convert(log_s, x, times_, "score")
    assert back.shape[-1] == noise.K
    torch.testing.assert_close(back[..., :V], log_s, rtol=0, atol=1e-7)


def test_unscaled_networks_say_the_log_score_itself(noise):
    scaled, plain = precise(SEDD(noise, L)), precise(SEDD(noise, L, scaled=False))
    x, t = sequences(noise.K, L), at(0.3, noise.K**L)
    a, b = MarkovOracle(scaled, LANGUAGE), MarkovOracle(plain, LANGUAGE)
    torch.testing.assert_close(scaled.log_score(a, x, t), plain.log_score(b, x, t))
    torch.testing.assert_close(b(x, t), noise.score_from_loo(b.loo(x, t), x, t)[..., :V])
    for seed in (1, 2):
        torch.manual_seed(seed)
        one = scaled.diffusion_term(a, SENTENCES, at(0.3, 9))
        torch.manual_seed(seed)
        torch.testing.assert_close(one, plain.diffusion_term(b, SENTENCES, at(0.3, 9)))
    flat = scaled.log_score(zeros, x, t)
    want = noise.score_from_loo(zeros(x, t).log_softmax(-1), x, t)[..., :V]
    torch.testing.assert_close(flat, want)


def test_udlm_is_sedd_uniform():
    """UDLM's loss (arXiv:2412.10193, eq. 18) with s_y = xbar_y / xbar_x, xbar = K alpha x_theta + 1 - alpha."""
    K, a = 4, 0.35
    x0, x_t = (v[None] for v in torch.cartesian_prod(torch.arange(K), torch.arange(K)).T)
    law = torch.randn(1, 16, K, dtype=torch.float64).softmax(-1)
    one = torch.nn.functional.one_hot(x0, K).double()
    bar, model = (K * a * p + 1 - a for p in (one, law))
    here = lambda v: v.gather(-1, x_t[..., None])  # noqa: E731
    inner = (
        K / here(bar)
        - K / here(model)
        - ((bar / here(bar)) * (here(model) * bar / (model * here(bar))).log()).sum(-1, keepdim=True)
    )
    udlm = -inner[..., 0] / (K * a) * a  # alpha' = -sigma' alpha; per unit of sigma
    log_s = (model / here(model)).log()
    got = score_entropy_stationary(
        Uniform(K, S.log_linear()), log_s, x0, x_t, tensor([math.log(a)], dtype=torch.float64)
    )
    torch.testing.assert_close(got, udlm, rtol=1e-10, atol=1e-12)


def test_flow_matching_with_uniform_noise_is_a_looser_bound():
    """With the posterior, its best network, the generalised KL exceeds the entropy; K = 2: 0.823 against 0.673."""
    p0 = tensor([0.6, 0.4], dtype=torch.float64)
    v, w = np.polynomial.legendre.leggauss(60)
    total = 0.0
    for node, weight in zip((v + 1) / 2, w / 2, strict=True):
        q = node * torch.eye(2) + (1 - node) / 2  # kappa = node is how much of the data is there
        joint = p0[:, None] * q.double()
        post = joint / joint.sum(0)
        same = torch.eye(2).double()
        cost = same - post.diag() - (1 - same) * post.log()
        total += weight / (1 - node) * (joint * cost).sum().item()
    entropy = -(p0 * p0.log()).sum().item()
    assert entropy == pytest.approx(0.673, abs=1e-3) and total == pytest.approx(0.823, abs=2e-3)


# Sampling


def chain(process, net, steps: int) -> torch.Tensor:
    """The law of what `sample` ends in, from the laws of its steps."""
    K, x = process.noise.K, sequences(process.noise.K, process.length)
    prior = process.noise.prior()
    law = prior
    for _ in range(process.length - 1):
        law = torch.kron(law, prior)
    grid = process.times(steps).double()
    for t, s in itertools.pairwise(grid.tolist()):
        t, s = at(t, len(x)), at(s, len(x))
        each = process.law(process.log_score(net, x, t), x, t, s)
        joint = each[:, 0]
        for i in range(1, process.length):
            joint = (joint[:, :, None] * each[:, i, None]).flatten(1)
        law = law @ joint
    return law[inside(SENTENCES if process.length == 2 else torch.arange(V)[:, None], K)]


@pytest.mark.parametrize("sampler", ["tweedie", "euler"])
def test_steps_have_the_law_that_is_written_down(noise, sampler):
    """The fast two-stage draws against `law`, for a wrong network, to a middle time and to 0."""
    for mass in ("learned", "known") if isinstance(noise, Absorbing) else ("learned",):
        drawn_like_law(SEDD(noise, L, sampler=sampler, mass=mass), Loose(noise.K, L, 0.7))


def drawn_like_law(process, net):
    noise = process.noise
    x = sequences(noise.K, L)
    n = 4000
    for t, s in ((0.8, 0.6), (0.8, 0.0), (0.9, 0.85)):
        law = process.law(
            process.log_score(net, x, torch.full((len(x),), t)),
            x,
            torch.full((len(x),), t),
            torch.full((len(x),), s),
        )
        many = x.repeat_interleave(n, 0)
        out = process.step(net, many, torch.full((len(many),), t), torch.full((len(many),), s))
        for i in range(L):
            share = nn.functional.one_hot(out[:, i], noise.K).double().reshape(len(x), n, -1).mean(1)
            assert ((share - law[:, i]).abs() < 5.5 * (law[:, i] * (1 - law[:, i]) / n).sqrt() + 1e-3).all()
        if s == 0:
            assert out.max() < V


def test_tweedie_is_exact_for_one_token(noise):
    """L = 1: one step of any size gives p(x_s | x_t); the end is the data, whatever the number of steps."""
    p0 = tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    process = precise(SEDD(noise, 1))

    def net(x, u):
        return process.answer(p0.log().expand(len(x), 1, V), x, u)

    x = torch.arange(noise.K)[:, None]
    for t, s in ((1.0, 0.5), (0.7, 0.1), (0.9, 0.0)):
        q_s = p0 @ (forward(noise, s, 1) if s else torch.eye(V, noise.K).double())
        step = noise.matrix(at(s, 1), at(t, 1))[0]
        want = (q_s[:, None] * step / (q_s @ step)).T
        got = process.law(process.log_score(net, x, at(t, len(x))), x, at(t, len(x)), at(s, len(x)))[:, 0]
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)  # exp(-D R) is large: rounding grows with it
    if noise.schedule.name == "log-linear":
        return  # starts a little off its true law
    for steps in (1, 2, 7):
        torch.testing.assert_close(chain(process, net, steps), p0, rtol=0, atol=2e-4)


def test_euler_is_first_order_for_one_token_and_tweedie_exact():
    """Total variation from the data halves with the step, Tweedie's is 0."""
    p0 = tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    noise = Uniform(V, S.geometric(1e-4, 4.0))
    off = {}
    for sampler in ("euler", "tweedie"):
        process = precise(SEDD(noise, 1, sampler=sampler))
        net = lambda x, u, process=process: process.answer(p0.log().expand(len(x), 1, V), x, u)  # noqa: E731
        off[sampler] = [(chain(process, net, N) - p0).abs().sum().item() / 2 for N in (100, 200)]
    assert max(off["tweedie"]) < 1e-4 and off["euler"][0] > 1e-3
    assert off["euler"][0] / off["euler"][1] == pytest.approx(2, abs=0.2)


def test_order_of_convergence_for_two_tokens():
    """Both are of first order; the theorem about Tweedie is about one step, not about which is nearer in the end."""
    noise = Uniform(V, S.geometric(1e-4, 4.0))
    off = {}
    for sampler in ("tweedie", "euler"):
        process = precise(SEDD(noise, L, sampler=sampler))
        net = MarkovOracle(process, LANGUAGE)
        off[sampler] = [(chain(process, net, N) - P).abs().sum().item() / 2 for N in (60, 120)]
    for sampler in off:
        assert off[sampler][0] / off[sampler][1] == pytest.approx(2, abs=0.25), off
    assert off["tweedie"][0] > 1e-3


def test_euler_breaks_where_steps_are_too_long():
    """Geometric noise to 20: sigma'(1) = 244, so that a chance of staying goes below 0 until N ~ 244 (K - 1) / K."""
    noise = Uniform(V, S.geometric())
    assert SEDD(noise, L).rate(tensor([1.0])).item() == pytest.approx(20 * math.log(2e5), rel=1e-9)
    process = precise(SEDD(noise, L, sampler="euler"))
    x, t = SENTENCES, at(1.0, 9)
    for N, broken in ((100, True), (200, False)):
        log_s = process.log_score(zeros, x, t)
        stays = process.law(log_s, x, t, t - 1 / N).gather(-1, x[..., None])
        assert (stays == 0).all() == broken
        moves = (1 / N) * process.rate(t)[:, None] * (V - 1) / V
        assert (moves > 1).all() == broken
    good = SEDD(noise, L)
    stays = good.law(log_s, x, t, t - 1 / 100).gather(-1, x[..., None])
    assert (stays > 0).all()


def test_euler_is_tweedie_for_masks_and_log_linear_noise():
    """e^{sigma_t - sigma_s} - 1 = sigma'(t) (t - s): one law, whatever the score."""
    noise = Absorbing(V, S.log_linear())
    a, b = (precise(SEDD(noise, L, sampler=k)) for k in ("tweedie", "euler"))
    x, net = sequences(V + 1, L), Loose(V + 1, L, 0.5)
    for t, s in ((1.0, 0.9), (0.5, 0.49), (0.3, 0.0)):
        t, s = at(t, 16), at(s, 16)
        log_s = a.log_score(net, x, t)
        torch.testing.assert_close(a.law(log_s, x, t, s), b.law(log_s, x, t, s), rtol=1e-9, atol=1e-12)
    other = Absorbing(V, S.geometric(1e-2, 10.0))
    a, b = (precise(SEDD(other, L, sampler=k)) for k in ("tweedie", "euler"))
    log_s, t, s = a.log_score(net, x, at(0.9, 16)), at(0.9, 16), at(0.8, 16)
    assert (a.law(log_s, x, t, s) - b.law(log_s, x, t, s)).abs().max() > 0.05


@pytest.mark.parametrize("name", ["uniform, log-linear", "mask and uniform"])
def test_the_reverse_equation_brings_the_data_back(name):
    """D p / dt backwards with the rates sigma' R[y, x] s_y, by Runge-Kutta from p_1 to p near 0."""
    noise = NOISES[name]()
    process = precise(SEDD(noise, L))
    net, K, R = MarkovOracle(process, LANGUAGE), noise.K, rate_matrix(noise)
    x = sequences(K, L)

    def slope(p, t):
        t_ = at(t, len(x))
        log_s = process.convert(process.log_score(net, x, t_), x, t_, "score")
        flow = torch.zeros(len(x), len(x)).double()
        for i, y in itertools.product(range(L), range(K)):
            there = x.clone()
            there[:, i] = y
            speed = torch.where(x[:, i] == y, 0, R[y, x[:, i]] * log_s[:, i, y].exp())
            flow[torch.arange(len(x)), inside(there, K)] += speed.nan_to_num(0)
        flow = flow - flow.sum(1).diag()
        return process.rate(t_[:1]) * (p @ flow)

    start, end, N = 0.9, 0.6, 20
    p, h = P @ forward(noise, start, L), (start - end) / N
    for k in range(N):
        t = start - k * h
        a = slope(p, t)
        b = slope(p + h / 2 * a, t - h / 2)
        c = slope(p + h / 2 * b, t - h / 2)
        d = slope(p + h * c, t - h)
        p = p + h / 6 * (a + 2 * b + 2 * c + d)
    torch.testing.assert_close(p, P @ forward(noise, end, L), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", ["tweedie", "euler"])
def test_sampling_with_a_perfect_network(sampler):
    for name, steps in (("uniform", 120), ("absorbing", 32)):
        process = SEDD(NOISES[name](), L, sampler=sampler)
        x = last(sample(process, MarkovOracle(process, LANGUAGE), 4000, steps))[1]
        share = inside(x, V).bincount(minlength=9) / 4000
        assert (share - P).abs().sum() / 2 < 0.05


def test_a_mask_with_too_much_mass_still_ends_as_data():
    """Learned masses need not be r: a chance above 1 is 1, and at s = 0 every mask opens however small the mass is."""
    for f in (-20.0, 20.0):
        for sampler in ("tweedie", "euler"):
            process = SEDD(Absorbing(V, S.log_linear()), L, sampler=sampler)
            x = last(sample(process, lambda x, u, f=f: torch.full((*x.shape, V), f), 50, 5))[1]
            assert x.max() < V
        step = process.step(
            lambda x, u, f=f: torch.full((*x.shape, V), f),
            torch.full((50, L), V),
            torch.full((50,), 0.5),
            torch.full((50,), 0.4),
        )
        assert (step == V).all() if f < 0 else (step < V).all()
    nothing = tensor([[0, 1]])

    def never(x, u):
        raise AssertionError("no mask, no question")

    assert torch.equal(process.step(never, nothing, tensor([0.5]), tensor([0.0])), nothing)


def test_rare_tokens_come_as_often_as_they_should():
    """A chance of 2e-8 per step: two stages draw it right; a float32 race draws 0.11 of it (u / (e^u - 1))."""
    q, n = 2e-8, 5e8
    process = MDLM(Absorbing(2, S.log_linear()), 1)
    t, s = torch.full((1,), 0.5), torch.full((1,), 0.5 - 1e-4)
    opens = process.noise.unmasking_probability(s, t).item()
    assert opens == pytest.approx(2e-4, rel=1e-3)
    law = tensor([1 - q / opens, q / opens]).double()  # rare under a mask that opens seldom
    assert opens * law[1].item() == pytest.approx(q)
    drawn = (draw(law.expand(int(n * opens), 2)) == 1).sum().item()  # given that it opens
    assert abs(drawn - n * q) < 5 * math.sqrt(n * q) + 1
    mu = 2.0**-24 / q
    assert mu / math.expm1(mu) < 0.2


def test_mdlm_asks_only_when_a_mask_opens():
    """N (1 - (1 - 1/N)^(B L)) calls expected."""
    N, calls = 30, []
    process = MDLM(Absorbing(V, S.log_linear(1e-9)), 10)

    def net(x, u):
        calls.append(1)
        return torch.zeros(*x.shape, V)

    for _ in range(20):
        last(sample(process, net, 1, N))
    want = N * (1 - (1 - 1 / N) ** 10)
    assert abs(len(calls) / 20 - want) < 5 * math.sqrt(want / 20)


def test_first_hitting_is_the_continuous_limit():
    """Reveal times are order statistics of U(0, 1); any mask is next; perfect networks give the data's law."""
    process = SEDD(Absorbing(V, S.log_linear(1e-9)), L)
    states = list(first_hitting(process, MarkovOracle(process, LANGUAGE), 20000))
    assert len(states) == L + 1 and (states[0][0] == 1).all() and (states[0][1] == V).double().mean() > 0.999
    first, second = states[1][0].double(), states[2][0].double()
    for got, power in ((first, 2), (second, 1)):
        want = torch.linspace(0, 1, 20000).double() ** (1 / power)
        if power == 1:
            want = 1 - (1 - torch.linspace(0, 1, 20000).double()).sqrt()  # smaller of two
        assert (got.sort().values - want).abs().max() < 0.02
    left = (states[1][1] == V).sum(1)
    assert (left == 1).double().mean() > 0.999
    where = (states[1][1] == V).double().mean(0)
    assert (where - 0.5).abs().max() < 0.02
    share = inside(states[-1][1], V).bincount(minlength=9) / 20000
    assert ((share - P).abs() < 5 * (P / 20000).sqrt()).all()


def test_first_hitting_keeps_what_is_given():
    process = SEDD(Absorbing(V, S.geometric()), 4)
    net = Loose(V + 1, 4)
    clamp = process.given({1: tensor([2, 0])}, 50)
    states = list(first_hitting(process, net, 50, clamp))
    assert len(states) == 3
    assert all((x[:, 1] == 2).all() and (x[:, 2] == 0).all() for _, x in states)
    assert states[-1][1].max() < V
    times_ = torch.stack([t for t, _ in states])
    assert (times_.diff(dim=0) < 0).all() and (times_ > 0).all()


def test_given_pieces_are_prompts_and_contexts():
    process = SEDD(Absorbing(V, S.log_linear()), 5)
    clamp = process.given({0: tensor([1, 2]), 4: tensor([0])}, 3)
    x = clamp(torch.full((3, 5), V))
    assert x.tolist() == [[1, 2, V, V, 0]] * 3
    pair = SEDD(Absorbing(V, S.log_linear()), L)
    x = last(sample(pair, MarkovOracle(pair, LANGUAGE), 20000, 8, clamp=pair.given({0: tensor([1])}, 20000)))[
        1
    ]
    assert (x[:, 0] == 1).all()
    assert ((x[:, 1].bincount(minlength=V) / 20000 - LANGUAGE.move[1]).abs() < 0.02).all()


def test_prior_is_drawn_from_the_noise(noise):
    x = SEDD(noise, L).prior(20000)
    share = x.flatten().bincount(minlength=noise.K) / 40000
    assert x.shape == (20000, L) and ((share - noise.prior()).abs() < 0.015).all()


def test_defaults():
    process = SEDD(Uniform(V, S.geometric()), L)
    assert (process.T, process.sampler, process.scaled, process.length) == (1.0, "tweedie", True, L)
    assert MDLM(Absorbing(V, S.log_linear()), L).T == 1.0


# Bad input


def bent(value):
    return lambda x, u: torch.full((*x.shape, V), value)


UNIFORM, MASKS = (
    (lambda: SEDD(Uniform(V, S.geometric()), L)),
    (lambda: SEDD(Absorbing(V, S.log_linear()), L)),
)
UP = S.Schedule("up and down", lambda u: -(u - 0.5).square())
HALF, ZERO, X = tensor([0.5]), tensor([0.0]), tensor([[0, 1]])


@pytest.mark.parametrize("call, error, words", [
    (lambda: SEDD(Uniform(V, S.table(S.cosine(), 10)), L), ValueError, "noise must have a schedule as its clock"),
    (lambda: SEDD(gaussian(V, tensor([0.1, 0.2])), L), ValueError, "noise must be a semigroup, .* not StepMatrices"),
    (lambda: SEDD(Uniform(V, S.log_linear(0.0)), L), ValueError, r"noise must leave alpha_bar\(1\) > 0"),
    (lambda: SEDD(Uniform(V, UP), L), ValueError, "noise must grow with time, but sigma does not increase after u = 0"),
    (lambda: SEDD(Uniform(V, S.Schedule("late", lambda u: -(u - 0.3).clamp(min=0))), L), ValueError, "sigma does not increase after u = 0$"),
    (lambda: SEDD(Uniform(V, S.Schedule("stops", lambda u: -u.clamp(max=0.5))), L), ValueError, "sigma does not increase after u = 0.5"),
    (lambda: SEDD(Uniform(V, S.geometric()), 0), ValueError, "length must be at least 1, not 0"),
    (lambda: SEDD(Uniform(V, S.geometric()), 2.0), TypeError, "length must be an int, not float"),
    (lambda: SEDD(Uniform(V, S.geometric()), L, sampler="heun"), ValueError, "sampler must be one of tweedie, euler, not 'heun'"),
    (lambda: MDLM(Uniform(V, S.geometric()), L), ValueError, "noise must be absorbing, not Uniform"),
    (lambda: MaskCount(UNIFORM()), ValueError, "on absorbing noise, not StationarySEDD of Uniform"),
    (lambda: first_hitting(UNIFORM(), None, 1), ValueError, "process must have absorbing noise in continuous time"),
    (lambda: first_hitting(MASKS(), None, 0), ValueError, "n must be at least 1"),
    (lambda: UNIFORM().loss(bent(0.0), X, ZERO), ValueError, r"t must lie in \(0, 1.0\], but t = 0 in example 0"),
    (lambda: UNIFORM().loss(bent(0.0), X, tensor([1.5])), ValueError, r"t must lie in \[0, 1.0\]"),
    (lambda: MASKS().bound(bent(0.0), X, tensor([-0.5])), ValueError, r"t must lie in \[0, 1.0\]"),
    (lambda: MASKS().bound(bent(0.0), X, tensor([1])), TypeError, "t must hold floats, not torch.int64"),
    (lambda: MASKS().log_score(bent(0.0), X, ZERO), ValueError, r"t must lie in \(0, 1.0\]"),
    (lambda: MASKS().loss(bent(0.0), tensor([[0, V]]), HALF), ValueError, "x0 must lie in 0..2, but holds 3: MASK"),
    (lambda: MASKS().prior_term(tensor([[0, V]])), ValueError, "x0 must lie in 0..2"),
    (lambda: MASKS().corrupt(tensor([[0, V]]), HALF), ValueError, "x0 must lie in 0..2"),
    (lambda: MASKS().corrupt(tensor([[0, 1]]), tensor([1.5])), ValueError, "t must lie in"),
    (lambda: MASKS().log_score(bent(0.0), tensor([[0, V + 1]]), HALF), ValueError, "x_t must lie in 0..3"),
    (lambda: MASKS().step(None, tensor([[0, V + 1]]), HALF, ZERO), ValueError, "x must lie in 0..3"),
    (lambda: MASKS().step(None, X, HALF, HALF), ValueError, "s must be before t"),
    (lambda: MASKS().step(None, tensor([[0, 1, 2]]), HALF, ZERO), ValueError, r"x must have shape \(B, 2\), not \(1, 3\)"),
    (lambda: UNIFORM().loss(bent(math.nan), X, HALF), FloatingPointError, "the model's output must be finite, but at t = 0.5 it is not in 1 of 1 examples"),
    (lambda: MASKS().loss(bent(math.nan), X, tensor([1.0])), FloatingPointError, "the model's output must be finite"),
    (lambda: UNIFORM().step(bent(math.nan), X, HALF, ZERO), FloatingPointError, "the model's output must be finite"),
    (lambda: MASKS().step(bent(math.nan), tensor([[V, V]]), HALF, ZERO), FloatingPointError, "the model's output must be finite"),
    (lambda: MDLM(Absorbing(V, S.log_linear()), L).step(bent(math.nan), tensor([[V, V]]), HALF, ZERO), FloatingPointError, "the model's output must be finite"),
    (lambda: SEDD(Uniform(V, S.log_linear()), L, mass="known"), ValueError, "mass can be known for absorbing noise only, not for Uniform"),
    (lambda: SEDD(MaskUniform(V, S.log_linear()), L, mass="known"), ValueError, "mass can be known for absorbing noise only, not for MaskUniform"),
    (lambda: MaskedSEDD(Absorbing(V, S.log_linear()), L, mass="known"), ValueError, "mass of MaskedSEDD is 'learned', not 'known'"),
    (lambda: KnownMassSEDD(Absorbing(V, S.log_linear()), L, mass="learned"), ValueError, "mass of KnownMassSEDD is 'known', not 'learned'"),
    (lambda: SEDD(Absorbing(V, S.log_linear()), L, mass="right"), ValueError, "mass must be one of learned, known"),
    (lambda: MASKS().convert(torch.zeros(1, L, V), X, HALF, "x0"), ValueError, "to must be one of loo, posterior, score"),
    (lambda: MASKS().given({0: tensor([0, 1, 2])}, 1), ValueError, r"a piece must lie in 0..1, but one of 3 tokens starts at 0"),
    (lambda: MASKS().given({-1: tensor([0])}, 1), ValueError, "a piece must lie in 0..1, but one of 1 tokens starts at -1"),
    (lambda: MASKS().given({2: tensor([0])}, 1), ValueError, "a piece must lie in 0..1, but one of 1 tokens starts at 2"),
    (lambda: MASKS().given({0: tensor([], dtype=torch.long)}, 1), ValueError, "a piece must lie in 0..1, but one of 0 tokens starts at 0"),
    (lambda: MASKS().given({0: tensor([0, 1]), 1: tensor([0])}, 1), ValueError, "pieces must not overlap, but two hold position 1"),
    (lambda: MASKS().given({0: tensor([V])}, 1), ValueError, "a piece must lie in 0..2, but holds 3: MASK"),
    (lambda: MASKS().given({0: tensor([0.0])}, 1), TypeError, "a piece must hold integers"),
    (lambda: MarkovOracle(SEDD(Uniform(4, S.geometric()), L), LANGUAGE), ValueError, "the language must have the noise's 4 tokens, not 3"),
])  # fmt: skip
def test_bad_input_is_named(call, error, words, unchecked):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("kind", [MaskUniform, Uniform, Absorbing])
def test_euler_keeps_the_rates_of_t(kind):
    """Row x of I + (t - s) sigma'(t) (R[y, x] s_y off the diagonal), a state at a time; eq. 17."""
    noise = kind(V, S.log_linear())
    sampler = SAMPLERS["euler"]
    t, s = at(0.6, 1), at(0.55, 1)
    h = 0.05 * noise.schedule.rate(tensor([0.6]).double()).item()
    R = rate_matrix(noise)
    for x in range(noise.K):
        log_s = torch.randn(1, 1, V).double()
        p = sampler.law(noise, log_s, tensor([[x]]), t, s)[0, 0]
        scores = log_s[0, 0].exp().tolist() + [1.0] * (noise.K - V)
        jumps = [h * R[y, x].item() * scores[y] if y != x else 0.0 for y in range(noise.K)]
        want = tensor(jumps).double()
        want[x] = 1 - want.sum()
        assert want.min() >= 0
        torch.testing.assert_close(p, want, rtol=1e-5, atol=1e-7)
