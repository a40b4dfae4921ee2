"""A network's weights: by their plain names, averaged, in a narrower float; and the network at a lower precision."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .nets import Wrapped
from .process import evaluating


class Averaged:
    """What a network of averaged weights is beside being a network of its class: it can be swapped into the model."""

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model with these weights and buffers, in eval mode; afterwards it has its own and its modes again.

        For a model that is compiled, or spread over processes: that one is asked, and not a copy of it.
        """
        own = {
            name: value.detach().clone() for name, value in tensors_of(model).items()
        }
        put_into(model, tensors_of(self))
        try:
            with evaluating(model):
                yield model
        finally:
            put_into(model, own)

    def follow(self, model: nn.Module, decay: float) -> None:
        """average <- decay average + (1 - decay) model for the parameters. Buffers are the model's: counts and
        running statistics are averages already, or nothing to average."""
        mine, theirs = bare(self), bare(model)
        weights = [p.detach() for p in theirs.parameters()]
        torch._foreach_lerp_(list(mine.parameters()), weights, 1 - decay)
        buffers = list(mine.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(theirs.buffers()))

    def __reduce__(self):
        # For copy and pickle: the class was made at run time, and nobody else finds it by its name.
        return _empty, (type(self).__mro__[2],), self.__dict__


def averaged(model: nn.Module) -> nn.Module:
    """A copy of the model in eval mode, of the model's own class and `Averaged`; without gradients.

    A copy of what is inside a compiled or distributed model, so that its names are the plain ones.
    """
    average = copy.deepcopy(bare(model)).requires_grad_(False).eval()
    if isinstance(average, Averaged):
        return average
    both = _empty(type(average))
    both.__dict__.update(average.__dict__)
    return both


def _empty(cls: type[nn.Module]) -> nn.Module:
    both = type(
        cls.__name__, (Averaged, cls), {"__module__": cls.__module__}
    )  # as torch's fully_shard does it
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


@torch.no_grad()
def put_into(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy values by plain name into the model's own tensors."""
    for name, value in tensors_of(model).items():
        value.copy_(tensors[name])


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
    inside.load_state_dict({own[k]: v for k, v in tensors.items()})


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


# In a file


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
