"""Every system works on a device that is not the CPU, and its loops do not make the host wait for it.

On every machine that is the device that pretends (tests/pretend_device.py), which runs the code of a GPU; where there
is CUDA, the GPU too, watched by torch.cuda.set_sync_debug_mode.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import pretend_device
from tests.contract.test_contract import SYSTEMS

ROOT = Path(__file__).resolve().parents[2]
# Loops that wait, and why. The list may only shrink.
WAIT = {
    "sde, probability flow": "sample: SciPy's solver works on the host",
    "sde, dpm-solver": "sample: on the device that pretends only, whose tensors do not tell that they are repeated",
    "sde, predictor-corrector": "sample: the same",
    "d3pm, gaussian": "both: products of matrices, one for each pair of times",
    "autoregressive": "sample: a step is for one position, a number",
    "block diffusion": "sample: asks which blocks are done",
    "diffusion-lm": "train: the cross-entropy is of the counted words only",
    "diffusion-lm, recalling": "train: the same",
    "diffusion-lm, guided": "train: the same",
    "diffuseq": "train: the same",
}


@pytest.fixture(scope="module", params=["pretend", "cuda"])
def found(request):
    """What each system did; in a process of its own, since a device that pretends stays."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if request.param == "pretend" and not pretend_device.can_be():
        pytest.skip("needs a CUDA device, or a torch that can pretend one")
    command = [sys.executable, "-m", "tests.contract.waits", request.param]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return request.param, json.loads(done.stdout)


def test_every_system_works_there_as_on_the_cpu(found):
    device, results = found
    assert set(results) == set(SYSTEMS)
    lost = {name: r["error"] for name, r in results.items() if "error" in r}
    assert not lost, "\n".join(f"{name}: {error}" for name, error in lost.items())
    if device == "pretend":  # which draws the CPU's numbers
        for name, r in results.items():
            here, there = r["losses"]
            assert there == pytest.approx(here, rel=1e-4), name


def test_no_loop_waits_for_the_device(found):
    results = found[1]
    for name, r in results.items():
        why = WAIT.get(name, "")
        if not why.startswith(("train", "both")):
            assert not r["train"], f"training {name} waits: {r['train']}"
        if not why.startswith(("sample", "both")):
            assert not r["sample"], f"sampling {name} waits: {r['sample']}"


def test_the_list_of_loops_that_wait_is_true(found):
    if found[0] == "pretend":
        assert {name for name, r in found[1].items() if r["train"] or r["sample"]} == set(WAIT)


UNSEEN = """
import torch
from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.mask_count import MaskCount
from course_lib.mdlm import MDLM
from tests import pretend_device
pretend_device.install()
process = MDLM(Absorbing(4, S.log_linear()), 3).to("pretend")
model = lambda x, u, **_: torch.zeros(*x.shape, 4, device=x.device)
t = torch.tensor([0.5], device="pretend")
counted = MaskCount(MDLM(Absorbing(4, S.log_linear()), 3)).to("pretend")
for who, row in [(process, [0, -100, 1]), (process, [0, 9, 1]), (process, [0, -1, 1]), (counted, [0, 1, -1])]:
    data = torch.tensor([row]).to("pretend")
    try:
        who.loss(model, data, t if who is process else torch.tensor([2]).to("pretend"))
        print("nothing")
    except FloatingPointError as error:
        print(error)
"""


def test_wrong_tokens_are_named_on_a_device_too():
    """Padding of other libraries, no token, PAD inside a row, PAD under MaskCount; read at once without a loop."""
    if not pretend_device.can_be():
        pytest.skip("needs a CUDA device, or a torch that can pretend one")
    done = subprocess.run([sys.executable, "-c", UNSEEN], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[:2] == ["x0 must be in 0..3, but it is not in 1 of 1 cases"] * 2
    assert said[2].startswith(
        "x0 must be a token in each row, and PAD = -1 only at its end, but it is not in 1"
    )
    assert said[3].startswith("x0 must be without PAD under MaskCount, but it is not in 1")
