"""The probability-flow ODE as a bijection with a known density (Song et al. 2021, arXiv:2011.13456, section 4.3).

An adaptive solver follows the curve through an image; the density changes along it by the divergence of the field,
exact or by Hutchinson's estimate (FFJORD: Grathwohl et al. 2019, arXiv:1810.01367). Grey levels become densities by
`dequantise`, and densities bits per dimension by `bits_per_dim`.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from .files import needs
from .finite import check_finite, settled
from .linear_sde import Batch
from .process import evaluating
from .schedules import check_number
from .sde import SDE
from .shapes import (
    Network,
    PerExample,
    Times,
    check_choice,
    check_count,
    describe,
    widest,
)
from .solvers import Solver


class ProbabilityFlow(Solver):
    """The probability-flow ODE by an adaptive solver (scipy), which makes it a bijection with a known density.

    rtol, atol, method   of scipy.integrate.solve_ivp; the error is measured over the whole batch

    It runs between t_min and t_max of the SDE: earlier and later times are read as these. After a solve, `calls` holds
    how often the network was called. The network should be smooth in x: `clip` puts kinks into the field.
    """

    def __init__(
        self,
        sde: SDE,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        method: Literal["RK45", "RK23", "DOP853", "LSODA"] = "RK45",
    ):
        super().__init__(sde)
        check_choice("method", method, ("RK45", "RK23", "DOP853", "LSODA"))
        self.rtol = check_number("rtol", rtol, above=0)
        self.atol = check_number("atol", atol, above=0)
        self.method, self.calls = method, 0

    def move(self, model: Network, x: Batch, t: Times, s: Times) -> Batch:
        """x_s on the curve through x_t. All examples must have the same t, and the same s."""
        if not ((t == t[0]).all() and (s == s[0]).all()):
            raise ValueError(
                "t and s must each hold one value for all examples: they share one solve"
            )
        return self.flow(model, x, t[0].item(), s[0].item())

    def latent(self, model: Network, x: Batch) -> Batch:
        """The noise at t_max that belongs to the data x (at t_min)."""
        self.check_state("x", x)
        return self.flow(model, x, self.sde.t_min, self.sde.t_max)

    def data(self, model: Network, z: Batch) -> Batch:
        """The data (at t_min) that belongs to the noise z: the inverse of `latent`."""
        self.check_state("z", z)
        return self.flow(model, z, self.sde.t_max, self.sde.t_min)

    def flow(self, model: Network, x: Batch, start: float, end: float) -> Batch:
        """Follow the ODE from x at time start to time end, either way; both in [0, 1]."""
        for name, time in (("start", start), ("end", end)):
            if check_number(name, time, least=0) > 1:
                raise ValueError(f"{name} must lie in [0, 1], not {time}")

        def rhs(t: float, y):
            now = torch.tensor(y).reshape(x.shape).to(x)
            times = self.at(t, x)
            with torch.no_grad():
                v = self.sde.velocity(model, now, times)
            # scipy works on the CPU, so here a device has to be waited for in any case
            v = check_finite("the drift", v.cpu(), times.cpu())
            return widest(v).numpy().ravel()

        # float64 for the solver's error control: at atol 1e-5 float32's rounding would
        # count as error of the step.
        start_y = widest(x.detach().cpu()).numpy().ravel()
        with evaluating(model):
            y = self.solve(rhs, start_y, start, end)
        return torch.from_numpy(y).reshape(x.shape).to(x)

    def log_prob(
        self,
        model: Network,
        x: Batch,
        probe: Batch | None = None,
        log_prior: Callable[[Tensor], Tensor] | None = None,
    ) -> PerExample:
        """log p(x) of the ODE's law at t_min, nats, float64: log prior(z) + integral of div v dt.  (eq. 39)

        probe      None takes the exact trace (d backward passes per call); a draw of `rademacher(x)` takes Hutchinson's
                   unbiased estimate probe . (dv/dx) probe (one), with the probe held fixed along the curve  (eq. 40)
        log_prior  log density at t_max, if it is not the SDE's own

        Each right-hand side calls the network once: drift and divergence come from the same forward pass.
        """
        self.check_state("x", x)
        if probe is not None and probe.shape != x.shape:
            raise ValueError(
                f"probe must have the shape of x, {tuple(x.shape)}, not {tuple(probe.shape)}"
            )
        check_differentiable(model)
        n, prior = len(x), log_prior or self.sde.log_prior
        asked = passing_gradients(model)

        def rhs(t: float, y):
            now = torch.tensor(y[n:]).reshape(x.shape).to(x)
            times = self.at(t, x)
            v, div = with_divergence(
                lambda z: self.sde.velocity(asked, z, times), now, probe
            )
            check_finite("the drift", v.cpu(), times.cpu())
            check_finite("its divergence", div.cpu(), times.cpu())
            return torch.cat([widest(div.cpu()), widest(v.cpu()).flatten()]).numpy()

        start = torch.cat(
            [torch.zeros(n, dtype=torch.float64), widest(x.detach().cpu()).flatten()]
        )
        # Inside torch.inference_mode() nothing could be differentiated, not even by asking for it.
        with torch.inference_mode(False), evaluating(model):
            y = torch.from_numpy(
                self.solve(rhs, start.numpy(), self.sde.t_min, self.sde.t_max)
            )
        # d log p(x(t)) / dt = -div v, so from data to noise the integral of div v is
        # what log p gained.
        gained, z = y[:n], y[n:].reshape(x.shape)
        at_end = widest(prior(z.to(x.device))).cpu()
        if at_end.shape != (n,):
            raise ValueError(
                f"log_prior must return shape ({n},), one number per example, not {tuple(at_end.shape)}"
            )
        return gained + at_end

    def at(self, t: float, x: Batch) -> Times:
        """The time t for every example of x, in float32 at least: half precision has no digits for it near 1."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        return torch.full((1,), t, dtype=dtype, device=x.device).expand(len(x))

    def solve(self, rhs: Callable, y, start: float, end: float):
        """y at `end`, from y at `start`, float64 arrays; times outside [t_min, t_max] are read as its ends."""
        start, end = (min(max(t, self.sde.t_min), self.sde.t_max) for t in (start, end))
        # Both beyond the same end: there is nothing to solve, and scipy would divide by the length.
        if start == end:
            self.calls = 0
            return y.copy()
        solve_ivp = needs("scipy.integrate", "scipy").solve_ivp
        found = solve_ivp(
            rhs, (start, end), y, method=self.method, rtol=self.rtol, atol=self.atol
        )
        self.calls = found.nfev
        if not found.success:
            raise FloatingPointError(
                f"the solver stopped at t = {found.t[-1]:g}: {found.message}"
            )
        return found.y[:, -1]


def check_differentiable(model: Network) -> None:
    """Raise RuntimeError for a network made inside torch.inference_mode(), through which no gradient can flow."""
    if isinstance(model, nn.Module) and any(
        p.is_inference() for p in model.parameters()
    ):
        raise RuntimeError(
            "model was made inside torch.inference_mode(); log_prob needs its gradients in x"
        )


def passing_gradients(model: Network) -> Network:
    """The model, which raises RuntimeError where its answer follows x but passes no gradient on to it.

    A model under no_grad, or one that detaches its answer, would be left out of the divergence.
    """

    def asked(x: Batch, u: PerExample) -> Tensor:
        """model(x, u)."""
        out = model(x, u)
        # An answer of another kind is named where it is read.
        floats = isinstance(out, Tensor) and out.is_floating_point()
        if floats and x.requires_grad and not out.requires_grad:
            with torch.no_grad():
                elsewhere = model(x + 1, u)
            if not torch.equal(out, elsewhere):
                raise RuntimeError(
                    "model must pass a gradient on to x: its divergence is part of log p"
                )
        return out

    return asked


def with_divergence(
    field: Callable[[Tensor], Tensor], x: Batch, probe: Batch | None = None
) -> tuple[Batch, PerExample]:
    """(field(x), its divergence) from one call: exact if probe is None, else probe . J probe for each example.

    Works inside torch.inference_mode(). RuntimeError for a field that multiplies by tensors made there, through which
    no gradient can flow, or that passes none on at all.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # Clones: a tensor made inside inference_mode stays one of those that no gradient can flow through.
        x = x.detach().clone().requires_grad_()
        try:
            v = field(x)
        except RuntimeError as error:
            if "Inference tensors" not in str(error):
                raise
            raise RuntimeError(
                "field must not use tensors made inside torch.inference_mode(), nor a network made there: make them "
                "outside of it, or clone them under torch.inference_mode(False)"
            ) from error
        if not v.requires_grad:
            raise RuntimeError("field must pass a gradient on to x")
        if probe is not None:
            probe = probe.clone()
            (pulled,) = torch.autograd.grad(v, x, probe.to(v))
            return v.detach(), (pulled * probe).flatten(1).sum(1)
        # Row i of the Jacobian, of which the trace wants entry i; examples do not see each other, so a sum serves all.
        div, columns = 0, v.flatten(1)
        for i in range(columns.shape[1]):
            (row,) = torch.autograd.grad(columns[:, i].sum(), x, retain_graph=True)
            div = div + row.flatten(1)[:, i]
    return v.detach(), div.detach()


def rademacher(x: Batch) -> Batch:
    """Signs -1 or 1, equally likely, like x: the probe with the least variance of all that have independent entries."""
    return torch.randint_like(x, 0, 2) * 2 - 1


# Grey levels


def dequantise(x: Batch, levels: int) -> Batch:
    """x on an even grid of levels over [-1, 1], plus noise uniform on its cell: a density, no longer points.

    Raises ValueError for x off the grid: its cells would overlap or leave gaps, and the density be of something else.
    """
    check_count("levels", levels, least=2)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x must be a float tensor, not {describe(x)}")
    index = (widest(x) + 1) * (levels - 1) / 2
    # What half precision cannot say better is no fault of the caller's.
    near = (index - index.round()).abs() <= levels * torch.finfo(x.dtype).eps
    on_grid = near & (x.abs() <= 1)
    if not settled("x", on_grid, f"on the grid of {levels} levels over [-1, 1]"):
        bad = x[~on_grid][0].item()
        raise ValueError(
            f"x must lie on the even grid of {levels} levels over [-1, 1], but holds {bad:.6g}"
        )
    return x + (2 * torch.rand_like(x) - 1) / (levels - 1)


def bits_per_dim(log_p: PerExample, dims: int, levels: int) -> PerExample:
    """-log2 of the grey levels' probability per dimension, at most, from the density log_p (nats) of dequantised data.

    A cell has width 2 / (levels - 1), and E log p over it is at most the log of its mass (Jensen): Theis et al. 2016.
    """
    check_count("dims", dims)
    check_count("levels", levels, least=2)
    # Density to mass: times the cell's width, once per dimension.
    return -(log_p / dims + math.log(2 / (levels - 1))) / math.log(2)
