"""What every tensor and argument of the course is called and must be.

B batch   L sequence length   D embedding width   K vocabulary size   T last time   C H W image
"""

from collections.abc import Callable, Iterable

from jaxtyping import Bool, Float, Int, Num, Shaped
from torch import Tensor

Times = Num[Tensor, " B"]  # one time per example: integer 0..T, or real in [0, 1]
Tokens = Int[Tensor, "B L"]
Mask = Bool[Tensor, "B L"]
State = Num[
    Tensor, "B *event"
]  # x_t: (B, 2) points, (B, C, H, W) images, (B, L, D) embeddings, (B, L) tokens
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


def check_count(name: str, n: int, least: int = 1) -> None:
    """Raise TypeError unless n is an int, ValueError unless it is at least `least`."""
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"{name} must be an int, not {type(n).__name__}")
    if n < least:
        raise ValueError(f"{name} must be at least {least}, not {n}")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise ValueError unless value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
