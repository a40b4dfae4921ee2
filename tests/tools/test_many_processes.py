"""Two processes against one: the same losses, weights and averages, whoever stopped and whoever goes on."""

import pytest
import torch

from course_lib import parallel
from course_lib.files import load_tensors
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
    assert two[0]["trained"][name]["losses"].equal(two[1]["trained"][name]["losses"])


def test_dressed_and_cut_up_differently_it_is_one_run(runs):
    one = runs[0]["trained"]
    for name in ("ddp", "fsdp", "micro"):
        close(one[name], one["plain"])
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
    files = [load_tensors(folder / name) for name in ("half.plain.1", "half.plain.2", "half.fsdp.2")]
    shapes = [{k: v.shape for k, v in tensors.items()} for tensors, _ in files]
    assert shapes[0] == shapes[1] == shapes[2] and files[0][1]["of"] == files[2][1]["of"]
    assert {f"model/{k}" for k in P.network().state_dict()} < set(shapes[0])


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
    assert one["network"] and [k for k, _ in one["curve"]] == [4, 8, 12]
    for each in two:
        got = each["measured"]
        assert not got["network"] and [k for k, _ in got["curve"]] == [4, 8, 12]
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
