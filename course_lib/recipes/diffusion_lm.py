"""Diffusion-LM on verses of the Bible in Basic English: words as unit vectors times sqrt(D), labels for the genre.

`full` takes about 13 hours on one CPU core, `minute` a minute; `chosen`, `plane`, `strength` and `reading` measure the
shipped weights of `full`. These were made in four sittings, which their log lists, each from the averaged weights of
the one before in float16 and with a fresh optimiser: 7,500 and 8,000 steps of four blocks at 3e-3; with four more
blocks, whose gates start at 0, 12,000 at 2e-3; with the guess, whose weights start at 0, 6,000 at 2e-3. The last had
batches of 64 (two processes, half each), the others of 32.
"""

import torch
from torch import nn

from .. import schedules
from ..diffusion_lm import DiffusionLM
from ..ngram import SentenceJudge
from ..proofread import proofread, rerank
from ..sentences import (
    PAD,
    Labelled,
    bucketed,
    written,
)
from ..shapes import Mask, Tokens
from ..text_metrics import copied
from ..verses import GENRES
from ..word_nets import MixingNet
from ..word_vectors import ppmi_vectors
from .power_measures import (
    measure_plane,
    measure_strength,
    of_each_genre,
    reading_noise,
)
from .run import Measurement, Recipe, shipped, spaced
from .sentence_measures import (
    STEPS,
    WIDTH,
    by_words,
    draw_sentences,
    lines,
    measure,
    quality,
    read,
    renoise,
    self_conditioned,
    spelt,
)
from .verse_sets import LENGTH, SHORT, common, common_words, sentences, vocabulary

T = 2000
AMONG = (1, 4, 8)  # proofread draws that one is chosen of
POWER = 1.15  # of the clue: what `plane` finds nearest to real verses
PER_GENRE = 50  # held-out verses that the classifier of x_t reads
NARROW = 16  # `minute`: numbers in a word


def table() -> torch.Tensor:
    """The paper's schedule."""
    return schedules.table(schedules.sqrt(), T)


def process(**options) -> DiffusionLM:
    """Trained on the cross-entropy of its prediction beside the squared error; lengths as in the training verses."""
    lengths = written(sentences()[0].tokens).sum(1).bincount(minlength=LENGTH + 1)
    return DiffusionLM(
        table(),
        LENGTH,
        WIDTH,
        **{"rounding": "prediction", "lengths": lengths} | options,
    )


def network(width: int = 128, depth: int = 8, **options) -> MixingNet:
    """Normalised embeddings, self-conditioning, a label; it starts from the company and the frequencies of the words.

    From random embeddings and without the convolution 6,000 steps taught it nothing of the context. Rare words may
    have kept the same company: a little noise sets them apart.
    """
    settings = {
        "normalised": True,
        "recall": True,
        "classes": len(GENRES),
        "radius": 4,
        "tied": False,
        "guess": True,
    } | options
    model = MixingNet(len(vocabulary()), WIDTH, table(), width, 4, depth, **settings)
    tokens = sentences()[0].tokens
    from_ppmi(model, tokens, 3)
    from_frequencies(model, tokens[tokens != PAD])
    return model


@torch.no_grad()
def from_ppmi(model: MixingNet, tokens: Tokens, window: int) -> None:
    """Start the embeddings from the company that words keep in these rows, and a little noise."""
    start = ppmi_vectors(tokens, *model.embedding.weight.shape, window)
    model.embedding.weight.copy_(start + torch.randn_like(start) / 4)


@torch.no_grad()
def from_frequencies(model: MixingNet, said: torch.Tensor) -> None:
    """Start the bias from how often each word is said; a network that guesses takes it for its prior, too."""
    # + 0.1: what is never said (UNK in training) keeps a finite logarithm.
    model.bias.copy_((said.bincount(minlength=model.K_out) + 0.1).log())
    # Normalised: as a prior it is read as log p(w).
    model.bias -= model.bias.logsumexp(0)
    if model.guess is not None:
        model.prior.copy_(model.bias)


@torch.no_grad()
def by_choice(device: str = "cpu", n: int = 64) -> dict:
    """Re-noised sentences of the shipped network, proofread; of so many draws of each the likeliest by its bound."""
    process, model = full.process().to(device), shipped(full, device)
    judge, steps = SentenceJudge(sentences()[0].tokens, len(vocabulary())), STEPS[3]
    torch.manual_seed(full.seed)
    mask = process.draw_lengths(n)
    # Like lengths together. Shown in random order,
    # else the samples would grow from short to long.
    mask, order = mask[mask.sum(1).argsort(stable=True)], torch.randperm(n)
    draws = torch.full((max(AMONG), n, LENGTH), PAD)
    read, bound = draws.clone(), torch.empty(max(AMONG), n, dtype=torch.float64)
    for rows in torch.arange(n).split(16):  # of like length, cut to the longest
        L = int(mask[rows].sum(1).max())
        made = proofread_draws(process, model, mask[rows, :L], steps)
        draws[:, rows, :L], read[:, rows, :L], bound[:, rows] = made
    test, seen = sentences("test")[0].tokens, spelt(sentences()[0].tokens)
    real = test[spaced(len(test), n)]
    ways = {"as drawn": draws[0]} | {
        # The first k draws of each: a larger k only adds candidates to the same ones.
        k: read[bound[:k].argmin(0), torch.arange(n)]
        for k in AMONG
    }
    return {
        "steps": steps,
        "sentences": n,
        "changed": ((draws != read).sum() / (draws != PAD).sum()).item(),
        "of": {k: quality(x, judge) for k, x in ways.items()},
        "copied": {
            k: copied(spelt(x), seen) for k, x in (ways | {"real": real}).items()
        },
        "samples": {k: lines(x[order], 16) for k, x in ways.items()},
    }


def proofread_draws(
    process: DiffusionLM, model: nn.Module, mask: Mask, steps: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """max(AMONG) re-noised draws of a sentence for each row of the mask, the same proofread, and their bounds."""
    way = renoise(process, mask.shape[1])
    draws = [
        draw_sentences(process, way, self_conditioned(model, mask), len(mask), steps)
        for _ in range(max(AMONG))
    ]
    read = [proofread(process, model, x.to(mask.device)) for x in draws]
    bound = rerank(process, model, torch.stack(read))[1]
    return torch.stack(draws), torch.stack(read).cpu(), bound.cpu()


full = Recipe(
    chapter="04_diffusion_lm",
    name="full",
    data=sentences,
    process=process,
    model=network,
    measure=measure,
    steps=33500,
    # Where the last of the four sittings begins.
    restart=27500,
    batch=64,
    lr=2e-3,
    ema=0.998,
    stream=bucketed,
)

chosen = Measurement("04_diffusion_lm", "chosen", by_choice)


def by_power(device: str = "cpu", **sizes) -> dict:
    """Sentences of the shipped network in the plane of quality and variety, by sampler and power of its clue."""
    judge = SentenceJudge(sentences()[0].tokens, len(vocabulary()))
    process, model = full.process().to(device), shipped(full, device)
    return measure_plane(process, model, judge, sentences("test")[0], **sizes)


def by_strength(device: str = "cpu", steps: int = 400, **sizes) -> dict:
    """Asking the shipped network for a genre, by strength, with the sampler whose perplexity is that of real verses."""
    seen, test = sentences()[0], sentences("test")[0]
    process, model = full.process().to(device), shipped(full, device)
    torch.manual_seed(full.seed)
    reader = read(process, model, steps)
    judge = SentenceJudge(seen.tokens, len(vocabulary()))
    at = measure_strength(process, model, reader, judge, seen, test, POWER, **sizes)
    return at | {"reader_steps": steps}


def by_noise(device: str = "cpu", steps: int = 400) -> dict:
    """What the classifier of x_t reads, by t / T, on verses of both held-out splits, as many of each genre."""
    process, model = full.process().to(device), shipped(full, device)
    torch.manual_seed(full.seed)
    reader = read(process, model, steps)
    held = both(sentences("dev")[0], sentences("test")[0])
    # Equally many of each genre: who guesses is right equally often for all.
    held = of_each_genre(held, PER_GENRE)
    # Anew: the noise that is read must not depend on how long the reader trained.
    torch.manual_seed(full.seed)
    # The judge that reads x_0 itself, beside the reader of x_t.
    right = by_words(sentences()[0])(held.tokens) == held.labels
    return {
        "shares": reading_noise(process, model, reader, held),
        "sentences": len(held),
        "genres": held.labels.unique().tolist(),
        "by_words": right.double().mean().item(),
        "reader_steps": steps,
    }


def both(one: Labelled, other: Labelled) -> Labelled:
    """Two sets of labelled sentences as one."""
    tokens = torch.cat([one.tokens, other.tokens])
    return Labelled(tokens, torch.cat([one.labels, other.labels]))


plane = Measurement("04_diffusion_lm", "plane", by_power)
strength = Measurement("04_diffusion_lm", "strength", by_strength)
reading = Measurement("04_diffusion_lm", "reading", by_noise)


def short_process(**options) -> DiffusionLM:
    """Like `process`, for phrases."""
    lengths = written(common()[0]).sum(1).bincount(minlength=SHORT + 1)
    return DiffusionLM(
        table(),
        SHORT,
        NARROW,
        **{"rounding": "prediction", "lengths": lengths} | options,
    )


minute = Recipe(
    chapter="04_diffusion_lm",
    name="minute",
    data=common,
    process=short_process,
    model=lambda: MixingNet(
        len(common_words()), NARROW, table(), 96, 4, 2, normalised=True
    ),
    measure=measure,
    steps=700,
    batch=32,
    lr=3e-3,
    ema=0.99,
    stream=bucketed,
)
