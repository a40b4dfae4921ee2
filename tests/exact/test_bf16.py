"""bf16 autocast of the network against float32: equal draws, losses within TOLERANCE, gradients in one direction."""

import pytest
import torch

from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.d3pm import D3PM
from course_lib.ddpm import DDPM
from course_lib.mdlm import MDLM
from course_lib.nets import TokenNet, UNet
from course_lib.sedd import SEDD
from course_lib.stationary import Uniform
from course_lib.train import train

TOLERANCE = 0.01  # of the mean loss, and of 1 - cosine of the gradient: bf16 has 8 bits
SYSTEMS = {
    "ddpm": lambda: (DDPM(S.table(S.cosine(), 50), (1, 8, 8)), UNet(1, (8, 16)), torch.randn(32, 1, 8, 8)),
    "d3pm": lambda: tokens(D3PM(Uniform(27, S.table(S.cosine(power=1), 50)), 32)),
    "mdlm": lambda: tokens(MDLM(Absorbing(27, S.log_linear()), 32)),
    "sedd": lambda: tokens(SEDD(Uniform(27, S.log_linear()), 32)),
}


def tokens(process):
    return process, TokenNet(process.noise.K, 27, 64, 4, 2), torch.randint(0, 27, (32, 32))


def first_step(name, precision, device):
    """Mean loss and gradient of one step, and the mean loss of the last of ten."""
    torch.manual_seed(0)
    with torch.device("cpu"):
        process, model, data = SYSTEMS[name]()
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.1)
    process, model, data = process.to(device), model.to(device), data.to(device)
    torch.manual_seed(1)
    records = train(process, model, iter(lambda: data, None), steps=10, lr=1e-3, precision=precision)
    loss = next(records).loss.mean().item()
    gradient = torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])
    *_, last = records
    return loss, gradient, last.loss.mean().item()


@pytest.mark.parametrize("name", SYSTEMS)
def test_bf16_is_float32_but_for_rounding(name, device):
    if device == "mps":
        pytest.skip("needs a CUDA device: MPS autocasts other operations")
    loss, gradient, last = first_step(name, torch.bfloat16, device)
    want, direction, want_last = first_step(name, None, device)
    assert loss == pytest.approx(want, rel=TOLERANCE) and loss != want
    assert torch.cosine_similarity(gradient, direction, dim=0) > 1 - TOLERANCE
    assert last == pytest.approx(want_last, rel=3 * TOLERANCE)
