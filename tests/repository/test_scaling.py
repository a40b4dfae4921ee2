"""The arithmetic of docs/SCALING.md, from the networks and the numbers of steps that it names."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from course_lib.nets import TokenNet

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "SCALING.md").read_text(encoding="utf-8")


def met(V, masked):
    """Weights that a token meets: those of matrices, less adaLN's and the time's; the head's for the share masked."""
    with torch.device("meta"):
        net = TokenNet(V + 1, V, 768, 12, 12)
    sizes = {name: p.numel() for name, p in net.named_parameters() if p.ndim == 2}
    blocks = sum(n for name, n in sizes.items() if ".blocks." in name and ".ada." not in name)
    return blocks + masked * sizes["head.weight"] * (V > 1000)


@pytest.mark.parametrize(
    "name, V, steps, L", [("text8", 27, 1_000_000, 256), ("OpenWebText", 50_257, 1_300_000, 1024)]
)
def test_the_cost_of_a_run(name, V, steps, L):
    (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| {name}"))
    N, D = met(V, 0.5), steps * 512 * L
    operations = (6 * N + 12 * L * 768 * 12) * D
    hours = operations / (0.4 * 989e12) / 3600
    assert row.startswith(f"| {name}") and f"{steps:,} steps of 512 x {L} " in row
    assert row.split(" | ")[2:] == [f"{D:.2e}".replace("e+", "e"), f"{N / 1e6:.1f} million",
                                    f"{operations:.2e}".replace("e+", "e"), f"{hours:.0f} |"]  # fmt: skip


def test_memory_of_logits():
    assert f"{64 * 1024 * 50_257 * 2 / 1e9:.1f} GB for each copy" in PAGE
    assert int(re.search(r"are (\d+) bytes a weight", PAGE)[1]) == 4 * (1 + 1 + 2 + 1)


def test_recipes_that_are_named_exist():
    from course_lib.recipes.run import find

    assert {find(name).name for name in re.findall(r"recipes run ([\w.]+)", PAGE)}


def test_the_program_of_the_page_runs_as_printed_on_two_processes(tmp_path):
    """By torchrun, as a reader would; killed or not, the second call has nothing left to do and says the same."""
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "program.py"]
    inside = {"cwd": tmp_path, "text": True, "capture_output": True, "timeout": 500}
    inside["env"] = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    said = [subprocess.run(words, **inside, check=True).stdout for _ in range(2)]
    # Old versions of torch let Gloo speak there, too.
    said = [re.sub(r"(?m)^\[Gloo\].*\n", "", out) for out in said]
    assert re.fullmatch(r"[12]\.\d\d nats per token on 2 processes\n", said[0]) and said[0] == said[1]
