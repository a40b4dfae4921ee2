"""Write the parts of README.md and assets/README.md that repeat what files already say, so that they cannot disagree.

python -m tools.readme           rewrite them
python -m tools.readme --check   exit 1 where one is out of date
"""

import argparse
import hashlib
import json
import re
import sys
import tomllib
from pathlib import Path

import nbformat

from course_lib import errata
from course_lib.files import write_atomically
from course_lib.recipes import tables
from tools.bench.report import table

ROOT = Path(__file__).resolve().parents[1]
UNFINISHED = (".checkpoint", ".progress.json")  # of a run that goes on: git sees none of it
MADE_BY = {  # ending of an asset's name: what it is and what writes it
    "bench/cpu.json": ("time, memory and floors", "`python -m tools.bench`"),
    "bench/cpu.png": ("figure of these", "`python -m tools.bench`"),
    "bench/exercise_mutants.json": (
        "what checks say of changed references",
        "`python -m tools.exercise_mutants`",
    ),
    ".safetensors": ("weights", "a recipe"),
    ".log.json": ("training log and command", "a recipe"),
    ".results.json": ("measured results", "a recipe"),
    "paper.json": ("numbers of the paper, with their source", "by hand"),
    "which.png": ("figure of these", "`python -m tools.which_picture`"),
    "run_times.json": ("run times of the notebooks", "`make notebooks`"),
    "figures.zip": ("the notebook's figures for walls", "`make notebooks`"),
    ".png": ("picture", "`python -m tools.picture`"),
    "cloud.gif": ("animation", "`python -m tools.cloud_picture`"),
    ".gif": ("animation", "`python -m tools.text_picture`"),
}


def repository(root: Path = ROOT) -> str | None:
    """Where the course lives: [project.urls] Source in pyproject.toml; None until its owner has filled that in."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    source = project.get("urls", {}).get("Source")
    return source.rstrip("/") if source else None


def chapters(root: Path = ROOT) -> str:
    """Markdown table of the notebooks: title, question, measured run time."""
    times = json.loads((root / "assets" / "run_times.json").read_text(encoding="utf-8"))
    rows = ["| chapter | question | Run All, 2 cores |", "|:--|:--|--:|"]
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        card = nbformat.read(path, as_version=4).cells[0].source
        title = re.search(r"^# (?:[A-Z]?\d+\. )?(.*)$", card, re.M)[1]
        question = re.search(r"^\*\*Question\.\*\* (.*)$", card, re.M)
        seconds = f"{times[path.stem]['seconds']} s" if path.stem in times else "not measured"
        link = f"[{path.stem[:2]} {title}](notebooks/{path.name})"
        rows.append(f"| {link} | {question[1] if question else 'Where do I start?'} | {seconds} |")
    return "\n".join(rows)


def results(root: Path = ROOT) -> str:
    """Markdown table of the recipes that measured a bound or samples; others speak in their notebooks only."""
    return tables.results(root / "assets")


# The rows that README shows: what each kind of system reaches on digits, words, pairs and letters.
SHOWN = (
    "01_ddpm/mnist", "02_optimal_variance/learned", "03_sde_and_ode/digits", "04_diffusion_lm/full",
    "05_diffuseq/sounds", "06_d3pm/absorbing", "06_d3pm/letters_large", "06_d3pm/ar", "06_d3pm/words_masked",
    "07_sedd/absorbing",
)  # fmt: skip


def shown(root: Path = ROOT) -> str:
    """The head of the table of results and those of its rows that README shows."""
    head, line, *rows = results(root).splitlines()
    return "\n".join([head, line, *(row for row in rows if re.match(r"\| `(.+?)`", row)[1] in SHOWN)])


def links(root: Path = ROOT) -> str:
    """Where the course can be read and run without installing; how, while its address is not filled in."""
    home = repository(root)
    if home is None:
        return (
            "To read without installing: `make site` builds the pages, and `pages.yml` publishes them; they link each "
            "chapter to Colab and Kaggle. All of these links, here too, are filled in from one line: `Source` under "
            "`[project.urls]` in `pyproject.toml`."
        )
    owner, name = home.removeprefix("https://github.com/").split("/")
    colab = f"https://colab.research.google.com/github/{owner}/{name}/blob/pages/colab/00_start_here.ipynb"
    pages = f"https://{owner.lower()}.github.io/{name}"
    return (
        f"**[Read it online]({pages}/) · [Slides]({pages}/slides/index.html) · [Open it in Colab]({colab})**"
    )


def faults(root: Path = ROOT) -> str:
    """How many errata each chapter found, and in what."""
    found = errata.collect(root / "notebooks")
    rows = ["| chapter | errata | found in |", "|:--|--:|:--|"]
    for stem in dict.fromkeys(e.chapter for e in found):
        here = [e.source for e in found if e.chapter == stem]
        sources = "; ".join(dict.fromkeys(re.split(r"[,:(]", source)[0].strip() for source in here))
        card = nbformat.read(root / "notebooks" / f"{stem}.ipynb", as_version=4).cells[0].source
        name = re.search(r"^# (?:[A-Z]?\d+\. )?([^:\n]*)", card, re.M)[1]
        rows.append(f"| [{stem[:2]} {name}](notebooks/{stem}.ipynb) | {len(here)} | {sources} |")
    return "\n".join(rows)


def index(root: Path = ROOT) -> str:
    """Markdown table of every file under assets: what it is, who writes it, size, sha256."""
    rows = ["| file | what | made by | bytes | sha256 |", "|:--|:--|:--|--:|:--|"]
    for path in sorted((root / "assets").rglob("*")):
        name = path.relative_to(root / "assets").as_posix()
        if path.is_file() and name != "README.md" and not name.endswith(UNFINISHED):
            what, maker = next(v for ending, v in MADE_BY.items() if name.endswith(ending))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            rows.append(f"| {name} | {what} | {maker} | {path.stat().st_size} | {digest} |")
    return "\n".join(rows)


def bench(found: dict) -> str:
    """What was measured by `tools.bench`, and on what."""
    where, versions = found["machine"], found["machine"]["versions"]
    on = where["gpu"] or f"{where['threads']} thread of a CPU ({where['processor']}, {where['cores']} cores)"
    made = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    return f"{on}, {where['system']}, Python {where['python']}, {made}; {found['rounds']} rounds.\n\n{table(found)}"


def fill(text: str, blocks: dict[str, str]) -> str:
    """The text with new blocks between <!-- name --> and <!-- end name -->. ValueError if there is no such place."""
    for name, block in blocks.items():
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise ValueError(f"the page must hold {start} and {end} once each")
        head, rest = text.split(start)
        text = f"{head}{start}\n{block}\n{end}{rest.split(end)[1]}"
    return text


def pages(root: Path = ROOT) -> dict[Path, str]:
    """Each generated page, as it should be."""
    readme, assets = root / "README.md", root / "assets" / "README.md"
    made = {
        readme: {
            "links": links(root),
            "chapters": chapters(root),
            "errata": faults(root),
            "results": shown(root),
        },
        root / "docs" / "RESULTS.md": {"results": results(root)},
        assets: {"index": index(root)},
    }
    measured = root / "assets" / "bench" / "cpu.json"
    if measured.exists():
        found = json.loads(measured.read_text(encoding="utf-8"))
        made[root / "docs" / "SCALING.md"] = {"bench": bench(found)}
    return {path: fill(path.read_text(encoding="utf-8"), blocks) for path, blocks in made.items()}


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Exit status: 1 if --check found a page out of date."""
    parser = argparse.ArgumentParser(prog="python -m tools.readme")
    parser.add_argument("--check", action="store_true")
    check, stale = parser.parse_args(arguments).check, []
    for path, text in pages(root).items():
        if text != path.read_text(encoding="utf-8"):
            stale.append(path)
            if not check:
                write_atomically(path, lambda f, text=text: f.write(text.encode()))
    for path in stale:
        print(f"{path.relative_to(root)}: {'out of date; run make notebooks' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
