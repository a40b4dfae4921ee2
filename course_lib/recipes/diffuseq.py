"""DiffuSeq: how words are spelled and how they are said (CMU dictionary), and one translation of the Bible to another.

`sounds`, and `sounds_ar`, which is `sounds` by autoregression, take up to an hour on one CPU core, `verses` two,
`verses_ar`, its autoregressive twin, a quarter of an hour, `reversal` a minute. The shipped weights of `verses` were
made in two sittings: from its restart on with a fresh optimiser, from the averaged weights of the first part in
float16. `sounds_power` and `verses_power` measure them with the clue taken to a power.
"""

from dataclasses import replace

import torch

from ..autoregressive import Autoregressive
from ..evaluate import jackknife
from ..sentences import bucketed
from .power_measures import sharpened
from .run import Measurement, Recipe, shipped, spaced
from .target_measures import (
    BEST,
    FAST,
    MANY,
    bleu,
    bleu_without,
    draw_targets,
    errors,
    measure_reversal,
    measure_sounds,
    measure_translator,
    measure_verses,
    measure_writer,
    spellings,
)
from .tasks import REVERSAL, SOUNDS, VERSES

CHAPTER = "05_diffuseq"


reversal = Recipe(
    chapter=CHAPTER,
    name="reversal",
    data=REVERSAL.data,
    process=REVERSAL.process,
    model=lambda: REVERSAL.network(width=64, depth=2),
    measure=measure_reversal,
    steps=1300,
    batch=64,
    lr=3e-3,
    ema=0.995,
    stream=bucketed,
)

sounds = Recipe(
    chapter=CHAPTER,
    name="sounds",
    data=SOUNDS.data,
    process=SOUNDS.process,
    model=SOUNDS.network,
    measure=measure_sounds,
    steps=16000,
    batch=64,
    lr=2e-3,
    ema=0.999,
    stream=bucketed,
)

sounds_ar = replace(  # the same steps, batches and rates
    sounds,
    name="sounds_ar",
    data=lambda split: SOUNDS.data(split, interleaved=False),
    process=lambda: Autoregressive(len(SOUNDS.vocabulary), SOUNDS.length),
    model=SOUNDS.writer,
    measure=measure_writer,
)

verses = Recipe(
    chapter=CHAPTER,
    name="verses",
    data=VERSES.data,
    process=VERSES.process,
    model=VERSES.network,
    measure=measure_verses,
    steps=12500,
    restart=4500,
    batch=32,
    lr=3e-3,
    ema=0.998,
    stream=bucketed,
)

# Fewer steps than `verses`: it learns the training verses by heart.
verses_ar = replace(
    verses,
    name="verses_ar",
    data=lambda split: VERSES.data(split, interleaved=False),
    process=lambda: Autoregressive(len(VERSES.vocabulary), VERSES.length),
    model=lambda: VERSES.writer(dropout=0.1, tied=True),
    measure=measure_translator,
    steps=3000,
    # That of `verses` lies beyond its last step.
    restart=None,
    options={"precision": torch.bfloat16},
)


def sounds_by_power(
    device: str = "cpu", n: int = 1000, powers=(1.0, 1.3, 1.6, 2.0, 3.0)
) -> dict:
    """One draw a word: errors by the power of the clue in the right sampler, and of re-noising, on the same words."""
    model, (pairs, right, _) = shipped(sounds, device), spellings(n)
    data, of = SOUNDS.rows(pairs), {}
    # Re-noising as it is, power 1: what a sharpened ancestral sampler is held against.
    for name, some in (("ancestral", powers), (BEST, powers[:1])):
        of[name] = {}
        for power in some:
            # One seed for all: they differ by power and sampler alone.
            torch.manual_seed(sounds.seed)
            said = draw_targets(SOUNDS, sharpened(model, power), data, FAST, name)
            of[name][power] = errors(said, right)
    return {"words": n, "steps": FAST, "of": of}


def verses_by_power(
    device: str = "cpu", n: int = 200, powers=(1.0, 1.5, 2.0, 3.0)
) -> dict:
    """One draw a verse: BLEU by the power of the clue in the right sampler, and of re-noising, on the same verses.

    With the jackknife's errors, and BLEU without each group of verses, of which differences have paired errors.

    Verses that fit into one row, evenly over these; equally many steps for all.
    """
    model, every = shipped(verses, device), VERSES.pairs("test")
    pairs = [every[i] for i in spaced(len(every), n)]
    data = VERSES.rows([(x, ()) for x, _ in pairs])
    right = [y for _, y in pairs]
    of = {}
    for name, some in (("ancestral", powers), (BEST, powers[:1])):
        of[name] = {}
        for power in some:
            # One seed for all, as above.
            torch.manual_seed(verses.seed)
            said = draw_targets(VERSES, sharpened(model, power), data, MANY, name)
            without = bleu_without(said, right)
            score = {"bleu": bleu(said, right), "bleu_se": jackknife(without)}
            score["bleu_without"] = without
            of[name][power] = score | {"samples": [" ".join(y) for y in said[:5]]}
    shown = [(" ".join(x), " ".join(y)) for x, y in pairs[:5]]
    # The source itself as a translation: both are English, so BLEU starts far from 0.
    copied = [x for x, _ in pairs]
    copy = {
        "copy": bleu(copied, right),
        "copy_without": bleu_without(copied, right),
    }
    return {"verses": n, "steps": MANY, "of": of, "pairs": shown} | copy


sounds_power = Measurement(CHAPTER, "sounds_power", sounds_by_power)
verses_power = Measurement(CHAPTER, "verses_power", verses_by_power)
