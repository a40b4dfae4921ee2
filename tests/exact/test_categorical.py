"""Categorical noise against matrices written out entry by entry, Bayes' rule by enumeration, and counting."""

# ruff: noqa: E501 (one line for each bad input)

import math

import pytest
import torch
from torch import tensor

from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.categorical import Noise, Semigroup, draw, happens
from course_lib.information import information, information_table
from course_lib.mask_uniform import MaskUniform
from course_lib.stationary import Stationary, Uniform
from course_lib.structured import Neighbours, StepMatrices, band, gaussian, nearest_neighbours

V, T, L = 4, 6, 3
TABLE = tensor([1.0, 0.9, 0.62, 0.4, 0.3, 0.11, 0.02], dtype=torch.float64)
BETA = tensor([0.05, 0.3, 0.2, 0.6, 0.9, 0.5], dtype=torch.float64)
PI = tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
RATES = tensor(
    [[-2.0, 1, 0.5, 0.5], [1, -1, 0, 0], [0.5, 0, -0.5, 0], [0.5, 0, 0, -0.5]], dtype=torch.float64
)

NOISES = {
    "replace": lambda: Stationary(PI, TABLE),
    "uniform": lambda: Uniform(V, TABLE),
    "absorbing": lambda: Absorbing(V, TABLE),
    "absorbing to 0": lambda: Absorbing(V, torch.cat([TABLE[:-1], torch.zeros(1)])),
    "uniform to 0": lambda: Uniform(V, torch.cat([TABLE[:-1], torch.zeros(1)])),
    "mask and uniform": lambda: MaskUniform(V, TABLE, 0.3),
    "neighbours": lambda: Neighbours(RATES, TABLE),
    "gaussian": lambda: gaussian(V, BETA),
    "band": lambda: band(V, BETA, 1),
}
CLOSED = [name for name in NOISES if name.startswith(("replace", "uniform", "absorbing"))]
DOUBLY = ["uniform", "neighbours", "gaussian", "band"]


@pytest.fixture(params=NOISES)
def noise(request):
    return NOISES[request.param]()


def times(*values):
    return tensor(values)


def step_matrix(name: str, t: int) -> torch.Tensor:
    """Q_t as the papers print it, in loops; rows are from."""
    alpha = (TABLE[t] / TABLE[t - 1]).item()
    beta, K = 1 - alpha, V + (name.startswith(("absorbing", "mask")))
    if "to 0" in name and t == T:
        alpha, beta = 0.0, 1.0
    Q = torch.zeros(K, K, dtype=torch.float64)
    for i in range(K):
        for j in range(K):
            if name.startswith("uniform"):
                Q[i, j] = 1 - (K - 1) / K * beta if i == j else beta / K
            elif name == "replace":
                Q[i, j] = alpha * (i == j) + beta * PI[j]
            elif name.startswith("absorbing"):
                Q[i, j] = 1.0 * (j == V) if i == V else alpha * (i == j) + beta * (j == V)
            elif name == "gaussian":
                w = lambda n: math.exp(-4 * n**2 / ((K - 1) ** 2 * BETA[t - 1].item()))  # noqa: E731
                Q[i, j] = w(i - j) / sum(w(n) for n in range(-(K - 1), K)) if i != j else 0
            elif name == "band":
                Q[i, j] = BETA[t - 1] / K if abs(i - j) == 1 else 0
    if name in ("gaussian", "band"):
        for i in range(K):
            Q[i, i] = 1 - Q[i].sum()
    if name == "neighbours":
        Q = torch.matrix_exp(-math.log(alpha) * RATES)
    if name == "mask and uniform":
        R = torch.zeros(K, K, dtype=torch.float64)
        R[:V, :V] = 0.7 / V
        R[:V, V] = 0.3
        R[:V, :V] -= torch.eye(V)
        Q = torch.matrix_exp(-math.log(alpha) * R)
    return Q


@pytest.mark.parametrize("name", NOISES)
def test_each_step_is_the_papers_matrix(name):
    noise = NOISES[name]()
    t = torch.arange(1, T + 1)
    want = torch.stack([step_matrix(name, i) for i in range(1, T + 1)])
    torch.testing.assert_close(noise.matrix(t - 1, t), want, rtol=0, atol=1e-14)


def test_steps_compose(noise):
    for s in range(T + 1):
        Q = torch.eye(noise.K).double()
        for t in range(s, T + 1):
            if t > s:
                Q = Q @ noise.matrix(times(t - 1), times(t))[0]
            if s < t or s == 0:
                torch.testing.assert_close(noise.matrix(times(s), times(t))[0], Q, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", NOISES)
def test_rows_are_laws_and_symmetric_noise_is_doubly_stochastic(name):
    noise = NOISES[name]()
    Q = noise.matrix(torch.zeros(T).long(), torch.arange(1, T + 1))
    assert (Q >= 0).all() and Q.dtype == torch.float64
    torch.testing.assert_close(Q.sum(2), torch.ones(T, noise.K).double())
    columns = torch.allclose(Q.sum(1), torch.ones(T, noise.K).double())
    assert columns == (
        name in DOUBLY or name == "uniform to 0"
    )  # a transposed absorbing matrix would pass here


def test_gaussian_by_row_sums_would_not_keep_the_uniform_law():
    i = torch.arange(8.0).double()
    Q = (-4 * (i[:, None] - i).square() / (49 * 0.5)).exp()
    Q = Q / Q.sum(1, keepdim=True)
    assert abs(Q.sum(0).min() - 0.815) < 1e-3 and abs(Q.sum(0).max() - 1.095) < 1e-3
    ours = gaussian(8, tensor([0.5] * 400).double())
    assert (ours.matrix(times(0), times(1)).sum(1) - 1).abs().max() < 1e-14
    assert (ours.matrix(times(0), times(400)) - 1 / 8).abs().max() < 1e-12


def test_likelihood_is_a_column_and_row_a_row(noise):
    s, t = times(0, 0, 1, 3, 2), times(2, T, 3, 4, T)
    x = torch.randint(0, noise.K, (5, L))
    Q = noise.matrix(s, t)
    for b in range(5):
        torch.testing.assert_close(noise.likelihood(x, s, t)[b], Q[b][:, x[b]].T, rtol=0, atol=1e-13)
        torch.testing.assert_close(noise.row(x, s, t)[b], Q[b][x[b]], rtol=0, atol=1e-13)
    p = torch.rand(5, L, noise.K)
    torch.testing.assert_close(noise.mix(p, s, t).double(), p.double() @ Q, rtol=0, atol=1e-6)
    assert noise.mix(p, s, t).dtype == noise.likelihood(x, s, t).dtype == torch.float64
    short = p[..., : noise.V].double()
    torch.testing.assert_close(noise.mix(short, s, t), short @ Q[:, : noise.V], rtol=0, atol=1e-13)


def counted(draws: torch.Tensor, K: int) -> torch.Tensor:
    return draws.flatten().bincount(minlength=K) / draws.numel()


def agree(draws: torch.Tensor, law: torch.Tensor, sigmas: float = 5.0) -> bool:
    error = (law * (1 - law) / draws.numel()).sqrt()
    return bool(((counted(draws, len(law)) - law).abs() <= sigmas * error + 1e-12).all())


@pytest.mark.parametrize("s, t", [(0, 3), (2, 4), (0, T), (5, T)])
def test_corrupt_draws_from_the_row(noise, s, t):
    Q = noise.matrix(times(s), times(t))[0]
    for token in range(noise.V):
        x = noise.corrupt(torch.full((40, 1000), token), times(s).expand(40), times(t).expand(40))
        assert agree(x, Q[token])
    if noise.mask is not None:
        assert (noise.corrupt(torch.full((2, 9), noise.mask), times(1, 1), times(2, 2)) == noise.mask).all()


def test_corrupt_at_time_0_changes_nothing(noise):
    x = torch.randint(0, noise.V, (7, L))
    assert torch.equal(noise.corrupt(x, torch.zeros(7).long(), torch.zeros(7).long()), x)


def test_tokens_are_corrupted_on_their_own(noise):
    x = noise.corrupt(torch.zeros(20000, 2).long(), times(0).expand(20000), times(3).expand(20000))
    Q = noise.matrix(times(0), times(3))[0, 0]
    assert agree(x[:, 0] * noise.K + x[:, 1], torch.outer(Q, Q).flatten())


def test_posterior_is_bayes(noise):
    for s in range(T):
        for t in range(s + 1, T + 1):
            Q_s, Q_st = noise.matrix(times(0), times(s))[0], noise.matrix(times(s), times(t))[0]
            joint = Q_s[: noise.V, :, None] * Q_st  # x0, x_s, x_t
            for x0 in range(noise.V):
                possible = joint[x0].sum(0) > 0
                x_t = torch.arange(noise.K)[possible][None]
                p0 = torch.nn.functional.one_hot(torch.full_like(x_t, x0), noise.K).double()
                want = (joint[x0] / joint[x0].sum(0))[:, possible].T
                got = noise.posterior(p0, x_t, times(s), times(t))[0]
                torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def pairs(noise, t):
    """All (x_0, x_t) that can happen, as rows of one token; and their times."""
    Q = noise.matrix(times(0), times(t))[0]
    x0, x_t = (Q[: noise.V] > 0).nonzero(as_tuple=True)
    return x0[:, None], x_t[:, None], torch.full_like(x0, t), Q[x0, x_t]


def test_kl_is_the_sum_written_out(noise):
    for t in range(1, T + 1):
        x0, x_t, end, _ = pairs(noise, t)
        log_p = torch.randn(len(x0), 1, noise.V).double().log_softmax(-1)
        for s in range(t):
            start = torch.full_like(end, s)
            q = noise.posterior(torch.nn.functional.one_hot(x0, noise.K).double(), x_t, start, end)
            p = noise.posterior(log_p.exp(), x_t, start, end)
            want = torch.where(q > 0, q * (q / p).log(), 0).sum(-1)
            got = noise.kl(x0, x_t, log_p, start, end)
            assert got.dtype == torch.float64
            torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_are_the_general_formulas(name):
    noise = NOISES[name]()
    for t in range(1, T + 1):
        x0, x_t, end, _ = pairs(noise, t)
        for s in range(t):
            start = torch.full_like(end, s)
            logits = torch.randn(len(x0), 1, noise.V).double().requires_grad_()
            grads = []
            for kl in (noise.kl, general(noise, "kl")):
                value = kl(x0, x_t, logits.log_softmax(-1), start, end)
                grads.append(torch.autograd.grad(value.sum(), logits)[0])
                assert grads[-1].isfinite().all()
            torch.testing.assert_close(*grads, rtol=0, atol=1e-10)
    x = torch.arange(noise.V)[None]
    torch.testing.assert_close(noise.prior_kl(x), general(noise, "prior_kl")(x), rtol=0, atol=1e-13)


def general(noise, method):
    """The method as the base class has it."""
    return getattr(Noise, method).__get__(noise)


def test_kl_in_float32_keeps_small_probabilities():
    for noise in (Uniform(3, TABLE), Absorbing(3, TABLE)):
        log_p = tensor([[[0.0, -150.0, -2.0]]]).log_softmax(-1)
        x0, x_t = tensor([[1]]), tensor([[noise.mask or 2]])
        for s in (0, 2):
            got = noise.kl(x0, x_t, log_p, times(s), times(4))
            want = general(noise, "kl")(x0, x_t, log_p.double(), times(s), times(4))
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("s, t", [(0, 1), (0, T), (2, 3), (1, 5), (4, T)])
def test_step_draws_from_the_posterior(noise, s, t):
    log_p = tensor([0.1, 0.5, 0.15, 0.25]).double().log().expand(40, 1000, -1)
    for token in range(noise.K):
        x_t = torch.full((40, 1000), token)
        law = noise.posterior(log_p[:1, :1].exp(), x_t[:1, :1], times(s), times(t))[0, 0]
        if law.isfinite().all():
            assert agree(noise.step(log_p, x_t, times(s).expand(40), times(t).expand(40)), law)


def test_prior_is_where_a_uniform_token_ends(noise):
    Q = noise.matrix(times(0), times(T))[0][: noise.V]
    torch.testing.assert_close(noise.prior(), Q.mean(0), rtol=0, atol=1e-15)
    want = torch.where(Q > 0, Q * (Q / Q.mean(0)).log(), 0).sum(1)
    x = torch.arange(noise.V)[None].expand(2, -1)
    torch.testing.assert_close(noise.prior_kl(x), want.expand(2, -1), rtol=0, atol=1e-13)


# Three ways to say what x_0 is


def test_posterior_and_leave_one_out_are_bayes(noise):
    x_t = torch.arange(noise.K)[None]
    for t in (1, 3, T - 1):
        log_loo = torch.randn(1, noise.K, noise.V).double().log_softmax(-1)
        Q = noise.matrix(times(0), times(t))[0][: noise.V]
        joint = log_loo[0].exp() * Q.T  # (x_t, x_0)
        post = noise.posterior_from_loo(log_loo, x_t, times(t))
        torch.testing.assert_close(post[0].exp(), joint / joint.sum(1, keepdim=True), rtol=0, atol=1e-13)
        back = noise.loo_from_posterior(post, x_t, times(t))
        informed = (Q.T > 0).all(1)  # where x_t rules nothing out
        torch.testing.assert_close(back[0][informed], log_loo[0][informed], rtol=0, atol=1e-12)
        assert informed.any() or t == 1


def test_scores_are_ratios_of_laws(noise):
    x_t = torch.arange(noise.K)[None]
    t = times(3)
    log_loo = torch.randn(1, noise.K, noise.V).double().log_softmax(-1)
    law = log_loo.exp() @ noise.matrix(times(0), t)[:, : noise.V]  # p(token at t | the others)
    want = law[0] / law[0].diag()[:, None]
    got = noise.score_from_loo(log_loo, x_t, t)
    finite = want.isfinite().all(1)
    torch.testing.assert_close(got[0].exp()[finite], want[finite], rtol=1e-12, atol=1e-12)
    back = noise.loo_from_score(got[..., : noise.V], x_t, t)
    torch.testing.assert_close(back[0][finite].exp(), log_loo[0][finite].exp(), rtol=0, atol=1e-11)
    assert noise.score_from_loo(log_loo.float(), x_t, t).dtype == torch.float32
    assert noise.loo_from_score(log_loo.float(), x_t, t).dtype == torch.float32


@pytest.mark.parametrize("name", [n for n in CLOSED if "to 0" not in n])
def test_fast_conversions_are_the_general_ones(name):
    noise, t, x_t = NOISES[name](), times(3, 5), torch.randint(0, V, (2, L))
    log_p = torch.randn(2, L, V).double().log_softmax(-1)
    if name != "absorbing":
        got, want = noise.log_evidence(log_p, x_t, t), general(noise, "log_evidence")(log_p, x_t, t)
        torch.testing.assert_close(got - got.amin(-1, keepdim=True), want - want.amin(-1, keepdim=True))
    c = noise.mix(log_p.exp(), torch.zeros(2).long(), t)[..., :V]
    got, want = noise.unmix(c, t), general(noise, "unmix")(c, t)
    torch.testing.assert_close(got / got.sum(-1, keepdim=True), want / want.sum(-1, keepdim=True))


def test_impossible_scores_become_laws():
    log_s = tensor([[[0.0, 9.0, -9.0, 0.0]]]).double()
    p = Uniform(V, TABLE).loo_from_score(log_s, tensor([[0]]), times(1)).exp()
    assert p.isfinite().all() and abs(p.sum() - 1) < 1e-12 and (p >= 0).all() and p.argmax() == 1


def test_for_absorbing_noise_posterior_and_leave_one_out_are_one():
    noise, log_p = Absorbing(V, TABLE), torch.randn(2, L, V).log_softmax(-1)
    x_t = torch.full((2, L), noise.mask)
    for change in (noise.loo_from_posterior, noise.posterior_from_loo):
        torch.testing.assert_close(change(log_p, x_t, times(2, 3)), log_p)


# Drawing


def test_draw_follows_unnormalised_laws():
    p = tensor([0.0, 2.0, 1.0, 0.0, 5.0])
    assert agree(draw(p.expand(50000, -1)), (p / 8).double())
    assert draw(p.expand(2, 3, -1)).shape == (2, 3)


def test_rare_tokens_are_drawn_as_rarely_as_they_should_be(monkeypatch):
    """Numbers that float32 cannot tell from 1 or 0 decide: the uniform number is made by hand."""
    p = tensor([1.0, 1e-9])
    for u, want in ((1 - 1.1e-9, 0), (1 - 0.9e-9, 1), (0.0, 0), (1 - 2**-53, 1)):
        monkeypatch.setattr(torch, "rand_like", lambda x, u=u: torch.full_like(x, u))
        assert draw(p).item() == want
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.full_like(x, 1e-9))
    assert happens(tensor(2e-9)) and not happens(tensor(0.5e-9))
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.full_like(x, 1 - 2**-53))
    assert not happens(tensor(1 - 2**-24)) and happens(tensor(1.0))


def test_happens_with_these_chances():
    p = tensor([0.0, 0.25, 1.0]).expand(20000, 3)
    mean = happens(p).double().mean(0)
    assert mean[0] == 0 and mean[2] == 1 and abs(mean[1] - 0.25) < 5 * math.sqrt(0.1875 / 20000)


# Clocks


@pytest.mark.parametrize("make", [
    lambda clock: Uniform(V, clock), lambda clock: Absorbing(V, clock), lambda clock: Stationary(PI, clock),
    lambda clock: MaskUniform(V, clock), lambda clock: Neighbours(RATES, clock),
])  # fmt: skip
def test_a_schedule_and_its_table_are_one_clock(make):
    schedule = S.log_linear(0.01)
    whole, real = make(S.table(schedule, 10)), make(schedule)
    assert (whole.T, real.T) == (10, 1.0)
    s, t = times(0, 2, 5), times(4, 3, 10)
    torch.testing.assert_close(whole.matrix(s, t), real.matrix(s / 10, t / 10), rtol=0, atol=1e-6)
    torch.testing.assert_close(whole.prior(), real.prior(), rtol=0, atol=1e-6)
    assert real.matrix(s / 10, t / 10).dtype == torch.float64


def test_neighbours_at_the_far_end_is_uniform():
    noise = Neighbours(RATES, torch.cat([TABLE[:-1], torch.zeros(1)]))
    assert (noise.matrix(times(0), times(T)) - 1 / V).abs().max() < 1e-14


def test_the_default_share_of_masks_is_two_thirds():
    noise = MaskUniform(V, TABLE)
    Q = noise.matrix(times(0), times(2))[0]
    torch.testing.assert_close(1 - Q[0, V], TABLE[2] ** (2 / 3))
    torch.testing.assert_close(Q[0, 0] - Q[0, 1], TABLE[2])


def test_reveals_is_the_chance_of_an_open_mask():
    noise = Absorbing(V, NOISES["absorbing to 0"]().log_alpha_bar.exp())
    a = noise.log_alpha_bar.exp()
    for t in range(1, T + 1):
        for s in range(t):
            got = noise.reveals(times(s), times(t))
            torch.testing.assert_close(got, ((a[s] - a[t]) / (1 - a[t]))[None], rtol=1e-12, atol=0)
    x = torch.full((50, 1000), noise.mask)
    x[:, 0] = 1
    opened = noise.opened(x, times(2).expand(50), times(4).expand(50))
    assert not opened[:, 0].any()
    assert abs(opened[:, 1:].double().mean() - (a[2] - a[4]) / (1 - a[4])) < 0.01


def test_large_vocabularies_need_no_matrix():
    """50,257 tokens: a single K x K in float32 would take 10 GB."""
    K, t = 50257, times(3, 1)
    for noise in (Uniform(K, TABLE), Absorbing(K, TABLE), MaskUniform(K, TABLE)):
        x0 = torch.randint(0, K, (2, 3))
        x_t = noise.corrupt(x0, torch.zeros(2).long(), t)
        log_p = torch.full((2, 3, K), -math.log(K))
        kl = noise.kl(x0, x_t, log_p, t - 1, t)
        assert kl.shape == (2, 3) and kl.isfinite().all() and (kl > -1e-5).all()
        assert noise.step(log_p, x_t, t - 1, t).shape == (2, 3)
        assert noise.prior_kl(x0).isfinite().all() and noise.prior().shape == (noise.K,)


# Graphs of neighbours


def test_nearest_neighbours_by_hand():
    e = tensor([[1.0, 0.0], [2.0, 0.1], [1.0, 0.5], [0.0, 3.0]])  # by angle: 0, 1, 2, 3 in this order
    R = nearest_neighbours(e, 1)  # 0 -> 1, 1 -> 0, 2 -> 1, 3 -> 2
    want = torch.zeros(4, 4).double()
    want[0, 1] = want[1, 0] = 1.0
    want[1, 2] = want[2, 1] = want[2, 3] = want[3, 2] = 0.5
    torch.testing.assert_close(R, want - want.sum(1).diag())
    R2 = nearest_neighbours(e, 2)  # 0: 1, 2; 1: 0, 2; 2: 1, 0; 3: 2, 1
    assert R2[0, 1] == 0.5 and R2[0, 2] == 0.5 and R2[3, 2] == 0.25 and R2[3, 0] == 0


def test_a_disconnected_graph_is_named():
    R = torch.zeros(5, 5).double()
    for i, j in ((0, 1), (2, 3), (3, 4)):
        R[i, j] = R[j, i] = 1.0
    with pytest.raises(ValueError, match="rates must join all tokens, but the graph has 2 pieces"):
        Neighbours(R - R.sum(1).diag(), TABLE)


# Schedules by information


def mutual_information(p, Q):
    joint = p[:, None] * Q
    return (joint * (joint / (p[:, None] * joint.sum(0))).log()).nan_to_num(0).sum()


@pytest.mark.parametrize("name", ["replace", "uniform", "absorbing", "mask and uniform", "neighbours"])
def test_information_is_the_double_sum(name):
    noise, p = NOISES[name](), PI.flip(0)
    for t in (1, 4):
        Q = noise.matrix(times(0), times(t))[0][:V]
        got = information(noise, p, TABLE[t : t + 1].log())
        torch.testing.assert_close(got[0], mutual_information(p, Q))
    table = information_table(noise, p, 7)
    entropy = -(p * p.log()).sum()
    share = information(noise, p, table[1:-1].log()) / entropy
    torch.testing.assert_close(share, 1 - torch.arange(1, 7).double() / 7, rtol=0, atol=1e-10)
    assert table[0] == 1 and table[-1] == 0 and len(table) == 8


def test_for_absorbing_noise_information_falls_with_alpha_whatever_the_data():
    for p in (PI, (PI == 0.1) * 0.96 + 0.01):
        table = information_table(Absorbing(V, TABLE), p, 10)
        torch.testing.assert_close(table, 1 - torch.arange(11).double() / 10, rtol=0, atol=1e-9)


# Chains


def test_a_chain_keeps_few_products():
    calls = []

    def one_step(t):
        calls.append(t)
        return step_matrix("gaussian", 3)

    chain = StepMatrices(one_step, 100)
    assert chain.products.shape == (11, V, V)
    calls.clear()
    chain.likelihood(tensor([[0], [1]]), times(0, 0), times(57, 57))
    assert len(calls) == 7  # from the product of 50 steps on, once for both examples
    calls.clear()
    chain.mix(torch.rand(1, 1, V), times(40), times(42))
    assert calls == [41, 42]


# Devices and dtypes


def test_tables_stay_in_float64(noise, device):
    noise = noise.to(device).half()
    assert all(v.dtype == torch.float64 or device == "mps" for v in noise.buffers() if v.is_floating_point())
    assert all(v.device.type == torch.device(device).type for v in noise.buffers())
    x = torch.zeros(2, 3, dtype=torch.long, device=device)
    t = torch.tensor([2, 3], device=device)
    assert noise.corrupt(x, t * 0, t).device.type == torch.device(device).type


# Bad input


@pytest.mark.parametrize("call, error, words", [
    (lambda: Uniform(1, TABLE), ValueError, "K must be at least 2, not 1"),
    (lambda: Absorbing(1, TABLE), ValueError, "V must be at least 2, not 1"),
    (lambda: MaskUniform(1, TABLE), ValueError, "V must be at least 2, not 1"),
    (lambda: Uniform(2.0, TABLE), TypeError, "K must be an int, not float"),
    (lambda: MaskUniform(3, TABLE, 1.0), ValueError, "mask_share must lie between 0 and 1, not 1.0"),
    (lambda: MaskUniform(3, TABLE, 0.0), ValueError, "mask_share must lie between 0 and 1, not 0.0"),
    (lambda: Stationary(tensor([0.5, 0.6]), TABLE), ValueError, "pi must not be negative and must sum to 1, but sums to 1.1"),
    (lambda: Stationary(tensor([1.5, -0.5]), TABLE), ValueError, "pi must not be negative"),
    (lambda: Stationary(tensor([1.0, 0.0]), TABLE), ValueError, r"pi must be positive, but pi\[1\] = 0"),
    (lambda: Stationary(tensor([1.0]), TABLE), ValueError, r"pi must be a float tensor \(K,\) with K >= 2"),
    (lambda: Stationary([0.5, 0.5], TABLE), ValueError, "pi must be a float tensor .* not list"),
    (lambda: Uniform(3, tensor([1.0, 0.5, 0.7])), ValueError, r"alpha_bar must be smaller at each t than before, but alpha_bar\[2\]"),
    (lambda: Uniform(3, tensor([1.0, 0.5, -0.1])), ValueError, r"alpha_bar must be positive, but alpha_bar\[2\]"),
    (lambda: Uniform(3, tensor([1.0, 0.0, -0.1])), ValueError, r"alpha_bar must be positive, but alpha_bar\[1\]"),
    (lambda: gaussian(1, BETA), ValueError, "K must be at least 2"),
    (lambda: band(3, tensor([0.1, 1.2]), 1), ValueError, r"beta must lie in \[0, 1\], but at t = 2 it is 1.2"),
    (lambda: gaussian(3, tensor([0.1, math.inf])), ValueError, r"beta must be finite and not negative, but at t = 2 it is inf"),
    (lambda: gaussian(3, tensor([0.1, -0.2])), ValueError, "beta must be finite and not negative, but at t = 2 it is -0.2"),
    (lambda: gaussian(3, tensor([float("nan")])), ValueError, "beta must be finite and not negative, but at t = 1 it is nan"),
    (lambda: gaussian(3, tensor([0.1, 0.0])), ValueError, "beta must be positive"),
    (lambda: gaussian(3, torch.zeros(0)), ValueError, r"beta must be a float tensor \(T,\) with T >= 1"),
    (lambda: band(3, BETA, 0), ValueError, "width must be at least 1, not 0"),
    (lambda: band(3, BETA, 3), ValueError, "width must be less than K = 3, not 3"),
    (lambda: band(1, BETA, 1), ValueError, "K must be at least 2"),
    (lambda: StepMatrices(lambda t: torch.eye(2), 0), ValueError, "T must be at least 1"),
    (lambda: StepMatrices(lambda t: tensor([[1.0, 0.0], [0.5, 0.6]]), 2), ValueError, r"each row of one_step\(1\) must sum to 1, but row 1 sums to 1 \+0.1"),
    (lambda: StepMatrices(lambda t: torch.eye(2) if t < 2 else tensor([[1.0, 0.0], [1.2, -0.2]]), 2), ValueError, r"one_step\(2\) must not be negative, but row 1 holds -0.2 at 1"),
    (lambda: StepMatrices(lambda t: torch.ones(2, 3) / 3, 2), ValueError, r"one_step\(1\) must be a float tensor \(K, K\)"),
    (lambda: Neighbours(torch.ones(2, 3), TABLE), ValueError, r"rates must be a float tensor \(K, K\)"),
    (lambda: Neighbours(tensor([[-1.0, 1.0], [2.0, -2.0]]), TABLE), ValueError, "rates must be symmetric"),
    (lambda: Neighbours(tensor([[1.0, -1.0], [-1.0, 1.0]]), TABLE), ValueError, "rates must not be negative off the diagonal"),
    (lambda: Neighbours(tensor([[-1.0, 2.0], [2.0, -2.0]]), TABLE), ValueError, "each row of rates must sum to 0, but row 0 sums to 1"),
    (lambda: nearest_neighbours(torch.randn(3, 2), 3), ValueError, "k must be less than the 3 tokens, not 3"),
    (lambda: nearest_neighbours(torch.randn(3, 2), 0), ValueError, "k must be at least 1"),
    (lambda: nearest_neighbours(tensor([[1.0], [0.0], [2.0]]), 1), ValueError, "embeddings must not be zero for metric=.cosine., but that of token 1 is"),
    (lambda: information_table(Uniform(4, TABLE), tensor([0.5, 0.6]), 5), ValueError, "p0 must not be negative and must sum to 1"),
    (lambda: information_table(Uniform(4, TABLE), PI, 0), ValueError, "T must be at least 1"),
])  # fmt: skip
def test_bad_input_is_named(call, error, words, unchecked):
    with pytest.raises(error, match=words):
        call()


def test_bad_tokens_are_named(unchecked):
    noise = Absorbing(V, TABLE)
    noise.check_tokens("x", tensor([[0, 3]]), V)
    noise.check_tokens("x", tensor([[4]]), noise.K)
    for x, states, words in (
        (tensor([[0, 4]]), V, r"x must lie in 0..3, but holds 4: MASK, which no data may hold"),
        (tensor([[0, 5]]), V, r"x must lie in 0..3, but holds 5: no such token"),
        (tensor([[-1, 2]]), V, r"x must lie in 0..3, but holds -1: padding, which is no token"),
        (tensor([0, 1]), V, r"x must have shape \(B >= 1, L >= 1\), not \(2,\)"),
        (torch.zeros(0, 3).long(), V, r"x must have shape \(B >= 1, L >= 1\), not \(0, 3\)"),
    ):
        with pytest.raises(ValueError, match=words):
            noise.check_tokens("x", x, states)
    for x in (tensor([[0.0]]), tensor([[True]]), [[0]]):
        with pytest.raises(TypeError, match="x must hold integers, not"):
            noise.check_tokens("x", x, V)


def test_a_noise_without_formulas_says_so(unchecked):
    for call in (Noise().mix, Noise().likelihood):
        with pytest.raises(NotImplementedError):
            call(None, None, None)
    for call in (Semigroup(TABLE).after, Semigroup(TABLE).column):
        with pytest.raises(NotImplementedError):
            call(None, None)
