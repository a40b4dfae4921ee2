"""What the recipes are, and what they reached, as tables of text: from the files that runs wrote."""

import math
from pathlib import Path

from ..files import read_json
from .run import ASSETS, Measurement, full_name, named, systems


def listing(words: str = "") -> str:
    """One line for each recipe whose name holds these words: steps, batch, and how long the shipped run took."""
    rows = [("recipe", "files", "steps", "batch", "shipped run")]
    for system in systems():
        for name, recipe in named(system).items():
            called = f"{system}.{name}"
            if words not in called:
                continue
            size = ("-", "-")
            if not isinstance(recipe, Measurement):
                size = (f"{recipe.steps:,}", str(recipe.batch))
            rows.append((called, full_name(recipe), *size, took(full_name(recipe))))
    return aligned(rows)


def took(name: str) -> str:
    """Minutes and device of the run that was shipped; "-" if none was."""
    path = ASSETS / f"{name}.log.json"
    if not path.is_file():
        return "-"
    log = read_json(path)
    return f"{minutes(log):.0f} min, {log['device']}"


def aligned(rows: list[tuple[str, ...]]) -> str:
    """Columns under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)) for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


# Results


def results(folder: Path) -> str:
    """Markdown table of the runs in a folder of chapters that measured a bound or samples."""
    rows = [
        "| recipe | steps | bits on test | quality | made on |",
        "|:--|--:|--:|:--|:--|",
    ]
    for path in sorted(folder.glob("*/*.results.json")):
        r = read_json(path)
        log = read_json(path.with_name(path.name.replace(".results.", ".log.")))
        # Where no command makes the weights again.
        how = f"; {log['made']}" if "made" in log else ""
        made = f"{log['device']}, {minutes(log):.0f} min{how}"
        # Statistics, times and the like have no row here.
        if (bits(r), likeness(r)) != ("-", "-"):
            steps = log.get("steps", "-")
            rows.append(
                f"| `{log['recipe']}` | {steps} | {bits(r)} | {likeness(r)} | {made} |"
            )
    return "\n".join(rows)


def minutes(log: dict) -> float:
    """Minutes that a run took: of the processor where they were counted, since a busy machine stretches the clock's."""
    return log.get("cpu_seconds", log["seconds"]) / 60


def bits(r: dict) -> str:
    """The bound with its standard error, per dimension, character, word or target; "-" where none was measured."""
    # By the keys that there are: a recipe's results say what kind they are.
    for key, unit in (("bits_per_dim", "/ dim"), ("bits_per_char", "/ char")):
        if key in r:
            return f"{r[key]:.3f} ± {r[f'{key}_se']:.3f} {unit}"
    nats = [(r.get("bound_per_word"), r.get("bound_per_word_se"), "word")]
    nats += [
        (r[k]["mean"], r[k]["se"], "target")
        for k in ("bound", "nll")
        if isinstance(r.get(k), dict)
    ]
    for mean, se, unit in nats:
        if mean is not None:
            return f"{mean / math.log(2):.3f} ± {se / math.log(2):.3f} / {unit}"
    return "-"


def likeness(r: dict) -> str:
    """Pictures: share of samples, of real ones and of noise that a judge accepts. Text: share of known words, or
    perplexity and variety of samples and of real text. Pairs: errors, or BLEU and that of copying."""
    if "steps" in r and "words_known" in r.get("real", {}):
        # Keys of JSON are text, in which 1000 comes before 256.
        most = max(r["steps"], key=int)
        return f"{r['steps'][most]['words_known']:.2f} / {r['real']['words_known']:.2f} of words"
    if "samplers" in r and "perplexity" in r.get("real", {}):
        way, real = r["samplers"][r["sampler"]], r["real"]
        best = way[max(way, key=int)]
        varied = f"distinct-2 {best['distinct2']:.2f} / {real['distinct2']:.2f}"
        return (
            f"perplexity {best['perplexity']:.0f} / {real['perplexity']:.0f}, {varied}"
        )
    if "candidates" in r:
        best = r["candidates"][max(r["candidates"], key=int)]
        if "bleu" in best:
            return f"BLEU {best['bleu']:.1f} / {r['copy']:.1f}"
        return f"{best['wer']:.1%} of words, {best['per']:.1%} of phones wrong"
    shares = r.get("accepted", {})
    return (
        " / ".join(
            f"{shares[k]:.2f}" for k in ("samples", "real", "noise") if k in shares
        )
        or "-"
    )
