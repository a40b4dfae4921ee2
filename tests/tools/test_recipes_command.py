"""The command line of the recipes: what it understands, what it refuses, and how several share a budget."""

import json
import re
import time
from dataclasses import replace

import pytest

from course_lib.ddpm import DDPM
from course_lib.files import load_tensors
from course_lib.recipes import command, ddpm, several, sitting, tables
from course_lib.recipes.command import main
from course_lib.recipes.run import Measurement, shipped
from course_lib.schedules import cosine, table
from tests.helpers import sum_of_weights, tiny

TINY = tiny()
OTHER = replace(TINY, chapter="98_test", name="other", seed=1)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Two recipes and a measurement that take no time."""
    monkeypatch.setattr(ddpm, "tiny", TINY, raising=False)
    monkeypatch.setattr(ddpm, "other", OTHER, raising=False)
    seen = Measurement("99_test", "seen", lambda device: sum_of_weights(TINY, shipped(TINY, device)))
    monkeypatch.setattr(ddpm, "seen", seen, raising=False)


def log(path):
    return json.loads(path.read_text())


def fails(capsys, *words):
    """Exit status and what was said to stderr."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    return end.value.code, capsys.readouterr().err.splitlines()[-1]


# What is understood


@pytest.mark.parametrize(
    "words, says",
    [
        (["ddpm.tinny"], r"no recipe 'ddpm.tinny'; .*Did you mean ddpm.tiny\?"),
        (["ddpm.tiny", "dppm.other"], r"no recipes for 'dppm': .*Did you mean ddpm"),
        (["ddpm.tiny", "ddpm.tiny"], "each recipe may be named once only"),
        (["ddpm.tiny:0"], "a share must be a positive number, not '0' in ddpm.tiny:0"),
        (["ddpm.tiny:x"], "a share must be a positive number, not 'x'"),
        (["ddpm.tiny:nan"], "a share must be a positive number"),
        (["ddpm.tiny", "--minutes", "0"], "--minutes must be positive, not 0"),
        (["ddpm.tiny", "--minutes", "nan"], "--minutes must be positive, not nan"),
        (["ddpm.tiny", "--steps", "0"], "--steps must be at least 1, not 0"),
        (["ddpm.tiny", "--steps", "3", "--minutes", "1"], "not allowed with"),
        (["ddpm.tiny", "--set", "bach=9"], r"there is no 'bach'; there are .*batch.*Did you mean batch\?"),
        (["ddpm.tiny", "--set", "batch=2.5"], "--set batch must be int, not '2.5'"),
        (["ddpm.tiny", "--set", "lr=-1"], "--set lr must be positive, not -1"),
        (["ddpm.tiny", "--set", "checkpoint=1"], "there is no 'checkpoint'"),
        (["ddpm.seen", "--set", "batch=9"], "--set changes a recipe, but only measurements were named"),
        (["ddpm.tiny", "--device", "nosuch"], "--device nosuch cannot be used: "),
        (["ddpm.tiny", "--out", "pyproject.toml"], "--out cannot be written there"),
        (["ddpm.tiny", "--nosuch"], "unrecognized arguments: --nosuch"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(words, says, capsys, monkeypatch):
    monkeypatch.setattr(command, "run_all", None)
    code, said = fails(capsys, *words)
    assert code == 2 and re.search(says, said)


def test_list_and_table(tmp_path, capsys):
    main(["list", "mnist"])
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["recipe", "files", "steps", "batch", "shipped", "run"]
    made = log(command.ASSETS / "01_ddpm" / "mnist.log.json")
    (row,) = [row for row in rows if row.startswith("ddpm.mnist")]
    assert re.sub(" +", " ", row) == (
        f"ddpm.mnist 01_ddpm/mnist 4,000 64 {made['seconds'] / 60:.0f} min, {made['device']}"
    )
    assert any(
        re.match(r"optimal_variance.mnist_spread +02_optimal_variance/mnist_spread +- +- ", r) for r in rows
    )
    main(["list", "ddpm.other"])
    assert capsys.readouterr().out.splitlines()[1].endswith("8      -")
    main(["table"])
    assert capsys.readouterr().out.strip() == tables.results(command.ASSETS)
    main([])
    assert "usage: python -m course_lib.recipes" in capsys.readouterr().out


def test_other_numbers_are_used_and_logged(tmp_path):
    main(
        [
            "ddpm.tiny",
            "--out",
            str(tmp_path),
            "--device",
            "cpu",
            "--set",
            "batch=3",
            "--set",
            "clip=0.5",
            "--set",
            "lr=0.01",
        ]
    )
    got = log(tmp_path / "tiny.log.json")
    assert got["set"] == {"batch": 3, "clip": 0.5, "lr": 0.01} and got["batch"] == 3
    assert got["command"] == (
        "python -m course_lib.recipes run ddpm.tiny --set batch=3 --set clip=0.5 --set lr=0.01"
    )
    want = replace(TINY, batch=3, lr=0.01, options={"clip": 0.5})
    *_, record = want.train(want.fresh_model())
    made = load_tensors(tmp_path / "tiny.safetensors")[0]
    for name, value in record.average.named_parameters():
        assert made[name].equal(value.half())


def test_what_train_is_told_may_be_set():
    have = command.numbers(TINY)
    assert {"batch", "lr", "ema", "seed", "restart", "clip"} <= set(have) and "every" not in have
    assert have["clip"] is float and have["batch"] is int


# Several in one budget


def test_several_have_a_folder_each_and_measure_what_was_made(tmp_path, capsys):
    main(["ddpm.tiny", "ddpm.other", "ddpm.seen", "--out", str(tmp_path), "--device", "cpu", "--steps", "3"])
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    kinds = ("safetensors", "log.json", "results.json")
    want = {f"{name}.{kind}" for name in ("99_test/tiny", "98_test/other") for kind in kinds}
    assert names == want | {"99_test/seen.log.json", "99_test/seen.results.json"}
    assert log(tmp_path / "99_test" / "seen.results.json") == log(tmp_path / "99_test" / "tiny.results.json")
    said = "python -m course_lib.recipes run ddpm.tiny ddpm.other ddpm.seen --steps 3"
    assert log(tmp_path / "98_test" / "other.log.json")["command"] == said


def test_a_budget_is_kept_and_shared(tmp_path, capsys):
    start = time.perf_counter()
    words = ["ddpm.tiny:3", "ddpm.other", "--minutes", "0.05", "--out", str(tmp_path), "--device", "cpu"]
    main(words)
    assert time.perf_counter() - start < 5
    first, second = (log(tmp_path / name) for name in ("99_test/tiny.log.json", "98_test/other.log.json"))
    assert first["minutes"] == pytest.approx(0.05 * 0.75 * 0.8, rel=0.1)
    assert 0.005 < second["minutes"] < 0.02  # its own 0.01, less what a slow first overran, and what it left
    assert first["steps"] > second["steps"] > 7
    for made in (first, second):
        rates = made["lr_every_100_steps"]
        assert len(rates) == len(made["loss_every_100_steps"]) == -(-made["steps"] // 100)
        assert max(rates) <= TINY.lr and rates[-1] < 0.1 * TINY.lr
        assert made["command"].endswith("run ddpm.tiny:3 ddpm.other --minutes 0.05")


def test_what_there_is_no_time_for_is_said(tmp_path, monkeypatch, capsys):
    def slow(recipe, model):
        time.sleep(9)

    monkeypatch.setattr(ddpm, "tiny", replace(TINY, measure=slow))
    main(["ddpm.tiny:100", "ddpm.other", "--minutes", "0.02", "--out", str(tmp_path), "--device", "cpu"])
    said = capsys.readouterr().out
    assert "ddpm.tiny: not measured, for want of time" in said
    assert (tmp_path / "99_test" / "tiny.safetensors").is_file()
    assert not (tmp_path / "99_test" / "tiny.results.json").exists()


def test_unmeasured_and_measured_later(tmp_path, capsys):
    words = ["ddpm.tiny", "--out", tmp_path, "--device", "cpu"]
    main([*map(str, words), "--unmeasured"])
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.safetensors", "tiny.log.json"}
    main([*map(str, words), "--measure"])
    made, want = log(tmp_path / "tiny.results.json"), TINY.fresh_model()
    assert set(made) == {"sum"} and made != sum_of_weights(TINY, want)


def interrupted(capsys, *words):
    """Ctrl-C ends it with one line and status 130; no traceback."""
    code, said = fails(capsys, *words)
    assert (code, said) == (130, f"python -m course_lib.recipes: {command.INTERRUPTED}")


def test_a_command_that_was_interrupted_goes_on(tmp_path, monkeypatch, capsys):
    words = ["ddpm.tiny", "ddpm.other", "--out", str(tmp_path), "--device", "cpu"]
    made, calls = several.make, []

    def dies(recipe, *rest):
        calls.append(recipe.name)
        if calls.count("other") == 1 and recipe.name == "other":
            raise KeyboardInterrupt
        return made(recipe, *rest)

    monkeypatch.setattr(several, "make", dies)
    interrupted(capsys, *words)
    before = (tmp_path / "99_test" / "tiny.safetensors").stat().st_mtime_ns
    main(words)
    assert calls == ["tiny", "other", "other"]
    assert (tmp_path / "99_test" / "tiny.safetensors").stat().st_mtime_ns == before
    assert not list(tmp_path.rglob("*progress*"))
    main(words)
    assert calls[3:] == ["tiny", "other"]  # what was finished is made anew


def test_new_weights_do_not_stand_beside_old_results(tmp_path, monkeypatch, capsys):
    words = ["ddpm.tiny", "--out", str(tmp_path), "--device", "cpu"]
    main(words)

    def stops(recipe, model):
        raise KeyboardInterrupt

    monkeypatch.setattr(ddpm, "tiny", replace(TINY, measure=stops))
    interrupted(capsys, *words)
    assert not (tmp_path / "tiny.results.json").exists() and (tmp_path / "tiny.safetensors").exists()


def test_a_damaged_checkpoint_is_an_error_and_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sitting, "EVERY", 2)
    words = ["ddpm.tiny", "--out", tmp_path, "--device", "cpu"]

    class Stop(DDPM):
        def loss(self, model, x0, t):
            Stop.calls = getattr(Stop, "calls", 0) + 1
            if Stop.calls == 4:
                raise KeyboardInterrupt
            return super().loss(model, x0, t)

    with monkeypatch.context() as m:
        m.setattr(ddpm, "tiny", replace(TINY, process=lambda: Stop(table(cosine(), 10), (1,))))
        interrupted(capsys, *words)
    checkpoint = tmp_path / "tiny.checkpoint"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    code, said = fails(capsys, *words)
    assert code == 1 and "tiny.checkpoint is damaged" in said
    assert checkpoint.read_bytes() == whole[: len(whole) // 2]
    progress = tmp_path / "tiny.progress.json"
    kept = progress.read_text()
    progress.write_text("{")
    code, said = fails(capsys, *words)
    assert code == 1 and "tiny.progress.json is damaged: delete it and the checkpoint beside it" in said
    progress.unlink()
    code, said = fails(capsys, *words)
    assert code == 1 and "has no tiny.progress.json beside it: delete it" in said
    progress.write_text(kept)
    code, said = fails(capsys, *words, "--set", "ema=0.5")
    assert code == 1 and "damaged" in said
    assert not (tmp_path / "tiny.safetensors").exists()


# The learning rate of a run by minutes


def test_the_recipes_own_rate_is_stretched_and_never_starts_at_once():
    own = replace(TINY, steps=1000, lr=0.5, restart=600)
    rate, whole = own.rate_of_progress().rate, own.rate(1000)
    for done in (0.2, 0.35, 0.6, 0.6045, 0.8, 1.0):
        assert rate(done) == whole(1000 * done) <= 0.5
    assert whole(100) == 0.5 and rate(0.1) == whole(100)
    assert rate(0.01) == whole(10) == pytest.approx(0.05)
    quick = replace(own, steps=100_000, restart=None)  # rises in a thousandth of its steps
    assert quick.rate(100_000)(100) == 0.5
    assert quick.rate_of_progress().rate(0.001) == pytest.approx(0.5 * 0.001 / 0.05)
    assert quick.rate_of_progress().rate(0.05) == quick.rate(100_000)(5000) > 0.49
