"""Sampling may start below T where x_t is nearly pure noise; elsewhere a draw of the prior is no state of that time."""

import pytest
import torch

from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.d3pm import D3PM
from course_lib.ddim import DDIM
from course_lib.ddpm import DDPM
from course_lib.mdlm import MDLM
from course_lib.process import last, sample
from course_lib.sde import VE, VP, SubVP
from course_lib.sedd import SEDD
from course_lib.solvers import Ancestral
from course_lib.stationary import Uniform

TABLE = S.ddpm_table(1000)
TOKENS = S.table(S.cosine(power=1), 1000)


def zero(x, u):
    return torch.zeros_like(x)


def logits(x, u):
    return torch.zeros(*x.shape, 5)


@pytest.mark.parametrize(
    "process, network, early, late",
    [
        (DDPM(TABLE, (2,), variance="large"), zero, 100, 901),
        (DDIM(TABLE, (2,)), zero, 300, 501),
        (VP(S.linear(), (2,)), zero, 0.2, 0.9),
        (SubVP(S.linear(), (2,)), zero, 0.2, 0.9),
        (VE((2,)), zero, 0.9, 0.99),
        (Ancestral(VE((2,))), zero, 0.9, 0.99),
        (D3PM(Uniform(5, TOKENS), 4), logits, 500, 980),
        (SEDD(Uniform(5, S.geometric()), 4), logits, 0.5, 0.99),
    ],
    ids=lambda v: type(v).__name__ if hasattr(v, "step") else None,
)
def test_the_first_time_is_one_of_nearly_pure_noise(process, network, early, late):
    sample(process, network, 3, torch.tensor([late, 0]))
    with pytest.raises(ValueError, match=r"must start where .* nearly"):
        sample(process, network, 3, torch.tensor([early, 0]))


@pytest.mark.parametrize(
    "process, t",
    [
        (D3PM(Absorbing(5, S.table(S.log_linear(0.0), 100, max_beta=1.0)), 4), 20),
        (MDLM(Absorbing(5, S.log_linear(0.0)), 4), 0.2),
    ],
)
def test_masks_say_nothing_at_any_time(process, t):
    end, x = last(sample(process, logits, 3, torch.tensor([t, 0])))
    assert end == 0 and (x < 5).all()
