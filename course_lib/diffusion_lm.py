"""Diffusion-LM: Gaussian diffusion of word embeddings, with rounding (Li et al. 2022, arXiv:2205.14217).

    w  ->  x_0 ~ N(Emb(w), sigma_0^2 I)  ->  x_1  ->  ...  ->  x_T          sigma_0^2 = 1 - alpha_bar_1

The step from words to vectors is learned, so it belongs to the model: `embed`, and `logits` for the way back. The
process knows the noise. A batch of data is tokens (B, L) with PAD after each sentence; PAD is nowhere seen or counted.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .ddpm import DDPM, Transition
from .infilling import Keep
from .process import Process
from .sentences import PAD, Labelled, Sentences, up_to, written
from .shapes import Mask, PerExample, Table, Times, Tokens, check_choice, check_count, per_example, widest
from .word_nets import EmbeddingNet, MixingNet

Vectors = Float[Tensor, "B L D"]
PerWord = Float[Tensor, "B L"]
CHUNK = 2**22  # logits held at once by `nearest`: 16 MB


class DiffusionLM(DDPM):
    """Diffusion of sentences of up to `length` words, each a vector of `width` numbers; the network predicts x_0.

    rounding     the cross-entropy of words is that of "gold" x_0, as derived, of the network's "prediction", or "none"
    detach       True: no gradient to the embeddings through the target
    temperature  of p(w | x_0) = softmax(logits / temperature); by default sigma_0^2, with which it is Bayes' rule for
                 equally frequent words. The paper's code has 1
    lengths      (length + 1,) how often each length occurs, from 0: to draw lengths, and for their part of the bound
    variance     of p(x_s | x_t): "word" is right if w is known, "small" if x_0 is (the paper's), "large" as in DDPM
    decoder_var  variance of p(x_0 | x_1); by default right if w is known. The paper's code has beta-tilde at t = 2
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
        check_choice("variance", variance, ("word", "small", "large"))
        if temperature is not None and not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        base = "small" if variance == "word" else variance
        super().__init__(alpha_bar, (length, width), "x0", base, decoder_var=decoder_var, clip=clip)
        self.length, self.width, self.rounding, self.detach = length, width, rounding, detach
        self.variance = variance
        self.spread = -math.expm1(self.log_alpha_bar[1].item())  # sigma_0^2
        self.temperature = temperature or self.spread
        self.decoder_var = decoder_var or self._left(self.log_alpha_bar[1]).item()
        self.register_buffer("log_length", None if lengths is None else log_law(lengths, length))

    def check_state(self, name: str, x: Tensor) -> None:
        """Raise unless x is a floating (B, L, width) with B >= 1 and 1 <= L <= length."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"{name} must be a float tensor, not {getattr(x, 'dtype', type(x).__name__)}")
        if x.ndim != 3 or not (len(x) and 1 <= x.shape[1] <= self.length and x.shape[2] == self.width):
            want = f"(B >= 1, 1 <= L <= {self.length}, {self.width})"
            raise ValueError(f"{name} must have shape {want}, not {tuple(x.shape)}")

    # From words to vectors and back

    def encode(self, model, data: Sentences) -> Vectors:
        """x_0 ~ N(Emb(w), sigma_0^2 I).  (section 4.1)"""
        return self._noised(embed(model, self.read(data)[0]))

    def decode(self, model, x: Vectors) -> Tokens:
        """The nearest words; PAD where the model is told that there is nothing."""
        tokens, mask = nearest(x, model.table), getattr(model, "mask", None)
        return tokens if mask is None else tokens.masked_fill(~mask, PAD)

    def rounding_nll(self, model, x0: Vectors, tokens: Tokens) -> PerWord:
        """-log p(w | x_0) in nats per word, 0 at PAD.  (section 4.1, with |e|^2 / 2 where the paper has a bias)"""
        log_p = (model.logits(x0) / self.temperature).log_softmax(-1)
        return F.nll_loss(log_p.transpose(1, 2), tokens, ignore_index=PAD, reduction="none")

    def draw_lengths(self, n: int) -> Mask:
        """(n, length): True where n sentences of freshly drawn lengths have words. ValueError without `lengths`."""
        check_count("n", n)
        if self.log_length is None:
            raise ValueError("lengths must be given to the process before they can be drawn")
        return up_to(torch.multinomial(self.log_length.exp(), n, replacement=True), self.length)

    def _noised(self, clean: Vectors) -> Vectors:
        return clean + math.sqrt(self.spread) * torch.randn_like(clean)

    # Training

    def loss(self, model, data: Sentences, t: Times) -> PerExample:
        """|x_0 - f(x_t, t)|^2 per number + cross-entropy per word + A_T |x_0|^2 per number, mean over words.

        The target is Emb(w) at t = 1. A tenth of the labels, if there are any, is hidden.  (eq. 2, as its code has it)
        """
        tokens, label, _ = self.read(data)
        counted = self.trained(data)
        mask, clean, x0, x_t = self.draw(model, data, t)
        x_t = self.disturb(x_t, data, t)
        if label is not None:
            label = torch.where(torch.rand(len(label), device=label.device) < 0.1, model.classes, label)
        before = self._recalled(model, x_t, t, mask, label, counted)
        x0_hat, log_p = model.explain(x_t, self.u(t), mask, before, label, **asked(model, counted))
        target = torch.where(per_example(t == 1, x0), clean, x0)
        error = ((target.detach() if self.detach else target) - x0_hat).square().mean(-1)
        words = self._words(model, x0, log_p, tokens, counted)
        return average(error + words + self._last(x0).mean(-1), counted)

    def read(self, data: Sentences) -> tuple[Tokens, Int[Tensor, " B"] | None, Mask]:
        """The tokens, the labels if there are any, and the positions that the bound counts."""
        tokens, label = data if isinstance(data, Labelled) else (data, None)
        return tokens, label, written(tokens)

    def trained(self, data: Sentences) -> Mask:
        """The positions that the loss counts."""
        return self.read(data)[2]

    def disturb(self, x_t: Vectors, data: Sentences, t: Times) -> Vectors:
        """What training does to x_t besides noise: nothing here."""
        return x_t

    def draw(self, model, data: Sentences, t: Times) -> tuple[Mask, Vectors, Vectors, Vectors]:
        """Where the network may look, and one draw of Emb(w), x_0, x_t."""
        tokens, _, mask = self.read(data)
        clean = embed(model, tokens)
        x0 = self._noised(clean)
        return mask, clean, x0, self.corrupt(x0, t)

    def _words(self, model, x0: Vectors, log_p: Tensor, tokens: Tokens, counted: Mask) -> PerWord | float:
        """The cross-entropy in the loss."""
        if self.rounding == "none":
            return 0.0
        if self.rounding == "gold":
            return self.rounding_nll(model, x0, tokens.masked_fill(~counted, PAD))
        if log_p.ndim == 3:
            log_p = log_p[counted]
        nll = F.nll_loss(log_p, tokens[counted], reduction="none")
        return torch.zeros_like(x0[..., 0]).masked_scatter(counted, nll)

    def _recalled(self, model, x_t: Vectors, t: Times, mask: Mask, label, counted: Mask) -> Vectors | None:
        """If the network recalls: its own estimate for half of the examples, else zeros.  (arXiv:2208.04202, 3.2)"""
        if not model.recall:
            return None
        before, n = torch.zeros_like(x_t), (len(x_t) + torch.randint(2, ()).item()) // 2
        some = torch.randperm(len(x_t), device=x_t.device)[:n]
        if n:
            label = None if label is None else label[some]
            with torch.no_grad():
                given = mask[some], before[some], label
                before[some] = model(x_t[some], self.u(t[some]), *given, **asked(model, counted[some]))
        return before

    def _last(self, x0: Vectors) -> Vectors:
        """What is left of x_0 in the mean of x_T, squared: the code's tT_loss."""
        return self.log_alpha_bar[-1].exp().to(x0.dtype) * x0.square()

    # The bound

    def bound(self, model, data: Sentences, t: Times) -> PerExample:
        """T L_{t-1} + L_T - log p(w | x_0) - log p(length), nats per sentence: its mean over t bounds -log p(w).

        Without `lengths` it is the bound given the sentence's length.  (eq. 2 before it is simplified)
        """
        tokens, label, counted = self.read(data)
        mask, clean, x0, x_t = self.draw(model, data, t)
        nll = widest(self.rounding_nll(model, x0, tokens.masked_fill(~counted, PAD))).sum(1)
        if self.log_length is not None:
            nll = nll - self.log_length[mask.sum(1)]
        x0_hat = self._estimate(model, x_t, t, mask, label, counted)
        return self.T * self._term(clean, x0_hat, x_t, t, counted) + self.prior_term(clean, counted) + nll

    def term(self, model, data: Sentences, t: Times) -> PerExample:
        """L_{t-1} = KL(q(x_{t-1} | x_t, w) || p(x_{t-1} | x_t)) in nats per sentence, t = 1 included.

        Given w the x_t are a Markov chain whatever x_0 is, so x_0 is integrated out, where the paper keeps it: there
        are no terms of q(x_0 | w), and less noise.
        """
        _, label, counted = self.read(data)
        mask, clean, _, x_t = self.draw(model, data, t)
        x0_hat = self._estimate(model, x_t, t, mask, label, counted)
        return self._term(clean, x0_hat, x_t, t, counted)

    def prior_term(self, clean: Vectors, mask: Mask | None = None) -> PerExample:
        """L_T = KL(q(x_T | w) || N(0, I)) in nats per sentence, from Emb(w)."""
        mask = torch.ones(clean.shape[:2], dtype=torch.bool, device=clean.device) if mask is None else mask
        left = self.log_alpha_bar[-1].exp()
        extra = left * (self.spread - 1)  # of the variance of x_T, over 1
        return total(((left * widest(clean).square() + extra - torch.log1p(extra)).sum(-1) / 2), mask)

    def known_word(self, clean: Vectors, x_t: Vectors, t: Times) -> tuple[Vectors, PerExample]:
        """Mean and variance of q(x_0 | x_t, w), from Emb(w)."""
        log = self.log_alpha_bar[t]
        left = self._left(log)
        gain = (log / 2).exp() * left / -torch.expm1(log)
        r, gain = (per_example(v.to(x_t.dtype), x_t) for v in ((log / 2).exp(), gain))
        return clean + gain * (x_t - r * clean), left

    def _estimate(self, model, x_t: Vectors, t: Times, mask: Mask, label, counted: Mask) -> Vectors:
        """What the network says where the bound counts, without an estimate of its own before."""
        given = () if label is None else (None, label)
        return model(x_t, self.u(t), mask, *given, **asked(model, counted))

    def _term(self, clean: Vectors, x0_hat: Vectors, x_t: Vectors, t: Times, mask: Mask) -> PerExample:
        """The KL of two Gaussians. At t = 1 the network's answer stands for Emb(w)."""
        first, step = per_example(t == 1, x_t), self.transition(t, t - 1)
        from_x0, var = step.from_x0, torch.where(t == 1, self.decoder_var, step.p_var)
        mean, left = self.known_word(clean, x_t, t)
        mean_hat = torch.where(first, self.known_word(x0_hat, x_t, t)[0], x0_hat)
        ratio = (step.q_var + from_x0.square() * left) / var
        constant = self.width * (ratio - 1 - ratio.log()) / 2
        error = (widest(mean) - widest(mean_hat)).square().sum(-1)
        return total((from_x0.square() / (2 * var))[:, None] * error + constant[:, None], mask)

    def _left(self, log: Tensor) -> Tensor:
        """Variance of q(x_0 | x_t, w): sigma_0^2 / (1 + sigma_0^2 SNR)."""
        return self.spread / (1 - self.spread * log.exp() / torch.expm1(log))

    def transition(self, t: Times, s: Times) -> Transition:
        """With variance "word" p(x_s | x_t) is as wide as q(x_s | x_t, w); the last step shows the mean."""
        step = super().transition(t, s)
        if self.variance != "word":
            return step
        of_word = step.q_var + step.from_x0.square() * self._left(self.log_alpha_bar[t])
        return step._replace(p_var=of_word * (s > 0))


# Words and vectors


def asked(model, rows: Mask) -> dict:
    """The argument that asks a network for these positions only, if it takes one."""
    return {"at": rows} if getattr(model, "takes_at", False) else {}


def embed(model, tokens: Tokens) -> Vectors:
    """Emb(w); zeros at PAD."""
    return model.embed(tokens.clamp(min=0)) * (tokens != PAD)[..., None]


def nearest(x: Float[Tensor, "*shape D"], table: Float[Tensor, "K D"]) -> Int[Tensor, "*shape"]:
    """argmin_w |x - e_w|, as argmax of x . e_w - |e_w|^2 / 2: one matrix product at a time over a part of the rows."""
    bias, rows = -table.square().sum(-1) / 2, max(1, CHUNK // len(table))
    parts = [
        torch.addmm(bias, part, table.T).argmax(-1)
        for part in x.to(table.dtype).reshape(-1, x.shape[-1]).split(rows)
    ]
    return torch.cat(parts).reshape(x.shape[:-1])


def total(v: PerWord, mask: Mask) -> PerExample:
    """Sum over the words of each sentence."""
    return torch.where(mask, v, 0).sum(1)


def average(v: PerWord, mask: Mask) -> PerExample:
    """Mean over the words of each sentence."""
    return total(v, mask) / mask.sum(1)


def log_law(counts: Int[Tensor, " length_plus_1"], length: int) -> Float[Tensor, " length_plus_1"]:
    """log of the law of lengths 1..length, each counted once more than it was seen; -inf at 0."""
    if counts.shape != (length + 1,) or counts.min() < 0:
        raise ValueError(
            f"lengths must be {length + 1} counts, not {tuple(counts.shape)} from {counts.min()}"
        )
    more = counts.double() + 1
    more[0] = 0
    return (more / more.sum()).log()


def anchor(model, tokens: Tokens, known: Mask, approximate: bool = False) -> Keep:
    """For `sample(..., clamp=anchor(model, tokens, known, approximate=True))`: known words are put back at each step.

    Infilling, a prompt, the start of a sentence. The words that are not known may be anything, PAD too. It is not
    exact, and refused unless approximate=True: the network was trained with noise at all places, and the rest has not
    seen what is put back, clean, after its step. Perfect networks were off by a total variation of 0.03 to 0.35.
    """
    if known.shape != tokens.shape:
        raise ValueError(
            f"known and tokens must have one shape, not {tuple(known.shape)} and {tuple(tokens.shape)}"
        )
    with torch.no_grad():
        vectors = embed(model, tokens)
    return Keep(known, vectors, approximate=approximate)


# What is done to a network before it samples


class Around:
    """A network that changes what another says. Embedding and rounding stay those of the network inside."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)


class Within(Around):
    """The network, told which positions have words: `sample(process, Within(model, mask), ...)`."""

    def __init__(self, model, mask: Mask, label: Int[Tensor, " B"] | None = None):
        super().__init__(model)
        self.mask, self.given = mask, () if label is None else (None, label)

    def __call__(self, x: Vectors, u: PerExample) -> Vectors:
        return self.model(x, u, self.mask, *self.given)


class Rounded(Around):
    """The clamping trick: the estimate of x_0 becomes the nearest embedding, from u = start on down.  (section 4.2)

    The estimate of the noise then follows from the rounded x_0 in every sampler.
    """

    def __init__(self, model, start: float = 1.0):
        super().__init__(model)
        if not 0 <= start <= 1:
            raise ValueError(f"start must lie in [0, 1], not {start}")
        self.start = start

    def __call__(self, x: Vectors, u: PerExample, *given) -> Vectors:
        x0 = self.model(x, u, *given)
        return torch.where(
            per_example(u <= self.start, x0), F.embedding(nearest(x0, self.table), self.table), x0
        )


class Recalling(Around):
    """Self-conditioning: each call is given the estimate of the call before; at u = 1 there is none.

    rows  the positions to ask for, if not all where there are words: the target of a pair
    """

    def __init__(self, model, mask: Mask, rows: Mask | None = None):
        super().__init__(model)
        self.mask, self.before = mask, None
        self.asked = asked(model, mask if rows is None else rows)

    def __call__(self, x: Vectors, u: PerExample) -> Vectors:
        before = torch.zeros_like(x) if self.before is None else self.before * per_example(u < 1, x)
        self.before = self.model(x, u, self.mask, before, **self.asked)
        return self.before


class Free(Around):
    """Classifier-free guidance: (1 + weight) f(x, label) - weight f(x, any).  (Ho & Salimans 2022, eq. 6)

    If the network recalls, both are given the last f(x, label), as it was in training.
    """

    def __init__(self, model, mask: Mask, label: Int[Tensor, " B"], weight: float):
        super().__init__(model)
        self.mask, self.label, self.weight, self.before = mask, label, weight, None

    def __call__(self, x: Vectors, u: PerExample) -> Vectors:
        before = None if self.before is None else self.before * per_example(u < 1, x)
        told, free = (self.model(x, u, self.mask, before, label) for label in (self.label, None))
        self.before = told if getattr(self, "recall", False) else None
        return torch.lerp(free, told, 1 + self.weight)


# What is done to finished sentences


@torch.no_grad()
def likeliest(
    process: DiffusionLM, model, draws: Int[Tensor, "k B L"], levels: int = 20
) -> tuple[Tokens, Float[Tensor, "k B"]]:
    """Of the k draws of each sentence the one of least bound, and all bounds in nats per sentence; float64.

    Each bound is a mean over `levels` noise levels, the middles of equal parts of (0, T]. It knows no more than the
    network: draws are told apart by what it holds likely, and the chosen vary less than the draws do. ValueError for
    no draw, no sentence, or levels < 1.
    """
    check_count("levels", levels)
    if draws.ndim != 3 or not draws.numel():
        raise ValueError(f"draws must have shape (k >= 1, B >= 1, L), not {tuple(draws.shape)}")
    n = draws.shape[1]
    middles = [max(1, round((j + 0.5) / levels * process.T)) for j in range(levels)]
    times = [torch.full((n,), t, device=draws.device) for t in middles]
    bound = sum(torch.stack([process.bound(model, x, t) for x in draws]) for t in times) / levels
    best = bound.argmin(0)
    return draws[best, torch.arange(n, device=best.device)], bound


@torch.no_grad()
def neighbours(
    process: DiffusionLM, model, tokens: Tokens, u: float = 0.2
) -> tuple[Mask, Float[Tensor, "words K"]]:
    """Where there are words, and ln p(w_i | all other words) of each, as a network that mixes words has it; nats.

    It puts p(w | x_t) together from what the others say and what x_t^i says of itself; the latter is taken off again,
    at x_t without its noise. A perfect network is exact as u -> 0; of a trained one nothing was asked there, and it
    knows most at a middling u. ValueError unless 0 < u <= 1 and the tokens have at most `process.length` places;
    TypeError for an EmbeddingNet, whose law of words has no part that x_t says of itself.
    """
    if not 0 < u <= 1:
        raise ValueError(f"u must lie in (0, 1], not {u}")
    if tokens.shape[1] > process.length:
        raise ValueError(f"tokens must have at most {process.length} places, not {tokens.shape[1]}")
    inner = model
    while isinstance(inner, Around):
        inner = inner.model
    if isinstance(inner, EmbeddingNet) and not isinstance(inner, MixingNet):
        raise TypeError("model must mix words, as MixingNet does, not be an EmbeddingNet")
    mask, t = written(tokens), max(1, round(u * process.T))
    a = process.alpha_bar[t].item()
    x, e = math.sqrt(a) * embed(model, tokens), math.sqrt(a) * model.table
    times = process.u(torch.full((len(x),), t, device=x.device))
    log_p = model.explain(x, times, mask, **asked(model, mask))[1]
    noise = 1 - a + a * process.spread
    itself = (x[mask] @ e.T - e.square().sum(-1) / 2) / noise  # ln N(x_t; sqrt(a) e_w, noise) + const
    return mask, ((log_p if log_p.ndim == 2 else log_p[mask]) - itself).log_softmax(-1)


@torch.no_grad()
def proofread(
    process: DiffusionLM, model, tokens: Tokens, gain: float = 3.0, rounds: int = 32, u: float = 0.2
) -> Tokens:
    """Replace words that the others contradict: in each round the one of each sentence that gains most, if > gain nats.

    The gain is ln p(new | others) - ln p(old | others): what ln p of the sentence gains, if the network is perfect. A
    word is decided at high noise, from little; here it is decided again, with all others known. Sentences get likelier,
    and more alike. ValueError unless gain >= 0.  (iterated conditional modes, Besag 1986)
    """
    check_count("rounds", rounds)
    if not gain >= 0:
        raise ValueError(f"gain must not be negative, but is {gain}")
    for _ in range(rounds):
        mask, log_p = neighbours(process, model, tokens, u)
        best, word = log_p.max(-1)
        best = best - log_p.gather(1, tokens[mask][:, None])[:, 0]
        gains = torch.zeros(mask.shape, dtype=best.dtype, device=best.device).masked_scatter(mask, best)
        most, place = gains.max(1, keepdim=True)
        new = tokens.masked_scatter(mask, word).gather(1, place)
        tokens = tokens.scatter(1, place, torch.where(most > gain, new, tokens.gather(1, place)))
    return tokens


# Control by a classifier


class Labels(Process):
    """Trains a classifier of x_t: loss(classifier, Labelled, t) is -log p(label | x_t) in nats.

    process  the DiffusionLM whose x_t it is to read
    model    the network that embeds; it is not trained
    """

    def __init__(self, process: DiffusionLM, model):
        super().__init__()
        self.process, self.model, self.T = process, model, process.T

    @property
    def device(self) -> torch.device:
        """Where the process is."""
        return self.process.device

    def loss(self, classifier, data: Labelled, t: Times) -> PerExample:
        with torch.no_grad():
            mask, _, _, x_t = self.process.draw(self.model, data.tokens, t)
        return F.cross_entropy(classifier(x_t, self.u(t), mask), data.labels, reduction="none")


class Guided(Process):
    """Each step of a process ends with a few steps of Adagrad up log p(c | x_s) + fluency log p(x_s | x_t).

    log_p(x_s, u) -> (B,) is the control, such as a classifier's log probability; log p(x_s | x_t) is that of a Gaussian
    around what the step has drawn. The last step, to s = 0, is left as it is.  (section 5.1; all else is the process's)
    """

    def __init__(
        self,
        process: DDPM,
        log_p: Callable[[Vectors, PerExample], PerExample],
        updates: int = 3,
        lr: float = 0.1,
        fluency: float = 0.01,
    ):
        super().__init__()
        check_count("updates", updates)
        if not (lr > 0 and fluency >= 0):
            raise ValueError(f"lr must be positive and fluency not negative, not {lr} and {fluency}")
        self.process, self.T, self.log_p = process, process.T, log_p
        self.updates, self.lr, self.fluency = updates, lr, fluency

    @property
    def device(self) -> torch.device:
        """Where the process is."""
        return self.process.device

    def corrupt(self, x0: Vectors, t: Times) -> Vectors:
        return self.process.corrupt(x0, t)

    def loss(self, model, data, t: Times) -> PerExample:
        return self.process.loss(model, data, t)

    def prior(self, n: int) -> Vectors:
        return self.process.prior(n)

    def times(self, steps: int) -> Times:
        return self.process.times(steps)

    def decode(self, model, x: Vectors) -> Tokens:
        """The process's."""
        return self.process.decode(model, x)

    def step(self, model, x: Vectors, t: Times, s: Times) -> Vectors:
        drawn = self.process.step(model, x, t, s)
        var = per_example(self.process.transition(t, s).q_var.to(x.dtype), x)
        pulled = self.pulled(drawn, var, self.u(s))
        return torch.where(per_example(s > 0, x), pulled, drawn)

    def pulled(self, drawn: Vectors, var: Tensor, u: PerExample) -> Vectors:
        """The drawn x_s after `updates` steps up the objective."""
        with torch.enable_grad():
            x = drawn.detach().clone().requires_grad_()
            optimizer = torch.optim.Adagrad([x], lr=self.lr)
            for _ in range(self.updates):
                far = ((x - drawn).square() / (2 * var).clamp(min=1e-12)).sum()
                x.grad = torch.autograd.grad(self.fluency * far - self.log_p(x, u).sum(), x)[0]
                optimizer.step()
        return x.detach()
