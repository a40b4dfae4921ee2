"""Block diffusion on verses: one network, blocks of 1, 2, 4, 8 and 16 words; windows of 16 words of the Bible in Basic
English, its frequent words only. Each takes about two minutes on one CPU core: enough to
compare, far from the best such a network can do.

At one word a call all of them draw from their own model exactly, so what differs is the model. With fewer calls, words
of one block are drawn independently of each other, which blocks of 1 cannot do.
"""

import math
import time
import warnings
from functools import cache

import torch
from torch import Tensor

from .. import schedules
from ..absorbing import Absorbing
from ..block_diffusion import AllBlocks, BlockDiffusion
from ..block_nets import BlockNet
from ..data import windows
from ..decoding import Unmask, by_blocks, random_order
from ..evaluate import bound
from ..ngram import NGram
from ..sentences import Vocabulary, words
from ..shapes import Network
from ..text_metrics import entropy_of_tokens
from ..verses import verses
from .run import Recipe, spaced

LENGTH, BLOCKS, CALLS = 16, (1, 2, 4, 8, 16), (16, 8, 4, 2)
LEAST = 100  # how often a word must occur in the training verses; all others are UNK


@cache
def vocabulary() -> Vocabulary:
    """The frequent words of the training verses, UNK first."""
    return Vocabulary(map(words, verses().values()), least=LEAST)


@cache
def row(split: str) -> Tensor:
    """All words of a split in their order."""
    every = [word for text in verses("bbe", split).values() for word in words(text)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # results.json says how many words are unknown
        return vocabulary().encode([every], len(every))[0]


def text(split: str) -> tuple[Tensor, None]:
    """Windows of 16 words, no labels."""
    return windows(row(split), LENGTH), None


def process(block: int) -> BlockDiffusion:
    """Blocks of so many words, masked on a line from none to all."""
    noise = Absorbing(len(vocabulary()), schedules.log_linear(0.0))
    return BlockDiffusion(noise, LENGTH, block)


def network(block: int) -> BlockNet:
    """0.2 million weights, the same number for every block length."""
    V = len(vocabulary())
    return BlockNet(V + 1, V, LENGTH, block, width=64, heads=4, depth=2)


def measure(recipe: Recipe, model: BlockNet, repeats: int = 16, n: int = 256) -> dict:
    """The bound on the test verses, nats per word; texts by number of calls, their judge, their seconds."""
    device, (test, _) = next(model.parameters()).device, recipe.data("test")
    blocks = recipe.process().to(device)
    torch.manual_seed(recipe.seed)
    nats = bound(AllBlocks(blocks), model, test.to(device), repeats=repeats)
    nats = nats.per(LENGTH)
    judge = NGram(row("train"), len(vocabulary()), 3)
    texts = {
        calls: written(blocks, model, calls, n)
        for calls in CALLS
        # Each block needs a call of its own.
        if calls >= blocks.blocks
    }
    return {
        "nats_per_word": nats.mean,
        "nats_per_word_se": nats.se,
        "windows": len(test),
        "repeats": repeats,
        "words": len(vocabulary()),
        # UNK is word 0. Every system sees it as a word, so bounds compare.
        "unknown": (test == 0).double().mean().item(),
        "trigram_nats": judge.bits(test) * math.log(2),
        "calls": {
            calls: judged(x, judge) | {"seconds": seconds}
            for calls, (x, seconds) in texts.items()
        },
        "real": judged(test[spaced(len(test), n)], judge),
        "samples": {
            calls: [said(line) for line in x[:3]] for calls, (x, _) in texts.items()
        },
    }


def written(
    blocks: BlockDiffusion, model: Network, calls: int, n: int
) -> tuple[Tensor, float]:
    """n texts in so many calls of the network, each the same number in every block; and the seconds that took."""
    order = by_blocks(blocks.block, random_order)
    sampler = Unmask(blocks, order, steps=calls)
    start = time.perf_counter()
    x = sampler.sample(model, n).cpu()
    return x, round(time.perf_counter() - start, 3)


def judged(x: Tensor, judge: NGram) -> dict:
    """How a trigram model of the training verses likes the texts, and how varied their words are; nats per word."""
    return {
        # The first two words have less before them than a trigram model reads.
        "judged_nats": judge.bits(x, skip=2) * math.log(2),
        "entropy": entropy_of_tokens(x),
    }


def said(line: Tensor) -> str:
    """The words of a row."""
    return " ".join(vocabulary().words[i] for i in line.tolist())


def recipe(block: int) -> Recipe:
    """What they have in common."""
    return Recipe(
        chapter="09_after_sedd",
        name=f"block_{block}",
        data=text,
        process=lambda: process(block),
        # The same mean as the loss in one block, with less variance.
        trains=lambda: AllBlocks(process(block)),
        model=lambda: network(block),
        measure=measure,
        steps=3000,
        batch=32,
        lr=3e-3,
        ema=0.995,
    )


block_1, block_2, block_4, block_8, block_16 = map(recipe, BLOCKS)
