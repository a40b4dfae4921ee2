"""Systems of tokens: what D3PM, SEDD, MDLM and Ordered share.

The forward process noises each of `length` tokens on its own; the network reads all of them and says V numbers at each
position, one for each token of the vocabulary. It is called

    model(x_t, u)              (B, L) states and (B,) times u = t / T  ->  (B, L, V)
    model(x_t, u, mask=mask)   if rows end early: positions where mask (B, L) is False must not be seen
    model(x_t, u, at=where)    if it declares `takes_at = True`: (n, V), at the positions `where` (B, L) only

`TokenProcess.ask` is the one place that does so and that looks at the answer. Rows of several lengths are filled up at
their ends with PAD = -1: no noise reaches it, no network reads it, and no loss counts it.

The bound on -log p(x_0) has three terms, and is the sum of their means over t:

    method                D3PM                             MDLM              SEDD
    prior_term            L_T                              L_prior           KL(q(x_T | x_0) || prior), eq. 9
    diffusion_term        T L_{t-1}; L_0 is its t = 1      eqs. 10 and 11    DWDSE, eq. 10
    reconstruction_term   0: nothing is left of it         L_recons          -log p(x_0 | x just after 0)
"""

import inspect
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .absorbing import Absorbing
from .categorical import Law, LogLaw, Noise, PerToken, draw, draw_many
from .finite import note
from .infilling import Keep
from .process import Process
from .sentences import PAD
from .shapes import (
    Mask,
    Network,
    PerExample,
    Times,
    Tokens,
    check_answer,
    check_choice,
    check_count,
    describe,
    upcast,
    widest,
)
from .token_checks import TokenChecks

Prediction = Literal["loo", "posterior", "score"]
Cost = Callable[[Float[Tensor, "*n V"], Int[Tensor, "*n"]], Float[Tensor, "*n"]]
# The moment after time 0: where a schedule starts below 1, its first noise is there already
FIRST = 1e-30
# Vocabulary from which a GPU is faster if it waits for the positions of the masks and
# applies the last layer there only
MANY = 1024


class TokenProcess(TokenChecks, Process):
    """`length` tokens, each noised on its own by a categorical noise.

    A system fills in loss_at, diffusion_term_at and step.
    """

    # True where a schedule starts below 1: just after time 0 there is noise
    noisy_at_once = False

    def __init__(self, noise: Noise, length: int):
        super().__init__()
        if not isinstance(noise, Noise):
            raise TypeError(
                f"noise must be a Noise, such as Absorbing(...), not {describe(noise)}"
            )
        check_count("length", length)
        self.noise, self.T, self.length = noise, noise.T, length

    # Forward process

    def corrupt(self, x0: Tokens, t: Times) -> Tokens:
        """x_t ~ q(x_t | x_0), token by token; PAD stays."""
        x0 = self.check_state("x0", x0, self.noise.V, padded=True)
        self.check_t("t", t, len(x0))
        # PAD is read as token 0 and put back after: noise knows no PAD, and the draws
        # stay one per position whatever the lengths are.  (D3PM, eq. 3, left)
        x_t = self.noise.corrupt(x0.clamp(min=0), torch.zeros_like(t), t)
        return torch.where(x0 == PAD, PAD, x_t)

    def prior(self, n: int) -> Tokens:
        """x_T, each token on its own from noise.prior()."""
        check_count("n", n)
        return draw_many(self.noise.prior(), (n, self.length))

    def prior_term(self, x0: Tokens) -> PerExample:
        """KL(q(x_T | x_0) || prior), nats per sequence: L_T of D3PM, L_prior of MDLM."""
        x0 = self.check_state("x0", x0, self.noise.V, padded=True)
        return on_tokens(self.noise.prior_kl(x0.clamp(min=0)), x0).sum(1)

    def posterior(self, x0: Tokens, x_t: Tokens, t: Times, s: Times) -> Law:
        """q(x_s | x_t, x_0), for any s < t.  (D3PM, eq. 3, right)"""
        x0 = self.check_state("x0", x0, self.noise.V)
        x_t = self.check_state("x_t", x_t, self.noise.K)
        self.check_step(len(x_t), t, s)
        return self.noise.posterior(widest(F.one_hot(x0, self.noise.K)), x_t, s, t)

    # The bound = diffusion + prior + reconstruction; a system fills in the first

    def bound_at(self, model: Network, x0: Tokens, x_t: Tokens, t: Times) -> PerExample:
        """Nats per sequence, float64: its mean over t bounds -log p(x_0). Diffusion + prior + reconstruction."""
        diffusion = self.diffusion_term_at(model, x0, x_t, t)
        return diffusion + self.prior_term(x0) + self.reconstruction_term(model, x0)

    def diffusion_term(self, model: Network, x0: Tokens, t: Times) -> PerExample:
        """The bound without prior and reconstruction, at one draw of x_t: what SEDD and MDLM print. Nats per sequence.

        D3PM's L_0 is in it, as its term t = 1.
        """
        return self.diffusion_term_at(model, x0, self.corrupt(x0, t), t)

    def diffusion_term_at(
        self, model: Network, x0: Tokens, x_t: Tokens, t: Times
    ) -> PerExample:
        """The same at this x_t, float64."""
        raise NotImplementedError(f"{type(self).__name__} has no diffusion_term_at")

    def reconstruction_term(self, model: Network, x0: Tokens) -> PerExample:
        """-log p(x_0 | x just after 0) by the last denoising step, nats per sequence; 0 if there is no noise at once.

        SEDD's number leaves it out, which makes it smaller than a bound.
        """
        first = torch.full((len(x0),), FIRST, device=x0.device)
        # Where the clock starts at alpha = 1, x just after 0 is x_0: nothing is left.
        if not self.noisy_at_once:
            return widest(torch.zeros_like(first))
        return self.reconstruction_term_at(model, x0, self.corrupt(x0, first))

    def reconstruction_term_at(
        self, model: Network, x0: Tokens, x: Tokens
    ) -> PerExample:
        """The same at this x, drawn just after time 0."""
        raise NotImplementedError(
            f"{type(self).__name__} has no reconstruction_term_at"
        )

    # The network

    def ask(
        self,
        model: Network,
        x_t: Tokens,
        t: Times,
        where: Mask | None = None,
        padded: bool = False,
    ) -> Float[Tensor, "*n V"]:
        """What the network says of x_t, float32 or wider: (B, L, V), or (n, V) at the positions `where`.

        padded  x_t may hold PAD: the network is then told which positions are tokens.
        Raises for an answer of another shape, kind or device; FloatingPointError where a position holds NaN, inf or
        nothing but -inf (one -inf is the log of a probability 0).
        """
        V, told = self.noise.V, self.padding(model, x_t) if padded else {}
        x = x_t.clamp(min=0) if told else x_t
        if where is not None and takes_at(model):
            out = model(x, self.u(t), at=where, **told)
            check_answer(out, (int(where.sum()), V), x_t)
        else:
            out = model(x, self.u(t), **told)
            check_answer(out, (*x_t.shape, V), x_t)
            out = out if where is None else out[where]
        # One look per position: the largest number is NaN or inf if any is,
        # and -inf if all are.
        good = out.detach().amax(-1).isfinite()
        if where is not None:
            good = torch.ones_like(where).masked_scatter(where, good)
        note("the model's output", (good | (x_t == PAD)).all(1), t)
        # Half precision leaves the network here: log-softmax and scores are taken in
        # float32 at least.
        return upcast(out)

    def padding(self, model: Network, x_t: Tokens) -> dict[str, Mask]:
        """What tells the network which positions are tokens. Raises TypeError if it must know and takes no mask.

        Off the CPU nothing is read: a network that takes a mask always gets it, another one sees PAD itself.
        """
        there, takes_mask = x_t != PAD, takes(model, "mask")
        if x_t.device.type != "cpu":
            return {"mask": there} if takes_mask else {}
        if there.all():
            return {}
        if not takes_mask:
            raise TypeError(
                "model must take mask= (B, L), True at tokens, since rows of the data end early"
            )
        return {"mask": there}

    def picks(self, model: Network, x: Tokens) -> bool:
        """Whether to work with the positions in question only. Finding them makes a GPU wait: it pays from MANY on."""
        return x.device.type == "cpu" or (self.noise.V >= MANY and takes_at(model))

    # Masks: the positions in question under absorbing noise

    def on_masks(
        self, model: Network, x0: Tokens, x_t: Tokens, t: Times, cost: Cost
    ) -> PerToken:
        """cost(f, x_0) of the network's numbers f at each mask of x_t, 0 elsewhere; nats, float64 from the cost on."""
        # SUBS, carry-over: positions that are no mask cost nothing.  (MDLM, section 3.2.3)
        masks = x_t == self.noise.mask
        if not self.picks(model, x_t):
            f = self.ask(model, x_t, t, padded=True)
            return torch.where(masks, widest(cost(f, x0.clamp(min=0))), 0)
        # Only masks cost something, so only they go through the last layer: the dearest
        # one where V is large.
        f = self.ask(model, x_t, t, masks, padded=True)
        nothing = widest(torch.zeros(x0.shape, device=x0.device))
        return nothing.masked_scatter(masks, widest(cost(f, x0[masks])))

    def unmask(self, model: Network, x: Tokens, t: Times, where: Mask) -> Tokens:
        """x with a token drawn from softmax(f) at each position `where`. Where there is none, nobody is asked."""
        # SUBS, carry-over: all other positions stay as they are.
        if not self.picks(model, x):
            return torch.where(where, draw(self.ask(model, x, t).softmax(-1), t), x)
        # Many small steps unmask nothing: such a step costs no call of the network.
        # (MDLM, section 4.1)
        if not where.any():
            return x
        return x.masked_scatter(where, draw(self.ask(model, x, t, where).softmax(-1)))

    def fill(self, model: Network, x: Tokens, t: Times, opens: Mask) -> Tokens:
        """Old name of `unmask`."""
        return self.unmask(model, x, t, opens)

    # Three ways to say what x_0 is

    def answer(self, loo: LogLaw, x_t: Tokens, t: Times) -> LogLaw:
        """What a network must say that knows loo = log p(x_0 at i | the other tokens of x_t)."""
        return loo

    def from_loo(
        self, loo: LogLaw, x_t: Tokens, t: Times, to: Prediction
    ) -> Float[Tensor, "B L _"]:
        """loo as a log law "loo" or "posterior" (B, L, V), or as the log "score" of all K states (B, L, K)."""
        check_choice("to", to, ("loo", "posterior", "score"))
        if to == "loo":
            return loo
        change = (
            self.noise.posterior_from_loo
            if to == "posterior"
            else self.noise.score_from_loo
        )
        return change(loo, x_t, t)

    # Prompts and gaps

    @property
    def clamps_exactly(self) -> bool:
        """True for absorbing noise, under which a token that is there is a token of the data."""
        return isinstance(self.noise, Absorbing)

    def given(
        self, pieces: dict[int, Int[Tensor, " _"]], n: int, approximate: bool = False
    ) -> Keep:
        """For `sample(..., clamp=...)`: n sequences, the tokens from each position on given. Prompts and gaps alike.

        Exact for absorbing noise; other noise refuses it unless approximate=True. Raises for pieces that do not fit,
        overlap or hold no tokens.
        """
        check_count("n", n)
        if not isinstance(pieces, dict):
            raise TypeError(
                f"pieces must be {{position: tokens}}, not {describe(pieces)}"
            )
        known = torch.zeros(self.length, dtype=torch.bool, device=self.device)
        context = torch.zeros(self.length, dtype=torch.long, device=self.device)
        for start, piece in pieces.items():
            check_count("the start of a piece", start, least=-self.length)
            if not isinstance(piece, Tensor) or piece.ndim != 1:
                raise TypeError(
                    f"a piece must be a tensor of tokens (n,), not {describe(piece)}"
                )
            here = slice(start, start + len(piece))
            if not 0 <= start < here.stop <= self.length:
                raise ValueError(
                    f"a piece must lie in 0..{self.length - 1}, but one of {len(piece)} tokens starts at {start}"
                )
            if known[here].any():
                twice = start + int(known[here].int().argmax())
                raise ValueError(
                    f"pieces must not overlap, but two hold position {twice}"
                )
            self.noise.check_tokens("a piece", piece[None], self.noise.V)
            known[here], context[here] = True, piece.to(context)
        kept = Keep(known.expand(n, -1), context.expand(n, -1), approximate=approximate)
        self.check_clamp(kept)
        return kept


def on_tokens(values: PerToken, x: Tokens) -> PerToken:
    """The values, but 0 at PAD."""
    return torch.where(x == PAD, 0, values)


def tokens_in(x: Tokens) -> Int[Tensor, " B"]:
    """How many tokens each row has."""
    return (x != PAD).sum(1)


def cross_entropy(
    f: Float[Tensor, "*n V"], x0: Int[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """-log softmax(f)[x_0], nats."""
    return F.cross_entropy(f.flatten(0, -2), x0.flatten(), reduction="none").reshape(
        x0.shape
    )


def inside(model: Network) -> Network:
    """The network that torch.compile, DataParallel and the like wrap: they pass on whatever they are called with."""
    while isinstance(model, nn.Module):
        within = getattr(model, "_orig_mod", None)
        if within is None and variadic(model):
            within = getattr(model, "module", None)
        if within is None:
            break
        model = within
    return model


def variadic(model: nn.Module) -> bool:
    """True if it is called as model(*anything, **anything)."""
    kinds = {p.kind for p in inspect.signature(model.forward).parameters.values()}
    return kinds == {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def takes_at(model: Network) -> bool:
    """Whether the network declares that it answers at given positions only."""
    return bool(getattr(inside(model), "takes_at", False))


def takes(model: Network, name: str) -> bool:
    """Whether the network can be called with an argument of this name."""
    model = inside(model)
    parameters = inspect.signature(
        model.forward if isinstance(model, nn.Module) else model
    ).parameters
    return name in parameters or any(
        p.kind is p.VAR_KEYWORD for p in parameters.values()
    )
