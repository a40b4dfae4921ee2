"""What a power of the clue does: sentences in the plane of quality and variety, control by strength, pairs.

The clue is what the other positions say of a word, g in log p(w | x_t) = g_w + log N(x_t; ...) + const. To a power
above 1 it is a lower temperature, in the right sampler and with the network as it is.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..diffusion_lm import DiffusionLM
from ..evaluate import estimate, ratio
from ..guidance import ClassifierFree, ClassifierGuided
from ..ngram import SentenceJudge
from ..process import Process
from ..sentences import Labelled, written
from ..shapes import Tokens, check_scalar
from ..text_metrics import distinct
from ..verses import GENRES
from ..word_nets import MixingNet
from .run import spaced
from .sentence_measures import (
    by_words,
    draw_sentences,
    lines,
    renoise,
    self_conditioned,
    spelt,
)

SIZES = (8, 20)  # words of the verses that give the lengths
SETS, IN_A_SET = 4, 60
STEPS = 50
POWERS = (0.85, 1.0, 1.15, 1.3, 1.6)
LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # t / T


@torch.no_grad()
def sharpened(model: MixingNet, power: float) -> MixingNet:
    """A copy whose clue is taken to a power: log p = power * g + log N(x_t; ...) + const.

    power > 1 sharpens what the other positions say; what x_t itself says is left as it is.
    """
    check_scalar("power", power)
    if not power > 0:
        raise ValueError(f"power must be positive, not {power}")
    if not isinstance(model, MixingNet):
        raise TypeError(
            f"model must be a MixingNet, whose clue stands apart, not a {type(model).__name__}"
        )
    sharper = copy.deepcopy(model)
    # g is linear in its last layer and its bias, so these alone take it to the power.
    for weights in (*sharper.leave.parameters(), sharper.bias):
        weights.mul_(power)
    return sharper


def of_some_words(test: Labelled, sets: int, n: int) -> list[Labelled]:
    """So many disjoint sets of n sentences of 8 to 20 words, each evenly over all of these, cut to 20 words."""
    least, most = SIZES
    size = written(test.tokens).sum(1)
    some = test[(size >= least) & (size <= most)]
    rows = spaced(len(some), sets * n)
    cut = Labelled(some.tokens[:, :most], some.labels)
    # Every sets-th one: each set is spread over all books.
    return [cut[rows[k::sets]] for k in range(sets)]


def placed(x: Tokens, judge: SentenceJudge) -> dict:
    """A set of sentences in the plane: how likely they are to a language model, and how varied."""
    return {"perplexity": judge.perplexity(x), "distinct2": distinct(spelt(x), 2)}


def together(points: Sequence[dict]) -> dict:
    """Mean and standard error over the sets of each measure."""
    table = {key: torch.tensor([p[key] for p in points]).double() for key in points[0]}
    return {
        key: {"mean": v.mean().item(), "se": (v.std() / len(v) ** 0.5).item()}
        for key, v in table.items()
    }


@torch.no_grad()
def measure_plane(
    process: DiffusionLM,
    model: MixingNet,
    judge: SentenceJudge,
    test: Labelled,
    sets: int = SETS,
    n: int = IN_A_SET,
    seed: int = 0,
) -> dict:
    """Perplexity and distinct-2 by sampler and power of the clue, the lengths being those of real verses.

    One seed for all samplers: their sentences differ by the sampler alone.
    """
    real = of_some_words(test, sets, n)
    # Rows as long as the longest verse of these: no work on padding.
    short = DiffusionLM(process.alpha_bar, SIZES[1], process.width).to(process.device)
    ways = {
        "ancestral": (short, POWERS),
        "mean re-noised": (renoise(process, SIZES[1]), POWERS[:3]),
    }
    of: dict = {"real verses": together([placed(x.tokens, judge) for x in real])}
    samples = {"real verses": lines(real[0].tokens)}
    for name, (way, powers) in ways.items():
        of[name], samples[name] = {}, {}
        for power in powers:
            torch.manual_seed(seed)
            sharper = sharpened(model, power)
            # The sets are drawn one after the other
            # from this seed, by each sampler alike.
            made = [by_length(process, way, sharper, x.tokens) for x in real]
            of[name][power] = together([placed(x, judge) for x in made])
            samples[name][power] = lines(made[0])
    return {
        "sets": sets,
        "sentences": n,
        "steps": STEPS,
        "words": SIZES,
        "of": of,
        "samples": samples,
    }


def by_length(
    process: DiffusionLM, way: Process, model: nn.Module, like: Tokens
) -> Tokens:
    """Sentences of the lengths of these, by one of the ways back."""
    mask = written(like).to(process.device)
    return draw_sentences(process, way, self_conditioned(model, mask), len(mask), STEPS)


@torch.no_grad()
def measure_strength(
    process: DiffusionLM,
    model: MixingNet,
    reader: nn.Module,
    judge: SentenceJudge,
    seen: Labelled,
    test: Labelled,
    power: float,
    weights: Sequence[float] = (0.0, 1.0, 3.0),
    rates: Sequence[float] = (0.02, 0.05, 0.1, 0.3),
    n: int = 192,
    seed: int = 0,
) -> dict:
    """Success, by a judge that counts words, fluency and variety of asking for a genre at each strength.

    reader   a classifier of x_t
    weights  of guidance without a classifier: gamma, 0 is the told network
    rates    learning rates of three steps of Adagrad up the classifier
    """
    (real,) = of_some_words(test, 1, n)
    mask = written(real.tokens).to(process.device)
    # In turn, so that a genre does not go with a length.
    label = torch.arange(n, device=mask.device) % len(GENRES)
    short = DiffusionLM(process.alpha_bar, SIZES[1], process.width).to(process.device)
    sharper, nearer = sharpened(model, power), by_words(seen)
    network = self_conditioned(sharper, mask)

    def likes(x: Tensor, u: Tensor) -> Tensor:
        return reader(x, u, mask).log_softmax(1)[torch.arange(n), label]

    asked: dict = {"not asked": {0.0: (short, network)}}
    asked["classifier-free"] = {
        # A network of its own for each: self-conditioning remembers the last estimate.
        w: (short, ClassifierFree(self_conditioned(sharper, mask), label, w))
        for w in weights
    }
    asked["classifier"] = {
        lr: (ClassifierGuided(short, likes, lr=lr), self_conditioned(sharper, mask))
        for lr in rates
    }
    of: dict = {}
    for name, strengths in asked.items():
        of[name] = {}
        for strength, (way, net) in strengths.items():
            torch.manual_seed(seed)
            x = draw_sentences(process, way, net, n, STEPS)
            said = {"samples": lines(x, len(GENRES))}
            of[name][strength] = controlled(x, label.cpu(), judge, nearer) | said
    return {"sentences": n, "steps": STEPS, "power": power, "of": of} | {
        "real": controlled(real.tokens, real.labels, judge, nearer)
    }


def controlled(
    x: Tokens,
    label: Tensor,
    judge: SentenceJudge,
    nearer: Callable[[Tokens], Tensor],
) -> dict:
    """Sentences in the plane, nats per word with their error, and how many have the label."""
    words = written(x).sum(1).double() + 1  # each end counts as a word
    nats = ratio(judge.nats(x), words)
    right = estimate((nearer(x) == label).double())
    return placed(x, judge) | {
        "nats": nats._asdict(),
        "success": right.mean,
        "success_se": right.se,
    }


def of_each_genre(data: Labelled, n: int) -> Labelled:
    """n sentences, evenly over all of them, of each genre that has so many."""
    where = [(data.labels == k).nonzero()[:, 0] for k in data.labels.unique()]
    return data[torch.cat([at[spaced(len(at), n)] for at in where if len(at) >= n])]


def reading_noise(
    process: DiffusionLM, model: nn.Module, reader: nn.Module, test: Labelled
) -> dict:
    """Share of the sentences whose genre the classifier reads from x_t, by t / T."""
    shares = {}
    for u in LEVELS:
        # 1 is the least time that has noise.
        t = torch.full((len(test),), max(1, round(u * process.T)))
        with torch.no_grad():
            mask, _, _, x_t = process.diffuse(model, test.tokens, t)
            said = reader(x_t, process.u(t), mask).argmax(1)
        shares[u] = (said == test.labels).double().mean().item()
    return shares
