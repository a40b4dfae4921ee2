"""What `make gpu` does, rehearsed on the CPU: stages, plan, what is counted, what is shipped; and `make reproduce`."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from course_lib.files import read_json
from course_lib.nets import TokenNet
from course_lib.recipes import ddpm, several
from course_lib.recipes.run import ASSETS, Measurement, Recipe, find
from course_lib.recipes.text8 import K, md4_process
from tests.tools.test_recipes_command import OTHER, TINY
from tools import gpu, gpu_work, reproduce
from tools.gpu import Stage

# Stages


def stage(code, seconds=30, needs=()):
    return Stage(["-c", code], seconds, needs)


def test_one_stage_that_fails_hangs_or_lacks_something_does_not_stop_the_others(
    tmp_path, monkeypatch, capsys
):
    table = {
        "good": stage("import os; print('on', os.environ['COURSE_DEVICE'])"),
        "bad": stage("raise SystemExit(3)"),
        "slow": stage("import time; print('began', flush=True); time.sleep(60)", 4),
        "lost": stage("", needs=("torch", "no_such_package")),
    }
    monkeypatch.setattr(gpu, "stages", lambda *_: table)
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    report = read_json(tmp_path / "report.json")
    assert report["device"] == "cpu"
    assert {name: r["became"] for name, r in report["stages"].items()} == {
        "good": "done",
        "bad": "failed with exit status 3",
        "slow": "stopped after 4 s",
        "lost": "not run: no_such_package not installed",
    }
    assert report["stages"]["slow"]["seconds"] < 30
    assert (tmp_path / "good.log").read_text() == "on cpu\n" and "began" in (
        tmp_path / "slow.log"
    ).read_text()
    assert "on cpu" in capsys.readouterr().out
    assert gpu.main(["good", "--device", "cpu", "--out", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    "words, says",
    [(["nosuch"], "stage is nosuch, must be one of: tests"), (["--minutes", "0"], "must be positive")],
)
def test_bad_calls(words, says, capsys):
    with pytest.raises(SystemExit):
        gpu.main(words)
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("small", [False, True])
def test_stages_name_what_exists(small):
    table = gpu.stages("cuda", 9, Path("x"), small)
    assert list(table) == ["tests", "bench", "mfu", "memory", "recipes"]
    assert 60 * 9 < table["recipes"].seconds <= 60 * 9 + 60
    for made in table.values():
        assert not gpu.missing(made.needs)
        for word in made.arguments:
            assert not word.startswith("tests/") or (gpu_work.ASSETS.parent / word).exists()


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX and make")
def test_make_gpu_takes_the_python_that_is_there():
    command = [
        "make",
        "--no-print-directory",
        "-n",
        "gpu",
        "PYTHON=mine",
        "DEVICE=cpu",
        "MINUTES=0.5",
        "STAGES=tests mfu",
    ]
    done = subprocess.run(command, cwd=ASSETS.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "mine -m tools.gpu tests mfu --device cpu --minutes 0.5"


# The plan


def test_the_plan_makes_every_shipped_weight_of_chapters_4_to_7():
    """Each once, its measurements after it, with numbers that exist."""
    names = [name for name, _, _ in gpu_work.PLAN]
    assert len(set(names)) == len(names)
    found = [find(name) for name in names]
    made = {f"{r.chapter}/{r.name}" for r in found if isinstance(r, Recipe)}
    shipped = {
        path.relative_to(ASSETS).with_suffix("").as_posix() for path in ASSETS.glob("0[4-7]*/*.safetensors")
    }
    assert made == shipped
    assert not any(isinstance(r, Measurement) for r in found[: len(made)])
    planned = gpu_work.jobs(Path("out"))
    for job, (name, share, changes) in zip(planned, gpu_work.PLAN, strict=True):
        assert (job.called, job.share, job.out) == (name, share, Path("out") / find(name).chapter)
        if changes:
            assert job.recipe.batch == changes["batch"] > find(name).batch and job.about == {"set": changes}
    with pytest.raises(ValueError, match="there is no 'bach' to be set; .*Did you mean batch"):
        gpu_work.jobs(Path("out"), [("ddpm.digits", 1, {"bach": 2})])


def test_the_recipes_within_seconds_and_what_is_shipped(tmp_path, monkeypatch):
    def endless(recipe, model):
        raise several.OutOfTime

    monkeypatch.setattr(ddpm, "tiny", TINY, raising=False)
    monkeypatch.setattr(ddpm, "other", replace(OTHER, measure=endless), raising=False)
    plan = (("ddpm.other", 0.2, {}), ("ddpm.tiny", 2, {"batch": 16}))
    became = gpu_work.recipes("cpu", 0.15, tmp_path / "made", plan)
    assert became == {"ddpm.other": several.LATE, "ddpm.tiny": several.DONE}
    assert read_json(tmp_path / "made" / "became.json") == became
    log = read_json(tmp_path / "made" / "99_test" / "tiny.log.json")
    assert log["command"] == "make gpu STAGES=recipes DEVICE=cpu MINUTES=0.15"
    assert log["set"] == {"batch": 16} and log["batch"] == 16 and 0 < log["minutes"] < 0.8 * 0.15
    # The first has weights and a log, but no results: it is not whole.
    assert (tmp_path / "made" / "98_test" / "other.safetensors").is_file()
    monkeypatch.setattr(gpu_work, "PLAN", plan)
    (tmp_path / "assets" / "98_test").mkdir(parents=True)
    (tmp_path / "assets" / "98_test" / "other.log.json").write_text("older")
    assert gpu_work.ship(tmp_path / "made", tmp_path / "assets") == ["ddpm.tiny"]
    for kind in ("log.json", "results.json", "safetensors"):
        name = f"99_test/tiny.{kind}"
        assert (tmp_path / "assets" / name).read_bytes() == (tmp_path / "made" / name).read_bytes()
    assert (tmp_path / "assets" / "98_test" / "other.log.json").read_text() == "older"


# What is counted


def test_operations_of_a_step_are_those_of_its_matrix_products():
    """2 m n k for each product, and twice that going back; but nobody wants the gradient of what comes first."""
    H, depth = 64, 2
    process = md4_process()
    model, L = TokenNet(process.noise.K, K, H, 1, depth), process.length
    counted = gpu_work.work_of_a_row(process, model, torch.randint(0, K, (3, L)))
    layer = L * 12 * H**2 + 6 * H**2 + 2 * L**2 * H  # qkv, proj, MLP; adaLN; attention
    time = [
        layer.weight.numel() for layer in model.trunk.time.modules() if isinstance(layer, torch.nn.Linear)
    ]
    assert counted == 2 * (3 * (depth * layer + L * H * K) + 3 * sum(time) - time[0])
    assert all(p.grad is None for p in model.parameters())


def test_speed_and_memory_are_told(tmp_path):
    assert gpu_work.main(["memory", "--device", "cpu", "--small", "--out", str(tmp_path)]) == 0
    found = read_json(tmp_path / "memory.json")
    assert found["words"] == 1000 and found["tokens_per_step"] == 128 and found["kept"] in (True, False, None)
    wanted = 6 * found["parameters"] + 16 * 128 * 1000 + 60 * 128 * 64 * 2
    assert found["stated_MiB"] == pytest.approx(wanted / 2**20)


def test_the_share_of_the_machine(monkeypatch):
    monkeypatch.setattr(gpu_work, "products", lambda *_: 1e12)
    found = gpu_work.mfu("cpu", small=True)
    rate = found["operations_per_step"] / found["seconds_per_step"]
    assert found["of_measured"] == pytest.approx(rate / 1e12) and found["mfu"] is None
    assert found["tokens_per_second"] == pytest.approx(512 / found["seconds_per_step"])
    assert json.loads(json.dumps(found))["aim"] == 0.4


@pytest.mark.parametrize(
    "name, rate",
    [("NVIDIA H200", 989e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA A100-SXM4-80GB", 312e12),
     ("NVIDIA L4", 121e12), ("NVIDIA L40S", 362e12), ("", None)],
)  # fmt: skip
def test_nominal_rates_by_name(name, rate):
    assert gpu_work.nominal_rate(name) == rate


# make reproduce


def test_every_result_has_its_command_its_time_and_its_place():
    done = subprocess.run(
        [sys.executable, "-m", "tools.reproduce"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ASSETS.parent,
    )
    lines = done.stdout.splitlines()
    results = sorted(ASSETS.glob("*/*.results.json"))
    assert len(lines) == len(results) + 3
    for line, path in zip(lines[1:], results, strict=False):
        log = read_json(path.with_name(path.name.replace(".results.", ".log.")))
        assert line.startswith(log["recipe"]) and f"{log['seconds'] / 60:.1f}" in line
        assert (log.get("command") or log["made"]) in line and not line.endswith("nowhere")
    hours = sum(read_json(p)["seconds"] for p in ASSETS.glob("*/*.log.json")) / 3600
    assert lines[-1] == f"all together {hours:.1f} hours"
    (mnist,) = [line for line in lines if line.startswith("01_ddpm/mnist ")]
    assert "docs/RESULTS.md" in mnist and " 01, " in mnist
    assert reproduce.called()["04_diffusion_lm/full"] == "diffusion_lm.full"
