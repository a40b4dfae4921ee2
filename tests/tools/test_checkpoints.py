"""Checkpoints and weights: whose they are, damage to them, and places where they cannot be written."""

import errno
import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from course_lib import __version__
from course_lib.absorbing import Absorbing
from course_lib.data import batches, two_bumps
from course_lib.ddpm import DDPM
from course_lib.files import load_tensors, save_tensors
from course_lib.learned_variance import LossAware
from course_lib.learning_rate import warmup_cosine
from course_lib.mdlm import MDLM
from course_lib.nets import MLP
from course_lib.schedules import cosine, log_linear, table
from course_lib.sedd import SEDD
from course_lib.train import train
from course_lib.weights import load_weights, save_weights


def process(cls=DDPM, s=0.008, **options):
    return cls(table(cosine(s), 20), (1,), **options)


def network(seed=0, cls=MLP):
    torch.manual_seed(seed)
    return cls((1,), width=16, depth=1)


def stream():
    return batches(two_bumps().sample(100), 16)


def state(model):
    return {k: v.tolist() for k, v in model.state_dict().items()}


class Other(DDPM):
    """Another process."""


class OtherNet(MLP):
    """Another network of the same shapes."""


@pytest.fixture
def checkpoint(tmp_path):
    list(train(process(), network(), stream(), 2, checkpoint=tmp_path / "checkpoint"))
    return tmp_path / "checkpoint"


# Whose it is


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("process", {"process": process(Other)}, "process.class is DDPM there, Other here"),
        ("process", {"process": process(s=0.02)}, "process.alpha_bar.numbers is"),
        ("process", {"process": process(predicts="v")}, "process.predicts is eps there, v here"),
        ("network", {"model": network(cls=OtherNet)}, "network is MLP there, OtherNet here"),
        ("lr", {"lr": 0.1}, "lr is 0.001 there, 0.1 here"),
        ("ema", {"ema": 0.5}, "ema is 0.999 there, 0.5 here"),
        ("clip", {"clip": 0.1}, "clip is 1.0 there, 0.1 here"),
        ("precision", {"precision": torch.bfloat16}, "precision is None there, torch.bfloat16 here"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(checkpoint, name, options, says):
    mine = {
        "process": process(),
        "model": network(3),
        "batches": stream(),
        "steps": 3,
        "checkpoint": checkpoint,
    }
    given = mine | options
    before, written = state(given["model"]), checkpoint.read_bytes()
    with pytest.raises(ValueError, match=f"belongs to another run: .*{says}") as error:
        train(**given)
    assert str([name]) in str(error.value)
    assert state(given["model"]) == before and checkpoint.read_bytes() == written
    assert [r.step for r in train(**given, changed=[name])] == [3]


def test_all_that_differs_is_named(checkpoint):
    with pytest.raises(
        ValueError, match="lr is 0.001 there, 0.1 here; ema is 0.999 there, 0.5 here"
    ) as error:
        train(process(), network(), stream(), 5, lr=0.1, ema=0.5, checkpoint=checkpoint)
    assert "changed=['ema', 'lr']" in str(error.value)
    with pytest.raises(ValueError, match="changed must hold names among process, network, .*, not 'seed'"):
        train(process(), network(), stream(), 5, checkpoint=checkpoint, changed=["seed"])


def test_the_rate_of_a_schedule_is_compared_at_the_checkpoints_step(tmp_path):
    path = tmp_path / "f"
    list(train(process(), network(), stream(), 5, lr=warmup_cosine(0.1, 20), checkpoint=path))
    train(process(), network(), stream(), 20, lr=warmup_cosine(0.1, 20), checkpoint=path)
    with pytest.raises(ValueError, match="lr is 0.05 there"):
        train(process(), network(), stream(), 40, lr=warmup_cosine(0.1, 40), checkpoint=path)


def test_another_version_only_warns(checkpoint):
    tensors, about = load_tensors(checkpoint)
    save_tensors(checkpoint, tensors, about | {"versions": {"course_lib": "0.0", "torch": "1.0"}})
    with pytest.warns(UserWarning, match="with course_lib 0.0, torch 1.0: the run may not go on bit for bit"):
        records = train(process(), network(), stream(), 3, checkpoint=checkpoint)
    assert len(list(records)) == 1
    save_tensors(checkpoint, tensors, {k: v for k, v in about.items() if k != "of"})
    with pytest.raises(ValueError, match="written by a version of this library that did not say whose it is"):
        train(process(), network(), stream(), 3, checkpoint=checkpoint)


def test_a_checkpoint_says_what_it_holds(checkpoint):
    about = load_tensors(checkpoint)[1]
    assert about["of"]["process"]["class"] == "DDPM" and about["seed"] == torch.initial_seed()
    assert about["versions"] == {"course_lib": __version__, "torch": str(torch.__version__)}


def test_losses_that_choose_the_times_are_kept(tmp_path):
    """What a process remembers is in the checkpoint, so that the continued run draws the same times."""

    def times(path, upto=60):
        p, model = LossAware(process(), history=1), network()
        torch.manual_seed(5)
        data = stream()
        records = train(p, model, data, 60, checkpoint=path, every=9)
        return {r.step: r.t.tolist() for r in islice(records, upto)}, p

    whole, p = times(tmp_path / "whole")
    assert p.seen.min() >= 1  # warm: the losses do choose
    times(tmp_path / "part", 47)
    rest, q = times(tmp_path / "part")
    assert min(rest) == 46 and rest.items() <= whole.items()
    assert q.losses.equal(p.losses) and q.seen.equal(p.seen)


def test_weights_say_what_they_were_trained_for(tmp_path, unchecked):
    noise, path = Absorbing(5, log_linear()), tmp_path / "w"
    save_weights(path, network(), {}, process=MDLM(noise, 4))
    assert load_weights(path, network(), MDLM(noise, 4))["process"]["class"] == "MDLM"
    load_weights(path, network())
    model = network(1)
    before = state(model)
    with pytest.raises(
        ValueError, match="was trained for another process: process.class is MDLM there, .*SEDD here"
    ):
        load_weights(path, model, process=SEDD(noise, 4))
    assert state(model) == before
    save_weights(path, network(), {})
    load_weights(path, network(), SEDD(noise, 4))  # it does not say
    for call in (save_weights, load_weights):
        with pytest.raises(TypeError, match="process must be a Process"):
            call(path, network(), *[{}] * (call is save_weights), process=network())


# Damage


@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_a_flipped_bit_is_noticed(checkpoint, place):
    whole = bytearray(checkpoint.read_bytes())
    start = 8 + int.from_bytes(whole[:8], "little")  # after safetensors' header
    whole[min(len(whole) - 1, start + int(place * (len(whole) - start)))] ^= 16
    checkpoint.write_bytes(whole)
    with pytest.raises(ValueError, match="checkpoint is damaged: its contents are not those whose checksum"):
        train(process(), network(), stream(), 5, checkpoint=checkpoint)


@pytest.mark.parametrize(
    "old, new", [(b'step\\": 2', b'step\\": 3'), (b"eps", b"epz"), (b'{\\"kind', b'[\\"kind')]
)
def test_what_a_file_says_of_itself_is_guarded_too(checkpoint, old, new):
    whole = checkpoint.read_bytes()
    assert old in whole
    checkpoint.write_bytes(whole.replace(old, new, 1))
    with pytest.raises(ValueError, match="checkpoint is damaged"):
        load_tensors(checkpoint)


def test_files_written_before_there_were_checksums_are_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "f", {"about": json.dumps({"kind": "weights"})})
    tensors, about = load_tensors(tmp_path / "f")
    assert tensors["a"].tolist() == [1, 1] and about == {"kind": "weights"}


def test_tensors_of_every_dtype_and_none_at_all_are_kept(tmp_path):
    dtypes = (torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.bool, torch.int64)
    tensors = {str(d): torch.ones(3).to(d) for d in dtypes} | {
        "empty": torch.empty(0, 2),
        "one": torch.tensor(2.0),
    }
    save_tensors(tmp_path / "f", tensors, {})
    got, _ = load_tensors(tmp_path / "f")
    assert all(got[k].equal(v) and got[k].dtype == v.dtype for k, v in tensors.items())


# Places that cannot be written


def test_a_place_that_cannot_be_written_is_named_at_the_call(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(IsADirectoryError, match="checkpoint must be a file, but .* is a folder"):
        train(process(), network(), stream(), 5, checkpoint=tmp_path)
    with pytest.raises(OSError, match="checkpoint cannot be written there: .*file/c"):
        train(process(), network(), stream(), 5, checkpoint=tmp_path / "file" / "c")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        load_weights(tmp_path, network())
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no folder that nobody can write to")
def test_a_folder_that_nobody_can_write_to_is_named_at_the_call():
    with pytest.raises(OSError, match="checkpoint cannot be written there: .*/proc/nowhere/c"):
        train(process(), network(), stream(), 5, checkpoint="/proc/nowhere/c")


def test_trying_a_place_leaves_nothing_behind(tmp_path):
    train(process(), network(), stream(), 5, checkpoint=tmp_path / "new" / "c")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_full_disk_names_path_and_step_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "f"
    records = train(process(), network(), stream(), 9, checkpoint=path, every=3)
    for _ in range(5):
        next(records)
    old = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(
        OSError, match="the checkpoint of step 6 was not written: .*No space left.*/f'"
    ) as error:
        list(records)
    assert error.value.errno == errno.ENOSPC and path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
