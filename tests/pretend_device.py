"""A device that is not there: tensors that say they are on `pretend`, and whose numbers lie in the CPU's memory.

What only goes wrong on a GPU goes wrong here, too, on any machine: tensors of two devices in one operation, and
operations whose result the host must wait for (`waits`). Made of torch's experimental Python backend: `install()` once
in a process of its own, since it stays registered. Real devices are slower to find and faster to run.
"""

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_flatten, tree_map

NAME = "pretend"
# Storage of a tensor that pretends -> the tensor with its numbers. Torch copies the former in C++, attributes are lost.
REAL: dict[int, torch.Tensor] = {}
# What a GPU makes the host wait for: sizes and numbers that depend on the data.
WAITS = {"nonzero", "_local_scalar_dense", "masked_select", "_unique2", "equal", "is_nonzero", "bincount"}
# Where a tensor of the CPU may stand beside one of the device.
MIXED = {"copy_", "_copy_from", "_to_copy", "index", "index_put_", "_index_put_impl_", "set_"}
KEPT: list = []  # registrations end when they are deleted
found: list[str] | None = None  # while waits are counted


def can_be() -> bool:
    """Whether this torch has what it is made of."""
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


class Pretend(torch.Tensor):
    """A tensor on the device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self, **_) -> str:
        return f"pretend({real(self)})"


def pretend(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor on the device with the numbers of this one."""
    made = torch._C._acc.create_empty_tensor(tensor.shape, tensor.dtype)
    made.__class__ = Pretend
    REAL[made.untyped_storage()._cdata] = tensor
    return made


def real(x):
    """The numbers behind a tensor on the device; the CPU for the device; anything else as it is."""
    if isinstance(x, torch.Tensor) and x.device.type == NAME:
        return REAL[x.untyped_storage()._cdata]
    return torch.device("cpu") if isinstance(x, torch.device) and x.type == NAME else x


@contextmanager
def waits() -> Iterator[list[str]]:
    """The operations inside that a GPU would make the host wait for, as "operation file:line"."""
    global found
    before, found = found, []
    try:
        yield found
    finally:
        found = before


def note(what: str) -> None:
    """One of them, with the line of the library that asked for it."""
    lines = [f for f in traceback.extract_stack() if "course_lib" in f.filename]
    place = f"{lines[-1].filename.split('course_lib/')[-1]}:{lines[-1].lineno}" if lines else "?"
    found.append(f"{what} {place}")


def moves(name: str, args, kwargs) -> bool:
    """Whether numbers go between device and host, and the host waits for them."""
    if kwargs.get("non_blocking") or name not in ("copy_", "_to_copy"):
        return False
    source = args[1] if name == "copy_" else args[0]
    target = args[0].device if name == "copy_" else kwargs.get("device") or source.device
    return source.device.type != torch.device(target).type


def run(operation, *args, **kwargs):
    """Any operation, by the CPU."""
    schema = operation._schema
    name = schema.name.removeprefix("aten::")
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    if name not in MIXED and any(x.device.type != NAME and x.ndim for x in tensors):
        raise RuntimeError(f"{name}: all tensors must be on one device, but some are on the CPU")
    if found is not None:
        by_mask = name == "index" and any(x.dtype == torch.bool for x in tensors[1:])
        if name in WAITS or by_mask or moves(name, args, kwargs):
            note(name)
    writes = [a.alias_info is not None and a.alias_info.is_write for a in schema.arguments]
    pure = not any(writes) and not any(r.alias_info for r in schema.returns)
    inside, named = tree_map(real, (args, kwargs))
    if pure:  # strides of views are the CPU's own: torch believes that all here is contiguous
        tight = lambda x: x.contiguous() if isinstance(x, torch.Tensor) else x  # noqa: E731
        inside, named = tree_map(tight, (inside, named))
    if name == "view":
        return pretend(inside[0].reshape(inside[1]))
    if name == "_copy_from":
        inside[1].copy_(inside[0])
        return args[1]
    out = operation(*inside, **named)
    if name == "_to_copy" and torch.device(kwargs.get("device") or args[0].device).type != NAME:
        return out
    if schema.returns and schema.returns[0].alias_info and schema.returns[0].alias_info.is_write:
        by_name = dict(zip([a.name for a in schema.arguments], args, strict=False)) | kwargs
        written = [
            by_name[a.name] for a, is_written in zip(schema.arguments, writes, strict=True) if is_written
        ]
        return written[0] if len(written) == 1 else tuple(written)
    return tree_map(lambda x: pretend(x) if isinstance(x, torch.Tensor) else x, out)


class Backend(getattr(backend_registration, "_DummyBackendModule", object)):
    """torch.pretend: random numbers are the CPU's."""

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def manual_seed(self, seed) -> None:
        pass

    manual_seed_all = manual_seed

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_rng_state(self, device=None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state, device=None) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def install() -> None:
    """Let torch know the device, until the process ends."""
    if KEPT:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that kernels are replaced is the purpose
        register()


def register() -> None:
    """All operations of torch, here."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    every, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    KEPT.extend([every, aten])
    every.fallback(run, "PrivateUse1")
    # Some operations would go round the line above: those that torch makes of others.
    for key in ("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional"):
        for full in torch._C._dispatch_get_registrations_for_dispatch_key(key):
            space, _, rest = full.partition("::")
            base, _, overload = rest.partition(".")
            operation = getattr(getattr(torch.ops.aten, base, None), overload or "default", None)
            if space == "aten" and operation is not None:
                take_over(aten, rest, operation)


def take_over(aten: torch.library.Library, name: str, operation) -> None:
    """Run an operation here."""

    def here(*args, **kwargs):
        return run(operation, *args, **kwargs)

    with suppress(RuntimeError):  # registered under both keys, or closed to this
        aten.impl(name, here, "PrivateUse1")
