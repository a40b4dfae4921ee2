"""Schedules against the papers' formulas, written out again in float64."""

import copy
import math
import pickle

import pytest
import torch

from course_lib import schedules as S

ALL = {
    "linear": (S.linear(), lambda u: math.exp(-0.1 * u - 9.95 * u * u)),
    "cosine": (
        S.cosine(),
        lambda u: (math.cos((u + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2,
    ),
    "sqrt": (S.sqrt(), lambda u: (1 - math.sqrt(u + 1e-4)) / 0.99),
    "sigmoid": (S.sigmoid(), lambda u: sigmoid_share(u, -3, 3, 1)),
    "sigmoid, other ends": (S.sigmoid(-2.0, 4.0, 0.7), lambda u: sigmoid_share(u, -2, 4, 0.7)),
    "log-linear": (S.log_linear(), lambda u: 1 - (1 - 1e-3) * u),
    "geometric": (S.geometric(), lambda u: math.exp(-(1e-4 ** (1 - u)) * 20**u)),
    "linear, other ends": (S.linear(0.3, 5.0), lambda u: math.exp(-0.3 * u - 2.35 * u * u)),
    "cosine, other s": (
        S.cosine(0.1),
        lambda u: (math.cos((u + 0.1) / 1.1 * math.pi / 2) / math.cos(math.pi / 22)) ** 2,
    ),
    "cosine, power 1": (
        S.cosine(power=1),
        lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2),
    ),
    "sqrt, other s": (S.sqrt(1e-6), lambda u: (1 - math.sqrt(u + 1e-6)) / 0.999),
    "log-linear, other eps": (S.log_linear(0.1), lambda u: 1 - 0.9 * u),
    "geometric, other ends": (S.geometric(0.01, 4.0), lambda u: math.exp(-(0.01 ** (1 - u)) * 4**u)),
}


def sigmoid_share(u, start, end, tau):
    g = lambda v: 1 / (1 + math.exp(-v / tau))  # noqa: E731
    return (g(end) - g(start + u * (end - start))) / (g(end) - g(start))


@pytest.fixture(params=ALL)
def pair(request):
    return ALL[request.param]


U = [0.0, 1e-3, 0.1, 0.25, 0.5, 0.77, 0.95, 0.999]


def test_formula(pair):
    schedule, formula = pair
    u = torch.tensor(U, dtype=torch.float64)
    want = torch.tensor([formula(v) for v in U], dtype=torch.float64)
    torch.testing.assert_close(schedule(u), want, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(schedule.log_alpha_bar(u), want.log(), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(schedule.noise(u), 1 - want, rtol=1e-9, atol=1e-12)
    inner = want < 1
    torch.testing.assert_close(
        schedule.log_snr(u)[inner], (want / (1 - want)).log()[inner], rtol=1e-8, atol=1e-8
    )


def test_rate_is_minus_the_slope_of_log_alpha_bar(pair):
    schedule, formula = pair
    h = 1e-5
    u = torch.tensor([0.05, 0.3, 0.6, 0.9], dtype=torch.float64)
    slope = [(math.log(formula(v - h)) - math.log(formula(v + h))) / (2 * h) for v in u.tolist()]
    torch.testing.assert_close(schedule.rate(u), torch.tensor(slope, dtype=torch.float64), rtol=1e-5, atol=0)


def test_rate_works_without_gradients_and_leaves_u_alone():
    with torch.no_grad():
        u = torch.tensor([0.5])
        torch.testing.assert_close(S.linear().rate(u), torch.tensor([10.05]))
    assert not u.requires_grad


def test_rates_in_closed_form():
    u = torch.tensor([0.2, 0.7], dtype=torch.float64)
    torch.testing.assert_close(S.linear().rate(u), 0.1 + 19.9 * u)
    torch.testing.assert_close(S.log_linear().rate(u), 0.999 / (1 - 0.999 * u))
    torch.testing.assert_close(
        S.cosine().rate(u), math.pi / 1.008 * torch.tan((u + 0.008) / 1.008 * math.pi / 2)
    )


@pytest.mark.parametrize("name", ["linear", "cosine", "sqrt", "sigmoid"])
def test_float32_keeps_the_digits_of_the_noise_near_0(name):
    """1 - alpha_bar at u = 1e-4 to 5 digits, where 1 - (a float32 near 1) has 3."""
    schedule = ALL[name][0]
    u = torch.tensor([1e-4])
    torch.testing.assert_close(schedule.noise(u).double(), schedule.noise(u.double()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["cosine", "sqrt", "sigmoid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_schedules_that_end_at_zero(name, dtype):
    schedule, one = ALL[name][0], torch.ones(1, dtype=dtype)
    assert schedule(one).item() < 1e-7 and not schedule.log_alpha_bar(one).isnan()
    assert schedule.rate(one).item() > 1e6


def test_shape_and_dtype_are_kept():
    for schedule, _ in ALL.values():
        assert schedule(torch.rand(2, 3)).shape == (2, 3)
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            u = torch.tensor([0.25, 0.5], dtype=dtype)
            assert schedule(u).dtype == schedule.noise(u).dtype == schedule.rate(u).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_rounded_float64(dtype, pair):
    """Also near u = 0, where 1 - alpha_bar taken in half precision would have no digit left."""
    schedule, _ = pair
    u = torch.tensor([1e-3, 0.01, 0.3, 0.9], dtype=dtype)
    for ask in (schedule, schedule.noise, schedule.rate, schedule.log_snr):
        want = ask(u.double())
        torch.testing.assert_close(ask(u).double(), want, rtol=5 * torch.finfo(dtype).eps, atol=0)


def test_a_schedule_says_what_made_it():
    """So that a checkpoint can tell one clock from another."""
    assert repr(S.linear()) == "linear(beta_min=0.1, beta_max=20.0)" == repr(S.linear(0.1, 20.0))
    assert repr(S.log_linear(0.0)) == "log-linear(eps=0.0)" and S.log_linear().name == "log-linear"
    assert repr(S.sigmoid()) == "sigmoid(start=-3.0, end=3.0, tau=1.0)" and repr(S.sqrt()) == "sqrt(s=0.0001)"
    made = [repr(schedule) for schedule, _ in ALL.values()]
    assert len(set(made)) == len(made)
    assert (
        repr(S.Schedule("mine", lambda u: -u)) == "mine"
        and repr(S.Schedule("mine", torch.neg, k=2)) == "mine(k=2)"
    )


@pytest.mark.parametrize("call, error, words", [
    (lambda: S.linear(0.0), ValueError, "beta_min must be > 0, not 0.0"),
    (lambda: S.linear(0.1, -1.0), ValueError, "beta_max must be > 0, not -1.0"),
    (lambda: S.linear(0.1, math.inf), ValueError, "beta_max must be > 0, not inf"),
    (lambda: S.linear("0.1"), TypeError, "beta_min must be a number, not str"),
    (lambda: S.linear(True), TypeError, "beta_min must be a number, not bool"),
    (lambda: S.cosine(-0.1), ValueError, "s must be >= 0, not -0.1"),
    (lambda: S.cosine(math.nan), ValueError, "s must be >= 0, not nan"),
    (lambda: S.cosine(power=0), ValueError, "power must be > 0, not 0"),
    (lambda: S.sqrt(0.0), ValueError, "s must be > 0 and < 1, not 0.0"),
    (lambda: S.sqrt(1.0), ValueError, "s must be > 0 and < 1, not 1.0"),
    (lambda: S.sigmoid(2.0, 2.0), ValueError, "end must be > 2, not 2.0"),
    (lambda: S.sigmoid(math.nan), ValueError, "start must be finite, not nan"),
    (lambda: S.sigmoid(tau=0.0), ValueError, "tau must be > 0, not 0.0"),
    (lambda: S.log_linear(1.0), ValueError, "eps must be >= 0 and < 1, not 1.0"),
    (lambda: S.log_linear(-1e-3), ValueError, "eps must be >= 0 and < 1, not -0.001"),
    (lambda: S.log_linear(torch.nn.Parameter(torch.tensor(0.1))), TypeError, "eps must be a number, not torch.float32"),
    (lambda: S.geometric(0.0), ValueError, "sigma_min must be > 0, not 0.0"),
    (lambda: S.geometric(3.0, 3.0), ValueError, "sigma_max must be > 3, not 3.0"),
    (lambda: S.Schedule("flat", 3.0), TypeError, "log_alpha_bar must be a function of u, not float"),
    (lambda: S.linear()(0.5), TypeError, "u must be a float tensor, not float"),
])  # fmt: skip
def test_settings_outside_their_range(call, error, words, unchecked):
    with pytest.raises(error, match=words):
        call()


def test_the_edges_of_the_settings_are_schedules():
    """cosine without offset, and log-linear down to nothing: the ends of what is allowed."""
    u = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    torch.testing.assert_close(S.cosine(0.0)(u), (u * math.pi / 2).cos().square(), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(S.log_linear(0.0)(u), 1 - u)
    assert S.log_linear(0.0).rate(u)[-1] == math.inf
    assert S.log_linear(0.0).log_snr(u[-1:]).item() == -math.inf


# Learned schedules, inference mode, inverses


def learned(w):
    """alpha_bar = 1 - u^w."""
    return S.Schedule("learned", lambda u: torch.log1p(-(u**w)))


def test_a_learned_schedule_gets_the_gradient_of_its_weight():
    """The weight of masks, rate alpha / (1 - alpha), is w / u for alpha = 1 - u^w: 5 at u = 0.2, and not 9.6."""
    w = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    u, schedule = torch.tensor([0.2], dtype=torch.float64), learned(w)
    weight = schedule.rate(u) * schedule(u) / schedule.noise(u)
    assert weight.item() == pytest.approx(1.7 / 0.2)
    weight.sum().backward()
    assert w.grad.item() == pytest.approx(5.0) and not u.requires_grad


def test_the_rate_has_a_gradient_in_u_where_u_asks_for_one():
    u = torch.tensor([0.2, 0.7], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(S.cosine().rate, u)
    slope = torch.autograd.grad(S.linear().rate(u).sum(), u)[0]
    torch.testing.assert_close(slope, torch.full_like(u, 19.9))


def test_a_plain_rate_carries_no_graph():
    assert not S.linear().rate(torch.tensor([0.3])).requires_grad
    w = torch.tensor(1.7, requires_grad=True)
    with torch.no_grad():
        assert not learned(w).rate(torch.tensor([0.3])).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rates_in_inference_mode(dtype, pair):
    schedule, _ = pair
    u, w = torch.tensor([0.1, 0.6], dtype=dtype), torch.tensor(2.0, requires_grad=True)
    want = schedule.rate(u)
    with torch.inference_mode():
        made_here = torch.tensor([0.1, 0.6], dtype=dtype)
        assert torch.equal(schedule.rate(u), want) and torch.equal(schedule.rate(made_here), want)
        assert torch.isfinite(learned(w).rate(made_here)).all()


def test_inverse_finds_the_time(pair):
    schedule, _ = pair
    u = torch.tensor([0.0, 0.01, 0.5, 0.99], dtype=torch.float64)
    torch.testing.assert_close(schedule.inverse(schedule.log_alpha_bar(u)), u, rtol=0, atol=1e-9)
    outside = torch.tensor([0.1, -1e9], dtype=torch.float64)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(schedule.inverse(outside), ends, rtol=0, atol=2e-4)


def test_an_inverse_refuses_to_lose_a_gradient():
    w = torch.tensor(1.7, requires_grad=True)
    for schedule, log in (
        (learned(w), torch.tensor([-0.5])),
        (S.linear(), torch.tensor([-0.5], requires_grad=True)),
    ):
        with pytest.raises(RuntimeError, match="inverse has no gradient"):
            schedule.inverse(log)
        with torch.no_grad():
            assert 0 < schedule.inverse(log).item() < 1


def test_bisection_goes_to_the_turn_or_to_an_end():
    low, high = torch.tensor([0.0, 2.0, 2.0]).double(), torch.tensor([2.0, 3.0, 3.0]).double()
    turn = torch.tensor([0.3, 9.0, 1.0]).double()
    torch.testing.assert_close(
        S.bisect(lambda x: x < turn, low, high), torch.tensor([0.3, 3.0, 2.0]).double()
    )
    assert S.bisect(lambda x: x < turn, low, high, halvings=1).tolist() == [0.5, 2.75, 2.25]


@pytest.mark.parametrize("bad, error, words", [
    (torch.tensor([1]), TypeError, "float tensor, not torch.int64"),
    (torch.tensor([0.2, 1.5]), ValueError, r"\[0, 1\], but spans \[0.2, 1.5\]"),
    (torch.tensor([-0.1, 0.2]), ValueError, r"\[-0.1, 0.2\]"),
    (torch.tensor([float("nan")]), ValueError, "nan"),
])  # fmt: skip
def test_u_outside_its_range(bad, error, words):
    with pytest.raises(error, match=words):
        S.linear()(bad)


# Tables


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("T", [1, 10, 1000])
def test_table_is_made_of_clipped_steps(name, T):
    schedule, formula = ALL[name]
    got = S.table(schedule, T)
    want = [1.0]
    for t in range(1, T + 1):
        a = max(formula(t / T), 0.0) / formula((t - 1) / T)
        want.append(want[-1] * (1 - min(1 - a, 0.999)))
    assert got.dtype == torch.float64 and got.shape == (T + 1,) and got[0] == 1
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=1e-7, atol=0)


def test_known_values():
    """Constants of the papers' tables (improved DDPM, Diffusion-LM), T = 1000 or 2000."""
    linear, cosine = S.ddpm_table(1000), S.table(S.cosine(), 1000)
    assert linear[-1].item() == pytest.approx(4.0358e-5, rel=1e-4)
    assert 1 - linear[1].item() == pytest.approx(1e-4, rel=1e-9)
    assert 1 - (linear[1000] / linear[999]).item() == pytest.approx(0.02, rel=1e-9)
    assert cosine[-1].item() == pytest.approx(2.4288e-9, rel=1e-4)
    assert 1 - cosine[1].item() == pytest.approx(4.128e-5, rel=1e-3)
    root = S.table(S.sqrt(), 2000)
    assert 1 - root[1].item() == pytest.approx(0.01464, rel=1e-3)  # sigma_0^2 of Diffusion-LM


def test_ddpm_table_is_a_product_and_scales_with_T():
    for T in (21, 100, 4000):
        beta = [1000 / T * (1e-4 + (0.02 - 1e-4) * i / (T - 1)) for i in range(T)]
        want = [math.prod(1 - b for b in beta[:t]) for t in range(T + 1)]
        torch.testing.assert_close(
            S.ddpm_table(T), torch.tensor(want, dtype=torch.float64), rtol=1e-9, atol=0
        )
    assert S.ddpm_table(1000, 1e-3, 0.01)[1].item() == pytest.approx(0.999)


def test_sqrt_at_200_steps_is_every_tenth_of_2000():
    torch.testing.assert_close(
        S.table(S.sqrt(), 200)[:-1], S.table(S.sqrt(), 2000)[::10][:-1], rtol=1e-12, atol=0
    )


def test_three_names_of_one_schedule():
    """D3PM's beta_t = 1 / (T - t + 1) gives alpha_bar = 1 - t / T, which is log-linear with eps = 0."""
    T = 50
    beta = 1 / (T - torch.arange(1, T, dtype=torch.float64) + 1)
    torch.testing.assert_close(
        (1 - beta).cumprod(0), S.log_linear(0.0)(torch.arange(1, T, dtype=torch.float64) / T)
    )


@pytest.mark.parametrize("call, error, words", [
    (lambda: S.table(S.linear(), 0), ValueError, "T must be at least 1, not 0"),
    (lambda: S.table(S.linear(), 10.0), TypeError, "T must be an int, not float"),
    (lambda: S.table(S.linear(), True), TypeError, "T must be an int, not bool"),
    (lambda: S.table(S.linear(), 10, max_beta=1.1), ValueError, r"max_beta must lie in \(0, 1\], not 1.1"),
    (lambda: S.table(S.linear(), 10, max_beta=0.0), ValueError, "max_beta"),
    (lambda: S.table(S.Schedule("up", lambda u: u), 10), ValueError, r"smaller at each t .*, but alpha_bar\[1\]"),
    (lambda: S.table(S.Schedule("broken", lambda u: u * math.nan), 10), ValueError, "finite"),
    (lambda: S.ddpm_table(20), ValueError, "T = 20 makes beta_T = 1,"),
    (lambda: S.ddpm_table(100, 1e-4, 0.0), ValueError, "beta_T = 0"),
    (lambda: S.ddpm_table(0), ValueError, "T must be at least 1"),
    (lambda: S.table(S.linear, 10), TypeError, "schedule must be a Schedule, such as cosine"),
    (lambda: S.ddpm_table(100, 0.0), ValueError, "T = 100 makes beta_1 = 0,"),
    (lambda: S.check_table(torch.tensor([1.0, 0.5]).requires_grad_()), ValueError, "must not ask for a gradient"),
    (lambda: S.check_table([1.0, 0.5]), TypeError, "float tensor, not list"),
    (lambda: S.check_table(torch.tensor([1, 0])), TypeError, "torch.int64"),
    (lambda: S.check_table(torch.tensor([1.0])), ValueError, r"shape \(T \+ 1,\)"),
    (lambda: S.check_table(torch.ones(2, 2)), ValueError, r"\(2, 2\)"),
    (lambda: S.check_table(torch.tensor([1.0, 0.5, 0.5])), ValueError, r"alpha_bar\[2\] = 0.5"),
    (lambda: S.check_table(torch.tensor([1.0, 0.5, 0.6])), ValueError, r"alpha_bar\[2\] = 0.6"),
    (lambda: S.check_table(torch.tensor([0.9, 0.5])), ValueError, r"exactly 1 at t = 0, but alpha_bar\[0\] = 0.9"),
    (lambda: S.check_table(torch.tensor([1.0, 0.0])), ValueError, r"positive, but alpha_bar\[1\] = 0"),
    (lambda: S.check_table(torch.tensor([1.0, math.nan])), ValueError, r"finite, but alpha_bar\[1\] = nan"),
])  # fmt: skip
def test_bad_tables(call, error, words, unchecked):
    with pytest.raises(error, match=words):
        call()


def test_a_table_may_end_at_zero_if_told():
    """Categorical noise may forget all: alpha_bar[T] = 0, but nowhere before T and never less."""
    got = S.table(S.log_linear(0.0), 8, max_beta=1.0)
    torch.testing.assert_close(got, 1 - torch.arange(9, dtype=torch.float64) / 8)
    assert got[-1] == 0 and S.table(S.log_linear(0.0), 8)[-1] > 0
    assert S.check_table(torch.tensor([1.0, 0.0]), to_zero=True).tolist() == [1, 0]
    for bad, says in (([1.0, 0.0, 0.0], "positive"), ([1.0, -0.1], "positive")):
        with pytest.raises(ValueError, match=says):
            S.check_table(torch.tensor(bad), to_zero=True)


def test_tables_move_without_losing_digits():
    class Inner(S.Tables):
        def __init__(self):
            super().__init__()
            self.register_buffer("a", torch.tensor([1 / 3], dtype=torch.float64))
            self.register_buffer("n", torch.tensor([2]))

    class Outer(S.Tables):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

    outer = Outer().float().half().to("cpu", torch.float32)
    assert outer.inner.a.dtype == torch.float64 and outer.inner.a.item() == 1 / 3
    assert outer.inner.n.dtype == torch.int64 and outer.device == outer.inner.device == torch.device("cpu")
    assert S.Tables().device == torch.device("cpu")  # nothing in it: where torch makes its tensors
    assert outer.to("meta").inner.a.device.type == "meta"


def test_a_process_takes_no_parameters():
    """They would neither be trained nor follow .to(device)."""
    with pytest.raises(
        TypeError, match="Tables must not have parameters, but got w: what is learned lives in the net"
    ):
        S.Tables().w = torch.nn.Parameter(torch.zeros(1))


def test_a_table_that_is_not_stored_stays_so_when_it_moves():
    tables = S.Tables()
    tables.register_buffer("a", torch.zeros(1), persistent=False)
    assert list(tables.to("cpu", torch.float32).double().state_dict()) == []


def test_good_table_comes_back_in_float64():
    got = S.check_table(torch.tensor([1.0, 0.5, 0.25]))
    assert got.dtype == torch.float64 and got.tolist() == [1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    "schedule",
    [S.linear(), S.cosine(0.01, 1), S.sqrt(1e-3), S.sigmoid(tau=0.5), S.log_linear(0.0), S.geometric()],
)
def test_schedules_pickle_by_their_numbers(schedule):
    u = torch.linspace(0, 1, 9)
    for twin in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)):
        assert repr(twin) == repr(schedule) and twin.log_alpha_bar(u).equal(schedule.log_alpha_bar(u))


def falling(u):
    return -u


def test_a_schedule_of_ones_own_pickles_if_its_function_does():
    mine = S.Schedule("linear", falling, mine=1)  # not that of this name
    twin = pickle.loads(pickle.dumps(mine))
    assert repr(twin) == repr(mine) == "linear(mine=1)" and twin.log_alpha_bar(torch.ones(1)) == -1
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(S.Schedule("linear", lambda u: -u))
