"""One network of masked words, four ways to write with it, and autoregression beside them.

In any order; left to right; left to right several times, of which the verse is kept that the network says is likeliest.

An any-order network knows p(x_i | any other words). Read left to right it is one more autoregressive model, of which
nobody told it that this order is better than others: both what it says of test verses and what it writes decide that.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..autoregressive import Autoregressive
from ..categorical import draw, pick
from ..decoding import Order, Unmask, left_to_right, random_order, temper
from ..evaluate import ratio
from ..mdlm import MDLM
from ..samplers import conditionals
from ..sentences import PAD
from ..shapes import PerExample, Tokens
from .run import Recipe, shipped, spaced
from .verse_rows import AnyOrder, ended, lengths, rows, size
from .verse_rows import words_and_ends as ends
from .verse_sets import LENGTH
from .word_measures import per_word, texts, written_by_writer

TEMPERATURES = (1.0, 0.85, 0.7)
DRAWS = 6  # of about 30 words each: 180 calls for a verse; chapter 4's longest sampler makes 200
OF_DRAWS = (1.0, 0.9, 0.8)  # the choice makes texts less varied already
READ = 400  # test verses that are read left to right
ORDERS = {"any order": random_order, "left to right": left_to_right}


def length_by_length(
    process: MDLM, length: Tensor, write: Callable[[int], Tokens]
) -> Tokens:
    """A verse of each length, (n, LENGTH) with PAD at the ends; write(n) gives n rows of the process's length."""
    x = torch.full((len(length), LENGTH), PAD)
    # Rows of one length together: each has as many steps as words, and no padding.
    for words in length.unique().tolist():
        process.length, these = words, length == words
        x[these, :words] = write(int(these.sum())).cpu()
    return x


@torch.no_grad()
def written_in_order(
    process: MDLM, model: nn.Module, length: Tensor, order: Order, temperature: float
) -> Tokens:
    """A verse of each length, (n, LENGTH) with PAD at the ends, its words unmasked one at a time."""
    change = partial(temper, temperature=temperature)

    def write(n: int) -> Tokens:
        """By a sampler made anew: it takes the process's length as it is then."""
        return Unmask(process, order, change=change).sample(model, n)

    return length_by_length(process, length, write)


@torch.no_grad()
def drawn_with_nats(
    process: MDLM, model: nn.Module, n: int, temperature: float
) -> tuple[Tokens, PerExample]:
    """n texts (n, length) left to right, and -sum_i log p(x_i | x_<i) of each, in nats; p is the network's at 1."""
    shape, device = (n, process.length), process.device
    x = torch.full(shape, process.noise.mask, device=device)
    nats = torch.zeros(n, dtype=torch.double, device=device)
    for i in range(process.length):
        where = torch.zeros_like(x, dtype=torch.bool)
        where[:, i] = True
        p = conditionals(process, model, x, where)[:, None]
        word = draw(temper(p, temperature))
        nats -= pick(p, word)[:, 0].log()
        x[:, i] = word[:, 0]
    return x, nats


@torch.no_grad()
def likeliest_of(
    process: MDLM, model: nn.Module, length: Tensor, draws: int, temperature: float
) -> Tokens:
    """A verse of each length, (n, LENGTH) with PAD at the ends: of so many drawn left to right the likeliest."""

    def write(n: int) -> Tokens:
        """The likeliest of each n-th text."""
        drawn, nats = drawn_with_nats(process, model, n * draws, temperature)
        best = nats.view(draws, n).argmin(0)
        return drawn.view(draws, n, -1)[best, torch.arange(n, device=best.device)]

    return length_by_length(process, length, write)


@torch.no_grad()
def nats_in_order(process: MDLM, model: nn.Module, x: Tokens) -> PerExample:
    """-log p(length) - sum_i log p(x_i | x_<i, the length) of each verse: what it costs left to right."""
    count = (x != PAD).sum(1)
    nats = -AnyOrder(process).log_length[count].double()
    for words in count.unique().tolist():
        process.length, these = words, count == words
        verses = x[these, :words].to(process.device)
        for i in range(words):
            seen = verses.clone()
            seen[:, i:] = process.noise.mask
            where = torch.zeros_like(seen, dtype=torch.bool)
            where[:, i] = True
            p = conditionals(process, model, seen, where)[:, None]
            nats[these] -= pick(p, verses[:, i : i + 1])[:, 0].log().cpu()
    return nats


def said_of(made: dict[float, Tokens], n: int, shown: float) -> dict:
    """Quality by temperature, and the first five at the one that is shown."""
    said = texts(made, n)
    return {
        "by": said["samplers"]["own"],
        "shown": shown,
        "samples": said["samples"][shown],
    }


def the_lengths(n: int, seed: int) -> Int[Tensor, " n"]:
    """n lengths of training verses: the same for every order and temperature."""
    torch.manual_seed(seed)
    return torch.multinomial(lengths().double(), n, replacement=True)


def read(process: MDLM, model: nn.Module, writer: nn.Module, n: int, seed: int) -> dict:
    """Nats per word of the same n test verses: mean over orders, left to right, and autoregression."""
    some = spaced(len(rows("test")), n)
    x = rows("test")[some]
    mean, se = ratio(nats_in_order(process, model, x), ends(x))
    any_order = AnyOrder(process).to(process.device)
    ar = Autoregressive(size() + 1, LENGTH + 1).to(process.device)
    place = process.device
    return {
        "any order, mean": per_word(any_order, model, x.to(place), 4, seed),
        "left to right": {"mean": mean, "se": se},
        "autoregression": per_word(ar, writer, ended("test")[some].to(place), 1, seed),
    }


def measure_orders(
    masked: Recipe, ar: Recipe, device: str, n: int = 64, seed: int = 0
) -> dict:
    """What order and temperature do to the texts of one network, and which order it reads best."""
    model, writer = shipped(masked, device).eval(), shipped(ar, device).eval()
    process = masked.process().to(device)
    length = the_lengths(n, seed)
    out = {"n": n, "read_verses": READ, "draws": DRAWS, "of": {}}
    out["calls"] = DRAWS * length.double().mean().item()
    for name, order in ORDERS.items():
        made = {
            T: written_in_order(process, model, the_lengths(n, seed), order, T)
            for T in TEMPERATURES
        }
        out["of"][name] = said_of(made, n, min(TEMPERATURES))
        print(name, out["of"][name]["by"], flush=True)
    made = {
        T: likeliest_of(process, model, the_lengths(n, seed), DRAWS, T)
        for T in OF_DRAWS
    }
    name = f"left to right, likeliest of {DRAWS}"
    out["of"][name] = said_of(made, n, sorted(OF_DRAWS)[-2])
    print(name, out["of"][name]["by"], flush=True)
    made = {}
    for T in TEMPERATURES:
        by_word = Autoregressive(size() + 1, LENGTH + 1, T).to(device)
        made[T] = written_by_writer(by_word, writer, n, seed)
    out["of"]["autoregression"] = said_of(made, n, min(TEMPERATURES))
    out["read"] = read(process, model, writer, READ, seed)
    out["real"] = texts({}, n)["real"]
    return out
