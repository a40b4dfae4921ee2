"""Averaged weights against averages by hand, in networks with buffers and dropout; plain names; lower precision."""

import copy
import pickle

import pytest
import torch
from torch import nn

from course_lib.data import batches, two_bumps
from course_lib.ddpm import DDPM
from course_lib.files import load_tensors
from course_lib.nets import MLP, Wrapped
from course_lib.process import last, sample
from course_lib.schedules import cosine, table
from course_lib.train import train
from course_lib.weights import (
    Autocast,
    Averaged,
    averaged,
    bare,
    load_weights,
    plain,
    put,
    save_weights,
    tensors_of,
    weights_of,
    widened,
)


class Busy(nn.Module):
    """All that a network can have beside weights: running statistics, a count, dropout, a part in eval mode."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.norm, self.drop, self.last = nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False).eval()
        self.register_buffer("mean", torch.zeros(2), persistent=False)
        self.modes = []

    def forward(self, x, u):
        self.modes.append([part.training for part in self.modules()])
        if self.training:
            self.mean += x.mean(0)
        return self.last(self.drop(self.norm(x))) + self.frozen(x) - self.mean


def process():
    return DDPM(table(cosine(), 10), (2,))


def trained(model, steps=20, **options):
    *_, record = train(process(), model, batches(torch.randn(64, 2) + 5, 16), steps, **options)
    return record.average


# Averages


def test_buffers_of_the_average_are_those_of_the_model():
    model = Busy()
    average = trained(model)
    mine, theirs = dict(average.named_buffers()), dict(model.named_buffers())
    assert set(mine) == set(theirs) and all(mine[k].equal(theirs[k]) for k in theirs)
    assert mine["norm.num_batches_tracked"].item() == 20 and mine["norm.running_mean"].abs().min() > 1
    assert average.frozen.weight.equal(model.frozen.weight)


def test_the_average_works_in_eval_mode_and_the_model_keeps_its_own():
    model = Busy()
    average = trained(model, 3)
    assert not any(part.training for part in average.modules())
    x, u = torch.randn(4, 2), torch.rand(4)
    assert average(x, u).equal(average(x, u))
    assert model.training and model.drop.training and not model.frozen.training
    assert all(modes[0] for modes in model.modes)  # training sees the modes that the caller chose
    model.eval()
    trained(model, 2)
    assert not any(modes[0] for modes in model.modes[-2:]) and not model.training


def test_the_average_is_a_network_of_the_models_class_that_copies_and_pickles():
    average = trained(MLP((2,), width=8, depth=1), 3)
    assert isinstance(average, MLP) and isinstance(average, Averaged) and type(average).__name__ == "MLP"
    x, u = torch.randn(4, 2), torch.rand(4)
    for other in (copy.deepcopy(average), pickle.loads(pickle.dumps(average))):
        assert other(x, u).equal(average(x, u)) and isinstance(other, Averaged)
        next(other.parameters()).add_(1)
        assert not other(x, u).equal(average(x, u))
    again = averaged(average)
    assert again(x, u).equal(average(x, u)) and again is not average


def test_averages_are_swapped_in_and_out():
    model = Busy()
    average = trained(model, ema=0.9)
    before = copy.deepcopy(weights_of(model))
    x, u = torch.randn(4, 2), torch.rand(4)
    want = average(x, u)
    pointers = [p.data_ptr() for p in model.parameters()]
    with average.applied(model) as same:
        assert same is model and not any(part.training for part in model.modules())
        assert model(x, u).equal(want) and pointers == [p.data_ptr() for p in model.parameters()]
        assert tensors_of(model)["mean"].equal(average.mean)
    assert all(v.equal(before[k]) for k, v in weights_of(model).items())
    assert model.training and model.drop.training and not model.frozen.training
    assert all(p.requires_grad for p in model.last.parameters())
    with pytest.raises(RuntimeError, match="inside"), average.applied(model):
        raise RuntimeError("inside")
    assert all(v.equal(before[k]) for k, v in weights_of(model).items()) and model.training


def test_swapping_in_does_not_disturb_training():
    def weights(swapping):
        model = MLP((1,), width=8, depth=1)
        nn.init.constant_(model.leave.weight, 0.1)
        p = DDPM(table(cosine(), 10), (1,))
        for record in train(p, model, batches(two_bumps().sample(50), 10), 6):
            if swapping:
                with record.average.applied(model), torch.random.fork_rng():
                    last(sample(p, model, 3, 5))
        return weights_of(model)

    made = []
    for swapping in (False, True):
        torch.manual_seed(0)
        made.append(weights(swapping))
    assert all(v.equal(made[1][k]) for k, v in made[0].items())


# Names


class Tower(nn.Module):
    """A network of which one block is compiled."""

    def __init__(self, compiled):
        super().__init__()
        self.net = Small()
        self.block = torch.compile(nn.Linear(2, 2), backend="eager") if compiled else nn.Linear(2, 2)

    def forward(self, x, u):
        return self.block(self.net(x, u))


class Small(nn.Module):
    """Not the library's, whose shape checks torch.compile cannot see through."""

    def __init__(self):
        super().__init__()
        self.leave = nn.Linear(2, 2)

    def forward(self, x, u):
        return self.leave(x)


DRESSED = {
    "compiled": lambda: torch.compile(Small(), backend="eager"),
    "parallel": lambda: nn.DataParallel(Small()),
    "both": lambda: torch.compile(nn.DataParallel(Small()), backend="eager"),
}


@pytest.mark.parametrize("dress", DRESSED)
def test_names_in_files_are_the_plain_ones(tmp_path, dress):
    dressed, undressed = DRESSED[dress](), Small()
    save_weights(tmp_path / "w", dressed, {})
    stored, about = load_tensors(tmp_path / "w")
    assert set(stored) == set(undressed.state_dict()) and about["network"] == "Small"
    load_weights(tmp_path / "w", undressed)
    assert all(v.equal(undressed.state_dict()[k]) for k, v in weights_of(dressed).items())
    nn.init.zeros_(undressed.leave.weight)
    save_weights(tmp_path / "w", undressed, {})
    load_weights(tmp_path / "w", dressed)
    assert bare(dressed).leave.weight.abs().sum() == 0


@pytest.mark.parametrize("dress", ["compiled", "both"])
def test_a_run_of_a_compiled_model_goes_on_as_one_of_a_plain_model(tmp_path, dress):
    average = trained(DRESSED[dress](), 4, checkpoint=tmp_path / "c")
    assert type(average).__name__ == "Small"
    model = Small()
    trained(model, 6, checkpoint=tmp_path / "c")
    assert load_tensors(tmp_path / "c")[1]["step"] == 6


def test_a_block_compiled_on_the_way_leaves_no_name(tmp_path):
    save_weights(tmp_path / "w", Tower(True), {})
    stored, _ = load_tensors(tmp_path / "w")
    assert set(stored) == set(Tower(False).state_dict())
    load_weights(tmp_path / "w", Tower(False))
    load_weights(tmp_path / "w", Tower(True))
    model = Tower(True)
    average = averaged(model)
    with average.applied(model):
        pass
    assert plain("block._orig_mod.weight") == "block.weight"


def test_names_written_from_a_distributed_model_elsewhere():
    model = nn.Linear(2, 2)
    put(model, {"module.weight": torch.zeros(2, 2), "module.bias": torch.ones(2)}, "f")
    assert model.weight.abs().sum() == 0 and model.bias.tolist() == [1, 1]
    named = nn.ModuleDict({"module": nn.Linear(2, 2)})
    put(named, {"module.weight": torch.zeros(2, 2), "module.bias": torch.ones(2)}, "f")
    assert named["module"].bias.tolist() == [1, 1]


# Precision


class Explains(MLP):
    """Says more than one thing, and has a part that the process asks by itself."""

    width_of = 3

    def explain(self, x, u):
        return self(x, u), {"seen": [self.enter(x), torch.arange(2)]}

    def embed(self, x):
        return self.enter(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_network_is_narrow_and_its_answers_are_float32(dtype):
    torch.manual_seed(0)
    net = Explains((2,), width=8, depth=1)
    nn.init.normal_(net.leave.weight)
    x, u = torch.randn(4, 2), torch.rand(4)
    narrow, seen = Autocast(net, dtype), []
    net.enter.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    got = narrow(x, u)
    out, more = narrow.explain(x, u)
    assert seen == [dtype] * 3 and got.dtype == out.dtype == more["seen"][0].dtype == torch.float32
    assert more["seen"][1].dtype == torch.long and got.equal(out)
    assert 0 < (got - net(x, u)).abs().max() < 0.1
    assert narrow.embed(x).equal(net.embed(x)) and narrow.width_of == 3 and isinstance(narrow, Wrapped)


def test_widened_leaves_wide_floats_alone():
    v = torch.zeros(2, dtype=torch.float64)
    assert widened((v, None, torch.zeros(1, dtype=torch.bfloat16)))[0] is v
