"""What is done to a network of words before it samples, and to its process: each against its formula; all pairs."""

import copy
import itertools
import pickle

import pytest
import torch

from course_lib.clamping import ClampingTrick
from course_lib.diffuseq import SoftAbsorbing
from course_lib.diffusion_lm import DiffusionLM
from course_lib.guidance import ClassifierFree, ClassifierGuided, NoisyClassifierTraining
from course_lib.nets import MLP, Given
from course_lib.process import last, sample
from course_lib.self_conditioning import SelfConditioned, half_of_the_time
from course_lib.sentences import Labelled
from course_lib.word_nets import MixingNet, SentenceClassifier
from tests.helpers import I
from tests.words import TABLE, L, T, W, ids, net, toy

MASK, LABEL = torch.arange(L) < I([[5], [2], [1], [5]]), I([0, 1, 1, 0])
WRAPPERS = {
    "given": lambda m: Given(m, mask=MASK),
    "self-conditioned": SelfConditioned,
    "clamping trick": ClampingTrick,
    "classifier-free": lambda m: ClassifierFree(m, LABEL, 1.0),
}
PAIRS = list(itertools.permutations(WRAPPERS, 2))


def around(names, model):
    """The wrappers around a network, the first one outside."""
    for name in reversed(names):
        model = WRAPPERS[name](model)
    return model


# All pairs


@pytest.mark.parametrize("names", [*PAIRS, tuple(WRAPPERS), tuple(WRAPPERS)[::-1]], ids="-".join)
def test_wrappers_compose_copy_and_pickle(names):
    """Each copy samples as the original does, and none changes what another remembers."""
    process, plain = DiffusionLM(TABLE, L, W), net(recall=True, classes=2)
    model = around(names, plain)

    def drawn(network):
        torch.manual_seed(1)
        return last(sample(process, network, 4, 5))[1]

    copies = [copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    want = drawn(model)
    assert want.isfinite().all()
    for same in (*copies, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model):
        assert drawn(same).equal(want) and same.table.equal(plain.table)
    assert process.bound(model, ids(), I([1, 5, 20, T])).isfinite().all()
    told = process.decode(model, want)
    assert told.equal(ids().where(told != told, told)) and (("given" in names) == bool((told < 0).any()))


@pytest.mark.parametrize("outer, inner", [p for p in PAIRS if "clamping trick" not in p])
def test_pairs_are_the_formulas_of_both(outer, inner):
    """Two times in a row: what each call is given by hand."""
    plain = net(recall=True, classes=2)
    model, names = around((outer, inner), plain), (outer, inner)
    x, y = torch.randn(2, 4, L, W)
    given = {"mask": MASK} if "given" in names else {}
    before = torch.zeros_like(x)
    for z, u in ((x, torch.full((4,), 0.8)), (y, torch.full((4,), 0.5))):
        now = given | ({"before": before} if "self-conditioned" in names else {})
        free, told = plain(z, u, **now), plain(z, u, **now, label=LABEL)
        want = 2 * told - free if "classifier-free" in names else free
        torch.testing.assert_close(model(z, u), want)
        # inside of the guidance the last f(x, label) is remembered, outside of it what was guided
        inside = names == ("classifier-free", "self-conditioned")
        before = told.detach() if inside else want.detach()


def test_what_the_wrappers_explain_is_what_they_say():
    plain, x, u = net(recall=True, classes=2), torch.randn(4, L, W), torch.rand(4)
    for names in [(name,) for name in WRAPPERS] + PAIRS:
        x0, log_p = around(names, plain).explain(x, u)
        torch.testing.assert_close(x0, around(names, plain)(x, u))
        torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(4, L))


# Told


def test_given_tells_the_mask_and_the_label():
    model, x, u = net(classes=2), torch.randn(4, L, W), torch.rand(4)
    torch.testing.assert_close(Given(model, mask=MASK)(x, u), model(x, u, MASK))
    both = Given(model, mask=MASK, label=LABEL)
    torch.testing.assert_close(both(x, u), model(x, u, MASK, None, LABEL))
    assert both.table.equal(model.table)


# The clamping trick


def test_the_clamping_trick_snaps_to_embeddings_from_its_start():
    model, x, u = net(), torch.randn(4, L, W), I([1.0, 0.6, 0.5, 0.1])
    x0 = model(x, u)
    near = model.embedding.weight[torch.cdist(x0, model.embedding.weight.expand(4, -1, -1)).argmin(-1)]
    assert ClampingTrick(model)(x, u).equal(near)
    late = ClampingTrick(model, start=0.5)(x, u)
    assert late[:2].equal(x0[:2]) and late[2:].equal(near[2:])


def test_the_clamping_trick_checks_what_it_is_given(unchecked):
    for start in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="start must lie in"):
            ClampingTrick(net(), start)
    with pytest.raises(TypeError, match="MLP has no table"):
        ClampingTrick(MLP((L, W)))


def test_an_estimate_of_nan_is_not_hidden_by_a_word():
    process, model = DiffusionLM(TABLE, L, W), net()
    model.leave.bias.data[1] = float("nan")
    for network in (model, ClampingTrick(model), ClampingTrick(SelfConditioned(net(recall=True)))):
        if network is not model and network.inner is not model:
            network.inner.inner.leave.bias.data[0] = float("nan")
        with pytest.raises(FloatingPointError, match="at step 1, at t = 40"):
            last(sample(process, network, 4, 3))


def test_the_bound_of_a_rounded_network_is_one():
    """Any function of x_t may stand in p; the mask of the bound reaches the network inside."""
    torch.manual_seed(0)
    process, language, oracle = toy(100)
    tokens, t = language.sample(20000), process.sample_t(20000)
    plain, snapped = (
        process.bound(f, tokens, t) + language.log_prob(tokens) for f in (oracle, ClampingTrick(oracle))
    )
    assert snapped.mean() > plain.mean() > -3 * plain.std() / 20000**0.5
    model = net()
    x, u = torch.randn(4, L, W), torch.rand(4)
    told = ClampingTrick(Given(model, mask=MASK))
    assert ClampingTrick(model)(x, u, mask=MASK).equal(told(x, u))


# Self-conditioning


def test_each_time_is_given_the_estimate_of_the_time_before():
    model, x, one = net(recall=True), torch.randn(4, L, W), torch.ones(4)
    network = SelfConditioned(Given(model, mask=MASK))
    first = network(x, one)
    torch.testing.assert_close(first, model(x, one, MASK, torch.zeros_like(x)))
    second = network(x, one / 2)
    torch.testing.assert_close(second, model(x, one / 2, MASK, first))
    again = network(x + 1, one / 2)  # a second call at one time is given the same
    torch.testing.assert_close(again, model(x + 1, one / 2, MASK, first))
    torch.testing.assert_close(network(x, one / 4), model(x, one / 4, MASK, again))
    torch.testing.assert_close(network(x, one), first)
    assert not network.last.requires_grad


def test_nothing_of_another_run_is_remembered():
    """Not where it starts below T, has other sentences, or begins anew for some of them only."""
    model, x = net(recall=True), torch.randn(4, L, W)
    fresh = lambda x, u: model(x, u, before=torch.zeros_like(x))  # noqa: E731
    network, half = SelfConditioned(model), torch.full((4,), 0.5)
    network(x, half)
    torch.testing.assert_close(network(x, half), fresh(x, half))
    network(x, half / 2)
    torch.testing.assert_close(network(x, half), fresh(x, half))
    torch.testing.assert_close(network(x[:2], half[:2] / 2), fresh(x[:2], half[:2] / 2))
    network(x, half)
    said, u = network.last, I([0.25, 0.75, 0.25, 0.75])
    want = model(x, u, before=torch.where((u < 0.5)[:, None, None], said, 0))
    torch.testing.assert_close(network(x, u), want)


def test_a_run_of_nan_leaves_no_trace_in_the_next():
    process, model = DiffusionLM(TABLE, L, W), net(recall=True)
    network = SelfConditioned(model)
    for states in (sample(process, network, 4, 3), sample(process, network, 4, I([38, 0]))):
        weight = model.leave.bias.data.clone()
        model.leave.bias.data[0] = float("nan")
        with pytest.raises(FloatingPointError):
            last(states)
        model.leave.bias.data = weight
        assert last(sample(process, network, 4, 3))[1].isfinite().all()


def test_half_of_the_examples_are_given_an_estimate_and_no_gradient():
    x, weight = torch.randn(1001, 2), torch.ones(2, requires_grad=True)
    before = half_of_the_time(lambda some: (x[some] * weight).bfloat16(), x)
    used = before.any(1)
    assert used.sum() in (500, 501) and not before.requires_grad and before.dtype == x.dtype
    torch.testing.assert_close(before[used], x[used].bfloat16().float())
    counts = {int(half_of_the_time(lambda some: x[some], x[:1]).any()) for _ in range(20)}
    assert counts == {0, 1}  # of one example, now and then


# Classifier-free guidance


def test_free_guidance_is_an_extrapolation():
    model, x, u = net(classes=2), torch.randn(4, L, W), torch.rand(4)
    told, free = model(x, u, MASK, None, LABEL), model(x, u, MASK)
    inside = Given(model, mask=MASK)
    torch.testing.assert_close(ClassifierFree(inside, LABEL, 1.5)(x, u), 2.5 * told - 1.5 * free)
    torch.testing.assert_close(ClassifierFree(inside, LABEL, 0.0)(x, u), told)
    assert ClassifierFree(Given(inside, label=1 - LABEL), LABEL, 0.0)(x, u).equal(told)
    torch.testing.assert_close(ClassifierFree(inside, LABEL, -1.0)(x, u), free)


def test_guidance_is_given_what_the_label_said():
    model, x = net(classes=2, recall=True), torch.randn(4, L, W)
    guided = ClassifierFree(SelfConditioned(Given(model, mask=MASK)), LABEL, 2.0)
    u, later = torch.tensor([0.3, 0.5, 1.0, 0.1]), torch.tensor([0.2, 0.4, 0.9, 0.05])
    told = model(x, u, MASK, None, LABEL)
    torch.testing.assert_close(guided(x, u), 3 * told - 2 * model(x, u, MASK))
    want = 3 * model(x, later, MASK, told, LABEL) - 2 * model(x, later, MASK, told)
    torch.testing.assert_close(guided(x, later), want)


# Control by a classifier


def test_labels_train_a_classifier_of_noised_sentences():
    model, process = net(), DiffusionLM(TABLE, L, W)
    task, reader = NoisyClassifierTraining(process, model), SentenceClassifier(W, 3, 16, 2, 1)
    for p in reader.parameters():
        p.data.normal_(std=0.3)
    data, t = Labelled(ids(), I([0, 2, 1, 0])), I([1, 5, 20, T])
    torch.manual_seed(1)
    loss = task.loss(reader, data, t)
    torch.manual_seed(1)
    mask, _, _, x_t = process.diffuse(model, data.tokens, t)
    log_p = reader(x_t, t / T, mask).log_softmax(1)
    torch.testing.assert_close(loss, -log_p[torch.arange(4), data.labels])
    loss.mean().backward()
    assert all(p.grad is None for p in model.parameters()) and task.T == T and task.device.type == "cpu"
    h = reader.trunk(reader.enter(x_t), t / T, mask)
    want = torch.stack([h[i][mask[i]].mean(0) for i in range(4)])
    torch.testing.assert_close(reader(x_t, t / T, mask), reader.leave(want))
    every = torch.ones(4, L, dtype=torch.bool)
    torch.testing.assert_close(reader(x_t, t / T), reader(x_t, t / T, every), rtol=1e-4, atol=1e-5)
    assert not SentenceClassifier(W, 3)(x_t, t / T).any()  # says nothing before it is trained


def test_guided_steps_are_adagrad_on_the_two_terms():
    process, model = DiffusionLM(TABLE, L, W), net()
    aim = torch.randn(L, W)

    def log_p(x, u):
        return -(x - aim).square().sum((1, 2)) * (1 + u)

    x, t, s = torch.randn(4, L, W), I([20] * 4), I([11] * 4)
    guided = ClassifierGuided(process, log_p, updates=3, lr=0.2, fluency=0.5)
    torch.manual_seed(1)
    with torch.no_grad():
        got = guided.step(model, x, t, s)
    torch.manual_seed(1)
    drawn = process.step(model, x, t, s).detach()
    var = process.transition(I([20]), I([11])).q_var.item()
    y, squares = drawn.clone(), torch.zeros_like(x)
    for _ in range(3):
        g = 0.5 * (y - drawn) / var + 2 * (y - aim) * (1 + 11 / T)
        squares += g.square()
        y = y - 0.2 * g / (squares.sqrt() + 1e-10)
    torch.testing.assert_close(got, y, rtol=1e-4, atol=1e-4)
    assert not got.requires_grad
    torch.manual_seed(1)
    last_step = guided.step(model, x, t, I([0, 11, 0, 11]))
    torch.manual_seed(1)
    drawn = process.step(model, x, t, I([0, 11, 0, 11]))
    assert (last_step == drawn).flatten(1).all(1).tolist() == [True, False, True, False]  # at s = 0 as drawn
    default = ClassifierGuided(process, log_p)
    assert (default.updates, default.lr, default.fluency) == (3, 0.1, 0.01)


@pytest.mark.parametrize("settings", [{"updates": 1}, {"fluency": 0.0}, {}])
def test_the_last_step_is_left_as_it_is_drawn(settings):
    """Also without a pull back: by default the third update undoes the others, since there is no noise at s = 0."""
    process, model = DiffusionLM(TABLE, L, W), net()
    guided = ClassifierGuided(process, lambda x, u: -x.square().sum((1, 2)), lr=0.2, **settings)
    x, t, s = torch.randn(4, L, W), I([20] * 4), I([0, 11, 0, 11])
    torch.manual_seed(1)
    got = guided.step(model, x, t, s)
    torch.manual_seed(1)
    same = (got == process.step(model, x, t, s)).flatten(1).all(1)
    assert same.tolist() == [True, False, True, False]


def test_guidance_makes_what_is_asked_for_more_likely():
    """With the oracle: a control that likes token 0 at place 0 gets it, and the language's law is kept elsewhere."""
    process, language, oracle = toy(100, K=3, L=2, width=2)
    oracle.table = torch.tensor([[3.0, 0], [-3, 0], [0, 4]], dtype=torch.float64)
    guided = ClassifierGuided(
        process, lambda x, u: -(x[:, 0] - oracle.table[0].float()).square().sum(1), lr=0.3
    )
    tokens = guided.decode(oracle, last(sample(guided, oracle, 300, 25))[1])
    assert (tokens[:, 0] == 0).float().mean() > 0.95
    found = tokens[tokens[:, 0] == 0, 1].bincount(minlength=3) / 300
    assert (found - language.move[0]).abs().sum() / 2 < 0.2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"updates": 0}, "updates must be at least 1, not 0"),
        ({"lr": 0.0}, "lr must be positive and fluency not negative, not 0.0 and 0.01"),
        ({"fluency": -1.0}, "lr must be positive and fluency not negative, not 0.1 and -1.0"),
    ],
)
def test_guided_checks_its_settings(options, message):
    with pytest.raises(ValueError, match=message):
        ClassifierGuided(DiffusionLM(TABLE, L, W), lambda x, u: x.sum((1, 2)), **options)


def test_a_guided_process_is_the_one_inside_in_all_but_its_steps():
    process, model, tokens = DiffusionLM(TABLE, L, W), net(), ids()
    guided = ClassifierGuided(process, lambda x, u: -x.square().sum((1, 2)))
    for call in (
        lambda p: p.encode(model, tokens),
        lambda p: p.bound(model, tokens, I([1, 5, 20, T])),
        lambda p: p.loss(model, tokens, I([1, 5, 20, T])),
        lambda p: p.prior(3),
        lambda p: p.decode(model, torch.randn(4, L, W)),
    ):
        torch.manual_seed(2)
        want = call(process)
        torch.manual_seed(2)
        assert call(guided).equal(want)
    twice = ClassifierGuided(guided, lambda x, u: -x.square().sum((1, 2)))
    for p in (
        guided,
        twice,
        copy.deepcopy(twice),
        pickle.loads(pickle.dumps(ClassifierGuided(process, MLP()))),
    ):
        assert p.length == L and p.sigma_0_squared == process.sigma_0_squared
    assert last(sample(twice, model, 2, 3))[1].isfinite().all()


def test_guidance_works_in_inference_mode():
    process, model = DiffusionLM(TABLE, L, W), net()
    reader = SentenceClassifier(W, 2, 16, 2, 1)
    reader.leave.weight.data.normal_()
    guided = ClassifierGuided(process, lambda x, u: reader(x, u).log_softmax(1)[:, 0])
    torch.manual_seed(1)
    want = last(sample(guided, model, 3, 4))[1]
    with torch.inference_mode():
        torch.manual_seed(1)
        assert last(sample(guided, model, 3, 4))[1].equal(want)


@pytest.mark.parametrize("log_p, error, words", [
    (lambda x, u: x.sum((1, 2)) * float("nan"), FloatingPointError, "log_p must be finite, but at step 1, at t = 30"),
    (lambda x, u: x.sum((1, 2), keepdim=True), ValueError, r"log_p must give 4 floats, one per example, not torch"),
    (lambda x, u: x.sum(), ValueError, "log_p must give 4 floats"),
    (lambda x, u: 1.0, ValueError, "log_p must give 4 floats, one per example, not float"),
])  # fmt: skip
def test_a_control_is_checked(log_p, error, words, unchecked):
    process = ClassifierGuided(DiffusionLM(TABLE, L, W), log_p)
    with pytest.raises(error, match=words):
        last(sample(process, net(), 4, 4))


def test_a_control_must_be_callable(unchecked):
    with pytest.raises(TypeError, match=r"log_p must be callable as log_p\(x_s, u\), not Tensor|torch"):
        ClassifierGuided(DiffusionLM(TABLE, L, W), torch.ones(3))


def test_the_absorbing_state_composes_too():
    """SoftAbsorbing inside of all the others: measured from m = 0 it is the network itself."""
    plain = net(recall=True, classes=2)
    x, u = torch.randn(4, L, W), torch.rand(4)
    for names in PAIRS:
        torch.testing.assert_close(around(names, SoftAbsorbing(plain))(x, u), around(names, plain)(x, u))
        moved = SoftAbsorbing(plain)
        moved.m.data = torch.randn(W)
        assert copy.deepcopy(around(names, moved))(x, u).equal(around(names, moved)(x, u))
    assert isinstance(pickle.loads(pickle.dumps(moved)), SoftAbsorbing)
    with pytest.raises(TypeError, match="inner must be an EmbeddingNet"):
        SoftAbsorbing(net(MixingNet))
