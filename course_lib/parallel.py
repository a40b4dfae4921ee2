"""Many processes as one, on torch's own engine: torchrun starts them, torch.distributed carries what they share.

Without torchrun there is one process, and everything here does nothing. Small facts (who may write, the time, an error)
go over the CPU, so that no device has to wait; gradients and losses go from device to device.
"""

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Value = TypeVar("Value")
# While process 0 measures the others wait. One that dies is noticed at once, by its closed connections.
PATIENCE = timedelta(hours=24)


def join() -> torch.device:
    """Join the processes that torchrun started, and say on which device this one works; without torchrun, alone.

    CUDA where there is one, a GPU for each process of a machine, else the CPU.
    """
    cuda = torch.cuda.is_available()
    place = int(os.environ.get("LOCAL_RANK", 0))
    if cuda:
        torch.cuda.set_device(place)
    if "RANK" in os.environ and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
    return torch.device("cuda", place) if cuda else torch.device("cpu")


def leave() -> None:
    """Part from the others, if there are any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


def first() -> bool:
    """True on process 0, which alone prints and writes."""
    return rank() == 0


def check_backends() -> None:
    """Raise ValueError for processes that cannot talk over the CPU, as after init_process_group("nccl")."""
    if world() > 1 and "cpu:" not in str(dist.get_backend_config()):
        raise ValueError(
            "processes must talk over the CPU, too: init_process_group('cpu:gloo,cuda:nccl'), or parallel.join()"
        )


# Small facts, over the CPU


def agreed(value: Value) -> Value:
    """What process 0 says, on all of them: a number, a text, or anything that pickles."""
    if world() == 1:
        return value
    said = [value]
    dist.broadcast_object_list(said, src=0, device=torch.device("cpu"))
    return said[0]


def together(what: Callable[[], Value], everywhere: bool = False) -> Value:
    """what() on process 0 alone, and its result on all; or on each of them, each with its own result.

    Where it fails, all raise the error: nobody waits for one that has stopped.
    """
    if world() == 1:
        return what()
    result, error = None, None
    if everywhere or first():
        try:
            result = what()
        except Exception as raised:  # every kind of error: all must know
            error = raised
    if not everywhere:
        result, error = agreed((result, error))
    else:
        errors = [None] * world()
        dist.all_gather_object(errors, error)
        error = error or next((e for e in errors if e is not None), None)
    if error is not None:
        raise error
    return result


# Tensors, from device to device


@torch.no_grad()
def start_alike(tensors: Iterable[Tensor]) -> None:
    """Give all processes the values of process 0."""
    if world() > 1:
        for value in tensors:
            dist.broadcast(value, src=0)


def summed(value: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if world() > 1:
        dist.all_reduce(value)
    return value


@torch.no_grad()
def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Gradients become their mean over all processes; one that a process has not counts as 0 there."""
    trained = [p for p in parameters if p.requires_grad]
    for dtype in {p.dtype for p in trained}:
        some = [p for p in trained if p.dtype == dtype]
        for p in some:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        # One message for all of them: many small ones would cost more than the numbers.
        flat = summed(torch.cat([p.grad.flatten() for p in some])) / world()
        for p, mean in zip(some, flat.split([p.numel() for p in some]), strict=True):
            p.grad.copy_(mean.view_as(p))
