"""Chapter 8's scoreboard: what every system reached on letters and on words, read from the files that recipes wrote.

A row whose recipe has not been run says with which command it would be, and gets a number as soon as the file is there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from ..colours import COLOURS
from ..evaluate import Estimate
from ..files import read_json
from ..style import panels
from .run import ASSETS, full_name, systems
from .run import named as recipes_of
from .tables import minutes


class Source(NamedTuple):
    """Where a row comes from: the file of results, the keys of the mean and of its error in it."""

    system: str
    kind: str  # "exact" or "bound"
    results: str  # chapter/name
    mean: tuple[str, ...]
    se: tuple[str, ...] = ()
    made: str = ""  # in place of the training of the file's weights


class Row(NamedTuple):
    """One system. value is None where its recipe was not run yet, and `made` says how to."""

    system: str
    kind: str
    value: Estimate | None
    made: str


def pair(system: str, kind: str, results: str, key: str) -> Source:
    """A mean beside its error: x and x_se."""
    return Source(system, kind, results, (key,), (f"{key}_se",))


def within(system: str, kind: str, results: str, *keys: str) -> Source:
    """A dict with mean and se."""
    return Source(system, kind, results, (*keys, "mean"), (*keys, "se"))


COUNTED = "counts of the training text"
# In the order of the table.
LETTERS = (
    pair("autoregression", "exact", "06_d3pm/ar", "bits_per_char"),
    within("7-gram, Kneser-Ney", "exact", "06_d3pm/counting", "ngrams", "7")._replace(
        made=COUNTED
    ),
    pair("SEDD, masks, mass known", "bound", "07_sedd/absorbing", "bits_per_char"),
    pair("D3PM, masks", "bound", "06_d3pm/absorbing", "bits_per_char"),
    pair("MDLM", "bound", "07_sedd/mdlm", "bits_per_char"),
    pair("SEDD, masks", "bound", "07_sedd/learned_mass", "bits_per_char"),
    pair("D3PM, random letters", "bound", "06_d3pm/uniform", "bits_per_char"),
    pair("SEDD, random letters", "bound", "07_sedd/uniform", "bits_per_char"),
)
WORDS = (
    within(
        "autoregression", "exact", "06_d3pm/words_ar", "bounds", "autoregression, exact"
    ),
    within(
        "4-gram, Kneser-Ney", "exact", "06_d3pm/words_masked", "kneser_ney", "4"
    )._replace(made=COUNTED),
    within(
        "masks, by their number",
        "bound",
        "06_d3pm/words_masked",
        "bounds",
        "any order",
    ),
    within("MDLM, the same weights", "bound", "06_d3pm/words_masked", "bounds", "MDLM"),
    within(
        "SEDD, the same weights",
        "bound",
        "06_d3pm/words_masked",
        "bounds",
        "SEDD, mass known",
    ),
    within(
        "D3PM, the same weights",
        "bound",
        "06_d3pm/words_masked",
        "bounds",
        "D3PM, T = 1000",
    ),
    pair("Diffusion-LM", "bound", "04_diffusion_lm/full", "bound_per_word"),
    within(
        "D3PM, random words",
        "bound",
        "06_d3pm/words_uniform",
        "bounds",
        "D3PM, T = 1000",
    ),
    within(
        "SEDD, the same random words",
        "bound",
        "06_d3pm/words_uniform",
        "bounds",
        "SEDD",
    ),
)


def scoreboard(sources: Sequence[Source], assets: Path = ASSETS) -> list[Row]:
    """One row for each source, in its order: bits per letter of LETTERS, nats per word (ends counted) of WORDS."""
    return [row(source, assets) for source in sources]


def row(source: Source, assets: Path) -> Row:
    """The number of one source, and the minutes that its weights took; or the command that makes it."""
    path = assets / f"{source.results}.results.json"
    # No error: the rest of the table stands without it.
    if not path.is_file():
        command = f"python -m course_lib.recipes run {called(source.results)}"
        return Row(source.system, source.kind, None, f"not trained yet: {command}")
    results = read_json(path)
    # A key that is missing is one, though: a recipe has changed under its reader.
    mean = inside(results, source.mean, path)
    se = inside(results, source.se, path) if source.se else 0.0
    if source.made:
        return Row(source.system, source.kind, Estimate(mean, se), source.made)
    log = read_json(path.with_name(path.name.replace(".results.", ".log.")))
    made = f"{log['steps']:,} steps, {minutes(log):.0f} min"
    return Row(source.system, source.kind, Estimate(mean, se), made)


def inside(results: dict, keys: Sequence[str], path: Path) -> float:
    """The number under these keys; ValueError where a file has none there."""
    value = results
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise ValueError(f"{path.name} must have a number at {' / '.join(keys)}")
        value = value[key]
    return float(value)


def called(results: str) -> str:
    """system.name of the recipe with these files."""
    for system in systems():
        for name, recipe in recipes_of(system).items():
            if full_name(recipe) == results:
                return f"{system}.{name}"
    raise ValueError(f"results must be those of a recipe, but none writes {results}")


def cells(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """Rows of a table: system, number with its standard error, how it is meant, what made it."""
    return [
        (r.system, "-" if r.value is None else str(r.value), r.kind, r.made)
        for r in rows
    ]


def figure(rows: Sequence[Row], title: str, xlabel: str) -> Figure:
    """Bars, least first, with two standard errors, of the rows that have a number; exact and bounds in two colours."""
    have = [r for r in rows if r.value is not None]
    have.sort(key=lambda r: r.value.mean)
    fig, ((ax,),) = panels(title, size=(9, 1.4 + 0.45 * len(have)))
    for kind, role in (("exact", "data"), ("bound", "mask")):
        at = [i for i, r in enumerate(have) if r.kind == kind]
        means = [have[i].value.mean for i in at]
        # Two standard errors: about 95 % of repetitions lie within.
        errors = [2 * have[i].value.se for i in at]
        drawn = ax.barh(at, means, 0.7, color=COLOURS[role], xerr=errors, label=kind)
        ax.bar_label(drawn, [f" {mean:.2f}" for mean in means], padding=6)
    ax.set_yticks(range(len(have)), [r.system for r in have])
    # The first row on top, as in the table.
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.set_xlabel(xlabel)
    # Beside the bars: inside it would hide a number.
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=11)
    return fig


def which(letters: dict) -> Figure:
    """Three tasks, one panel each, from the results of side_by_side.letters: writing by cost, a gap, errors."""
    fig, ((write, gap, errors),) = panels(
        "Which should I use, and why? Lower is better, down to real text", 1, 3, (13, 5)
    )
    writer = letters["calls"]["autoregression"][str(letters["length"])]
    for name, colour in (
        ("D3PM, masks", COLOURS["mask"]),
        ("D3PM, random letters", COLOURS["accent"]),
    ):
        points = letters["calls"][name]
        # As a ratio: seconds mean one machine, their ratio little more than the work.
        x = [v["seconds"] / writer["seconds"] for v in points.values()]
        y = [v["judged_bits"] for v in points.values()]
        error = [2 * v["judged_bits_se"] for v in points.values()]
        label = name.removeprefix("D3PM, ")
        write.errorbar(x, y, error, fmt="o-", color=colour, label=label)
        for calls, at in zip(points, zip(x, y, strict=True), strict=True):
            write.annotate(calls, at, (5, 4), textcoords="offset points", fontsize=12)
    look = {"fmt": "D", "color": COLOURS["data"], "label": "autoregression"}
    write.errorbar([1], [writer["judged_bits"]], [2 * writer["judged_bits_se"]], **look)
    write.axhline(
        letters["real"]["judged_bits"], color=COLOURS["noise"], label="real text"
    )
    write.set(xscale="log", xlabel="cost, 32 texts at once (autoregression = 1)")
    write.set_xticks([0.5, 1, 2, 5, 10], ["1/2", "1", "2", "5", "10"])
    write.minorticks_off()
    write.set(ylabel="judge's bits per letter")
    write.legend(fontsize=11)
    tasks = {
        gap: ("infilling", "judged_bits", "Fill a gap", "judge's bits per letter"),
        errors: ("repair", "wrong", "Mend 10% wrong letters", "share still wrong"),
    }
    for ax, (task, key, title, label) in tasks.items():
        found = {name: v[key] for name, v in letters[task].items()}
        systems = [name for name in found if name != "the text itself"]
        # The text itself is the floor and does not compete.
        best = min(systems, key=lambda name: found[name]["mean"])
        colours = [COLOURS["data"] if n == best else COLOURS["noise"] for n in found]
        means = [v["mean"] for v in found.values()]
        errors_of = [2 * v["se"] for v in found.values()]
        ax.barh(list(range(len(found))), means, 0.5, color=colours, xerr=errors_of)
        for i, name in enumerate(found):
            ax.text(0, i - 0.3, name, fontsize=11, va="bottom")
        # Names stand above their bars, since beside
        # them they would take half the panel.
        ax.set(ylim=(len(found) - 0.4, -0.75), yticks=[], title=title, xlabel=label)
    write.set_title("Write from nothing")
    return fig
