"""D3PM, MDLM, SEDD and autoregression on words: the verses, vocabulary, split and lengths of Diffusion-LM's recipe.

Three networks of one size, batch and learning rate, measured on the dev books now and then; the best weights are kept:

    masked    all masks: the same weights are MDLM, D3PM with absorbing noise and SEDD on masks with the mass known
    uniform   random words: the same weights are D3PM with uniform noise and, by an exact conversion, SEDD
    ar        the next word from those before it; over-fits in a few passes, so it makes fewer steps

A verse is given its length, as in Diffusion-LM, and -log p(length) is part of its bound; autoregression writes END.
The networks run in bfloat16, which a CPU that has it does nearly twice as fast.
"""

from collections.abc import Callable

import torch

from .. import schedules
from ..absorbing import Absorbing
from ..autoregressive import Autoregressive
from ..d3pm import D3PM
from ..evaluate import bound
from ..learning_rate import warmup_cosine
from ..mdlm import MDLM
from ..nets import CausalNet, TokenNet
from ..process import Process
from ..sentences import bucketed
from ..shapes import Network, Tokens
from ..stationary import Uniform
from .run import Measurement, Recipe, spaced
from .verse_rows import AnyOrder, Verses, ended, rows, size, words_and_ends
from .verse_sets import LENGTH
from .word_measures import measure_masked, measure_uniform, measure_writer
from .word_orders import measure_orders

T = 1000
WIDTH, HEADS, DEPTH = 256, 4, 4
SEEN = 800  # verses of the dev books that the curve is of


def masked_process() -> MDLM:
    """MASK by the log-linear clock."""
    return MDLM(Absorbing(size(), schedules.log_linear()), LENGTH)


def uniform_process() -> D3PM:
    """Random words by the same clock, in T steps."""
    clock = schedules.table(schedules.log_linear(), T)
    return D3PM(Uniform(size(), clock), LENGTH)


def ar_process() -> Autoregressive:
    """One word after the other, and END."""
    return Autoregressive(size() + 1, LENGTH + 1)


def network(K: int) -> TokenNet:
    """6.4 million weights, a quarter of them the words' vectors."""
    return TokenNet(K, size(), WIDTH, HEADS, DEPTH, radius=4, dropout=0.1, tied=True)


def writer() -> CausalNet:
    """The same trunk and table; more dropout, since it learns by heart sooner."""
    return CausalNet(size() + 1, WIDTH, HEADS, DEPTH, dropout=0.2, tied=True)


def dev_nats(process: Process, data: Callable[[str], Tokens], model: Network) -> float:
    """Nats per word of SEEN dev verses."""
    x = data("dev")[spaced(len(data("dev")), SEEN)]
    x = x[words_and_ends(x).argsort(stable=True)]  # like lengths together
    return bound(process, model, x, batch=100, per=words_and_ends(x)).mean


def slow_start(peak: float, steps: int):
    """400 steps of warm-up."""
    return warmup_cosine(peak, steps, warmup=min(400, steps // 2))


def recipe(name: str, data: Callable[[str], Tokens], **options) -> Recipe:
    """What they have in common."""
    # The learning rate falls to 0 at the end; `watch` keeps the best on the way.
    common = {"steps": 20_000}
    return Recipe(
        chapter="06_d3pm",
        name=f"words_{name}",
        data=lambda split: (data(split), None),
        batch=64,
        lr=2e-3,
        ema=0.999,
        stream=bucketed,
        schedule=slow_start,
        options={"precision": torch.bfloat16},
        **common | options,
    )


masked = recipe(
    "masked",
    rows,
    process=masked_process,
    trains=lambda: Verses(masked_process()),
    model=lambda: network(size() + 1),
    watch=lambda model: dev_nats(AnyOrder(masked_process()), rows, model),
    measure=measure_masked,
)
uniform = recipe(
    "uniform",
    rows,
    process=uniform_process,
    trains=lambda: Verses(uniform_process()),
    # One state less than with masks: no MASK.
    model=lambda: network(size()),
    watch=lambda model: dev_nats(Verses(uniform_process()), rows, model),
    measure=measure_uniform,
)
ar = recipe(
    "ar",
    ended,
    process=ar_process,
    model=writer,
    watch=lambda model: dev_nats(ar_process(), ended, model),
    measure=measure_writer,
    steps=6000,
)
by_order = Measurement(
    "06_d3pm",
    "words_by_order",
    lambda device: measure_orders(masked, ar, device),
)
