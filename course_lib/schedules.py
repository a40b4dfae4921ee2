"""Noise schedules: how much of the data is left at time u, from u = 0 (all) to u = 1 (none, or nearly).

Every system of the course is driven by the same number, alpha_bar(u):
    Gaussian     x_u = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise
    categorical  x_u = x_0 with probability alpha_bar, else a draw from the prior

It is kept as log alpha_bar, because both ends matter: near u = 0 one needs the digits of 1 - alpha_bar
(expm1 has them), near u = 1 those of alpha_bar. The convention is DDPM's (Ho et al.); in J. Su's blog (kexue.fm)
alpha-bar is the square root of ours.

A schedule may be learned: its function may use parameters, which live in the network, since a process has none and
`train` steps and moves those of the network.
"""

import math
from collections.abc import Callable
from functools import partial
from numbers import Real

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .finite import settled
from .shapes import Table, check_count, check_scalar, describe


class Tables(nn.Module):
    """A module for its buffers only, the tables, so that .to(device) moves them. It has no parameters."""

    @property
    def device(self) -> torch.device:
        """Where the tables are; the module's own draws are made there."""
        return next(self.buffers(), torch.empty(0)).device

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Refused: a learned part of a process would neither be trained nor move with its tables."""
        raise TypeError(
            f"{type(self).__name__} must not have parameters, but got {name}: what is learned lives in the network"
        )

    def register_buffer(self, name: str, tensor: Tensor | None, *args, **more) -> None:
        """As nn.Module does; a table made under torch.inference_mode() is copied, to serve in training as well."""
        if tensor is not None and tensor.is_inference():
            with torch.inference_mode(False):
                tensor = tensor.clone()
        super().register_buffer(name, tensor, *args, **more)

    def _apply(self, fn, recurse: bool = True):
        """Move tables between devices without losing digits: float64 stays, except on MPS, which has none."""
        # Not nn.Module's own way, which would cast float64
        # tables along with .half() or .bfloat16().
        for child in self.children():
            child._apply(fn)
        device = fn(torch.zeros(1)).device
        widest_float = torch.float32 if device.type == "mps" else torch.float64
        for name, table in list(self.named_buffers(recurse=False)):
            dtype = widest_float if table.is_floating_point() else table.dtype
            kept = name not in self._non_persistent_buffers_set
            self.register_buffer(name, table.to(device, dtype), persistent=kept)
        return self


class Schedule:
    """alpha_bar(u) for u in [0, 1], given by its logarithm; any float dtype and shape, elementwise.

    parameters  the numbers that made it: a checkpoint compares them as `repr` prints them
    """

    def __init__(
        self,
        name: str,
        log_alpha_bar: Callable[[Tensor], Tensor],
        **parameters: int | float,
    ):
        if not callable(log_alpha_bar):
            raise TypeError(
                f"log_alpha_bar must be a function of u, not {describe(log_alpha_bar)}"
            )
        self.name, self.parameters, self._log = name, parameters, log_alpha_bar

    def __repr__(self) -> str:
        if not self.parameters:
            return self.name
        made_of = ", ".join(
            f"{name}={value}" for name, value in self.parameters.items()
        )
        return f"{self.name}({made_of})"

    def __reduce__(self):
        """Pickled by name and numbers if it is one of this file's. Another's function must pickle itself."""
        maker = self.name.replace("-", "_")
        made_here = getattr(self._log, "__module__", None) == __name__
        if made_here and self._log.__qualname__.startswith(f"{maker}.<locals>"):
            return partial(globals()[maker], **self.parameters), ()
        return Schedule, (self.name, self._log), {"parameters": self.parameters}

    def log_alpha_bar(self, u: Tensor) -> Tensor:
        """log alpha_bar(u); -inf where nothing is left. Raises ValueError for u outside [0, 1]."""
        if not isinstance(u, Tensor) or not u.is_floating_point():
            raise TypeError(f"u must be a float tensor, not {describe(u)}")
        if u.device.type == "cpu" and u.numel() and not (u.min() >= 0 and u.max() <= 1):
            raise ValueError(
                f"u must lie in [0, 1], but spans [{u.min():g}, {u.max():g}]"
            )
        # Half precision would lose the digits of 1 - u before the logarithm is taken.
        at_least_float32 = torch.promote_types(u.dtype, torch.float32)
        return self._log(u.to(at_least_float32)).to(u.dtype)

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
        """-d/du log alpha_bar(u) by autodiff: beta(t) of the SDE papers, sigma'(t) of SEDD; inf if nothing is left.

        A learned schedule gets its gradient through it, and so does u if it asks for one.
        """
        # Only then a graph of second order is kept: most schedules are fixed, and rate
        # is called at every step.
        asked = torch.is_grad_enabled() and (u.requires_grad or self.is_learned(u))
        # Inference mode would keep no graph, not even this small one.
        with torch.inference_mode(False), torch.enable_grad():
            v = (
                u.view_as(u)
                if asked and u.requires_grad
                else u.detach().clone().requires_grad_()
            )
            log = self.log_alpha_bar(v)
            slope = torch.autograd.grad(log.sum(), v, create_graph=asked)[0]
            # Autodiff says NaN where the logarithm is -inf.
            return torch.where(log.detach().isinf(), torch.inf, -slope)

    def is_learned(self, u: Tensor) -> bool:
        """True if alpha_bar(u) depends on something that asks for a gradient, u itself apart."""
        with torch.inference_mode(False), torch.enable_grad():
            return self.log_alpha_bar(u.detach().clone()).requires_grad

    def inverse(self, log_alpha_bar: Tensor) -> Tensor:
        """The u in [0, 1] at which log alpha_bar(u) is this, by bisection; the nearer end if there is none.

        RuntimeError where a gradient is asked of it: bisection has none.
        """
        if not settled("log_alpha_bar", ~log_alpha_bar.isnan(), "numbers"):
            raise ValueError("log_alpha_bar must hold numbers, but holds NaN")
        start, end = torch.zeros_like(log_alpha_bar), torch.ones_like(log_alpha_bar)
        if torch.is_grad_enabled() and (
            log_alpha_bar.requires_grad or self.is_learned(start)
        ):
            raise RuntimeError(
                "inverse has no gradient: call it under torch.no_grad(), or differentiate rate"
            )
        return bisect(lambda u: self.log_alpha_bar(u) > log_alpha_bar, start, end)


def bisect(
    early: Callable[[Tensor], Bool[Tensor, "*shape"]],
    low: Float[Tensor, "*shape"],
    high: Float[Tensor, "*shape"],
    halvings: int = 60,
) -> Float[Tensor, "*shape"]:
    """The x in [low, high] where early(x) turns from True to False, elementwise; an end if it turns nowhere."""
    for _ in range(halvings):
        middle = (low + high) / 2
        before = early(middle)
        low, high = torch.where(before, middle, low), torch.where(before, high, middle)
    return (low + high) / 2


def linear(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """alpha_bar = exp(-beta_min u - (beta_max - beta_min) u^2 / 2): DDPM's linear betas with T -> infinity.

    Song et al. 2021 (arXiv:2011.13456), eq. 33. DDPM's own table is `ddpm_table`.
    """
    beta_min = check_number("beta_min", beta_min, above=0)
    beta_max = check_number("beta_max", beta_max, above=0)

    def log_alpha_bar(u: Tensor) -> Tensor:
        return -beta_min * u - (beta_max - beta_min) / 2 * u.square()

    return Schedule("linear", log_alpha_bar, beta_min=beta_min, beta_max=beta_max)


def cosine(s: float = 0.008, power: int | float = 2) -> Schedule:
    """alpha_bar = f(u) / f(0), f(u) = cos^power(pi/2 (u + s) / (1 + s)).  Nichol & Dhariwal 2021, eq. 17.

    Multinomial diffusion and D3PM have power 1: theirs is the square root of the Gaussian one.
    """
    s = check_number("s", s, least=0)
    power = check_number("power", power, above=0)
    a, scale = s / (1 + s) * math.pi / 2, math.pi / 2 / (1 + s)

    def log_alpha_bar(u: Tensor) -> Tensor:
        # cos(a + d) / cos(a) = 1 - 2 sin^2(d/2) - sin(d) tan(a): no difference of nearly equal logs
        d = scale * u
        lost = 2 * (d / 2).sin().square() + d.sin() * math.tan(a)
        return power * torch.log1p(-lost.clamp(max=1))

    return Schedule("cosine", log_alpha_bar, s=s, power=power)


def sqrt(s: float = 1e-4) -> Schedule:
    """alpha_bar = (1 - sqrt(u + s)) / (1 - sqrt(s)): Diffusion-LM as its code has it.

    The paper (arXiv:2205.14217, appendix A) prints 1 - sqrt(u + s), which is 0.99 at u = 0 and negative at u = 1.
    """
    s = check_number("s", s, above=0, below=1)
    root = math.sqrt(s)

    def log_alpha_bar(u: Tensor) -> Tensor:
        # = (sqrt(u + s) - sqrt(s)) / (1 - sqrt(s)).
        lost = u / (((u + s).sqrt() + root) * (1 - root))
        return torch.log1p(-lost.clamp(max=1))

    return Schedule("sqrt", log_alpha_bar, s=s)


def sigmoid(start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    """alpha_bar = (g(end) - g(z)) / (g(end) - g(start)), g = sigmoid(. / tau), z = start + u (end - start).

    Jabri et al. 2022 (arXiv:2212.11972), algorithm 1.
    """
    start = check_number("start", start)
    end = check_number("end", end, above=start)
    tau = check_number("tau", tau, above=0)
    a, b = start / tau, end / tau

    def share(
        u: Tensor,
    ) -> Tensor:  # (g(z) - g(a)) cosh(a/2), by sigmoid's difference formula
        half = u * (b - a) / 2
        return half.sinh() / (a / 2 + half).cosh()

    total = math.sinh((b - a) / 2) / math.cosh(b / 2)

    def log_alpha_bar(u: Tensor) -> Tensor:
        lost = share(u) / total
        return torch.log1p(-lost.clamp(max=1))

    return Schedule("sigmoid", log_alpha_bar, start=start, end=end, tau=tau)


def log_linear(eps: float = 1e-3) -> Schedule:
    """alpha_bar = 1 - (1 - eps) u: SEDD's 'log-linear', D3PM's 1 / (T - t + 1), MD4's 'linear'.

    With eps = 0 nothing is left at u = 1.
    """
    eps = check_number("eps", eps, least=0, below=1)
    return Schedule("log-linear", lambda u: torch.log1p(-(1 - eps) * u), eps=eps)


def geometric(sigma_min: float = 1e-4, sigma_max: float = 20.0) -> Schedule:
    """alpha_bar = exp(-sigma), sigma = sigma_min^(1-u) sigma_max^u.  SEDD (arXiv:2310.16834), appendix C.1.

    It starts at exp(-sigma_min), a little below 1.
    """
    sigma_min = check_number("sigma_min", sigma_min, above=0)
    sigma_max = check_number("sigma_max", sigma_max, above=sigma_min)
    ratio = math.log(sigma_max / sigma_min)

    def log_alpha_bar(u: Tensor) -> Tensor:
        return -sigma_min * torch.exp(ratio * u)

    return Schedule(
        "geometric", log_alpha_bar, sigma_min=sigma_min, sigma_max=sigma_max
    )


def table(schedule: Schedule, T: int, max_beta: float = 0.999) -> Table:
    """alpha_bar at t = 0, 1, ..., T in float64; entry 0 is exactly 1, so alpha_bar[t] is the paper's.

    Made from the steps beta_t = 1 - alpha_bar(t) / alpha_bar(t-1), clipped at max_beta as in improved DDPM,
    so that a schedule that ends at 0 still leaves a little; max_beta = 1 lets it end there (categorical noise may).
    Raises ValueError where alpha_bar does not fall.
    """
    check_count("T", T)
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"schedule must be a Schedule, such as cosine(), not {describe(schedule)}"
        )
    check_scalar("max_beta", max_beta)
    if not 0 < max_beta <= 1:
        raise ValueError(f"max_beta must lie in (0, 1], not {max_beta}")
    log = schedule.log_alpha_bar(torch.linspace(0, 1, T + 1, dtype=torch.float64))
    least = math.log1p(-max_beta) if max_beta < 1 else -math.inf
    # A smallest alpha for each step, as max_beta says:
    # the cosine's last step would go to 0 in one.
    log_alphas = log.diff().clamp(min=least)
    return check_table(from_steps(log_alphas), to_zero=max_beta == 1)


def ddpm_table(T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> Table:
    """alpha_bar_t = prod (1 - beta_i), beta linear from beta_1 to beta_T: DDPM's own table, T + 1 entries.

    The two betas are those of T = 1000 (Ho et al. 2020, section 4); other T scale them by 1000 / T, as
    improved DDPM does, so that alpha_bar_T stays near 0. That needs T > 20.
    """
    check_count("T", T)
    scale = 1000 / T
    for name, beta in (("beta_1", beta_1), ("beta_T", beta_T)):
        check_scalar(name, beta)
        if not 0 < scale * beta < 1:
            raise ValueError(
                f"T = {T} makes {name} = {scale * beta:g}, which must lie between 0 and 1"
            )
    beta = torch.linspace(scale * beta_1, scale * beta_T, T, dtype=torch.float64)
    return check_table(from_steps(torch.log1p(-beta)))


def from_steps(log_alphas: Float[Tensor, " T"]) -> Table:
    """alpha_bar_t = prod_{i <= t} alpha_i from the logarithms of the alpha_i; entry 0 is the empty product, 1."""
    # Sums of logs, not products: a thousand factors near 1 lose digits.
    start = torch.zeros(1, dtype=log_alphas.dtype)
    return torch.cat([start, log_alphas.cumsum(0)]).exp()


# Bad input


def check_number(
    name: str,
    value: object,
    above: int | float = -math.inf,
    least: int | float = -math.inf,
    below: int | float = math.inf,
) -> float:
    """The value as a float, or an error: a finite number > above, >= least and < below.

    A tensor is refused, since float() would drop its gradient: a learned schedule is a Schedule of its own.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {describe(value)}")
    if not (math.isfinite(value) and above < value < below and value >= least):
        bounds = {">": above, ">=": least, "<": below}
        rules = [
            f"{sign} {bound:g}"
            for sign, bound in bounds.items()
            if math.isfinite(bound)
        ]
        raise ValueError(
            f"{name} must be {' and '.join(rules) or 'finite'}, not {value}"
        )
    return float(value)


def check_table(alpha_bar: Tensor, to_zero: bool = False) -> Tensor:
    """The table itself in float64, or an error that says where it is no alpha_bar: 1 at t = 0, then falling, > 0.

    to_zero allows 0 at t = T.
    """
    if not isinstance(alpha_bar, Tensor) or not alpha_bar.is_floating_point():
        raise TypeError(f"alpha_bar must be a float tensor, not {describe(alpha_bar)}")
    if alpha_bar.ndim != 1 or len(alpha_bar) < 2:
        raise ValueError(
            f"alpha_bar must have shape (T + 1,) with T >= 1, not {tuple(alpha_bar.shape)}"
        )
    if alpha_bar.requires_grad:
        raise ValueError(
            "alpha_bar must not ask for a gradient: a table is fixed, give alpha_bar.detach()"
        )
    values = alpha_bar.cpu().double()
    positive = values > 0
    if to_zero:
        positive[-1] = values[-1] >= 0
    falls = torch.ones_like(positive)
    falls[1:] = values.diff() < 0
    starts_at_1 = torch.ones_like(positive)
    starts_at_1[0] = values[0] == 1
    rules = {
        "finite": values.isfinite(),
        "positive": positive,
        "exactly 1 at t = 0": starts_at_1,
        "smaller at each t than before": falls,
    }
    for rule, holds in rules.items():
        if not holds.all():
            t = int((~holds).nonzero()[0])
            raise ValueError(
                f"alpha_bar must be {rule}, but alpha_bar[{t}] = {values[t].item():g}"
            )
    return values
