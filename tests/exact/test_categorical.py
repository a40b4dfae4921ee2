"""Categorical noise against matrices written out entry by entry, Bayes' rule by enumeration, and counting."""

import math
from contextlib import nullcontext

import pytest
import torch
from noises import (
    CLOSED,
    DOUBLY,
    NOISES,
    PI,
    RATES,
    TABLE,
    L,
    Largest,
    T,
    V,
    agree,
    general,
    pairs,
    step_matrix,
    times,
)
from torch import tensor

from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.categorical import Noise, Semigroup, draw, draw_many, happens
from course_lib.finite import Watch
from course_lib.mask_uniform import MaskUniform
from course_lib.stationary import Stationary, Uniform
from course_lib.structured import Neighbours


@pytest.fixture(params=NOISES)
def noise(request):
    return NOISES[request.param]()


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


def test_a_token_without_mass_is_never_drawn_at_the_edge(monkeypatch):
    p = tensor([0.0, 0.0, 3.0, 0.0, 1.0, 0.0])
    for u, want in ((0.0, 2), (0.75, 4), (1 - 2**-53, 4)):
        monkeypatch.setattr(torch, "rand_like", lambda x, u=u: torch.full_like(x, u))
        monkeypatch.setattr(torch, "rand", lambda *shape, u=u, **kinds: torch.full(*shape, u, **kinds))
        assert draw(p).item() == want and draw_many(p, (1, 1)).item() == want


def test_happens_with_these_chances():
    p = tensor([0.0, 0.25, 1.0]).expand(20000, 3)
    mean = happens(p).double().mean(0)
    assert mean[0] == 0 and mean[2] == 1 and abs(mean[1] - 0.25) < 5 * math.sqrt(0.1875 / 20000)


NOT_LAWS = [[math.nan, 1.0, 1.0], [math.inf, 1.0, 1.0], [0.0, 0.0, 0.0], [2.0, -0.5, 1.0], [0.0, 1.0, -1e-3],
            [1.0, -math.inf, 1.0]]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", NOT_LAWS)
def test_what_is_no_law_is_never_drawn_from(bad, dtype, device):
    """At once on a CPU; elsewhere when the loop reads its watch, and until then indices stay in range."""
    p = torch.ones(4, 2, 3, device=device, dtype=dtype)
    p[3, 1] = tensor(bad).to(p)
    must = "each law to draw from must be finite, not negative and not 0 everywhere"
    t_s = torch.arange(4.0, device=device)
    for t, where in ((None, "it is not in 1 of 8 cases"), (t_s, "at t = 3 it is not in 1 of 4 examples")):
        watch = Watch()
        watch.step = 5
        with watch, pytest.raises(FloatingPointError, match=f"{must}, but at step 5, {where}"):
            assert (draw(p, t) < 3).all()
            watch.read()
    watch = Watch()
    with watch, pytest.raises(FloatingPointError, match=f"{must}, but it is not in 1 of 1 cases"):
        assert (draw_many(p[3, 1], (5,)) < 3).all()
        watch.read()
    assert draw(p[:3]).shape == (3, 2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_chance_never_happens(bad, device):
    p = tensor([[0.5, 0.5], [0.5, bad]], device=device)
    t_s = tensor([0.25, 0.75], device=device)
    for t, where in ((None, "in 1 of 4 cases"), (t_s, "at t = 0.75 it is not in 1 of 2 examples")):
        watch = Watch()
        with watch, pytest.raises(FloatingPointError, match=f"each chance must be finite, but .*{where}"):
            happens(p, t)
            watch.read()
    assert happens(tensor([1.5, -0.5])).tolist() == [True, False]  # rounding may do that


def test_a_network_of_nan_is_never_drawn_from(noise):
    x_t, s, t = torch.zeros(2, L).long(), times(1, 1), times(3, 3)
    if noise.mask is not None:
        x_t[:] = noise.mask
    with pytest.raises(FloatingPointError, match="at t = 3 it is not in 1 of 2 examples"):
        log_p = torch.zeros(2, L, noise.V)
        log_p[1, 0, 1] = math.nan
        noise.step(log_p, x_t, s, t)


@pytest.mark.parametrize("name", [n for n in NOISES if n not in ("gaussian", "band")])
def test_off_the_cpu_nothing_is_read(name):
    """Tensors of the meta device have no numbers: reading one raises. What was drawn from is noted for later."""
    noise, watch = NOISES[name]().to("meta"), Watch()
    x = torch.zeros(2, L, dtype=torch.long, device="meta")
    s, t = torch.ones(2, dtype=torch.long, device="meta"), torch.ones(2, dtype=torch.long, device="meta")
    log_p = torch.zeros(2, L, noise.V, device="meta")
    for outer in (nullcontext(), watch):
        with outer:
            x = noise.check_tokens("x", x, noise.K)
            assert noise.corrupt(x, s, t).shape == noise.step(log_p, x, s, t).shape == (2, L)
            assert draw_many(noise.prior(), (2, L)).shape == (2, L)
            assert noise.kl(x, x, log_p, s, t).shape == noise.prior_kl(x).shape == (2, L)
    noted = {(what, t is not None) for _, t, what, _, _ in watch.unread}
    assert {("each law to draw from", True), ("each law to draw from", False)} <= noted  # a step; the prior
    checks = {("each law to draw from", True), ("each law to draw from", False), ("each chance", True)}
    assert noted <= checks | {("x", False), ("s", True)}  # tokens in range, times in order


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_laws_of_any_precision_are_drawn_from(dtype):
    p = tensor([0.25, 0.5, 0.125, 0.125], dtype=dtype)
    assert agree(draw(p.expand(40000, -1)), p.double()) and agree(draw_many(p, (200, 200)), p.double())
    many = torch.ones(50257, dtype=dtype)  # running sums in half precision would stop growing at 2,048
    assert draw_many(many, (2000,)).double().mean() == pytest.approx(50256 / 2, rel=0.1)
    assert draw(many.expand(20, -1)).max() > 10000


def test_draws_of_no_law_at_all_are_none():
    assert draw(torch.ones(0, 3)).shape == (0,) and happens(torch.ones(0)).shape == (0,)


def test_draws_carry_no_gradient():
    p = torch.rand(4, 3, requires_grad=True)
    assert not draw(p).requires_grad and not happens(p).requires_grad


def test_many_draws_of_one_law_follow_it():
    p = tensor([0.0, 2.0, 1.0, 0.0, 5.0, 0.0])
    x = draw_many(p, (3, 20000))
    assert x.shape == (3, 20000) and agree(x, (p / 8).double())
    torch.manual_seed(5)
    one = draw(p.expand(3, 7, -1))
    torch.manual_seed(5)
    assert torch.equal(draw_many(p, (3, 7)), one)


def test_many_draws_make_no_table_for_each():
    """64 sequences of 1,024 tokens with K = 50,257: a law for each would be 26 GB."""
    noise = Absorbing(50257, S.log_linear())
    with Largest() as made:
        x = draw_many(noise.prior(), (64, 1024))
    assert made.numel <= 2 * 65536 and x.shape == (64, 1024)
    assert (x != noise.mask).sum() < 65536 * 0.01


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


SEMIGROUPS = {
    "stationary": lambda clock: Stationary(PI, clock),
    "absorbing": lambda clock: Absorbing(V, clock),
    "mask and uniform": lambda clock: MaskUniform(V, clock, 0.3),
    "neighbours": lambda clock: Neighbours(RATES, clock),
}


@pytest.mark.parametrize("make", SEMIGROUPS.values(), ids=SEMIGROUPS)
@pytest.mark.parametrize("whole", [True, False])
def test_a_clock_may_leave_nothing_at_its_end(make, whole):
    """alpha = 0 at T: all is finite there, and from T to T nothing happens."""
    clock = S.log_linear(0.0)
    noise = make(S.table(clock, 4, max_beta=1.0) if whole else clock)
    end = times(4, 4) if whole else torch.ones(2)
    half = end // 2 if whole else end / 2
    assert noise.log_alpha(end).tolist() == [-math.inf] * 2
    assert noise.log_alpha_ratio(end, end).tolist() == [0.0, 0.0]
    torch.testing.assert_close(noise.matrix(end, end)[0], torch.eye(noise.K).double(), rtol=0, atol=1e-14)
    x0 = torch.randint(0, V, (2, 5))
    x_t = noise.corrupt(x0, end * 0, end)
    assert torch.equal(noise.corrupt(x_t, end, end), x_t)
    log_p = torch.randn(2, 5, V).log_softmax(-1).requires_grad_()
    for s in (end * 0, half):
        kl = noise.kl(x0, x_t, log_p, s, end)
        assert kl.isfinite().all() and torch.autograd.grad(kl.sum(), log_p)[0].isfinite().all()
        assert noise.posterior(log_p.exp(), x_t, s, end).isfinite().all()
        assert noise.step(log_p, x_t, s, end).shape == (2, 5)
    assert noise.prior_kl(x0).abs().max() < 1e-12
    assert noise.posterior_from_loo(log_p, x_t, end).isfinite().all()
    assert noise.rates(x_t).isfinite().all()


class Learned(torch.nn.Module):
    """alpha_bar(u) = 0.99 (1 - u^w), whose w is trained. At u = 0 its slope in w is not a number."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(tensor(1.7, dtype=torch.float64))
        self.schedule = S.Schedule("learned", lambda u: torch.log1p(-0.99 * (self.w * u.log()).exp()))


@pytest.mark.parametrize("make", SEMIGROUPS.values(), ids=SEMIGROUPS)
def test_a_learned_clock_gets_its_gradient(make):
    """Against differences, for what a bound is made of; also from time 0 on."""
    clock = Learned()
    noise = make(clock.schedule)
    x0, x_t = tensor([[0, 1], [2, 3]]), tensor([[0, 2], [2, 3]])
    if noise.mask is not None:
        x_t[:, 1] = noise.mask
    if isinstance(noise, Absorbing):
        x_t[:] = noise.mask
    s, t = tensor([0.0, 0.3], dtype=torch.float64), tensor([0.4, 0.8], dtype=torch.float64)
    log_p = torch.randn(2, 2, V).double().log_softmax(-1)
    quantities = {
        "log_alpha": lambda: noise.log_alpha(t),
        "log_alpha_ratio": lambda: noise.log_alpha_ratio(s, t),
        "kl": lambda: noise.kl(x0, x_t, log_p, s, t),
        "posterior": lambda: noise.posterior(log_p.exp(), x_t, s, t)[..., :2],
        "prior_kl": lambda: noise.prior_kl(x0),
        "loo_from_posterior": lambda: noise.loo_from_posterior(log_p, x_t, t)[..., 0],
    }
    if isinstance(noise, Absorbing):
        quantities["unmasking_probability"] = lambda: noise.unmasking_probability(s, t)
    for name, quantity in quantities.items():
        value = quantity().sum()
        slope = torch.autograd.grad(value, clock.w)[0] if value.requires_grad else torch.zeros(())
        with torch.no_grad():
            clock.w += 1e-5
            later = quantity().sum()
            clock.w -= 2e-5
            sooner = quantity().sum()
            clock.w += 1e-5
        assert slope.item() == pytest.approx(((later - sooner) / 2e-5).item(), rel=1e-6, abs=1e-8), name


# Devices and dtypes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_laws_are_float64_whatever_comes_in(noise, dtype):
    """Half precision loses nothing but the digits that came in."""
    x_t, s, t = torch.randint(0, noise.V, (2, L)), times(1, 2), times(3, 5)
    p0 = torch.rand(2, L, noise.V).softmax(-1).to(dtype)
    if isinstance(noise, Absorbing):
        x_t[:] = noise.mask
    for law in (lambda p: noise.mix(p, s, t), lambda p: noise.posterior(p, x_t, s, t)):
        got = law(p0)
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, law(p0.double()), rtol=0, atol=1e-14)
    log_p = p0.log()
    ways = (noise.posterior_from_loo, noise.loo_from_posterior, noise.score_from_loo, noise.loo_from_score)
    for change in ways:
        got, want = change(log_p, x_t, t), change(log_p.double(), x_t, t)
        assert got.dtype == (dtype if dtype.itemsize >= 4 else torch.float32)
        torch.testing.assert_close(got.double(), want, rtol=2e-5, atol=2e-5)
    kl = noise.kl(x_t.clamp(max=V - 1), x_t, log_p.log_softmax(-1), s, t)
    assert kl.dtype == torch.float64 and kl.isfinite().all()


def test_everything_works_in_inference_mode(noise):
    with torch.inference_mode():
        x0, s, t = torch.randint(0, V, (2, L)), times(1, 2), times(3, 5)
        x_t = noise.corrupt(x0, s * 0, t)
        log_p = torch.randn(2, L, V).log_softmax(-1)
        assert noise.step(log_p, x_t, s, t).shape == (2, L)
        assert noise.kl(x0, x_t, log_p, s, t).isfinite().all()
        assert noise.check_tokens("x", draw_many(noise.prior(), (2, L)), noise.K).shape == (2, L)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_times_of_any_width_are_times(noise, dtype):
    s, t = times(0, 1, 0), times(1, 2, T)
    torch.testing.assert_close(noise.matrix(s.to(dtype), t.to(dtype)), noise.matrix(s, t), rtol=0, atol=0)


def test_tables_stay_in_float64(noise, device):
    noise = noise.to(device).half()
    assert all(v.dtype == torch.float64 or device == "mps" for v in noise.buffers() if v.is_floating_point())
    assert all(v.device.type == torch.device(device).type for v in noise.buffers())
    x = torch.zeros(2, 3, dtype=torch.long, device=device)
    t = torch.tensor([2, 3], device=device)
    assert noise.corrupt(x, t * 0, t).device.type == torch.device(device).type


# Bad input


INTEGERS = [
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_tokens_of_any_width_come_back_as_int64(dtype, unchecked):
    noise = Absorbing(V, TABLE)
    got = noise.check_tokens("x", tensor([[0, 3]], dtype=dtype), V)
    assert got.dtype == torch.int64 and got.tolist() == [[0, 3]]
    assert noise.check_tokens("x", tensor([[4]], dtype=dtype), noise.K).tolist() == [[4]]
    with pytest.raises(ValueError, match="x must lie in 0..3, but holds 4: MASK"):
        noise.check_tokens("x", tensor([[0, 4]], dtype=dtype), V)
    x = tensor([[0, 3]])
    assert noise.check_tokens("x", x, V) is x


def test_bad_tokens_are_named(unchecked):
    noise = Absorbing(V, TABLE)
    for x, states, words in (
        (tensor([[0, 4]]), V, r"x must lie in 0..3, but holds 4: MASK, which no data may hold"),
        (tensor([[0, 5]]), V, r"x must lie in 0..3, but holds 5: no such token"),
        (tensor([[-1, 2]]), V, r"x must lie in 0..3, but holds -1: PAD, which may stand only at"),
        (
            tensor([[-100, 2]]),
            V,
            r"x must lie in 0..3, but holds -100: the padding of other libraries; .* PAD = -1",
        ),
        (tensor([[2, -7]]), V, r"x must lie in 0..3, but holds -7: no such token"),
        (tensor([0, 1]), V, r"x must have shape \(B >= 1, L >= 1\), not \(2,\)"),
        (torch.zeros(0, 3).long(), V, r"x must have shape \(B >= 1, L >= 1\), not \(0, 3\)"),
        (torch.zeros(3, 0).long(), V, r"x must have shape \(B >= 1, L >= 1\), not \(3, 0\)"),
    ):
        with pytest.raises(ValueError, match=words):
            noise.check_tokens("x", x, states)
    with pytest.raises(ValueError, match="holds 4: no such token"):
        Uniform(V, TABLE).check_tokens("x", tensor([[4]]), V)
    wrong = (
        (tensor([[0.0]]), "float32"),
        (tensor([[True]]), "bool"),
        (tensor([[1j]]), "complex64"),
        ([[0]], "list"),
    )
    for x, kind in wrong:
        with pytest.raises(TypeError, match=f"x must hold integers, not .*{kind}"):
            noise.check_tokens("x", x, V)


def test_a_function_is_no_clock(unchecked):
    with pytest.raises(TypeError, match=r"clock must be a table or a Schedule, .* call it, log_linear\(\)"):
        Uniform(V, S.log_linear)
    with pytest.raises(ValueError, match="alpha_bar must not ask for a gradient"):
        Uniform(V, TABLE.clone().requires_grad_())


def test_a_noise_without_formulas_says_so(unchecked):
    for call in (Noise().mix, Noise().likelihood):
        with pytest.raises(NotImplementedError):
            call(None, None, None)
    for call in (Semigroup(TABLE).after, Semigroup(TABLE).column):
        with pytest.raises(NotImplementedError):
            call(None, None)
