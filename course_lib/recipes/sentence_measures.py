"""What is measured of sentences: the bound per word, how they read by sampler, and how well they are controlled."""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from .. import schedules
from ..clamping import ClampingTrick
from ..ddim import DDIM, Renoise
from ..diffusion_lm import DiffusionLM, anchor
from ..dpm_solver import DPMSolver
from ..embeddings import nearest
from ..evaluate import Estimate
from ..guidance import ClassifierFree, ClassifierGuided, NoisyClassifierTraining
from ..learning_rate import warmup_cosine
from ..nets import Given
from ..ngram import SentenceJudge
from ..process import Process, last, sample
from ..sde import VP
from ..self_conditioning import SelfConditioned
from ..sentences import (
    PAD,
    Labelled,
    bucketed,
    up_to,
    written,
)
from ..shapes import Mask, Tokens
from ..text_metrics import distinct, self_bleu
from ..train import train
from ..verses import GENRES
from ..word_nets import SentenceClassifier
from .run import Recipe, spaced
from .verse_sets import LENGTH, sentences, vocabulary

WIDTH = 32


STEPS = (10, 20, 50, 200)


BEST = "mean re-noised"  # the sampler whose sentences read best, though it is not the one of the bound


LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # t / T


@torch.no_grad()
def measure(
    recipe: Recipe,
    model: nn.Module,
    n: int = 64,
    repeats: int = 2,
    reading_steps: int = 400,
) -> dict:
    """The bound on the test verses in nats per word, and sentences by sampler, number of steps and control."""
    device = next(model.parameters()).device
    process, test = recipe.process().to(device), sentences("test")[0].to(device)
    judge = SentenceJudge(sentences()[0].tokens, len(vocabulary()))
    # The order of what follows is the order of random draws: new measures go last, or
    # the numbers in assets/ cannot be made again.
    torch.manual_seed(recipe.seed)
    mean, se = per_word(process, model, test.tokens, repeats)
    real = test.tokens[spaced(len(test), n)].cpu()
    made, seconds = by_sampler(process, model, n)
    return {
        "bound_per_word": mean,
        "bound_per_word_se": se,
        "repeats": repeats,
        "sentences": len(test),
        "words": int((test.tokens != PAD).sum()),
        "unknown_words": int((test.tokens == 0).sum()),
        "rounding_accuracy": {
            "ancestral": certainty(process, model, process, n),
            BEST: certainty(process, model, renoise(process), n),
        },
        "recovered": {
            u: recovered(process, model, test.tokens[:200], u) for u in LEVELS
        },
        "sampler": BEST,
        "samplers": {
            k: {s: quality(x, judge) for s, x in v.items()} for k, v in made.items()
        },
        "real": quality(real, judge),
        "salad": quality(salad(real), judge),
        "control": control(process, model, judge, test, n, reading_steps),
        "samples": {k: {s: lines(x) for s, x in v.items()} for k, v in made.items()},
        "seconds_per_sentence": seconds,
    }


def per_word(
    process: DiffusionLM, model: nn.Module, tokens: Tokens, repeats: int
) -> Estimate:
    """The bound in nats per word, its end counted as a word as the judge does; the error is over sentences."""
    words = (tokens != PAD).sum(1).double() + 1
    total = torch.zeros_like(words)
    for _ in range(repeats):
        parts = [
            process.bound(model, x, process.sample_t(len(x))) for x in tokens.split(100)
        ]
        total += torch.cat(parts) / repeats
    mean = total.sum() / words.sum()
    return Estimate(
        mean.item(),
        # Of a ratio of sums: what each sentence has beyond its words' share.
        ((total - mean * words).std() / words.mean() / len(words) ** 0.5).item(),
    )


def recovered(
    process: DiffusionLM, model: nn.Module, tokens: Tokens, u: float
) -> float:
    """Share of the words that one look at x_t brings back, t = u T."""
    t = torch.full((len(tokens),), round(u * process.T), device=tokens.device)
    mask, _, _, x_t = process.diffuse(model, tokens, t)
    return (
        (nearest(model(x_t, process.u(t), mask), model.table) == tokens)[mask]
        .double()
        .mean()
        .item()
    )


def certainty(process: DiffusionLM, model: nn.Module, way: Process, n: int) -> float:
    """The largest p(w | x_0) of a word at the end of sampling: how surely it is rounded; mean over words."""
    mask = process.draw_lengths(n)
    # The vectors before they are rounded.
    x0 = last(sample(way, self_conditioned(model, mask), n, STEPS[2]))[1]
    p = (model.logits(x0) / process.temperature).softmax(-1)
    return p.amax(-1)[mask].double().mean().item()


def by_sampler(process: DiffusionLM, model: nn.Module, n: int) -> tuple[dict, dict]:
    """Sentences by name and number of steps, and seconds per sentence of the first sampler."""
    A, shape = process.alpha_bar, (LENGTH, WIDTH)
    ways = {
        "ancestral": (process, lambda m: m),
        "DDIM": (
            DDIM(A, shape, eta=0.0, predicts="x0").to(process.device),
            lambda m: m,
        ),
        "DPM-Solver++": (
            DPMSolver(VP(schedules.sqrt(), shape, predicts="x0")).to(process.device),
            lambda m: m,
        ),
        "rounded": (process, ClampingTrick),
        "rounded late": (process, lambda m: ClampingTrick(m, start=0.5)),
        BEST: (renoise(process), lambda m: m),
    }
    made, seconds = {name: {} for name in ways}, {}
    grids = {
        "ancestral": STEPS,
        BEST: STEPS,
        "DDIM": STEPS[:3],
        "DPM-Solver++": STEPS[:3],
    }
    for name, (way, change) in ways.items():
        # Each mask is drawn anew: the lengths are part of what is drawn.
        for steps in grids.get(name, STEPS[2:3]):
            mask, start = process.draw_lengths(n), time.perf_counter()
            made[name][steps] = draw_sentences(
                process, way, change(self_conditioned(model, mask)), n, steps
            )
            # The others cost the same: a call of the network for each step.
            if name == "ancestral":
                seconds[steps] = (time.perf_counter() - start) / n
    mask = process.draw_lengths(n)
    # Self-conditioning off, though trained with it.
    made["not recalling"] = {
        STEPS[2]: draw_sentences(process, process, Given(model, mask=mask), n, STEPS[2])
    }
    return made, seconds


def self_conditioned(
    model: nn.Module, mask: Mask, at: Mask | None = None
) -> SelfConditioned:
    """The network conditioned on itself, told where there are words; asked there or at `at` only, if it takes that."""
    places = (
        # Networks that pick rows work where there
        # are words only; others answer everywhere.
        {"at": mask if at is None else at} if getattr(model, "takes_at", False) else {}
    )
    return SelfConditioned(Given(model, mask=mask, **places))


def renoise(process: DiffusionLM, length: int | None = None) -> Renoise:
    """The sampler that keeps nothing of x_t but the estimate, for a process of words."""
    shape = (length or process.length, process.width)
    return Renoise(process.alpha_bar, shape, predicts="x0").to(process.device)


def draw_sentences(
    process: DiffusionLM, way: Process, model, n: int, steps: int, clamp=None
) -> Tokens:
    """n sentences by one of the ways back."""
    return process.decode(model, last(sample(way, model, n, steps, clamp))[1]).cpu()


def control(
    process: DiffusionLM,
    model: nn.Module,
    judge: SentenceJudge,
    test: Labelled,
    n: int,
    steps: int,
) -> dict:
    """Success and perplexity of each control, in the order of the paper's table; all by one sampler."""
    best = renoise(process)
    some = test[spaced(len(test), n)]
    mask = written(some.tokens)
    # In turn, so that a genre does not go with a length.
    label = torch.arange(n, device=some.tokens.device) % len(GENRES)
    nearer = by_words(sentences()[0])
    reader = read(process, model, steps)

    def likes(x, u):
        return reader(x, u, mask).log_softmax(1)[torch.arange(n), label]

    def guided(weight: float) -> ClassifierFree:
        return ClassifierFree(self_conditioned(model, mask), label, weight)

    start, hole = up_to(torch.full((n,), 3), LENGTH).to(mask), middle(mask)
    # By one sampler, so that rows differ by what is asked.
    asked = {
        "genre, not asked": (best, self_conditioned(model, mask), None),
        "genre, classifier-free 1": (best, guided(1.0), None),
        "genre, classifier-free 3": (best, guided(3.0), None),
        "genre, classifier": (
            ClassifierGuided(best, likes, lr=0.1),
            self_conditioned(model, mask),
            None,
        ),
        "length": (best, self_conditioned(model, mask), None),
        "start": (
            best,
            self_conditioned(model, mask),
            # Under Gaussian noise a clamp is not exact, which has to be said.
            anchor(model, some.tokens, start, approximate=True),
        ),
        "infilling": (
            best,
            self_conditioned(model, mask),
            anchor(model, some.tokens, mask & ~hole, True),
        ),
    }
    table = {}
    for name, (way, network, clamp) in asked.items():
        x = draw_sentences(process, way, network, n, STEPS[2], clamp)
        right = {
            "genre": (nearer(x) == label.cpu()).double(),
            "length": ((x != PAD).sum(1) == mask.sum(1).cpu()).double(),
            "start": ((x == some.tokens.cpu()) | ~start.cpu()).all(1).double(),
            "infilling": (x == some.tokens.cpu())[hole.cpu()].double(),
        }[name.split(",")[0]]
        table[name] = {
            "success": right.mean().item(),
            "perplexity": judge.perplexity(x),
            "samples": lines(x),
        }
    real = test[torch.arange(0, len(test), 5)]
    hits = (nearer(real.tokens.cpu()) == real.labels.cpu()).double().mean().item()
    # The ceiling: no sentence can be judged better than real verses of the genre.
    return table | {
        "judge of genres on real verses": {
            "success": hits,
            "perplexity": judge.perplexity(real.tokens),
        }
    }


def middle(mask: Mask) -> Mask:
    """The middle third of each sentence."""
    length = mask.sum(1, keepdim=True)
    place = torch.arange(mask.shape[1], device=mask.device)
    # From a third on, as many at either end: both sides are seen.
    return (place >= length // 3) & (place < length - length // 3)


def read(process: DiffusionLM, model: nn.Module, steps: int) -> SentenceClassifier:
    """A classifier of x_t, trained for so many steps."""
    device = process.device
    # Measures run without gradients, and this one trains a network in their midst.
    with torch.enable_grad():
        reader = SentenceClassifier(WIDTH, len(GENRES)).to(device)
        task = NoisyClassifierTraining(process, model)
        stream = (batch.to(device) for batch in bucketed(sentences()[0], 32))
        return last(
            train(task, reader, stream, steps, lr=warmup_cosine(3e-3, steps), ema=0.99)
        ).average


def by_words(data: Labelled) -> Callable[[Tokens], torch.Tensor]:
    """A judge of genres that knows no diffusion: naive Bayes on the words, each counted once more than seen."""
    K = len(vocabulary())
    counts = torch.ones(len(GENRES), len(vocabulary()), dtype=torch.float64)
    tokens, labels = data.tokens.cpu(), data.labels.cpu()
    where = tokens != PAD
    counts += torch.stack(
        [
            tokens[(labels == g)[:, None] & where].bincount(minlength=K)
            for g in range(len(GENRES))
        ]
    )
    # PAD = -1 reads the zeros at the end.
    log_p = F.pad((counts / counts.sum(1, keepdim=True)).log(), (0, 1))
    return lambda x: log_p[:, x].sum(-1).argmax(0)


def quality(x: Tokens, judge: SentenceJudge) -> dict:
    """How the sentences read, and how much they repeat each other."""
    said = spelt(x)
    return {
        "perplexity": judge.perplexity(x),
        "distinct1": distinct(said, 1),
        "distinct2": distinct(said, 2),
        "self_bleu": self_bleu(said),
    }


def spelt(x: Tokens) -> list[list[str]]:
    """The numbers of the words of each sentence, for measures that want words."""
    return [[str(i) for i in row if i != PAD] for row in x.tolist()]


def salad(x: Tokens) -> Tokens:
    """The same words of each sentence in random order."""
    # 2 is beyond all keys of words: PAD stays at the end.
    keys = torch.rand(x.shape).masked_fill(x == PAD, 2.0)
    return x.gather(1, keys.argsort(1))


def lines(x: Tokens, n: int = 5) -> list[str]:
    """The first of them as text."""
    return [vocabulary().line(row) for row in x[:n]]
