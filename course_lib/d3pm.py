"""D3PM: denoising diffusion in discrete state spaces (Austin et al. 2021, arXiv:2107.03006).

Multinomial diffusion (Hoogeboom et al. 2021, arXiv:2102.05379) is D3PM(Uniform(K, table), length). Equation numbers are
D3PM's; every formula is written for a step from t to any s < t. The network answers with one number per token of the
vocabulary at each position; `predicts` says how these are read.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .absorbing import Absorbing
from .categorical import LogLaw, Noise, PerToken, Semigroup, draw, pick
from .process import Process
from .shapes import Mask, Network, PerExample, Times, Tokens, check_choice, upcast, widest

Prediction = Literal["loo", "posterior", "score"]


class D3PM(Process):
    """Diffusion of sequences of `length` tokens by a categorical noise with a table as its clock (T steps).

    predicts   "loo": softmax of the output is p(x_0 = k at i | the *other* tokens of x_t). It goes into the reverse
                      step as it is; this is what the bound teaches the network of D3PM and of multinomial diffusion
               "posterior": softmax of the output is p(x_0 = k at i | x_t); the evidence of x_t itself is taken off
               "score": the output is the log of p(x_t with k at i) / p(x_t), as in SEDD
               For absorbing noise the first two are one: a mask says nothing about its own token.
    ce_weight  lambda of the hybrid loss, eq. 5, as released code has it: one step's KL + lambda cross-entropy.
    """

    def __init__(self, noise: Noise, length: int, predicts: Prediction = "loo", ce_weight: float = 0.0):
        super().__init__()
        check_choice("predicts", predicts, ("loo", "posterior", "score"))
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ValueError(f"length must be a whole number of at least 1, not {length!r}")
        if not isinstance(noise.T, int):
            raise ValueError(
                "noise must have a table as its clock, since D3PM's time is discrete, not a schedule"
            )
        if predicts == "score" and isinstance(noise, Semigroup) and not noise.log_alpha_bar[-1].isfinite():
            raise ValueError(
                'noise must leave alpha_bar[T] > 0 for predicts="score": else scores at T say nothing'
            )
        if not ce_weight >= 0:
            raise ValueError(f"ce_weight must not be negative, not {ce_weight}")
        self.noise, self.T, self.length = noise, noise.T, length
        self.predicts, self.ce_weight = predicts, float(ce_weight)

    # Forward process

    def corrupt(self, x0: Tokens, t: Times) -> Tokens:
        """x_t ~ Cat(x_0 Qbar_t).  (eq. 3, left)"""
        self.check_state("x0", x0, self.noise.V)
        self.check_t("t", t, len(x0))
        return self.noise.corrupt(x0, torch.zeros_like(t), t)

    def prior(self, n: int) -> Tokens:
        """x_T, each token on its own from noise.prior()."""
        p = self.noise.prior()
        return draw(p.expand(n, self.length, -1))

    def posterior(self, x0: Tokens, x_t: Tokens, t: Times, s: Times) -> Float[Tensor, "B L K"]:
        """q(x_s | x_t, x_0), for any s < t.  (eq. 3, right)"""
        self.check_state("x0", x0, self.noise.V)
        self.check_state("x_t", x_t, self.noise.K)
        self.check_step(len(x_t), t, s)
        return self.noise.posterior(widest(F.one_hot(x0, self.noise.K)), x_t, s, t)

    # What the network says

    def convert(self, out: LogLaw, x_t: Tokens, t: Times, to: Prediction) -> Float[Tensor, "B L _"]:
        """The network's output at (x_t, t) as a log law "loo" or "posterior" (B, L, V), or a log "score" (B, L, K)."""
        check_choice("to", to, ("loo", "posterior", "score"))
        if self.predicts == to == "posterior":
            return out.log_softmax(-1)
        loo = self._loo(out, x_t, t)
        if to == "loo":
            return loo
        change = self.noise.posterior_from_loo if to == "posterior" else self.noise.score_from_loo
        return change(loo, x_t, t)

    def _loo(self, out: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        if self.predicts == "score":
            return self.noise.loo_from_score(out, x_t, t)
        log_p = out.log_softmax(-1)
        return self.noise.loo_from_posterior(log_p, x_t, t) if self.predicts == "posterior" else log_p

    def predict_x0(self, model: Network, x_t: Tokens, t: Times) -> LogLaw:
        """log p(x_0 at i | the other tokens of x_t) by the network: what the reverse step is made of."""
        return self._loo(upcast(model(x_t, self.u(t))), x_t, t)

    # Training

    def loss(self, model: Network, x0: Tokens, t: Times) -> PerExample:
        """T (L_{t-1} + ce_weight x cross-entropy of x_0) / length: nats per token, but for the prior term.  (eq. 5)

        The network's own law is in the cross-entropy. With absorbing noise it is taken on masks only.
        """
        kl, ce = self._terms(model, x0, t, upcast)
        return (self.T / self.length * (kl + self.ce_weight * ce)).float()

    def bound(self, model: Network, x0: Tokens, t: Times) -> PerExample:
        """T L_{t-1} + L_T in nats per sequence, float64: its mean over t = 1..T bounds -log p(x_0).  (eq. 1)"""
        return self.T * self.term(model, x0, t) + self.prior_term(x0)

    def term(self, model: Network, x0: Tokens, t: Times) -> PerExample:
        """L_{t-1} in nats per sequence: KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)); -log p(x_0 | x_1) at t = 1."""
        return self._terms(model, x0, t, widest)[0]

    def prior_term(self, x0: Tokens) -> PerExample:
        """L_T = KL(q(x_T | x_0) || prior) in nats per sequence."""
        self.check_state("x0", x0, self.noise.V)
        return self.noise.prior_kl(x0).sum(1)

    def _terms(self, model, x0, t, widen) -> tuple[PerExample, PerExample]:
        """L_{t-1} and the cross-entropy, one draw of x_t for both."""
        self.check_state("x0", x0, self.noise.V)
        self.check_t("t", t, len(x0), first=1)
        x_t = self.noise.corrupt(x0, torch.zeros_like(t), t)
        if isinstance(self.noise, Absorbing):
            ce = self.surprise(model, x0, x_t, t, x_t == self.noise.mask).sum(1)
            return self.noise.reveals(t - 1, t) * ce, ce
        out = widen(model(x_t, self.u(t)))
        log_p = self._loo(out, x_t, t)
        own = log_p if self.predicts == "score" else out.log_softmax(-1)
        return self.noise.kl(x0, x_t, log_p, t - 1, t).sum(1), -widest(pick(own, x0)).sum(1)

    def surprise(self, model: Network, x0: Tokens, x_t: Tokens, t: Times, where: Mask) -> PerToken:
        """-log p(x_0) of absorbing noise at the positions `where`, 0 elsewhere; nats, float64.

        A network that takes rows works out its head at those positions only.
        """
        if not getattr(model, "takes_at", False):
            log_p = upcast(model(x_t, self.u(t))).log_softmax(-1)
            return torch.where(where, -widest(pick(log_p, x0)), 0)
        logits = upcast(model(x_t, self.u(t), at=where))
        nll = F.cross_entropy(logits, x0[where], reduction="none")
        return widest(torch.zeros(x0.shape, device=x0.device)).masked_scatter(where, widest(nll))

    # Sampling

    def step(self, model: Network, x: Tokens, t: Times, s: Times) -> Tokens:
        """x_s ~ p(x_s | x_t) for any s < t, drawn at s = 0 too (released code takes the likeliest token there)."""
        self.check_state("x", x, self.noise.K)
        self.check_step(len(x), t, s)
        if not isinstance(self.noise, Absorbing):
            return self.noise.step(self.predict_x0(model, x, t), x, s, t)
        where = self.noise.opened(x, s, t)
        if not where.any():  # no mask opens: the network need not be asked
            return x
        if getattr(model, "takes_at", False):
            tokens = draw(upcast(model(x, self.u(t), at=where)).softmax(-1))
            return x.masked_scatter(where, tokens)
        return torch.where(where, draw(upcast(model(x, self.u(t))).softmax(-1)), x)

    # Bad input

    def check_state(self, name: str, x: Tensor, states: int) -> None:
        """Raise unless x holds whole numbers in 0..states-1, (B >= 1, length)."""
        self.noise.check_tokens(name, x, states)
        if x.shape[1] != self.length:
            raise ValueError(f"{name} must have shape (B, {self.length}), not {tuple(x.shape)}")


class MaskCount(Process):
    """The bound of an absorbing D3PM with the *number* of masks as its time: the same mean with far less variance.

    With M masks at t, L_{t-1} = reveals_t x surprise on the masks, and M ~ Binomial(length, 1 - alpha_bar_t). So the
    bound is sum_n w(n) E[surprise | n masks], w(n) = sum_t reveals_t P(M = n at t); as T grows, w(n) -> 1 / n. Here
    n = 1..length is stratified like any time, the time told to the network is drawn from its law given n, and exactly
    n tokens are masked. For the evaluator, `evaluate.bound(MaskCount(process), model, data)`, or for training.
    """

    def __init__(self, process: D3PM):
        super().__init__()
        if not isinstance(process.noise, Absorbing):
            raise ValueError(f"process must have absorbing noise, not {type(process.noise).__name__}")
        self.process, self.T = process, process.length
        t = torch.arange(1, process.T + 1, device=process.device)
        log = process.noise.log_alpha(t)[:, None]
        n = widest(torch.arange(self.T + 1, device=process.device))
        ways = torch.lgamma(n[-1:] + 1) - torch.lgamma(n + 1) - torch.lgamma(n.flip(0) + 1)
        masked = torch.xlogy(n, -torch.expm1(log))
        chance = (
            ways + masked + torch.where(n < self.T, n.flip(0) * log, 0)
        ).exp()  # (T, L + 1): P(M = n at t)
        joint = process.noise.reveals(t - 1, t)[:, None] * chance
        self.register_buffer("weight", joint.sum(0))
        self.register_buffer("times_given", joint.T.contiguous())

    def corrupt(self, x0: Tokens, t: Times) -> Tokens:
        """x_0 with t of its tokens masked, all choices equally likely."""
        self.process.check_state("x0", x0, self.process.noise.V)
        self.check_t("t", t, len(x0))
        place = torch.rand(x0.shape, device=x0.device).argsort(1).argsort(1)
        return torch.where(place < t[:, None], self.process.noise.mask, x0)

    def loss(self, model: Network, x0: Tokens, t: Times) -> PerExample:
        """weight(n) x surprise on the masks: nats per token, but for the prior term."""
        return self._weighted(model, x0, t).float()

    def bound(self, model: Network, x0: Tokens, t: Times) -> PerExample:
        """Nats per sequence, float64: its mean over n = 1..length is the mean of process.bound over t = 1..T."""
        return self.T * self._weighted(model, x0, t) + self.process.prior_term(x0)

    def _weighted(self, model, x0, n) -> PerExample:
        self.check_t("t", n, len(x0), first=1)
        x_t = self.corrupt(x0, n)
        masks = x_t == self.process.noise.mask
        return self.weight[n] * self.process.surprise(model, x0, x_t, self.told(n), masks).sum(1)

    def told(self, n: Times) -> Times:
        """The time that the network is told: drawn from its law given n masks."""
        return draw(self.times_given[n]) + 1


class Ordered(Process):
    """Masking in a fixed order: x_t has the last t positions of `order` masked. Its bound is autoregression's loss.

    One token per step and no choice in what is masked: the forward process is deterministic, and every KL is the
    surprise at one token.  (D3PM, section 3.4)   order  permutation of 0..length-1, left to right by default
    """

    def __init__(self, V: int, length: int, order: list[int] | None = None):
        super().__init__()
        order = list(range(length)) if order is None else order
        if sorted(order) != list(range(length)) or not length:
            raise ValueError(f"order must be a permutation of 0..{length - 1}, not {order}")
        self.V, self.mask, self.T, self.length = V, V, length, length
        self.register_buffer("place", torch.tensor(order).argsort())  # position -> its turn
        self.noise = Absorbing(V, 1 - widest(torch.arange(length + 1)) / length)  # for its checks of tokens

    def corrupt(self, x0: Tokens, t: Times) -> Tokens:
        """x_0 with the last t positions of the order masked; nothing is random."""
        self.noise.check_tokens("x0", x0, self.V)
        self.check_t("t", t, len(x0))
        return torch.where(self.place >= self.length - t[:, None], self.mask, x0)

    def loss(self, model: Network, x0: Tokens, t: Times) -> PerExample:
        """-log p(the token that step t unmasks | those before it in the order): nats."""
        self.check_t("t", t, len(x0), first=1)
        log_p = upcast(model(self.corrupt(x0, t), self.u(t))).log_softmax(-1)
        return -torch.where(self.place == self.length - t[:, None], pick(log_p, x0), 0).sum(1)

    def bound(self, model: Network, x0: Tokens, t: Times) -> PerExample:
        """length x loss: its mean over t = 1..length is exactly -log p(x_0) of the autoregressive model, nats."""
        return self.length * widest(self.loss(model, x0, t))

    def prior(self, n: int) -> Tokens:
        """All MASK."""
        return torch.full((n, self.length), self.mask, device=self.device)

    def step(self, model: Network, x: Tokens, t: Times, s: Times) -> Tokens:
        """Open the positions whose turn comes between t and s; exact one at a time, on their own if more."""
        self.check_step(len(x), t, s)
        left = self.length - t[:, None]
        opens = (self.place >= left) & (self.place < self.length - s[:, None])
        return torch.where(opens, draw(upcast(model(x, self.u(t))).softmax(-1)), x)
