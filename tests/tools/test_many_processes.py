"""Two processes against one: the same losses, weights and averages, whoever stopped and whoever goes on."""

import errno

import pytest
import torch

from course_lib import parallel
from course_lib.checkpoint_parts import delete, keep_only, read_parts, write_parts
from course_lib.data import batches
from course_lib.files import load_tensors
from course_lib.train import train
from tests import processes as P

EXACT = ("trained", "parted", "stopped", "continued", "streams", "asides", "measured")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What one process gives, and each of two."""
    folder = tmp_path_factory.mktemp("processes")
    one = {name: P.WHAT[name](folder) for name in ("stopped", "trained", "parted", "streams", "measured")}
    two = P.both(folder, EXACT)
    one["continued"] = P.continued(folder)
    return one, two, folder


def close(a, b, atol=1e-5):
    """Losses, norms, weights and averages are equal but for rounding."""
    assert a["step"] == b["step"] == P.STEPS
    n = min(len(a["losses"]), len(b["losses"]))
    torch.testing.assert_close(a["losses"][-n:], b["losses"][-n:], atol=atol, rtol=1e-5)
    torch.testing.assert_close(a["norms"][-n:], b["norms"][-n:], atol=atol, rtol=1e-4)
    for part in ("weights", "average"):
        torch.testing.assert_close(a[part], b[part], atol=atol, rtol=1e-4)


@pytest.mark.parametrize("name", ["plain", "ddp", "fsdp", "compiled", "seed", "seed fsdp", "micro"])
def test_two_processes_train_as_one(runs, name):
    one, two, _ = runs
    for each in two:
        close(each["trained"][name], one["trained"][name])
        if name in P.DRESSES and name != "compiled":
            close(each["trained"][name], one["trained"]["plain"])
    assert two[0]["trained"][name]["losses"].equal(two[1]["trained"][name]["losses"])


def test_dressed_and_cut_up_differently_it_is_one_run(runs):
    one = runs[0]["trained"]
    close(one["micro"], one["plain"])
    close(one["seed fsdp"], one["seed"])
    assert not torch.allclose(one["seed"]["losses"], one["plain"]["losses"])


def test_bfloat16_is_nearly_the_same_on_two(runs):
    one, two, _ = runs
    close(two[0]["trained"]["bfloat16"], one["trained"]["bfloat16"], atol=0.03)


@pytest.mark.parametrize("name", ["dropout", "count", "words"])
def test_what_draws_part_by_part_is_equal_for_equally_many_parts(runs, name):
    """Dropout; a loss that draws itself; a network asked by `explain`, which DistributedDataParallel cannot be."""
    one, two, _ = runs
    for each in two:
        close(each["parted"][name], one["parted"][name])


def test_spread_weights_stopped_and_continued_are_the_same_to_the_last_bit(runs):
    for each in runs[1]:
        whole, rest = each["stopped"]["whole"], each["stopped"]["rest"]
        assert rest["losses"].equal(whole["losses"][6:]) and rest["norms"].equal(whole["norms"][6:])
        for part in ("weights", "average"):
            assert all(v.equal(whole[part][k]) for k, v in rest[part].items())


@pytest.mark.parametrize("name", ["plain", "fsdp"])
def test_one_process_goes_on_where_two_stopped_and_the_other_way_round(runs, name):
    one, two, _ = runs
    close(one["continued"][name], one["trained"]["plain"])
    for each in two:
        close(each["continued"][name], one["trained"]["plain"])


def test_a_checkpoint_has_plain_names_and_whole_tensors_whoever_wrote_it(runs):
    folder = runs[2]
    (one, a), (two, b) = (load_tensors(folder / name) for name in ("half.plain.1", "half.plain.2"))
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in two.items()}
    assert a["of"] == b["of"] and {f"model/{k}" for k in P.network().state_dict()} < set(one)


def test_spread_weights_lie_in_parts_beside_the_checkpoint(runs):
    folder = runs[2]
    (whole, a), (small, b) = (load_tensors(folder / name) for name in ("half.plain.1", "half.fsdp.2"))
    parts = read_parts(folder / "half.fsdp.2", b["parts"], lambda name: None)
    assert {k: v.shape for k, v in (small | parts).items()} == {k: v.shape for k, v in whole.items()}
    assert a["of"] == b["of"] and not set(small) & set(parts)
    around = folder / "again.parts"
    assert [p.name for p in around.iterdir()] == [f"step-{P.STEPS}"]
    assert not (folder / "half.plain.2.parts").exists()


@pytest.mark.parametrize("damage", ["cut", "missing", "swapped"])
def test_damaged_parts_are_named(runs, damage, tmp_path):
    folder = runs[2]
    copy = tmp_path / "c"
    P.copied(folder / "half.fsdp.2", copy)
    victim = next(p for p in sorted((tmp_path / "c.parts" / "step-6").iterdir()) if p.suffix == ".distcp")
    whole = victim.read_bytes()
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(whole[:-9] if damage == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    model = P.network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="c is damaged: .*distcp is (missing|not what was written with it)"):
        train(P.process(), model, batches(P.data(), P.SIZE), P.STEPS, 3e-3, checkpoint=copy)
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())


def test_text_is_encoded_once_and_known_to_all(runs):
    one, two, _ = runs
    one = one["streams"]
    for name in ("packed", "padded"):
        assert all(each["streams"][name].equal(one[name]) for each in two)
        assert all(each["streams"][f"{name} place"] == one[f"{name} place"] for each in two)
        done = [each["streams"][f"{name} encoded"] for each in two]
        assert sum(done) == one[f"{name} encoded"] and min(done) > 0


def test_draws_of_one_process_alone_leave_the_others_together(runs):
    one, two, _ = runs
    for each in two:
        close(each["asides"]["draws"], one["trained"]["plain"])


def test_all_processes_have_one_clock_and_one_fate(runs):
    first, second = (each["asides"] for each in runs[1])
    assert first["clock"] == second["clock"] and len(first["clock"]) == 5
    assert first["error"] == second["error"] and "checkpoint cannot be written there" in first["error"]
    assert "must have parameters that require a gradient" in first["frozen"] == second["frozen"]


def test_validation_and_files_of_spread_weights(runs):
    one, two, _ = runs
    one = one["measured"]
    assert one["network"] and [k for k, _ in one["curve"]] == [4, 8, 9]
    for each in two:
        got = each["measured"]
        assert not got["network"] and [k for k, _ in got["curve"]] == [4, 8, 9]
        assert [v for _, v in got["curve"]] == pytest.approx([v for _, v in one["curve"]], abs=1e-4)
        assert got["about"]["network"] == "TokenNet" and got["about"]["step"] == one["about"]["step"]
        torch.testing.assert_close(got["best"], one["best"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(got["weights"], one["weights"], atol=1e-5, rtol=1e-4)


def test_alone_everything_is_as_without():
    assert parallel.world() == 1 and parallel.rank() == 0 and parallel.first()
    assert parallel.together(lambda: 3) == parallel.together(lambda: 3, everywhere=True) == 3
    with pytest.raises(ZeroDivisionError):
        parallel.together(lambda: 1 / 0)
    parallel.leave()


def test_a_full_disk_leaves_the_parts_that_were_there(tmp_path, monkeypatch):
    from torch.distributed.checkpoint.filesystem import FileSystem

    tensors, path = {"a": torch.arange(6.0), "b/c": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "c"
    said = write_parts(path, 3, tensors)
    kept = {p.name: p.read_bytes() for p in (tmp_path / "c.parts" / "step-3").iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m, pytest.raises(OSError, match="No space left") as error:
        m.setattr(FileSystem, "create_stream", full)
        write_parts(path, 6, tensors)
    assert error.value.errno == errno.ENOSPC
    assert {p.name: p.read_bytes() for p in (tmp_path / "c.parts" / "step-3").iterdir()} == kept
    got = read_parts(path, said, lambda name: None)
    assert all(got[k].equal(v) and got[k].dtype == v.dtype for k, v in tensors.items())
    write_parts(path, 6, tensors)
    keep_only(path, 6)
    assert [p.name for p in (tmp_path / "c.parts").iterdir()] == ["step-6"]
    path.write_text("the checkpoint")
    delete(path)
    assert not path.exists() and not (tmp_path / "c.parts").exists()


def test_processes_that_cannot_talk_over_the_cpu_are_told(monkeypatch):
    monkeypatch.setattr(parallel, "world", lambda: 2)
    for config, fine in (("cuda:nccl", False), ("cpu:gloo,cuda:nccl", True), ("cpu:gloo,cuda:gloo", True)):
        monkeypatch.setattr(parallel.dist, "get_backend_config", lambda config=config: config)
        if fine:
            parallel.check_backends()
        else:
            with pytest.raises(ValueError, match="processes must talk over the CPU, too"):
                parallel.check_backends()
