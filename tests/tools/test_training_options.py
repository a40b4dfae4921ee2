"""What one may ask of the loop: an optimiser, parts, seeds, minutes, a validation. Against plain torch and by hand."""

import copy
import math
import time
from itertools import islice

import pytest
import torch
from torch import nn

from course_lib import budget as clock
from course_lib.absorbing import Absorbing
from course_lib.budget import Budget
from course_lib.data import MarkovLanguage, batches, two_bumps
from course_lib.ddpm import DDPM
from course_lib.evaluate import bound
from course_lib.files import load_tensors
from course_lib.learned_variance import LossAware
from course_lib.learning_rate import OfProgress, cosine_of_progress, decay_groups, warmup_cosine
from course_lib.mdlm import MDLM
from course_lib.nets import MLP, TokenNet
from course_lib.process import last
from course_lib.random_state import drawing_from, seed_of, undisturbed
from course_lib.schedules import cosine, log_linear, table
from course_lib.shares import cut, draws_before_it_asks
from course_lib.train import train
from course_lib.validation import Validation
from course_lib.weights import weights_of
from course_lib.wrapper import Wrapper

AdamW, SGD = torch.optim.AdamW, torch.optim.SGD


def process(cls=DDPM):
    return cls(table(cosine(), 20), (1,))


def network(seed=0):
    torch.manual_seed(seed)
    return MLP((1,), width=16, depth=1)


def stream(size=16):
    return batches(two_bumps().sample(100), size)


def go(model=None, steps=10, process=process, size=16, **options):
    """Records of a small training, and the model."""
    model = model or network()
    torch.manual_seed(1)
    data = stream(size)
    torch.manual_seed(2)
    return list(train(process(), model, data, steps, **options)), model


def same(a, b, **tolerance):
    """Equal weights; to the last bit unless a tolerance is given."""
    for k, v in weights_of(a).items():
        if tolerance:
            torch.testing.assert_close(v, weights_of(b)[k], **tolerance)
        else:
            assert v.equal(weights_of(b)[k]), k


# The optimiser


def test_an_optimiser_of_ones_own_is_the_bare_loop():
    model, other = network(), network()
    records, _ = go(model, 8, optimizer=lambda p: SGD(p, 0.05, momentum=0.9, weight_decay=0.1))
    theirs = SGD(other.parameters(), 0.05, momentum=0.9, weight_decay=0.1)
    torch.manual_seed(1)
    data = stream()
    torch.manual_seed(2)
    p = process()
    for x, record in zip(islice(data, 8), records, strict=True):
        t = p.sample_t(len(x))
        loss = p.loss(other, x, t)
        theirs.zero_grad()
        loss.mean().backward()
        norm = nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        theirs.step()
        assert record.norm.equal(norm) and record.loss.equal(loss) and record.lr is None
    same(model, other)


def test_an_optimiser_may_be_given_as_it_is_and_lr_counts_more_than_its_own():
    a, b, c = network(), network(), network()
    go(a, 4, optimizer=AdamW(a.parameters(), lr=3e-3))
    go(b, 4, optimizer=AdamW(b.parameters(), lr=7.0), lr=3e-3)
    records, _ = go(c, 4, optimizer=lambda p: AdamW(p, lr=3e-3))
    same(a, b), same(a, c)
    assert records[0].lr is None and go(lr=warmup_cosine(0.1, 10))[0][2].lr == warmup_cosine(0.1, 10)(3)


@pytest.mark.parametrize(
    "made, error, says",
    [
        (lambda m: "AdamW", TypeError, "optimizer must be a torch Optimizer or a function .*, not str"),
        (lambda m: lambda p: p, TypeError, "optimizer must give a torch Optimizer, not list"),
        (lambda m: SGD(m.enter.parameters(), 0.1), ValueError, "but it lacks 'layers.0.weight'|but it lacks"),
        (lambda m: SGD([*m.parameters(), nn.Parameter(torch.ones(1))], 0.1), ValueError, "of the model only"),
    ],
)
def test_an_optimiser_of_another_model_is_refused(made, error, says, unchecked):
    model = network()
    with pytest.raises(error, match=says):
        train(process(), model, stream(), 3, optimizer=made(model))


@pytest.mark.parametrize(
    "make", [lambda p: SGD(p, 0.05, momentum=0.9), lambda p: torch.optim.Adam(p, amsgrad=True)]
)
def test_any_optimiser_resumes(tmp_path, make):
    whole = go(steps=9, optimizer=make)[1]
    records = train(
        process(), network(), islice(kept(), 9), 9, optimizer=make, checkpoint=tmp_path / "c", every=4
    )
    torch.manual_seed(2)
    list(islice(records, 6))
    model = network(5)
    list(train(process(), model, kept(), 9, optimizer=make, checkpoint=tmp_path / "c"))
    same(model, whole)
    with pytest.raises(ValueError, match="belongs to another run: optimizer.class is .* there, NAdam here"):
        train(process(), network(), kept(), 9, optimizer=torch.optim.NAdam, checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match="optimizer.group 0.weight_decay is 0.* there, 0.3 here"):
        decayed = lambda p: with_decay(make(p))  # noqa: E731
        train(process(), network(), kept(), 9, optimizer=decayed, checkpoint=tmp_path / "c")


def with_decay(optimizer):
    optimizer.param_groups[0]["weight_decay"] = 0.3
    return optimizer


def kept():
    """The stream, torch's random state as it was."""
    random = torch.get_rng_state()
    torch.manual_seed(1)
    data = stream()
    torch.set_rng_state(random)
    return data


def test_matrices_decay_and_vectors_do_not():
    model = TokenNet(6, 5, width=8, heads=1, depth=1)
    model.embedding.requires_grad_(False)
    some, rest = decay_groups(model, 0.1)
    assert (some["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in some["params"]} == {2} and {p.ndim for p in rest["params"]} == {1}
    assert len(some["params"]) + len(rest["params"]) == len(list(model.parameters())) - 1
    list(
        train(
            MDLM(Absorbing(5, log_linear()), 4),
            model,
            [torch.zeros(4, 4).long()],
            1,
            optimizer=AdamW([some, rest]),
        )
    )
    for bad in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="weight_decay must not be negative and be finite"):
            decay_groups(model, bad)


def test_the_norm_is_that_before_clipping():
    records, _ = go(steps=1, clip=1e-3)
    wide, other = go(steps=1, clip=1e9)
    assert records[0].norm.equal(wide[0].norm) and records[0].norm > 1e-3
    grads = torch.cat([p.grad.flatten() for p in other.parameters() if p.grad is not None])
    torch.testing.assert_close(wide[0].norm, grads.norm())


# Parts of a batch


@pytest.mark.parametrize("micro", [2, 4, 5, 16])
def test_parts_add_up_to_the_whole(micro):
    """16 examples as 1 x 16, 4 x 4, and as parts of 4, 3, 3, 3 and 3."""
    whole, a = go()
    parts, b = go(micro=micro)
    for one, other in zip(whole, parts, strict=True):
        assert one.t.equal(other.t)
        torch.testing.assert_close(one.loss, other.loss, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.norm, other.norm, atol=1e-5, rtol=1e-4)
    same(a, b, atol=1e-5, rtol=1e-4)
    same(whole[-1].average, parts[-1].average, atol=1e-5, rtol=1e-4)


def test_a_network_sees_a_part_at_a_time():
    sizes, model = [], network()
    model.enter.register_forward_hook(lambda m, i, out: sizes.append(len(out)))
    go(model, 2, micro=3)
    assert sizes == [6, 5, 5, 6, 5, 5]


class Own(DDPM):
    """Draws in its loss, beside the contract."""

    def loss(self, model, x0, t):
        return self.loss_at(model, x0, self.corrupt(x0, t) + 0 * torch.rand(1), t)


class Around(Wrapper):
    """Changes x_t only."""

    def corrupt(self, x0, t):
        return 1.5 * super().corrupt(x0, t)


def test_who_may_be_drawn_for_at_once():
    p = process()
    assert draws_before_it_asks(p) and draws_before_it_asks(Wrapper(Wrapper(p)))
    assert not draws_before_it_asks(process(Own)) and not draws_before_it_asks(Wrapper(process(Own)))
    assert not draws_before_it_asks(Around(p)) and not draws_before_it_asks(Wrapper(Around(p)))


@pytest.mark.parametrize("wrap", [lambda p: p, Wrapper, Around])
def test_a_wrapped_process_is_asked_as_alone(wrap):
    plain = go(process=lambda: wrap(process(Own)), steps=3)[0]
    for record in plain:
        assert record.loss.isfinite().all()
    parts = go(process=lambda: wrap(process()), steps=3, micro=2)[0]
    assert parts[0].t.equal(plain[0].t)


def test_cut_cuts_every_kind():
    x, rows = torch.arange(6), slice(2, 4)
    assert cut(x, rows).tolist() == [2, 3]
    got = cut({"a": x, "b": (x, [x + 1])}, rows)
    assert got["a"].tolist() == [2, 3] and got["b"][1][0].tolist() == [3, 4] and type(got["b"]) is tuple
    with pytest.raises(TypeError, match="batches must hold what can be sliced"):
        cut(object(), rows)


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match="LossAware remembers the losses of whole batches: micro must be 1"):
        train(LossAware(process()), network(), stream(), 3, micro=2)
    with pytest.raises(ValueError, match="an example for each of 17 parts, but that of step 1 has 16"):
        go(micro=17)
    with pytest.raises(ValueError, match="micro must be at least 1, not 0"):
        go(micro=0)


def test_parts_resume_exactly(tmp_path):
    p = lambda: MDLM(Absorbing(5, log_linear()), 4)  # noqa: E731

    def run(upto, path):
        torch.manual_seed(0)
        model = TokenNet(6, 5, width=8, heads=1, depth=1, dropout=0.2)
        data = MarkovLanguage(5, 4).sample(30)
        for record in train(p(), model, batches(data, 9), 8, micro=2, checkpoint=path, every=3):
            if record.step == upto:
                break
        return model

    whole = run(9, tmp_path / "whole")
    run(5, tmp_path / "part")
    torch.manual_seed(77)
    same(run(9, tmp_path / "part"), whole)
    assert (tmp_path / "part").read_bytes() == (tmp_path / "whole").read_bytes()


# Seeds


class Noted(DDPM):
    """Notes a number that is drawn in its loss."""

    def loss(self, model, x0, t):
        self.drawn = [*getattr(self, "drawn", []), torch.rand(1).item()]
        return super().loss(model, x0, t)


@pytest.mark.parametrize("seed", [None, 3])
def test_each_part_of_each_step_has_draws_of_its_own(seed):
    def drawn():
        p, model, data = process(Noted), network(), stream()
        torch.manual_seed(2)
        list(train(p, model, data, 5, micro=3, seed=seed))
        return p.drawn

    first = drawn()
    assert len(set(first)) == 15 and drawn() == first


def test_with_a_seed_nobody_elses_draws_count():
    def run(noisy, seed):
        model, data = network(), stream()
        torch.manual_seed(noisy)
        made = []
        for record in train(process(), model, data, 6, seed=seed):
            made.append(record.t)
            if noisy:
                torch.rand(noisy)
        return torch.stack(made), model

    (t, a), (u, _), (v, _) = run(0, 3), run(5, 3), run(0, 4)
    assert t.equal(u) and not t.equal(v)
    before = torch.get_rng_state()
    list(train(process(), a, kept(), 2, seed=1))
    assert torch.get_rng_state().equal(before)
    assert len({tuple(row.tolist()) for row in t}) == 6  # each step its own draws


def test_a_seed_is_part_of_whose_checkpoint_it_is(tmp_path):
    go(steps=2, seed=3, checkpoint=tmp_path / "c")
    for options in ({"seed": 4}, {}):
        with pytest.raises(ValueError, match="draws is seed 3 there, .* here"):
            go(steps=3, checkpoint=tmp_path / "c", **options)
    with pytest.raises(ValueError, match="micro is 1 there, 2 here"):
        go(steps=3, checkpoint=tmp_path / "c", seed=3, micro=2)
    go(steps=3, checkpoint=tmp_path / "c", seed=4, changed=["draws"])


def test_seeds_of_neighbours_share_nothing():
    seeds = {seed_of(a, b) for a in range(30) for b in range(30)} | {seed_of(a) for a in range(30)}
    assert len(seeds) == 930 and all(0 <= s < 2**63 for s in seeds) and seed_of(1, 23) != seed_of(12, 3)


def test_undisturbed_and_seeded_blocks_leave_the_random_state_alone():
    cpu = torch.device("cpu")
    torch.manual_seed(0)
    want = torch.rand(2)
    torch.manual_seed(0)
    with undisturbed(cpu):
        torch.rand(5)
    with drawing_from(3, cpu):
        a = torch.rand(2)
    with pytest.raises(RuntimeError), drawing_from(3, cpu):
        assert torch.rand(2).equal(a)
        raise RuntimeError
    assert torch.rand(2).equal(want)
    with pytest.raises(ValueError, match="seed must be at least 0, not -1"), drawing_from(-1, cpu):
        pass


# How long


@pytest.fixture
def hand(monkeypatch):
    """A clock that is moved by hand."""
    now = [100.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    return now


def test_minutes_end_a_training_and_make_its_learning_rate(hand, tmp_path):
    """6 seconds a step, 2 minutes: 20 steps, at progress 0, 0.05, ..., 0.95."""

    def run(upto=99, **options):
        made = []
        records = train(
            process(), network(), stream(), lr=OfProgress(lambda p: 1 - p), minutes=2.0, **options
        )
        for record in records:
            made.append((record.step, record.lr, record.elapsed))
            if record.step == upto:
                break
            hand[0] += 6.0
        return made

    # The clock moves while the consumer has the record, so the first step takes no time and sees none.
    whole = run()
    steps, rates, seconds = zip(*whole, strict=True)
    assert steps == tuple(range(1, 22)) and seconds[-1] == 120
    assert list(seconds) == pytest.approx([6.0 * k for k in range(21)])
    assert list(rates) == pytest.approx([1.0, *(1 - 0.05 * k for k in range(20))])
    run(8, checkpoint=tmp_path / "c", every=5)
    assert load_tensors(tmp_path / "c")[1]["elapsed"] == 24.0
    hand[0] += 1e6  # the time between does not count
    rest = run(checkpoint=tmp_path / "c", every=5)
    assert [r[0] for r in rest] == list(range(6, 23)) and rest[-1][2] == 120
    done = run(checkpoint=tmp_path / "c")
    assert len(done) == 1 and done[0][0] == 22
    with pytest.raises(ValueError, match="lr is .* there"):
        train(
            process(),
            network(),
            stream(),
            lr=OfProgress(lambda p: 1 - p),
            minutes=4.0,
            checkpoint=tmp_path / "c",
        )


def test_steps_and_minutes_end_at_whichever_comes_first(hand):
    def count(**options):
        made = []
        for record in train(process(), network(), stream(), **options):
            made.append(record.progress)
            hand[0] += 6.0
        return made

    assert len(count(steps=5, minutes=2.0)) == 5 and len(count(steps=100, minutes=0.5)) == 6
    assert count(steps=4) == [0.25, 0.5, 0.75, 1.0]
    assert count(steps=4, minutes=0.4) == [0.25, 0.5, 0.75, 1.0]


def test_a_real_clock_ends_it_in_time():
    began = time.perf_counter()
    record = last(train(process(), network(), stream(), minutes=0.5 / 60, lr=cosine_of_progress(1e-2)))
    assert (
        record.elapsed >= 0.5 and time.perf_counter() - began < 5 and record.progress == 1 and record.step > 3
    )


@pytest.mark.parametrize(
    "options, error, says",
    [
        ({}, ValueError, "steps or minutes must be given, or train never ends"),
        ({"minutes": 0}, ValueError, "minutes must be positive and finite, not 0"),
        ({"minutes": math.inf}, ValueError, "minutes must be positive and finite"),
        ({"minutes": "2"}, TypeError, "minutes must be a number, not str"),
        ({"minutes": True}, TypeError, "minutes must be a number, not bool"),
    ],
)
def test_a_length_that_makes_no_sense_is_refused(options, error, says, unchecked):
    with pytest.raises(error, match=says):
        train(process(), network(), stream(), **options)


def test_too_few_batches_for_the_minutes():
    with pytest.raises(ValueError, match=r"batches must yield batches for minutes = 9.0, but ended after 1"):
        list(train(process(), network(), [two_bumps().sample(4)], minutes=9.0))
    assert Budget(3, None).wanted() == "at least steps = 3 batches"


def test_a_cosine_of_the_progress():
    rate = cosine_of_progress(0.4, 0.2).rate
    assert [rate(p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.2, 0.4, 0.2, 0], abs=1e-12)
    assert cosine_of_progress(0.4, 0.0).rate(0.0) == 0.4
    with pytest.raises(ValueError, match=r"warmup must lie in \[0, 1\), not 1"):
        cosine_of_progress(0.4, 1.0)
    with pytest.raises(ValueError, match="peak must be positive"):
        cosine_of_progress(0.0)
    records, _ = go(steps=10, lr=cosine_of_progress(0.4, 0.2))
    assert [r.lr for r in records] == pytest.approx([rate(k / 10) for k in range(1, 11)])


# Held-out data


def dev(model):
    """A bound at random times and noise."""
    return bound(process(), model, two_bumps().sample(50)).mean


def test_validation_does_not_move_the_training():
    plain, a = go()
    records, b = go(validation=Validation(dev, 3))
    same(a, b)
    assert all(one.loss.equal(other.loss) for one, other in zip(plain, records, strict=True))
    assert [r.dev is not None for r in records] == [k in (3, 6, 9, 10) for k in range(1, 11)]
    assert all(r.dev is None for r in plain)


def test_validation_sees_averaged_weights_in_eval_mode():
    seen = []

    def measure(model):
        seen.append((copy.deepcopy(weights_of(model)), model.training, torch.is_grad_enabled()))
        return len(seen)

    records, model = [], network()
    v = Validation(measure, 2)
    for record in train(process(), model, stream(), 4, validation=v):
        records.append(copy.deepcopy(weights_of(record.average)))
        assert model.training
    assert [s[1:] for s in seen] == [(False, False)] * 2
    assert all(seen[0][0][k].equal(records[1][k]) for k in records[1])
    assert v.curve == [(2, 1.0), (4, 2.0)]


def values(*given):
    """A measure that says these, one after the other."""
    left = iter(given)
    return lambda model: next(left)


def test_the_best_weights_are_kept():
    v = Validation(values(3.0, 1.0, 2.0, 1.0, 5.0), 2)
    made, model = {}, network()
    for record in train(process(), model, stream(), 10, lr=0.05, validation=v):
        made[record.step] = copy.deepcopy(weights_of(record.average))
    assert v.best == (4, 1.0) and [s for s, _ in v.curve] == [2, 4, 6, 8, 10]
    own = copy.deepcopy(weights_of(model))
    with v.applied(model):
        assert not model.training and all(p.equal(made[4][k]) for k, p in weights_of(model).items())
    assert all(p.equal(own[k]) for k, p in weights_of(model).items())
    assert (v.stale(3), v.stale(4)) == (True, False)
    up = Validation(values(1.0, 4.0, 2.0), 2, larger=True)
    go(steps=6, validation=up)
    assert up.best == (4, 4.0) and up.stale(1) and not up.stale(2)


def test_stopping_early():
    v, steps = Validation(values(5.0, 4.0, 6.0, 6.0, 1.0), 1), []
    for record in train(process(), network(), stream(), 50, validation=v):
        steps.append(record.step)
        if v.stale(2):
            break
    assert steps == [1, 2, 3, 4] and v.best == (2, 4.0)


def test_the_best_weights_and_the_curve_are_in_the_checkpoint(tmp_path):
    def run(path, upto=8, seed=0):
        model, v = network(seed), Validation(dev, 2)
        options = {"lr": 0.05, "checkpoint": path, "every": 5, "validation": v, "seed": 1}
        torch.manual_seed(3)
        steps = []
        for record in train(process(), model, kept(), 8, **options):
            steps.append(record.step)
            if record.step == upto < 8:
                break
        return model, v, record, steps

    a, v, *_ = run(tmp_path / "whole")
    run(tmp_path / "part", upto=7)
    b, w, record, steps = run(tmp_path / "part", seed=5)
    same(a, b)
    assert steps == [6, 7, 8] and [k for k, _ in w.curve] == [2, 4, 6, 8]
    assert w.curve == v.curve and w.best[1] == min(x for _, x in w.curve)
    c, u, again, steps = run(tmp_path / "part", seed=6)
    assert steps == [8] and u.curve == w.curve and again.dev == record.dev == w.curve[-1][1]
    with u.applied(c), w.applied(b):
        same(b, c)
    same(b, c)


def test_a_validation_that_makes_no_sense_is_refused(unchecked):
    with pytest.raises(TypeError, match="measure must be a function of the model, not float"):
        Validation(3.0, 1)
    with pytest.raises(ValueError, match="every must be at least 1"):
        Validation(dev, 0)
    v = Validation(lambda model: math.nan, 2)
    for ask in (lambda: v.best, lambda: v.applied(network()).__enter__()):
        with pytest.raises(ValueError, match="nothing has been measured yet"):
            ask()
    with pytest.raises(FloatingPointError, match="what measure returns is NaN at step 2"):
        go(validation=v)
    assert not v.stale(1)
