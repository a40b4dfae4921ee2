"""What every tensor and argument of the course is called and must be.

B batch   L sequence length   D embedding width   T last time   C H W image
V vocabulary   K states of a token: V, or V + 1 with MASK
"""

from collections.abc import Callable, Iterable
from numbers import Integral, Real

import torch
from jaxtyping import Bool, Float, Integer, Num, Shaped
from torch import Tensor

# One time per example: integer 0..T, or real in [0, 1]
Times = Num[Tensor, " B"]
Tokens = Integer[Tensor, "B L"]  # of any width, signed or not
Mask = Bool[Tensor, "B L"]
# x_t: (B, 2) points, (B, C, H, W) images, (B, L, D) embeddings, (B, L) tokens
State = Num[Tensor, "B *event"]
PerExample = Float[Tensor, " B"]
Table = Float[Tensor, " T_plus_1"]  # entry 0 is the data: the index is the paper's t
Network = Callable[[Tensor, Tensor], Tensor]  # model(x_t, u), u = t / T


def per_example(v: Shaped[Tensor, " B"], x: Tensor) -> Tensor:
    """Give the vector v trailing axes of size one, so that it broadcasts against x: (B,) -> (B, 1, ..., 1)."""
    return v.reshape(-1, *[1] * (x.ndim - 1))


def repeated(t: Tensor) -> bool:
    """True for one value that stands once in memory and is shown to every example, as `expand` makes it."""
    return t.stride(0) == 0


def widest(x: Tensor) -> Tensor:
    """x in the widest float its device has: float64, but float32 on MPS, which has no float64."""
    return x.float() if x.device.type == "mps" else x.double()


def upcast(x: Tensor) -> Tensor:
    """At least float32: half precision is too coarse for logs of probabilities."""
    return x.float() if torch.finfo(x.dtype).bits < 32 else x


def once(*times: Shaped[Tensor, " B"]) -> tuple[Tensor, ...]:
    """One entry of each where all examples share their times, as `sample` gives them: then one is worked out."""
    # Seen in the strides, without reading a number: on a GPU that would wait.
    if all(repeated(t) for t in times):
        return tuple(t[:1] for t in times)
    return times


def describe(x: object) -> str:
    """What a bad argument is, in words."""
    if isinstance(x, Tensor):
        return f"{x.dtype} of shape {tuple(x.shape)}"
    return type(x).__name__


def check_answer(out: object, shape: tuple[int, ...], x: Tensor) -> None:
    """Raise unless a network's output is a float tensor of this shape, on the device of its input x.

    The one place where answers are looked at, for every system: a wrong shape may broadcast into a number that looks
    right, even below an entropy.
    """
    if not isinstance(out, Tensor):
        raise TypeError(
            f"model must return a tensor, not {type(out).__name__}{hint_of_field(out)}"
        )
    if not out.is_floating_point():
        raise TypeError(f"model must return floats, not {out.dtype}")
    if tuple(out.shape) != shape:
        raise ValueError(
            f"model must return shape {shape}, not {tuple(out.shape)}{hint_of_shape(out, shape)}"
        )
    if out.device != x.device:
        raise ValueError(
            f"model must answer on the device of its input, {x.device}, not on {out.device}"
        )


def hint_of_field(out: object) -> str:
    """Where the tensor is in what other libraries return."""
    if isinstance(out, tuple | list):
        return ": pass a function that takes the tensor out of it, say lambda x, u: model(x, u)[0]"
    field = next(
        (
            name
            for name in ("logits", "sample", "last_hidden_state")
            if hasattr(out, name)
        ),
        None,
    )
    return f": pass lambda x, u: model(x, u).{field}" if field else ""


def hint_of_shape(out: Tensor, shape: tuple[int, ...]) -> str:
    """What to do about the two wrong shapes that other code often has."""
    if (
        out.ndim == len(shape)
        and tuple(out.shape[:-1]) == shape[:-1]
        and out.shape[-1] == shape[-1] + 1
    ):
        return f": it has a number for MASK too, slice [..., :{shape[-1]}]"
    if out.ndim == len(shape) == 3 and tuple(out.transpose(1, 2).shape) == shape:
        return ": the last two axes are swapped, transpose(1, 2)"
    return ""


def check_count(name: str, n: int, least: int = 1) -> None:
    """Raise TypeError unless n is a whole number (numpy's will do), ValueError unless it is at least `least`."""
    # True is an int in Python, and hardly ever meant as one.
    if isinstance(n, bool) or not isinstance(n, Integral):
        raise TypeError(f"{name} must be an int, not {type(n).__name__}")
    if n < least:
        raise ValueError(f"{name} must be at least {least}, not {n}")


def check_seed(seed: int) -> None:
    """Raise TypeError unless seed is a whole number; it may be negative."""
    check_count("seed", seed, least=-(2**63))


def check_scalar(name: str, value: object) -> None:
    """Raise TypeError unless value is a real number, or a tensor of one: a text, None or a list is none."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    of_one = isinstance(value, Tensor) and value.ndim == 0
    if not (real or (of_one and value.dtype != torch.bool and not value.is_complex())):
        raise TypeError(f"{name} must be a number, not {describe(value)}")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise ValueError unless value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
