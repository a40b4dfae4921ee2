"""DiffuSeq: how words are spelled and how they are said (CMU dictionary), and one translation of the Bible to another.

`sounds`, and `sounds_ar`, which is `sounds` by autoregression, take up to an hour on one CPU core, `verses` two,
`reversal` a minute. The shipped weights of `verses` were made in two sittings: from its restart on with a fresh
optimiser, from the averaged weights of the first part in float16.
"""

from dataclasses import replace

from ..autoregressive import Autoregressive
from ..sentences import bucketed
from .run import Recipe
from .target_measures import (
    measure_reversal,
    measure_sounds,
    measure_verses,
    measure_writer,
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
