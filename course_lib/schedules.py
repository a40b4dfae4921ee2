"""Noise schedules: how much of the data is left at time u, from u = 0 (all) to u = 1 (none, or nearly).

Every system of the course is driven by the same number, alpha_bar(u):
    Gaussian     x_u = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise
    categorical  x_u = x_0 with probability alpha_bar, else a draw from the prior

It is kept as log alpha_bar, because both ends matter: near u = 0 one needs the digits of 1 - alpha_bar
(expm1 has them), near u = 1 those of alpha_bar. Convention: Ho's; Su's alpha-bar is the square root of ours.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .shapes import Table, check_count


class Tables(nn.Module):
    """A module for its buffers only, the tables, so that .to(device) moves them. It has no parameters."""

    @property
    def device(self) -> torch.device:
        """Where the tables are; the module's own draws are made there."""
        return next(self.buffers(), torch.empty(0)).device

    def _apply(self, fn, recurse: bool = True):
        """Move tables between devices without losing digits: float64 stays, except on MPS, which has none."""
        for child in self.children():
            child._apply(fn)
        device = fn(torch.zeros(1)).device
        narrow = torch.float32 if device.type == "mps" else torch.float64
        for name, v in list(self.named_buffers(recurse=False)):
            self.register_buffer(name, v.to(device, narrow if v.is_floating_point() else v.dtype))
        return self


class Schedule:
    """alpha_bar(u) for u in [0, 1], given by its logarithm; any float dtype and shape, elementwise."""

    def __init__(self, name: str, log_alpha_bar: Callable[[Tensor], Tensor]):
        self.name, self._log = name, log_alpha_bar

    def __repr__(self) -> str:
        return self.name

    def log_alpha_bar(self, u: Tensor) -> Tensor:
        """log alpha_bar(u); -inf where nothing is left. Raises ValueError for u outside [0, 1]."""
        if not u.is_floating_point():
            raise TypeError(f"u must be a float tensor, not {u.dtype}")
        if u.device.type == "cpu" and u.numel() and not (u.min() >= 0 and u.max() <= 1):
            raise ValueError(f"u must lie in [0, 1], but spans [{u.min():g}, {u.max():g}]")
        return self._log(u)

    def __call__(self, u: Tensor) -> Tensor:
        """alpha_bar(u), the share of the data's variance that is left."""
        return self.log_alpha_bar(u).exp()

    def noise(self, u: Tensor) -> Tensor:
        """1 - alpha_bar(u), without cancellation."""
        return -torch.expm1(self.log_alpha_bar(u))

    def log_snr(self, u: Tensor) -> Tensor:
        """log of the signal-to-noise ratio alpha_bar / (1 - alpha_bar)."""
        log = self.log_alpha_bar(u)
        return log - torch.log(-torch.expm1(log))

    def rate(self, u: Tensor) -> Tensor:
        """-d/du log alpha_bar(u) by autodiff: beta(t) of the SDE papers, sigma'(t) of SEDD; inf if nothing is left."""
        with torch.enable_grad():
            v = u.detach().requires_grad_()
            log = self.log_alpha_bar(v)
            slope = torch.autograd.grad(log.sum(), v)[0]
        return torch.where(log.isinf(), torch.inf, -slope)

    def inverse(self, log_alpha_bar: Tensor) -> Tensor:
        """The u in [0, 1] at which log alpha_bar(u) is this, by bisection; the nearer end if there is none."""
        low, high = torch.zeros_like(log_alpha_bar), torch.ones_like(log_alpha_bar)
        for _ in range(60):
            middle = (low + high) / 2
            early = self.log_alpha_bar(middle) > log_alpha_bar
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return (low + high) / 2


def linear(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """alpha_bar = exp(-beta_min u - (beta_max - beta_min) u^2 / 2): DDPM's linear betas with T -> infinity.

    Song et al. 2021 (arXiv:2011.13456), eq. 33. DDPM's own table is `ddpm_table`.
    """
    return Schedule("linear", lambda u: -beta_min * u - (beta_max - beta_min) / 2 * u.square())


def cosine(s: float = 0.008, power: int = 2) -> Schedule:
    """alpha_bar = f(u) / f(0), f(u) = cos^power(pi/2 (u + s) / (1 + s)).  Nichol & Dhariwal 2021, eq. 17.

    Multinomial diffusion and D3PM have power 1: theirs is the square root of the Gaussian one.
    """
    a, scale = s / (1 + s) * math.pi / 2, math.pi / 2 / (1 + s)

    def log_alpha_bar(u: Tensor) -> Tensor:
        # cos(a + d) / cos(a) = 1 - 2 sin^2(d/2) - sin(d) tan(a): no difference of nearly equal logs
        d = scale * u
        lost = 2 * (d / 2).sin().square() + d.sin() * math.tan(a)
        return power * torch.log1p(-lost.clamp(max=1))

    return Schedule("cosine", log_alpha_bar)


def sqrt(s: float = 1e-4) -> Schedule:
    """alpha_bar = (1 - sqrt(u + s)) / (1 - sqrt(s)): Diffusion-LM as its code has it.

    The paper (arXiv:2205.14217, appendix A) prints 1 - sqrt(u + s), which is 0.99 at u = 0 and negative at u = 1.
    """
    root = math.sqrt(s)

    def log_alpha_bar(u: Tensor) -> Tensor:
        lost = u / (((u + s).sqrt() + root) * (1 - root))  # = (sqrt(u + s) - sqrt(s)) / (1 - sqrt(s))
        return torch.log1p(-lost.clamp(max=1))

    return Schedule("sqrt", log_alpha_bar)


def sigmoid(start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    """alpha_bar = (g(end) - g(z)) / (g(end) - g(start)), g = sigmoid(. / tau), z = start + u (end - start).

    Jabri et al. 2022 (arXiv:2212.11972), algorithm 1.
    """
    a, b = start / tau, end / tau

    def share(u: Tensor) -> Tensor:  # (g(z) - g(a)) cosh(a/2), by sigmoid's difference formula
        half = u * (b - a) / 2
        return half.sinh() / (a / 2 + half).cosh()

    total = math.sinh((b - a) / 2) / math.cosh(b / 2)
    return Schedule("sigmoid", lambda u: torch.log1p(-(share(u) / total).clamp(max=1)))


def log_linear(eps: float = 1e-3) -> Schedule:
    """alpha_bar = 1 - (1 - eps) u: SEDD's 'log-linear', D3PM's 1 / (T - t + 1), MD4's 'linear'."""
    return Schedule("log-linear", lambda u: torch.log1p(-(1 - eps) * u))


def geometric(sigma_min: float = 1e-4, sigma_max: float = 20.0) -> Schedule:
    """alpha_bar = exp(-sigma), sigma = sigma_min^(1-u) sigma_max^u.  SEDD (arXiv:2310.16834), appendix C.1.

    It starts at exp(-sigma_min), a little below 1.
    """
    ratio = math.log(sigma_max / sigma_min)
    return Schedule("geometric", lambda u: -sigma_min * torch.exp(ratio * u))


def table(schedule: Schedule, T: int, max_beta: float = 0.999) -> Table:
    """alpha_bar at t = 0, 1, ..., T in float64; entry 0 is exactly 1, so alpha_bar[t] is the paper's.

    Made from the steps beta_t = 1 - alpha_bar(t) / alpha_bar(t-1), clipped at max_beta as in improved DDPM,
    so that a schedule that ends at 0 still leaves a little; max_beta = 1 lets it end there (categorical noise may).
    Raises ValueError where alpha_bar does not fall.
    """
    check_count("T", T)
    if not 0 < max_beta <= 1:
        raise ValueError(f"max_beta must lie in (0, 1], not {max_beta}")
    log = schedule.log_alpha_bar(torch.linspace(0, 1, T + 1, dtype=torch.float64))
    steps = log.diff().clamp(min=math.log1p(-max_beta) if max_beta < 1 else -math.inf)
    alpha_bar = torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0)]).exp()
    return check_table(alpha_bar, to_zero=max_beta == 1)


def ddpm_table(T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> Table:
    """alpha_bar_t = prod (1 - beta_i), beta linear from beta_1 to beta_T: DDPM's own table, T + 1 entries.

    The two betas are those of T = 1000 (Ho et al. 2020, section 4); other T scale them by 1000 / T, as
    improved DDPM does, so that alpha_bar_T stays near 0. That needs T > 20.
    """
    check_count("T", T)
    scale = 1000 / T
    if not 0 < scale * beta_T < 1:
        raise ValueError(f"T = {T} makes beta_T = {scale * beta_T:g}, which must lie between 0 and 1")
    beta = torch.linspace(scale * beta_1, scale * beta_T, T, dtype=torch.float64)
    return check_table(torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-beta).cumsum(0)]).exp())


def check_table(alpha_bar: Tensor, to_zero: bool = False) -> Tensor:
    """The table itself in float64, or an error that says where it is no alpha_bar: 1 at t = 0, then falling, > 0.

    to_zero allows 0 at t = T.
    """
    if not (isinstance(alpha_bar, Tensor) and alpha_bar.is_floating_point()):
        raise TypeError(
            f"alpha_bar must be a float tensor, not {getattr(alpha_bar, 'dtype', type(alpha_bar))}"
        )
    if alpha_bar.ndim != 1 or len(alpha_bar) < 2:
        raise ValueError(f"alpha_bar must have shape (T + 1,) with T >= 1, not {tuple(alpha_bar.shape)}")
    values = alpha_bar.detach().cpu().double()
    faults = {
        "finite": ~values.isfinite(),
        "positive": (values < 0)
        | ((values == 0) & ~(to_zero & (torch.arange(len(values)) == len(values) - 1))),
        "exactly 1 at t = 0": (values != 1) & (torch.arange(len(values)) == 0),
        "smaller at each t than before": torch.cat([torch.tensor([False]), values.diff() >= 0]),
    }
    for rule, broken in faults.items():
        if broken.any():
            t = int(broken.nonzero()[0])
            raise ValueError(f"alpha_bar must be {rule}, but alpha_bar[{t}] = {values[t].item():g}")
    return values
