"""What is done to finished sentences: the likeliest of several draws, and words that the others contradict replaced.

A sentence is proofread by the network that wrote it: less what x_t says of itself, a `MixingNet`'s law at a finished
sentence is that of each word given all others, though nobody trained it as a masked language model. Samplers never
ask for it: at low noise x_t outvotes it, at high noise the others are not there yet.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .diffusion_lm import DiffusionLM
from .embeddings import check_word_network, embed, nearness
from .nets import Wrapped
from .process import evaluating
from .sentences import check_tokens, written
from .shapes import Mask, Network, Tokens, check_count, check_scalar, describe
from .word_nets import EmbeddingNet, MixingNet


@torch.no_grad()
def rerank(
    process: DiffusionLM, model: Network, draws: Int[Tensor, "k B L"], levels: int = 20
) -> tuple[Tokens, Float[Tensor, "k B"]]:
    """Of the k draws of each sentence the one of least bound, and all bounds in nats per sentence; float64.

    Each bound is a mean over `levels` noise levels, the middles of equal parts of (0, T]. It knows no more than the
    network: draws are told apart by what it holds likely, and the chosen vary less than the draws do. ValueError for
    no draw, no sentence, or levels < 1.
    """
    check_count("levels", levels)
    if not isinstance(draws, Tensor) or draws.ndim != 3 or not draws.numel():
        came = tuple(draws.shape) if isinstance(draws, Tensor) else describe(draws)
        raise ValueError(f"draws must have shape (k >= 1, B >= 1, L), not {came}")
    # Each level counts once, however often a wrapper would draw it in training.
    process, n = process.evenly(), draws.shape[1]
    middles = [max(1, round((j + 0.5) / levels * process.T)) for j in range(levels)]
    bound = 0.0
    with evaluating(model):
        for t in middles:
            times = torch.full((n,), t, device=draws.device)
            bound = (
                bound
                + torch.stack([process.bound(model, x, times) for x in draws]) / levels
            )
    best = bound.argmin(0)
    return draws[best, torch.arange(n, device=best.device)], bound


@torch.no_grad()
def pseudo_log_likelihood(
    process: DiffusionLM, model: Network, tokens: Tokens, u: float = 0.2
) -> tuple[Mask, Float[Tensor, "words K_out"]]:
    """Where there are words, and ln p(w_i | all other words) of each, as a network that mixes words has it; nats.

    It puts p(w | x_t) together from what the others say and what x_t^i says of itself; the latter is taken off again,
    at x_t without its noise. A perfect network is exact as u -> 0; of a trained one nothing was asked there, and it
    knows most at a middling u. ValueError unless 0 < u <= 1 and the tokens have at most `process.length` places;
    TypeError for an EmbeddingNet, whose law of words has no part that x_t says of itself.
    """
    check_scalar("u", u)
    if not 0 < u <= 1:
        raise ValueError(f"u must lie in (0, 1], not {u}")
    tokens = check_tokens(tokens)
    if tokens.shape[1] > process.length:
        raise ValueError(
            f"tokens must have at most {process.length} places, not {tokens.shape[1]}"
        )
    check_word_network(model, "embed", "explain", "table")
    check_mixes(model)
    mask, t = written(tokens), max(1, round(u * process.T))
    alpha_bar = process.alpha_bar[t].item()
    r, noise = math.sqrt(alpha_bar), 1 - alpha_bar + alpha_bar * process.sigma_0_squared
    with evaluating(model):
        # The mean of x_t, without noise: what is
        # asked is what the words say, not a draw.
        x_t = r * embed(model, tokens)
        times = torch.full((len(x_t),), t, device=x_t.device)
        _, log_p = process.explain(model, x_t, times, mask, mask=mask)
        # ln N(x_t; r e_w, noise) + const.
        itself = nearness(x_t[mask], r * model.table) / noise
    return mask, (log_p - itself).log_softmax(-1)


def check_mixes(model: Network) -> None:
    """Raise TypeError for a network that rounds, whatever is around it: see `pseudo_log_likelihood`."""
    while isinstance(model, Wrapped):
        model = model.inner
    if isinstance(model, EmbeddingNet) and not isinstance(model, MixingNet):
        raise TypeError(
            "model must mix words, as MixingNet does, not be an EmbeddingNet"
        )


@torch.no_grad()
def proofread(
    process: DiffusionLM,
    model: Network,
    tokens: Tokens,
    gain: float = 3.0,
    rounds: int = 32,
    u: float = 0.2,
) -> Tokens:
    """Replace words that the others contradict: in each round the one of each sentence that gains most, if > gain nats.

    The gain is ln p(new | others) - ln p(old | others): what ln p of the sentence gains, if the network is perfect. A
    word is decided at high noise, from little; here it is decided again, with all others known. Sentences get likelier,
    and more alike. ValueError unless gain >= 0.  (iterated conditional modes, Besag 1986)
    """
    check_count("rounds", rounds)
    check_scalar("gain", gain)
    if not gain >= 0:
        raise ValueError(f"gain must not be negative, but is {gain}")
    for _ in range(rounds):
        mask, log_p = pseudo_log_likelihood(process, model, tokens, u)
        # One word a sentence at a time: two that contradict
        # each other would otherwise both change.
        best, word = log_p.max(-1)
        old = log_p.gather(1, tokens[mask][:, None].long())[:, 0]
        gains = torch.zeros(mask.shape, dtype=best.dtype, device=best.device)
        most, place = gains.masked_scatter(mask, best - old).max(1, keepdim=True)
        new = tokens.masked_scatter(mask, word.to(tokens.dtype)).gather(1, place)
        kept = tokens.gather(1, place)
        tokens = tokens.scatter(1, place, torch.where(most > gain, new, kept))
    return tokens
