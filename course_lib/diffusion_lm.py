"""Diffusion-LM: Gaussian diffusion of word embeddings, with rounding (Li et al. 2022, arXiv:2205.14217).

    w  ->  x_0 ~ N(Emb(w), sigma_0^2 I)  ->  x_1  ->  ...  ->  x_T          sigma_0^2 = 1 - alpha_bar_1

The step from words to vectors is learned, so it belongs to the model (`embeddings.WordNetwork`); the process knows the
noise. A batch of data is tokens (B, L) with PAD after each sentence; PAD is nowhere seen or counted.

The bound has no x_0. Given the word the x_t are a Markov chain, so every term is KL(q(x_{t-1} | x_t, w) || p), t = 1
included; it equals the paper's sum in expectation. The right variance of a step is then that of q(x_s | x_t, w)
(`variance="word"`); beta-tilde costs 0.013 to 0.016 nats per number, whatever T is. A sentence's length is drawn
first and is part of the bound. The sampler of the bound is not the one that writes best: a trained network's laws are
too flat, re-noising the mean (`Renoise`) loses variance, and the two faults cancel in part. Measurements of words
name the sampler they used, and give the ancestral one beside it.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .embeddings import (
    LogLaw,
    Vectors,
    at_least_single,
    check_word_network,
    embed,
    full_precision,
    nearest,
)
from .finite import check_finite, note
from .infilling import Keep
from .process import evaluating
from .self_conditioning import half_of_the_time
from .sentences import PAD, Labelled, Sentences, check_tokens, up_to, written
from .shapes import (
    Mask,
    Network,
    PerExample,
    Table,
    Times,
    Tokens,
    check_answer,
    check_choice,
    check_count,
    check_scalar,
    describe,
    per_example,
    widest,
)
from .word_chain import PerWord, WordChain, average

HIDDEN = 0.1  # share of the labels that training hides, for classifier-free guidance


class Diffused(NamedTuple):
    """One draw of the forward process of a batch."""

    mask: Mask  # where the network may look
    clean: Vectors  # Emb(w)
    x0: Vectors
    x_t: Vectors


class DiffusionLM(WordChain):
    """Diffusion of sentences of up to `length` words, each a vector of `width` numbers; the network predicts x_0.

    rounding     the cross-entropy of words is that of "gold" x_0, as derived, of the network's "prediction", or "none"
    detach       True: no gradient to the embeddings through the target
    temperature  of p(w | x_0) = softmax(logits / temperature); by default sigma_0^2, with which it is Bayes' rule for
                 equally frequent words. The paper's code has 1
    lengths      (length + 1,) how often each length occurs, from 0: to draw lengths, and for their part of the bound
    variance, decoder_var   as in WordChain
    """

    def __init__(
        self,
        alpha_bar: Table,
        length: int,
        width: int,
        rounding: Literal["gold", "prediction", "none"] = "gold",
        detach: bool = False,
        temperature: float | None = None,
        lengths: Int[Tensor, " length_plus_1"] | None = None,
        variance: Literal["word", "small", "large"] = "word",
        decoder_var: float | None = None,
        clip: float | None = None,
    ):
        check_count("length", length)
        check_count("width", width)
        check_choice("rounding", rounding, ("gold", "prediction", "none"))
        if temperature is not None:
            check_scalar("temperature", temperature)
            if not temperature > 0:
                raise ValueError(f"temperature must be positive, not {temperature}")
        super().__init__(alpha_bar, (length, width), variance, decoder_var, clip)
        self.length, self.rounding, self.detach = length, rounding, detach
        self.temperature = temperature or self.sigma_0_squared
        self.register_buffer(
            "log_length", None if lengths is None else log_law(lengths, length)
        )

    # From words to vectors and back

    def encode(self, model: Network, data: Sentences) -> Vectors:
        """x_0 ~ N(Emb(w), sigma_0^2 I).  (section 4.1)"""
        tokens, _, _ = self.unpack(data)
        with evaluating(model):
            # The first "forward" transition of section 4.1, q_phi(x_0 | w), which is
            # learned through Emb.
            return self.noise_first(embed(model, tokens), data)

    def decode(self, model: Network, x: Vectors) -> Tokens:
        """The nearest words; PAD where the model is told that there is nothing. FloatingPointError where x is NaN."""
        check_word_network(model, "table")
        mask, width = getattr(model, "mask", None), model.table.shape[1]
        if not isinstance(x, Tensor) or x.shape[-1:] != (width,):
            raise ValueError(f"x must hold vectors of width {width}, not {describe(x)}")
        if mask is None:
            return nearest(x, model.table)
        x = torch.where(mask[..., None], x, 0)
        return nearest(x, model.table).masked_fill(~mask, PAD)

    def rounding_nll(self, model: Network, x0: Vectors, tokens: Tokens) -> PerWord:
        """-log p(w | x_0) in nats per word, 0 at PAD.  (section 4.1, with |e|^2 / 2 where the paper has a bias)"""
        with full_precision(x0):
            logits = at_least_single(model.logits(at_least_single(x0)))
            # p_theta(w | x_0) = prod softmax(w_i | x_i).
            log_p = (logits / self.temperature).log_softmax(-1)
        return F.nll_loss(
            log_p.transpose(1, 2), tokens, ignore_index=PAD, reduction="none"
        )

    def draw_lengths(self, n: int) -> Mask:
        """(n, length): True where n sentences of freshly drawn lengths have words. ValueError without `lengths`."""
        check_count("n", n)
        if self.log_length is None:
            raise ValueError(
                "lengths must be given to the process before they can be drawn"
            )
        return up_to(
            torch.multinomial(self.log_length.exp(), n, replacement=True), self.length
        )

    # What a batch is

    def unpack(self, data: Sentences) -> tuple[Tokens, Int[Tensor, " B"] | None, Mask]:
        """The tokens, the labels if there are any, and the places that the bound counts."""
        if not isinstance(data, Tensor | Labelled):
            raise TypeError(
                f"data must be tokens (B, L) or Labelled, not {describe(data)}"
            )
        tokens, label = data if isinstance(data, Labelled) else (data, None)
        tokens = check_tokens(tokens)
        return tokens, label, written(tokens)

    def loss_mask(self, data: Sentences) -> Mask:
        """The places that the loss counts."""
        return self.unpack(data)[2]

    def diffuse(self, model: Network, data: Sentences, t: Times) -> Diffused:
        """One draw of x_0 and x_t."""
        check_word_network(model, "embed")
        tokens, _, _ = self.unpack(data)
        clean = embed(model, tokens)
        x0 = self.noise_first(clean, data)
        return Diffused(written(tokens), clean, x0, self.noise_on(x0, data, t))

    def noise_first(self, clean: Vectors, data: Sentences) -> Vectors:
        """x_0 ~ q(x_0 | w)."""
        return clean + math.sqrt(self.sigma_0_squared) * torch.randn_like(clean)

    def noise_on(self, x0: Vectors, data: Sentences, t: Times) -> Vectors:
        """x_t ~ q(x_t | x_0)."""
        return self.corrupt(x0, t)

    def disturb(self, x_t: Vectors, data: Sentences, t: Times) -> Vectors:
        """What training does to x_t besides noise: nothing here."""
        return x_t

    # The network

    def ask(
        self, model: Network, x_t: Vectors, t: Times, **given: Tensor | None
    ) -> Vectors:
        """The estimate of x_0, checked: as many finite floats as x_t has. What is None is not given."""
        out = model(x_t, self.u(t), **passed_on(model, given))
        check_answer(out, tuple(x_t.shape), x_t)
        return check_finite("the model's output", out, t)

    def explain(
        self, model: Network, x_t: Vectors, t: Times, at: Mask, **given: Tensor | None
    ) -> tuple[Vectors, LogLaw]:
        """The estimate of x_0, and the log law of words behind it at the n places of `at`, (n, K_out); checked."""
        said = model.explain(x_t, self.u(t), **passed_on(model, {**given, "at": at}))
        if not isinstance(said, tuple) or len(said) != 2:
            raise TypeError(
                f"model.explain must return (x_0, log law of words), not {describe(said)}"
            )
        x0_hat, log_p = said
        check_answer(x0_hat, tuple(x_t.shape), x_t)
        K_out, takes_at = len(model.table), getattr(model, "takes_at", False)
        places = (int(at.sum()),) if takes_at else tuple(at.shape)
        check_answer(log_p, (*places, K_out), x_t)
        # A perfect network may hold a word impossible: -inf is a number here, NaN is none.
        note("the model's law of words", ~log_p.isnan().any().expand(len(t)), t)
        return check_finite(
            "the model's output", x0_hat, t
        ), log_p if takes_at else log_p[at]

    # Training

    def loss(self, model: Network, data: Sentences, t: Times) -> PerExample:
        """|x_0 - f(x_t, t)|^2 per number + cross-entropy per word + A_T |x_0|^2 per number, mean over words.

        (eq. 2, as its code has it)
        """
        _, _, x0, x_t = self.diffuse(model, data, t)
        return self.loss_at(model, data, x0, self.disturb(x_t, data, t), t)

    def loss_at(
        self, model: Network, data: Sentences, x0: Vectors, x_t: Vectors, t: Times
    ) -> PerExample:
        """The loss at this x_0 and x_t. The target is Emb(w) at t = 1.

        A tenth of the labels, if there are any, is hidden, and a network that recalls is given its own estimate half
        of the time: these two are drawn here.
        """
        check_word_network(model, "embed", "explain", "table", "logits")
        tokens, label, _ = self.unpack(data)
        self.check_draws(tokens, x0, x_t, t)
        mask, counted = written(tokens), self.loss_mask(data)
        if label is not None:
            hidden = torch.rand(len(label), device=label.device) < HIDDEN
            label = torch.where(hidden, model.classes, label)
        before = self.earlier_estimate(model, x_t, t, mask, label, counted)
        x0_hat, log_p = self.explain(
            model, x_t, t, counted, mask=mask, before=before, label=label
        )
        # L_e2e of eq. 2, one t in place of its sum. |Emb(w) - mu_theta(x_1, 1)|^2 is its
        # term at t = 1, where x_0 itself would leave the noise sigma_0 to be learned.
        target = torch.where(per_example(t == 1, x0), embed(model, tokens), x0)
        target = target.detach() if self.detach else target
        # L_simple as section 4.2 has it, |x_0 - f_theta(x_t, t)|^2: the network says x_0
        # at every t, so it learns that x_0 lies on an embedding.
        error = (target - x0_hat).square().mean(-1)
        # -log p_theta(w | x_0), which keeps embeddings apart: without it all of them
        # would meet in one point.
        words = self.cross_entropy(model, x0, log_p, tokens, counted)
        # tT_loss in the paper's code: what is left of x_0 in the mean of x_T, squared
        rest = self.alpha_bar[-1].to(x0.dtype) * x0.square().mean(-1)
        return average(error + words + rest, counted)

    def cross_entropy(
        self, model: Network, x0: Vectors, log_p: LogLaw, tokens: Tokens, counted: Mask
    ) -> PerWord | float:
        """The cross-entropy of the words in the loss; log_p is the network's at the counted places."""
        if self.rounding == "none":
            return 0.0
        if self.rounding == "gold":
            return self.rounding_nll(model, x0, tokens.masked_fill(~counted, PAD))
        nll = F.nll_loss(log_p, tokens[counted], reduction="none")
        return torch.zeros(
            counted.shape, dtype=nll.dtype, device=nll.device
        ).masked_scatter(counted, nll)

    def earlier_estimate(
        self,
        model: Network,
        x_t: Vectors,
        t: Times,
        mask: Mask,
        label: Tensor | None,
        counted: Mask,
    ) -> Vectors | None:
        """What self-conditioning gives in training: an own estimate for half of the examples, else zeros."""
        if not getattr(model, "recall", False):
            return None
        nothing = torch.zeros_like(x_t)

        def estimate(some: Int[Tensor, " n"]) -> Vectors:
            labels = None if label is None else label[some]
            told = {"mask": mask[some], "at": counted[some], "label": labels}
            before = nothing[some]
            return self.ask(model, x_t[some], t[some], before=before, **told)

        return half_of_the_time(estimate, x_t)

    # The bound

    def bound_at(
        self, model: Network, data: Sentences, x0: Vectors, x_t: Vectors, t: Times
    ) -> PerExample:
        """T L_{t-1} + L_T - log p(w | x_0) - log p(length), nats per sentence: its mean over t bounds -log p(w).

        Without `lengths` it is the bound given the sentence's length.  (eq. 2 before it is simplified)
        """
        check_word_network(model, "embed", "logits")
        tokens, _, counted = self.unpack(data)
        self.check_draws(tokens, x0, x_t, t)
        clean = embed(model, tokens)
        nll = widest(
            self.rounding_nll(model, x0, tokens.masked_fill(~counted, PAD))
        ).sum(1)
        if self.log_length is not None:
            # A sentence's length is drawn first; then no word has to say that it ended.
            nll = nll - self.log_length[written(tokens).sum(1)]
        return (
            self.T * self.term_at(model, data, x_t, t)
            + self.prior_term(clean, counted)
            + nll
        )

    def bound(self, model: Network, data: Sentences, t: Times) -> PerExample:
        """`bound_at` one draw of x_0 and x_t."""
        _, _, x0, x_t = self.diffuse(model, data, t)
        return self.bound_at(model, data, x0, x_t, t)

    def term(self, model: Network, data: Sentences, t: Times) -> PerExample:
        """`term_at` one draw of x_t."""
        return self.term_at(model, data, self.diffuse(model, data, t).x_t, t)

    def term_at(
        self, model: Network, data: Sentences, x_t: Vectors, t: Times
    ) -> PerExample:
        """L_{t-1} = KL(q(x_{t-1} | x_t, w) || p(x_{t-1} | x_t)) in nats per sentence, t = 1 included.

        Given w the x_t are a Markov chain whatever x_0 is, so x_0 is integrated out, where the paper keeps it: there
        are no terms of q(x_0 | w), and less noise. The network is given no estimate of its own before.
        """
        tokens, label, counted = self.unpack(data)
        x0_hat = self.ask(model, x_t, t, mask=written(tokens), label=label, at=counted)
        return self.divergence(embed(model, tokens), x0_hat, x_t, t, counted)

    # Bad input

    def check_state(self, name: str, x: Tensor) -> None:
        """Raise unless x is a floating (B, L, width) with B >= 1 and 1 <= L <= length."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            came = x.dtype if isinstance(x, Tensor) else describe(x)
            raise TypeError(f"{name} must be a float tensor, not {came}")
        if x.ndim != 3 or not (
            len(x) and 1 <= x.shape[1] <= self.length and x.shape[2] == self.width
        ):
            want = f"(B >= 1, 1 <= L <= {self.length}, {self.width})"
            raise ValueError(f"{name} must have shape {want}, not {tuple(x.shape)}")

    def check_draws(self, tokens: Tokens, x0: Vectors, x_t: Vectors, t: Times) -> None:
        """Raise unless x0 and x_t have a vector for each of the tokens, and t a time in [1, T] for each sentence."""
        for name, x in (("x0", x0), ("x_t", x_t)):
            self.check_state(name, x)
            if x.shape[:2] != tokens.shape:
                raise ValueError(
                    f"{name} must have a vector for each of the {tuple(tokens.shape)} tokens, not {describe(x)}"
                )
        self.check_t("t", t, len(tokens), first=1)


def passed_on(model: Network, given: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """What there is of the keywords, without `at` for a network that does not take it."""
    unknown = () if getattr(model, "takes_at", False) else ("at",)
    return {
        name: value
        for name, value in given.items()
        if value is not None and name not in unknown
    }


def log_law(
    counts: Int[Tensor, " length_plus_1"], length: int
) -> Float[Tensor, " length_plus_1"]:
    """log of the law of lengths 1..length, each counted once more than it was seen; -inf at 0."""
    if counts.shape != (length + 1,) or counts.min() < 0:
        raise ValueError(
            f"lengths must be {length + 1} counts, not {tuple(counts.shape)} from {counts.min()}"
        )
    # A length that was never seen must not cost infinity.
    more = counts.double() + 1
    more[0] = 0
    return (more / more.sum()).log()


def anchor(
    model: Network, tokens: Tokens, known: Mask, approximate: bool = False
) -> Keep:
    """For `sample(..., clamp=anchor(model, tokens, known, approximate=True))`: known words are put back at each step.

    Infilling, a prompt, the start of a sentence. The words that are not known may be anything, PAD too. It is not
    exact, and refused unless approximate=True: the network was trained with noise at all places, and the rest has not
    seen what is put back, clean, after its step. Perfect networks were off by a total variation of 0.03 to 0.35.
    """
    if known.shape != tokens.shape:
        raise ValueError(
            f"known and tokens must have one shape, not {tuple(known.shape)} and {tuple(tokens.shape)}"
        )
    with torch.no_grad(), evaluating(model):
        # Tokens that are not known are embedded,
        # too, whatever they hold, and never used.
        vectors = embed(model, tokens)
    return Keep(known, vectors, approximate=approximate)
