"""How SEDD steps back from t to s: Tweedie's law, exact for one token, and Euler's (arXiv:2310.16834, section 4).

Both say the same three things: the law of x_s, the probability that a mask is unmasked, and, for noise that draws from
a law pi, how likely a token changes and to what. sigma is what the paper calls sigma-bar, the noise so far; its
sigma(t) is the rate sigma'(t) here.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .absorbing import Absorbing
from .categorical import Law, LogLaw, PerToken, Semigroup, kept_and_lost, pick
from .shapes import PerExample, Times, Tokens, per_example, widest
from .stationary import Stationary


class Tweedie:
    """p(x_s = y | x_t) = (s exp(-D R))_y exp(D R)[y, x_t], D = sigma(t) - sigma(s).  (eqs. 18 and 19)

    The "analytic" sampler of SEDD's code. Negative entries, which only a score that no data has can give, are 0.
    """

    def law(
        self, noise: Semigroup, log_s: LogLaw, x_t: Tokens, t: Times, s: Times
    ) -> Law:
        """p(x_s | x_t) of each token on its own, for any noise, normalised, float64."""
        # 1. The scores of all K states, s(x_t, t)_y.
        scores = all_scores(noise, log_s, x_t)
        kept = noise.log_alpha_ratio(s, t)  # -D
        # 2. Noise taken off: eq. 19's (exp(-D Q) s)_y. The paper's rows are columns here.
        before = noise.after(scores, -kept).clamp(min=0)  # s exp(-D R)
        # 3. Times the way forward from y to x_t, exp(D Q)(x_t, y).
        p = before * noise.column(x_t, kept)
        # At s = 0 there is data, and no data is MASK.
        no_data = torch.arange(noise.K, device=p.device) >= noise.V
        p = torch.where(per_example(s == 0, p) & no_data, 0, p)
        return p / p.sum(-1, keepdim=True)

    def unmasking_probability(self, noise: Absorbing, t: Times, s: Times) -> PerExample:
        """The probability that a mask is unmasked, if the masses of scores are right; 1 at s = 0."""
        return torch.where(s == 0, 1, noise.unmasking_probability(s, t))

    def opening(self, noise: Absorbing, t: Times, s: Times) -> PerExample:
        """Old name of `unmasking_probability`."""
        return self.unmasking_probability(noise, t, s)

    def changes(
        self, noise: Stationary, log_s: LogLaw, x_t: Tokens, t: Times, s: Times
    ) -> tuple[PerToken, Float[Tensor, "B L K"]]:
        """The chance that a token changes, and to what, unnormalised; the same law in two stages."""
        alpha, lost = kept_and_lost(noise.log_alpha_ratio(s, t), x_t)
        # In float64: after much noise all scores are nearly 1, and what is left of them is alpha of that.
        score, pi_x = widest(log_s).exp(), noise.pi[x_t]
        # s Q(1 / alpha) times alpha: s - (1 - alpha) pi
        # sum(s). The factor goes out in the ratio below.
        before = score - lost[..., None] * noise.pi * score.sum(-1, keepdim=True)
        before = before.clamp(min=0)  # alpha s exp(-D R)
        others = before.scatter(-1, x_t[..., None], 0)
        moves = pi_x * lost / alpha * others.sum(-1)
        stays = pick(before, x_t) / alpha * (alpha + lost * pi_x)
        return moves / (moves + stays), others


class Euler(Tweedie):
    """The rates at t are kept until s (eq. 17); 1 - their sum may be negative, and is 0 then. Tweedie's at s = 0."""

    def law(
        self, noise: Semigroup, log_s: LogLaw, x_t: Tokens, t: Times, s: Times
    ) -> Law:
        """p(x_s | x_t) of each token on its own, for any noise, normalised, float64."""
        # The reverse rate of eq. 17: the rate from y to x_t, forwards, times s_y.
        jump = noise.rates(x_t) * all_scores(noise, log_s, x_t)
        jump = per_example(turn(noise, t, s), jump) * jump
        stay = (1 - jump.sum(-1, keepdim=True)).clamp(min=0)
        p = jump + stay * F.one_hot(x_t, noise.K)
        p = p / p.sum(-1, keepdim=True)
        return torch.where(
            per_example(s == 0, p), super().law(noise, log_s, x_t, t, s), p
        )

    def unmasking_probability(self, noise: Absorbing, t: Times, s: Times) -> PerExample:
        """(t - s) sigma'(t) / (e^sigma - 1); 1 at s = 0."""
        # Each mask has the total reverse rate sigma' sum(s), and
        # sum(s) = 1 / (e^sigma - 1) if the mass is right.
        chance = turn(noise, t, s) / torch.expm1(-noise.log_alpha(t))
        return torch.where(s == 0, 1, chance)

    def changes(
        self, noise: Stationary, log_s: LogLaw, x_t: Tokens, t: Times, s: Times
    ) -> tuple[PerToken, Float[Tensor, "B L K"]]:
        """The chance that a token changes, and to what, unnormalised."""
        others = widest(log_s).exp().scatter(-1, x_t[..., None], 0)
        taken_off = per_example(turn(noise, t, s), x_t)
        moves = taken_off * noise.pi[x_t] * others.sum(-1)
        stays = (1 - moves).clamp(min=0)
        chance = moves / (moves + stays)
        # The last step is Tweedie's.
        chance_at_0, others_at_0 = super().changes(noise, log_s, x_t, t, s)
        last = per_example(s == 0, x_t)
        chance = torch.where(last, chance_at_0, chance)
        return chance, torch.where(last[..., None], others_at_0, others)


SAMPLERS = {"tweedie": Tweedie(), "euler": Euler()}


def turn(noise: Semigroup, t: Times, s: Times) -> PerExample:
    """(t - s) sigma'(t), float64: how much noise a step of Euler's takes off."""
    return (widest(t) - widest(s)) * noise.schedule.rate(widest(t))


def all_scores(noise: Semigroup, log_s: LogLaw, x_t: Tokens) -> Law:
    """The scores of all K states: MASK stands last, and has the score 1 where it is x_t."""
    scores = widest(log_s).exp()
    if noise.mask is None:
        return scores
    return torch.cat([scores, widest(x_t == noise.mask)[..., None]], -1)
