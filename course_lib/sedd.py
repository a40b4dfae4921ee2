"""SEDD: score entropy discrete diffusion in continuous time (Lou, Meng & Ermon 2024, arXiv:2310.16834).

A token i turns into j at the rate sigma'(t) R[i, j]: rows are "from" as everywhere here (the paper has the transpose),
sigma = -log alpha_bar. Backwards x turns into y at the rate sigma'(t) R[y, x] s_y, where s_y = p_t(x_t with y at this
place) / p_t(x_t) is the score. The network learns log s. R is normalised: exp(sigma R) is the
noise's matrix at alpha_bar = e^-sigma. (For uniform noise the paper prints K R; its code has R.)
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from .absorbing import Absorbing
from .categorical import LogLaw, PerToken, Semigroup, draw, happens, kept_and_lost, pick
from .d3pm import D3PM, MaskCount, Prediction
from .infilling import keep
from .process import Process
from .schedules import Schedule
from .shapes import (
    Mask,
    Network,
    PerExample,
    State,
    Times,
    Tokens,
    check_choice,
    check_count,
    per_example,
    upcast,
    widest,
)
from .stationary import Stationary, Uniform

FIRST = 1e-30  # the moment after time 0: where a schedule starts below 1, its first noise is there already
Sampler = Literal["tweedie", "euler"]
Mass = Literal["learned", "known"]

# Score entropy


def score_entropy(
    noise: Semigroup, log_s: LogLaw, x0: Tokens, x_t: Tokens, log_alpha: PerExample
) -> PerToken:
    """sum_{y != x_t} R[y, x_t] (s_y - rho_y log s_y + K(rho_y)), rho_y = q(y | x_0) / q(x_t | x_0), per token, float64.

    K(rho) = rho (log rho - 1) makes each term >= 0, and 0 where s_y = rho_y. For any noise, one number for each of
    the V tokens; s at x_t itself plays no part.  (SEDD, definition 3.1, with the weights of equation 10)
    """
    q = noise.after(widest(F.one_hot(x0, noise.K)), log_alpha)
    rho = (q / pick(q, x_t)[..., None])[..., : noise.V]
    return (noise.rates(x_t)[..., : noise.V] * bregman(widest(log_s), rho)).sum(-1)


def bregman(log_s: Float[Tensor, "*shape"], rho: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """s - rho log s + K(rho) >= 0: the generalised KL of rho and s. It is not symmetric in them."""
    return log_s.exp() - torch.where(rho > 0, rho * log_s, 0) + torch.xlogy(rho, rho) - rho


def score_entropy_replace(
    noise: Stationary, log_s: LogLaw, x0: Tokens, x_t: Tokens, log_alpha: PerExample
) -> PerToken:
    """The same for noise that draws from any law pi: two sums over the vocabulary, all else a few numbers per token.

    pi_x sum s_y - pi_x (1 - alpha) / q_x sum pi_y log s_y - [x != x_0] alpha / (1 - alpha) log s_{x_0}, q = q(. | x_0),
    sums over y != x, plus what does not depend on s. Nothing cancels, whatever K is: for uniform noise and x = x_0 the
    ratio is rho = e1 / (e1 + K), e1 = expm1(sigma).
    """
    (a, lost), pi = kept_and_lost(log_alpha, x0), noise.pi.to(log_s.dtype)
    pi_x, pi_0, moved = noise.pi[x_t], noise.pi[x0], x_t != x0
    total, mean, at_x, at_0 = Sums.apply(log_s, pi, x_t, x0)
    total, at_0 = widest(total - at_x.exp()), widest(at_0)
    q_x = a * ~moved + lost * pi_x
    share = pi_x * lost / q_x  # R[y, x] rho_y / pi_y at all y but x_0
    known = torch.where(moved, a / lost * at_0, 0)
    return (
        pi_x * total
        - share * widest(mean - pi[x_t] * at_x)
        - known
        + _constant(noise, a, lost, q_x, share, pi_x, pi_0, moved)
    )


class Sums(torch.autograd.Function):
    """sum_y s_y, sum_y pi_y log s_y, log s_x and log s_{x_0}: all that the loss wants of the vocabulary.

    Some rows at a time, and s is worked out again for the gradient: no other table of the vocabulary is ever made.
    """

    @staticmethod
    def forward(ctx, log_s, pi, x, x0):
        ctx.save_for_backward(log_s, pi, x, x0)
        return sum_exp(log_s), log_s @ pi, pick(log_s, x), pick(log_s, x0)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_sum, d_mean, d_x, d_0):
        log_s, pi, x, x0 = ctx.saved_tensors
        slope = torch.empty(log_s.shape, dtype=log_s.dtype, device=log_s.device)
        tables = (v.reshape(-1, len(pi)) for v in (log_s, slope))
        rest = (v.reshape(-1, 1) for v in (d_sum, d_mean))
        for f, out, a, b in zip(*(v.split(rows(log_s)) for v in (*tables, *rest)), strict=True):
            torch.exp(f, out=out).mul_(a).addcmul_(b, pi)
        slope.scatter_add_(-1, x[..., None], d_x[..., None])
        return slope.scatter_add_(-1, x0[..., None], d_0[..., None]), None, None, None


def sum_exp(f: Float[Tensor, "*n V"]) -> Float[Tensor, "*n"]:
    """sum_y e^f_y, some rows at a time."""
    parts = f.reshape(-1, f.shape[-1]).split(rows(f))
    return torch.cat([part.exp().sum(-1) for part in parts]).reshape(f.shape[:-1])


def rows(f: Float[Tensor, "*n V"]) -> int:
    """How many rows make a table of some megabytes at most, which a processor's cache holds. All, off the CPU."""
    return max(1, 2**18 // f.shape[-1]) if f.device.type == "cpu" else max(1, f.numel())


def _constant(noise, a, lost, q_x, share, pi_x, pi_0, moved) -> PerToken:
    """sum_{y != x} R[y, x] K(rho_y): rho_y = (1 - alpha) pi_y / q_x at all y but x_0, which has alpha more."""
    scale = (lost / q_x).log() - 1
    rest = 1 - pi_x - pi_0 * moved
    entropy = (
        torch.xlogy(noise.pi, noise.pi).sum() - torch.xlogy(pi_x, pi_x) - torch.xlogy(pi_0, pi_0) * moved
    )
    rho_0 = (a + lost * pi_0) / q_x
    return share * (entropy + rest * scale) + torch.where(moved, pi_x * rho_0 * (rho_0.log() - 1), 0)


class SEDD(Process):
    """Diffusion of sequences of `length` tokens in continuous time, by a noise with a schedule as its clock.

    The network gives V numbers f per position, log s_y = f_y + (log score of a uniformly random x_0), so that a network
    that says 0 has the bound log V per token.  scaled=False: f is log s itself.
    sampler    "tweedie": the law that is exact for one token (eqs. 18 and 19, the "analytic" sampler of its code)
               "euler":   rates at t are kept until s (eq. 17); 1 - their sum may be negative, and is 0 then
               The step to s = 0 is Tweedie's in both.
    mass       of absorbing noise, where the scores of a mask sum to r = 1 / (e^sigma - 1) whatever the data is
               "learned": by the network, as in the paper
               "known":   log s = log r + log softmax(f), the same loss and bound as MDLM's; `scaled` plays no part
    """

    def __init__(
        self,
        noise: Semigroup,
        length: int,
        sampler: Sampler = "tweedie",
        scaled: bool = True,
        mass: Mass = "learned",
    ):
        super().__init__()
        check_clock(noise)
        check_count("length", length)
        check_choice("sampler", sampler, ("tweedie", "euler"))
        self.noise, self.T, self.length = noise, 1.0, length
        check_choice("mass", mass, ("learned", "known"))
        if mass == "known" and not isinstance(noise, Absorbing):
            raise ValueError(f"mass can be known for absorbing noise only, not for {type(noise).__name__}")
        self.sampler, self.scaled, self.mass = sampler, scaled or mass == "known", mass

    # Forward process

    def corrupt(self, x0: Tokens, t: Times) -> Tokens:
        """x_t ~ x_0 exp(sigma(t) R), token by token."""
        self.check_state("x0", x0, self.noise.V)
        self.check_t("t", t, len(x0))
        return self.noise.corrupt(x0, torch.zeros_like(t), t)

    def prior(self, n: int) -> Tokens:
        """x_1, each token on its own from noise.prior()."""
        return draw(self.noise.prior().expand(n, self.length, -1))

    # What the network says

    def log_score(self, model: Network, x_t: Tokens, t: Times) -> LogLaw:
        """log s_y for the V tokens y at each position; 0 at y = x_t."""
        self.check_state("x_t", x_t, self.noise.K)
        self.check_times(t, len(x_t))
        return self._own(self._scores(upcast(model(x_t, self.u(t))), x_t, t), x_t)

    def base(self, x_t: Tokens, t: Times) -> LogLaw:
        """log s of a uniformly random x_0, what is added to the output; 0 for doubly stochastic noise."""
        flat = widest(torch.ones(len(x_t), 1, self.noise.V, device=x_t.device)) / self.noise.V
        c = self.noise.after(F.pad(flat, (0, self.noise.K - self.noise.V)), self.noise.log_alpha(t)).log()
        return (c - c[:, 0].gather(-1, x_t)[..., None])[..., : self.noise.V]

    def _scores(self, out: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """log s from the output, with anything at x_t itself."""
        if self.mass == "known":
            out = torch.where((x_t == self.noise.mask)[..., None], self._right_mass(out), out)
        plain = not self.scaled or isinstance(self.noise, Uniform)
        return out if plain else out + self.base(x_t, t).to(out.dtype)

    def _right_mass(self, f: Float[Tensor, "*n V"]) -> Float[Tensor, "*n V"]:
        """f with mean(e^f) = 1."""
        return f.log_softmax(-1) + math.log(self.noise.V)

    def _own(self, log_s: LogLaw, x_t: Tokens) -> LogLaw:
        """log s with 0 at x_t itself."""
        here = F.one_hot(x_t, self.noise.K)[..., : self.noise.V].bool()
        return log_s.masked_fill(here, 0)

    def convert(self, log_s: LogLaw, x_t: Tokens, t: Times, to: Prediction) -> Float[Tensor, "B L _"]:
        """`log_score` as a log law (B, L, V), "loo" given the others or "posterior"; or for all K states, "score"."""
        check_choice("to", to, ("loo", "posterior", "score"))
        loo = self.noise.loo_from_score(log_s, x_t, t)
        if to == "loo":
            return loo
        change = self.noise.posterior_from_loo if to == "posterior" else self.noise.score_from_loo
        return change(loo, x_t, t)

    def answer(self, loo: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """What a network must say that knows log p(x_0 at i | the other tokens of x_t): the inverse of reading it."""
        log_s = self.noise.score_from_loo(loo, x_t, t)[..., : self.noise.V]
        return log_s - self.base(x_t, t).to(log_s.dtype) if self.scaled else log_s

    # Training

    def loss(self, model: Network, x0: Tokens, t: Times) -> PerExample:
        """sigma'(t) x score entropy / length: nats per token, but for the prior term.  (eq. 10)"""
        return (self._entropy(model, x0, t, upcast) / self.length).float()

    def bound(self, model: Network, x0: Tokens, t: Times) -> PerExample:
        """Nats per sequence, float64: its mean over t in (0, 1] bounds -log p(x_0).  (theorem 3.6)"""
        total = self._entropy(model, x0, t, widest) + self.prior_term(x0)
        return total + self.reconstruction_term(model, x0)

    def diffusion_term(self, model: Network, x0: Tokens, t: Times) -> PerExample:
        """DWDSE at t: sigma'(t) x score entropy at one draw of x_t, nats per sequence, float64."""
        return self._entropy(model, x0, t, widest)

    def prior_term(self, x0: Tokens) -> PerExample:
        """KL(q(x_1 | x_0) || prior) in nats per sequence."""
        self.check_state("x0", x0, self.noise.V)
        return self.noise.prior_kl(x0).sum(1)

    def reconstruction_term(self, model: Network, x0: Tokens) -> PerExample:
        """-log p(x_0 | x just after 0) by the last denoising step; exactly 0 if the schedule starts at 1. Nats.

        Published bounds leave it out, which makes them smaller than a bound.
        """
        first = torch.full((len(x0),), FIRST, device=x0.device)
        if not self.noise.schedule.log_alpha_bar(widest(first[:1] * 0)).any():
            return widest(torch.zeros_like(first))
        x = self.noise.corrupt(x0, torch.zeros_like(first), first)
        law = self.law(self.log_score(model, x, first), x, first, torch.zeros_like(first))
        return -pick(law, x0).log().sum(1)

    def _entropy(self, model, x0, t, widen) -> PerExample:
        """sigma'(t) x score entropy, summed over the sequence, for one draw of x_t."""
        self.check_state("x0", x0, self.noise.V)
        self.check_times(t, len(x0))
        x_t, log_alpha = self.noise.corrupt(x0, torch.zeros_like(t), t), self.noise.log_alpha(t)
        if isinstance(self.noise, Absorbing):
            per_token = self.surprise(model, x0, x_t, t, x_t == self.noise.mask)
            return self.check_numbers(self.weight(t) * per_token.sum(1), t)
        log_s = self._scores(widen(model(x_t, self.u(t))), x_t, t)
        entropy = score_entropy_replace if isinstance(self.noise, Stationary) else score_entropy
        total = self.rate(t) * entropy(self.noise, log_s, x0, x_t, log_alpha).sum(1)
        return self.check_numbers(total, t)

    def rate(self, t: Times) -> PerExample:
        """sigma'(t), float64."""
        return self.noise.schedule.rate(widest(t))

    def weight(self, t: Times) -> PerExample:
        """sigma' / (e^sigma - 1), the rate at which one mask opens; 1 / t for log-linear noise."""
        return self.rate(t) / torch.expm1(-self.noise.log_alpha(t))

    # Absorbing noise: masks only. With r = 1 / (e^sigma - 1), log s = log r - log V + f, so r leaves the sum.

    def surprise(self, model: Network, x0: Tokens, x_t: Tokens, t: Times, where: Mask) -> PerToken:
        """Score entropy / r at the masks `where`, 0 elsewhere: mean(e^f) - 1 - f_{x_0} + log V; nats, float64.

        That is -log p(x_0) of p = softmax(f), plus phi(m) = m - 1 - log m >= 0, m = mean(e^f) the total mass over r.
        """
        f = self._on_masks(model, x_t, t, where)
        nll = f.exp().mean(-1) - 1 - f.gather(-1, x0[where][:, None])[:, 0] + math.log(self.noise.V)
        return widest(torch.zeros(x0.shape, device=x0.device)).masked_scatter(where, widest(nll))

    def _on_masks(self, model: Network, x_t: Tokens, t: Times, where: Mask) -> Float[Tensor, "n V"]:
        """The network's f at the masks `where` only; a network that takes rows works out no others."""
        takes_at = getattr(model, "takes_at", False)
        out = model(x_t, self.u(t), at=where) if takes_at else model(x_t, self.u(t))[where]
        if self.mass == "known":
            return self._right_mass(upcast(out))
        if self.scaled:
            return upcast(out)
        base = -torch.expm1(-self.noise.log_alpha(t)).log() - math.log(self.noise.V)
        return upcast(out) - per_example(base, x_t).expand(x_t.shape)[where][:, None].to(out.dtype)

    # Sampling

    def step(self, model: Network, x: Tokens, t: Times, s: Times) -> Tokens:
        """x_s ~ p(x_s | x_t) for any s < t."""
        self.check_state("x", x, self.noise.K)
        self.check_step(len(x), t, s)
        if isinstance(self.noise, Absorbing):
            return self._open(model, x, t, s)
        log_s = self.check_numbers(self.log_score(model, x, t), t)
        if isinstance(self.noise, Stationary):
            return self._replace(log_s, x, t, s)
        return draw(self.law(log_s, x, t, s))

    def law(self, log_s: LogLaw, x_t: Tokens, t: Times, s: Times) -> Float[Tensor, "B L K"]:
        """p(x_s | x_t) of each token on its own, from `log_score`; for any noise, float64.

        Tweedie: (s exp(-D R))_y exp(D R)[y, x_t], D = sigma(t) - sigma(s). Negative entries, which only a score that no
        data has can give, are 0.
        """
        state_scores, step = widest(log_s).exp(), self.noise.log_alpha_ratio(s, t)
        if self.noise.mask is not None:  # MASK stands last, and has the score 1 where it is x_t
            state_scores = torch.cat([state_scores, widest(x_t == self.noise.mask)[..., None]], -1)
        p = self.noise.after(state_scores, -step).clamp(min=0) * self.noise.column(x_t, step)
        p = torch.where(
            per_example(s == 0, p) & (torch.arange(self.noise.K, device=p.device) >= self.noise.V), 0, p
        )
        if self.sampler == "euler":
            jump = (
                per_example((widest(t) - widest(s)) * self.rate(t), p) * self.noise.rates(x_t) * state_scores
            )
            stay = (1 - jump.sum(-1, keepdim=True)).clamp(min=0) * F.one_hot(x_t, self.noise.K)
            p = torch.where(per_example(s == 0, p), p, jump + stay)
        return p / p.sum(-1, keepdim=True)

    def _open(self, model: Network, x: Tokens, t: Times, s: Times) -> Tokens:
        """Absorbing noise: which masks open, then what is under those.

        The chance is the mass times that of the noise. Where the mass is known, only masks that open are asked about.
        """
        masks, chance = x == self.noise.mask, self.noise.reveals(s, t)
        if self.sampler == "euler":
            chance = (widest(t) - widest(s)) * self.weight(t)
        chance = per_example(torch.where(s == 0, 1, chance), x).expand(x.shape)
        asked = masks & happens(chance) if self.mass == "known" else masks
        if not asked.any():
            return x
        f = self._on_masks(model, x, t, asked)
        mass = self.check_numbers(sum_exp(f), t) / self.noise.V
        if self.mass == "known":
            return x.masked_scatter(asked, draw(f.softmax(-1)))
        opens = happens(chance[masks] * widest(mass)) | (per_example(s, x).expand(x.shape)[masks] == 0)
        tokens = x[masks].masked_scatter(opens, draw(f[opens].softmax(-1)))
        return x.masked_scatter(masks, tokens)

    def _replace(self, log_s: LogLaw, x: Tokens, t: Times, s: Times) -> Tokens:
        """Noise that draws from pi, in two stages: which tokens change, then what those become."""
        pi, pi_x = self.noise.pi.to(log_s.dtype), self.noise.pi[x]
        a, lost = kept_and_lost(self.noise.log_alpha_ratio(s, t), x)  # alpha_t / alpha_s and 1 - it
        score = log_s.exp()
        total = score.sum(-1, keepdim=True)
        tweedie = (score - lost[..., None].to(pi.dtype) * pi * total).clamp(min=0)
        speed, stay = pi_x * lost / a, pick(tweedie, x) / a * (a + lost * pi_x)
        if self.sampler == "euler":
            last = per_example(s == 0, x)
            h = per_example((widest(t) - widest(s)) * self.rate(t), x)
            tweedie = torch.where(last[..., None], tweedie, score)
            speed = torch.where(last, speed, h * pi_x)
            stay = torch.where(last, stay, (1 - h * pi_x * widest(total[..., 0] - 1)).clamp(min=0))
        tweedie = tweedie.scatter(-1, x[..., None], 0)
        move = speed * widest(tweedie.sum(-1))
        changes = happens(move / (move + stay))
        return x.masked_scatter(changes, draw(tweedie[changes]))

    def given(self, pieces: dict[int, Int[Tensor, " _"]], n: int) -> Callable[[Tensor], Tensor]:
        """For `sample(..., clamp=...)`: n sequences, the tokens from each position on given. Prompts and gaps alike.

        Exact for absorbing noise. Raises ValueError for pieces that do not fit, overlap or hold no tokens.
        """
        known = torch.zeros(self.length, dtype=torch.bool, device=self.device)
        context = torch.zeros(self.length, dtype=torch.long, device=self.device)
        for start, piece in pieces.items():
            end = start + len(piece)
            if not 0 <= start < end <= self.length:
                raise ValueError(
                    f"a piece must lie in 0..{self.length - 1}, but one of {len(piece)} tokens starts at {start}"
                )
            if known[start:end].any():
                raise ValueError(
                    f"pieces must not overlap, but two hold position {start + int(known[start:end].int().argmax())}"
                )
            self.noise.check_tokens("a piece", piece[None], self.noise.V)
            known[start:end], context[start:end] = True, piece.to(context)
        return keep(known.expand(n, -1), context.expand(n, -1))

    # Bad input

    def check_state(self, name: str, x: Tensor, states: int) -> None:
        """Raise unless x holds whole numbers in 0..states-1, (B >= 1, length)."""
        D3PM.check_state(self, name, x, states)

    def check_times(self, t: Tensor, n: int) -> None:
        """Raise unless t is one time in (0, 1] per example."""
        self.check_t("t", t, n)
        if t.device.type == "cpu" and not (t > 0).all():
            raise ValueError(f"t must lie in (0, 1], but t = 0 in example {int((t == 0).nonzero()[0])}")

    def check_numbers(self, values: Tensor, t: Times) -> Tensor:
        """The values, or ValueError if one is NaN. Not looked at off the CPU, where looking makes the device wait."""
        if values.device.type == "cpu" and values.isnan().any():
            raise ValueError(
                f"the model's scores must be numbers, but at t = {t.min():g} to {t.max():g} some are NaN"
            )
        return values


def check_clock(noise: Semigroup) -> None:
    """Raise unless sigma = -log alpha_bar rises over [0, 1] to a finite number."""
    if not isinstance(noise, Semigroup) or noise.schedule is None:
        raise ValueError(
            "noise must have a schedule as its clock, since SEDD's time is continuous, not a table"
        )
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    sigma = -noise.schedule.log_alpha_bar(u)
    if not sigma.isfinite().all():
        raise ValueError("noise must leave alpha_bar(1) > 0: where it is 0, scores say nothing")
    if not (sigma.diff() > 0).all():
        at = u[int((~(sigma.diff() > 0)).nonzero()[0])]
        raise ValueError(f"noise must grow with time, but sigma does not increase after u = {at:g}")


# Masks counted


class Counted(MaskCount):
    """The bound of absorbing SEDD or MDLM with the *number* of masks as its time: the same mean, far less variance.

    sum_n w(n) E[surprise | n masks], w(n) = int weight(t) P(M = n at t) dt = P(Beta(n, L - n + 1) lies among the noise
    levels 1 - alpha_bar(0+) .. 1 - alpha_bar(1)) / n, and given n the noise level has this Beta law.
    """

    def __init__(self, process: SEDD):
        Process.__init__(self)
        if not isinstance(process.noise, Absorbing):
            raise ValueError(f"process must have absorbing noise, not {type(process.noise).__name__}")
        self.process, self.T = process, process.length
        ends = torch.tensor([FIRST, 1.0], device=process.device)
        lost = -torch.expm1(process.noise.log_alpha(ends))
        n = widest(torch.arange(self.T + 1, device=process.device))
        ways = torch.lgamma(n[-1:] + 1) - torch.lgamma(n + 1) - torch.lgamma(n.flip(0) + 1)
        chance = (ways + torch.xlogy(n, lost[:, None]) + torch.xlogy(n.flip(0), 1 - lost[:, None])).exp()
        at_least = chance.flip(1).cumsum(1).flip(1)  # P(M >= n) = P(Beta(n, L - n + 1) < lost)
        self.register_buffer("lost", lost)
        self.register_buffer("weight", (at_least[1] - at_least[0]) / n.clamp(min=1) * (n > 0))

    def bound(self, model: Network, x0: Tokens, t: Times) -> PerExample:
        """Nats per sequence, float64: its mean over n = 1..length is the mean of process.bound over t."""
        return super().bound(model, x0, t) + self.process.reconstruction_term(model, x0)

    def told(self, n: Times) -> Times:
        """A time that has n masks, from its law given n."""
        law = torch.distributions.Beta(widest(n), widest(self.T - n + 1))
        level = law.sample()
        while (outside := (level < self.lost[0]) | (level > self.lost[1])).any():
            level = torch.where(outside, law.sample(), level)
        return moment(self.process.noise.schedule, level)


def moment(schedule: Schedule, level: PerExample) -> Times:
    """The time at which a token is lost with probability `level`, float32, in (0, 1]."""
    return schedule.inverse(torch.log1p(-level)).float().clamp(min=FIRST)


def first_hitting(
    process: SEDD, model: Network, n: int, clamp: Callable[[Tensor], Tensor] | None = None
) -> Iterator[tuple[PerExample, State]]:
    """Yield (t of each example, x_t): absorbing noise run backwards in continuous time, one mask at a time.

    With M masks left the next opens when the noise level 1 - alpha_bar has fallen by the factor u^(1/M); each mask is
    as likely as another, and its token is drawn from softmax(f). At most `length` calls.  (arXiv:2409.02908, section 4)
    """
    check_count("n", n)
    if not isinstance(process.noise, Absorbing):
        raise ValueError(f"process must have absorbing noise, not {type(process.noise).__name__}")
    return _first_hitting(process, model, process.prior(n), clamp or (lambda x: x))


@torch.no_grad()
def _first_hitting(process, model, x, clamp):
    x, t = clamp(x), torch.ones(len(x), device=x.device)
    log_level = process.noise.schedule.noise(widest(t)).log()
    yield t, x
    while (masks := x == process.noise.mask).any():
        left = masks.sum(1)
        log_level = log_level + torch.where(left > 0, torch.rand_like(log_level).log() / left.clamp(min=1), 0)
        t = moment(process.noise.schedule, log_level.exp())
        order = torch.rand(x.shape, device=x.device) * masks
        which = masks & (order == order.amax(1, keepdim=True))
        f = process._on_masks(model, x, t, which)
        x = x.masked_scatter(which, draw(f.softmax(-1)))
        yield t, x
