"""A batch cut into parts: for gradients that add up, and for processes that share the work.

Times and x_t are drawn for the whole batch, on every process alike, and then cut up. So neither the number of parts
nor that of processes changes what is drawn. It costs each process the noise of the whole batch, which is little beside
a network; the network works on a process's own parts only.
"""

import math
from contextlib import ExitStack, nullcontext

import torch
from torch import Tensor, nn

from .parallel import agreed, average_gradients, rank, summed, world
from .process import Process
from .random_state import drawing_from, seed_of
from .shapes import Network, PerExample, Times, check_count, describe
from .weights import spread
from .wrapper import Wrapper


class Shares:
    """How each batch is cut up: `draw` gives the parts of this process, `put_together` the losses of all.

    micro  number of parts of a batch; with W processes the least multiple of it that W divides
    seed   see `train`
    """

    def __init__(
        self, process: Process, model: nn.Module, micro: int, seed: int | None
    ):
        check_count("micro", micro)
        if seed is not None:
            check_count("seed", seed, least=0)
        self.process, self.model, self.micro, self.seed = process, model, micro, seed
        self.count = math.lcm(micro, world())
        each = self.count // world()
        self.mine = range(rank() * each, (rank() + 1) * each)
        self.device = next(model.parameters()).device
        # Of the parts' own draws, where no seed is given
        self.start = agreed(torch.initial_seed()) if seed is None else seed
        self.sizes: list[int] = []

    def draw(self, step: int, data, n: int) -> tuple[Times, list["Part"]]:
        """Times for all n examples of a batch, and this process's parts of it with their x_t."""
        if n < self.count:
            raise ValueError(
                f"batches must have an example for each of {self.count} parts, but that of step {step} has {n}"
            )
        with drawing_from(self.seed_at(step), self.device):
            # Algorithm 1, line 3: the times
            t = self.process.sample_t(n)
            # Algorithm 1, line 4: the noise, inside `corrupt`
            apart = draws_before_it_asks(self.process)
            x_t = self.process.corrupt(data, t) if apart else None
        self.sizes = [len(piece) for piece in torch.arange(n).tensor_split(self.count)]
        parts = []
        for i in self.mine:
            rows = slice(sum(self.sizes[:i]), sum(self.sizes[: i + 1]))
            seed = None if self.alone else seed_of(self.start, step, i)
            parts.append(Part(self, data, t, x_t, rows, seed))
            parts[-1].last = i == self.mine[-1]
        return t, parts

    @property
    def alone(self) -> bool:
        """True for one part that goes on drawing where its times were drawn."""
        return self.count == 1 and self.seed is None

    def seed_at(self, step: int) -> int | None:
        """What the draws of a whole batch start from; None: torch's random state as it is."""
        return None if self.seed is None else seed_of(self.seed, step)

    def put_together(self, losses: list[Tensor]) -> PerExample:
        """The losses of the whole batch, from those of this process's parts."""
        if world() == 1:
            return losses[0] if len(losses) == 1 else torch.cat(losses)
        whole = losses[0].new_zeros(sum(self.sizes))
        before = sum(self.sizes[: self.mine[0]])
        mine = torch.cat(losses)
        whole[before : before + len(mine)] = mine
        return summed(whole)


class Part:
    """A part of a batch; `with part:` around its loss and gradient. The last one shares the gradients."""

    last = False

    def __init__(self, shares: Shares, data, t, x_t, rows: slice, seed: int | None):
        whole = rows == slice(0, len(t))
        self.shares, self.t, self.seed = shares, t[rows], seed
        self.data = data if whole else cut(data, rows)
        self.x_t = x_t if whole or x_t is None else x_t[rows]
        # Processes take the mean of their gradients, and so each counts for as much as there are processes.
        self.weight = len(self.t) / len(t) * world()
        self.inside = ExitStack()

    def loss(self, model: Network) -> PerExample:
        """The loss of each of its examples."""
        if self.x_t is None:
            return self.shares.process.loss(model, self.data, self.t)
        return self.shares.process.loss_at(model, self.data, self.x_t, self.t)

    def __enter__(self) -> "Part":
        shares = self.shares
        self.inside.enter_context(drawing_from(self.seed, shares.device))
        self.inside.enter_context(sharing(shares.model, self.last))
        return self

    def __exit__(self, *error) -> None:
        self.inside.__exit__(*error)
        if (
            self.last
            and world() > 1
            and error[0] is None
            and not shares_itself(self.shares.model)
        ):
            average_gradients(list(self.shares.model.parameters()))


def draws_before_it_asks(process: Process) -> bool:
    """True if the loss is what the contract says, loss_at(corrupt): then x_t can be drawn for all examples at once."""
    cls = type(process)
    if cls.loss is Process.loss:
        return True
    forwards = (cls.loss, cls.loss_at, cls.corrupt) == (
        Wrapper.loss,
        Wrapper.loss_at,
        Wrapper.corrupt,
    )
    return forwards and draws_before_it_asks(process.process)


def cut(data, rows: slice):
    """The same rows of each part of a batch."""
    if isinstance(data, dict):
        return {k: cut(v, rows) for k, v in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(cut(v, rows) for v in data))
    if isinstance(data, tuple | list):
        return type(data)(cut(v, rows) for v in data)
    try:
        return data[rows]
    except TypeError as error:
        raise TypeError(
            f"batches must hold what can be sliced to be cut into parts, not {describe(data)}"
        ) from error


# What the model does about its gradients


def shares_itself(model: nn.Module) -> bool:
    """True for a model that averages its gradients over processes by itself: DistributedDataParallel, FSDP2."""
    return distributed_part(model) is not None or spread(model)


def distributed_part(model: nn.Module) -> nn.Module | None:
    """The DistributedDataParallel in or around the model, if there is one."""
    kind = nn.parallel.DistributedDataParallel
    return next((part for part in model.modules() if isinstance(part, kind)), None)


def sharing(model: nn.Module, now: bool):
    """Around a part's loss and gradient: processes share gradients in a batch's last part only."""
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(now)
    inside = distributed_part(model)
    return nullcontext() if now or inside is None else inside.no_sync()
