"""Diffusion of a word's vector, given the word: the Gaussians that Diffusion-LM's bound is made of, without a network.

    x_0 ~ N(Emb(w), sigma_0^2 I)  ->  x_1  ->  ...  ->  x_T          sigma_0^2 = 1 - alpha_bar_1

Given w the x_t are a Markov chain whatever x_0 is, and q(x_s | x_t, w) is Gaussian: x_0 is integrated out, its variance
sigma_0^2 / (1 + sigma_0^2 SNR_t) added to that of the step. Li et al. 2022 (arXiv:2205.14217) keep x_0 in their sum.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .ddpm import DDPM, Transition
from .embeddings import Vectors
from .shapes import Mask, PerExample, Table, Times, check_choice, per_example, widest

PerWord = Float[Tensor, "B L"]


class WordChain(DDPM):
    """DDPM of up to `shape[0]` vectors of `shape[1]` numbers that start around embeddings.

    variance     of p(x_s | x_t): "word" is right if w is known, "small" if x_0 is (the paper's), "large" as in DDPM
    decoder_var  variance of p(x_0 | x_1); by default right if w is known. The paper's code has beta-tilde at t = 2
    """

    def __init__(
        self,
        alpha_bar: Table,
        shape: tuple[int, int],
        variance: Literal["word", "small", "large"] = "word",
        decoder_var: float | None = None,
        clip: float | None = None,
    ):
        check_choice("variance", variance, ("word", "small", "large"))
        # DDPM knows the other two; `transition` below makes "word" of the small one.
        base = "small" if variance == "word" else variance
        super().__init__(
            alpha_bar, shape, "x0", base, decoder_var=decoder_var, clip=clip
        )
        self.variance, self.width = variance, shape[1]
        first = self.log_alpha_bar[1]
        self.sigma_0_squared = -math.expm1(first.item())
        self.decoder_var = decoder_var or self.var_given_word(first).item()

    def known_word(
        self, clean: Vectors, x_t: Vectors, t: Times
    ) -> tuple[Vectors, PerExample]:
        """Mean and variance of q(x_0 | x_t, w), from Emb(w)."""
        log = self.log_alpha_bar[t]
        r, var = (log / 2).exp(), self.var_given_word(log)
        # Kalman's gain: how far x_t pulls the estimate of x_0 away from Emb(w).
        gain = r * var / -torch.expm1(log)
        r, gain = (per_example(v.to(x_t.dtype), x_t) for v in (r, gain))
        return clean + gain * (x_t - r * clean), var

    def var_given_word(self, log_alpha_bar: Tensor) -> Tensor:
        """Variance of q(x_0 | x_t, w): sigma_0^2 / (1 + sigma_0^2 SNR)."""
        # expm1(log abar) is -(1 - abar), so this is minus the signal-to-noise ratio.
        minus_snr = log_alpha_bar.exp() / torch.expm1(log_alpha_bar)
        return self.sigma_0_squared / (1 - self.sigma_0_squared * minus_snr)

    def transition(self, t: Times, s: Times) -> Transition:
        """With variance "word" p(x_s | x_t) is as wide as q(x_s | x_t, w); the last step shows the mean."""
        # Law of total variance: that of the step
        # given x_0, and that of x_0 given the word.
        step = super().transition(t, s)
        if self.variance != "word":
            return step
        of_word = step.q_var + step.from_x0.square() * self.var_given_word(
            self.log_alpha_bar[t]
        )
        return step._replace(p_var=of_word * (s > 0))

    def divergence(
        self, clean: Vectors, x0_hat: Vectors, x_t: Vectors, t: Times, counted: Mask
    ) -> PerExample:
        """The KL of the two Gaussians, summed over the words. At t = 1 the network's answer stands for Emb(w)."""
        first, step = per_example(t == 1, x_t), self.transition(t, t - 1)
        mean, var_x0 = self.known_word(clean, x_t, t)  # of q(x_0 | x_t, w)
        mean_hat = torch.where(first, self.known_word(x0_hat, x_t, t)[0], x0_hat)
        # Of q(x_{t-1} | x_t, w): x_0 is integrated out.
        q_var = step.q_var + step.from_x0.square() * var_x0
        p_var = torch.where(t == 1, self.decoder_var, step.p_var)
        ratio = q_var / p_var
        # What the KL is if the means agree: 0 for variance "word", 0.013 to 0.016 nats
        # a number for beta-tilde.
        widths = self.width * (ratio - 1 - ratio.log()) / 2
        error = (widest(mean) - widest(mean_hat)).square().sum(-1)
        means = (step.from_x0.square() / (2 * p_var))[:, None] * error
        return total(means + widths[:, None], counted)

    def prior_term(self, clean: Vectors, mask: Mask | None = None) -> PerExample:
        """L_T = KL(q(x_T | w) || N(0, I)) in nats per sentence, from Emb(w)."""
        mask = (
            torch.ones(clean.shape[:2], dtype=torch.bool, device=clean.device)
            if mask is None
            else mask
        )
        # x_T given w: mean sqrt(left) Emb(w), variance 1 - left + left sigma_0^2.
        left = self.log_alpha_bar[-1].exp()
        extra = left * (self.sigma_0_squared - 1)  # of the variance of x_T, over 1
        each = (left * widest(clean).square() + extra - torch.log1p(extra)) / 2
        return total(each.sum(-1), mask)


def total(v: PerWord, mask: Mask) -> PerExample:
    """Sum over the words of each sentence."""
    return torch.where(mask, v, 0).sum(1)


def average(v: PerWord, mask: Mask) -> PerExample:
    """Mean over the words of each sentence."""
    return total(v, mask) / mask.sum(1)
