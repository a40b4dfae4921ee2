"""Whose weights these are, in a form that a file can hold: what is stored with weights and compared on loading.

Weights fit any network of the same shapes. What a network's answer means is decided by the process it was trained for:
the same numbers are log probabilities for MDLM and log ratios for SEDD.
"""

import dataclasses
import math

import torch
from torch import Tensor, nn

from .process import Process
from .schedules import Schedule, Tables

CLOSE = {
    "rel_tol": 1e-5,
    "abs_tol": 1e-7,
}  # a table made on another machine differs in its last digits


def identity(process: Process) -> dict:
    """The process's class, its public settings, its noise and schedule, and a fingerprint of each table; JSON-able.

    What training changes (a process's `remembers`) is no part of it.
    """
    return _of(process, above=())


def differences(there: object, here: object, name: str = "") -> list[str]:
    """What differs between two identities, one line each: "process.noise.K is 27 there, 30 here".

    A setting that only one of them knows is none: another version of the library had it not.
    """
    if isinstance(there, dict) and isinstance(here, dict):
        shared = [key for key in there if key in here]
        if there.get("class") != here.get("class"):
            # The class says it all: settings of another class mean other things.
            shared = ["class"]
        found = [
            differences(there[key], here[key], f"{name}.{key}".removeprefix("."))
            for key in shared
        ]
        return [line for lines in found for line in lines]
    if _same(there, here):
        return []
    return [f"{name} is {_short(there)} there, {_short(here)} here"]


def fingerprint(table: Tensor) -> dict:
    """Shape and four numbers of a table: its mean size, two entries, and a sum that notices their order."""
    values = table.detach().flatten().cpu().double()
    values = values.nan_to_num(nan=0.5, posinf=1e3, neginf=-1e3)
    if not values.numel():
        return {"shape": list(table.shape)}
    order = torch.arange(len(values), dtype=torch.float64).cos()
    numbers = [
        values.abs().mean(),
        values[len(values) // 2],
        values[-1],
        (order * values).mean(),
    ]
    return {"shape": list(table.shape), "numbers": [v.item() for v in numbers]}


def class_of(model: nn.Module) -> str:
    """The name of a network's class; what fully_shard (FSDP2) made of it is the same one."""
    names = [cls.__name__ for cls in type(model).__mro__]
    spread = "FSDPModule" in names
    return names[names.index("FSDPModule") + 1] if spread else names[0]


def _of(value: object, above: tuple[int, ...]) -> object:
    """One setting in JSON's types. `above` are the objects around it, which it may point back to."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return fingerprint(value)
    if id(value) in above:
        return class_of(value)
    within = (*above, id(value))
    if isinstance(value, list | tuple):
        return [_of(v, within) for v in value]
    if isinstance(value, dict):
        return {str(k): _of(v, within) for k, v in value.items()}
    if isinstance(value, Schedule):
        return {
            "schedule": repr(value),
            **fingerprint(value.log_alpha_bar(_SOME_TIMES)),
        }
    if isinstance(value, nn.Module) and not isinstance(value, Tables):
        # A network that is only asked: its weights may be in training too.
        return {"class": class_of(value)}
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    return {"class": class_of(value), **_settings(value, within)}


_SOME_TIMES = torch.tensor([0.05, 0.3, 0.5, 0.7, 0.95], dtype=torch.float64)


def _settings(value: object, above: tuple[int, ...]) -> dict:
    """The public attributes of an object; of a module also its tables and what it is made of."""
    found = dict(getattr(value, "__dict__", {}))
    if dataclasses.is_dataclass(value):
        found |= {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
        }
    if isinstance(value, nn.Module):
        changing = getattr(value, "remembers", ())
        found |= value._modules | {
            k: v for k, v in value._buffers.items() if k not in changing
        }
        found.pop("training", None)
    public = {k: v for k, v in sorted(found.items()) if not k.startswith("_")}
    return {
        k: _of(v, above)
        for k, v in public.items()
        if not isinstance(v, torch.Generator)
    }


def _same(a: object, b: object) -> bool:
    numbers = (int, float)
    if (
        isinstance(a, numbers)
        and isinstance(b, numbers)
        and not isinstance(a, bool)
        and not isinstance(b, bool)
    ):
        return (
            a == b or math.isclose(a, b, **CLOSE) or (math.isnan(a) and math.isnan(b))
        )
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


def _short(value: object) -> str:
    text = str(value.get("class", value)) if isinstance(value, dict) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
