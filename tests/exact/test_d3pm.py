"""D3PM against enumeration: every x_0, every x_t, every path, on vocabularies of two to four tokens."""

# ruff: noqa: E501 (one line for each bad input)

import itertools
import math

import pytest
import torch
from torch import nn, tensor

from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.d3pm import D3PM
from course_lib.data import MarkovLanguage
from course_lib.evaluate import bound
from course_lib.infilling import keep
from course_lib.mask_count import MaskCount
from course_lib.mask_uniform import MaskUniform
from course_lib.nets import TokenNet
from course_lib.oracle import MarkovOracle
from course_lib.ordered import Ordered
from course_lib.process import last, sample
from course_lib.shapes import upcast
from course_lib.stationary import Stationary, Uniform
from course_lib.structured import Neighbours, StepMatrices, band, gaussian
from tests.helpers import inside, sequences

V, L, T = 3, 2, 4
LINE = S.table(S.log_linear(0.0), T, max_beta=1.0)
CURVE = S.table(S.cosine(power=1), T)
RATES = tensor([[-1.0, 1, 0], [1, -2, 1], [0, 1, -1]], dtype=torch.float64)
BETA = torch.linspace(0.2, 0.7, T, dtype=torch.float64)
NOISES = {
    "uniform": lambda: Uniform(V, CURVE),
    "absorbing": lambda: Absorbing(V, LINE),
    "absorbing, not to 0": lambda: Absorbing(V, CURVE),
    "replace": lambda: Stationary(tensor([0.2, 0.3, 0.5], dtype=torch.float64), CURVE),
    "mask and uniform": lambda: MaskUniform(V, CURVE),
    "neighbours": lambda: Neighbours(RATES, CURVE),
    "gaussian": lambda: gaussian(V, BETA),
    "band": lambda: band(V, BETA, 1),
}
LANGUAGE = MarkovLanguage(V, L, sharpness=1.5, seed=3)
SENTENCES = torch.cartesian_prod(torch.arange(V), torch.arange(V))
LOG_P = LANGUAGE.log_prob(SENTENCES)


@pytest.fixture(params=NOISES)
def noise(request):
    return NOISES[request.param]()


class Loose(nn.Module):
    """A network that knows nothing and depends on everything: random logits for each x_t and t."""

    def __init__(self, K: int, length: int, T: int, timeless: bool = False):
        super().__init__()
        self.table = 1.5 * torch.randn(K**length, T + 1, length, V, dtype=torch.float64)
        self.K, self.T, self.timeless = K, T, timeless

    def forward(self, x, u):
        return self.table[inside(x, self.K), (u * self.T).round().long() * (not self.timeless)]


def forward_law(noise, s: int, t: int, length: int) -> torch.Tensor:
    """q(x_t | x_s) of whole sequences, (K^L, K^L)."""
    Q = out = noise.matrix(tensor([s]), tensor([t]))[0]
    for _ in range(length - 1):
        out = torch.kron(out, Q)
    return out


def reverse_law(process, net, s: int, t: int) -> torch.Tensor:
    """p(x_s | x_t) of whole sequences, (K^L from, K^L to), by process.predict_x0 and Bayes' rule."""
    noise, x = process.noise, sequences(process.noise.K, process.length)
    times = torch.full((len(x),), t)
    p0 = process.predict_x0(net, x, times).exp()
    Q, Q_s = (noise.matrix(tensor([a]), tensor([b]))[0] for a, b in ((s, t), (0, s)))
    per_token = torch.einsum("blk,kj,jbl->blj", p0, Q_s[: noise.V], Q[:, x])
    per_token = per_token / per_token.sum(-1, keepdim=True)
    out = per_token[:, 0]
    for i in range(1, process.length):
        out = (out[:, :, None] * per_token[:, i, None]).flatten(1)
    return out


def exact_bound(process, net, x0: torch.Tensor) -> torch.Tensor:
    """The mean of process.bound over t and over x_t, for each x_0: all x_t are put in by hand."""
    noise, K = process.noise, process.noise.K
    all_x, total = sequences(K, process.length), 0.0
    for t in range(1, process.T + 1):
        q = forward_law(noise, 0, t, process.length)[inside(x0, K)]  # (N, K^L)
        a, b = (q > 0).nonzero(as_tuple=True)
        values = process.bound_at(net, x0[a], all_x[b], torch.full((len(a),), t))
        total = total + torch.zeros(len(x0)).double().index_add(0, a, q[a, b] * values)
    return total / process.T


# The bound


def test_bound_is_the_sum_over_all_paths(noise):
    """E_q log q(x_1..x_T | x_0) / p(x_0..x_T), over all K^(LT) paths, for a network that is wrong."""
    process = D3PM(noise, L)
    net, K = Loose(noise.K, L, T), noise.K
    prior = noise.prior()
    log_prior = (prior[:, None] * prior).flatten().log()
    steps = [forward_law(noise, t - 1, t, L) for t in range(1, T + 1)]
    back = [reverse_law(process, net, t - 1, t).nan_to_num(0) for t in range(1, T + 1)]
    x0 = SENTENCES
    start = torch.zeros(len(x0), K**L).double()
    start[torch.arange(len(x0)), inside(x0, K)] = 1
    marginal, total, elbo = start, start[:, 0] * 0, 0
    for q, p in zip(steps, back, strict=True):  # the sum over paths, one step at a time: it is a chain
        joint = marginal[:, :, None] * q  # (x0, x_{t-1}, x_t)
        ratio = torch.where(joint > 0, q.log() - p.T.log(), 0)
        total = total + (joint * ratio).sum((1, 2))
        marginal = joint.sum(1)
    total = total - torch.where(marginal > 0, marginal * log_prior, 0).sum(1)
    torch.testing.assert_close(exact_bound(process, net, x0), total, rtol=0, atol=1e-10)
    likelihood = (prior[:, None] * prior).flatten()
    for p in reversed(back):
        likelihood = likelihood @ p
    elbo = -likelihood[inside(x0, K)].log()
    assert (total >= elbo - 1e-12).all() and (total > elbo + 1e-6).any()


def test_one_token_and_the_exact_reverse_give_minus_log_p(noise):
    """L = 1, x_T from its true law: the bound is -log q(x_0) for every x_0."""
    p0 = tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    process = D3PM(noise, 1)
    x0 = torch.arange(V)[:, None]
    got = exact_bound(process, lambda x, u: p0.log().expand(len(x), 1, V), x0)
    Q = noise.matrix(tensor([0]), tensor([T]))[0][:V]
    mine, ours = p0 @ Q, noise.prior()  # the law of x_T, and what the process starts from
    change = torch.where(Q > 0, Q * (ours / mine).log(), 0).sum(1)
    torch.testing.assert_close(got + change, -p0.log(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("predicts", ["loo", "posterior", "score"])
def test_the_three_kinds_of_prediction_are_one_bound(noise, predicts):
    if noise.mask is not None and predicts == "score":
        noise = Absorbing(V, CURVE)
    want = exact_bound(D3PM(noise, L), MarkovOracle(D3PM(noise, L), LANGUAGE), SENTENCES)
    process = D3PM(noise, L, predicts=predicts)
    got = exact_bound(process, MarkovOracle(process, LANGUAGE), SENTENCES)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-7 if predicts == "score" else 1e-11)
    assert (LOG_P.exp() * want).sum() > LANGUAGE.entropy()


def test_a_network_that_knows_nothing_pays_log_K_per_token(noise):
    """The bound of uniform predictions is log V for every sentence, whatever the noise."""
    got = exact_bound(D3PM(noise, L), lambda x, u: torch.zeros(*x.shape, V).double(), SENTENCES)
    mean = got.mean()
    assert abs(mean - L * math.log(V)) < 1e-11
    if isinstance(noise, (Uniform, Absorbing)):
        torch.testing.assert_close(got, torch.full_like(got, L * math.log(V)), rtol=0, atol=1e-11)


@pytest.mark.parametrize("T", [1, 2, 5, 8])
def test_absorbing_gap_is_the_mutual_information_over_T(T):
    """Two tokens, alpha_bar = 1 - t / T, perfect network: E bound - H = I(X1; X2) / T."""
    process = D3PM(Absorbing(V, S.table(S.log_linear(0.0), T, max_beta=1.0)), L)
    p = LOG_P.exp().reshape(V, V)
    shared = (p * (p / (p.sum(1, keepdim=True) * p.sum(0))).log()).sum()
    got = (LOG_P.exp() * exact_bound(process, MarkovOracle(process, LANGUAGE), SENTENCES)).sum()
    assert abs(got - LANGUAGE.entropy() - shared / T) < 1e-12


def test_sampler_law_for_absorbing_noise():
    """After N even steps p_N = (1 - 1/N) p + (1/N) p1 p2; by the steps' own matrices, and by counting."""
    N = T
    process = D3PM(Absorbing(V, LINE), L)
    net = MarkovOracle(process, LANGUAGE)
    law = torch.zeros(16).double()
    law[-1] = 1  # all masks
    for t in range(T, 0, -1):
        law = law @ reverse_law(process, net, t - 1, t).nan_to_num(0)
    p = LOG_P.exp().reshape(V, V)
    want = (1 - 1 / N) * p + p.sum(1, keepdim=True) * p.sum(0) / N
    torch.testing.assert_close(law[inside(SENTENCES, 4)].reshape(V, V), want, rtol=0, atol=1e-12)
    x = last(sample(process, net, 40000, N))[1]
    counted = inside(x, V).bincount(minlength=9).reshape(V, V) / 40000
    assert ((counted - want).abs() < 5 * (want * (1 - want) / 40000).sqrt()).all()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_sampler_law_in_general(noise, steps):
    process = D3PM(noise, L)
    net = Loose(noise.K, L, T)
    prior = noise.prior()
    law = (prior[:, None] * prior).flatten()
    times = process.times(steps).tolist()
    for t, s in itertools.pairwise(times):
        law = law @ reverse_law(process, net, s, t).nan_to_num(0)
    x = last(sample(process, net, 30000, steps))[1]
    assert x.max() < V
    counted = inside(x, noise.K).bincount(minlength=len(law)) / 30000
    assert ((counted - law).abs() < 5 * (law * (1 - law) / 30000).sqrt() + 1e-9).all()


# The lesson: what the network should predict


def test_leave_one_out_is_the_exact_reverse_and_the_posterior_is_not(noise):
    """With the leave-one-out law in it the plug-in step has the true reverse marginals, for every noise."""
    joint = LOG_P.exp()
    for t in (1, 3, T):
        for s in range(t):
            process = D3PM(noise, L)
            q_s = joint @ forward_law(noise, 0, s, L)[inside(SENTENCES, noise.K)]
            pair = q_s[:, None] * forward_law(noise, s, t, L)  # (x_s, x_t)
            possible = pair.sum(0) > 1e-12
            K = noise.K
            true = (pair / pair.sum(0)).T.reshape(-1, *[K] * L)  # (x_t, x_s token by token)
            got = reverse_law(process, MarkovOracle(process, LANGUAGE), s, t).reshape(-1, *[K] * L)
            for axis in (1, 2):
                torch.testing.assert_close(
                    got.sum(axis)[possible], true.sum(axis)[possible], rtol=0, atol=1e-10
                )
            misread = reverse_law(process, MarkovOracle(D3PM(noise, L, predicts="posterior"), LANGUAGE), s, t)
            wrong = (misread.reshape(-1, *[K] * L).sum(1) - true.sum(1))[possible].abs().max()
            if s == 0 and t == 3:
                assert wrong < 1e-10 if type(noise) is Absorbing else wrong > 1e-2


def test_cross_entropy_pulls_uniform_noise_away_from_its_best_bound():
    """One token, free tables. The bound is least at the prior, cross-entropy at the posterior."""
    p0 = tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    x0 = torch.arange(V)[:, None]
    for make, moved in ((NOISES["uniform"], True), (NOISES["absorbing"], False)):
        noise = make()
        process, t = D3PM(noise, 1), 2
        q = p0[:, None] * noise.matrix(tensor([0]), tensor([t]))[0][:V]
        a, b = (q > 0).nonzero(as_tuple=True)
        post = (q / q.sum(0)).T.nan_to_num(1 / V)  # (x_t, x_0)
        slopes = {}
        for name, law in (("loo", p0.expand(noise.K, -1)), ("posterior", post)):
            logits = law.clamp(min=1e-300).log()[:, None].clone().requires_grad_()
            net = lambda x, u, z=logits: z[x[:, 0]]  # noqa: E731
            kl, ce = process.terms_at(net, x0[a], b[:, None], torch.full_like(a, t))
            slopes[name] = [
                torch.autograd.grad((q[a, b] * v[:, 0]).sum(), logits, retain_graph=True)[0].abs().max()
                for v in (kl, ce)
            ]
        assert slopes["loo"][0] < 1e-12 and slopes["posterior"][1] < 1e-12
        assert (slopes["loo"][1] > 1e-2) == moved and (slopes["posterior"][0] > 1e-2) == moved


def test_the_toy_of_the_lesson():
    """Perfect networks read in the wrong way: the posterior as a plug-in costs far more than leave-one-out."""
    process = D3PM(Uniform(V, S.table(S.log_linear(0.0), 6, max_beta=1.0)), L)
    right = exact_bound(process, MarkovOracle(process, LANGUAGE), SENTENCES)
    posterior = MarkovOracle(D3PM(process.noise, L, predicts="posterior"), LANGUAGE)
    wrong = exact_bound(process, posterior, SENTENCES)
    p = LOG_P.exp()
    assert LANGUAGE.entropy() < (p * right).sum() < LANGUAGE.entropy() + 0.1 < (p * wrong).sum() - 0.2


def test_two_tokens_are_the_binary_symmetric_channel():
    """K = 2 uniform noise flips with probability (1 - alpha_bar) / 2 (Sohl-Dickstein et al. 2015)."""
    noise = Uniform(2, CURVE)
    flip = (1 - CURVE[3].item()) / 2
    Q = noise.matrix(tensor([0]), tensor([3]))[0]
    torch.testing.assert_close(Q, tensor([[1 - flip, flip], [flip, 1 - flip]], dtype=torch.float64))
    log_p = tensor([[[0.3, 0.7]]], dtype=torch.float64).log()
    odds = noise.posterior_from_loo(log_p, tensor([[0]]), tensor([3])).exp()[0, 0]
    want = 0.3 * (1 - flip) / (0.3 * (1 - flip) + 0.7 * flip)
    torch.testing.assert_close(odds[0].item(), want)


def test_multinomial_diffusions_posterior():
    """theta_post = [alpha_t x_t + (1 - alpha_t) / K] [alpha_bar_{t-1} x_0 + (1 - alpha_bar_{t-1}) / K], normalised."""
    process, t = D3PM(Uniform(V, CURVE), L), 3
    x0, x_t = sequences(V, L).repeat_interleave(9, 0), sequences(V, L).repeat(9, 1)
    one = lambda x: torch.nn.functional.one_hot(x, V).double()  # noqa: E731
    a, b = CURVE[t] / CURVE[t - 1], CURVE[t - 1]
    theta = (a * one(x_t) + (1 - a) / V) * (b * one(x0) + (1 - b) / V)
    times = torch.full((81,), t)
    got = process.posterior(x0, x_t, times, times - 1)
    torch.testing.assert_close(got, theta / theta.sum(-1, keepdim=True), rtol=0, atol=1e-14)


# Losses


def test_loss_is_kl_plus_weighted_cross_entropy_per_token(noise):
    for weight in (0.0, 0.3):
        process = D3PM(noise, L, ce_weight=weight)
        net, t = Loose(noise.K, L, T), tensor([1, 2, 3, 4] * 2)
        x0 = SENTENCES[:8]
        x_t = noise.corrupt(x0, t * 0, t)
        log_p = net(x_t, t / T).log_softmax(-1)
        ce = -log_p.gather(-1, x0[..., None])[..., 0]
        if type(noise) is Absorbing:
            ce = ce * (x_t == V)
        want = T / L * (noise.kl(x0, x_t, log_p, t - 1, t) + weight * ce).sum(1)
        got = process.loss_at(net, x0, x_t, t)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want.float())
        torch.testing.assert_close(
            process.bound_at(net, x0, x_t, t), T * process.term_at(net, x0, x_t, t) + process.prior_term(x0)
        )
        torch.testing.assert_close(process.prior_term(x0), noise.prior_kl(x0).sum(1))


@pytest.mark.parametrize("predicts", ["loo", "posterior", "score"])
def test_cross_entropy_is_of_the_networks_own_law(predicts):
    process = D3PM(Uniform(V, CURVE), L, predicts=predicts, ce_weight=1.0)
    net, t, x0 = Loose(V, L, T), tensor([3]), tensor([[1, 2]])
    x_t = tensor([[1, 0]])
    out = net(x_t, t / T)
    law = process.convert(out, x_t, t, "loo") if predicts == "score" else out.log_softmax(-1)
    _, ce = process.terms_at(net, x0, x_t, t)
    torch.testing.assert_close(ce.sum(1), -(law[:, 0, 1] + law[:, 1, 2]))


def test_rows_give_the_same_loss_and_samples():
    """A network that works out its head on some rows only is the same network."""
    process = D3PM(Absorbing(V, LINE), 5)
    net = TokenNet(V + 1, V, 16, 2, 1, radius=1)
    for p in net.parameters():
        p.data.normal_(std=0.5)
    x0, t = torch.randint(0, V, (8, 5)), process.sample_t(8)
    outcomes = []
    for picks in (False, True):
        net.takes_at = picks
        torch.manual_seed(1)
        loss = process.loss(net, x0, t)
        grads = torch.autograd.grad(loss.mean(), list(net.parameters()))
        outcomes.append([loss, *grads])
        x = last(sample(process, net, 2000, 4))[1]
        outcomes[-1].append((x == 0).double().mean())
    for a, b in zip(*(o[:-1] for o in outcomes), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert abs(outcomes[0][-1] - outcomes[1][-1]) < 0.04


def test_a_network_that_takes_at_is_asked_for_rows_only():
    process, asked = D3PM(Absorbing(V, LINE), 5), []

    def net(x, u, at):  # fails without
        asked.append(at)
        return torch.zeros(int(at.sum()), V)

    net.takes_at = True
    x0 = torch.randint(0, V, (8, 5))
    process.loss(net, x0, process.sample_t(8))
    x = process.step(net, torch.full((8, 5), V), torch.full((8,), T), torch.full((8,), T - 1))
    assert len(asked) == 2 and asked[1].equal(x != V) and 0 < asked[1].sum() < 40


def test_half_precision_logits_are_widened():
    assert upcast(torch.zeros(1).half()).dtype == upcast(torch.zeros(1).bfloat16()).dtype == torch.float32
    assert upcast(torch.zeros(1).double()).dtype == torch.float64
    process = D3PM(Uniform(V, CURVE), L)
    loss = process.loss(lambda x, u: torch.zeros(*x.shape, V).bfloat16(), SENTENCES[:2], tensor([1, 2]))
    assert loss.dtype == torch.float32


# Conversions


@pytest.mark.parametrize("predicts", ["loo", "posterior", "score"])
@pytest.mark.parametrize("to", ["loo", "posterior", "score"])
def test_convert_between_all_kinds(predicts, to):
    noise = Uniform(V, CURVE)
    process, target = D3PM(noise, L, predicts=predicts), D3PM(noise, L, predicts=to)
    x, t = sequences(V, L), torch.full((9,), 2)
    out = MarkovOracle(process, LANGUAGE)(x, t / T)
    torch.testing.assert_close(process.convert(out, x, t, to), MarkovOracle(target, LANGUAGE)(x, t / T))


def test_scores_of_masks_count_the_mask_too():
    process = D3PM(Absorbing(V, CURVE), L)
    x, t = tensor([[V, 1]]), tensor([2])
    out = torch.randn(1, L, V).double()
    log_s = process.convert(out, x, t, "score")
    a = CURVE[2]
    want = out[0, 0].softmax(-1) * a / (1 - a)  # SEDD: s_y = p(y | x_t) / (e^sigma - 1)
    assert log_s.shape == (1, L, V + 1)
    torch.testing.assert_close(log_s[0, 0].exp(), torch.cat([want, torch.ones(1)]).double())


def test_oracle_is_bayes_by_enumeration(noise):
    long = MarkovLanguage(V, 4, sharpness=1.0, seed=5)
    process = D3PM(noise, 4)
    sentences = sequences(V, 4)
    x, t = (
        noise.corrupt(long.sample(6), torch.zeros(6).long(), tensor([1, 2, 3, 4, 2, 1])),
        tensor([1, 2, 3, 4, 2, 1]),
    )
    Q = noise.matrix(t * 0, t)
    like = torch.stack(
        [Q[torch.arange(6)[:, None], sentences[:, i], x[:, i, None]] for i in range(4)], 2
    )  # (B, N, L)
    others = torch.stack([like[:, :, [j for j in range(4) if j != i]].prod(2) for i in range(4)], 2)
    joint = long.log_prob(sentences).exp()[:, None] * others
    want = torch.stack([(joint * (sentences == k)).sum(1) for k in range(V)], 2)
    want = want / want.sum(-1, keepdim=True)
    torch.testing.assert_close(MarkovOracle(process, long)(x, t / T).exp(), want, rtol=0, atol=1e-12)
    reader = D3PM(noise, 4, predicts="posterior")
    post = MarkovOracle(reader, long)(x, t / T)
    torch.testing.assert_close(post, noise.posterior_from_loo(want.log(), x, t))


# Number of masks as the time


@pytest.mark.parametrize("clock", ["LINE", "CURVE"])
def test_counting_masks_gives_the_same_bound(clock):
    """Exact: the mean over n of E[bound | n masks] is the mean over t of E[bound], network told the time or not."""
    process = D3PM(Absorbing(V, globals()[clock]), L)
    net, counter = Loose(V + 1, L, T), MaskCount(process)
    want = exact_bound(process, net, SENTENCES)
    got = process.prior_term(SENTENCES)
    for n in range(1, L + 1):
        for where in itertools.combinations(range(L), n):
            masks = torch.zeros(L, dtype=torch.bool)
            masks[list(where)] = True
            for t in range(1, T + 1):
                x_t = torch.where(masks, V, SENTENCES)
                nll = process.mask_cost(net, SENTENCES, x_t, torch.full((9,), t))
                share = counter.law.joint[n, t - 1] / math.comb(L, n)
                got = got + share * nll.sum(1)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    torch.testing.assert_close(counter.weight, counter.law.joint.sum(1))


def test_counting_masks_by_drawing():
    process = D3PM(Absorbing(V, CURVE), L)
    net = Loose(V + 1, L, T)
    want = exact_bound(process, net, SENTENCES).mean()
    data = SENTENCES.repeat(3000, 1)
    got, plain = bound(MaskCount(process), net, data, batch=9000), bound(process, net, data, batch=9000)
    assert abs(got.mean - want) < 5 * got.se and abs(plain.mean - want) < 5 * plain.se
    assert got.se < plain.se
    loss = MaskCount(process).loss(net, data, tensor([1, 2]).repeat(13500))
    assert (
        abs(loss.mean() - (want - process.prior_term(SENTENCES).mean()) / L) < 0.03
        and loss.dtype == torch.float32
    )


@pytest.mark.parametrize("alpha_bar", [[1.0, 0.6, 0.3], [1.0, 0.5, 0.0]])
def test_counting_masks_exactly(alpha_bar):
    """A network that knows nothing pays log V per token, no more and no less, prior term included."""
    process = D3PM(Absorbing(V, torch.tensor(alpha_bar, dtype=torch.float64)), 4)
    x0 = torch.tensor([[0, 2, 1, 1]]).expand(4, -1)
    got = MaskCount(process).bound(lambda x, u: torch.zeros(*x.shape, V), x0, tensor([1, 2, 3, 4]))
    assert got.mean().item() == pytest.approx(4 * math.log(V)) and got.dtype == torch.float64


def test_weights_of_counts_tend_to_one_over_n():
    process = D3PM(Absorbing(V, S.table(S.log_linear(0.0), 3000, max_beta=1.0)), 6)
    n = torch.arange(1, 7).double()
    torch.testing.assert_close(MaskCount(process).weight[1:], 1 / n, rtol=2e-3, atol=0)


def test_counts_mask_exactly_n_tokens_anywhere():
    counter = MaskCount(D3PM(Absorbing(V, LINE), 5))
    assert counter.T == 5
    n = torch.arange(6).repeat(4000)
    x = counter.corrupt(torch.zeros(24000, 5).long(), n)
    assert torch.equal((x == V).sum(1), n)
    each = (x[n == 2] == V).double().mean(0)
    assert (each - 0.4).abs().max() < 5 * math.sqrt(0.24 / 4000)
    told = []
    counter.loss(
        lambda x, u: told.append(u) or torch.zeros(*x.shape, V),
        torch.zeros(4000, 5).long(),
        torch.full((4000,), 5),
    )
    share = (told[0] * T).round().long().bincount(minlength=T + 1)[1:] / 4000
    want = counter.law.joint[5] / counter.law.joint[5].sum()
    assert ((share - want).abs() < 5 * (want / 4000).sqrt() + 1e-9).all()


def test_any_order_autoregression_is_the_limit():
    """The mean over all orders of the autoregressive loss is sum_n (1/n) E[surprise | n masks]."""
    length = 3
    net = Loose(V + 1, length, 1, timeless=True)
    x0 = sequences(V, length)
    orders = list(itertools.permutations(range(length)))
    by_order = []
    for order in orders:
        process = Ordered(V, length, list(order))
        by_order.append(
            torch.stack([process.bound(net, x0, torch.full((27,), t)) for t in (1, 2, 3)]).mean(0)
        )
    by_count = 0
    absorbing = D3PM(Absorbing(V, LINE), length)
    for n in range(1, length + 1):
        choices = list(itertools.combinations(range(length), n))
        for where in choices:
            masks = torch.zeros(length, dtype=torch.bool)
            masks[list(where)] = True
            nll = absorbing.mask_cost(net, x0, torch.where(masks, V, x0), torch.ones(27).long())
            by_count = by_count + nll.sum(1) / n / len(choices)
    torch.testing.assert_close(torch.stack(by_order).mean(0), by_count, rtol=0, atol=1e-12)
    for nll in by_order:
        assert abs((-nll).exp().sum() - 1) < 1e-12  # each order is a law of its own
    mixture = torch.stack([(-nll).exp() for nll in by_order]).mean(0)
    assert (by_count >= -mixture.log() - 1e-12).all()


def test_left_to_right_is_the_default_order():
    process = Ordered(V, 3)
    x0 = tensor([[0, 1, 2]]).expand(4, -1)
    want = tensor([[0, 1, 2], [0, 1, V], [0, V, V], [V, V, V]])
    assert torch.equal(process.corrupt(x0, torch.arange(4)), want)
    assert torch.equal(
        Ordered(V, 3, [2, 0, 1]).corrupt(x0, torch.arange(4)),
        tensor([[0, 1, 2], [0, V, 2], [V, V, 2], [V] * 3]),
    )
    net = Loose(V + 1, 3, 3)
    nll = sum(-net(want[t][None], tensor([t / 3])).log_softmax(-1)[0, 3 - t, x0[0, 3 - t]] for t in (1, 2, 3))
    got = torch.stack([process.bound(net, x0[:1], tensor([t])) for t in (1, 2, 3)]).mean()
    torch.testing.assert_close(got, nll)


def test_ordered_sampling_is_autoregressive():
    language = MarkovLanguage(V, 3, seed=2)
    process = Ordered(V, 3)

    def net(x, u):  # p(next | last) where something stands before; else the start
        left = torch.cat([torch.full_like(x[:, :1], V), x[:, :-1]], 1)
        table = torch.cat([language.move, language.start[None]]).log()
        return table[left]

    x = last(sample(process, net, 20000, 3))[1]
    counted = inside(x, V).bincount(minlength=27) / 20000
    want = language.log_prob(sequences(V, 3)).exp()
    assert ((counted - want).abs() < 5 * (want / 20000).sqrt()).all()
    t, s = torch.full((2,), 3), torch.full((2,), 1)
    assert torch.equal((process.step(net, process.prior(2), t, s) == V), tensor([[False, False, True]] * 2))


# Sampling


def test_the_network_is_asked_only_when_a_mask_opens():
    """With N steps, L tokens, B sequences, N (1 - (1 - 1/N)^(B L)) calls are expected."""
    N, calls = 50, []
    process = D3PM(Absorbing(V, S.table(S.log_linear(0.0), N, max_beta=1.0)), 10)

    def net(x, u):
        calls.append(1)
        return torch.zeros(*x.shape, V)

    for _ in range(40):
        last(sample(process, net, 1, N))
    want = N * (1 - (1 - 1 / N) ** 10)
    assert abs(len(calls) / 40 - want) < 5 * math.sqrt(want / 40)


def test_infilling_is_conditional_sampling():
    """Tokens kept by clamp: with a perfect network and one token open, the rest has its conditional law."""
    process = D3PM(Absorbing(V, LINE), L)
    known, context = tensor([[True, False]]).expand(20000, -1), tensor([[1, 0]]).expand(20000, -1)
    x = last(sample(process, MarkovOracle(process, LANGUAGE), 20000, T, clamp=keep(known, context)))[1]
    assert (x[:, 0] == 1).all()
    share = x[:, 1].bincount(minlength=V) / 20000
    assert ((share - LANGUAGE.move[1]).abs() < 0.02).all()


def test_keep_needs_one_shape(unchecked):
    with pytest.raises(ValueError, match=r"known and context must have one shape, not \(1, 2\) and \(2, 2\)"):
        keep(torch.ones(1, 2).bool(), torch.ones(2, 2).long())


def test_prior_is_drawn_from_the_noise(noise):
    x = D3PM(noise, L).prior(20000)
    share = x.flatten().bincount(minlength=noise.K) / 40000
    assert x.shape == (20000, L) and ((share - noise.prior()).abs() < 0.015).all()
    assert Ordered(V, 3).prior(2).tolist() == [[V] * 3] * 2


# Bad input


@pytest.mark.parametrize("call, error, words", [
    (lambda: D3PM(Uniform(V, CURVE), 0), ValueError, "length must be at least 1, not 0"),
    (lambda: D3PM(Uniform(V, CURVE), True), TypeError, "length must be an int, not bool"),
    (lambda: D3PM(Uniform(V, CURVE), 2.0), TypeError, "length must be an int, not float"),
    (lambda: D3PM(Uniform(V, CURVE), L, predicts="x0"), ValueError, "predicts must be one of loo, posterior, score, not 'x0'"),
    (lambda: D3PM(Uniform(V, CURVE), L, ce_weight=-1.0), ValueError, "ce_weight must not be negative, not -1.0"),
    (lambda: D3PM(Uniform(V, S.cosine()), L), ValueError, "noise must have a table as its clock"),
    (lambda: D3PM(Absorbing(V, LINE), L, predicts="score"), ValueError, r"noise must leave alpha_bar\[T\] > 0"),
    (lambda: D3PM(StepMatrices(lambda t: torch.ones(V, V, dtype=torch.float64) / V, 4), L, predicts="score"), ValueError, 'noise must be invertible for predicts="score"'),
    (lambda: Uniform(V, CURVE).kl(tensor([[0, 1]]), tensor([[0, 1]]), torch.zeros(1, L, V), tensor([2]), tensor([1])), ValueError, "s must be at most t, but s = 2 and t = 1"),
    (lambda: Absorbing(V, CURVE).unmasking_probability(tensor([2]), tensor([1])), ValueError, "s must be at most t, but s = 2 and t = 1"),
    (lambda: StepMatrices(lambda t: torch.eye(V), 4).corrupt(tensor([[0, 1]]), tensor([2]), tensor([1])), ValueError, "s must be at most t"),
    (lambda: D3PM(Uniform(V, CURVE), L).convert(torch.zeros(1, L, V), tensor([[0, 1]]), tensor([1]), "x0"), ValueError, "to must be one of"),
    (lambda: D3PM(Uniform(V, CURVE), L).corrupt(tensor([[0, V]]), tensor([1])), ValueError, "x0 must lie in 0..2, but holds 3: no such token"),
    (lambda: D3PM(Absorbing(V, CURVE), L).corrupt(tensor([[0, V]]), tensor([1])), ValueError, "x0 must lie in 0..2, but holds 3: MASK"),
    (lambda: D3PM(Absorbing(V, CURVE), L).loss(None, tensor([[0, V]]), tensor([1])), ValueError, "x0 must lie in 0..2"),
    (lambda: D3PM(Absorbing(V, CURVE), L).prior_term(tensor([[0, V]])), ValueError, "x0 must lie in 0..2"),
    (lambda: D3PM(Absorbing(V, CURVE), L).step(None, tensor([[0, V + 1]]), tensor([1]), tensor([0])), ValueError, "x must lie in 0..3"),
    (lambda: D3PM(Absorbing(V, CURVE), L).posterior(tensor([[0, V]]), tensor([[0, V]]), tensor([1]), tensor([0])), ValueError, "x0 must lie in 0..2"),
    (lambda: D3PM(Absorbing(V, CURVE), L).posterior(tensor([[0, 1]]), tensor([[0, 4]]), tensor([1]), tensor([0])), ValueError, "x_t must lie in 0..3"),
    (lambda: D3PM(Absorbing(V, CURVE), L).posterior(tensor([[0, 1]]), tensor([[0, 3]]), tensor([1]), tensor([1])), ValueError, "s must be before t"),
    (lambda: D3PM(Uniform(V, CURVE), L).corrupt(tensor([[0, 1, 2]]), tensor([1])), ValueError, r"x0 must have shape \(B, 2\), not \(1, 3\)"),
    (lambda: D3PM(Uniform(V, CURVE), L).corrupt(tensor([[0, 1]]), tensor([5])), ValueError, r"t must lie in \[0, 4\]"),
    (lambda: D3PM(Uniform(V, CURVE), L).loss(None, tensor([[0, 1]]), tensor([0])), ValueError, r"t must lie in \(0, 4\], but t = 0"),
    (lambda: D3PM(Uniform(V, CURVE), L).step(None, tensor([[0, 1]]), tensor([2]), tensor([2])), ValueError, "s must be before t"),
    (lambda: MaskCount(D3PM(Uniform(V, CURVE), L)), ValueError, "on absorbing noise, not D3PM of Uniform"),
    (lambda: MaskCount(D3PM(Absorbing(V, CURVE), L)).corrupt(tensor([[0, V]]), tensor([1])), ValueError, "x0 must lie in 0..2"),
    (lambda: MaskCount(D3PM(Absorbing(V, CURVE), L)).corrupt(tensor([[0, 1]]), tensor([3])), ValueError, r"t must lie in \[0, 2\]"),
    (lambda: MaskCount(D3PM(Absorbing(V, CURVE), L)).bound(None, tensor([[0, 1]]), tensor([0])), ValueError, r"t must lie in \[1, 2\]"),
    (lambda: Ordered(V, 3, [0, 1, 1]), ValueError, r"order must be a permutation of 0..2, not \[0, 1, 1\]"),
    (lambda: Ordered(V, 0), ValueError, "length must be at least 1"),
    (lambda: Ordered(1, 2), ValueError, "V must be at least 2"),
    (lambda: Ordered(V, 2).corrupt(tensor([[0, V]]), tensor([1])), ValueError, "x0 must lie in 0..2"),
    (lambda: Ordered(V, 2).corrupt(tensor([[0, 1]]), tensor([3])), ValueError, r"t must lie in \[0, 2\]"),
    (lambda: Ordered(V, 2).loss(None, tensor([[0, 1]]), tensor([0])), ValueError, r"t must lie in \[1, 2\]"),
    (lambda: Ordered(V, 2).step(None, tensor([[0, 1]]), tensor([1]), tensor([1])), ValueError, "s must be before t"),
    (lambda: MarkovOracle(D3PM(Uniform(4, CURVE), L), LANGUAGE), ValueError, "the language must have the noise's 4 tokens, not 3"),
])  # fmt: skip
def test_bad_input_is_named(call, error, words, unchecked):
    with pytest.raises(error, match=words):
        call()
