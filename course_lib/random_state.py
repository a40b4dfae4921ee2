"""torch's random state: kept, put back, and made a function of a few numbers."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from .shapes import check_count

Value = TypeVar("Value")


def random_state(device: torch.device) -> dict[str, Tensor]:
    """torch's random state, of the CPU and of the CUDA device in use."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore(state: dict[str, Tensor], device: torch.device) -> None:
    """Put back what `random_state` gave; what is not in it stays."""
    if "cpu" in state:
        torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def seed_of(*numbers: int) -> int:
    """A seed that depends on all of the numbers: neighbours (seed 1 at step 2, seed 2 at step 1) share nothing."""
    said = " ".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "big") >> 1


def start_from(seed: int, device: torch.device) -> None:
    """Seed the CPU and this device. Not torch.manual_seed, which seeds all devices, also those nobody puts back."""
    torch.random.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@contextmanager
def drawing_from(seed: int | None, device: torch.device) -> Iterator[None]:
    """Inside, torch draws from this seed; afterwards it goes on as if nothing had been drawn. None changes nothing."""
    if seed is None:
        yield
        return
    check_count("seed", seed, least=0)
    with undisturbed(device):
        start_from(seed, device)
        yield


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, torch goes on afterwards as if nothing had been."""
    if device.type == "cpu":
        with torch.random.fork_rng([], device_type="cuda"):
            yield
        return
    module = torch.get_device_module(device)
    index = module.current_device() if device.index is None else device.index
    with torch.random.fork_rng([index], device_type=device.type):
        yield


def by_itself(
    made: Iterator[Value],
    device: torch.device,
    start: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> Iterator[Value]:
    """What an iterator makes, drawing on a random state of its own: that it started with, whatever others draw.

    start  gives the first state from torch's own: what all processes agree on
    """
    state = start(random_state(device))
    while True:
        with undisturbed(device):
            restore(state, device)
            try:
                value = next(made)
            except StopIteration:
                return
            state = random_state(device)
        yield value
