"""What `make bench` measures runs, at tiny sizes; calls said to be equal are; and its numbers are what they say."""

import json

import pytest
import torch

from tools.bench import __main__ as bench
from tools.bench import measure, report
from tools.bench.measure import MAKERS, MIB, Comparison, measured


def made(make):
    """The comparison at its tiny size; None where a package is missing that the tests do not need."""
    torch.manual_seed(0)
    try:
        return make("cpu", True)
    except ImportError as problem:
        assert problem.name in ("nltk", "diffusers"), problem
        return None


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore")  # of other packages
def test_every_comparison_runs(make):
    what = made(make)
    if what is None:
        return
    found = {who: call() for who, call in what.calls.items()}
    assert len(found) >= 2 and not (what.floor and what.made == 0 == what.moved)
    if what.equal:
        ours = next(iter(found.values()))
        for value in found.values():
            torch.testing.assert_close(value, ours, rtol=5e-3, atol=1e-5)  # textbooks' float32 cancels


def test_names_are_different():
    names = [made(make).name for make in MAKERS if make.__name__ != "risk" and made(make)]
    assert len(set(names)) == len(names)
    assert sum(made(make).equal for make in MAKERS if made(make)) >= 6


# How it is measured


def test_ratios_are_taken_within_a_round(monkeypatch):
    """The machine is twice as slow in the second round and ten times in the third: no ratio notices."""
    slow, turns = [1.0, 2.0, 10.0], {}
    base = {"ours": 2.0, "theirs": 6.0, "copy": 1.0}

    def timed(call, times, device):
        who = call()
        turns[who] = turns.get(who, -1) + 1
        return base[who] * slow[max(0, turns[who] - 1)]  # the first turn finds out how often

    monkeypatch.setattr(measure, "timed", timed)
    monkeypatch.setattr(measure, "copy_of", lambda moved, device: lambda: "copy")
    monkeypatch.setattr(measure, "peak", lambda call, device: 5.0)
    what = Comparison("x", {"ours": lambda: "ours", "theirs": lambda: "theirs"}, moved=80, floor="all of it")
    found = measured(what, "cpu", 3)
    assert found["calls"]["ours"]["over_ours"] == [1.0] * 3
    assert found["calls"]["theirs"]["over_ours"] == [3.0] * 3
    assert found["calls"]["ours"]["over_floor"] == [2.0] * 3
    assert found["calls"]["theirs"]["over_floor"] == [6.0] * 3
    assert found["calls"]["theirs"]["seconds"] == 12.0
    assert found["floor"] == {"what": "all of it", "bytes": 80, "operations": 0.0}


def test_the_floor_is_the_longer_of_two(monkeypatch):
    monkeypatch.setattr(measure, "copy_of", lambda moved, device: lambda: "copy")
    monkeypatch.setattr(measure, "product", lambda n, device: (lambda: "product", 100.0))
    monkeypatch.setattr(measure, "peak", lambda call, device: None)
    base = {"ours": 8.0, "copy": 1.0, "product": 0.5}
    monkeypatch.setattr(measure, "timed", lambda call, times, device: base[call()])
    for operations, floor in ((400.0, 2.0), (100.0, 1.0)):
        what = Comparison("x", {"ours": lambda: "ours"}, 80, operations, "both")
        assert measured(what, "cpu", 1)["calls"]["ours"]["over_floor"] == [8.0 / floor] * 3
    without = measured(Comparison("x", {"ours": lambda: "ours"}), "cpu", 1)["calls"]["ours"]
    assert without["over_floor"] is None and without["MiB"] is None


def test_operations_bytes_and_products():
    a, b = torch.randn(8, 16), torch.randn(16, 4)
    assert measure.operations(lambda: a @ b) == 2 * 8 * 16 * 4
    multiply, each = measure.product(8, "cpu")
    assert multiply().shape == (8, 8) and each == 2 * 8**3
    assert measure.copy_of(800, "cpu")().numel() * 4 * 2 == 800
    what = Comparison("x", {"ours": lambda: a @ b}, made=None, floor="products")
    assert measured(what, "cpu", 1)["floor"]["operations"] == 1024


def test_peak_memory():
    held = torch.ones(8 * MIB // 4)

    def call():
        first = torch.ones(32 * MIB // 4)
        second = torch.ones(16 * MIB // 4)
        del first
        return (torch.ones(8 * MIB // 4) + second.sum() + held).sum()

    assert measure.peak(call, "cpu") == 48
    assert measure.peak(lambda: held.clone(), "cpu") == 8
    assert measure.peak(lambda: None, "cpu") == 0


def test_time_is_that_of_this_process():
    assert measure.timed(lambda: None, 10, "cpu") < 0.01
    work = torch.randn(300, 300)
    assert measure.timed(lambda: [work @ work for _ in range(20)], 1, "cpu") > 1e-5


def test_quartiles():
    assert measure.ratio([2.0, 4.0, 6.0, 8.0, 20.0], [2.0, 2.0, 2.0, 2.0, 2.0]) == [2.0, 3.0, 4.0]
    assert measure.ratio([3.0], [2.0]) == [1.5] * 3
    assert [report.times([0, x, 0]) for x in (0.0123, 0.5, 1.0, 12.3, 456.0)] == [
        "0.012",
        "0.50",
        "1.0",
        "12",
        "456",
    ]
    assert report.times(None) == "-"


# What is written


@pytest.fixture
def one(monkeypatch):
    def example(device, small):
        x = torch.ones(1000)
        return Comparison("an example", {"ours": x.clone, "theirs": lambda: x + 0}, 8000, 0, "one copy")

    def missing(device, small):
        import a_package_that_is_not_there  # noqa: F401

    monkeypatch.setattr(bench, "MAKERS", [example, missing])
    monkeypatch.setattr(measure, "ROUND", 1e-4)


def test_json_table_and_figure(one, tmp_path, capsys):
    threads = torch.get_num_threads()
    assert bench.main(["--out", str(tmp_path), "--rounds", "2", "--device", "cpu"]) == 0
    assert torch.get_num_threads() == threads == 1
    results = json.loads((tmp_path / "cpu.json").read_text(encoding="utf-8"))
    assert results["missing"] == [{"what": "missing", "needs": "a_package_that_is_not_there"}]
    assert results["machine"]["versions"]["torch"] and results["machine"]["threads"] == 1
    (found,) = results["comparisons"]
    assert found["name"] == "an example" and set(found["calls"]) == {"ours", "theirs"}
    assert (tmp_path / "cpu.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "not measured, a_package_that_is_not_there is not installed" in said
    assert said.count("| an example (floor: one copy) | ours | 1.0 |") == 1 and "|  | theirs |" in said
    assert not [*tmp_path.glob("*.tmp*")]


def test_nothing_of_that_name(one, tmp_path, capsys):
    assert bench.main(["--only", "nothing", "--out", str(tmp_path)]) == 1
    assert "nothing that is measured has 'nothing' in its name" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
