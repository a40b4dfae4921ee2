"""D3PM on the State of the Union: one network, three ways to train it, each about 20 minutes on one CPU core; and a
small one that takes a minute. Beside them `ar`, autoregression with as many weights, steps and letters; and
`letters_large`, masks with eight times the weights, for hours of a core or minutes of a GPU.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from .. import schedules
from ..absorbing import Absorbing
from ..autoregressive import Autoregressive
from ..d3pm import D3PM
from ..data import ALPHABET, addresses, decode, windows
from ..evaluate import Estimate, bound
from ..mask_count import MaskCount
from ..nets import CausalNet, TokenNet
from ..ngram import NGram
from ..process import Process, last, sample
from ..shapes import Network
from ..stationary import Uniform
from ..text_metrics import entropy_of_tokens
from ..tokens import TokenProcess
from .run import Measurement, Recipe, draws, shipped, spaced

K, LENGTH, T = len(ALPHABET), 128, 1000
# From few steps to all T: what a sampler loses when it skips times.
STEPS = (4, 16, 64, 256, 1000)


def text(split: str) -> tuple[torch.Tensor, None]:
    """Windows of 128 characters, no labels."""
    return windows(addresses(split), LENGTH), None


def absorbing_process() -> D3PM:
    """MASK at the rate 1 / (T - t + 1), so that alpha_bar falls on a line to 0."""
    return D3PM(
        Absorbing(K, schedules.table(schedules.log_linear(0.0), T, max_beta=1.0)),
        LENGTH,
    )


def uniform_process(**options) -> D3PM:
    """Random characters by the cosine schedule of multinomial diffusion."""
    return D3PM(
        Uniform(K, schedules.table(schedules.cosine(power=1), T)), LENGTH, **options
    )


def network(process: Process, width: int = 96, depth: int = 3) -> TokenNet:
    """Half a million weights, the same for all of them; 0.16 million for the one of a minute."""
    # In: all states, MASK among them where there is one. Out: letters, which x_0 is of.
    return TokenNet(process.noise.K, K, width, heads=4, depth=depth, radius=4)


def measure(recipe: Recipe, model: nn.Module, repeats: int = 4, n: int = 32) -> dict:
    """The bound on the test addresses, and samples at several numbers of steps, in bits per character."""
    device = next(model.parameters()).device
    process = recipe.process().to(device)
    row = addresses("train")
    test, _ = recipe.data("test")
    # The order of what follows is the order of random draws: new measures go last, or
    # the numbers in assets/ cannot be made again.
    torch.manual_seed(recipe.seed)
    bits = bits_per_char(process, model, test.to(device), repeats)
    results = {
        "bits_per_char": bits.mean,
        "bits_per_char_se": bits.se,
        "windows": len(test),
        "repeats": repeats,
    }
    if (
        recipe.name == "hybrid"
    ):  # the same weights, read as what the cross-entropy taught them to be
        read = D3PM(process.noise, LENGTH, predicts="posterior")
        results["read_as_posterior"] = dict(
            zip(("mean", "se"), bits_per_char(read, model, test, repeats), strict=True)
        )
    models = {order: NGram(row, K, order) for order in range(1, 8)}
    results["ngram_bits"] = {order: ngram.bits(test) for order, ngram in models.items()}
    # Order 5 in every recipe of letters, so that their tables can be compared.
    words, judge = set(decode(row).split()), models[5]
    real = test[spaced(len(test), n)]
    made = {steps: last(sample(process, model, n, steps))[1].cpu() for steps in STEPS}
    results["steps"] = {steps: quality(x, judge, words) for steps, x in made.items()}
    results["real"] = quality(real, judge, words)
    results["samples"] = {
        steps: [decode(text) for text in x[:2]] for steps, x in made.items()
    }
    return results


def bits_per_char(
    process: TokenProcess, model: Network, data: torch.Tensor, repeats: int
) -> Estimate:
    """The bound in bits per character; by number of masks where the noise is absorbing."""
    evaluator = MaskCount(process) if isinstance(process.noise, Absorbing) else process
    return bound(evaluator, model, data, repeats=repeats).bits_per_dim(LENGTH)


def quality(x: torch.Tensor, judge: NGram, words: set[str]) -> dict:
    """How a 5-gram model of real text likes it, how varied its characters are, how many of its words are real."""
    # The first and the last are cut off.
    inner = [word for text in x for word in decode(text).split()[1:-1]]
    return {
        # The first 4 letters have less before them than a 5-gram model reads.
        "judged_bits": judge.bits(x, skip=4),
        "entropy": entropy_of_tokens(x),
        # A text without two blanks has no whole word in it: max(1, ...).
        "words_known": sum(word in words for word in inner) / max(1, len(inner)),
    }


def judged(x: torch.Tensor, judge: NGram, words: set[str]) -> dict:
    """`quality` of texts, with the standard error over texts of its bits per character."""
    # The same letters as in `quality`, one mean for each text.
    each = -judge.log_prob(x)[:, 4:].mean(1) / math.log(2)
    return quality(x, judge, words) | {
        "judged_bits_se": each.std().item() / math.sqrt(len(x))
    }


def measure_writer(recipe: Recipe, model: nn.Module, n: int = 96) -> dict:
    """-log p of the test addresses itself, and texts written letter by letter."""
    device = next(model.parameters()).device
    process, row = recipe.process().to(device), addresses("train")
    test = recipe.data("test")[0]
    bits = bound(process, model, test.to(device)).bits_per_dim(LENGTH)
    judge, words = NGram(row, K, 5), set(decode(row).split())
    x = draws(process, model, n, LENGTH, size=32)
    return {
        "bits_per_char": bits.mean,
        "bits_per_char_se": bits.se,
        "windows": len(test),
        "steps": {LENGTH: judged(x, judge, words)},
        "real": judged(test[spaced(len(test), n)], judge, words),
        "samples": [decode(text) for text in x[:5]],
    }


def two_noises(
    device: str, n: int = 96, counts: tuple[int, ...] = (4, 16, 64, 256)
) -> dict:
    """Masks against random letters, n texts each by number of steps, with standard errors: which one writes better?"""
    row = addresses("train")
    judge, words, out = NGram(row, K, 5), set(decode(row).split()), {"n": n}
    for noise in (absorbing, uniform):
        process, model = noise.process().to(device), shipped(noise, device)
        out[noise.name] = {}
        for k in counts:
            x = draws(process, model, n, k, size=32)
            out[noise.name][k] = judged(x, judge, words)
            print(noise.name, k, out[noise.name][k], flush=True)
    return out


def counting(device: str, orders: Iterable[int] = range(3, 8)) -> dict:
    """Bits per letter of the test windows by n-gram models of the training addresses, with errors over windows."""
    row, test = addresses("train"), text("test")[0]
    ngrams = {}
    for order in orders:
        each = -NGram(row, K, order).log_prob(test).mean(1) / math.log(2)
        ngrams[order] = {
            "mean": each.mean().item(),
            "se": each.std().item() / math.sqrt(len(test)),
        }
        print(order, ngrams[order], flush=True)
    return {"windows": len(test), "ngrams": ngrams}


def recipe(name: str, process: Callable[[], D3PM], **options) -> Recipe:
    """What they have in common."""
    common = {
        # As in chapter 7, so that only the system differs.
        "steps": 6000,
        "batch": 16,
        "lr": 3e-3,
        # An average over about the last 200 steps: 1 / (1 - 0.995).
        "ema": 0.995,
        "model": lambda: network(process()),
        "measure": measure,
    }
    return Recipe(
        chapter="06_d3pm",
        name=name,
        data=text,
        process=process,
        **common | options,
    )


absorbing = recipe("absorbing", absorbing_process)
uniform = recipe("uniform", uniform_process)
minute = recipe(
    "minute",
    absorbing_process,
    steps=600,
    lr=5e-3,
    model=lambda: network(absorbing_process(), 64, 2),
)
letters_large = recipe(
    "letters_large",
    absorbing_process,
    steps=15_000,  # about six passes over the addresses
    batch=32,
    ema=0.999,
    model=lambda: network(absorbing_process(), 192, 6),
    options={"precision": torch.bfloat16},
)
hybrid = recipe(
    "hybrid", lambda: uniform_process(ce_weight=0.01)
)  # as D3PM's code weighs it
ar = recipe(
    "ar",
    lambda: Autoregressive(K, LENGTH),
    model=lambda: CausalNet(K, 96, heads=4, depth=3),
    measure=measure_writer,
)
by_noise = Measurement("06_d3pm", "two_noises", two_noises)
by_counting = Measurement("06_d3pm", "counting", counting)
