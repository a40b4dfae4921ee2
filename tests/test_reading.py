"""How much one reads to follow a loss: the files that it runs through, and their lines of code.

Left out are the networks, the trainer, and what no reader opens: names of shapes, checks of arguments, numbers that are
not finite, and the foundations below (clocks, sentences).
"""

import sys
from pathlib import Path

import pytest
import torch

import course_lib
from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.ddpm import DDPM
from course_lib.mask_count import MaskCount
from course_lib.sedd import SEDD
from tools.density import measure

ROOT = Path(course_lib.__file__).parent
FOUNDATIONS = {
    "shapes",
    "finite",
    "process_checks",
    "token_checks",
    "files",
    "nets",
    "train",
    "schedules",
    "sentences",
}


def read_through(call) -> list[Path]:
    """The files of course_lib that a call executes code of."""
    seen = set()

    def look(frame, event, arg):
        seen.add(Path(frame.f_code.co_filename))

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(before)
    return sorted(p for p in seen if p.parent == ROOT and p.stem not in FOUNDATIONS)


def masked(process):
    """One loss of SEDD on masks, x_t drawn."""
    x0 = torch.randint(0, 5, (8, 6))
    return lambda: process.loss(lambda x, u: torch.zeros(*x.shape, 5), x0, process.sample_t(8))


def gaussian():
    """One loss of DDPM."""
    process = DDPM(S.ddpm_table(50), (2,))
    return lambda: process.loss(lambda x, u: 0 * x, torch.randn(8, 2), process.sample_t(8))


SEDD_ON_MASKS = SEDD(Absorbing(5, S.log_linear()), 6)
CASES = {
    "SEDD on masks": (
        masked(SEDD_ON_MASKS),
        {"absorbing", "categorical", "mdlm", "process", "sedd", "tokens"},
        915,
    ),
    "DDPM": (gaussian(), None, 600),
}


@pytest.mark.parametrize("name", CASES)
def test_few_lines_are_read_to_follow_a_loss(name):
    call, files, most = CASES[name]
    paths = read_through(call)
    lines = sum(measure(p.read_text(encoding="utf-8"))[0] for p in paths)
    print(f"{name}: {len(paths)} files, {lines} lines of code: {', '.join(p.stem for p in paths)}")
    if files is None:
        assert len(paths) <= 4, paths
    else:
        assert {p.stem for p in paths} <= files
    assert lines <= most


def test_counting_masks_is_one_file_more():
    more = set(read_through(masked(MaskCount(SEDD_ON_MASKS)))) - set(read_through(masked(SEDD_ON_MASKS)))
    assert {p.stem for p in more} <= {"mask_count", "wrapper"}
