"""MDLM: masked diffusion language models (Sahoo et al. 2024, arXiv:2406.07524), in continuous time.

Absorbing noise, and a network whose softmax is a law over the V tokens. MD4 (Shi et al. 2024, arXiv:2406.04329) is the
same model; its three terms of the bound are the methods diffusion_term, prior_term and reconstruction_term.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .absorbing import Absorbing
from .categorical import LogLaw, Noise, PerToken, Semigroup
from .shapes import Network, PerExample, Times, Tokens, per_example, widest
from .tokens import FIRST, TokenProcess, cross_entropy, tokens_in


class MDLM(TokenProcess):
    """Masked diffusion of `length` tokens: each mask costs weight(t) x its cross-entropy.

    weight(t) = 1 / t for alpha(t) = 1 - t.

    noise  Absorbing with a schedule as its clock; alpha(1) = 0 is allowed
    """

    def __init__(self, noise: Absorbing, length: int):
        if isinstance(noise, Noise) and not isinstance(noise, Absorbing):
            raise ValueError(f"noise must be absorbing, not {type(noise).__name__}")
        super().__init__(noise, length)
        check_clock(noise, to_zero=True)
        self.noisy_at_once = starts_below_1(noise)

    # Training

    def loss_at(self, model: Network, x0: Tokens, x_t: Tokens, t: Times) -> PerExample:
        """weight(t) x cost of the masks / tokens: nats per token, without prior and reconstruction.  (eq. 11)"""
        x0, x_t = self.check_pair(x0, x_t, t)
        # Eq. 11: alpha' / (1 - alpha) log <x_theta, x>, summed over the tokens that are
        # masked; both factors are negative there.
        total = self.weight(t) * self.mask_cost(model, x0, x_t, t).sum(1)
        return (total / tokens_in(x0)).float()

    def mask_cost(self, model: Network, x0: Tokens, x_t: Tokens, t: Times) -> PerToken:
        """What each mask of x_t costs, 0 elsewhere; nats, float64 from the cost on."""
        return self.on_masks(model, x0, x_t, t, self.cost)

    def cost(
        self, f: Float[Tensor, "*n V"], x0: Int[Tensor, "*n"]
    ) -> Float[Tensor, "*n"]:
        """-log softmax(f)[x_0]."""
        return cross_entropy(f, x0)

    def weight(self, t: Times) -> PerExample:
        """-alpha'(t) / (1 - alpha(t)), the rate at which a mask is unmasked, float64."""
        return mask_weight(self.noise, t)

    def rate(self, t: Times) -> PerExample:
        """sigma'(t) = -(log alpha)'(t), float64."""
        return self.noise.schedule.rate(widest(t))

    # The bound

    def diffusion_term_at(
        self, model: Network, x0: Tokens, x_t: Tokens, t: Times
    ) -> PerExample:
        """weight(t) x the cost of the masks of x_t: nats per sequence, float64 from the cost on.  (eqs. 10 and 11)"""
        x0, x_t = self.check_pair(x0, x_t, t)
        return self.weight(t) * self.mask_cost(model, x0, x_t, t).sum(1)

    def reconstruction_term_at(
        self, model: Network, x0: Tokens, x: Tokens
    ) -> PerExample:
        """-log p(x_0) of the masks that are there just after time 0. Nats per sequence."""
        first = torch.full((len(x0),), FIRST, device=x0.device)
        x0, x = self.check_pair(x0, x, first)
        return self.on_masks(model, x0, x, first, cross_entropy).sum(1)

    # Sampling

    def step(self, model: Network, x: Tokens, t: Times, s: Times) -> Tokens:
        """Each mask is unmasked with `noise.unmasking_probability(s, t)`, as a token of softmax(f).  (eq. 7)"""
        x = self.check_state("x", x, self.noise.K)
        self.check_step(len(x), t, s)
        return self.unmask(model, x, t, self.noise.unmasks(x, s, t))

    # What the network says

    def predict_x0(self, model: Network, x_t: Tokens, t: Times) -> LogLaw:
        """log p(x_0 | x_t): softmax on masks; tokens that are there are certain (carry-over).

        For display and for scores: loss and step ask about masks only (`on_masks`, `unmask`). D3PM's is another at
        tokens, where it is p(x_0 at i | the other tokens).
        """
        x_t = self.check_state("x_t", x_t, self.noise.K)
        # SUBS, zero masking: MASK has probability 0: the network has no number for it.
        log_p = self.ask(model, x_t, t).log_softmax(-1)
        # SUBS, carry-over: what is not masked stays, log 1 at x_t and log 0 elsewhere.
        there = F.one_hot(x_t, self.noise.K)[..., : self.noise.V].to(log_p.dtype).log()
        return torch.where((x_t == self.noise.mask)[..., None], log_p, there)

    def log_score(self, model: Network, x_t: Tokens, t: Times) -> LogLaw:
        """SEDD's log score: log r + log p(y | x_t) at masks, r = 1 / (e^sigma - 1); 0 at tokens, which do not move."""
        log_p = self.predict_x0(model, x_t, t)
        # alpha / (1 - alpha): all ratios of a mask are the posterior times this,
        # whatever the data is.
        log_r = -torch.expm1(-self.noise.log_alpha(t)).log()
        at_mask = log_p + per_example(log_r, log_p).to(log_p.dtype)
        return torch.where((x_t == self.noise.mask)[..., None], at_mask, 0)


def mask_weight(noise: Absorbing, t: Times) -> PerExample:
    """-alpha'(t) / (1 - alpha(t)), what a mask's cross-entropy weighs; float64."""
    # Where alpha(1) = 0 its logarithm falls at an infinite rate; the product has a limit, so 1 is left out.
    last = 1 - torch.finfo(widest(t).dtype).eps ** 0.75
    t = widest(t).clamp(max=last)
    log_alpha = noise.log_alpha(t)
    # alpha' = alpha (log alpha)': schedules know the logarithm.
    slope = noise.schedule.rate(t) * log_alpha.exp()  # -alpha'
    return slope / -torch.expm1(log_alpha)


def check_clock(noise: Semigroup, to_zero: bool = False) -> None:
    """Raise unless sigma = -log alpha_bar rises over [0, 1] to a finite number; to_zero: or to infinity at 1."""
    if not isinstance(noise, Semigroup):
        raise ValueError(
            f"noise must be a semigroup, whose matrices depend on alpha_t / alpha_s, not {type(noise).__name__}"
        )
    if noise.schedule is None:
        raise ValueError(
            "noise must have a schedule as its clock, since time is continuous here, not a table"
        )
    u = torch.linspace(0, 1, 1001, dtype=torch.float64, device=noise.device)
    sigma = -noise.schedule.log_alpha_bar(u).detach()
    if not (sigma[:-1] if to_zero else sigma).isfinite().all():
        raise ValueError(
            "noise must leave alpha_bar(1) > 0: where it is 0, scores say nothing"
        )
    if not (sigma.diff() > 0).all():
        at = u[int((~(sigma.diff() > 0)).nonzero()[0])]
        raise ValueError(
            f"noise must grow with time, but sigma does not increase after u = {at:g}"
        )


def starts_below_1(noise: Semigroup) -> bool:
    """Whether there is noise at once, just after time 0."""
    start = torch.zeros(1, dtype=torch.float64, device=noise.device)
    # A clock that is learned may come to start below 1, so its noise counts as early.
    learned = noise.schedule.is_learned(start)
    return learned or bool(noise.schedule.log_alpha_bar(start).any())
