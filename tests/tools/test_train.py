"""The loop against a bare one, and against itself: killed anywhere and continued, it must give the same bits."""

import copy
import json
import math
import os
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from course_lib import finite
from course_lib import train as module
from course_lib.d3pm import D3PM
from course_lib.data import batches, two_bumps
from course_lib.ddpm import DDPM
from course_lib.files import load_tensors, save_tensors
from course_lib.learning_rate import warmup_cosine
from course_lib.nets import MLP, UNet
from course_lib.random_state import random_state, restore
from course_lib.schedules import cosine, table
from course_lib.stationary import Uniform
from course_lib.train import Run, train
from course_lib.weights import Autocast, load_weights, save_weights

STEPS, EVERY = 23, 5


def process(cls=DDPM):
    return cls(table(cosine(), 20), (1,))


def network(seed=0):
    torch.manual_seed(seed)
    return MLP((1,), width=16, depth=1)


def shuffled():
    torch.manual_seed(7)
    return batches(two_bumps().sample(100), 16)


def fresh():
    """Each batch drawn from torch's own random state."""
    while True:
        yield two_bumps().sample(16)


STREAMS = {"shuffled": shuffled, "fresh": fresh}


def go(checkpoint, stream="shuffled", upto=STEPS, seed=0, consume=lambda record: None, **options):
    """Train to step `upto`, then drop everything but the file. Returns losses by step, weights and averages."""
    model, losses, record = network(seed), {}, None
    source = STREAMS[stream]()
    torch.manual_seed(11 + seed)
    for record in train(process(), model, source, STEPS, checkpoint=checkpoint, every=EVERY, **options):
        losses[record.step] = (record.t.tolist(), record.loss.tolist())
        if record.step == upto < STEPS:
            break
        consume(record)
    return losses, state(model), state(record.average)


def state(model):
    return {k: v.tolist() for k, v in model.state_dict().items()}


# Exact resume


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("killed", [3, 5, 6, 12, 22])
def test_killed_and_continued_equals_uninterrupted(tmp_path, stream, killed):
    losses, weights, averages = go(tmp_path / "whole", stream)
    before, _, _ = go(tmp_path / "part", stream, upto=killed)
    done = (killed - 1) // EVERY * EVERY  # the file is written when the record has been dealt with
    after, *rest = go(
        tmp_path / "part", stream, seed=0 if done == 0 else 99
    )  # what was there before does not matter
    assert list(before) == list(range(1, killed + 1)) and list(after) == list(range(done + 1, STEPS + 1))
    assert before | after == losses and rest == [weights, averages]
    assert (tmp_path / "part").read_bytes() == (tmp_path / "whole").read_bytes()


def test_the_consumer_may_draw_random_numbers(tmp_path):
    drawn = {}

    def draw(record):
        drawn.setdefault(record.step, []).append(torch.rand(1).item())

    whole = go(tmp_path / "whole", consume=draw)
    go(tmp_path / "part", upto=13, consume=draw)
    after = go(tmp_path / "part", seed=99, consume=draw)
    assert after[1:] == whole[1:] and all(len(set(v)) == 1 for v in drawn.values())
    assert whole[1] != go(None)[1]  # the draws did change the run


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_resume_in_low_precision(tmp_path, precision):
    whole = go(tmp_path / "whole", precision=precision)
    go(tmp_path / "part", upto=12, precision=precision)
    assert go(tmp_path / "part", seed=99, precision=precision)[1:] == whole[1:]
    assert (tmp_path / "part").read_bytes() == (tmp_path / "whole").read_bytes()


def test_resume_keeps_the_memory_order_of_channels_last(tmp_path):
    def images(checkpoint, upto):
        torch.manual_seed(0)
        model = UNet(1, (8,)).to(memory_format=torch.channels_last)
        data = batches(torch.randn(8, 1, 4, 4), 4)
        records = train(DDPM(table(cosine(), 20), (1, 4, 4)), model, data, 6, checkpoint=checkpoint, every=2)
        for record in records:
            if record.step == upto:
                break
        return state(model), state(record.average)

    whole = images(tmp_path / "whole", None)
    images(tmp_path / "part", 5)
    assert images(tmp_path / "part", None) == whole


def test_continuing_what_is_finished_gives_the_last_record_again(tmp_path):
    losses, weights, averages = go(tmp_path / "f")
    after = torch.rand(3)
    before = (tmp_path / "f").read_bytes()
    assert go(tmp_path / "f", seed=99) == ({STEPS: losses[STEPS]}, weights, averages)
    assert torch.rand(3).equal(after) and (tmp_path / "f").read_bytes() == before


def test_a_checkpoint_beyond_the_asked_steps_is_refused(tmp_path):
    go(tmp_path / "f")
    with pytest.raises(ValueError, match=rf"steps must be at least the {STEPS} of .*f, not 22"):
        train(process(), network(), shuffled(), 22, checkpoint=tmp_path / "f")


def test_more_steps_may_be_asked_of_a_finished_run(tmp_path):
    go(tmp_path / "f")
    records = list(train(process(), network(), shuffled(), STEPS + 2, checkpoint=str(tmp_path / "f")))
    assert [r.step for r in records] == [STEPS + 1, STEPS + 2]


def test_checkpoints_come_every_so_often_and_at_the_end(tmp_path):
    path, steps = tmp_path / "new" / "f", []
    for record in train(process(), network(), shuffled(), 7, checkpoint=path, every=3):
        steps.append(load_tensors(path)[1]["step"] if path.exists() else 0)
        assert record.step == len(steps)
    assert steps == [0, 0, 0, 3, 3, 3, 6] and load_tensors(path)[1]["step"] == 7
    assert list(train(process(), network(), shuffled(), 2)) and [p.name for p in path.parent.iterdir()] == [
        "f"
    ]


def test_default_checkpoint_interval(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Run, "save", lambda self, path: saved.append(self.last.step))
    monkeypatch.setattr(
        Run, "step", lambda self, data: setattr(self, "last", replace(self.last, step=self.last.step + 1))
    )
    monkeypatch.setattr(Run, "check_finite", lambda self: None)
    list(train(process(), network(), shuffled(), 2500, checkpoint=tmp_path / "f"))
    assert saved == [1000, 2000, 2500]


def test_killed_while_writing_a_checkpoint(tmp_path, monkeypatch):
    whole = go(tmp_path / "whole")
    replace, calls = os.replace, []

    def dies_the_second_time(a, b):
        calls.append(b)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(a, b)

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(os, "replace", dies_the_second_time)
        go(tmp_path / "part")
    assert load_tensors(tmp_path / "part")[1]["step"] == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["part", "whole"]
    assert go(tmp_path / "part", seed=99)[1:] == whole[1:]


def test_a_process_really_killed(tmp_path):
    """SIGKILL (TerminateProcess on Windows) at an arbitrary moment after step 8."""
    whole = go(tmp_path / "whole")
    code = f"import test_train as t; t.go({str(tmp_path / 'part')!r}, consume=lambda r: print(r.step, flush=True))"
    folders = [str(Path(__file__).parent), str(Path(module.__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        for line in child.stdout:
            if line == "8\n":
                child.kill()
    assert child.returncode != 0, "the run ended before it was killed"
    assert load_tensors(tmp_path / "part")[1]["step"] in (5, 10, 15, 20)
    losses, *rest = go(tmp_path / "part", seed=99)
    assert rest == list(whole[1:]) and losses.items() <= whole[0].items()


def test_a_gpus_random_state_is_kept_and_put_back(monkeypatch):
    """With a stand-in for the GPU's generator, so that it is tested without one too."""
    gpu, state_there = torch.device("cuda"), torch.arange(16, dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state_there if device is gpu else None)
    put_back = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *arguments: put_back.append(arguments))
    random = random_state(gpu)
    wanted = torch.rand(3)
    restore(random, gpu)
    assert torch.rand(3).equal(wanted) and len(put_back) == 1
    assert put_back[0][0].equal(state_there) and put_back[0][1] is gpu
    assert set(random_state(torch.device("cpu"))) == {"cpu"}


# The step itself


def bare_loop(model, average, steps, lr=lambda step: 1e-3, ema=0.999, clip=1.0):
    """The same training in plain torch; yields t and loss."""
    p, optimizer = process(), torch.optim.AdamW(model.parameters(), weight_decay=0.0, fused=True)
    for step, x in enumerate(islice(shuffled_keeping_seed(), steps), 1):
        t = p.sample_t(len(x))
        loss = p.loss(model, x, t)
        optimizer.zero_grad()
        loss.mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.param_groups[0]["lr"] = lr(step)
        optimizer.step()
        decay = min(ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for a, w in zip(average.parameters(), model.parameters(), strict=True):
                a.mul_(decay).add_(w, alpha=1 - decay)
        yield t, loss


def shuffled_keeping_seed():
    random = torch.get_rng_state()
    stream = shuffled()
    torch.set_rng_state(random)
    return stream


@pytest.mark.parametrize(
    "options",
    [{}, {"lr": lambda step: 0.01 / step}, {"ema": 0.5}, {"ema": 0.0}, {"clip": 1e-9}, {"clip": 1e9}],
)
def test_train_is_the_bare_loop(options):
    mine, theirs = network(), network()
    average = copy.deepcopy(theirs)
    torch.manual_seed(1)
    wanted = list(bare_loop(theirs, average, 15, **options))
    torch.manual_seed(1)
    records = list(train(process(), mine, shuffled_keeping_seed(), 15, **options))
    assert [r.step for r in records] == list(range(1, 16))
    assert all(r.t.equal(t) and r.loss.equal(loss) for r, (t, loss) in zip(records, wanted, strict=True))
    assert not records[0].loss.requires_grad and records[0].loss.shape == (16,)
    assert state(mine) == state(theirs)
    got = records[-1].average
    torch.testing.assert_close(list(got.parameters()), list(average.parameters()), rtol=1e-5, atol=1e-7)
    assert got is not mine and not any(p.requires_grad for p in got.parameters())


def test_average_warms_up():
    """By hand: after step 1 the average is 2/11 old and 9/11 new; later the decay is capped at ema."""
    model = network()
    old = copy.deepcopy(model)
    record = next(train(process(), model, shuffled(), 1, lr=0.1))
    for a, o, w in zip(record.average.parameters(), old.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, 2 / 11 * o + 9 / 11 * w)


def test_a_number_is_a_constant_learning_rate():
    a, b = network(), network()
    for model, lr in ((a, 0.02), (b, lambda step: 0.02)):
        torch.manual_seed(1)
        list(train(process(), model, shuffled(), 3, lr=lr))
    assert state(a) == state(b) != state(network())


def test_training_learns():
    torch.manual_seed(0)
    losses = [r.loss.mean().item() for r in train(process(), network(), shuffled(), 300, lr=0.01)]
    assert sum(losses[-50:]) < 0.85 * sum(losses[:50])


def test_stops_when_the_consumer_stops():
    used = []

    def stream():
        for x in shuffled():
            used.append(x)
            yield x

    records = train(process(), network(), stream(), 100)
    assert [next(records).step for _ in range(3)] == [1, 2, 3] and len(used) == 3


def test_batches_are_moved_to_the_device_of_the_model():
    class Elsewhere:
        """A batch that is a tensor only after it has been moved."""

        def to(self, device, non_blocking):
            assert non_blocking  # copies from pinned memory overlap with work
            return two_bumps().sample(4).to(device, non_blocking=non_blocking)

    assert len(list(train(process(), network(), [Elsewhere()] * 2, 2))) == 2


def test_asks_for_no_batch_too_many():
    stream = iter([two_bumps().sample(4) for _ in range(5)])
    assert len(list(train(process(), network(), stream, 3))) == 3 and len(list(stream)) == 2


def test_too_few_batches():
    records = train(process(), network(), [two_bumps().sample(4)] * 3, 5)
    with pytest.raises(ValueError, match="batches must yield at least steps = 5 batches, but ended after 3"):
        list(records)


@pytest.mark.parametrize("precision, scale", [(torch.bfloat16, 1), (torch.float16, 65536), (None, 1)])
def test_precision_is_that_of_the_network_only(precision, scale):
    model, seen, gradients = network(), [], []
    model.enter.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    model.leave.bias.register_hook(lambda g: gradients.append(g.abs().max().item()))
    torch.manual_seed(0)
    record = next(train(process(), model, shuffled(), 1, precision=precision))
    assert seen == [precision or torch.float32] and record.loss.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert 0.001 < gradients[0] / scale < 10


def test_low_precision_trains_nearly_the_same():
    def end(precision):
        return go(None, precision=precision)[0][STEPS][1]

    torch.testing.assert_close(
        torch.tensor(end(torch.float16)), torch.tensor(end(None)), rtol=0.05, atol=0.02
    )
    torch.testing.assert_close(torch.tensor(end(torch.bfloat16)), torch.tensor(end(None)), rtol=0.2, atol=0.1)


def test_gradients_are_clipped_after_unscaling():
    """At a scale of 65536 a clip of the scaled gradient would leave almost nothing of it."""
    norms = []
    for precision in (None, torch.float16):
        model = network()
        torch.manual_seed(0)
        list(train(process(), model, shuffled(), 1, precision=precision))
        norms.append(
            nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()
        )
    assert norms[1] == pytest.approx(norms[0], rel=0.01)
    list(train(process(), model := network(), shuffled(), 1, clip=1e-3))
    assert nn.utils.get_total_norm([p.grad for p in model.parameters()]).item() == pytest.approx(
        1e-3, rel=1e-2
    )


def test_an_overflow_in_float16_skips_the_step():
    model = network()
    model.leave.weight.register_hook(lambda g: g * math.inf)
    before = state(model)
    next(train(process(), model, shuffled(), 1, precision=torch.float16))
    assert state(model) == before


def test_weights_without_gradient_do_not_decay():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = network(), nn.Parameter(torch.ones(3))

        def forward(self, x, u):
            return self.used(x, u) + 0 * self.idle.sum()

    model = Idle()
    list(train(process(), model, shuffled(), 3, lr=0.1))
    assert model.idle.tolist() == [1, 1, 1]


def test_trains_on_every_device(device):
    p, model = process().to(device), network().to(device)
    records = list(train(p, model, shuffled(), 3))
    assert all(r.loss.device.type == r.t.device.type == device for r in records)
    assert next(records[-1].average.parameters()).device.type == device


@pytest.mark.parametrize(
    "options, says",
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"every": 0}, "every must be at least 1, not 0"),
        ({"ema": 1.0}, r"ema must lie in \[0, 1\) and clip be positive, not 1.0 and 1.0"),
        ({"ema": -0.1}, "ema must lie"),
        ({"clip": 0.0}, "clip be positive, not 0.999 and 0.0"),
    ],
)
def test_train_refuses_at_the_call(options, says):
    with pytest.raises(ValueError, match=says):
        train(process(), network(), shuffled(), **{"steps": 5, **options})


# Losses that are not numbers


class Sick(DDPM):
    """Fine for 6 steps; the third example of step 7 is ill."""

    calls, value = 0, math.nan

    def loss(self, model, x0, t):
        self.calls, self.t = self.calls + 1, t
        loss = super().loss(model, x0, t)
        if self.calls == 7:
            loss = loss.clone()
            loss[2] = self.value
        return loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_training(tmp_path, value):
    p, model, path = process(Sick), network(), tmp_path / "f"
    p.value = value
    records = train(p, model, shuffled(), 20, checkpoint=path, every=5)
    seen = [next(records).step for _ in range(6)]
    good, weights = path.read_bytes(), state(model)
    with pytest.raises(FloatingPointError) as error:
        next(records)
    says = f"the loss must be finite, but at step 7, at t = {p.t[2].item()} it is not in 1 of 16 examples"
    assert str(error.value) == says
    assert seen == [1, 2, 3, 4, 5, 6] and path.read_bytes() == good and state(model) == weights


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """What is not finite is noted as it is off the CPU: unread until the watch is read. Returns the reads' steps."""
    reads = []

    def note(what, good, t=None, must="finite"):
        if watch := finite.RUNNING.get():
            watch.add(good if t is None else good.reshape(len(good), -1).all(1), t, what, must)

    def read(watch, plainly=finite.Watch.read):
        reads.append(watch.step)
        plainly(watch)

    monkeypatch.setattr(finite, "note", note)
    monkeypatch.setattr(module, "note", note)
    monkeypatch.setattr(finite.Watch, "read", read)
    return reads


def test_a_gpu_is_not_made_to_wait_at_each_step(as_on_a_gpu):
    list(train(process(), network(), shuffled(), 120))
    assert as_on_a_gpu == [50, 100, 120]


@pytest.mark.parametrize("checkpoint", [True, False])
def test_unread_losses_are_read_before_a_checkpoint_and_at_the_end(tmp_path, as_on_a_gpu, checkpoint):
    path = tmp_path / "f" if checkpoint else None
    records = train(process(Sick), network(), shuffled(), 10, checkpoint=path, every=8)
    seen = [next(records).step for _ in range(8 if checkpoint else 10)]
    with pytest.raises(FloatingPointError, match="the loss must be finite, but at step 7, at t = "):
        next(records)
    assert len(seen) == (8 if checkpoint else 10) and not (tmp_path / "f").exists()


class Steep(MLP):
    """Its gradient is NaN in step 6 alone, and its loss is fine."""

    calls = 0

    def forward(self, x, u):
        self.calls += 1
        out = super().forward(x, u)
        if self.training and self.calls == 6:
            out.register_hook(lambda g: g * math.nan)
        return out


def steep():
    torch.manual_seed(0)
    return Steep((1,), width=16, depth=1)


def test_a_gradient_that_is_not_finite_changes_no_weights_and_no_checkpoint(tmp_path):
    model, path = steep(), tmp_path / "f"
    records = train(process(), model, shuffled(), 9, checkpoint=path, every=3)
    assert [next(records).step for _ in range(5)] == [1, 2, 3, 4, 5]
    good, weights = path.read_bytes(), state(model)
    with pytest.raises(FloatingPointError, match="the gradient must be finite, but at step 6, it is not"):
        next(records)
    assert path.read_bytes() == good and state(model) == weights
    assert load_tensors(path)[1]["step"] == 3


def test_a_gradient_that_is_not_finite_reaches_no_checkpoint_on_a_gpu(tmp_path, as_on_a_gpu):
    model, path = steep(), tmp_path / "f"
    records = train(process(), model, shuffled(), 9, checkpoint=path, every=3)
    with pytest.raises(FloatingPointError, match="the gradient must be finite, but at step 6, it is not"):
        list(records)
    tensors, about = load_tensors(path)
    assert about["step"] == 3 and all(v.isfinite().all() for v in tensors.values())


def test_a_gradient_that_is_not_finite_at_any_scale_is_an_error():
    model = network()
    model.leave.weight.register_hook(lambda g: g * math.nan)
    with pytest.raises(FloatingPointError, match="at step 50 it is not at any scale of float16"):
        list(train(process(), model, shuffled(), 60, precision=torch.float16))


# Learning rate


def test_warmup_cosine_values():
    lr = warmup_cosine(0.4, 300, warmup=100)
    assert [lr(1), lr(50), lr(100)] == pytest.approx([0.004, 0.2, 0.4])
    assert [lr(150), lr(200), lr(250)] == pytest.approx(
        [0.2 + 0.2 * math.sqrt(0.5), 0.2, 0.2 - 0.2 * math.sqrt(0.5)]
    )
    assert lr(300) == pytest.approx(0, abs=1e-12)
    assert warmup_cosine(0.4, 300)(50) == pytest.approx(0.2)
    assert warmup_cosine(0.4, 100, warmup=100)(50) == pytest.approx(0.2)
    assert warmup_cosine(0.4, 4, warmup=0)(1) == pytest.approx(0.2 + 0.2 * math.sqrt(0.5))


@pytest.mark.parametrize("steps", [1, 2, 3, 50, 199, 200, 201])
def test_a_learning_rate_ends_at_0_however_few_steps_there_are(steps):
    lr = warmup_cosine(0.4, steps)
    assert lr(min(100, steps // 2)) == 0.4 or steps == 1
    assert lr(steps) == pytest.approx(0, abs=1e-12)
    assert lr(1) == pytest.approx(0.4 / max(1, min(100, steps // 2)), abs=0.4 * (steps == 1))


@pytest.mark.parametrize(
    "options, says",
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"warmup": 100}, "warmup must be at most the 50 steps there are, not 100"),
        ({"warmup": 30, "restart": 25}, "warmup must be at most the 25 steps there are, not 30"),
        ({"warmup": 15, "restart": 40}, "warmup must be at most the 10 steps there are, not 15"),
        ({"warmup": -1}, "warmup must be at least 0, not -1"),
        ({"peak": 0.0}, "peak must be positive and finite, not 0.0"),
        ({"peak": math.nan}, "peak must be positive and finite, not nan"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        warmup_cosine(**{"peak": 1.0, "steps": 50, **options})


def test_a_learning_rate_that_restarts():
    lr = warmup_cosine(0.4, 500, warmup=100, restart=200)
    first, then = warmup_cosine(0.4, 200, 100), warmup_cosine(0.4, 300, 100)
    assert [lr(k) for k in range(1, 201)] == [first(k) for k in range(1, 201)]
    assert [lr(k) for k in range(201, 501)] == [then(k) for k in range(1, 301)]
    for restart in (0, 500, 501):
        with pytest.raises(ValueError, match=f"restart must lie in 1..499, below steps = 500, not {restart}"):
            warmup_cosine(0.4, 500, restart=restart)


# What train is given


class Frozen(MLP):
    def __init__(self):
        super().__init__((1,), width=16, depth=1)
        self.requires_grad_(False)


def made_in_inference_mode():
    with torch.inference_mode():
        return network()


@pytest.mark.parametrize(
    "options, error, says",
    [
        ({"lr": 0.0}, ValueError, "lr must be positive and finite, not 0.0"),
        ({"lr": -1e-3}, ValueError, "lr must be positive and finite, not -0.001"),
        ({"lr": math.nan}, ValueError, "lr must be positive and finite, not nan"),
        ({"lr": "1e-3"}, TypeError, "lr must be a number, a function of the step or OfProgress, not str"),
        ({"lr": [1e-3]}, TypeError, "lr must be a number, a function of the step or OfProgress, not list"),
        (
            {"precision": "bf16"},
            TypeError,
            "precision must be a torch.dtype such as torch.bfloat16, not 'bf16'",
        ),
        ({"precision": torch.float64}, ValueError, "precision must be None, torch.bfloat16 or torch.float16"),
        ({"model": lambda x, u: x}, TypeError, "model must be an nn.Module, not function"),
        ({"model": Frozen()}, ValueError, "model must have parameters that require a gradient"),
        ({"model": nn.Identity()}, ValueError, "model must have parameters that require a gradient"),
        ({"model": made_in_inference_mode()}, ValueError, "must not be made under torch.inference_mode"),
        (
            {"model": network().to("meta")},
            ValueError,
            "model and process must be on one device, not on meta and cpu",
        ),
        ({"process": network()}, TypeError, "process must be a Process, such as DDPM"),
    ],
)
def test_bad_arguments_are_named_at_the_call(options, error, says, unchecked):
    with pytest.raises(error, match=says):
        train(**{"process": process(), "model": network(), "batches": shuffled(), "steps": 5, **options})


def test_a_swapped_process_and_model_are_named(unchecked):
    with pytest.raises(TypeError, match="process must be a Process, such as DDPM.*, not MLP"):
        train(network(), process(), shuffled(), 5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_without_gradients_is_refused(mode):
    model = network()
    with mode(), pytest.raises(RuntimeError, match="train needs gradients, but runs under torch.no_grad"):
        train(process(), model, shuffled(), 5)
    records = train(process(), network(), shuffled(), 5)
    next(records)
    with mode(), pytest.raises(RuntimeError, match="train needs gradients"):
        next(records)


@pytest.mark.parametrize("rate", [-1e-9, math.nan, math.inf])
def test_a_schedule_that_gives_no_rate_is_named_with_its_step(rate):
    model = network()
    with pytest.raises(ValueError, match=rf"lr must give a rate >= 0, but lr\(3\) is {rate}"):
        list(train(process(), model, shuffled(), 5, lr=lambda step: rate if step == 3 else 0.0))
    assert state(model) == state(network())  # a rate of 0 moves nothing


class Pair(DDPM):
    """Takes any batch, and notes it."""

    seen = None

    def loss(self, model, data, t):
        self.seen = data
        x = (
            data
            if torch.is_tensor(data)
            else next(iter(data.values()))
            if isinstance(data, dict)
            else data[0]
        )
        return super().loss(model, x, t)


Named = namedtuple("Named", "x label")


@pytest.mark.parametrize("kind", [tuple, list, dict, Named, "one", "nested"])
def test_batches_of_many_kinds(kind, unchecked):
    x, y = two_bumps().sample(4), torch.arange(4)
    kinds = {tuple: (x, y), list: [x, y], dict: {"x": x, "y": y}, Named: Named(x, y)}
    batch = (kinds | {"one": [x], "nested": (x, {"y": y, "z": [y, y]})})[kind]
    p = process(Pair)
    (record,) = train(p, network(), [batch], 1)
    assert record.t.shape == (4,) and type(p.seen) is (torch.Tensor if kind == "one" else type(batch))
    if kind is Named:
        assert p.seen.label.equal(y)


@pytest.mark.parametrize(
    "batch, error, says",
    [
        ("text", TypeError, "batches must hold tensors.*, not str"),
        ((torch.zeros(2, 1), 3), TypeError, "batches must hold tensors.*, not int"),
        ((torch.zeros(2, 1), torch.zeros(3)), ValueError, r"equally long, but at step 1 have \[2, 3\]"),
        (torch.zeros(0, 1), ValueError, "batches must not be empty, but that of step 1 is"),
        ({}, ValueError, "batches must not be empty"),
        ((torch.zeros(0, 1), torch.zeros(0)), ValueError, "batches must not be empty"),
    ],
)
def test_bad_batches_are_named(batch, error, says, unchecked):
    with pytest.raises(error, match=says):
        list(train(process(), network(), [batch], 1))


def test_low_precision_is_the_networks_and_never_the_losss():
    """The same answers, rounded to bfloat16, give the same loss with and without autocast to the last bit."""
    p = D3PM(Uniform(27, table(cosine(), 1000)), 32)
    x0, t = torch.randint(27, (8, 32)), torch.full((8,), 999)
    logits = nn.Parameter(torch.randn(8, 32, 27).bfloat16().float())

    class Says(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits, self.eye = logits, nn.Parameter(torch.eye(27))

        def forward(self, x, u):
            return self.logits @ self.eye

    torch.manual_seed(0)
    plain = p.loss(Says(), x0, t)
    torch.manual_seed(0)
    narrow = p.loss(Autocast(Says(), torch.bfloat16), x0, t)
    assert narrow.equal(plain) and plain.dtype == narrow.dtype


# Files


@pytest.fixture
def checkpoint(tmp_path):
    list(train(process(), network(), shuffled(), 2, checkpoint=tmp_path / "checkpoint"))
    return tmp_path / "checkpoint"


def test_weights_there_and_back(tmp_path):
    model, other = network(0), network(1)
    save_weights(tmp_path / "w", model, {"made by": "hand"})
    about = load_weights(tmp_path / "w", other)
    assert about == {"made by": "hand", "kind": "weights", "network": "MLP"}
    assert state(other) == state(model)
    for key in ("kind", "network", "process"):
        with pytest.raises(ValueError, match=f"about must not hold '{key}': the library says that itself"):
            save_weights(tmp_path / "w", model, {key: "?"})


def test_weights_are_float16_if_asked_and_buffers_stay(tmp_path):
    model, other = network(0), network(1)
    for m, count in ((model, 70001), (other, 0)):
        m.register_buffer("count", torch.tensor([count]))
        m.register_buffer("far", torch.tensor([1e6 * count]))
    save_weights(tmp_path / "w", model, {}, torch.float16)
    stored, _ = load_tensors(tmp_path / "w")
    assert {v.dtype for k, v in stored.items() if k not in ("count", "far")} == {torch.float16}
    load_weights(str(tmp_path / "w"), other)
    assert other.count.item() == 70001 and other.enter.weight.dtype == torch.float32
    assert other.far.item() == model.far.item()
    assert other.enter.weight.equal(model.enter.weight.half().float())
    save_weights(tmp_path / "wide", model, {})
    assert {v.dtype for k, v in load_tensors(tmp_path / "wide")[0].items() if k != "count"} == {torch.float32}


@pytest.mark.parametrize(
    "values, says",
    [
        ([70000.0, 1.0], "weight does not fit torch.float16: 1 of its values become infinite, up to 70000"),
        ([1e5, -1e5], "weight does not fit torch.float16: 2 of its values become infinite, up to 100000"),
        ([1e-9, 1e-9], "weight does not fit torch.float16: 2 of its 2 values become 0"),
        ([1e-9, 3e-7], "weight does not fit torch.float16: 1 of its 2 values become 0"),
    ],
)
def test_weights_that_float16_cannot_hold_are_refused(tmp_path, values, says):
    model = nn.Linear(2, 1, bias=False)
    model.weight.data[:] = torch.tensor(values)
    with pytest.raises(OverflowError, match=says):
        save_weights(tmp_path / "w", model, {}, torch.float16)
    assert not (tmp_path / "w").exists()
    for dtype in (None, torch.float32, torch.bfloat16):
        save_weights(tmp_path / "w", model, {}, dtype)
    model.weight.data[:] = torch.tensor([1e-9, 0.1])  # nothing beside the other
    save_weights(tmp_path / "w", model, {}, torch.float16)


def test_weights_of_another_model_leave_this_one_alone(tmp_path):
    short, long = nn.Sequential(nn.Linear(1, 2)), nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 3))
    before = state(long)
    save_weights(tmp_path / "w", short, {})
    with pytest.raises(
        ValueError, match=r"w belongs to another model: 1.weight is missing there, has shape \(3, 2\) here"
    ):
        load_weights(tmp_path / "w", long)
    save_weights(tmp_path / "w", nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 4)), {})
    with pytest.raises(ValueError, match=r"1.weight has shape \(4, 2\) there, \(3, 2\) here"):
        load_weights(tmp_path / "w", long)
    assert state(long) == before
    save_weights(tmp_path / "w", long, {})
    with pytest.raises(
        ValueError, match=r"1.(weight has shape \(3, 2\)|bias has shape \(3,\)) there, is missing here"
    ):
        load_weights(tmp_path / "w", short)


def test_checkpoint_of_another_model(checkpoint):
    model = MLP((2,), width=16, depth=1)
    before = state(model)
    with pytest.raises(ValueError, match="checkpoint belongs to another model: enter.weight"):
        train(process(), model, shuffled(), 5, checkpoint=checkpoint)
    assert state(model) == before


def test_weights_are_no_checkpoint_and_a_checkpoint_no_weights(tmp_path, checkpoint):
    save_weights(tmp_path / "w", network(), {})
    with pytest.raises(ValueError, match="w holds weights, not a training checkpoint"):
        train(process(), network(), shuffled(), 5, checkpoint=tmp_path / "w")
    with pytest.raises(ValueError, match="checkpoint holds checkpoint, not weights"):
        load_weights(checkpoint, network())
    save_tensors(tmp_path / "other", {"a": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="other holds something else, not weights"):
        load_weights(tmp_path / "other", network())
    with pytest.raises(ValueError, match="other holds something else, not a training checkpoint"):
        train(process(), network(), shuffled(), 5, checkpoint=tmp_path / "other")


@pytest.mark.parametrize("damage", ["cut", "cut early", "empty", "text", "pickle"])
def test_damaged_files(tmp_path, checkpoint, damage):
    whole = checkpoint.read_bytes()
    if damage == "pickle":
        torch.save({"a": torch.zeros(1)}, checkpoint)
    else:
        damaged = {
            "cut": whole[:-10],
            "cut early": whole[:100],
            "empty": b"",
            "text": b"hello, world, how are you?",
        }
        checkpoint.write_bytes(damaged[damage])
    says = "checkpoint is damaged or not a safetensors file"
    with pytest.raises(ValueError, match=says):
        load_weights(checkpoint, network())
    with pytest.raises(ValueError, match=says):
        train(process(), network(), shuffled(), 5, checkpoint=checkpoint)


def test_foreign_and_missing_files(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(
        ValueError, match="foreign was not written by this course: it does not say what it holds"
    ):
        load_weights(tmp_path / "foreign", network())
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign", {"format": "pt"})
    with pytest.raises(ValueError, match="foreign was not written by this course"):
        load_weights(tmp_path / "foreign", network())
    with pytest.raises(FileNotFoundError, match="no such file: .*missing"):
        load_weights(tmp_path / "missing", network())


def test_tensors_there_and_back(tmp_path):
    tensors = {
        "slice": torch.arange(12.0).reshape(3, 4)[:, ::2],
        "shared": (shared := torch.randn(2, requires_grad=True)),
        "twice": shared,
        "double": torch.tensor(math.pi, dtype=torch.float64),
        "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    save_tensors(tmp_path / "f", tensors, {"n": [1, 2], "s": "é"})
    got, about = load_tensors(tmp_path / "f")
    assert about == {"n": [1, 2], "s": "é"} and set(got) == set(tensors)
    assert all(got[k].equal(v) and got[k].dtype == v.dtype for k, v in tensors.items())
    json.dumps(about)
