"""SEDD: score entropy discrete diffusion in continuous time (Lou, Meng & Ermon 2024, arXiv:2310.16834).

A token i turns into j at the rate sigma'(t) R[i, j]: rows are "from" as everywhere here (the paper has the transpose).
sigma = -log alpha_bar is what the paper calls sigma-bar, the noise so far (its code: sigma); the rate sigma'(t) is what
the paper calls sigma(t) (its code: dsigma). Backwards x turns into y at the rate sigma'(t) R[y, x] s_y, where s_y =
p_t(x_t with y at this place) / p_t(x_t) is the score. The network learns log s. R is normalised: exp(sigma R) is the
noise's matrix at alpha_bar = e^-sigma. (For uniform noise the paper prints K R; its code has R.)

    SEDD            any semigroup with a schedule: the definitions
    StationarySEDD  noise that draws from a law pi: nothing larger than the network's output
    MaskedSEDD      absorbing noise: MDLM, whose masks cost phi(m) more
    KnownMassSEDD   absorbing noise, the mass set right: MDLM, with SEDD's scores and samplers

On masks the scores sum to r = 1 / (e^sigma - 1) whatever the data is. With f the network's numbers and m = mean(e^f)
the mass that it says over the true one,

    SEDD's loss = MDLM's loss + weight x sum over masks of phi(m),  phi(m) = m - 1 - log m >= 0.

Time 0 is the data, whatever the schedule. A clock that starts below 1 (geometric: sigma = 1e-4) acts at once, just
after 0: the last step of every sampler is then the denoiser, and the bound has a reconstruction term by that same
step, which SEDD's paper omits. The network answers relative to a uniformly random x_0, so that silence costs log V
per token under any noise; on masks 1 / (e^sigma - 1) leaves what the network has to say, so that none of its numbers
grows as sigma goes to 0. SEDD-absorb, the paper's main model, is MaskedSEDD: its loss is MDLM's `loss_at` with `cost`.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .absorbing import Absorbing
from .categorical import Law, LogLaw, PerToken, Semigroup, draw, happens, pick
from .mdlm import MDLM, check_clock, starts_below_1
from .score_entropy import score_entropy, score_entropy_stationary
from .shapes import (
    Mask,
    Network,
    PerExample,
    Times,
    Tokens,
    check_choice,
    per_example,
    widest,
)
from .stationary import Stationary
from .tokens import FIRST, Prediction, TokenProcess, on_tokens, tokens_in
from .tweedie import SAMPLERS

Sampler = Literal["tweedie", "euler"]
Mass = Literal["learned", "known"]


class SEDD(TokenProcess):
    """Diffusion of sequences of `length` tokens in continuous time, by a noise with a schedule as its clock.

    The network gives V numbers f per position, log s_y = f_y + (log score of a uniformly random x_0), so that a network
    that says 0 has the bound log V per token.  scaled=False: its output is log s itself.
    sampler    "tweedie": the law that is exact for one token;  "euler": rates at t are kept until s
    mass       absorbing noise only: who sets sum_y s_y at a mask, which is 1 / (e^sigma - 1) for every data
               "learned": by the network, as in the paper
               "known":   log s = log r + log softmax(f), the same loss and bound as MDLM's; `scaled` plays no part
    SEDD(noise, ...) is the class for this noise and mass that the module's list names.
    """

    mass: Mass = "learned"

    def __new__(
        cls,
        noise: Semigroup | None = None,
        length: int | None = None,
        sampler: Sampler = "tweedie",
        scaled: bool = True,
        mass: Mass = "learned",
    ) -> "SEDD":
        # noise=None: copy and pickle call this without arguments.
        if cls is SEDD and isinstance(noise, Absorbing):
            cls = KnownMassSEDD if mass == "known" else MaskedSEDD
        if cls is SEDD and isinstance(noise, Stationary):
            cls = StationarySEDD
        return super().__new__(cls)

    def __init__(
        self,
        noise: Semigroup,
        length: int,
        sampler: Sampler = "tweedie",
        scaled: bool = True,
        mass: Mass = "learned",
    ):
        TokenProcess.__init__(self, noise, length)
        check_clock(noise)
        check_choice("sampler", sampler, SAMPLERS)
        check_choice("mass", mass, ("learned", "known"))
        if mass == "known" and not isinstance(noise, Absorbing):
            raise ValueError(
                f"mass can be known for absorbing noise only, not for {type(noise).__name__}"
            )
        if mass != self.mass:
            raise ValueError(
                f"mass of {type(self).__name__} is {self.mass!r}, not {mass!r}: SEDD(noise, length, mass=...) chooses "
                "the class"
            )
        self.sampler, self.scaled = sampler, scaled or self.mass == "known"
        self.noisy_at_once = starts_below_1(noise)

    # What the network says

    def ask(
        self,
        model: Network,
        x_t: Tokens,
        t: Times,
        where: Mask | None = None,
        padded: bool = False,
    ) -> Float[Tensor, "*n V"]:
        """The network's f, whether it says that or the log score."""
        out = super().ask(model, x_t, t, where, padded)
        if self.scaled:
            return out
        base = self.base(x_t.clamp(min=0), t).to(out.dtype)
        base = base.expand(*x_t.shape, -1)
        return out - (base if where is None else base[where])

    def base(self, x_t: Tokens, t: Times) -> LogLaw:
        """log s of a uniformly random x_0, what is added to f; 0 for doubly stochastic noise.

        On masks -log(e^sigma - 1) - log V: what `scale_by_sigma` adds in SEDD's code.
        """
        K, V = self.noise.K, self.noise.V
        uniform = widest(torch.ones(len(x_t), 1, V, device=x_t.device)) / V
        # No data is MASK.
        uniform = F.pad(uniform, (0, K - V))
        # The score if x_0 were uniformly random: p_t(y) / p_t(x), of one token.
        law_t = self.noise.after(uniform, self.noise.log_alpha(t))
        log_law = law_t.log()
        here = log_law[:, 0].gather(-1, x_t)
        return (log_law - here[..., None])[..., :V]

    def log_score(self, model: Network, x_t: Tokens, t: Times) -> LogLaw:
        """log s_y for the V tokens y at each position; 0 at y = x_t."""
        x_t = self.check_state("x_t", x_t, self.noise.K)
        self.check_positive(t, len(x_t))
        return self.read(self.ask(model, x_t, t), x_t, t)

    def read(self, f: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """log s from f: 0 at x_t itself, whatever the network says there."""
        log_s = self.with_base(f, x_t, t)
        # A MASK has no entry of its own among the V: its last one stays as it is.
        at = x_t.clamp(max=self.noise.V - 1)
        here = torch.where(x_t < self.noise.V, 0, pick(log_s, at))
        return log_s.scatter(-1, at[..., None], here[..., None])

    def with_base(self, f: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """log s from f, with anything at x_t itself."""
        return f + self.base(x_t, t).to(f.dtype)

    def predict_x0(self, model: Network, x_t: Tokens, t: Times) -> LogLaw:
        """log p(x_0 at i | the other tokens of x_t) from the network's scores."""
        return self.convert(self.log_score(model, x_t, t), x_t, t, "loo")

    def convert(
        self, log_s: LogLaw, x_t: Tokens, t: Times, to: Prediction
    ) -> Float[Tensor, "B L _"]:
        """`log_score` as a log law (B, L, V), "loo" given the others or "posterior"; or for all K states, "score"."""
        return self.from_loo(self.noise.loo_from_score(log_s, x_t, t), x_t, t, to)

    def answer(self, loo: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """What a network must say that knows loo: the inverse of reading it."""
        log_s = self.noise.score_from_loo(loo, x_t, t)[..., : self.noise.V]
        return log_s - self.base(x_t, t).to(log_s.dtype) if self.scaled else log_s

    # Training

    def loss_at(self, model: Network, x0: Tokens, x_t: Tokens, t: Times) -> PerExample:
        """sigma'(t) x score entropy / tokens: nats per token, prior and reconstruction left out.  (eq. 10)"""
        x0, x_t = self.check_pair(x0, x_t, t)
        entropy = self.entropy_at(self.ask(model, x_t, t, padded=True), x0, x_t, t)
        return (self.rate(t) * entropy / tokens_in(x0)).float()

    def entropy_at(self, f: LogLaw, x0: Tokens, x_t: Tokens, t: Times) -> PerExample:
        """Score entropy of f at x_t, summed over the sequence."""
        real_0, real_t = x0.clamp(min=0), x_t.clamp(min=0)
        # Nothing trains f at x_t, so it may be large, and float32 would lose the other
        # terms beside it: as in the released network it is set to 0.
        log_s = self.read(f, real_t, t)
        # The inner sum of DWDSE over y != x_t, for each position.
        each = self.score_entropy(log_s, real_0, real_t, self.noise.log_alpha(t))
        return on_tokens(each, x0).sum(1)

    def score_entropy(
        self, log_s: LogLaw, x0: Tokens, x_t: Tokens, log_alpha: PerExample
    ) -> PerToken:
        """The definition; nats per token, float64."""
        return score_entropy(self.noise, log_s, x0, x_t, log_alpha)

    def rate(self, t: Times) -> PerExample:
        """sigma'(t), float64."""
        return self.noise.schedule.rate(widest(t))

    # The bound

    def diffusion_term_at(
        self, model: Network, x0: Tokens, x_t: Tokens, t: Times
    ) -> PerExample:
        """DWDSE at t: sigma'(t) x score entropy at x_t, nats per sequence, float64.  (theorem 3.6)"""
        x0, x_t = self.check_pair(x0, x_t, t)
        f = widest(self.ask(model, x_t, t, padded=True))
        return self.rate(t) * self.entropy_at(f, x0, x_t, t)

    def reconstruction_term_at(
        self, model: Network, x0: Tokens, x: Tokens
    ) -> PerExample:
        """-log p(x_0 | x) by a step from just after time 0. Nats per sequence."""
        first = torch.full((len(x0),), FIRST, device=x0.device)
        x0, x = self.check_pair(x0, x, first)
        f = self.ask(model, x, first, padded=True)
        real_0, real = x0.clamp(min=0), x.clamp(min=0)
        law = self.law(self.read(f, real, first), real, first, torch.zeros_like(first))
        # The last step of the sampler, FIRST -> 0, as p(x_0 | x).
        return on_tokens(-pick(law, real_0).log(), x0).sum(1)

    # Sampling

    def step(self, model: Network, x: Tokens, t: Times, s: Times) -> Tokens:
        """x_s ~ p(x_s | x_t) for any s < t."""
        x = self.check_state("x", x, self.noise.K)
        self.check_step(len(x), t, s)
        return draw(self.law(self.log_score(model, x, t), x, t, s), t)

    def law(self, log_s: LogLaw, x_t: Tokens, t: Times, s: Times) -> Law:
        """p(x_s | x_t) of each token on its own, from `log_score`; for any noise, float64."""
        return SAMPLERS[self.sampler].law(self.noise, log_s, x_t, t, s)


class StationarySEDD(SEDD):
    """SEDD with noise that draws from a law pi. Beside the network's output one more table of its size is made."""

    def __init__(self, *settings, **named):
        super().__init__(*settings, **named)
        self.flat = bool((self.noise.pi == self.noise.pi[0]).all())

    def with_base(self, f: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """log s from f; where pi is flat they are the same."""
        return f if self.flat else super().with_base(f, x_t, t)

    def score_entropy(
        self, log_s: LogLaw, x0: Tokens, x_t: Tokens, log_alpha: PerExample
    ) -> PerToken:
        """Two sums over the vocabulary, all else a few numbers per token."""
        return score_entropy_stationary(self.noise, log_s, x0, x_t, log_alpha)

    def step(self, model: Network, x: Tokens, t: Times, s: Times) -> Tokens:
        """x_s ~ p(x_s | x_t) in two stages: which tokens change, then what those become."""
        x = self.check_state("x", x, self.noise.K)
        self.check_step(len(x), t, s)
        log_s = self.log_score(model, x, t)
        # Two draws: a single one over K states would spend float32's digits on the
        # state that stays, with mass near 1.
        chance, others = SAMPLERS[self.sampler].changes(self.noise, log_s, x, t, s)
        changes = happens(chance)
        if not self.picks(model, x):
            # A token that stays may have nothing else to become; any law will do for it.
            others = torch.where(changes[..., None], others, 1)
            return torch.where(changes, draw(others, t), x)
        return x.masked_scatter(changes, draw(others[changes]))


class KnownMassSEDD(MDLM, SEDD):
    """SEDD on masks whose mass is set right: loss and bound are MDLM's; scores and samplers are SEDD's."""

    mass: Mass = "known"

    def __init__(self, *settings, **named):
        SEDD.__init__(self, *settings, **named)

    def step(self, model: Network, x: Tokens, t: Times, s: Times) -> Tokens:
        """Some masks are unmasked, by the sampler's probability; the network is asked about those only."""
        x = self.check_state("x", x, self.noise.K)
        self.check_step(len(x), t, s)
        p = SAMPLERS[self.sampler].unmasking_probability(self.noise, t, s)
        unmasks = (x == self.noise.mask) & happens(per_example(p, x).expand(x.shape))
        return self.unmask(model, x, t, unmasks)


class MaskedSEDD(KnownMassSEDD):
    """SEDD on masks as the paper has it: the mass is for the network to say, and a wrong one costs phi(m)."""

    mass: Mass = "learned"
    log_score, predict_x0 = SEDD.log_score, SEDD.predict_x0

    def cost(
        self, f: Float[Tensor, "*n V"], x0: Int[Tensor, "*n"]
    ) -> Float[Tensor, "*n"]:
        """m - 1 - f[x_0] + log V = -log softmax(f)[x_0] + phi(m), m = mean(e^f): score entropy over r."""
        # Score entropy at a mask over r: sum s_y / r - log(s_{x_0} / r) + constants,
        # with s_y = r e^{f_y} / V.
        f_0 = f.gather(-1, x0[..., None])[..., 0]
        return f.exp().mean(-1) - 1 - f_0 + math.log(self.noise.V)

    def step(self, model: Network, x: Tokens, t: Times, s: Times) -> Tokens:
        """Masks are unmasked with their mass times the sampler's probability, at s = 0 all, as tokens of softmax(f)."""
        x = self.check_state("x", x, self.noise.K)
        self.check_step(len(x), t, s)
        masks = x == self.noise.mask
        p = SAMPLERS[self.sampler].unmasking_probability(self.noise, t, s)
        p = per_example(p, x).expand(x.shape)
        last = per_example(s == 0, x).expand(x.shape)
        if not self.picks(model, x):
            f = self.ask(model, x, t)
            # The mass that the network says, m times the true one, decides whether; at
            # s = 0 no MASK may be left.
            unmasks = happens(p * mean_exp(f)) | last
            return torch.where(masks & unmasks, draw(f.softmax(-1), t), x)
        if not masks.any():
            return x
        f = self.ask(model, x, t, masks)
        unmasks = happens(p[masks] * mean_exp(f)) | last[masks]
        tokens = draw(f[unmasks].softmax(-1))
        return x.masked_scatter(masks.masked_scatter(masks, unmasks), tokens)


def mean_exp(f: Float[Tensor, "*n V"]) -> Float[Tensor, "*n"]:
    """m = mean(e^f), the mass that a network says over the true one, float64."""
    return widest(f.exp().mean(-1))
