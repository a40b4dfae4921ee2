"""Weights of a network: by their plain names, averaged, swapped in, in a file; and the network at a lower precision."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .files import load_tensors, save_tensors
from .identity import class_of, differences, identity
from .nets import Wrapped
from .parallel import together
from .process import Process, check_process, evaluating
from .shapes import describe


class Swappable:
    """Weights and buffers of a network that can be swapped into it; a subclass says which, by their plain names."""

    def tensors(self) -> dict[str, Tensor]:
        """The weights and buffers themselves: changing them in place changes these."""
        raise NotImplementedError

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model with these weights and buffers, in eval mode; afterwards it has its own and its modes again.

        For any model, also one that is compiled or spread over processes: that one is asked, and not a copy of it.
        """
        check_alike(self.tensors(), model)
        gather_back(model)
        own = copied(tensors_of(model))
        put_into(model, self.tensors())
        try:
            with evaluating(model):
                yield model
        finally:
            gather_back(model)
            put_into(model, own)

    def take(self, model: nn.Module) -> None:
        """Become the model's."""
        mine = self.tensors()
        for name, value in tensors_of(model).items():
            local(mine[name]).copy_(local(value.detach()))

    def entries(self, model: nn.Module) -> dict[str, Tensor]:
        """As `weights_of(model)`: what a file holds, one that the model has under two names twice."""
        mine, own = self.tensors(), tensors_of(model)
        names = {id(value): name for name, value in own.items()}
        state = bare(model).state_dict(keep_vars=True)
        return {plain(k): mine[names[id(v)]] for k, v in state.items()}

    def follow(self, model: nn.Module, decay: float) -> None:
        """average <- decay average + (1 - decay) model for the parameters. Buffers are the model's: counts and
        running statistics are averages already, or nothing to average."""
        mine, theirs = self.tensors(), bare(model)
        names = [plain(k) for k, _ in theirs.named_parameters()]
        weights = [local(p.detach()) for p in theirs.parameters()]
        torch._foreach_lerp_([local(mine[k]) for k in names], weights, 1 - decay)
        buffers = {plain(k): v for k, v in theirs.named_buffers()}
        if buffers:
            torch._foreach_copy_([mine[k] for k in buffers], list(buffers.values()))


class Kept(Swappable):
    """Weights and buffers as tensors alone: of a model whose parts lie on several processes, each its own part."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.kept = copied(tensors)

    def tensors(self) -> dict[str, Tensor]:
        """All of them."""
        return self.kept

    def __call__(self, *_, **__):
        raise TypeError(
            "these averaged weights are no network: use `with record.average.applied(model):` and call model"
        )


class Averaged(Swappable):
    """What a network of averaged weights is beside being a network of its class."""

    def tensors(self) -> dict[str, Tensor]:
        """Its parameters and buffers."""
        return tensors_of(self)

    def __reduce__(self):
        # For copy and pickle: the class was made at run time, and nobody else finds it by its name.
        return _empty, (type(self).__bases__[1],), self.__dict__


def averaged(model: nn.Module) -> nn.Module | Kept:
    """A copy of the model in eval mode, of the model's own class and `Averaged`; without gradients.

    A copy of what is inside a compiled or distributed model, so that its names are the plain ones. Where the weights
    lie on several processes (FSDP2), they alone are copied.
    """
    if spread(model):
        return Kept(tensors_of(model))
    average = copy.deepcopy(bare(model)).requires_grad_(False).eval()
    if isinstance(average, Averaged):
        return average
    both = _empty(type(average))
    both.__dict__.update(average.__dict__)
    return both


def _empty(cls: type[nn.Module]) -> nn.Module:
    # As torch's fully_shard does it.
    both = type(cls.__name__, (Averaged, cls), {"__module__": cls.__module__})
    return both.__new__(both)


class Autocast(Wrapped):
    """The network at a lower precision, its answers in float32 again: a loss computed from them is not rounded.

    What else the network has (embed, table, logits) keeps its own precision.
    """

    def __init__(self, inner: nn.Module, precision: torch.dtype):
        super().__init__(inner)
        self.precision = precision

    def forward(self, x: Tensor, *given, **more) -> Tensor:
        """The answer of the network inside."""
        with torch.autocast(x.device.type, self.precision):
            return widened(self.inner(x, *given, **more))

    def explain(self, x: Tensor, *given, **more):
        """Both answers of a network that explains itself."""
        with torch.autocast(x.device.type, self.precision):
            return widened(self.inner.explain(x, *given, **more))


class Reached(Wrapped):
    """A network in DistributedDataParallel, with what the network inside has (takes_rows, embed, table)."""

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "inner" not in self._modules:
                raise
            return getattr(bare(self._modules["inner"]), name)


def reached(model: nn.Module, precision: torch.dtype | None) -> nn.Module:
    """The model as training asks it: at its precision, and with all that the network inside has."""
    asked = model if bare(model) is model else Reached(model)
    return Autocast(asked, precision) if precision else asked


def widened(answer):
    """A tensor, or several, with 16-bit floats as float32."""
    narrow = (torch.float16, torch.bfloat16)
    return tree_map(
        lambda v: v.float() if isinstance(v, Tensor) and v.dtype in narrow else v,
        answer,
    )


# Names


def bare(model: nn.Module) -> nn.Module:
    """The network inside torch.compile, DistributedDataParallel and DataParallel."""
    while True:
        if "_orig_mod" in model._modules:
            model = model._orig_mod
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        else:
            return model


def plain(name: str) -> str:
    """A weight's name without what torch.compile adds, at the front or on the way (a compiled block)."""
    return name.replace("_orig_mod.", "")


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers of the model itself by their plain names: changing them in place changes it."""
    inside = bare(model)
    return {
        plain(k): v for k, v in [*inside.named_parameters(), *inside.named_buffers()]
    }


def check_alike(tensors: dict[str, Tensor], model: nn.Module) -> None:
    """Raise unless the model has these tensors, by name and shape."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be the network that was trained, not {describe(model)}"
        )
    want, have = (
        {name: tuple(value.shape) for name, value in some.items()}
        for some in (tensors, tensors_of(model))
    )
    for name in [*want, *have]:
        if want.get(name) != have.get(name):
            raise ValueError(
                f"model must be the network that was trained: its {name} is {have.get(name, 'missing')}, "
                f"but that of the average is {want.get(name, 'missing')}"
            )


@torch.no_grad()
def put_into(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy values by plain name into the model's own tensors."""
    for name, value in tensors_of(model).items():
        local(value).copy_(local(tensors[name]))


def put(
    model: nn.Module, tensors: dict[str, Shaped[Tensor, "..."]], path: str | Path
) -> None:
    """load_state_dict, with an error that names the first entry that does not fit. The model is left alone then."""
    inside = bare(model)
    own = {plain(k): k for k in inside.state_dict()}
    tensors = {plain(k): v for k, v in tensors.items()}
    if tensors and not any(
        k.startswith("module.") for k in own
    ):  # written elsewhere, from a distributed model
        tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
    want = {plain(k): tuple(v.shape) for k, v in inside.state_dict().items()}
    have = {k: tuple(v.shape) for k, v in tensors.items()}
    if want != have:
        name = next(k for k in [*want, *have] if want.get(k) != have.get(k))
        raise ValueError(
            f"{path} belongs to another model: {name} {misfit(have.get(name), want.get(name))}"
        )
    if not spread(model):
        inside.load_state_dict({own[k]: v for k, v in tensors.items()})
        return
    with torch.no_grad():
        for name, value in inside.state_dict().items():
            local(value).copy_(local(placed(tensors[plain(name)], value)))


def misfit(there: tuple[int, ...] | None, here: tuple[int, ...] | None) -> str:
    """How an entry of a file and of a model differ; None where there is none."""
    if there is None or here is None:
        found = f"has shape {there or here}"
        return (
            f"is missing there, {found} here"
            if there is None
            else f"{found} there, is missing here"
        )
    return f"has shape {there} there, {here} here"


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict of a model by its plain names, also where it is compiled or distributed."""
    return {plain(k): v for k, v in bare(model).state_dict().items()}


# Weights that lie on several processes (FSDP2): each has its own part of a tensor


def spread(model: nn.Module) -> bool:
    """True if a parameter's parts lie on several processes."""
    return any(is_spread(p) for p in model.parameters())


def is_spread(value: Tensor) -> bool:
    """True for a DTensor."""
    return hasattr(value, "full_tensor")


def local(value: Tensor) -> Tensor:
    """The part of a tensor that this process has: all of it, unless it is spread."""
    return value.to_local() if is_spread(value) else value


def whole(value: Tensor) -> Tensor:
    """All of a tensor. If it is spread, all processes must ask."""
    return value.full_tensor() if is_spread(value) else value


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as one that lies where `like` does, in its type and memory order."""
    if is_spread(value):
        return value
    if is_spread(like):
        # Only here: it takes a second to import.
        from torch.distributed.tensor import distribute_tensor

        value = value.to(like.device, like.dtype)
        return distribute_tensor(value, like.device_mesh, like.placements)
    return torch.empty_like(like).copy_(value)


def gather_back(model: nn.Module) -> None:
    """Leave each process its own part only: FSDP2 may keep the whole of some weights after a forward pass."""
    for part in model.modules():
        if hasattr(part, "reshard"):
            part.reshard()


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies, apart from the model."""
    return {name: value.detach().clone() for name, value in tensors.items()}


# In a file


def save_weights(
    path: str | Path,
    model: nn.Module,
    about: dict,
    dtype: torch.dtype | None = None,
    process: Process | None = None,
) -> None:
    """The model's weights as safetensors, with a dict that says where they come from.

    Where there are many processes all of them call this, and the first one writes.

    dtype    that of the parameters in the file; None keeps the model's own. Buffers keep theirs
    process  what they were trained for, for `load_weights` to compare

    Raises OverflowError where dtype cannot hold a parameter (see `narrowed`), ValueError for about = {"kind": ...}.
    """
    reserved = {"kind", "network", "process"}
    if taken := sorted(reserved & set(about)):
        raise ValueError(
            f"about must not hold {taken[0]!r}: the library says that itself"
        )
    about = {**about, "kind": "weights", "network": class_of(bare(model))}
    if process is not None:
        check_process(process)
        about["process"] = identity(process)
    # All processes gather what is spread over them; the first one writes.
    weights = {name: whole(value) for name, value in weights_of(model).items()}
    parameters = {plain(k) for k, _ in bare(model).named_parameters()}
    if dtype is not None:
        weights = {
            k: narrowed(k, v, dtype) if k in parameters else v
            for k, v in weights.items()
        }
    together(lambda: save_tensors(path, weights, about))


def load_weights(
    path: str | Path, model: nn.Module, process: Process | None = None
) -> dict:
    """Put saved weights into the model (in its own dtype) and return what was said about them.

    FileNotFoundError if path is missing, ValueError if it is damaged, belongs to another model or, where both are
    known, was trained for another process than this.
    """
    if process is not None:
        check_process(process)
    tensors, about = load_tensors(path)
    if about.get("kind") != "weights":
        raise ValueError(
            f"{path} holds {about.get('kind', 'something else')}, not weights"
        )
    if process is not None and "process" in about:
        found = differences(
            {"process": about["process"]}, {"process": identity(process)}
        )
        if found:
            raise ValueError(
                f"{path} was trained for another process: {'; '.join(found)}"
            )
    put(model, tensors, path)
    return about


def narrowed(
    name: str, weights: Shaped[Tensor, "..."], dtype: torch.dtype
) -> Shaped[Tensor, "..."]:
    """The weights in dtype, or OverflowError: none may become infinite, and together they may not move by more than
    rounding: |narrow - wide| <= eps |wide|, eps that of dtype.

    So single values may be lost that are nothing beside the others (1e-9 beside 0.1), but not a tensor of them.
    """
    narrow = weights.to(dtype)
    wide, back = weights.double(), narrow.double()
    if lost := int((wide.isfinite() & ~back.isfinite()).sum()):
        largest = wide.abs().max().item()
        raise OverflowError(
            f"{name} does not fit {dtype}: {lost} of its values become infinite, up to {largest:g}"
        )
    if (back - wide).norm() > torch.finfo(dtype).eps * wide.norm():
        lost = int(((back == 0) & (wide != 0)).sum())
        raise OverflowError(
            f"{name} does not fit {dtype}: {lost} of its {wide.numel()} values become 0, others coarse"
        )
    return narrow
