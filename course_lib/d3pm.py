"""D3PM: denoising diffusion in discrete state spaces (Austin et al. 2021, arXiv:2107.03006).

Multinomial diffusion (Hoogeboom et al. 2021, arXiv:2102.05379) is D3PM(Uniform(K, table), length). Equation numbers are
D3PM's; every formula is written for a step from t to any s < t. The network answers with one number per token of the
vocabulary at each position; `predicts` says how these are read.

By default they are the leave-one-out law, p(x_0 at i | the other tokens), since the reverse step multiplies by the
evidence of x_t at i itself: the paper's ptilde(x_0 | x_t) of eq. 4, as the bound teaches it.  (The truncated logistic
of A.8 is not here.) A table may end in 0, unlike a Gaussian one: nothing is left at T. The prior is the law
of x_T for a uniform token, so every KL is finite and the bound lacks no term.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .absorbing import Absorbing
from .categorical import LogLaw, Noise, PerToken, Semigroup, pick
from .shapes import (
    Network,
    PerExample,
    Times,
    Tokens,
    check_choice,
    check_scalar,
    widest,
)
from .tokens import Prediction, TokenProcess, cross_entropy, on_tokens, tokens_in


class D3PM(TokenProcess):
    """Diffusion of sequences of `length` tokens by a categorical noise with a table as its clock (T steps).

    predicts   "loo": softmax of the output is p(x_0 = k at i | the *other* tokens of x_t). It goes into the reverse
                      step as it is; this is what the bound teaches the network of D3PM and of multinomial diffusion
               "posterior": softmax of the output is p(x_0 = k at i | x_t); the evidence of x_t itself is taken off
               "score": the output is the log of p(x_t with k at i) / p(x_t), as in SEDD
               For absorbing noise the first two are one: a mask says nothing about its own token.
    ce_weight  lambda of the released code's hybrid loss: one step's KL + lambda cross-entropy. Eq. 5 as printed has
               lambda / T there, since its KLs are summed over t
    D3PM(Absorbing(...), length) is a MaskedD3PM: what runs is in that class.
    """

    def __new__(cls, noise: Noise | None = None, *_, **__) -> "D3PM":
        # noise=None: copy and pickle call this without arguments.
        masked = cls is D3PM and isinstance(noise, Absorbing)
        return super().__new__(MaskedD3PM if masked else cls)

    def __init__(
        self,
        noise: Noise,
        length: int,
        predicts: Prediction = "loo",
        ce_weight: float = 0.0,
    ):
        super().__init__(noise, length)
        check_choice("predicts", predicts, ("loo", "posterior", "score"))
        if not isinstance(noise.T, int):
            raise ValueError(
                "noise must have a table as its clock, since D3PM's time is discrete, not a schedule"
            )
        if (
            predicts == "score"
            and isinstance(noise, Semigroup)
            and not noise.log_alpha_bar[-1].isfinite()
        ):
            raise ValueError(
                'noise must leave alpha_bar[T] > 0 for predicts="score": else scores at T say nothing'
            )
        if predicts == "score" and not isinstance(noise, Semigroup):
            check_invertible(noise)
        check_scalar("ce_weight", ce_weight)
        if not ce_weight >= 0:
            raise ValueError(f"ce_weight must not be negative, not {ce_weight}")
        self.predicts, self.ce_weight = predicts, float(ce_weight)

    # Training

    def loss_at(self, model: Network, x0: Tokens, x_t: Tokens, t: Times) -> PerExample:
        """T (L_{t-1} + ce_weight x cross-entropy of x_0) / tokens: nats per token, without the prior term.

        As eq. 5, whose lambda is T ce_weight. The cross-entropy is that of softmax(output), on masks only with
        absorbing noise.
        """
        x0, x_t = self.check_pair(x0, x_t, t)
        kl, nll = self.terms_at(model, x0, x_t, t)
        # The released code's loss at one t. Times T, which it leaves out, the KL is an
        # unbiased draw of L_vb.
        hybrid = kl.sum(1) + self.ce_weight * nll.sum(1)
        return (self.T * hybrid / tokens_in(x0)).float()

    def terms_at(
        self, model: Network, x0: Tokens, x_t: Tokens, t: Times, precise: bool = False
    ) -> tuple[PerToken, PerToken]:
        """Of each token the KL between the two reverse steps from t to t - 1, and the cross-entropy of x_0.

        precise  in float64 from the network's output on; MaskedD3PM: from the cross-entropy on, always
        """
        # 1. What the network says of x_0, from x_t and the time.
        out = self.ask(model, x_t, t, padded=True)
        out = widest(out) if precise else out
        real_0, real_t = x0.clamp(min=0), x_t.clamp(min=0)
        # 2. That as p(x_0 | the other tokens), which is what goes into a reverse step.  (eq. 4)
        log_p = self.loo(out, real_t, t)
        # 3. L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)); at t = 1 this is
        # L_0 = -log p(x_0 | x_1).  (eq. 1)
        kl = self.noise.kl(real_0, real_t, log_p, t - 1, t)
        # 4. Cross-entropy of softmax(output). With predicts="score" the output is no
        # distribution, and the one made of it is taken.  (eq. 5)
        own = log_p if self.predicts == "score" else out.log_softmax(-1)
        return on_tokens(kl, x0), on_tokens(-widest(pick(own, real_0)), x0)

    # The bound

    def term(self, model: Network, x0: Tokens, t: Times) -> PerExample:
        """L_{t-1} at one draw of x_t, nats per sequence."""
        return self.term_at(model, x0, self.corrupt(x0, t), t)

    def term_at(self, model: Network, x0: Tokens, x_t: Tokens, t: Times) -> PerExample:
        """L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), float64; L_0 at t = 1.  (eq. 1)"""
        x0, x_t = self.check_pair(x0, x_t, t)
        return self.terms_at(model, x0, x_t, t, precise=True)[0].sum(1)

    def diffusion_term_at(
        self, model: Network, x0: Tokens, x_t: Tokens, t: Times
    ) -> PerExample:
        """T L_{t-1}: its mean over t = 1..T is the sum over all steps, nats per sequence, float64."""
        return self.T * self.term_at(model, x0, x_t, t)

    # Sampling

    def step(self, model: Network, x: Tokens, t: Times, s: Times) -> Tokens:
        """x_s ~ p(x_s | x_t) for any s < t, drawn at s = 0 too (released code takes the likeliest token there)."""
        x = self.check_state("x", x, self.noise.K)
        self.check_step(len(x), t, s)
        # Eq. 4: the network's x_0 is summed out, not drawn first; one matrix from s to
        # t serves any step.
        return self.noise.step(self.predict_x0(model, x, t), x, s, t)

    # What the network says

    def predict_x0(self, model: Network, x_t: Tokens, t: Times) -> LogLaw:
        """log p(x_0 at i | the other tokens of x_t) by the network: what the reverse step is made of."""
        return self.loo(self.ask(model, x_t, t), x_t, t)

    def loo(self, out: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """The network's output as log p(x_0 at i | the other tokens of x_t)."""
        if self.predicts == "score":
            return self.noise.loo_from_score(out, x_t, t)
        # Logits of x_0, as in the paper's section 3.3.
        log_p = out.log_softmax(-1)
        return (
            self.noise.loo_from_posterior(log_p, x_t, t)
            if self.predicts == "posterior"
            else log_p
        )

    def answer(self, loo: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """What a network must say that knows loo: the inverse of reading it."""
        return self.from_loo(loo, x_t, t, self.predicts)[..., : self.noise.V]

    def convert(
        self, out: LogLaw, x_t: Tokens, t: Times, to: Prediction
    ) -> Float[Tensor, "B L _"]:
        """The network's output at (x_t, t) as a log law "loo" or "posterior" (B, L, V), or a log "score" (B, L, K)."""
        if self.predicts == to == "posterior":
            return out.log_softmax(-1)
        return self.from_loo(self.loo(out, x_t, t), x_t, t, to)


def check_invertible(noise: Noise) -> None:
    """Raise unless Q_{0->T} can be inverted with half of float64's digits left: scores are turned into p_0 by that."""
    ends = torch.tensor([[0], [noise.T]], device=noise.device)
    condition = torch.linalg.cond(noise.matrix(*ends)[0]).item()
    if not condition < 1e8:
        raise ValueError(
            f'noise must be invertible for predicts="score", but Q_{{0->T}} has the condition number {condition:.1g}: '
            "shorten its clock, or predict x_0"
        )


class MaskedD3PM(D3PM):
    """D3PM with absorbing noise: only masks are in question, and a step unmasks some.  (appendix A.3)"""

    def terms_at(
        self, model: Network, x0: Tokens, x_t: Tokens, t: Times, precise: bool = False
    ) -> tuple[PerToken, PerToken]:
        """The KL of a mask: the probability that the step from t to t - 1 unmasks it, times -log p(x_0)."""
        nll = self.mask_cost(model, x0, x_t, t)
        # (alpha-bar_{t-1} - alpha-bar_t) / (1 - alpha-bar_t), which is 1 / t for the
        # clock 1 / (T - t + 1) of the paper.  (A.3; MDLM, eq. 8)
        return self.noise.unmasking_probability(t - 1, t)[:, None] * nll, nll

    def mask_cost(self, model: Network, x0: Tokens, x_t: Tokens, t: Times) -> PerToken:
        """-log p(x_0) at each mask, 0 elsewhere; nats, float64 from the cross-entropy on."""
        return self.on_masks(model, x0, x_t, t, cross_entropy)

    def step(self, model: Network, x: Tokens, t: Times, s: Times) -> Tokens:
        """Some masks are unmasked as tokens of the network's law. Where none is, it is not asked."""
        x = self.check_state("x", x, self.noise.K)
        self.check_step(len(x), t, s)
        return self.unmask(model, x, t, self.noise.unmasks(x, s, t))
