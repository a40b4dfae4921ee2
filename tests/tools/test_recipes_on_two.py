"""One recipe on two processes: the same losses and weights as on one, also when one of them is killed on the way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from course_lib.files import load_tensors

SCRIPT = Path(__file__).with_name("recipe_on_two.py")
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
WORDS = ["run", "d3pm.tiny", "--device", "cpu"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: torchrun and gloo")


def run(out, *launcher, **variables):
    command = [sys.executable, *launcher, str(SCRIPT), *WORDS, "--out", str(out)]
    base = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    environment = base | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])} | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def state(out):
    """Losses of all steps, weights and averages in full."""
    tensors = load_tensors(out / "tiny.checkpoint")[0]
    weights = {k: v for k, v in tensors.items() if k.startswith(("model/", "average/"))}
    return json.loads((out / "tiny.progress.json").read_text()), weights


def test_two_processes_are_one_and_one_that_is_killed_loses_nothing(tmp_path):
    alone = run(tmp_path / "one")
    assert alone.returncode == 0, alone.stderr
    killed = run(tmp_path / "two", *TWO, DIES="1 7")
    assert killed.returncode != 0 and "Signal 9" in killed.stderr
    assert {p.name for p in (tmp_path / "two").iterdir()} == {
        "tiny.checkpoint", "tiny.progress.json", "tiny.session.progress.json"
    }  # fmt: skip
    (past, _), steps = state(tmp_path / "two"), 4
    assert len(past["losses"]) == steps and not past["trained"]
    again = run(tmp_path / "two", *TWO)
    assert again.returncode == 0, again.stderr
    (one, want), (two, have) = state(tmp_path / "one"), state(tmp_path / "two")
    assert len(one["losses"]) == 12 and two["losses"][:steps] == past["losses"]
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert set(want) == set(have)
    for name, value in want.items():
        torch.testing.assert_close(have[name], value, rtol=0, atol=1e-5)
    logs = [json.loads((tmp_path / name / "tiny.log.json").read_text()) for name in ("one", "two")]
    assert [log["device"] for log in logs] == ["cpu, 1 thread(s)", "cpu, 1 thread(s), 2 processes"]
    assert logs[0]["lr_every_100_steps"] == logs[1]["lr_every_100_steps"]
    # Only the first process speaks and writes.
    assert again.stdout.count("d3pm.tiny: done") == again.stdout.count("step 12 of 12") == 1
    files = {p.name for p in (tmp_path / "two").iterdir()}
    assert files == {p.name for p in (tmp_path / "one").iterdir()} and "tiny.results.json" in files
