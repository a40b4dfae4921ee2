"""Time, peak memory and physical floors of calls that do the same work, measured in turns.

Machines are shared and change their speed, so calls take turns, and one thread of a CPU is timed by its own processor
time: a ratio is the median over rounds of the ratio within a round. The floor is the time in which this machine, in
this run, copies as many bytes as must be moved at least, or multiplies matrices for as many operations as must be made,
whichever is longer. Nothing here asserts a time.
"""

import itertools
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

ROUND = 0.02  # seconds that one call's turn takes at least
MIB = 2**20


@dataclass(frozen=True)
class Comparison:
    """Calls that do the same work; the first is the library's.

    moved  bytes that must be read and written at least
    made   floating-point operations that must be made at least; None counts those of the library's matrix products
    floor  what these are, in words; empty where there is no such thing
    equal  True if all calls return the same number, so that a test can see it
    """

    name: str
    calls: dict[str, Callable]
    moved: float = 0.0
    made: float | None = 0.0
    floor: str = ""
    equal: bool = False


MAKERS: list[Callable[[str, bool], Comparison]] = []


def comparison(make: Callable[[str, bool], Comparison]) -> Callable[[str, bool], Comparison]:
    """Put make(device, small) on the list of what `make bench` measures; small is for tests."""
    MAKERS.append(make)
    return make


# Time


def finish(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def clock(device: str) -> Callable[[], float]:
    """Seconds of this process and its children on one thread of a CPU, which others on the machine do not change; else
    seconds of the wall."""
    if device != "cpu" or torch.get_num_threads() > 1 or not hasattr(os, "fork"):
        return time.perf_counter
    import resource  # not on Windows

    def own() -> float:
        child = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + child.ru_utime + child.ru_stime

    return own


def timed(call: Callable, times: int, device: str) -> float:
    """Seconds of one call, the mean over so many in a row."""
    now = clock(device)
    finish(device)
    start = now()
    for _ in range(times):
        call()
    finish(device)
    return max(now() - start, 1e-9) / times


def in_turns(calls: dict[str, Callable], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each call in each round."""
    repeats = {}
    for who, call in calls.items():
        call()  # what is made once (kernels, tables) is not timed
        once = timed(call, 1, device)
        repeats[who] = max(1, math.ceil(ROUND / once))
    seconds = {who: [] for who in calls}
    for _ in range(rounds):
        for who, call in calls.items():
            seconds[who].append(timed(call, repeats[who], device))
    return seconds


def ratio(theirs: list[float], ours: list[float]) -> list[float]:
    """Quartiles of theirs / ours over the rounds: lower, median, upper."""
    each = [a / b for a, b in zip(theirs, ours, strict=True)]
    return each * 3 if len(each) == 1 else statistics.quantiles(each, n=4, method="inclusive")


# Memory


def peak(call: Callable, device: str) -> float:
    """MiB of tensors that a call holds at once at most, beside what is there before: the allocator's own account."""
    call()
    finish(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        finish(device)
        return (torch.cuda.max_memory_allocated() - before) / MIB
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    moves = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    moves.sort(key=lambda event: event.start_ns())
    # what a call frees, it counts below zero: bytes of a tensor that was there before do not make room for its own
    return max(itertools.accumulate((event.nbytes() for event in moves), initial=0)) / MIB


# Floors


def copy_of(moved: float, device: str) -> Callable:
    """A call that moves so many bytes: it reads half of them and writes half."""
    source = torch.ones(max(1, int(moved) // 8), device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def product(n: int, device: str) -> tuple[Callable, float]:
    """A product of two n x n matrices in float32, and its operations."""
    a, b = torch.randn(2, n, n, device=device)
    return lambda: a @ b, 2.0 * n**3


def operations(call: Callable) -> float:
    """Floating-point operations in the matrix products of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def measured(what: Comparison, device: str, rounds: int, n: int = 1024) -> dict:
    """Everything about one comparison, as JSON."""
    ours = next(iter(what.calls))
    made = operations(what.calls[ours]) if what.made is None else what.made
    calls = dict(what.calls)
    if what.moved:
        calls["copy"] = copy_of(what.moved, device)
    multiply, each = product(n, device)
    if made:
        calls["product"] = multiply
    seconds = in_turns(calls, rounds, device)
    floor = [
        max(
            seconds["copy"][i] if what.moved else 0.0,
            seconds["product"][i] * made / each if made else 0.0,
        )
        for i in range(rounds)
    ]
    found = {}
    for who, call in what.calls.items():
        found[who] = {
            "seconds": statistics.median(seconds[who]),
            "MiB": peak(call, device),
            "over_ours": ratio(seconds[who], seconds[ours]),
            "over_floor": ratio(seconds[who], floor) if what.floor else None,
        }
    return {
        "name": what.name,
        "floor": {"what": what.floor, "bytes": what.moved, "operations": made},
        "calls": found,
    }
