"""What `train` is given: each argument checked before the first step, and each batch as it comes."""

import math
from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from .identity import class_of
from .learning_rate import OfProgress
from .process import Process
from .shapes import describe
from .weights import bare, spread

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


def as_schedule(
    lr: float | Callable[[int], float] | OfProgress | None, keeps_its_own: bool
) -> Callable[[int, float], float | None]:
    """The learning rate as a function of the step and the progress; None leaves the optimiser's own as it is."""
    if lr is None:
        rate = None if keeps_its_own else 1e-3
        return lambda step, progress: rate
    if isinstance(lr, OfProgress):
        return lambda step, progress: lr.rate(progress)
    if callable(lr):
        return lambda step, progress: given_rate(lr(step), step)
    if not isinstance(lr, Real) or isinstance(lr, bool):
        raise TypeError(
            f"lr must be a number, a function of the step or OfProgress, not {describe(lr)}"
        )
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, not {lr}")
    return lambda step, progress: lr


def as_optimizer(
    optimizer: Optimizer | Callable[[list[nn.Parameter]], Optimizer] | None,
    model: nn.Module,
) -> Optimizer:
    """The optimiser; AdamW without weight decay if there is none. ValueError unless it has what is to be trained."""
    parameters = list(model.parameters())
    if optimizer is None:
        return torch.optim.AdamW(parameters, weight_decay=0.0, fused=True)
    if not isinstance(optimizer, Optimizer):
        if not callable(optimizer):
            raise TypeError(
                f"optimizer must be a torch Optimizer or a function that makes one, not {describe(optimizer)}"
            )
        optimizer = optimizer(parameters)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must give a torch Optimizer, not {describe(optimizer)}"
        )
    has = {id(p) for group in optimizer.param_groups for p in group["params"]}
    lost = [
        k for k, p in model.named_parameters() if p.requires_grad and id(p) not in has
    ]
    if lost:
        raise ValueError(
            f"optimizer must have all parameters of the model that need a gradient, but it lacks {lost[0]!r}"
        )
    if has - {id(p) for p in parameters}:
        raise ValueError("optimizer must have parameters of the model only")
    return optimizer


def check_alone(
    process: Process, model: nn.Module, parts: int, precision: torch.dtype | None
) -> None:
    """Raise for what cannot be cut into parts, or shared by processes."""
    memory = [part for part in process.modules() if getattr(part, "remembers", ())]
    if parts > 1 and memory:
        raise ValueError(
            f"{type(memory[0]).__name__} remembers the losses of whole batches: micro must be 1, on one process"
        )
    if spread(model) and precision == torch.float16:
        raise ValueError(
            "precision must not be torch.float16 for a model under FSDP2: use torch.bfloat16"
        )
    inside = bare(model)
    parallel = any(
        isinstance(part, DistributedDataParallel) for part in model.modules()
    )
    if parallel and hasattr(inside, "explain"):
        raise TypeError(
            f"{class_of(inside)} is asked by `explain`, of which DistributedDataParallel knows nothing: "
            "give the model itself to train, which averages its gradients over the processes"
        )


def check_real(name: str, value: object) -> None:
    """Raise TypeError unless value is a number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {describe(value)}")


def given_rate(rate: object, step: int) -> Real:
    """What a function of the step gave, as a number, or TypeError: a tensor of one number will do."""
    if isinstance(rate, Tensor) and rate.numel() == 1:
        rate = rate.item()
    check_real(f"lr({step})", rate)
    return rate


def checked_rate(rate: float | None, step: int) -> float | None:
    """A learning rate that a function gave, or ValueError: it may be 0, but not negative or NaN."""
    if rate is None:
        return None
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
