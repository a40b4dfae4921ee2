"""The arithmetic of docs/SCALING.md, from the networks and the numbers of steps that it names."""

import re
from pathlib import Path

import pytest
import torch

from course_lib.nets import TokenNet

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "SCALING.md").read_text(encoding="utf-8")


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
