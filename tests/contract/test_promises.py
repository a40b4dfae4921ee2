"""What no system may do in silence: modes, numbers that are not finite, wrong answers, copies, dtypes, clamps."""

import copy
import io
import math
import pickle

import pytest
import torch
from test_contract import SYSTEMS, B, with_tokens

from course_lib.autoregressive import Autoregressive
from course_lib.evaluate import bound
from course_lib.infilling import approximately, keep
from course_lib.process import last, sample
from course_lib.sentences import Pairs

STEPS = 6


@pytest.fixture(params=SYSTEMS)
def system(request):
    """A process, a network that is wrong in no particular way, and data."""
    process, model, data = SYSTEMS[request.param]()
    for p in model.parameters():
        p.data.normal_(std=0.2)
    return process, model, data


def drawn(process, model, **options):
    """What sampling from seed 3 ends with."""
    torch.manual_seed(3)
    return last(sample(process, model, 4, STEPS, **options))[1]


def per_place(known, x):
    """The mask with trailing axes of size one, like x."""
    return known.reshape(*known.shape, *[1] * (x.ndim - 2))


def measured(process, model, data):
    """The bound from seed 3."""
    torch.manual_seed(3)
    return bound(process, model, data)


def importance_times(process, whole, t):
    """The times at which an SDE draws, where its weight is taken into their choice; t itself for all others."""
    drawn_so = whole.__name__ == "bound" or getattr(process, "weighting", "simple") == "likelihood"
    return process.importance_times(t).to(t.dtype) if drawn_so and hasattr(process, "importance_times") else t


def tokens_of(data):
    """The tokens of a batch, or None for pictures and points."""
    tokens = data.tokens if isinstance(data, Pairs) else data
    return None if tokens.is_floating_point() else tokens


def answering(model, change):
    """The model itself, whose answers are changed; returns how to undo it."""
    return model.register_forward_hook(lambda m, x, out: change(out))


# Modes


def test_sampling_and_bounds_run_in_eval_mode_and_give_the_mode_back(system):
    process, model, data = system
    seen = []
    for part in model.modules():
        part.register_forward_pre_hook(lambda m, x: seen.append(m.training))
    model.train()
    next(iter(model.children())).eval()  # a part that its owner keeps in eval mode
    before = [part.training for part in model.modules()]
    for _ in sample(process, model, 2, STEPS):
        assert [part.training for part in model.modules()] == before
    bound(process, model, data)
    assert seen and not any(seen) and [part.training for part in model.modules()] == before


def test_inference_mode_changes_nothing(system):
    process, model, data = system
    sampled, value = drawn(process, model), measured(process, model, data)
    with torch.inference_mode():
        torch.testing.assert_close(drawn(process, model), sampled)
        torch.testing.assert_close(measured(process, model, data).mean, value.mean)


# Numbers that are not finite


def test_a_network_that_says_nan_is_an_error_with_step_and_time(system):
    process, model, data = system
    answering(model, lambda out: out * math.nan)
    with pytest.raises(
        FloatingPointError, match=r"must be finite, but at step \d+, at t = [\d.]+ it is not in"
    ):
        drawn(process, model)
    with pytest.raises(FloatingPointError, match="must be finite"):
        measured(process, model, data)


# Wrong answers


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda out: (out, None), TypeError, "model must return a tensor, not tuple"),
        (lambda out: out.long(), TypeError, "model must return floats, not torch.int64"),
        (lambda out: out[..., :-1], ValueError, "model must return (shape|twice)"),
        (
            lambda out: torch.cat([out, out[..., :1]], -1),
            ValueError,
            "model must return (shape|twice)",
        ),
        (lambda out: out.unsqueeze(1), ValueError, "model must return (shape|twice)"),
        (lambda out: out.to("meta"), ValueError, "model must answer on the device of its input"),
    ],
    ids=["tuple", "int", "narrow", "wide", "deep", "device"],
)
def test_a_wrong_answer_is_told_to_the_network(system, change, error, says, unchecked):
    process, model, data = system
    answering(model, change)
    uses = [drawn, lambda p, m: p.loss(m, data, p.sample_t(B)), lambda p, m: measured(p, m, data)]
    if hasattr(model, "embed"):  # scored by the network's own logits, which read its answer before we do
        uses = [drawn]
    for use in uses:
        with pytest.raises(error, match=says):
            use(process, model)


# Copies


def test_copies_and_pickles_sample_alike(system):
    process, model, _ = system
    want = drawn(process, model)
    file = io.BytesIO()
    torch.save(process, file)
    file.seek(0)
    for twin in (
        copy.deepcopy(process),
        copy.copy(process),
        pickle.loads(pickle.dumps(process)),
        torch.load(file, weights_only=False),
    ):
        assert type(twin) is type(process) and drawn(twin, model).equal(want)


# Times


def test_given_times_are_the_steps_they_stand_for(system):
    process, model, _ = system
    torch.manual_seed(3)
    assert last(sample(process, model, 4, process.times(STEPS)))[1].equal(drawn(process, model))


def test_loss_is_loss_at_a_draw(system):
    process, model, data = system
    if isinstance(data, Pairs) or process.encode(model, data) is not data:
        return  # embeds its data: loss_at takes what it has drawn
    if tokens_of(data) is None:  # in float32 the noise could not be read off an x_t close to the data
        model, data = model.double(), data.double()
    t = process.sample_t(B)
    for whole, at in ((process.loss, process.loss_at), (process.bound, process.bound_at)):
        torch.manual_seed(3)
        want = whole(model, data, t)
        torch.manual_seed(3)
        moment = importance_times(process, whole, t)
        torch.testing.assert_close(at(model, data, process.corrupt(data, moment), moment), want)


# dtypes


def test_tokens_of_any_width_are_tokens(system, unchecked):
    process, model, data = system
    if tokens_of(data) is None:
        return
    t = process.sample_t(B)
    torch.manual_seed(3)
    want = process.loss(model, data, t)
    for dtype in (torch.int32, torch.int16):
        torch.manual_seed(3)
        got = process.loss(model, with_tokens(data, lambda x, dtype=dtype: x.to(dtype)), t)
        torch.testing.assert_close(got, want)


def test_a_network_in_float64_trains_and_measures(system):
    process, model, data = system
    model.double()
    data = data if tokens_of(data) is not None else data.double()
    loss = process.loss(model, data, process.sample_t(B))
    loss.sum().backward()
    assert loss.isfinite().all() and all(p.grad.dtype == torch.float64 for p in model.parameters())
    assert math.isfinite(measured(process, model, data).mean)


# Clamps


def test_a_clamp_is_exact_or_refused(system):
    process, model, data = system
    x0 = process.encode(model, data.tokens if isinstance(process, Autoregressive) else data)[:4].detach()
    known = torch.rand(x0.shape[:2]) < 0.5
    place = per_place(known, x0)

    def clamp(x):
        return torch.where(place, x0, x)

    if process.clamps_exactly:
        assert drawn(process, model, clamp=keep(known, x0))[known].equal(x0[known])
        return
    with pytest.raises(ValueError, match="clamp is not exact for .* clamp=approximately"):
        sample(process, model, 4, STEPS, clamp)
    assert drawn(process, model, clamp=approximately(clamp))[known].equal(x0[known])
