"""Every clause of process.Process, for every system alike; and the sampling loop. A new system adds one row."""

from inspect import signature

import pytest
import torch

from course_lib import schedules as S
from course_lib import solvers
from course_lib.absorbing import Absorbing
from course_lib.autoregressive import Autoregressive
from course_lib.block_diffusion import BlockDiffusion
from course_lib.d3pm import D3PM
from course_lib.ddim import DDIM, Renoise
from course_lib.ddpm import DDPM
from course_lib.diffuseq import DiffuSeq
from course_lib.diffusion_lm import DiffusionLM
from course_lib.dpm_solver import DPMSolver
from course_lib.evaluate import bound
from course_lib.guidance import ClassifierGuided, NoisyClassifierTraining
from course_lib.infilling import approximately
from course_lib.learned_variance import Learned, LossAware
from course_lib.likelihood import ProbabilityFlow
from course_lib.mask_count import MaskCount
from course_lib.mask_uniform import MaskUniform
from course_lib.mdlm import MDLM
from course_lib.nets import MLP, CausalNet, TokenNet, UNet
from course_lib.optimal_variance import Analytic
from course_lib.ordered import Ordered
from course_lib.process import Process, last, sample
from course_lib.sde import VE, VP, SubVP
from course_lib.sedd import SEDD
from course_lib.sentences import PAD, Labelled, Pairs
from course_lib.shapes import check_choice, check_count, per_example, repeated, widest
from course_lib.sn_npr import NPR, SN
from course_lib.solvers import RK4, Ancestral, Heun, PredictorCorrector
from course_lib.stationary import Uniform
from course_lib.structured import gaussian
from course_lib.train import train
from course_lib.unified import Unified, drawn, mean
from course_lib.word_nets import EmbeddingNet, MixingNet, SentenceClassifier
from course_lib.wrapper import Wrapper

B = 8


def near_zero(x, u):
    """A control, for guidance: the log density of small vectors."""
    return -x.square().sum((1, 2))


SYSTEMS = {  # name: (process, network, batch of data)
    "ddpm, points": lambda: (DDPM(S.ddpm_table(50), (2,)), MLP((2,), 32, 2), torch.randn(B, 2)),
    "ddpm, images": lambda: (
        DDPM(S.table(S.cosine(), 50), (1, 8, 8), predicts="v", variance="large", levels=17, clip=1.0),
        UNet(1, (8, 16)),
        (torch.randint(0, 17, (B, 1, 8, 8)) / 8 - 1),
    ),
    "ddim": lambda: (DDIM(S.ddpm_table(50), (2,), eta=0.5), MLP((2,), 32, 2), torch.randn(B, 2)),
    "analytic": lambda: (
        Analytic(S.ddpm_table(50), (2,), eta=0.5, conditional_variance=torch.linspace(0, 1, 51)),
        MLP((2,), 32, 2),
        torch.randn(B, 2),
    ),
    "renoise": lambda: (Renoise(S.ddpm_table(50), (2,)), MLP((2,), 32, 2), torch.randn(B, 2)),
    "unified": lambda: unified(points(DDPM(S.ddpm_table(50), (2,))), mean),
    "unified, tokens": lambda: unified(tokens(Uniform(5, S.table(S.cosine(), 50))), drawn),
    "learned": lambda: (
        Learned(S.table(S.cosine(), 50), (1, 8, 8), levels=17, clip=1.0),
        UNet(1, (8, 16), answers=2),
        (torch.randint(0, 17, (B, 1, 8, 8)) / 8 - 1),
    ),
    "npr": lambda: (NPR(S.ddpm_table(50), (5, 3)), MLP((5, 3), 32, 2, answers=2), torch.randn(B, 5, 3)),
    "sn": lambda: (SN(S.ddpm_table(50), (2,)), MLP((2,), 32, 2, answers=2), torch.randn(B, 2)),
    "loss-aware": lambda: (
        LossAware(DDPM(S.ddpm_table(50), (2,))),
        MLP((2,), 32, 2),
        torch.randn(B, 2),
    ),
    "sde, vp": lambda: points(VP(S.linear(), (2,), t_min=1e-3)),
    "sde, sub-vp, likelihood": lambda: points(
        SubVP(S.cosine(), (2,), predicts="v", weighting="likelihood", t_min=1e-3)
    ),
    "sde, ve": lambda: points(VE((2,), predicts="score", t_min=1e-3)),
    "sde, ancestral": lambda: points(Ancestral(VP(S.cosine(), (2,), predicts="x0"))),
    "sde, predictor-corrector": lambda: points(PredictorCorrector(DPMSolver(VP(S.linear(), (2,))))),
    "sde, renoise": lambda: points(solvers.Renoise(VP(S.linear(), (2,)), 0.5)),
    "sde, heun": lambda: points(Heun(VE((2,)))),
    "sde, rk4": lambda: points(RK4(VP(S.linear(), (2,), clip=3.0))),
    "sde, dpm-solver": lambda: points(DPMSolver(VP(S.linear(), (2,)))),
    "sde, probability flow": lambda: points(ProbabilityFlow(VP(S.linear(), (2,)), 1e-2, 1e-2)),
    "diffusion-lm": lambda: sentences(DiffusionLM(S.table(S.sqrt(), 50), 6, 4)),
    "diffusion-lm, recalling": lambda: sentences(
        DiffusionLM(S.table(S.cosine(), 50), 6, 4, "prediction", variance="large"),
        MixingNet(7, 4, S.table(S.cosine(), 50), 16, 2, 1, normalised=True, recall=True),
    ),
    "diffusion-lm, guided": lambda: sentences(
        ClassifierGuided(DiffusionLM(S.table(S.sqrt(), 50), 6, 4), near_zero)
    ),
    "diffuseq": lambda: pairs(DiffuSeq(S.table(S.sqrt(), 50), 6, 4), EmbeddingNet(7, 4, 16, 2, 1)),
    "autoregressive": lambda: pairs(Autoregressive(7, 50), CausalNet(7, 16, 2, 1)),
    "d3pm, uniform": lambda: tokens(Uniform(5, S.table(S.cosine(power=1), 50))),
    "d3pm, absorbing": lambda: tokens(
        Absorbing(5, S.table(S.log_linear(0.0), 50, max_beta=1.0)), ce_weight=0.1
    ),
    "d3pm, gaussian": lambda: tokens(gaussian(5, torch.linspace(0.02, 0.5, 50)), predicts="posterior"),
    "d3pm, mask and uniform": lambda: tokens(MaskUniform(5, S.table(S.log_linear(), 50)), predicts="score"),
    "d3pm, ordered": lambda: (Ordered(5, 50), TokenNet(6, 5, 16, 2, 1), torch.randint(0, 5, (B, 50))),
    "sedd, uniform": lambda: ratios(Uniform(5, S.geometric(1e-3, 8.0))),
    "sedd, uniform, euler": lambda: ratios(Uniform(5, S.log_linear()), sampler="euler"),
    "sedd, absorbing": lambda: ratios(Absorbing(5, S.log_linear())),
    "sedd, absorbing, not scaled": lambda: ratios(Absorbing(5, S.geometric()), scaled=False),
    "sedd, absorbing, mass known": lambda: ratios(Absorbing(5, S.log_linear()), mass="known"),
    "sedd, mask and uniform": lambda: ratios(MaskUniform(5, S.log_linear())),
    "block diffusion": lambda: ratios(Absorbing(5, S.log_linear(0.0)), BlockDiffusion, block=2),
    "mdlm": lambda: ratios(Absorbing(5, S.log_linear(0.01)), MDLM),
    "d3pm, mask count": lambda: counted(lambda noise, n: D3PM(noise, n), S.table(S.log_linear(), 50)),
    "sedd, mask count": lambda: counted(SEDD, S.log_linear()),
    "mdlm, mask count": lambda: counted(MDLM, S.log_linear()),
    "a wrapper of a wrapper": lambda: wrapped(points(VP(S.linear(), (2,)))),
    "a wrapper of tokens": lambda: wrapped(tokens(Uniform(5, S.table(S.cosine(), 50)))),
}


def points(process):
    """A system of points in the plane: small network, random data."""
    return process, MLP((2,), 32, 2), torch.randn(B, 2)


def sentences(process, net=None):
    """A Diffusion-LM of up to 6 of 7 words, its network and a batch of sentences of three lengths."""
    data = torch.randint(0, 7, (B, 6))
    data[1, 3:] = data[2, 1:] = PAD
    return process, net or EmbeddingNet(7, 4, 16, 2, 1), data


def pairs(process, net):
    """A system of pairs, its network and a batch whose targets stand at the end."""
    data = torch.randint(0, 7, (B, process.length))
    return process, net, Pairs(data, (torch.arange(process.length) >= 3).expand(B, -1))


def tokens(noise, **options):
    """A D3PM of 6 tokens, its network and a batch."""
    net = TokenNet(noise.K, 5, 16, 2, 1, radius=1)
    return D3PM(noise, 6, **options), net, torch.randint(0, 5, (B, 6))


def ratios(noise, kind=SEDD, **options):
    """A system in continuous time, of 6 tokens, its network and a batch."""
    net = TokenNet(noise.K, 5, 16, 2, 1, radius=1)
    return kind(noise, 6, **options), net, torch.randint(0, 5, (B, 6))


def counted(kind, clock):
    """A system of 50 masked tokens whose training time is the number of masks."""
    net = TokenNet(6, 5, 16, 2, 1, radius=1)
    return MaskCount(kind(Absorbing(5, clock), 50)), net, torch.randint(0, 5, (B, 50))


def wrapped(system):
    """A system inside two wrappers that change nothing."""
    process, net, data = system
    return Wrapper(Wrapper(process)), net, data


def unified(system, estimate):
    """A system whose steps estimate x_0 and corrupt it again."""
    process, net, data = system
    return Unified(process, estimate), net, data


def with_tokens(data, change):
    """The data, changed; of pairs, their tokens."""
    return Pairs(change(data.tokens), data.target) if isinstance(data, Pairs) else change(data)


@pytest.fixture(params=SYSTEMS)
def system(request, chosen_device):
    with torch.device("cpu"):
        process, model, data = SYSTEMS[request.param]()
        for p in model.parameters():  # a network that is wrong in no particular way
            p.data.normal_(std=0.2)
    return process.to(chosen_device), model.to(chosen_device), data.to(chosen_device)


def test_times_run_from_T_down_to_0(system):
    process = system[0]
    T = (
        process.process.T if isinstance(process, MaskCount) else process.T
    )  # it trains at other times than it samples
    for steps in (1, 3, 7, 10, 49, 50):
        times = process.times(steps)
        assert times[0] == T and times[-1] == 0 and len(times) == steps + 1
        assert (times[1:] < times[:-1]).all()
        even = torch.linspace(float(T), 0, steps + 1)
        assert (times - even).abs().max() <= 0.5


def test_training_times_are_stratified(system):
    process = system[0]
    if not isinstance(process.T, int):
        t = process.sample_t(50)
        assert ((t.sort().values * 50).ceil() == torch.arange(1, 51)).all()
        return
    t = process.sample_t(5 * process.T)
    assert (t.bincount(minlength=process.T + 1)[1:] == 5).all() and t.min() == 1 and t.max() == process.T
    assert not torch.equal(t, t.sort().values)  # in random order
    one = torch.stack([process.sample_t(3)[0] for _ in range(2000)])
    assert abs(one.double().mean() - (process.T + 1) / 2) < 1.5 and one.min() == 1 and one.max() == process.T


def test_loss_and_bound_are_one_number_per_example(system):
    process, model, data = system
    loss = process.loss(model, data, process.sample_t(B))
    assert loss.shape == (B,) and loss.isfinite().all()
    loss.mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    bounds = process.bound(model, data, process.sample_t(B))
    assert bounds.shape == (B,) and bounds.isfinite().all()


def test_examples_do_not_see_each_other(system):
    process, model, data = system
    t = process.sample_t(B)
    torch.manual_seed(1)
    whole = process.bound(model, data, t)
    torch.manual_seed(1)
    other = process.bound(model, with_tokens(data, lambda x: torch.cat([x[:1].roll(1, 1), x[1:]])), t)
    torch.testing.assert_close(whole[1:], other[1:])


def test_no_noise_at_time_0(system):
    process, model, data = system
    x0 = process.encode(model, data.tokens if isinstance(process, Autoregressive) else data)
    torch.testing.assert_close(process.corrupt(x0, 0 * process.sample_t(B)), x0)


def test_sampling_ends_in_data(system):
    process, model, data = system
    t, x0 = last(sample(process, model, B, 10))
    out = process.decode(model, x0)
    assert (
        t == 0
        and out.shape == (data.tokens if isinstance(data, Pairs) else data).shape
        and out.isfinite().all()
    )


def test_one_trainer_lowers_every_loss(system):
    process, model, data = system
    many, data = data[torch.zeros(30 * B).long()], data[torch.zeros(B).long()]
    torch.manual_seed(1)
    before = process.loss(model, many, process.sample_t(30 * B)).mean()
    for _record in train(process, model, iter(lambda: data, None), steps=60, lr=3e-3):
        pass
    torch.manual_seed(1)
    after = process.loss(model, many, process.sample_t(30 * B)).mean()
    assert after < before


def test_evaluation_gives_a_number(system):
    process, model, data = system
    assert bound(process, model, data).mean > 0


def test_a_process_has_no_parameters(system):
    assert not list(system[0].parameters())


# What only trains: an objective of another network, without a sampler or a bound


def noisy_classifier():
    """A classifier of x_t, trained on a Diffusion-LM's noised sentences with labels."""
    process, embeds, tokens = sentences(DiffusionLM(S.table(S.sqrt(), 50), 6, 4))
    labels = torch.arange(B) % 3
    return (
        NoisyClassifierTraining(process, embeds),
        SentenceClassifier(4, 3, 16, 2, 1),
        Labelled(tokens, labels),
    )


OBJECTIVES = {"noisy classifier": noisy_classifier}


@pytest.fixture(params=OBJECTIVES)
def objective(request, chosen_device):
    with torch.device("cpu"):
        process, model, data = OBJECTIVES[request.param]()
        for p in model.parameters():
            p.data.normal_(std=0.2)
    process.model.to(chosen_device)
    return process.to(chosen_device), model.to(chosen_device), data.to(chosen_device)


def test_an_objective_keeps_the_clauses_of_training(objective):
    process, model, data = objective
    test_training_times_are_stratified(objective)
    test_a_process_has_no_parameters(objective)
    t = process.sample_t(B)
    torch.manual_seed(1)
    loss = process.loss(model, data, t)
    assert loss.shape == (B,) and loss.isfinite().all()
    loss.mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    assert all(p.grad is None for p in process.model.parameters())  # whose vectors are read, not trained
    torch.manual_seed(1)
    other = process.loss(
        model, Labelled(data.tokens, data.labels.roll(1, 0).where(t == t[0], data.labels)), t
    )
    changed = data.labels.roll(1, 0).where(t == t[0], data.labels) != data.labels
    assert torch.equal(loss[~changed], other[~changed]) and (loss[changed] != other[changed]).all()
    with pytest.raises(NotImplementedError, match="NoisyClassifierTraining has no prior"):
        last(sample(process, model, 2, 3))


def test_one_trainer_lowers_an_objective(objective):
    test_one_trainer_lowers_every_loss(objective)


# The sampling loop


class Countdown(Process):
    """x_s = s for every step taken; prior is T: makes the loop's own behaviour visible."""

    def __init__(self, T):
        super().__init__()
        self.T, self.calls = T, []

    def prior(self, n):
        return torch.full((n,), float(self.T))

    def step(self, model, x, t, s):
        self.calls.append((t.tolist(), s.tolist()))
        assert torch.equal(x, t.float())  # what the last step (and clamp) left
        assert not torch.is_grad_enabled()
        return model(s.float(), self.u(t))


def test_sample_visits_aligned_times_and_yields_each_state():
    process = Countdown(10)
    states = list(sample(process, lambda x, u: x, 2, 3))
    assert [t for t, _ in states] == [10, 7, 3, 0]
    assert [x.tolist() for _, x in states] == [[10.0] * 2, [7.0] * 2, [3.0] * 2, [0.0] * 2]
    assert process.calls == [([10, 10], [7, 7]), ([7, 7], [3, 3]), ([3, 3], [0, 0])]


def test_sample_in_continuous_time():
    process = Countdown(1.0)
    assert [round(t, 6) for t, _ in sample(process, lambda x, u: x, 1, 4)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    t = process.sample_t(1000)
    assert t.dtype == torch.float32 and t.min() > 0 and t.max() <= 1
    assert ((t.sort().values * 1000).ceil() == torch.arange(1, 1001)).all()  # one in each stratum


def test_u_is_the_share_of_time():
    torch.testing.assert_close(Countdown(8).u(torch.tensor([0, 2, 8])), torch.tensor([0.0, 0.25, 1.0]))


def test_clamp_is_applied_to_every_state():
    process, seen = DDPM(S.ddpm_table(50), (2,)), []

    def clamp(x):
        x = x.clone()
        x[:, 0] = 7.0
        seen.append(x)
        return x

    states = [x for _, x in sample(process, lambda x, u: 0 * x, 3, 5, approximately(clamp))]
    assert len(seen) == 6 and all((x[:, 0] == 7).all() for x in states) and states[-1][:, 1].std() > 0


def test_sample_is_lazy_and_last_keeps_one():
    process = Countdown(10)
    states = sample(process, lambda x, u: x, 1, 10)
    assert next(states)[0] == 10 and process.calls == []
    assert last(states)[0] == 0 and last(iter([1, 2, 3])) == 3
    with pytest.raises(ValueError, match="states must not be empty"):
        last([])


@pytest.mark.parametrize("n, steps, error, words", [
    (0, 5, ValueError, "n must be at least 1, not 0"),
    (2, 0, ValueError, "steps must be at least 1, not 0"),
    (2, 51, ValueError, "steps must be at most T = 50, not 51"),
    (2, 2.0, TypeError, "steps must be an int or a tensor of falling times, not float"),
    (True, 2, TypeError, "n must be an int, not bool"),
])  # fmt: skip
def test_sample_names_bad_input_at_the_call(n, steps, error, words, unchecked):
    with pytest.raises(error, match=words):
        sample(DDPM(S.ddpm_table(50), (2,)), lambda x, u: x, n, steps)


def test_continuous_times_are_checked_too(unchecked):
    process = Countdown(1.0)
    process.check_t("t", torch.tensor([0.0, 1.0]), 2)
    with pytest.raises(TypeError, match="t must hold floats, not torch.int64"):
        process.check_t("t", torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1.0\]"):
        process.check_t("t", torch.tensor([0.5, 1.5]), 2)
    with pytest.raises(ValueError, match="t must lie"):
        process.check_t("t", torch.tensor([float("nan")]), 1)
    with pytest.raises(ValueError, match="n must be at least 1"):
        process.sample_t(0)
    assert process.times(10**4).shape == (10**4 + 1,)


def test_an_empty_process_says_what_it_lacks(unchecked):
    process = Process()
    for call in (process.corrupt, process.prior, process.step, process.loss):
        with pytest.raises(NotImplementedError):
            call(*[None] * len(signature(call).parameters))
    with pytest.raises(NotImplementedError, match="Process has no likelihood bound"):
        process.bound_at(None, None, None, None)
    x = torch.ones(1)
    assert process.encode(None, x) is x and process.decode(None, x) is x


def test_shape_helpers():
    v = torch.tensor([1.0, 2.0])
    assert per_example(v, torch.zeros(2, 3, 4)).shape == (2, 1, 1) and per_example(
        v, torch.zeros(2)
    ).shape == (2,)
    assert widest(v).dtype == torch.float64
    assert repeated(v[0].expand(3)) and not repeated(v)
    check_count("n", 1)
    check_choice("k", "a", ("a", "b"))
    with pytest.raises(ValueError, match="k must be one of a, b, not 'c'"):
        check_choice("k", "c", ("a", "b"))
