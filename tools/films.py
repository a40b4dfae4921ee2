"""Animations that play without a kernel: frames of a slide, one after the other under the arrow keys.

Drawn when decks are built, by the same functions and with the same shipped weights as in the notebooks.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

FRAMES = 7  # the first, the middle and the last stand in print: every third


class Film(NamedTuple):
    """Frames, and the cell of the notebook behind whose slide they are shown."""

    behind: str  # id of the cell
    title: str
    alt: str
    note: str  # for the lecturer
    frames: Callable[[], Iterator[bytes]]  # PNG


def of(stem: str) -> list[Film]:
    """The films of a notebook's deck."""
    return FILMS.get(stem, [])


def png(fig) -> bytes:
    """A figure as a PNG for the wall, in 64 colours."""
    from course_lib.style import WALL, encode, pixels

    return encode(pixels(fig, WALL))


def moments(n: int, last: int) -> list[int]:
    """n numbers from 0 to last, as evenly as whole numbers allow."""
    return [round(k * last / (n - 1)) for k in range(n)]


@cache
def verses() -> list[list[list[str]]]:
    """The run of README's animation, from masks to words."""
    from tools.text_picture import states

    return states()


def words(lines, before, label: str) -> bytes:
    """Verses large enough for the wall; words that are new since `before` in the colour of what is learned."""
    from matplotlib.figure import Figure

    from course_lib.diagrams import write

    fig = Figure(figsize=(8, 3.6))
    fig.text(0.01, 0.93, label, fontsize=14)
    for k, (line, old) in enumerate(zip(lines, before, strict=True)):
        half = (len(line) + 1) // 2  # two rows a verse
        for row, part in enumerate((slice(half), slice(half, None))):
            y = 0.78 - 0.28 * k - 0.12 * row
            write(fig, (0.01, y), line[part], old[part], fontsize=17)
    return png(fig)


def reverse_text() -> Iterator[bytes]:
    """Masks become words."""
    seen = verses()
    before = seen[0]
    for k in moments(FRAMES, len(seen) - 1):
        yield words(seen[k], before, f"t = {1 - k / (len(seen) - 1):.2f}")
        before = seen[k]


def forward_text() -> Iterator[bytes]:
    """Words become masks: each has one number in (0, 1), and is hidden from that time on."""
    import torch

    from course_lib.diagrams import MASKED

    said = verses()[-1]
    torch.manual_seed(0)
    hidden_at = [torch.rand(len(line)).tolist() for line in said]
    for k in range(FRAMES):
        t = k / (FRAMES - 1)
        lines = [
            [MASKED if u < t else word for word, u in zip(line, times, strict=True)]
            for line, times in zip(said, hidden_at, strict=True)
        ]
        yield words(lines, said, f"t = {t:.2f}")


def matrices() -> Iterator[bytes]:
    """Where 16 tokens are after t of 100 steps, under three noises."""
    import torch

    from course_lib import schedules
    from course_lib.absorbing import Absorbing
    from course_lib.plots import heats
    from course_lib.stationary import Uniform
    from course_lib.structured import gaussian

    noises = {
        "random tokens": Uniform(16, schedules.table(schedules.cosine(power=1), 100)),
        "masks": Absorbing(16, schedules.table(schedules.log_linear(0.0), 100, max_beta=1.0)),
        "a near token": gaussian(16, torch.linspace(1e-3, 0.2, 100)),
    }
    for t in (0, 5, 10, 20, 40, 70, 100):
        after = {name: q.matrix(torch.tensor([0]), torch.tensor([t]))[0] for name, q in noises.items()}
        yield png(heats(after, f"From x_0 (rows) to x_t (columns), t = {t}", top=1.0))


def trajectories() -> Iterator[bytes]:
    """Particles on their way from noise to two bumps, by the SDE above and by the ODE below, from the same noise."""
    import torch
    from matplotlib.figure import Figure

    from course_lib import schedules
    from course_lib.colours import COLOURS
    from course_lib.data import two_bumps
    from course_lib.oracle import MixtureOracle
    from course_lib.process import sample
    from course_lib.sde import VP
    from course_lib.solvers import Heun

    vp, runs = VP(schedules.linear(), (1,)), {}
    for name, process in {"with noise (SDE)": vp, "without (ODE)": Heun(vp)}.items():
        torch.manual_seed(1)
        states = list(sample(process, MixtureOracle(vp, two_bumps()), 40, 100))
        runs[name] = [t for t, _ in states], torch.stack([x[:, 0] for _, x in states])
    for k in moments(FRAMES, 100):
        fig = Figure(figsize=(8, 3.6), layout="constrained")
        for ax, (name, (times, x)) in zip(fig.subplots(2, sharex=True), runs.items(), strict=True):
            ax.plot(times[: k + 1], x[: k + 1], color=COLOURS["data"], alpha=0.4, linewidth=0.8)
            ax.plot([times[k]] * 40, x[k], ".", color=COLOURS["data"])
            ax.set(xlim=(1.02, -0.02), ylim=(-4, 4), ylabel=name)
        ax.set(xlabel=f"t = {times[k]:.2f}")
        yield png(fig)


FILMS = {
    "03_sde_and_ode": [
        Film(
            "cbba077f7520",
            "Two ways back from the same noise",
            "Forty particles move from noise at t = 1 to two bumps at t = 0: trembling and crossing with noise, "
            "smooth and in order without.",
            "Ask at each key: which of the two could be run backwards?",
            trajectories,
        )
    ],
    "06_d3pm": [
        Film(
            "87dd7c84bb9a",
            "Forward: words become masks",
            "Three verses at t = 0; by t = 1 each word has become a mask, at a time of its own, and stays one.",
            "Ask at t = 0.5: could you write it again? Which words first?",
            forward_text,
        ),
        Film(
            "1f15f0cee9b4",
            "Back: masks become words",
            "Three lines of masks at t = 1; at t = 0 they are verses. New words stand in the learned colour.",
            "The network of words, seed 0, none chosen. Ask before each key which gap closes next.",
            reverse_text,
        ),
        Film(
            "3e0429d70f09",
            "Three noises as matrices",
            "Three matrices of 16 tokens from t = 0 to 100: under random tokens the diagonal fades into an even field, "
            "masks fill the last column, near tokens spread out from the diagonal.",
            "Ask: which of the three forgets where it came from last?",
            matrices,
        ),
    ],
}
