"""What `train` is given: each argument checked before the first step, and each batch as it comes."""

import math
from collections.abc import Callable
from numbers import Real

import torch
from torch import nn

from .process import Process
from .shapes import describe

HALF = (torch.bfloat16, torch.float16)


def check_model(model: nn.Module, process: Process) -> None:
    """Raise unless the model is a network with something to train, on the process's device."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, not {describe(model)}")
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError(
            "model must have parameters that require a gradient, but it has none or all are frozen"
        )
    if any(p.is_inference() for p in trained):
        raise ValueError(
            "model must not be made under torch.inference_mode(): its weights cannot be trained"
        )
    # A step of 1e-3 of a weight is less than half precision resolves: weights and their average would stand still.
    half = [p.dtype for p in trained if p.dtype in HALF]
    if half:
        raise ValueError(
            f"model must have float32 or float64 weights to be trained, not {half[0]}: pass precision={half[0]}"
        )
    tables = next(process.buffers(), None)
    if tables is not None and tables.device != trained[0].device:
        raise ValueError(
            f"model and process must be on one device, not on {trained[0].device} and {tables.device}: use .to(device)"
        )


def check_gradients() -> None:
    """Raise RuntimeError where gradients are switched off."""
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise RuntimeError(
            "train needs gradients, but runs under torch.no_grad() or torch.inference_mode()"
        )


def as_schedule(lr: float | Callable[[int], float]) -> Callable[[int], float]:
    """The learning rate as a function of the step."""
    if callable(lr):
        return lr
    if not isinstance(lr, Real) or isinstance(lr, bool):
        raise TypeError(
            f"lr must be a number or a function of the step, not {describe(lr)}"
        )
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, not {lr}")
    return lambda step: lr


def check_real(name: str, value: object) -> None:
    """Raise TypeError unless value is a number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {describe(value)}")


def checked_rate(rate: float, step: int) -> float:
    """A learning rate that a function gave, or ValueError: it may be 0, but not negative or NaN."""
    if not 0 <= rate < math.inf:
        raise ValueError(f"lr must give a rate >= 0, but lr({step}) is {rate}")
    return float(rate)


def as_precision(precision: torch.dtype | None) -> torch.dtype | None:
    """The precision, or an error for what autocast does not do."""
    if precision is not None and not isinstance(precision, torch.dtype):
        raise TypeError(
            f"precision must be a torch.dtype such as torch.bfloat16, not {precision!r}"
        )
    if precision not in (None, *HALF):
        raise ValueError(
            f"precision must be None, torch.bfloat16 or torch.float16, not {precision}"
        )
    return precision


# Batches


def moved(data, device: torch.device):
    """A batch on the device, part by part."""
    if hasattr(data, "to"):
        return data.to(device, non_blocking=True)
    if isinstance(data, dict):
        return {k: moved(v, device) for k, v in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(moved(v, device) for v in data))
    if isinstance(data, tuple | list):
        parts = [moved(v, device) for v in data]
        return parts[0] if len(parts) == 1 else type(data)(parts)
    raise TypeError(
        f"batches must hold tensors, things with .to(device), or tuples, lists and dicts of these, not {describe(data)}"
    )


def size_of(data, step: int) -> int:
    """How many examples a batch has."""
    sizes = lengths(data)
    if len(sizes) > 1:
        raise ValueError(
            f"the parts of a batch must be equally long, but at step {step} have {sorted(sizes)}"
        )
    if not sizes or 0 in sizes:
        raise ValueError(f"batches must not be empty, but that of step {step} is")
    return sizes.pop()


def lengths(data) -> set[int]:
    """The lengths of all parts of a batch."""
    if isinstance(data, dict):
        data = list(data.values())
    if isinstance(data, tuple | list):
        return set().union(*map(lengths, data))
    return {len(data)}
