"""What is measured of D3PM, MDLM, SEDD and autoregression on words: bounds per word by system, and what they write.

All beside the judge's own, Kneser-Ney models of whole verses; a verse's end counts as a word everywhere.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from .. import schedules
from ..absorbing import Absorbing
from ..autoregressive import Autoregressive
from ..categorical import LogLaw
from ..d3pm import D3PM
from ..evaluate import bound, ratio
from ..infilling import keep
from ..mdlm import MDLM
from ..nets import Given, Wrapped
from ..ngram import SentenceJudge
from ..process import Process, last, sample
from ..sedd import SEDD
from ..sentences import PAD, line, up_to, written
from ..shapes import Mask, Network, PerExample, Tokens
from ..stationary import Uniform
from ..text_metrics import copied
from .run import Recipe, spaced
from .sentence_measures import lines, middle, quality, spelt
from .verse_rows import AnyOrder, Verses, ended, lengths, rows, size, unended
from .verse_rows import words_and_ends as ends
from .verse_sets import LENGTH, vocabulary

STEPS = (8, 32, 128)
COLD = 0.75  # its texts vary about as much as the verses that chapter 4 shows
ORDERS = (2, 3, 4)


# Bounds


def per_word(
    process: Process, model: Network, x: Tokens, repeats: int, seed: int
) -> dict:
    """Nats per word, ends counted, and the standard error over verses."""
    x = x[ends(x).argsort(stable=True)]  # like lengths together
    mean, se = bound(process, model, x, repeats, 100, per=ends(x), seed=seed)
    return {"mean": mean, "se": se}


def kneser_ney(x: Tokens) -> dict:
    """Nats per word of the same verses by Kneser-Ney models of several orders."""
    values = {}
    for order in ORDERS:
        judge = SentenceJudge(rows(), size(), order)
        mean, se = ratio(judge.nats(x), ends(x))
        values[order] = {"mean": mean, "se": se}
    return values


def as_scores(process: SEDD, model: Network) -> Network:
    """A network of leave-one-out logits, said as SEDD wants it: exact, position by position."""

    def scores(x: Tokens, u: PerExample, mask: Mask | None = None) -> LogLaw:
        """log s, from log p(x_0 | the other tokens)."""
        # Without padding a network may be one that takes no mask.
        given = {} if mask is None else {"mask": mask}
        return process.answer(model(x, u, **given).log_softmax(-1), x, u)

    return scores


# What they write


class Colder(Wrapped):
    """A network whose logits are divided by a temperature."""

    def __init__(self, inner: Network, temperature: float):
        super().__init__(inner)
        self.temperature = temperature

    def forward(self, x: Tensor, u: PerExample, **given) -> Tensor:
        """logits / temperature."""
        return self.inner(x, u, **given) / self.temperature


@torch.no_grad()
def written_by(
    process: Process, model: nn.Module, n: int, steps: int, seed: int
) -> Tokens:
    """n verses of lengths drawn from those of the training verses: the network sees only the places that they have."""
    torch.manual_seed(seed)
    length = torch.multinomial(lengths().double(), n, replacement=True)
    mask = up_to(length, int(length.max())).to(process.device)
    # Rows no longer than the longest of these.
    process.length = mask.shape[1]
    x = last(sample(process, Given(model, mask=mask), n, steps))[1]
    return filled(torch.where(mask, x, PAD).cpu())


@torch.no_grad()
def written_by_writer(
    process: Autoregressive, model: nn.Module, n: int, seed: int
) -> Tokens:
    """n verses by autoregression, which ends them itself."""
    torch.manual_seed(seed)
    x = last(sample(process, model, n, process.length))[1].cpu()
    return unended(x)[:, :LENGTH]


def filled(x: Tokens) -> Int[Tensor, "B length"]:
    """(n, LENGTH), PAD at the ends."""
    return F.pad(x, (0, LENGTH - x.shape[1]), value=PAD)


def texts(made: dict[int, Tokens] | dict[float, Tokens], n: int) -> dict:
    """Quality, its error, share copied and the first five, by steps or temperature; and the same of real verses."""
    # The judge has read what the networks read, so it likes what they copy: `copied`
    # stands beside it.
    judge, seen = SentenceJudge(rows(), size()), spelt(rows())
    real = rows("test")[spaced(len(rows("test")), n)]

    def said(x: Tokens) -> dict:
        mean, se = ratio(judge.nats(x), ends(x))  # perplexity is exp(mean)
        said = quality(x, judge) | {"copied": copied(spelt(x), seen)}
        return said | {"judged_nats": {"mean": mean, "se": se}}

    return {
        "samplers": {"own": {steps: said(x) for steps, x in made.items()}},
        "sampler": "own",
        "real": said(real),
        "samples": {steps: lines(x) for steps, x in made.items()},
    }


@torch.no_grad()
def infilling(process: MDLM, model: nn.Module, n: int, steps: int, seed: int) -> dict:
    """The middle third of n test verses filled in, given the rest: share of words right, and the first five."""
    torch.manual_seed(seed)
    truth = rows("test")[spaced(len(rows("test")), n)]
    mask = written(truth)
    # PAD is -1, no token; the network does not see those places.
    hole, context = middle(mask), truth.clamp(min=0)
    clamp = keep(~hole.to(process.device), context.to(process.device))
    told = Given(model, mask=mask.to(process.device))
    x = last(sample(process, told, n, steps, clamp))[1].cpu()
    right = (x == truth)[hole].double()
    return {
        "words": int(hole.sum()),
        "right": right.mean().item(),
        "right_se": (right.std() / len(right) ** 0.5).item(),
        "asked": with_gaps(truth[:5], hole),
        "truth": lines(truth),
        "filled": lines(torch.where(mask, x, PAD)),
    }


def with_gaps(x: Tokens, hole: Mask) -> list[str]:
    """Verses as text, with _ in place of the words in the hole."""
    texts = []
    for row, gaps in zip(x, hole.tolist(), strict=False):
        words = vocabulary().decode(row)
        texts.append(
            line("_" if gap else w for w, gap in zip(words, gaps, strict=False))
        )
    return texts


# The recipes' measures


def common(test: Tokens, main: dict, repeats: int) -> dict:
    """What all results say."""
    return {
        "bound_per_word": main["mean"],
        "bound_per_word_se": main["se"],
        "repeats": repeats,
        "sentences": len(test),
        "words": int((test != PAD).sum()),
        "unknown_words": int((test == 0).sum()),
        "kneser_ney": kneser_ney(test),
    }


def measure_masked(
    recipe: Recipe, model: nn.Module, repeats: int = 2, n: int = 64
) -> dict:
    """One network, four readings of it, each with its own bound; texts by number of steps and colder; infilling."""
    device = next(model.parameters()).device
    test, dev, seed = rows("test").to(device), rows("dev").to(device), recipe.seed
    mdlm = recipe.process().to(device)
    noise = mdlm.noise
    # D3PM's clock in T steps: at t / T it has as many masks as the log-linear clock of
    # the training, so the same weights serve it.
    clock = schedules.table(schedules.log_linear(0.0), 1000, max_beta=1.0)
    readings = {
        "any order": AnyOrder(mdlm),
        "MDLM": Verses(mdlm),
        "SEDD, mass known": Verses(SEDD(noise, LENGTH, mass="known")),
        "D3PM, T = 1000": Verses(D3PM(Absorbing(size(), clock), LENGTH)),
    }
    bounds = {
        name: per_word(process.to(device), model, test, repeats, seed)
        for name, process in readings.items()
    }
    made, colder = (
        {k: written_by(recipe.process(), net, n, k, seed) for k in STEPS}
        for net in (model, Colder(model, COLD))
    )
    return {
        **common(rows("test"), bounds["any order"], repeats),
        "bounds": bounds,
        # The books that chose when to stop: better than the test by what that is worth.
        "dev": per_word(AnyOrder(mdlm), model, dev, repeats, seed),
        **texts(made, n),
        "colder": {"temperature": COLD, **texts(colder, n)},
        "infilling": infilling(recipe.process(), model, n, STEPS[-1], seed),
    }


def measure_uniform(
    recipe: Recipe, model: nn.Module, repeats: int = 2, n: int = 64
) -> dict:
    """D3PM's bound, SEDD's by the exact conversion of the same weights; texts by number of steps."""
    device = next(model.parameters()).device
    test, dev, seed = rows("test").to(device), rows("dev").to(device), recipe.seed
    d3pm = recipe.process().to(device)
    sedd = SEDD(Uniform(size(), schedules.log_linear()), LENGTH).to(device)
    bounds = {
        "D3PM, T = 1000": per_word(Verses(d3pm), model, test, repeats, seed),
        "SEDD": per_word(Verses(sedd), as_scores(sedd, model), test, repeats, seed),
    }
    made = {k: written_by(recipe.process(), model, n, k, seed) for k in STEPS}
    return {
        **common(rows("test"), bounds["D3PM, T = 1000"], repeats),
        "bounds": bounds,
        "dev": per_word(Verses(d3pm), model, dev, repeats, seed),
        **texts(made, n),
    }


def measure_writer(recipe: Recipe, model: nn.Module, n: int = 64) -> dict:
    """-log p itself, ends included, and n verses written word by word."""
    device = next(model.parameters()).device
    process: Autoregressive = recipe.process().to(device)
    exact = {
        split: per_word(process, model, ended(split).to(device), 1, recipe.seed)
        for split in ("test", "dev")
    }
    x = written_by_writer(process, model, n, recipe.seed)
    return {
        **common(rows("test"), exact["test"], 1),
        "bounds": {"autoregression, exact": exact["test"]},
        "dev": exact["dev"],
        **texts({process.length: x}, n),
    }
