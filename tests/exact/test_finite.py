"""Numbers that are not finite: what is said, when, and by whom."""

import math

import pytest
import torch
from torch import tensor

from course_lib.finite import Watch, check_finite, note


def test_good_numbers_come_back():
    x = torch.randn(2, 3)
    assert check_finite("x", x, torch.ones(2)) is x
    note("x", tensor([True, True]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_number_is_named_with_its_time(bad):
    x = torch.zeros(3, 2, 2)
    x[1, 0, 1] = bad
    with pytest.raises(
        FloatingPointError, match="^x must be finite, but at t = 0.5 it is not in 1 of 3 examples$"
    ):
        check_finite("x", x, tensor([0.25, 0.5, 1.0]))
    with pytest.raises(
        FloatingPointError, match="^x must be finite, but at t = 7 it is not in 1 of 3 examples$"
    ):
        check_finite("x", x[:, 0, 1], tensor(7).expand(3))


def test_a_sum_is_read_first_and_never_believed_alone():
    """It overflows where all numbers are finite, and infinities may cancel in it."""
    t = torch.ones(2)
    for large in (torch.full((2, 5), 3e38), torch.full((2, 500), 6e4, dtype=torch.float16)):
        assert not large.sum().isfinite() and check_finite("x", large, t) is large
    both = tensor([[math.inf, 0.0], [-math.inf, 0.0]])
    with pytest.raises(FloatingPointError, match="it is not in 2 of 2 examples"):
        check_finite("x", both, t)


def test_what_has_no_time_is_counted_one_by_one():
    with pytest.raises(FloatingPointError, match="^x must be whole, but it is not in 2 of 4 cases$"):
        note("x", tensor([[True, False], [False, True]]), must="whole")


def test_a_watch_adds_its_step_and_is_read_once():
    """What a GPU does: noted without being looked at, and raised at the end, the first first."""
    watch = Watch()
    watch.read()
    watch.step = 3
    watch.add(tensor([True, True]), tensor([1.0, 1.0]), "x", "finite")
    watch.step = 4
    watch.add(tensor([True, False]), tensor([0.5, 0.25]), "y", "finite")
    watch.step = 5
    watch.add(tensor([[False]]), None, "z", "a law")
    with pytest.raises(
        FloatingPointError, match="y must be finite, but at step 4, at t = 0.25 it is not in 1 of 2"
    ):
        watch.read()
    watch.read()
    watch.add(tensor([[False]]), None, "z", "a law")
    with pytest.raises(
        FloatingPointError, match="^z must be a law, but at step 5, it is not in 1 of 1 cases$"
    ):
        watch.read()


def test_a_running_watch_tells_its_step_on_a_cpu_too():
    watch = Watch()
    watch.step = 8
    with watch, pytest.raises(FloatingPointError, match="but at step 8, at t = 1 it is not"):
        check_finite("x", tensor([math.nan]), tensor([1.0]))
    with pytest.raises(FloatingPointError, match="but at t = 1 it is not"):
        check_finite("x", tensor([math.nan]), tensor([1.0]))
