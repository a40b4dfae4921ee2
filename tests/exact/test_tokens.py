"""What all systems of tokens share: what a network may answer, padding, prompts, clocks to 0, any width."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from torch import nn, tensor

from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.autoregressive import Autoregressive
from course_lib.d3pm import D3PM, MaskedD3PM
from course_lib.data import MarkovLanguage
from course_lib.evaluate import bound
from course_lib.first_hitting import first_hitting
from course_lib.infilling import approximately, keep
from course_lib.mask_count import MaskCount
from course_lib.mask_uniform import MaskUniform
from course_lib.mdlm import MDLM
from course_lib.nets import TokenNet
from course_lib.oracle import MarkovOracle
from course_lib.ordered import Ordered
from course_lib.process import last, sample
from course_lib.sedd import SEDD, KnownMassSEDD, MaskedSEDD, StationarySEDD
from course_lib.sentences import PAD
from course_lib.stationary import Stationary, Uniform
from course_lib.tokens import FIRST, inside, takes, takes_at
from course_lib.wrapper import Wrapper

V, L, T = 3, 4, 6
LINE = S.table(S.log_linear(0.0), T, max_beta=1.0)
CURVE = S.table(S.cosine(power=1), T)
PI = tensor([0.2, 0.3, 0.5], dtype=torch.float64)
SYSTEMS = {
    "d3pm, uniform": lambda: D3PM(Uniform(V, CURVE), L),
    "d3pm, hybrid": lambda: D3PM(Uniform(V, CURVE), L, predicts="posterior", ce_weight=0.3),
    "d3pm, masks": lambda: D3PM(Absorbing(V, LINE), L),
    "d3pm, mask and uniform": lambda: D3PM(MaskUniform(V, CURVE), L),
    "ordered": lambda: Ordered(V, L),
    "mdlm": lambda: MDLM(Absorbing(V, S.log_linear()), L),
    "mdlm, to 0": lambda: MDLM(Absorbing(V, S.log_linear(0.0)), L),
    "mdlm, noisy at once": lambda: MDLM(Absorbing(V, S.geometric(0.1, 10.0)), L),
    "sedd, masks": lambda: SEDD(Absorbing(V, S.geometric(0.1, 10.0)), L),
    "sedd, masks, unscaled": lambda: SEDD(Absorbing(V, S.log_linear()), L, scaled=False),
    "sedd, mass known": lambda: SEDD(Absorbing(V, S.log_linear()), L, sampler="euler", mass="known"),
    "sedd, uniform": lambda: SEDD(Uniform(V, S.geometric(0.1, 10.0)), L),
    "sedd, stationary": lambda: SEDD(Stationary(PI, S.geometric(1e-2, 10.0)), L, sampler="euler"),
    "sedd, mask and uniform": lambda: SEDD(MaskUniform(V, S.log_linear()), L),
}
PADDED = [name for name in SYSTEMS if name != "ordered"]
MASKED = ["d3pm, masks", "mdlm", "mdlm, to 0", "sedd, masks", "sedd, masks, unscaled", "sedd, mass known"]


@pytest.fixture(params=SYSTEMS)
def process(request):
    return SYSTEMS[request.param]()


def wrong(K_in: int, K_out: int = V) -> TokenNet:
    """A network that is wrong in no particular way."""
    net = TokenNet(K_in, K_out, 16, 2, 2, radius=1)
    for p in net.parameters():
        p.data.normal_(std=0.3)
    return net


def says(value, width: int = V):
    return lambda x, u: torch.full((*x.shape, width), value)


def calls(process, net, data=None):
    """All places where a network is asked."""
    data = torch.randint(0, V, (3, L)) if data is None else data
    t = process.sample_t(3)
    most = torch.full((3,), process.T)
    yield lambda: process.loss(net, data, most)
    yield lambda: process.bound(net, data, most)
    yield lambda: process.step(net, process.prior(3), most, torch.zeros_like(t))
    yield lambda: last(sample(process, net, 3, 2))
    if process.clamps_exactly and not isinstance(process, Ordered):
        counted = MaskCount(process)
        yield lambda: counted.loss(net, data, tensor([1, 2, L]))
        yield lambda: counted.bound(net, data, tensor([1, 2, L]))
    if isinstance(process, MDLM):
        yield lambda: last(first_hitting(process, net, 3))


# What a network may answer

ANSWERS = [
    (says(0.0, V + 1), ValueError, r"model must return shape .*it has a number for MASK too, slice \[\.\.\., :3\]"),
    (says(0.0, V - 1), ValueError, r"model must return shape \(3, 4, 3\), not \(3, 4, 2\)"),
    (lambda x, u: torch.zeros(len(x), V, L), ValueError, r"the last two axes are swapped"),
    (lambda x, u: torch.zeros(len(x), V), ValueError, r"not \(3, 3\)"),
    (lambda x, u: torch.zeros(1, L, V), ValueError, r"not \(1, 4, 3\)"),
    (lambda x, u: (torch.zeros(*x.shape, V), None), TypeError, "must return a tensor, not tuple"),
    (lambda x, u: type("Out", (), {"logits": 0})(), TypeError, r"not Out: pass lambda x, u: model\(x, u\).logits"),
    (lambda x, u: torch.zeros(*x.shape, V).long(), TypeError, "must return floats, not torch.int64"),
    (lambda x, u: torch.zeros(*x.shape, V, device="meta"), ValueError, "on the device of its input, cpu, not on meta"),
    (says(math.nan), FloatingPointError, "the model's output must be finite"),
    (says(math.inf), FloatingPointError, "the model's output must be finite"),
    (says(-math.inf), FloatingPointError, "the model's output must be finite"),
]  # fmt: skip


@pytest.mark.parametrize("net, error, words", ANSWERS)
def test_a_wrong_answer_is_named_wherever_a_network_is_asked(process, net, error, words, unchecked):
    for call in calls(process, net):
        with pytest.raises(error, match=words):
            call()


@pytest.mark.parametrize("shape", [(2, V + 1), (2, V - 1), (3, V), (3, L, V)])
def test_an_answer_at_positions_has_their_number(shape, unchecked):
    net = lambda x, u, at: torch.zeros(shape)  # noqa: E731
    net.takes_at = True
    process, x_t = SYSTEMS["mdlm"](), tensor([[V, 0, 1, 2], [V, 0, 1, 2], [0, 1, 2, 0]])
    with pytest.raises(ValueError, match=r"model must return shape \(2, 3\), not "):
        process.loss_at(net, x_t % V, x_t, torch.ones(3))


def test_one_probability_may_be_0(process):
    """-inf for a token that is not there is a legal log of 0."""
    net = lambda x, u: tensor([0.0, 0.5, -math.inf]).expand(*x.shape, V)  # noqa: E731
    data = torch.randint(0, V - 1, (3, L))
    x = process.prior(3)
    assert process.step(net, x, torch.full((3,), process.T), torch.zeros(3).to(process.sample_t(3))).max() < V
    if process.clamps_exactly:
        assert process.loss(net, data, process.sample_t(3)).isfinite().all()


def test_what_is_not_finite_is_said_with_step_and_time():
    calls = []

    def net(x, u):
        calls.append(1)
        out = torch.zeros(*x.shape, V)
        return out * math.nan if len(calls) == 2 else out

    with pytest.raises(FloatingPointError, match=r"at step 2, at t = 4 it is not in 3 of 3 examples"):
        last(sample(SYSTEMS["d3pm, uniform"](), net, 3, 3))


def test_only_the_example_that_is_not_finite_counts():
    process, x_t = SYSTEMS["mdlm"](), tensor([[V, V, 0, 1], [0, 1, V, 2], [0, 1, 2, 0]])
    net = lambda x, u: torch.where((x == V).sum(1)[:, None, None] == 1, math.nan, torch.zeros(*x.shape, V))  # noqa: E731
    with pytest.raises(FloatingPointError, match=r"at t = 0.5 it is not in 1 of 3 examples"):
        process.loss_at(net, x_t % V, x_t, tensor([0.25, 0.5, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_any_float(process, dtype):
    net, data, t = wrong(process.noise.K), torch.randint(0, V, (3, L)), torch.full((3,), process.T)
    torch.manual_seed(1)
    want = process.loss(net, data, t)
    net = net.to(dtype)
    torch.manual_seed(1)
    got = process.loss(net, data, t)
    torch.testing.assert_close(got.float(), want.float(), rtol=0.05, atol=0.05)
    assert last(sample(process, net, 3, 2))[1].max() < V


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_tokens_of_any_width(process, dtype):
    net, data, t = wrong(process.noise.K), torch.randint(0, V, (3, L)), torch.full((3,), process.T)
    for call in (process.loss, process.bound):
        values = []
        for x in (data, data.to(dtype)):
            torch.manual_seed(1)
            values.append(call(net, x, t))
        assert torch.equal(*values)
    assert process.corrupt(data.to(dtype), t).dtype == torch.int64
    assert process.step(net, process.prior(2).to(dtype), t[:2], torch.zeros_like(t[:2])).dtype == torch.int64


def test_inference_mode(process):
    net, data = wrong(process.noise.K), torch.randint(0, V, (3, L))
    with torch.inference_mode():
        assert last(sample(process, net, 3, 3))[1].max() < V
        assert process.bound(net, data, process.sample_t(3)).isfinite().all()
        if isinstance(process, MDLM):
            last(first_hitting(process, net, 3))


def test_positions_or_all_are_the_same(process):
    """What a GPU does, which does not wait to know the positions: the same losses, the same law of samples."""
    net, data, t = wrong(process.noise.K), torch.randint(0, V, (3, L)), process.sample_t(3)
    dense = copy.copy(process)
    dense.picks = lambda model, x: False
    losses = []
    for one in (process, dense):
        torch.manual_seed(1)
        losses.append(torch.stack([one.loss(net, data, t), one.bound(net, data, t).float()]))
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    many = process.prior(6000)
    T_, half = torch.full((6000,), process.T), torch.full((6000,), process.T / 2).to(t.dtype)
    for s in (half, 0 * half):
        shares = [
            one.step(net, many, T_, s).flatten().bincount(minlength=V + 1) / 24000 for one in (process, dense)
        ]
        assert (shares[0] - shares[1]).abs().max() < 0.02


def test_networks_inside_others_are_found():
    class Passing(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *inputs, **named):
            return self.module(*inputs, **named)

    class Adapter(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x, u):
            return self.module(x, u)

    net = wrong(V + 1)
    assert inside(Passing(torch.compile(Passing(net), backend="eager"))) is net
    assert takes_at(nn.DataParallel(net)) and takes(nn.DataParallel(net), "mask")
    assert not takes_at(Adapter(net)) and not takes(Adapter(net), "mask")  # it does not pass on what it gets
    assert takes(lambda x, u, **more: x, "mask") and not takes(lambda x, u: x, "mask")
    process, data = SYSTEMS["mdlm"](), torch.randint(0, V, (3, L))
    values = []
    for model in (net, Passing(net), Adapter(net)):
        torch.manual_seed(1)
        values.append(process.loss(model, data, torch.ones(3)))
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], values[2])


# Rows of several lengths

LANGUAGE = MarkovLanguage(V, L, sharpness=1.5, seed=3)
ROWS = tensor([[0, 2, 1, 1], [1, 2, 0, PAD], [2, PAD, PAD, PAD], [0, 1, PAD, PAD]])


def shorter(process, length: int):
    """The same process for rows of another length."""
    other = copy.copy(process)
    other.length = length
    return other


@pytest.mark.parametrize("name", PADDED)
def test_a_padded_row_costs_what_it_costs_alone(name):
    """For perfect networks: the bound of each row at an x_t is that of the row without PAD, in nats per sequence."""
    process = SYSTEMS[name]()
    net, t = MarkovOracle(process, LANGUAGE), torch.full((4,), process.T) / 2
    t = t.long() if isinstance(process.T, int) else t
    torch.manual_seed(5)
    x_t = process.corrupt(ROWS, t)
    assert torch.equal(x_t == PAD, ROWS == PAD)
    terms = process.diffusion_term_at(net, ROWS, x_t, t) + process.prior_term(ROWS)
    losses = process.loss_at(net, ROWS, x_t, t)
    for i, n in enumerate([4, 3, 1, 2]):
        alone = shorter(process, n)
        language = MarkovLanguage(V, n, sharpness=1.5, seed=3)
        torch.testing.assert_close(language.move, LANGUAGE.move)
        oracle = MarkovOracle(alone, language)
        row, row_t, at = ROWS[i : i + 1, :n], x_t[i : i + 1, :n], t[i : i + 1]
        want = alone.diffusion_term_at(oracle, row, row_t, at) + alone.prior_term(row)
        torch.testing.assert_close(terms[i : i + 1], want, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(losses[i : i + 1], alone.loss_at(oracle, row, row_t, at))
        if process.noisy_at_once:
            rest = process.reconstruction_term_at(net, ROWS, x_t)[i : i + 1]
            torch.testing.assert_close(
                rest, alone.reconstruction_term_at(oracle, row, row_t), rtol=1e-6, atol=1e-9
            )


@pytest.mark.parametrize("name", PADDED)
def test_padding_changes_nothing_for_a_trained_network_and_can_be_evaluated(name):
    """The network is told by mask; the gradient reaches its weights; evaluate.bound gives nats per sequence."""
    process, seen = SYSTEMS[name](), []
    net = wrong(process.noise.K)

    class Spy(nn.Module):
        def forward(self, x, u, mask=None):
            seen.append((x, mask))
            return net(x, u, mask)

    loss = process.loss(Spy(), ROWS, torch.full((4,), process.T))
    loss.mean().backward()
    assert all(x.min() >= 0 and torch.equal(mask, ROWS != PAD) for x, mask in seen)
    whole = torch.randint(0, V, (4, L))
    process.loss(Spy(), whole, torch.full((4,), process.T))
    assert seen[-1][1] is None  # rows that are whole need no mask
    assert bound(process, net, ROWS.repeat(4, 1)).mean > 0
    if name in ("d3pm, hybrid", "sedd, stationary", "sedd, masks, unscaled"):
        return  # there a silent network does not pay the same for all tokens
    zero = says(0.0)
    value = bound(process, lambda x, u, mask=None: zero(x, u), ROWS[2:3].expand(4000, -1), batch=4000)
    assert abs(value.mean - math.log(V)) < max(6 * value.se, 0.1)  # one token, not four


def test_padding_that_cannot_be_right_is_refused(unchecked):
    process = SYSTEMS["mdlm"]()
    t = torch.ones(4)
    with pytest.raises(TypeError, match="model must take mask="):
        process.loss(says(0.0), ROWS, t)
    hole = tensor([[0, PAD, 1, 2]]).expand(4, -1)
    for rows in (hole, ROWS.flip(1), torch.full((4, L), PAD)):
        with pytest.raises(
            ValueError, match="x0 must have a token in each row, and PAD = -1 only at its end"
        ):
            process.loss(says(0.0), rows, t)
    with pytest.raises(
        ValueError, match="x0 must have 4 tokens in each row, but one has 1: what a number of masks says"
    ):
        MaskCount(process).loss(says(0.0), ROWS, torch.ones(4).long())
    with pytest.raises(ValueError, match="x_t must hold PAD where x0 does"):
        process.loss_at(says(0.0), ROWS, torch.full((4, L), V), t)
    with pytest.raises(ValueError, match="x must lie in 0..3, but holds -1"):
        process.step(says(0.0), ROWS, t, t / 2)
    with pytest.raises(ValueError, match="x0 must lie in 0..2, but holds -2"):
        process.loss(says(0.0), torch.full((4, L), -2), t)
    with pytest.raises(ValueError, match=r"x0 and x_t must have one shape, not \(4, 4\) and \(1, 4\)"):
        process.loss_at(says(0.0), ROWS, ROWS[:1], t)


def test_on_a_gpu_nothing_is_read_to_know_of_padding():
    """A network that takes a mask always gets it there; another one sees PAD itself."""
    process, rows = SYSTEMS["mdlm"](), ROWS.to("meta")
    assert process.padding(wrong(V + 1), rows)["mask"].shape == rows.shape
    assert process.padding(says(0.0), rows) == {}


# Prompts and gaps


def test_given_is_for_all_systems_and_exact_for_masks(process):
    pieces = {0: tensor([1], dtype=torch.int32), 2: tensor([0, 2])}
    if process.clamps_exactly:
        clamp = process.given(pieces, 5)
    else:
        with pytest.raises(ValueError, match="clamp is not exact for"):
            process.given(pieces, 5)
        with pytest.raises(ValueError, match="clamp is not exact for"):
            sample(process, wrong(process.noise.K), 5, 2, clamp=lambda x: x)
        clamp = process.given(pieces, 5, approximate=True)
    x = last(sample(process, wrong(process.noise.K), 5, 3, clamp=clamp))[1]
    assert (x[:, [0, 2, 3]] == tensor([1, 0, 2])).all() and x.max() < V
    assert process.clamps_exactly == isinstance(process.noise, Absorbing)


@pytest.mark.parametrize("pieces, error, words", [
    ({0: [1, 2]}, TypeError, r"a piece must be a tensor of tokens \(n,\), not list"),
    ({0: tensor([[1]])}, TypeError, r"a piece must be a tensor of tokens \(n,\), not torch.int64 of shape \(1, 1\)"),
    ({"a": tensor([1])}, TypeError, "the start of a piece must be an int, not str"),
])  # fmt: skip
def test_pieces_that_are_none_are_named(pieces, error, words, unchecked):
    with pytest.raises(error, match=words):
        SYSTEMS["mdlm"]().given(pieces, 2)


def test_a_clamp_for_another_number_of_sequences_is_named():
    process = SYSTEMS["mdlm"]()
    with pytest.raises(ValueError, match="known must have a row for each of the n sequences sampled"):
        last(sample(process, wrong(V + 1), 3, 2, clamp=process.given({0: tensor([1])}, 2)))


# Clocks that end at 0


@pytest.mark.parametrize("clock", [S.log_linear(0.0), S.cosine(power=1)])
def test_mdlm_with_a_clock_to_0(clock):
    """MD4's linear clock and others: the weight has a limit at 1, nothing is left, and silence costs L log V."""
    process = MDLM(Absorbing(V, clock), L)
    t = tensor([0.1, 0.5, 0.9, 1.0]).double()
    h = 1e-6
    alpha = lambda t: clock(t.double())  # noqa: E731
    slope = (alpha(t - h) - alpha(t - 3 * h)) / (2 * h)
    torch.testing.assert_close(process.weight(t), -slope / (1 - alpha(t)), rtol=1e-4, atol=0)
    assert process.prior_term(torch.zeros(2, L).long()).abs().max() < 1e-14
    data = torch.randint(0, V, (4000, L))
    assert (process.prior(3) == V).all()
    silent = bound(process, says(0.0), data, batch=4000)
    assert abs(silent.mean - L * math.log(V)) < 5 * silent.se
    counted = bound(MaskCount(process), says(0.0), data, batch=4000)
    torch.testing.assert_close(tensor(counted.mean), tensor(L * math.log(V)), rtol=1e-6, atol=0)
    assert last(first_hitting(process, wrong(V + 1), 20))[1].max() < V


def test_where_scores_say_nothing_sedd_refuses(unchecked):
    for mass in ("learned", "known"):
        with pytest.raises(ValueError, match=r"noise must leave alpha_bar\(1\) > 0"):
            SEDD(Absorbing(V, S.log_linear(0.0)), L, mass=mass)


def test_published_numbers_leave_out_prior_and_reconstruction():
    """diffusion_term is the bound without the two; with all masks in the prior, only it is finite."""
    for name in ("mdlm, noisy at once", "sedd, uniform", "sedd, masks", "d3pm, uniform"):
        process = SYSTEMS[name]()
        net, data, t = wrong(process.noise.K), torch.randint(0, V, (5, L)), process.sample_t(5)
        torch.manual_seed(2)
        x_t = process.corrupt(data, t)
        torch.manual_seed(2)
        torch.testing.assert_close(
            process.diffusion_term(net, data, t), process.diffusion_term_at(net, data, x_t, t)
        )
        assert (process.prior_term(data) > 0).all()
    process = MDLM(Absorbing(V, S.log_linear(), prior="mask"), L)
    data, t = torch.randint(0, V, (5, L)), torch.full((5,), 0.5)
    assert process.bound(wrong(V + 1), data, t).isinf().all()
    for one, when in ((process, t), (MaskCount(process), tensor([1, 2, 3, 4, 4]))):
        assert one.diffusion_term(wrong(V + 1), data, when).isfinite().all()


@pytest.mark.parametrize("name", ["mdlm, noisy at once", "sedd, masks", "sedd, uniform"])
def test_the_last_step_costs_what_its_law_says(name):
    """-log p(x_0 | x just after 0): of masks the law of the token alone, whatever mass the scores have."""
    process = SYSTEMS[name]()
    net, first = wrong(process.noise.K), torch.full((6,), FIRST)
    x0 = torch.randint(0, V, (6, L))
    x = process.corrupt(x0, torch.full((6,), 0.9))
    got = process.reconstruction_term_at(net, x0, x)
    if isinstance(process, MDLM):
        log_p = process.ask(net, x, first).log_softmax(-1)
        want = torch.where(x == V, -log_p.gather(-1, x0[..., None])[..., 0], 0).sum(1)
    else:
        law = process.law(process.log_score(net, x, first), x, first, 0 * first)
        want = -law.gather(-1, x0[..., None])[..., 0].log().sum(1)
    torch.testing.assert_close(got, want.double(), rtol=1e-5, atol=1e-6)


# The number of masks


@pytest.mark.parametrize("eps, length", [(0.1, 128), (1e-3, 16384), (0.1, 16384)])
def test_the_time_given_a_count_is_found_without_tries(eps, length):
    """F10: of n = L masks the level has the law of the largest of L uniform numbers, cut off at 1 - eps."""
    counter = MaskCount(MDLM(Absorbing(27, S.log_linear(eps)), length))
    t = counter.law.told(torch.full((16,), length))
    level = (1 - eps) * t.double()
    assert ((level > 0) & (level <= 1 - eps)).all()
    # (level / (1 - eps))^L is uniform
    share = (t.double().log() * length).exp()
    assert share.min() < 0.4 and share.max() > 0.6 and share.unique().numel() == 16
    few = counter.law.told(torch.ones(16).long())
    assert (few > 0).all() and few.median() < 5 / length


def test_a_count_masks_and_samples_as_the_process_inside():
    process = SYSTEMS["mdlm"]()
    counter, net = MaskCount(process), wrong(V + 1)
    assert counter.T == L and counter.sample_t(8).dtype == torch.int64
    torch.manual_seed(3)
    a = last(sample(counter, net, 6, 5))[1]
    torch.manual_seed(3)
    assert torch.equal(a, last(sample(process, net, 6, 5))[1])
    torch.manual_seed(3)
    b = last(sample(counter, net, 6, tensor([1.0, 0.4, 0.0])))[1]
    assert b.max() < V and counter.clamps_exactly
    other = counter.around(MDLM(Absorbing(V, S.log_linear()), 2))
    assert other.T == 2 and len(other.weight) == 3
    assert torch.equal(copy.deepcopy(counter).weight, counter.weight)
    assert torch.equal(
        pickle.loads(pickle.dumps(MaskCount(SYSTEMS["d3pm, masks"]()))).weight.shape == (5,)
        and counter.weight,
        counter.weight,
    )


@pytest.mark.parametrize("name", ["d3pm, uniform", "sedd, uniform", "ordered", "sedd, mask and uniform"])
def test_only_masked_processes_are_counted(name, unchecked):
    with pytest.raises(ValueError, match="process must be MaskedD3PM, MDLM or SEDD on absorbing noise"):
        MaskCount(SYSTEMS[name]())


def test_first_hitting_asks_in_eval_mode():
    class Net(nn.Module):
        def forward(self, x, u):
            assert not self.training
            return torch.zeros(*x.shape, V)

    net = Net()
    for _ in first_hitting(SYSTEMS["mdlm"](), net, 3):
        assert net.training


# The classes


def test_the_noise_chooses_the_class(unchecked):
    kinds = {
        "d3pm, uniform": D3PM,
        "d3pm, masks": MaskedD3PM,
        "sedd, masks": MaskedSEDD,
        "sedd, mass known": KnownMassSEDD,
        "sedd, uniform": StationarySEDD,
        "sedd, mask and uniform": SEDD,
    }
    for name, kind in kinds.items():
        process = SYSTEMS[name]()
        assert type(process) is kind
        for other in (
            copy.copy(process),
            copy.deepcopy(process),
            pickle.loads(pickle.dumps(D3PM(Uniform(V, CURVE), L))),
        ):
            assert other.length == L
    with pytest.raises(ValueError, match="mass of MaskedSEDD is 'learned'"):
        MaskedSEDD(Absorbing(V, S.log_linear()), L, mass="known")


@pytest.mark.parametrize("length, error, words", [
    (2.0, TypeError, "length must be an int, not float"),
    (True, TypeError, "length must be an int, not bool"),
    (0, ValueError, "length must be at least 1, not 0"),
])  # fmt: skip
def test_one_error_for_a_wrong_length(length, error, words, unchecked):
    line = Absorbing(V, S.log_linear())
    for make in (
        lambda n: D3PM(Uniform(V, CURVE), n),
        lambda n: D3PM(Absorbing(V, LINE), n),
        lambda n: MDLM(line, n),
        lambda n: SEDD(line, n),
        lambda n: SEDD(line, n, mass="known"),
        lambda n: SEDD(Uniform(V, S.geometric()), n),
        lambda n: Ordered(V, n),
        lambda n: Autoregressive(V, n),
    ):
        with pytest.raises(error, match=words):
            make(length)


def test_something_else_than_a_noise_is_named(unchecked):
    for make in (D3PM, MDLM, SEDD):
        with pytest.raises(TypeError, match="noise must be a Noise, such as Absorbing"):
            make(S.log_linear(), L)


# Autoregression


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_prompt_is_read_whatever_the_number_of_steps(steps):
    """x = the token before + 1: what follows a prompt of 2 0 is 1 2, and it was not so when steps wrote over it."""

    def net(x, u):
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        return 50.0 * torch.nn.functional.one_hot((before + 1) % V, V)

    process = Autoregressive(V, L)
    known = tensor([[True, True, False, False]]).expand(5, -1)
    context = tensor([[2, 0, 0, 0]]).expand(5, -1)
    x = last(sample(process, net, 5, steps, clamp=keep(known, context)))[1]
    assert torch.equal(x, tensor([[2, 0, 1, 2]]).expand(5, -1))


def test_a_context_that_is_no_beginning_is_refused():
    process, context = Autoregressive(V, L), torch.zeros(2, L).long()
    for known in itertools.product([True, False], repeat=L):
        clamp = keep(tensor([known]).expand(2, -1), context)
        if list(known) == sorted(known, reverse=True):
            process.check_clamp(clamp)
        else:
            with pytest.raises(ValueError, match="clamp is not exact for Autoregressive"):
                process.check_clamp(clamp)
            process.check_clamp(approximately(clamp))


@pytest.mark.parametrize(
    "net, error, words", [a for a in ANSWERS if "slice" not in a[2] and "swapped" not in a[2]]
)
def test_autoregression_looks_at_answers_too(net, error, words, unchecked):
    process, data = Autoregressive(V, L), torch.randint(0, V, (3, L))
    for call in (
        lambda: process.loss(net, data, tensor([1, 2, 3])),
        lambda: process.bound(net, data, tensor([1, 2, 3])),
    ):
        with pytest.raises(error, match=words):
            call()
    with pytest.raises(error):
        last(sample(process, net, 3, L))


def test_numbers_of_masks_take_no_hybrid_loss():
    counter = MaskCount(D3PM(Absorbing(V, LINE), L, ce_weight=0.1))
    with pytest.raises(ValueError, match="ce_weight = 0 to train by numbers of masks, not 0.1"):
        counter.loss(says(0.0), torch.zeros(4, L).long(), torch.ones(4).long())


@pytest.mark.parametrize("name", ["d3pm, masks", "mdlm", "sedd, masks"])
def test_numbers_of_masks_around_a_wrapper(name):
    """Around a wrapper, or around numbers of masks, they are those of the process inside."""
    process, x0, n = SYSTEMS[name](), torch.zeros(4, L).long(), tensor([1, 2, 3, 4])
    got = []
    for inside_it in (process, Wrapper(process), MaskCount(process)):
        torch.manual_seed(0)
        got.append(MaskCount(inside_it).diffusion_term(says(0.0), x0, n))
    assert torch.equal(got[0], got[1]) and torch.equal(got[0], got[2])
