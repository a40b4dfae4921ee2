"""DiffuSeq and its autoregressive twin: spelling to sound (CMU dictionary), and reversing a row of letters.

`sounds` and `sounds_ar` take about 40 minutes on one CPU core each, `reversal` a minute.
"""

from functools import cache

from torch import Tensor

from .. import schedules
from ..diffuseq import DiffuSeq
from ..nets import CausalNet, MixingNet
from ..sentences import END, SEP, Pairs, Vocabulary, pack, pronunciations

ROOM, WIDTH, T = 14, 16, 2000
LENGTH = 2 * ROOM + 1
STEPS, SETS = (5, 10, 20, 50, 200, 1000), (1, 3, 5, 10)


def table() -> Tensor:
    """The paper's schedule."""
    return schedules.table(schedules.sqrt(), T)


def process(**options) -> DiffuSeq:
    """Trained on the cross-entropy of its prediction beside the squared error."""
    return DiffuSeq(table(), LENGTH, WIDTH, **{"rounding": "prediction"} | options)


# Spelling to sound


@cache
def vocabulary() -> Vocabulary:
    """Letters, phones, SEP and END."""
    said = pronunciations()
    return Vocabulary([*said, *(p for ways in said.values() for p in ways), [SEP], [END]])


@cache
def sounds_of(split: str = "train") -> tuple[Pairs, list[str]]:
    """One pair for each pronunciation in training, one for each word else; and the words. Longer ones are left out."""
    said = pronunciations(split)
    pairs = [(w, p) for w, ways in said.items() for p in (ways if split == "train" else ways[:1])]
    kept = [(w, p) for w, p in pairs if len(w) <= ROOM and len(p) <= ROOM]
    return pack(kept, vocabulary(), LENGTH, ROOM), [w for w, _ in kept]


def network() -> MixingNet:
    """Normalised embeddings, self-conditioning."""
    return MixingNet(len(vocabulary()), WIDTH, table(), 128, 4, 4, normalised=True, recall=True)


def causal() -> CausalNet:
    """Of the same width and depth."""
    return CausalNet(len(vocabulary()), 128, 4, 4)
