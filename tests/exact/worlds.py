"""Tiny worlds: joint distributions of a few tokens, and perfect networks for them."""

from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.joint import random_joint
from course_lib.mdlm import MDLM
from course_lib.oracle import TableOracle


def masked(V=3, L=3, concentration=0.35, seed=0):
    """p, a masked process whose last time is all MASK, and the perfect network."""
    p = random_joint(V, L, concentration, seed)
    process = MDLM(Absorbing(V, S.log_linear(0.0)), L)
    return p, process, TableOracle(process, p)
