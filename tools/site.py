"""The course as a web site: `python -m tools.site` writes one folder of static pages that loads nothing from elsewhere.

Each notebook is a page with its stored outputs; beside them the errata, the equations, the glossary and the pages of
docs/. Sphinx and myst-nb make the pages, MathJax comes from the same checked wheel as that of the slides.
"""

import argparse
import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from course_lib import errata
from tools import copies, figures, slides, slides_index, slides_ready
from tools.readme import repository
from tools.where import find

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = Path(__file__).parent / "site_template"
DECKS = ROOT / "build" / "slides"
DOCS = ("TEACHING", "GLOSSARY", "REFERENCE", "RESULTS", "SAMPLERS", "COMPARE", "SCALING", "ARCHITECTURE")
TAGGED = re.compile(r"\\tag\{([A-Z]?\d+\.\d+)\}")
MATH_OR_CODE = re.compile(r"(```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|<[^>]*>|\[[^\]]*\]\([^)]*\))", re.S)
PICTURES = re.compile(r"assets/\w+/([\w.]+\.(?:gif|png))")  # of README
NAMED = re.compile(r"\(([A-Z]?\d+\.\d+)\)")
# What a page cannot show without a kernel, or shows by loading a script from elsewhere
LIVE = "application/vnd.jupyter.widget-view+json"


class SiteError(Exception):
    """A site that cannot be built; the message says what to do."""


# a notebook as a page


def page(path: Path, anchors: dict[str, str], pages: set[str], home: str | None):
    """The notebook as its page is made from: no lecturer's notes, nothing live, words for pictures, links that lead on.

    anchors  number of an equation -> the page it stands on
    pages    the names of all pages, without their endings
    home     the repository's address, for links to files that have no page
    """
    nb = nbformat.read(path, as_version=4)
    figures.sharpen(nb, path)
    cells = [cell for cell in nb.cells if not slides_ready.OWN_SCORE.fullmatch(cell.source)]
    nb.cells = [copy.deepcopy(cell) for cell in cells if not is_for_the_lecturer(cell)]
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = prose(cell.source, path.stem, anchors, pages, home)
        elif cell.cell_type == "code":
            still(cell, path.stem, pages, home)
    own_headings(nb.cells)
    links = onward(path.stem, home)
    nb.cells.insert(1, nbformat.v4.new_markdown_cell(links))
    nb.metadata.pop("made_from", None)
    return nb


def is_for_the_lecturer(cell) -> bool:
    """Whether it is a note for the lecturer."""
    return "notes" in cell.metadata.get("tags", []) or slides_ready.slide_type(cell) == "notes"


def still(cell, stem: str, pages: set[str], home: str | None) -> None:
    """A code cell without what is live or for one reader only; its picture gets its words."""
    cell.source = cell.source.removeprefix("# NBVAL_CHECK_OUTPUT\n")
    if copies.only_draws(cell):
        cell.metadata.setdefault("tags", []).append("hide-input")  # myst-nb's word for folded code
    cell.outputs = [output for output in cell.outputs if not slides_ready.is_for_one_reader(output)]
    words, widths = [], set()
    for output in cell.outputs:
        data = output.get("data", {})
        data.pop(LIVE, None)
        if "text/markdown" in data:
            said = linked(data["text/markdown"], pages, home)
            data["text/markdown"] = re.sub(
                r"\]\((\w+)\.(?:ipynb|md)", r"](\1.html", said
            )  # no page of Sphinx's
        if about := output.get("metadata", {}).get("image/png"):
            words.append(about.get("alt"))
            widths.add(about.get("width"))
    if said := " ".join(filter(None, words)):
        cell.metadata["mystnb"] = {"image": {"alt": said}}
        if widths != {None}:
            cell.metadata["mystnb"]["image"]["width"] = f"{max(filter(None, widths))}px"


def prose(text: str, stem: str, anchors: dict[str, str], pages: set[str], home: str | None) -> str:
    """Markdown as the site needs it: links, equations that can be linked to and are, formulas in hints."""
    text = slides_ready.PICTURE.sub(
        lambda found: f"{found[1]}_static/{Path(found[2]).name}", linked(text, pages, home)
    )
    parts = MATH_OR_CODE.split(text)
    parts[::2] = [NAMED.sub(lambda found: to_equation(found, stem, anchors), part) for part in parts[::2]]
    text = "".join(parts)
    text = re.sub(r"<details>", '<details class="mathjax_process">', text)
    marks = [f'<span id="{anchor(number)}"></span>' for number in TAGGED.findall(text)]
    return "".join(marks) + "\n\n" * bool(marks) + text


def anchor(number: str) -> str:
    """The id of an equation on its page."""
    return "eq-" + number.replace(".", "-")


def to_equation(found: re.Match, stem: str, anchors: dict[str, str]) -> str:
    """A link to the equation of that number, where there is one."""
    number = found[1]
    if number not in anchors:
        return found[0]
    page = "" if anchors[number] == stem else f"{anchors[number]}.html"
    return f'<a href="{page}#{anchor(number)}">({number})</a>'


def linked(text: str, pages: set[str], home: str | None) -> str:
    """Links to notebooks and docs lead to pages, those to other files to the repository, or are words without one."""

    def lead(found):
        words, target = found[1], found[2]
        if re.match(r"\w+:|#", target):
            return found[0]
        file, _, place = target.partition("#")
        name = Path(file).stem
        if name in pages and Path(file).suffix in (".ipynb", ".md"):
            return f"[{words}]({Path(file).name}{'#' * bool(place)}{place})"
        here = file.removeprefix("../").removeprefix("./")
        return f"[{words}]({home}/blob/main/{here})" if home else words

    return re.sub(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)", lead, text)


def own_headings(cells) -> None:
    """One heading of the first level, at the top; no level is left out below it."""
    seen = 1
    for number, cell in enumerate(cells):
        if cell.cell_type != "markdown":
            continue
        lines, fenced = [], False
        for line in cell.source.split("\n"):
            fenced ^= line.startswith("```")
            found = None if fenced else re.match(r"(#+) ", line)
            if found:
                level = len(found[1]) if number == 0 else max(2, len(found[1]))
                level = min(level, seen + 1)
                line, seen = "#" * level + line[len(found[1]) :], level
            lines.append(line)
        cell.source = "\n".join(lines)


def onward(stem: str, home: str | None) -> str:
    """Below the title: the deck, its PDF, and where the notebook runs."""
    links = [("Slides", f"slides/{stem}.html")]
    printed = (("as PDF", f"{stem}.pdf"), ("with notes", f"{stem}.handout.pdf"))
    links += [(words, f"slides/{name}") for words, name in printed if (DECKS / name).is_file()]
    if home:
        owner = home.removeprefix("https://github.com/")
        colab = f"https://colab.research.google.com/github/{owner}/blob/pages/colab/{stem}.ipynb"
        kaggle = f"https://kaggle.com/kernels/welcome?src={home}/blob/pages/colab/{stem}.ipynb"
        links += [
            ("Open in Colab", colab),
            ("Open in Kaggle", kaggle),
            ("Notebook", f"{home}/blob/main/notebooks/{stem}.ipynb"),
        ]
    shown = [f'<a href="{target}">{words}</a>' for words, target in links]
    return f'<div class="course-links">{" ".join(shown)}</div>'


# generated pages


def equations(notebooks: list[Path]) -> dict[str, list[tuple[str, str]]]:
    """Name of the notebook -> (number, formula) of each numbered equation."""
    found = {}
    for path in notebooks:
        cells = nbformat.read(path, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        blocks = re.findall(r"\$\$(.+?)\$\$", text, re.S)
        found[path.stem] = [(number, block) for block in blocks for number in TAGGED.findall(block)]
    return found


def equation_page(found: dict[str, list[tuple[str, str]]], titles: dict[str, str]) -> str:
    """All numbered equations, by chapter, each with a link to where it is derived."""
    lines = ["# Index of equations", "", "Each number leads to the place where the equation is derived.", ""]
    for stem, formulas in found.items():
        if formulas:
            lines += [f"## {titles[stem]}", ""]
        for number, formula in formulas:
            shown = TAGGED.sub("", formula).strip().rstrip(",.")
            lines += [f'<a href="{stem}.html#{anchor(number)}">({number})</a>', "", f"$$\n{shown}\n$$", ""]
    return "\n".join(lines)


def errata_page(folder: Path, titles: dict[str, str], anchors: dict[str, str]) -> str:
    """The errata that stand in the chapters' cells, by chapter and source."""
    lines = ["# Errata of papers and released code", ""]
    lines += [
        "Found while the course was written; each is shown, with its evidence, in the chapter named.",
        "",
    ]
    last = ("", "")
    for found in errata.collect(folder):
        if found.chapter != last[0]:
            lines += ["", f"## [{titles[found.chapter]}]({found.chapter}.ipynb)", ""]
        if (found.chapter, found.source) != last:
            lines += ["", f"**{found.source}**", ""]
        last = found.chapter, found.source
        lines += [f"- {prose(found.finding, '', anchors, set(), None)}"]
    return "\n".join(lines)


def landing(readme: str, notebooks: list[Path], titles: dict[str, str]) -> str:
    """The first page: the head of README, how to run it, and the pages by kind."""
    head = PICTURES.sub(r"_static/\1", readme.split("\n## ")[0])
    head = re.sub(r"\A# .*\n", "# From DDPM to SEDD\n", head)
    start = (
        "Begin with [chapter 0](00_start_here.ipynb), look at the [slides](slides/index.html), or read the "
    )
    start += "[errata](errata.md) of papers and code that the course found."
    start = start.replace("[slides](slides/index.html)", '<a href="slides/index.html">slides</a>')
    trees = {"Chapters": [path.stem for path in notebooks if path.stem[0].isdigit()]}
    trees["Appendices"] = [path.stem for path in notebooks if not path.stem[0].isdigit()]
    trees["Around it"] = ["errata", "equations", *DOCS]
    lines = [linked(head, {path.stem for path in notebooks}, None), "", start, ""]
    for caption, names in trees.items():
        lines += (
            ["```{toctree}", ":maxdepth: 1", f":caption: {caption}", "", *names, "```", ""] if names else []
        )
    return "\n".join(lines)


# build


def write_source(folder: Path, notebooks: list[Path], root: Path = ROOT) -> None:
    """All that Sphinx reads, into an empty folder."""
    home = repository(root)
    found = equations(notebooks)
    anchors = {number: stem for stem, formulas in found.items() for number, _ in formulas}
    cells = {path.stem: nbformat.read(path, as_version=4).cells for path in notebooks}
    titles = {stem: slides_index.title(of, stem) for stem, of in cells.items()}
    pages = {*titles, *DOCS, "errata", "equations"}
    static = folder / "_static"
    static.mkdir(parents=True)
    for path in notebooks:
        nbformat.write(page(path, anchors, pages, home), folder / path.name)
        for picture in pictures(path):
            place = (
                folder / picture.relative_to(path.parent.resolve())
                if picture.is_relative_to(path.parent.resolve())
                else None
            )
            if place:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(picture, place)
    texts = {
        "index": landing((root / "README.md").read_text(encoding="utf-8"), notebooks, titles),
        "equations": equation_page(found, titles),
        "errata": errata_page(notebooks[0].parent, titles, anchors),
    }
    for name in DOCS:
        text = (root / "docs" / f"{name}.md").read_text(encoding="utf-8")
        texts[name] = linked(re.sub(r"<!--.*?-->", "", text), pages, home)
    for name, text in texts.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    for name in ("conf.py", "site.css", "site.js", "icon.svg"):
        shutil.copy(TEMPLATE / name, folder if name == "conf.py" else static)
    (static / "tex-svg-full.js").write_text(slides.browser_files()["mathjax_js"], encoding="utf-8")
    for picture in PICTURES.finditer((root / "README.md").read_text(encoding="utf-8")):
        shutil.copy(root / picture[0], static)
    for moving in root.glob("assets/*/*.gif"):
        shutil.copy(moving, static)


def pictures(path: Path) -> list[Path]:
    """Files beside a notebook that its text shows."""
    text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    names = [name for _, name in slides_ready.PICTURE.findall(text)]
    return [(path.parent / name).resolve() for name in names]


def build(out: Path, notebooks: list[Path], root: Path = ROOT) -> Path:
    """The site in out/html: pages, decks that have been built, notebooks for Colab. SiteError if Sphinx complains."""
    source, html = out / "source", out / "html"
    for folder in (source, html):
        shutil.rmtree(folder, ignore_errors=True)
    write_source(source, notebooks, root)
    command = [sys.executable, "-m", "sphinx", "-q", "-j", "2", "-b", "html", str(source), str(html)]
    done = subprocess.run([*command, "-W", "--keep-going"], capture_output=True, text=True)
    if done.returncode:
        raise SiteError(f"Sphinx said:\n{done.stderr.strip()}")
    if DECKS.is_dir():
        shutil.copytree(DECKS, html / "slides", dirs_exist_ok=True, ignore=shutil.ignore_patterns("tmp*"))
    if home := repository(root):
        copies.write("colab", notebooks, html / "colab", home)
    (html / ".nojekyll").touch()  # folders that begin with _ are published, too
    return html


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 with what is wrong on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=__doc__)
    parser.add_argument("paths", nargs="*", default=["notebooks"], help="notebooks or folders (notebooks/)")
    parser.add_argument("--out", default="build/site", type=Path, help="folder (build/site)")
    parser.add_argument(
        "--check",
        action="store_true",
        help="look at each page in Chromium, network cut; links are followed without",
    )
    options = parser.parse_args(arguments)
    try:
        html = build(options.out, find(options.paths))
    except (SiteError, slides.DeckError) as error:
        print(error, file=sys.stderr)
        return 1
    problems = []
    if options.check:
        from tools import site_check

        problems = site_check.check(html)
    print(*problems, sep="\n", end="\n" * bool(problems), file=sys.stderr)
    print(f"{html / 'index.html'}: {len(list(html.glob('*.html')))} pages", flush=True)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
