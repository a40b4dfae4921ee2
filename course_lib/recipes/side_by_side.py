"""Chapter 8: every system on the same letters and on the same words, with the weights that other recipes made.

`letters` and `words` measure what each writes by number of calls and by temperature, its cost, how it fills a gap, and
(letters) how it mends errors. Systems whose weights are not there are left out; run it again when they are. Costs are
seconds of one process on one machine: only their ratios mean something.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..autoregressive import Autoregressive
from ..categorical import draw
from ..data import addresses, decode, encode, windows
from ..evaluate import ratio
from ..ngram import NGram, SentenceJudge
from ..process import Process, last, sample
from ..shapes import Network, PerExample, Tokens
from ..text_metrics import copied, distinct, ngram_divergence
from . import d3pm, sedd
from . import words as on_words
from .d3pm import LENGTH, K, judged, text
from .gaps_and_errors import filled_letters, filled_words, mended, said, there
from .run import Measurement, Recipe, pieces, shipped, spaced
from .sentence_measures import lines, spelt
from .verse_rows import rows, size, unended, words_and_ends
from .word_measures import Colder, written_by

CALLS, WRITES = (4, 16, 64), 32
TIMED = 8  # calls of diffusion that are timed together
TEMPERATURES = (0.5, 0.7, 0.85, 1.0)

LETTERS = {
    "autoregression": d3pm.ar,
    "D3PM, random letters": d3pm.uniform,
    "D3PM, masks": d3pm.absorbing,
    "MDLM": sedd.mdlm,
    "SEDD, masks, mass known": sedd.absorbing,
    "SEDD, masks, mass learned": sedd.learned_mass,
    "SEDD, random letters": sedd.uniform,
}
WORDS = {
    "autoregression": on_words.ar,
    "masks": on_words.masked,
    "random words": on_words.uniform,
}
WARMED = ("autoregression", "D3PM, random letters", "D3PM, masks")


def clock(device: str) -> Callable[[], float]:
    """Seconds of computing where the CPU computes: those of others do not count."""
    return time.process_time if device == "cpu" else time.perf_counter


# Letters


class Judge(NamedTuple):
    """What texts of letters are judged by."""

    model: NGram
    words: set[str]
    real: Tokens  # many training windows, for the divergence

    def __call__(self, x: Tokens) -> dict:
        """Bits per letter, entropy, known words, distinct pairs of words, divergence of 3-letter pieces from text."""
        # The first and the last word of a window are cut off.
        pairs = [decode(row).split()[1:-1] for row in x]
        return judged(x, self.model, self.words) | {
            "distinct2": distinct(pairs, 2),
            "divergence": ngram_divergence(x, self.real, 3),
        }


def judge_of_letters() -> Judge:
    """A 5-gram model of the training addresses, their words, and 2,000 windows."""
    row = addresses("train")
    real = windows(row, LENGTH)
    words = set(decode(row).split())
    return Judge(NGram(row, K, 5), words, real[spaced(len(real), 2000)])


def letters_by(
    name: str, device: str, n: int, calls: int, temperature: float = 1.0
) -> tuple[Tokens, float]:
    """n texts of 128 letters, and the seconds for each."""
    recipe = LETTERS[name]
    process, model = recipe.process().to(device), shipped(recipe, device)
    if isinstance(process, Autoregressive):
        # It has a temperature of its own. Others get it in front of their network.
        process = Autoregressive(K, LENGTH, temperature).to(device)
    elif temperature != 1:
        model = Colder(model, temperature)
    # After the weights are read: that is no cost of writing.
    tick, made = clock(device), []
    start = tick()
    for i, m in enumerate(pieces(n, 32)):
        # As `draws` seeds its pieces, so that all start from the same states.
        torch.manual_seed(i)
        made.append(last(sample(process, model, m, calls))[1].cpu())
    return torch.cat(made), (tick() - start) / n


def of_letters(device: str, n: int = 64) -> dict:
    """Everything about letters."""
    judge, test = judge_of_letters(), text("test")[0]
    real = test[spaced(len(test), n)]
    out = {"n": n, "length": LENGTH, "real": judge(real)}
    out["calls"], out["temperatures"], out["samples"] = {}, {}, {}
    for name in filter(lambda name: there(LETTERS[name]), LETTERS):
        writer = LETTERS[name] is d3pm.ar
        out["calls"][name] = {}
        for calls in (LENGTH,) if writer else CALLS:
            x, seconds = letters_by(name, device, n, calls)
            out["calls"][name][calls] = judge(x) | {"seconds": seconds}
        out["samples"][name] = [decode(row) for row in x[:3]]
        print(name, out["calls"][name], flush=True)
    for name in WARMED:
        calls = LENGTH if LETTERS[name] is d3pm.ar else WRITES
        out["temperatures"][name] = {
            T: judge(letters_by(name, device, n, calls, T)[0]) for T in TEMPERATURES
        }
        print(name, out["temperatures"][name], flush=True)
    out["cost"] = costs(device)
    # What measures say of texts that no network wrote: one that likes these is fooled
    # by less than understanding.
    out["no_parameters"] = {
        "one phrase": judge(repeated("of the ", n)),
        "the judge itself": judge(own_texts(judge.model, n)),
    }
    out["infilling"] = filled_letters(device, real, judge.model)
    out["repair"] = mended(device, real)
    out["by_position"] = by_position(device, test)
    return out


def repeated(phrase: str, n: int) -> Tokens:
    """n texts without any model: a phrase again and again, from each of its letters in turn."""
    row = encode(phrase * (LENGTH // len(phrase) + 2))
    # Shifted, so that not all texts are the same one.
    return torch.stack([row[i % len(phrase) :][:LENGTH] for i in range(n)])


def own_texts(model: NGram, n: int) -> Tokens:
    """n texts that the n-gram model writes itself."""
    torch.manual_seed(0)
    x = torch.zeros(n, 0, dtype=torch.long)
    for _ in range(LENGTH):
        # All that an n-gram model reads: the last order - 1 letters.
        before = x[:, max(0, x.shape[1] + 1 - model.order) :]
        # Each of the K letters tried after each text.
        each = before.repeat_interleave(K, 0)
        new = torch.arange(K).repeat(n)[:, None]
        log_p = model.log_prob(torch.cat([each, new], 1))[:, -1]
        x = torch.cat([x, draw(log_p.reshape(n, K).exp())[:, None]], 1)
    return x


def costs(device: str, n: int = 8) -> dict:
    """Seconds for one text, alone and n at once: with the cache and without; and those of one call of diffusion."""
    writer, process = shipped(d3pm.ar, device), d3pm.ar.process().to(device)
    network, masks = shipped(sedd.mdlm, device), sedd.mdlm_process().to(device)
    out = {}
    for m in (1, n):
        cached = seconds_each(device, process, writer, m, LENGTH)
        plain = seconds_each(device, process, Uncached(writer), m, LENGTH)
        calls = seconds_each(device, masks, network, m, TIMED)
        out[f"autoregression, cache, {m} at once"] = cached
        out[f"autoregression, no cache, {m} at once"] = plain
        # One call of diffusion costs the same at every
        # time; a text takes as many as one likes.
        out[f"masks, a call, {m} at once"] = calls / TIMED
    return out


def seconds_each(
    device: str, process: Process, model: Network, n: int, calls: int
) -> float:
    """Seconds for each of n texts, made in so many calls."""
    tick = clock(device)
    start = tick()
    last(sample(process, model, n, calls))[1].cpu()
    return (tick() - start) / n


class Uncached(nn.Module):
    """A network that does not say that it takes a cache."""

    takes_cache = False

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tokens, u: PerExample) -> Float[Tensor, "B L K"]:
        """All positions, each time."""
        return self.inner(x, u)


@torch.no_grad()
def by_position(device: str, test: Tokens, n: int = 1024) -> dict:
    """-log p of the writer in bits by position in the window, in eights: the first letters have nothing before them."""
    process, model = d3pm.ar.process().to(device), shipped(d3pm.ar, device).eval()
    x = test[spaced(len(test), n)]
    nll = torch.cat([process.each(model, y.to(device))[0].cpu() for y in x.split(128)])
    parts = nll.double().reshape(n, -1, 8).mean(2) / math.log(2)
    return {"first": list(range(0, LENGTH, 8)), "bits": parts.mean(0).tolist()}


# Words


def of_words(device: str, n: int = 64) -> dict:
    """What each writes by temperature, its seconds, and gaps filled by the writer; with errors over verses."""
    judge, seen = SentenceJudge(rows(), size()), spelt(rows())
    test = rows("test")
    real = test[spaced(len(test), n)]
    # Real text has a divergence, too: it is read beside that of `real`.
    reference = rows()[spaced(len(rows()), 4000)]

    def scores(x: Tokens) -> dict:
        return {
            "judged_nats": said(ratio(judge.nats(x), words_and_ends(x))),
            "distinct2": distinct(spelt(x), 2),
            "divergence": ngram_divergence(x, reference, 2),
            "copied": copied(spelt(x), seen),
        }

    out = {"n": n, "calls": WRITES, "real": scores(real)}
    out["temperatures"], out["seconds"], out["samples"] = {}, {}, {}
    for name, recipe in WORDS.items():
        if not there(recipe):
            continue
        out["temperatures"][name] = {}
        for T in TEMPERATURES:
            x, seconds = words_by(recipe, device, n, T)
            out["temperatures"][name][T] = scores(x)
            out["samples"].setdefault(name, {})[T] = lines(x, 3)
        out["seconds"][name] = seconds
        print(name, out["temperatures"][name], flush=True)
    out["infilling"] = filled_words(device, real)
    return out


def words_by(
    recipe: Recipe, device: str, n: int, temperature: float
) -> tuple[Int[Tensor, "n L"], float]:
    """n verses at a temperature, and the seconds for each."""
    process, model = recipe.process().to(device), shipped(recipe, device)
    tick = clock(device)
    start = tick()
    if isinstance(process, Autoregressive):
        process = Autoregressive(process.K, process.length, temperature).to(device)
        torch.manual_seed(recipe.seed)
        x = last(sample(process, model, n, process.length))[1].cpu()
        # Without the place for END, which the others do not have.
        x = unended(x)[:, :-1]
    else:
        x = written_by(process, Colder(model, temperature), n, WRITES, recipe.seed)
    return x, (tick() - start) / n


letters = Measurement("08_side_by_side", "letters", of_letters)
words = Measurement("08_side_by_side", "words", of_words)
