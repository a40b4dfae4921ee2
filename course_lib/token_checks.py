"""What noise on tokens and its systems are given, checked: tokens, tables, laws."""

import torch
from jaxtyping import Float
from torch import Tensor

from .finite import settled
from .process_checks import ProcessChecks
from .schedules import Tables, check_table
from .sentences import PAD
from .shapes import Table, Times, Tokens, describe, widest


class NoiseChecks(Tables):
    """The checks that every noise makes of tokens."""

    mask: int | None

    def check_tokens(self, name: str, x: Tensor, states: int) -> Tokens:
        """x as int64, or an error unless it holds whole numbers in 0..states-1, (B >= 1, L >= 1).

        Integers of any width will do. Off the CPU the range is noted, as numbers that are not finite are.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must hold integers, not {type(x).__name__}")
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise TypeError(f"{name} must hold integers, not {x.dtype}")
        if x.ndim != 2 or not x.numel():
            raise ValueError(
                f"{name} must have shape (B >= 1, L >= 1), not {tuple(x.shape)}"
            )
        x = x.long()
        inside = (x >= 0) & (x < states)
        if not settled(name, inside.all(1), f"in 0..{states - 1}"):
            low = x.min().item()
            bad = low if low < 0 else x.max().item()
            reason = self.why_no_token(bad)
            raise ValueError(
                f"{name} must lie in 0..{states - 1}, but holds {bad}: {reason}"
            )
        return x

    def check_inside(self, name: str, x: Tensor, states: int) -> None:
        """Raise unless x holds whole numbers in 0..states-1: tokens that a noise is given by itself, of any shape.

        A CPU alone reads the range; systems check all of it before they ask their noise.
        """
        whole = isinstance(x, Tensor) and not x.is_floating_point()
        if not whole or x.is_complex() or x.dtype == torch.bool:
            raise TypeError(f"{name} must hold integers, not {describe(x)}")
        if unread(x):
            return
        low, high = (end.item() for end in x.aminmax())
        if low < 0 or high >= states:
            bad = low if low < 0 else high
            raise ValueError(
                f"{name} must lie in 0..{states - 1}, but holds {bad}: {self.why_no_token(bad)}"
            )

    def check_moments(self, name: str, t: Tensor) -> None:
        """Raise unless t holds times of this noise, 0 to T: whole ones where it has a table. Read on a CPU only."""
        whole = isinstance(self.T, int)
        if not isinstance(t, Tensor) or t.is_complex() or t.dtype == torch.bool:
            raise TypeError(f"{name} must be a tensor of times, not {describe(t)}")
        if whole and t.is_floating_point():
            raise TypeError(f"{name} must hold integers, not {t.dtype}")
        if unread(t):
            return
        low, high = (end.item() for end in t.detach().aminmax())
        # float32 may say 1 a little too large.
        if not (low >= 0 and high <= self.T * (1 + 1e-6)):
            raise ValueError(
                f"{name} must lie in [0, {self.T}], but spans [{low}, {high}]"
            )

    def why_no_token(self, number: int) -> str:
        """What is wrong with a number that is no token of the data."""
        if number == self.mask:
            return "MASK, which no data may hold"
        if number == -1:
            return "PAD, which may stand only at the ends of rows that are padded data"
        if number == -100:
            return "the padding of other libraries; fill rows up with PAD = -1"
        return "no such token"


class TokenChecks(ProcessChecks):
    """The checks that every system of tokens makes. `noise` and `length` are the system's."""

    def check_start(self, t: int | float) -> None:
        """Raise ValueError unless tokens at t have nearly the prior's law, whatever they were.

        Under noise with MASK any start is taken: masks say nothing of the data at any time. Tokens that the prior has
        beside masks (the share alpha_T of leftovers="uniform"; MaskUniform) do at an early one: start there at T.
        """
        if self.noise.mask is not None:
            return
        x0 = torch.arange(min(self.noise.V, 8), device=self.device)[None]
        at_t = torch.tensor([t], device=self.device)
        law = self.noise.row(x0, torch.zeros_like(at_t), at_t)
        far = (law - self.noise.prior()).abs().sum(-1).max().item() / 2
        if far > 0.1:
            raise ValueError(
                f"the times must start where tokens are nearly the prior's, but at t = {t:g} their total "
                f"variation from it is {far:.3g}"
            )

    def check_state(
        self, name: str, x: Tensor, states: int, padded: bool = False
    ) -> Tokens:
        """x in int64, or an error: whole numbers in 0..states-1, (B >= 1, length); padded: PAD at ends of rows."""
        holds_pad = (
            padded
            and isinstance(x, Tensor)
            and x.dtype.is_signed
            and not x.is_floating_point()
        )
        filled = x.masked_fill(x == PAD, 0) if holds_pad else x
        self.noise.check_tokens(name, filled, states)
        if x.shape[1] != self.length:
            raise ValueError(
                f"{name} must have shape (B, {self.length}), not {tuple(x.shape)}"
            )
        if holds_pad:
            there = x != PAD
            # Once a row has ended it does not begin again.
            ends_once = there[:, 0] & (there[:, 1:] <= there[:, :-1]).all(1)
            must = f"a token in each row, and PAD = {PAD} only at its end"
            if not settled(name, ends_once, must):
                raise ValueError(f"{name} must have {must}")
        return x.long()

    def check_pair(self, x0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tokens, Tokens]:
        """x_0 and x_t in int64, or an error: states of one shape with PAD at the same places, t in (0, T]."""
        x0 = self.check_state("x0", x0, self.noise.V, padded=True)
        x_t = self.check_state("x_t", x_t, self.noise.K, padded=True)
        self.check_positive(t, len(x0))
        if len(x0) != len(x_t):
            raise ValueError(
                f"x0 and x_t must have one shape, not {tuple(x0.shape)} and {tuple(x_t.shape)}"
            )
        same = ((x0 == PAD) == (x_t == PAD)).all(1)
        if not settled("x_t", same, "PAD where x0 is, and nowhere else"):
            raise ValueError("x_t must hold PAD where x0 does, and nowhere else")
        return x0, x_t


def unread(x: Tensor) -> bool:
    """Whether its numbers are left alone: there are none, reading them would make a device wait, or torch traces."""
    return x.device.type != "cpu" or not x.numel() or torch.compiler.is_compiling()


def check_alpha_bar(clock: Table) -> Table:
    """A table alpha_bar[0..T] in float64, or an error for anything else, such as a function that makes a schedule."""
    if callable(clock) and not isinstance(clock, Tensor):
        name = getattr(clock, "__name__", "schedule")
        raise TypeError(
            f"clock must be a table or a Schedule, not a function: call it, {name}()"
        )
    return check_table(clock, to_zero=True)


def check_constant(name: str, x: Tensor, shape: str) -> None:
    """Raise unless x is a float tensor of the shape (K,), (T,) or (K, K), which nothing trains.

    A noise keeps a table of it, which would not pass a gradient on.
    """
    square, least = shape == "(K, K)", 1 if shape == "(T,)" else 2
    good = isinstance(x, Tensor) and x.is_floating_point() and x.ndim == 1 + square
    if not good or len(x) < least or (square and x.shape[0] != x.shape[1]):
        letter = shape[1]
        raise ValueError(
            f"{name} must be a float tensor {shape} with {letter} >= {least}, not {describe(x)}"
        )
    if x.requires_grad:
        raise ValueError(
            f"{name} must not require a gradient: a table passes none on, give {name}.detach()"
        )


def check_law(name: str, p: Tensor) -> Float[Tensor, " K"]:
    """p in float64, or an error: (K,), K >= 2, not negative, sums to 1."""
    check_constant(name, p, "(K,)")
    p = widest(p)
    total = p.sum()
    if not ((p >= 0).all() and abs(total - 1) < 1e-6):
        raise ValueError(
            f"{name} must not be negative and must sum to 1, but sums to {total.item():g}"
        )
    return p / total


def check_masses(name: str, p: Tensor) -> None:
    """Raise unless p is a float tensor of finite numbers >= 0 that are not all 0: probabilities up to a factor."""
    if not isinstance(p, Tensor) or not p.is_floating_point():
        raise TypeError(
            f"{name} must be a float tensor of probabilities, not {describe(p)}"
        )
    if not (p.isfinite().all() and (p >= 0).all() and p.sum() > 0):
        raise ValueError(f"{name} must be finite, not negative and not 0 everywhere")


def check_order(s: Times, t: Times) -> None:
    """Raise unless s <= t: a noise takes the earlier time first, where a process says step(model, x, t, s)."""
    in_order = s <= t
    if not settled("s", in_order, "at most t", t):
        i = int((~in_order).nonzero()[0])
        raise ValueError(
            f"s must be at most t, but s = {s[i].item():g} and t = {t[i].item():g}: a noise takes the earlier time "
            "first"
        )
