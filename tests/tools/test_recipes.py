"""A recipe that runs in a second: its files, its log, and the run that is interrupted anywhere."""

import json
import math
import platform
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from course_lib import __version__, data
from course_lib.ddpm import DDPM
from course_lib.distances import frechet
from course_lib.evaluate import bound
from course_lib.files import load_tensors, read_json
from course_lib.image_judge import Judge
from course_lib.learning_rate import warmup_cosine
from course_lib.nets import UNet
from course_lib.process import last, sample
from course_lib.recipes import command, ddpm, several, sitting
from course_lib.recipes import run as recipes
from course_lib.recipes.command import main
from course_lib.recipes.run import Recipe, find, run
from course_lib.recipes.sitting import mean
from course_lib.schedules import cosine, table
from course_lib.weights import load_weights
from tests.helpers import tiny
from tools import gpu_work

STEPS = 7


class Mortal(DDPM):
    """Dies at the given call of its loss, once."""

    calls, dies_at = 0, math.inf

    def loss(self, *arguments):
        Mortal.calls += 1
        if Mortal.calls == Mortal.dies_at:
            raise KeyboardInterrupt
        return super().loss(*arguments)


@pytest.fixture(autouse=True)
def immortal(monkeypatch):
    monkeypatch.setattr(Mortal, "calls", 0)
    monkeypatch.setattr(sitting, "EVERY", 2)


def measure(recipe, model):
    return {"name": recipe.name, "sum": sum(p.sum().item() for p in model.parameters())}


TINY = tiny(Mortal, measure)


def files(folder):
    return {p.name for p in folder.iterdir()}


def log(folder):
    return json.loads((folder / "tiny.log.json").read_text())


# A run


def test_a_run_writes_weights_log_and_results(tmp_path, capsys):
    results = run(TINY, tmp_path / "new", "make tiny")
    folder = tmp_path / "new"
    assert files(folder) == {"tiny.safetensors", "tiny.log.json", "tiny.results.json"}
    assert json.loads((folder / "tiny.results.json").read_text()) == results and results["name"] == "tiny"
    model = TINY.fresh_model()
    about = load_weights(folder / "tiny.safetensors", model)
    assert about.pop("process")["class"] == "Mortal"
    assert about == {
        "recipe": "99_test/tiny", "steps": STEPS, "command": "make tiny", "kind": "weights", "network": "MLP"
    }  # fmt: skip
    records = list(TINY.train(TINY.fresh_model()))
    average = [p.half().float() for p in records[-1].average.parameters()]
    assert all(p.equal(a) for p, a in zip(model.parameters(), average, strict=True))
    assert results["sum"] == sum(p.sum().item() for p in average)  # measured as shipped
    losses = [r.loss.mean().item() for r in records]
    got = log(folder)
    assert got.pop("lr_every_100_steps") == [float(f"{warmup_cosine(TINY.lr, STEPS)(STEPS):.5g}")]
    assert got.pop("loss_every_100_steps") == [round(sum(losses) / STEPS, 5)]
    assert 0 <= got.pop("seconds") < 60
    assert got == {
        "recipe": "99_test/tiny", "steps": STEPS, "command": "make tiny",
        "device": f"cpu, {torch.get_num_threads()} thread(s)", "batch": 8,
        "versions": {"course_lib": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }  # fmt: skip
    assert capsys.readouterr().out == f"tiny: step 7 of 7, loss {sum(losses) / STEPS:.4f}\n"


def test_the_log_tells_the_loss_every_100_steps(tmp_path, capsys):
    losses = [r.loss.mean().item() for r in TINY.train(TINY.fresh_model(), 205)]
    run(TINY, tmp_path, "", steps=205)
    want = [sum(losses[:100]) / 100, sum(losses[100:200]) / 100, sum(losses[200:]) / 5]
    assert log(tmp_path)["loss_every_100_steps"] == pytest.approx(want, abs=1e-5)
    said = [line.split(", loss ") for line in capsys.readouterr().out.splitlines()]
    assert [s for s, _ in said] == [f"tiny: step {n} of 205" for n in (100, 200, 205)]
    assert [float(x) for _, x in said] == pytest.approx([*want[:2], sum(losses[105:]) / 100], abs=1e-4)


@pytest.mark.parametrize("steps", [None, 3])
def test_training_by_a_recipe(steps):
    sharp = replace(TINY, lr=0.5, ema=0.0)
    records = list(sharp.train(sharp.fresh_model(), steps))
    assert [r.step for r in records] == list(range(1, (steps or STEPS) + 1))
    assert len(records[0].loss) == 8
    slow = list(replace(TINY, lr=1e-9).train(TINY.fresh_model()))[-1].average
    fresh = TINY.fresh_model()
    torch.testing.assert_close(list(slow.parameters()), list(fresh.parameters()))
    moved = max((a - b).abs().max().item() for a, b in zip(next(sharp.train(sharp.fresh_model())).average.parameters(),
                                                           fresh.parameters(), strict=True))  # fmt: skip
    assert moved == pytest.approx(  # AdamW's first step is the learning rate: warm-up over half of the steps
        0.5 / (STEPS // 2), rel=1e-3
    )


def test_a_recipes_average_and_batches_are_its_own():
    first = next(replace(TINY, batch=5, seed=3).train(TINY.fresh_model()))
    assert len(first.t) == 5
    seen = []
    TINY_SPY = replace(TINY, process=lambda: Spy(table(cosine(), 10), (1,), seen))
    for seed in (0, 0, 1):
        next(replace(TINY_SPY, seed=seed).train(TINY.fresh_model()))
    assert seen[0] == seen[1] != seen[2]
    keep_all = next(replace(TINY, ema=0.0, lr=0.1).train(model := TINY.fresh_model())).average
    assert all(a.equal(b) for a, b in zip(keep_all.parameters(), model.parameters(), strict=True))


class Spy(DDPM):
    def __init__(self, alpha_bar, shape, seen):
        super().__init__(alpha_bar, shape)
        self.seen = seen

    def loss(self, model, x0, t):
        self.seen.append(x0.tolist())
        return super().loss(model, x0, t)


def test_a_fresh_model_is_the_same_each_time():
    a, b, c = TINY.fresh_model(), TINY.fresh_model(), replace(TINY, seed=1).fresh_model()
    assert a.enter.weight.equal(b.enter.weight) and not a.enter.weight.equal(c.enter.weight)


def test_no_steps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        run(TINY, tmp_path, "", steps=0)


# Interruptions


@pytest.mark.parametrize("dies_at", [1, 2, 3, 4, 7])
def test_interrupted_and_run_again(tmp_path, monkeypatch, dies_at):
    results = run(TINY, tmp_path / "whole", "")
    monkeypatch.setattr(Mortal, "calls", 0)
    monkeypatch.setattr(Mortal, "dies_at", dies_at)
    with pytest.raises(KeyboardInterrupt):
        run(TINY, tmp_path / "part", "")
    assert (
        files(tmp_path / "part") == ({"tiny.checkpoint", "tiny.progress.json"} if dies_at > 2 else set())
        if (tmp_path / "part").exists()
        else dies_at <= 2
    )
    assert run(TINY, tmp_path / "part", "") == results
    assert (
        Mortal.calls == dies_at + STEPS - (dies_at - 1) // 2 * 2
    )  # steps of the checkpoint are not done again
    assert files(tmp_path / "part") == files(tmp_path / "whole")
    for kind in ("safetensors", "results.json"):
        assert (tmp_path / "part" / f"tiny.{kind}").read_bytes() == (
            tmp_path / "whole" / f"tiny.{kind}"
        ).read_bytes()
    assert log(tmp_path / "part")["loss_every_100_steps"] == log(tmp_path / "whole")["loss_every_100_steps"]


def test_interrupted_while_measuring_needs_no_new_training(tmp_path):
    def fails(recipe, model):
        raise KeyboardInterrupt

    results = run(TINY, tmp_path / "whole", "")
    with pytest.raises(KeyboardInterrupt):
        run(replace(TINY, measure=fails), tmp_path / "part", "")
    calls = Mortal.calls
    assert run(TINY, tmp_path / "part", "") == results and Mortal.calls == calls
    assert log(tmp_path / "part")["loss_every_100_steps"] == log(tmp_path / "whole")["loss_every_100_steps"]


def test_progress_newer_than_the_checkpoint_is_cut_off(tmp_path, monkeypatch):
    """Killed between the two files: the log must not count steps twice."""
    whole = [r.loss.mean().item() for r in TINY.train(TINY.fresh_model())]
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(Mortal, "dies_at", Mortal.calls + 4)
        run(TINY, tmp_path, "")
    path = tmp_path / "tiny.progress.json"
    past = json.loads(path.read_text())
    assert past["losses"] == pytest.approx(whole[:2]) and past["steps"] == STEPS and past["seconds"] > 0
    path.write_text(json.dumps(past | {"losses": [*past["losses"], 1e6, 1e6], "seconds": 1000}))
    run(TINY, tmp_path, "")
    assert log(tmp_path)["loss_every_100_steps"] == [round(sum(whole) / STEPS, 5)]
    assert 1000 <= log(tmp_path)["seconds"] < 1060  # the time of all sittings


def test_a_checkpoint_of_a_run_of_other_length_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Mortal, "dies_at", 4)
    with pytest.raises(KeyboardInterrupt):
        run(TINY, tmp_path, "")
    with pytest.raises(
        ValueError, match=r"tiny.checkpoint is of a run of 7 steps, not 9 steps: finish that or delete it"
    ):
        run(TINY, tmp_path, "", steps=9)


def test_mean_of_numbers_and_tensors():
    assert mean([1.0, torch.tensor(2.0), 6.0]) == 3


# Finding and calling


def test_find():
    assert find("ddpm.digits") is ddpm.digits and find("ddpm.mnist") is ddpm.mnist


@pytest.mark.parametrize(
    "name, says",
    [
        ("nosuch.digits", r"no recipes for 'nosuch': there are .*d3pm, ddpm, diffuseq, .*, sedd, "),
        ("dppm.digits", r"no recipes for 'dppm': .*\. Did you mean ddpm or d3pm\?"),
        ("run.find", r"no recipes for 'run'"),
        ("ddpm.nosuch", r"no recipe 'ddpm.nosuch'; there is ddpm.digits, ddpm.mnist$"),
        ("ddpm.minst", r"there is ddpm.digits, ddpm.mnist. Did you mean ddpm.mnist\?"),
        ("ddpm", r"no recipe 'ddpm'; there is ddpm.digits, ddpm.mnist"),
        ("ddpm.measure", r"no recipe 'ddpm.measure'; there is ddpm.digits, ddpm.mnist"),
    ],
)
def test_find_refuses(name, says):
    with pytest.raises(ValueError, match=says):
        find(name)


def test_find_does_not_hide_a_missing_package(monkeypatch):
    monkeypatch.delitem(sys.modules, "course_lib.recipes.ddpm")
    monkeypatch.setitem(sys.modules, "course_lib.evaluate", None)
    with pytest.raises(ModuleNotFoundError, match="course_lib.evaluate"):
        find("ddpm.digits")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(ddpm, "digits", replace(ddpm.digits, measure=measure))


def test_command_line(tmp_path, small, capsys):
    main(["ddpm.digits", "--steps", "2", "--out", str(tmp_path), "--device", "cpu"])
    assert files(tmp_path) == {"digits.safetensors", "digits.log.json", "digits.results.json"}
    got = json.loads((tmp_path / "digits.log.json").read_text())
    assert got["steps"] == 2 and got["command"] == "python -m course_lib.recipes run ddpm.digits --steps 2"
    said = capsys.readouterr().out.splitlines()
    assert said[-3].startswith("{'name': 'digits', 'sum': ")
    assert said[-2:] == [str(tmp_path / "digits.safetensors"), "ddpm.digits: done"]
    assert len(load_tensors(tmp_path / "digits.safetensors")[0]) > 20


BUILD = recipes.ROOT / "build" / "recipes" / "01_ddpm"


@pytest.mark.parametrize(
    "options, folder, steps, words",
    [
        ([], BUILD, None, ""),
        (["--steps", "3"], BUILD, 3, " --steps 3"),
        (["--device", "cpu"], BUILD, None, ""),
        (["--force"], recipes.ASSETS / "01_ddpm", None, ""),
        (["--force", "--steps", "3"], recipes.ASSETS / "01_ddpm", 3, " --steps 3"),
        (["--force", "--out", str(recipes.ASSETS / "x")], recipes.ASSETS / "x", None, ""),
    ],
)
def test_only_force_writes_into_assets(monkeypatch, options, folder, steps, words):
    calls = []
    monkeypatch.setattr(command, "run_all", lambda *arguments, **_: calls.append(arguments) or {})
    main(["ddpm.digits", *options])
    device = "cuda" if torch.cuda.is_available() and "cpu" not in options else "cpu"
    ((jobs, said, *_, minutes, on, measured),) = calls
    assert jobs == [several.Job("ddpm.digits", ddpm.digits, folder, steps=steps)] and minutes is None
    assert said == f"python -m course_lib.recipes run ddpm.digits{words}" and (on, measured) == (device, True)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (
            ["ddpm.digits", "--out", str(recipes.ASSETS / "01_ddpm")],
            "is under assets/.*: add --force to write over",
        ),
        (["ddpm.digits", "--out", str(BUILD / ".." / ".." / ".." / "assets")], "is under assets/"),
        (["ddpm.digitz"], "Did you mean ddpm.digits?"),
    ],
)
def test_the_command_line_refuses_before_anything_runs(monkeypatch, capsys, arguments, says):
    monkeypatch.setattr(command, "run_all", None)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2 and re.search(says, capsys.readouterr().err)


def test_an_installed_package_writes_beside_its_caller(monkeypatch, tmp_path):
    for module in (recipes, command):
        monkeypatch.setattr(module, "ROOT", tmp_path / "site-packages")
        monkeypatch.setattr(module, "ASSETS", tmp_path / "site-packages" / "assets")
    monkeypatch.chdir(tmp_path)
    assert command.folder_for(ddpm.digits, None, False) == tmp_path / "build" / "recipes" / "01_ddpm"
    with pytest.raises(
        ValueError, match="--force writes into assets/, which an installed package does not have"
    ):
        command.folder_for(ddpm.digits, None, True)
    with pytest.raises(
        FileNotFoundError, match="weights are shipped in a clone of the course, not in its wheel"
    ):
        recipes.shipped(ddpm.digits)


def test_a_measurement_follows_the_same_rule(monkeypatch):
    calls = []
    monkeypatch.setattr(several, "take", lambda *arguments: calls.append(arguments[1]))
    monkeypatch.setattr(ddpm, "few", recipes.Measurement("01_ddpm", "few", dict), raising=False)
    main(["ddpm.few"])
    main(["ddpm.few", "--force"])
    assert calls == [BUILD, recipes.ASSETS / "01_ddpm"]


def test_shipped_weights_are_measured_where_they_are_and_results_written_elsewhere(monkeypatch, small):
    calls = []
    monkeypatch.setattr(command, "measure", lambda *arguments: calls.append(arguments[1:]))
    main(["ddpm.digits", "--measure", "--device", "cpu"])
    main(["ddpm.digits", "--measure", "--device", "cpu", "--force"])
    assets = recipes.ASSETS / "01_ddpm"
    assert calls == [(BUILD, "cpu", assets), (assets, "cpu", assets)]


def test_samples_are_drawn_in_pieces_each_with_its_seed():
    p, model = TINY.process(), TINY.fresh_model()
    made = recipes.draws(p, model, 5, 2, size=2)
    want = []
    for i, n in enumerate([2, 2, 1]):
        torch.manual_seed(i)
        want.append(last(sample(p, model, n, 2))[1])
    assert made.equal(torch.cat(want))
    torch.manual_seed(77)
    assert recipes.draws(p, model, 5, p.times(2), size=2).equal(made)
    assert (
        recipes.pieces(5, 2) == [2, 2, 1] and recipes.pieces(4, 2) == [2, 2] and recipes.pieces(1, 250) == [1]
    )


def test_every_log_says_what_made_its_weights():
    """One command with its own number of steps; or, in `made`, why no command does."""
    for path in sorted(recipes.ASSETS.glob("*/*.log.json")):
        made = read_json(path)
        recipe = next(r for s in recipes.systems() for r in recipes.named(s).values()
                      if f"{r.chapter}/{r.name}" == made["recipe"])  # fmt: skip
        assert ("command" in made) != ("made" in made), path.name
        if isinstance(recipe, Recipe):
            # Of a longer training its first part may be shipped, if the log says so.
            part = made["steps"] < recipe.steps and f"of {recipe.steps:,} steps" in made.get("made", "")
            assert made["steps"] == recipe.steps or "minutes" in made or part
        if made.get("command", "").startswith("make gpu"):
            assert recipe in [find(name) for name, *_ in gpu_work.PLAN]
        elif "command" in made:
            words = made["command"].removeprefix("python -m course_lib.recipes ").removeprefix("run ").split()
            assert any(find(word.partition(":")[0]) == recipe for word in words if "." in word)
    assert "by one command" in read_json(recipes.ASSETS / "04_diffusion_lm" / "full.log.json")["made"]
    assert "by one command" in read_json(recipes.ASSETS / "05_diffuseq" / "verses.log.json")["made"]


def test_measuring_again_trains_nothing(tmp_path, small, capsys):
    options = ["ddpm.digits", "--out", str(tmp_path), "--device", "cpu"]
    main([*options, "--steps", "2"])
    before = (tmp_path / "digits.safetensors").read_bytes()
    results = tmp_path / "digits.results.json"
    first = results.read_text()
    results.unlink()
    capsys.readouterr()
    main([*options, "--measure"])
    assert results.read_text() == first and (tmp_path / "digits.safetensors").read_bytes() == before
    assert capsys.readouterr().out.startswith("{'name': 'digits', 'sum': ")
    with pytest.raises(SystemExit) as end:
        main(["ddpm.digits", "--measure", "--out", str(tmp_path / "none")])
    assert end.value.code == 1 and "digits.safetensors" in capsys.readouterr().err


def test_python_m(tmp_path):
    command = [sys.executable, "-m", "course_lib.recipes", "ddpm.nosuch", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(recipes.__file__).parents[2])
    assert done.returncode == 2 and "there is ddpm.digits, ddpm.mnist" in done.stderr


# The DDPM recipes


def test_measure(monkeypatch):
    recipe = replace(
        ddpm.digits, process=lambda: DDPM(table(cosine(), 10), (1, 8, 8), levels=17, clip=1.0), seed=4
    )
    torch.manual_seed(0)
    model = UNet(1, (8,))
    got = ddpm.measure(recipe, model, steps=2, n=60)
    assert set(got) == {"bits_per_dim", "bits_per_dim_se", "sampling_steps", "n", "accepted", "frechet"}
    assert got["sampling_steps"] == 2 and got["n"] == 60 and json.loads(json.dumps(got)) == got
    (x, y), (test, _) = data.digits(), data.digits("test")
    judge = Judge(x, y)
    real = test[[358 * i // 59 for i in range(60)]]  # spread over the file
    assert got["accepted"]["real"] == judge.accepted(real) > 0.7 and got["accepted"]["noise"] < 0.2
    assert got["frechet"]["real"] == pytest.approx(frechet(judge.features(real), judge.features(x)))
    assert (
        got["frechet"]["real"] < got["frechet"]["samples"]
        and got["frechet"]["real"] < got["frechet"]["noise"]
    )
    bits = bound(recipe.process(), model, test, repeats=20).bits_per_dim(64)
    assert abs(got["bits_per_dim"] - bits.mean) < 5 * bits.se
    assert got["bits_per_dim_se"] == pytest.approx(bits.se, rel=0.15)
    torch.manual_seed(9)
    assert ddpm.measure(recipe, model, steps=2, n=60) == got  # the recipe's seed decides
    assert ddpm.measure(recipe, model, steps=1, n=10**6)["n"] == len(test)


@pytest.mark.parametrize(
    "n, sizes", [(1, [1]), (250, [250]), (251, [250, 1]), (500, [250, 250]), (620, [250, 250, 120])]
)
def test_pieces(n, sizes):
    assert recipes.pieces(n, 250) == sizes and recipes.pieces(5, 2) == [2, 2, 1]


@pytest.mark.parametrize(
    "recipe, size, numbers",
    [
        (ddpm.digits, 368353, ("01_ddpm", "digits", data.digits, 64, 2e-3, 0.995, 0, 17)),
        (ddpm.mnist, 445433, ("01_ddpm", "mnist", data.mnist, 64, 2e-3, 0.999, 0, 256)),
    ],
)
def test_the_recipes_that_made_the_shipped_weights(recipe, size, numbers):
    r, p, model = recipe, recipe.process(), recipe.fresh_model()
    assert (r.chapter, r.name, r.data, r.batch, r.lr, r.ema, r.seed, p.levels) == numbers
    made = Path(recipes.__file__).parents[2] / "assets" / r.chapter / f"{r.name}.log.json"
    assert not made.exists() or r.steps == json.loads(made.read_text())["steps"]
    assert p.alpha_bar.equal(table(cosine(), 1000)) and p.clip == 1 and r.measure is ddpm.measure
    assert (p.predicts, p.variance) == ("eps", "small") and sum(v.numel() for v in model.parameters()) == size
    assert model(torch.zeros(1, *p.shape), torch.zeros(1)).shape[1:] == p.shape
    grid = (r.data("test")[0] + 1) * (p.levels - 1) / 2
    assert tuple(grid.shape[1:]) == p.shape
    torch.testing.assert_close(grid, grid.round(), atol=1e-4, rtol=0)
    assert grid.round().min() == 0 and grid.round().max() == p.levels - 1


def test_what_is_trained_may_be_another_form_of_the_loss():
    """`trains` is what the trainer gets; without it, the process."""
    asked = []

    class Other(DDPM):
        def loss(self, model, x0, t):
            asked.append(len(t))
            return super().loss(model, x0, t)

    other = replace(TINY, trains=lambda: Other(table(cosine(), 10), (1,)))
    next(TINY.train(TINY.fresh_model()))
    assert TINY.trains is None and asked == []
    next(other.train(other.fresh_model()))
    assert asked == [other.batch]


def test_a_rate_that_restarts_only_in_a_run_of_full_length(monkeypatch):
    rates = []
    monkeypatch.setattr(recipes, "train", lambda *given, lr, **options: rates.append(lr) or iter(()))
    again = replace(TINY, steps=400, restart=150)
    for steps in (None, 400, 300):
        again.train(again.fresh_model(), steps)
    assert all(lr(150) < 1e-9 and lr(250) == again.lr for lr in rates[:2])
    assert rates[2](150) > again.lr / 2 and TINY.restart is None


FAULTS = """
import resource, sys, torch
from course_lib.recipes.command import keep_memory
torch.set_num_threads(1)
kept = keep_memory() if "keep" in sys.argv else True
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(10_000_000)
before = faults()
for _ in range(100):
    torch.ones(10_000_000)
print(kept, faults() - before)
"""


def test_memory_is_kept():
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        pytest.skip("needs glibc: it can be asked to keep memory")
    said = [
        subprocess.run(
            [sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True
        ).stdout
        for word in ("keep", "plain")
    ]
    (kept, few), (_, many) = (line.split() for line in said)
    assert kept == "True" and 5 * int(few) < int(many)


def test_a_run_says_how_far_it_is(tmp_path, capsys):
    """Of a number of steps how many there are; of minutes nobody knows."""
    recipes.make(tiny(), tmp_path / "steps", "command", steps=3)
    assert re.search(r"^tiny: step 3 of 3, loss \d", capsys.readouterr().out, re.M)
    recipes.make(tiny(), tmp_path / "minutes", "command", minutes=0.01)
    assert re.search(r"^tiny: step \d+, loss \d", capsys.readouterr().out, re.M)
