"""What holds for all of the Gaussian family: given times, numbers that are not finite, dtypes, wrong answers."""

import copy
import pickle

import pytest
import torch

from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.data import two_bumps
from course_lib.ddim import DDIM, Renoise
from course_lib.ddpm import DDPM
from course_lib.diagonal_variance import DiagonalVariance
from course_lib.finite import Watch
from course_lib.learned_variance import Learned, LossAware
from course_lib.mdlm import MDLM
from course_lib.nets import MLP
from course_lib.optimal_variance import Analytic, estimate_conditional_variance
from course_lib.oracle import MixtureOracle
from course_lib.process import last, sample
from course_lib.sde import VP
from course_lib.sedd import SEDD
from course_lib.sn_npr import NPR, SN
from tests.helpers import close

A = S.ddpm_table(1000)
SHORT = S.ddpm_table(60)
LEADING = torch.tensor([*range(901, 0, -100), 0])  # 900, 800, ..., 0 of diffusers, whose t is ours less 1
MAKE = {
    "ddpm": lambda a: DDPM(a, (3,)),
    "ddpm, large": lambda a: DDPM(a, (3,), variance="large"),
    "ddim": lambda a: DDIM(a, (3,)),
    "ddim, noisy": lambda a: DDIM(a, (3,), eta=0.7),
    "renoise": lambda a: Renoise(a, (3,)),
    "analytic": lambda a: Analytic(a, (3,), conditional_variance=torch.linspace(0, 0.5, len(a)).double()),
    "learned": lambda a: Learned(a, (3,)),
    "npr": lambda a: NPR(a, (3,)),
    "sn": lambda a: SN(a, (3,), eta=0.0),
}


@pytest.fixture(params=MAKE)
def system(request):
    return MAKE[request.param]


def net(process):
    """A network that suits the process: 0.3 x + u / 10, and 0.1 for the second answer."""

    def one(x, u):
        return 0.3 * x + (u / 10).to(x.dtype)[:, None]

    if isinstance(process, DiagonalVariance):
        return lambda x, u: torch.cat([one(x, u), 0.1 + 0 * x], 1)
    return one


# Times that do not start at T


@pytest.mark.parametrize("kind", ["ddim", "small", "large"])
def test_leading_times_are_those_of_diffusers(kind, monkeypatch):
    """DDIM's and DDPM's samplers with spacing "leading", from the same x and with the same noise."""
    import diffusers
    from diffusers.schedulers import scheduling_ddim, scheduling_ddpm

    options = {"clip_sample": False, "timestep_spacing": "leading"}
    if kind == "ddim":
        process, theirs = DDIM(A, (3,), eta=0.6), diffusers.DDIMScheduler(1000, **options)
    else:
        process = DDPM(A, (3,), variance=kind)
        theirs = diffusers.DDPMScheduler(1000, variance_type=f"fixed_{kind}", **options)
    theirs.set_timesteps(10)
    assert theirs.timesteps.tolist() == (LEADING[:-1] - 1).tolist()
    torch.manual_seed(0)
    _, got = last(sample(process, lambda x, u: 0.3 * x, 5, LEADING))
    torch.manual_seed(0)
    x = process.prior(5)
    for module in (scheduling_ddim, scheduling_ddpm):
        monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: torch.randn(shape))
    for t in theirs.timesteps:
        x = theirs.step(0.3 * x, t, x, **({"eta": 0.6} if kind == "ddim" else {})).prev_sample
    close(got, x, rtol=1e-4, atol=1e-4)


def test_every_system_takes_times_that_do_not_start_at_the_end(system):
    process = system(A)
    states = list(sample(process, net(process), 4, LEADING))
    assert [t for t, _ in states] == LEADING.tolist()
    assert all(x.shape == (4, 3) and x.isfinite().all() for _, x in states)


def test_a_perfect_network_ends_at_the_data_from_901_too():
    """x at 901 is all but pure noise, so the law at the end is the data's."""
    mixture, process = two_bumps(), DDIM(A, (1,))
    times = torch.tensor([*range(901, 0, -50), 0])
    _, x = last(sample(process, MixtureOracle(process, mixture), 4000, times))
    assert abs(x.var() - mixture.sample(20_000).var()) < 0.1


# Training times


@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [
    lambda: VP(S.linear(), (2,)),
    lambda: SEDD(Absorbing(5, S.log_linear()), 4),
    lambda: MDLM(Absorbing(5, S.log_linear()), 4),
    lambda: DDPM(SHORT, (2,)),
    lambda: LossAware(DDPM(SHORT, (2,))),
])  # fmt: skip
def test_training_times_lie_above_0_for_the_largest_and_the_smallest_draw(make, default, monkeypatch):
    """torch.rand's largest float32 is 1 - 2^-24: in float32 (n - 1 + it) / n rounds up to 1, and t to 0."""
    process = make()
    for draw in (0.0, 1 - 2**-24):
        monkeypatch.setattr(torch, "rand", lambda n, device=None, draw=draw: torch.full((n,), draw))
        for n in (*range(1, 130), 255, 256, 1000, 1024, 4096):
            t = process.sample_t(n)
            assert t.min() > 0 and t.max() <= process.T
            if isinstance(process.T, int):
                assert t.min() >= 1
            else:
                assert t.dtype == torch.float32
    monkeypatch.undo()
    torch.set_default_dtype(default)
    try:
        t = process.sample_t(64)
        assert t.min() > 0 and t.max() <= process.T
    finally:
        torch.set_default_dtype(torch.float32)


# Numbers that are not finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_network_that_says_nan_is_named_with_step_and_time(bad, system):
    process = system(SHORT)
    good = net(process)

    def late(x, u):
        return good(x, u) + torch.where(u < 0.4, bad, 0.0)[:, None]

    times = torch.tensor([60, 40, 20, 0])
    with pytest.raises(FloatingPointError, match="model's output must be finite, but at step 3, at t = 20"):
        last(sample(process, late, 4, times))
    x, t = torch.randn(4, 3), torch.full((4,), 20)
    for ask in (process.loss, process.bound, lambda net, x, t: process.predict_x0(net, x, t)):
        with pytest.raises(
            (FloatingPointError, ValueError), match="finite, but at t = 20|eta must be above 0"
        ):
            ask(late, x, t)
    if not isinstance(process, DiagonalVariance):
        for estimator in ("residual", "score norm"):
            with pytest.raises(FloatingPointError, match="must be finite, but at t = 1"):
                estimate_conditional_variance(process, late, torch.randn(4, 3), estimator)


def test_a_finite_answer_that_makes_an_infinite_state_is_named():
    """An answer near the largest float32 overflows in x_s, and a learned log-variance in its exponential."""
    huge = lambda x, u: 0 * x + 3e38  # noqa: E731
    wide = lambda x, u: torch.cat([0 * x, 0 * x + 1e6], 1)  # noqa: E731
    for process, model in ((DDPM(SHORT, (3,)), huge), (Learned(SHORT, (3,)), wide)):
        with pytest.raises(FloatingPointError, match="x_s must be finite, but at step 1, at t = 60"):
            last(sample(process, model, 4, 3))


def test_estimates_refuse_data_that_is_not_finite():
    data = torch.randn(4, 3)
    data[2, 1] = float("nan")
    with pytest.raises(ValueError, match="data must be finite"):
        estimate_conditional_variance(DDPM(SHORT, (3,)), torch.sin, data)


def test_estimates_are_made_in_eval_mode_and_at_the_times_asked():
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Identity())
    process, data = DDPM(SHORT, (3,)), torch.randn(8, 3)
    out = estimate_conditional_variance(process, lambda x, u: model(x), data, times=torch.tensor([5, 9]))
    assert model.training and out.isnan().sum() == 58 and out[0] == 0

    class Mode(torch.nn.Module):
        def forward(self, x, u):
            assert not self.training
            return x

    net = Mode()
    estimate_conditional_variance(process, net, data, times=torch.tensor([5]))
    assert net.training
    for times, error in ((torch.tensor([0, 5]), ValueError), (torch.tensor([61]), ValueError)):
        with pytest.raises(error, match=r"times must lie in \[1, 60\]"):
            estimate_conditional_variance(process, net, data, times=times)


def test_a_table_with_holes_is_noted_off_the_cpu_and_not_silent():
    """Where reading would make the device wait, the missing number is noted; on the meta device none can be read."""
    process = Analytic(SHORT, (3,)).to("meta")
    t = torch.full((4,), 60, device="meta")
    watch = Watch()
    with watch:
        process.transition(t, t - 1)
    assert len(watch.unread) == 1 and "conditional_variance" in watch.unread[0]


# What a network answers


@pytest.mark.parametrize("shape, words", [
    ((4, 2), r"not \(4, 2\)"), ((4, 1), r"not \(4, 1\)"), ((4, 9), r"not \(4, 9\)"),
    ((3,), r"not \(3,\)"), ((1, 3), r"\(1, 3\)"),
])  # fmt: skip
def test_answers_of_another_shape_are_refused(shape, words, system, unchecked):
    """Most of them would broadcast into a number that looks right."""
    process, x, t = system(SHORT), torch.randn(4, 3), torch.full((4,), 20)
    model = lambda x, u: torch.zeros(shape)  # noqa: E731
    for ask in (
        lambda: process.step(model, x, t, t - 1), lambda: process.loss(model, x, t),
        lambda: process.predict_x0(model, x, t),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="model must return .*" + words):
            ask()


def test_answers_that_are_no_float_tensors_are_refused(system, unchecked):
    process, x, t = system(SHORT), torch.randn(4, 3), torch.full((4,), 20)
    for model, words in (
        (lambda x, u: (x, x), "model must return a tensor, not tuple"),
        (lambda x, u: x.long(), "model must return floats, not torch.int64"),
    ):
        with pytest.raises(TypeError, match=words):
            process.loss(model, x, t)


def test_states_and_noise_of_another_shape_are_refused(system, unchecked):
    process, x, t = system(SHORT), torch.randn(4, 3), torch.full((4,), 20)
    with pytest.raises(ValueError, match="x_t must have the shape of x0"):
        process.loss_at(net(process), x, x[:1], t)
    with pytest.raises(ValueError, match=r"eps must have the shape of x0, \(4, 3\), not \(1, 3\)"):
        process.corrupt(x, t, x[:1])
    with pytest.raises(TypeError, match="multiple values for keyword argument|unexpected keyword"):
        type(process)(SHORT, (3,), grid=None)


# Scoring at a state that is given


def test_loss_and_bound_are_those_at_the_state_drawn(system):
    process, x0, t = system(SHORT), torch.randn(60, 3), torch.arange(1, 61)
    model = net(process)
    torch.manual_seed(0)
    x_t = process.corrupt(x0, t)
    pairs = [(process.loss, process.loss_at)]
    if getattr(process, "eta", 1.0) > 0:
        pairs += [(process.bound, process.bound_at), (process.term, process.term_at)]
    for drawn, given in pairs:
        torch.manual_seed(0)
        assert torch.equal(drawn(model, x0, t), given(model, x0, x_t, t))


# Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_states_and_networks_of_any_precision(dtype, system):
    process, t = system(SHORT), torch.tensor([1, 5, 30, 60])
    model = net(process)
    torch.manual_seed(0)
    x = torch.randn(4, 3).to(dtype)
    step = process.step(model, x, t, t - 1)
    assert step.dtype == dtype and step.isfinite().all()
    loss = process.loss(model, x, t)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    if getattr(process, "eta", 1.0) > 0:
        want = process.bound_at(model, x.double(), x.double(), t)
        got = process.bound_at(model, x, x, t)
        assert got.dtype == torch.float64
        close(got, want, rtol=0.5, atol=1.0)
    low = lambda x, u: model(x, u).to(dtype)  # noqa: E731
    assert last(sample(process, low, 4, 5))[1].dtype == torch.float32


def test_everything_runs_in_inference_mode(system):
    process, x, t = system(SHORT), torch.randn(4, 3), torch.tensor([1, 5, 30, 60])
    with torch.inference_mode():
        x_0 = last(sample(process, net(process), 4, 5))[1]
        assert x_0.isfinite().all() and process.loss(net(process), x, t).isfinite().all()


# The history of loss-aware times


def test_a_history_survives_copies_pickles_and_state_dicts():
    aware = LossAware(DDPM(SHORT, (2,)), history=2)
    for _ in range(2):
        aware.remember(torch.arange(1, 61), torch.linspace(0.1, 3, 60))
    law = aware.p()
    assert law.std() > 0
    other = LossAware(DDPM(SHORT, (2,)), history=2)
    other.load_state_dict(aware.state_dict())
    for again in (copy.deepcopy(aware), pickle.loads(pickle.dumps(aware)), other):
        assert torch.equal(again.p(), law) and again.process is not aware.process
    copied = copy.deepcopy(aware)
    copied.remember(torch.tensor([7, 7]), torch.tensor([9.0, 9.0]))
    assert torch.equal(aware.p(), law) and not torch.equal(copied.p(), law)


def test_a_loss_that_is_not_finite_is_never_remembered():
    aware = LossAware(DDPM(SHORT, (2,)), history=2)
    with pytest.raises(FloatingPointError):
        aware.loss(lambda x, u: x / 0 * 0, torch.randn(4, 2), torch.tensor([1, 2, 3, 4]))
    assert aware.seen.sum() == 0
    aware.remember(
        torch.tensor([1, 2]), torch.tensor([float("nan"), 3.0])
    )  # off the CPU the loop raises later
    assert aware.seen[:2].tolist() == [0, 1] and aware.losses[1, 0] == 3


def test_loss_aware_weighs_a_state_that_is_given_too():
    aware = LossAware(DDPM(SHORT, (2,)), history=1)
    aware.remember(torch.arange(1, 61), torch.linspace(0.1, 3, 60))
    x0, t = torch.randn(2, 2), torch.tensor([3, 50])
    x_t, law = aware.corrupt(x0, t), aware.p()
    model = MLP((2,), 8, 1)
    want = aware.process.loss_at(model, x0, x_t, t) / (60 * law[t - 1])
    close(aware.loss_at(model, x0, x_t, t), want.float())
    assert aware.seen[[2, 49]].tolist() == [2, 2]


def test_loss_aware_keeps_each_draw_in_its_stratum(monkeypatch):
    """With the largest draw of torch.rand no draw moves on to the next stratum."""
    aware, n = LossAware(DDPM(SHORT, (2,))), 60
    monkeypatch.setattr(torch, "rand", lambda n, device=None: torch.full((n,), 1 - 2**-24))
    assert aware.sample_t(n).sort().values.tolist() == list(range(1, 61))


def test_without_noise_no_noise_is_drawn():
    """So that deterministic DDIM leaves the caller's random numbers as they are."""
    process, x, t = DDIM(SHORT, (3,)), torch.randn(4, 3), torch.full((4,), 20)
    before = torch.get_rng_state()
    process.step(net(process), x, t, t - 5)
    assert torch.equal(torch.get_rng_state(), before)
    DDIM(SHORT, (3,), eta=0.1).step(net(process), x, t, t - 5)
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["npr", "sn", "learned"])
def test_the_second_answer_does_not_move_the_first(name):
    """The gradient in the prediction is that of DDPM's loss alone."""
    process, t = MAKE[name](SHORT), torch.tensor([2, 5, 30, 60])
    x0, x_t = torch.randn(2, 4, 3).double()
    slope = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    two = lambda x, u: torch.cat([slope * x, 0.1 + 0 * x], 1)  # noqa: E731
    got = torch.autograd.grad(process.loss_at(two, x0, x_t, t).sum(), slope)[0]
    plain = DDPM(SHORT, (3,)).loss_at(lambda x, u: slope * x, x0, x_t, t)
    close(got, torch.autograd.grad(plain.sum(), slope)[0])


def test_the_variance_that_fits_is_the_decoders_by_default():
    known = torch.linspace(0.2, 0.5, 61).double()
    assert Analytic(SHORT, (3,), conditional_variance=known).decoder_var == known[1].item()
    assert Analytic(SHORT, (3,), conditional_variance=known, decoder_var=0.7).decoder_var == 0.7
    assert Analytic(SHORT, (3,)).decoder_var == DDPM(SHORT, (3,)).decoder_var


def test_the_bound_at_loss_aware_times_is_that_at_even_times():
    """sum_t p_t bound(t) / (T p_t) = mean_t bound(t)."""
    aware = LossAware(DDPM(SHORT, (2,)), history=1)
    aware.losses.copy_(torch.arange(1.0, aware.T + 1)[:, None])
    aware.seen.fill_(1)
    t, x = torch.arange(1, aware.T + 1), torch.randn(aware.T, 2)
    net = lambda x, u: torch.zeros_like(x)  # noqa: E731
    torch.manual_seed(0)
    plain = aware.process.bound(net, x, t)
    torch.manual_seed(0)
    got = aware.bound(net, x, t)
    torch.testing.assert_close((aware.p() * got).sum(), plain.mean().to(aware.p()), rtol=1e-5, atol=0)
