"""What the tests of words share: a toy process, language and oracle, a network that is wrong, and sentences."""

import torch

from course_lib import schedules as S
from course_lib.data import MarkovLanguage
from course_lib.diffusion_lm import DiffusionLM
from course_lib.sentences import PAD
from course_lib.word_nets import EmbeddingNet, MixingNet
from course_lib.word_oracle import SentenceOracle

T, L, W, K = 40, 5, 3, 6
TABLE = S.table(S.sqrt(), T)


def F64(v):
    return torch.tensor(v, dtype=torch.float64)


def toy(steps=T, K=4, L=3, width=3, **options):
    """A process, a Markov language, and its oracle."""
    language = MarkovLanguage(K, L, sharpness=2.0)
    process = DiffusionLM(S.table(S.sqrt(), steps), L, width, **options)
    table = 2.0 * torch.randn(K, width, dtype=torch.float64)
    return process, language, SentenceOracle(process, language, table)


def net(kind=EmbeddingNet, **options):
    given = (TABLE,) if kind is MixingNet else ()
    model = kind(K, W, *given, width=16, heads=2, depth=1, **{"normalised": False} | options)
    for p in model.parameters():
        p.data.normal_(std=0.3)
    return model


def ids(n=4):
    tokens = torch.randint(0, K, (n, L))
    tokens[1, 2:] = PAD
    tokens[2, 1:] = PAD
    return tokens
