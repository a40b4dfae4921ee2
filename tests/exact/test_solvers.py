"""Ways back where others use them: any times, any precision, around each other, with networks that say NaN."""

import copy
import itertools
import math
import pickle

import pytest
import torch

from course_lib import schedules as S
from course_lib.data import eight_gaussians, two_bumps
from course_lib.dpm_solver import DPMSolver
from course_lib.likelihood import ProbabilityFlow, rademacher
from course_lib.nets import MLP
from course_lib.oracle import MixtureOracle
from course_lib.process import last, sample
from course_lib.sde import SDE, VE, VP, SubVP
from course_lib.solvers import RK4, Ancestral, Heun, PredictorCorrector, Renoise
from course_lib.wrapper import Wrapper
from tests.helpers import same

WAYS = {
    "Euler-Maruyama": lambda sde: sde,
    "ancestral": Ancestral,
    "renoise": lambda sde: Renoise(sde, 0.5),
    "Heun": Heun,
    "RK4": RK4,
    "DPM-Solver++": DPMSolver,
    "DPM-Solver++ 3": lambda sde: DPMSolver(sde, order=3),
    "flow": lambda sde: ProbabilityFlow(sde, 1e-3, 1e-3),
    "predictor-corrector": PredictorCorrector,
    "corrected solver": lambda sde: PredictorCorrector(DPMSolver(sde, order=3)),
    "corrected twice": lambda sde: PredictorCorrector(PredictorCorrector(Ancestral(sde), 0.1), 0.2, 2),
}
WITHOUT_NOISE = ("Heun", "RK4", "DPM-Solver++", "DPM-Solver++ 3", "flow")


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


def one(t, n, dtype=torch.float64):
    return torch.tensor(t, dtype=dtype).expand(n)


def walk(process, model, x, times):
    for t, s in itertools.pairwise(times):
        x = process.step(model, x, one(t, len(x), x.dtype), one(s, len(x), x.dtype))
    return x


# Times


def test_times_may_lie_beyond_t_max_or_start_late_or_stop_early(way):
    """All that follows is near the data's two bumps, of which no sample is farther than 3."""
    sde = VP(S.cosine(), (1,))
    model, process = MixtureOracle(sde, two_bumps()), way(sde)
    late = torch.linspace(0.95, 0, 26)
    beyond = torch.cat([torch.linspace(1, 0.998, 5), torch.linspace(0.9979, 0, 25)])
    for times in (beyond, late, late.double()):
        t, x = last(sample(process, model, 50, times))
        assert t == 0 and x.isfinite().all() and x.abs().max() < 3


def test_a_step_between_neighbouring_floats_goes_nowhere(way):
    sde = VP(S.cosine(), (1,), t_min=1e-3)
    model, x = MixtureOracle(sde, two_bumps()), torch.randn(20, 1, dtype=torch.float64)
    for start in (1.0, 0.9985, 0.9, 0.3, 0.02):
        t = torch.tensor(start, dtype=torch.float64)
        s = torch.nextafter(t, torch.tensor(0.0, dtype=torch.float64))
        # Not Langevin's steps, nor noise drawn anew: these are no shorter.
        process = Renoise(sde, 0.0) if isinstance(way(sde), Renoise) else way(sde)
        inside = process
        while isinstance(inside, PredictorCorrector):
            inside = inside.predictor
        y = inside.step(model, x, t.expand(20), s.expand(20))
        same(y, x, rtol=0, atol=1e-6)


def test_a_step_may_end_anywhere_before_t_min(way):
    """Down to 1e-30, one time for all or one for each: finite, and the data in the end."""
    sde = VP(S.linear(), (1,), t_min=1e-2)
    model, times = MixtureOracle(sde, two_bumps()), torch.linspace(1, 0.01, 40).tolist()
    times += [0.0099, 1e-3, 9e-4, 1e-8, 1e-30, 0.0]
    for expand in (lambda t: t.expand(30), lambda t: t.repeat(30)):
        process, x = way(sde).fresh(), sde.prior(30)
        for t, s in itertools.pairwise(times):
            x = process.step(model, x, *(expand(torch.tensor(v)) for v in (t, s)))
            assert x.isfinite().all() and x.abs().max() < 6, (t, s)
    assert x.abs().max() < 3


@pytest.mark.parametrize("name", WITHOUT_NOISE[:-1])
def test_before_t_min_the_estimates_are_kept(name):
    """An exact network for a point: x_s = m_s x_0 + std_s eps, whatever s < t_min."""
    sde = VP(S.linear(), (1,), predicts="x0", t_min=0.05)
    x0, eps = torch.full((4, 1), 0.7, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)
    for t, s in ((0.2, 0.03), (0.04, 0.01), (0.04, 0.0), (0.05, 0.049)):
        x = sde.corrupt(x0, one(t, 4), eps)
        calls = []
        got = WAYS[name](sde).step(lambda x, u: calls.append(u) or x0, x, one(t, 4), one(s, 4))  # noqa: B023
        same(got, sde.corrupt(x0, one(s, 4), eps))
        assert len(calls) == 1
    s = torch.tensor([0.03, 0.0, 0.01, 0.04], dtype=torch.float64)
    got = WAYS[name](sde).step(lambda x, u: x0, sde.corrupt(x0, one(0.2, 4), eps), one(0.2, 4), s)
    same(got, sde.corrupt(x0, s, eps))


def test_a_clock_whose_last_digit_wobbles_makes_no_root_of_a_negative_number():
    """Between neighbouring floats log sigma may fall by a digit, although sigma only rises."""

    class Wobbling(VP):
        def log_std(self, t):
            return super().log_std(t[:1] * 0 + 0.5) - 1e-15 * t

        def log_mean(self, t):
            return 0 * t

    x = torch.randn(3, 2, dtype=torch.float64)
    got = Ancestral(Wobbling(S.linear(), (2,))).step(lambda x, u: x, x, one(0.5, 3), one(0.4, 3))
    same(got, x)


def test_ode_solvers_of_second_order_down_to_t_min_itself():
    """At s = t_min a step is Heun's, no longer the short cut below it."""
    sde = VP(S.linear(), (1,), t_min=0.1)
    model, x, errors = MixtureOracle(sde, two_bumps()), torch.linspace(-1, 1, 5).double()[:, None], []
    fine = walk(RK4(sde), model, x, torch.linspace(0.5, 0.1, 101).double().tolist())
    for k in (20, 40):
        errors.append(
            (walk(Heun(sde), model, x, torch.linspace(0.5, 0.1, k + 1).double().tolist()) - fine).abs().max()
        )
    assert 3.2 < errors[0] / errors[1] < 5


# Precision


@pytest.mark.parametrize("dtype, close", [(torch.float64, 1e-4), (torch.float16, 0.1), (torch.bfloat16, 0.5)])
def test_states_of_any_precision(dtype, close, way):
    """A state keeps its dtype, whatever the network's, and goes where the float32 one goes."""
    sde = SubVP(S.cosine(), (2,))
    model = lambda x, u: (0.4 * x.float() + 0.1 * u[:, None].float()).to(torch.float32)  # noqa: E731
    x, times = torch.randn(3, 2), (0.8, 0.6, 0.4, 0.0)
    z, ends = torch.randn(20, 3, 2), []
    for kind in (torch.float32, dtype):
        draws = iter(z)
        noise = lambda x: next(draws).to(x.dtype)  # noqa: B023, E731
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randn_like", noise)
            ends.append(walk(way(sde).fresh(), model, x.to(kind), times))
    assert ends[1].dtype == dtype
    same(ends[1].float(), ends[0], rtol=0, atol=close)


def test_a_trained_network_in_float64(way):
    """Sampling, the bound and the ODE's likelihood of a network of float64 weights."""
    sde, net = VP(S.linear(), (2,), t_min=1e-2), MLP((2,), 16, 1).double()
    x = torch.randn(3, 2, dtype=torch.float64)
    y = walk(way(sde).fresh(), net, x, (0.9, 0.5, 0.0))
    assert y.dtype == torch.float64 and sde.bound(net, x, sde.sample_t(3).double()).dtype == torch.float64
    ode = ProbabilityFlow(sde)
    got, narrow = ode.log_prob(net, x), ode.log_prob(MLP((2,), 16, 1), x.float())
    assert got.dtype == narrow.dtype == torch.float64 and got.isfinite().all()


def test_the_likelihood_of_half_precision_is_near_that_of_float32():
    sde = VP(S.linear(), (2,), t_min=1e-2)
    model, x = MixtureOracle(sde, eight_gaussians(0.5)), eight_gaussians(0.5).sample(5).bfloat16()
    ode = ProbabilityFlow(sde, 1e-2, 1e-2)
    same(ode.log_prob(model, x), ode.log_prob(model, x.float()), rtol=0, atol=0.3)


# Inference mode, eval mode


def test_everything_works_in_inference_mode(way):
    sde, net = VP(S.cosine(), (2,), t_min=1e-2), MLP((2,), 16, 1)
    x = torch.randn(3, 2)
    torch.manual_seed(1)
    want = last(sample(way(sde), net, 3, 4))[1]
    with torch.inference_mode():
        torch.manual_seed(1)
        same(last(sample(way(sde), net, 3, 4))[1], want)
        y = torch.randn(3, 2)  # a tensor that no gradient may flow through
        assert way(sde).loss(net, y, sde.sample_t(3)).isfinite().all()
        assert way(sde).bound(net, y, sde.sample_t(3)).isfinite().all()
        ode = ProbabilityFlow(sde, 1e-3, 1e-3)
        same(
            ode.log_prob(net, x),
            ProbabilityFlow(VP(S.cosine(), (2,), t_min=1e-2), 1e-3, 1e-3).log_prob(net, x),
        )
        assert ode.log_prob(net, y, rademacher(y)).isfinite().all()
        assert ode.latent(net, y).isfinite().all() and ode.data(net, y).isfinite().all()
    same(ode.log_prob(net, x), ode.log_prob(net, x.clone()))


def test_a_network_made_in_inference_mode_has_no_likelihood():
    with torch.inference_mode():
        net = MLP((2,), 16, 1)
    sde = VP(S.cosine(), (2,))
    with pytest.raises(RuntimeError, match="model was made inside torch.inference_mode"):
        ProbabilityFlow(sde).log_prob(net, torch.randn(3, 2))


class Dropping(torch.nn.Module):
    """A network that shows whether it trains."""

    def __init__(self):
        super().__init__()
        self.drop, self.seen = torch.nn.Dropout(0.5), []

    def forward(self, x, u):
        self.seen.append(self.training)
        return self.drop(0.3 * x)


def test_the_ode_is_solved_in_eval_mode_and_the_model_gets_its_mode_back():
    sde, net = VP(S.linear(), (2,), t_min=1e-2), Dropping()
    ode, x = ProbabilityFlow(sde), torch.randn(3, 2)
    assert torch.equal(ode.log_prob(net, x), ode.log_prob(net, x))
    assert torch.equal(ode.latent(net, x), ode.latent(net, x))
    same(ode.data(net, x), ode.data(net, x))
    ode.step(net, x, torch.tensor(0.5).expand(3), torch.tensor(0.2).expand(3))
    assert net.training and net.drop.training and not any(net.seen)


# Around each other


def test_a_way_back_is_a_wrapper_and_says_what_its_sde_says(way):
    sde = VP(S.cosine(), (2,), predicts="v", t_min=1e-3)
    process, x, t = way(sde), torch.randn(3, 2), torch.tensor([0.2, 0.5, 0.9])
    assert process is sde or (isinstance(process, Wrapper) and process.sde is sde)
    for name in ("shape", "dims", "t_min", "t_max", "predicts", "scale", "prior_std", "decoder_var", "T"):
        assert getattr(process, name) == getattr(sde, name)
    model = MixtureOracle(process, eight_gaussians())
    same(model(x, t), MixtureOracle(sde, eight_gaussians())(x, t))
    same(process.times(7), sde.times(7))
    eps = torch.randn(3, 2)
    same(process.corrupt(x, t, eps=eps), sde.corrupt(x, t, eps))
    same(process.predict_x0(model, x, t), sde.predict_x0(model, x, t))
    same(
        process.loss_at(model, x, process.corrupt(x, t, eps), t),
        sde.loss_at(model, x, sde.corrupt(x, t, eps), t),
    )
    torch.manual_seed(0)
    bound = process.bound_at(model, x, x, t)
    torch.manual_seed(0)
    same(bound, sde.bound_at(model, x, x, t))


@pytest.mark.parametrize(
    "schedule", [S.linear(), S.cosine(0.01), S.sqrt(), S.sigmoid(-2.0), S.log_linear(eps=1e-2)]
)
def test_copies_and_pickles_make_the_same_samples(schedule, way):
    model, process = lambda x, u: 0.3 * x + u[:, None], way(VP(schedule, (2,)))
    torch.manual_seed(0)
    want = last(sample(process, model, 4, 5))[1]
    for other in (
        copy.copy(process),
        copy.deepcopy(process),
        pickle.loads(pickle.dumps(process)),
        process.fresh(),
    ):
        torch.manual_seed(0)
        same(last(sample(other, model, 4, 5))[1], want)
        assert other.device == process.device


def test_a_changed_copy_reads_its_own_numbers(way):
    """A deep copy with another clock is another SDE, and the first one stays what it was."""
    sde = VP(S.linear(), (2,))
    process = way(sde)
    x, model = torch.randn(4, 2), lambda x, u: 0.3 * x
    run = lambda p: [torch.manual_seed(0), walk(p.fresh(), model, x, (0.8, 0.5, 0.2))][1]  # noqa: E731
    want = run(process)
    other = copy.deepcopy(process)
    (other if isinstance(other, SDE) else other.sde).schedule = S.cosine()
    assert not torch.allclose(run(other), want)
    same(run(other), run(way(VP(S.cosine(), (2,), t_max=1.0))))
    same(run(process), want)


@pytest.mark.parametrize("outer", [PredictorCorrector, lambda p: PredictorCorrector(p, 0.1, 2)])
@pytest.mark.parametrize("sde", [VP(S.linear(), (2,)), VE((2,), 0.01, 5.0)])
def test_a_corrector_goes_around_every_way_back(outer, sde, way):
    process = outer(way(sde))
    t, x = last(sample(process, MixtureOracle(process, eight_gaussians()), 20, 30))
    assert t == 0 and x.abs().max() < 20
    again = pickle.loads(pickle.dumps(copy.deepcopy(process)))
    assert type(again.predictor) is type(process.predictor) and again.fresh().ratio == process.ratio


def test_a_fresh_corrector_has_a_fresh_solver_at_any_depth():
    sde, model = VP(S.linear(), (1,)), lambda x, u: 0.3 * x
    process = PredictorCorrector(PredictorCorrector(DPMSolver(sde)))
    process.step(model, torch.randn(3, 1), torch.tensor(0.8).expand(3), torch.tensor(0.6).expand(3))
    assert len(process.predictor.predictor.past) == 1
    fresh = process.fresh()
    assert fresh.predictor.predictor.past == () and len(process.predictor.predictor.past) == 1
    assert PredictorCorrector(Ancestral(sde)).fresh().predictor.sde is sde


@pytest.mark.parametrize("call, error, words", [
    (lambda: Ancestral(Heun(VE((2,)))), TypeError, "sde must be an SDE, .* not Heun"),
    (lambda: PredictorCorrector(MLP((2,), 8, 1)), TypeError, "predictor must be an SDE or a way back .* not MLP"),
    (lambda: VP("linear", (2,)), TypeError, "schedule must be a Schedule, such as linear.., not str"),
    (lambda: VP(S.linear(), (2,), t_min=math.nan), ValueError, "t_min must be finite, not nan"),
    (lambda: VP(S.linear(), (2,), clip="1"), TypeError, "clip must be a number, not str"),
    (lambda: VE((2,), math.nan), ValueError, "sigma_min must be > 0, not nan"),
    (lambda: VE((2,), 0.01, math.inf), ValueError, "sigma_max must be > 0.01, not inf"),
    (lambda: PredictorCorrector(VE((2,)), ratio=math.nan), ValueError, "ratio must be > 0, not nan"),
    (lambda: Renoise(VE((2,)), math.nan), ValueError, "share must lie in .0, 1., not nan"),
    (lambda: ProbabilityFlow(VE((2,)), rtol="1e-3"), TypeError, "rtol must be a number, not str"),
    (lambda: VE((2,)).estimate(None, torch.zeros(1, 2), torch.tensor([0.0])), ValueError, "t = 0 in example 0"),
    (lambda: VE((2,)).score(None, torch.zeros(1, 2), torch.tensor([0.0])), ValueError, "t = 0 in example 0"),
    (lambda: VE((2,)).velocity(None, torch.zeros(1, 2), torch.tensor([0.0])), ValueError, "t = 0 in example 0"),
    (lambda: VE((2,)).noise(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0.0])), ValueError, "t = 0 in exa"),
    (lambda: ProbabilityFlow(VE((2,))).log_prob(None, torch.zeros(1, 2), torch.zeros(2)), ValueError, "probe must "),
])  # fmt: skip
def test_bad_settings_are_named(call, error, words, unchecked):
    with pytest.raises(error, match=words):
        call()


# What the network answers


@pytest.mark.parametrize("answer, error, words", [
    (lambda x, u: x[:, :1], ValueError, r"model must return shape \(3, 2\), not \(3, 1\)"),
    (lambda x, u: torch.cat([x, x], 1), ValueError, r"model must return shape \(3, 2\), not \(3, 4\)"),
    (lambda x, u: x[0], ValueError, "model must return shape"),
    (lambda x, u: (x, u), TypeError, "model must return a tensor, not tuple"),
    (lambda x, u: x.long(), TypeError, "model must return floats"),
    (lambda x, u: None, TypeError, "model must return a tensor, not NoneType"),
])  # fmt: skip
def test_an_answer_of_the_wrong_kind_is_named_everywhere(answer, error, words, way, unchecked):
    sde = VP(S.linear(), (2,))
    process, x, t = way(sde), torch.randn(3, 2), torch.full((3,), 0.5)
    calls = [
        lambda: process.loss(answer, x, t),
        lambda: process.bound(answer, x, t),
        lambda: process.loss_at(answer, x, x, t),
        lambda: process.bound_at(answer, x, x, t),
        lambda: process.reconstruction(answer, x),
        lambda: process.step(answer, x, t, t * 0 + 0.2),
        lambda: last(sample(process, answer, 3, 4)),
        lambda: ProbabilityFlow(sde).log_prob(answer, x),
        lambda: ProbabilityFlow(sde).latent(answer, x),
    ]
    for call in calls:
        with pytest.raises(error, match=words):
            call()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_end_the_run_with_step_and_time(value, way):
    """At the third of four steps, for one example of three: noticed there, by every way back."""
    bad = lambda x, u: torch.where((u < 0.6)[:, None] & (torch.arange(3) == 1)[:, None], value, 0.3 * x)  # noqa: E731
    process = way(VP(S.linear(), (2,)))
    with pytest.raises(
        FloatingPointError, match=r"must be finite.* at step \d, at t = 0\.\d+ .* 1 of 3 examples"
    ):
        last(sample(process, bad, 3, 4))


def test_a_state_that_overflows_ends_the_run(way):
    """The network's numbers are finite, the step made of them is not."""
    process = way(VP(S.cosine(), (2,)))
    with pytest.raises(FloatingPointError, match="at t = 0.9"):
        process.step(
            lambda x, u: torch.full_like(x, 3e38),
            torch.randn(2, 2),
            *(torch.full((2,), v) for v in (0.99, 0.5)),
        )


# Scoring at a given x_t


@pytest.mark.parametrize("weighting", ["simple", "likelihood"])
@pytest.mark.parametrize("sde", [VP, SubVP, VE])
def test_the_loss_is_the_loss_at_what_was_drawn(sde, weighting):
    sde = sde(*[S.linear()] * (sde is not VE), (3,), weighting=weighting, t_min=1e-3)
    x0, t = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64)
    model = lambda x, u: 0.3 * x + u[:, None]  # noqa: E731
    at = sde.importance_times(t) if weighting == "likelihood" else t
    torch.manual_seed(0)
    loss = sde.loss(model, x0, t)
    torch.manual_seed(0)
    same(loss, sde.loss_at(model, x0, sde.corrupt(x0, at), at))
    torch.manual_seed(0)
    bound = sde.bound(model, x0, t)
    torch.manual_seed(0)
    times = sde.importance_times(t)
    same(bound, sde.bound_at(model, x0, sde.corrupt(x0, times), times), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sde", [VP(S.linear(), (3,)), SubVP(S.cosine(), (3,)), VE((3,))])
def test_noise_is_what_was_added(sde):
    x0, eps = torch.randn(2, 4, 3, dtype=torch.float64)
    t = torch.tensor([1e-5, 0.3, 0.7, 1.0], dtype=torch.float64)
    same(sde.noise(x0, sde.corrupt(x0, t, eps), t), eps, rtol=1e-7, atol=1e-7)
    assert sde.noise(x0.float(), x0.float(), t).dtype == torch.float32
