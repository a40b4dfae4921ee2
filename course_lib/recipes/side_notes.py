"""Length extrapolation: letters read 64 at a time, judged and written at 64, 128 and 256. A few minutes each on a core.

One autoregressive network of letters with three trunks, the same weights, batches and rates: rotary positions as they
are, positions drawn among 512, attention to the 16 letters before.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..autoregressive import Autoregressive
from ..data import ALPHABET, addresses, decode, windows
from ..evaluate import estimate
from ..length_extrapolation import LocalAttention, RandomPositions
from ..nets import CausalNet
from ..ngram import NGram
from ..transformer import Transformer
from .d3pm import judged
from .run import Recipe, draws, spaced

K, LENGTH = len(ALPHABET), 64
TIMES = (1, 2, 4)  # lengths to judge and write at, of the one in training
ROOM, WINDOW = 8 * LENGTH, 16
SIZE = {"width": 64, "heads": 4, "depth": 2, "causal": True}


def text(split: str) -> tuple[Tensor, None]:
    """Windows of 64 characters, no labels."""
    return windows(addresses(split), LENGTH), None


def network(trunk: Callable[[], Transformer]) -> CausalNet:
    """A tenth of a million weights. Asked without a cache, in which positions drawn anew would not stand still."""
    model = CausalNet(K, SIZE["width"], SIZE["heads"], SIZE["depth"])
    model.trunk = trunk()
    model.takes_cache = False
    return model


def by_length(model: nn.Module, row: Tensor, lengths: list[int]) -> dict:
    """-log p in bits per character of the same text, cut into rows of each length; and what more a longer row costs.

    The difference is over the pieces of the longest length, each read whole and cut: its error is that of pairs.
    """
    longest = max(lengths)
    rows = windows(row, longest)
    each = {
        # The same letters for all lengths, cut and averaged back over each longest
        # piece: so differences are between pairs.
        n: bits(model, rows.reshape(-1, n)).reshape(len(rows), -1).mean(1)
        for n in lengths
    }
    more = {n: each[n] - each[min(lengths)] for n in lengths}
    return {
        n: {
            "bits": each[n].mean().item(),
            "bits_se": estimate(each[n].double()).se,
            "more": more[n].mean().item(),
            "more_se": estimate(more[n].double()).se,
        }
        for n in lengths
    }


@torch.no_grad()
def bits(model: nn.Module, rows: Tensor) -> Tensor:
    """-log2 p per character of each row."""
    process = Autoregressive(K, rows.shape[1])
    t = torch.ones(1, dtype=torch.long)
    parts = [process.bound(model, x, t.expand(len(x))) for x in rows.split(64)]
    # Nats of a row to bits of a character.
    return torch.cat(parts) / (rows.shape[1] * math.log(2))


def measure(recipe: Recipe, model: nn.Module, n: int = 64, pieces: int = 1024) -> dict:
    """Bits per character of the test addresses by length, and what is written at each length."""
    lengths, longest = [LENGTH * k for k in TIMES], LENGTH * max(TIMES)
    test, train = windows(addresses("test"), longest), addresses("train")
    torch.manual_seed(recipe.seed)
    results = {
        "lengths": by_length(
            model.eval(), test[spaced(len(test), pieces)].flatten(), lengths
        )
    }
    at_own = results["lengths"][LENGTH]
    results |= {"bits_per_char": at_own["bits"], "bits_per_char_se": at_own["bits_se"]}
    results["steps"] = {}  # a letter each
    judge, known = NGram(train, K, 5), set(decode(train).split())
    real = test[spaced(len(test), n)]
    results["real"] = judged(real, judge, known)
    # Beyond training's length the start is as trained, so the last 64 letters are
    # judged alone, too.
    for k in lengths:
        x = draws(Autoregressive(K, k), model, n, k, size=n)
        results["steps"][k] = judged(x, judge, known)
        # What stands beyond the length of training, alone
        results["lengths"][k]["last"] = judged(
            x[:, -LENGTH:].contiguous(), judge, known
        )
        results["lengths"][k]["samples"] = [decode(row) for row in x[:2]]
    return results


def recipe(name: str, trunk: Callable[[], Transformer]) -> Recipe:
    """What they have in common."""
    return Recipe(
        chapter="A1_side_notes",
        name=name,
        data=text,
        process=lambda: Autoregressive(K, LENGTH),
        model=lambda: network(trunk),
        measure=measure,
        steps=1000,
        batch=32,
        lr=5e-3,
        ema=0.995,
    )


rotary = recipe("rotary", lambda: Transformer(**SIZE))
random_positions = recipe("random_positions", lambda: RandomPositions(ROOM, **SIZE))
local = recipe("local", lambda: LocalAttention(WINDOW, **SIZE))
