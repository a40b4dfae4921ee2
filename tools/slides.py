"""Turn notebooks into self-contained slide decks, and prove that each shows everything with no network."""

import argparse
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbconvert.exporters import SlidesExporter

from course_lib.files import write_atomically
from tools import slides_index, slides_short
from tools.slides_ready import PICTURE_ONLY, DeckError, as_shown, formulas_on, heading, slides_of
from tools.where import find

WIDTH, HEIGHT = 1280, 720
SMALLEST = 0.97  # of the size in which a figure was drawn, in which its words have 18 px; one as wide as a slide may do
MARGIN = 3  # pixels; brackets and numbers are round
MAX_BYTES = 8_000_000
MAX_COLUMNS = 88
TEMPLATE = Path(__file__).parent / "slides_template"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LOADS = {"img", "script", "link", "iframe", "source", "video", "audio", "embed", "object", "image", "use"}
NO_WORDS = "No description has been provided for this image"  # nbconvert's
SOURCES = {"src", "href", "srcset", "data", "xlink:href", "poster"}
OUTSIDE = re.compile(r"url\(\s*['\"]?(?!['\"]?(?:data:|#))([^)]*)")


class Wheel(NamedTuple):
    """A package whose wheel carries browser files: {name in the template: path in the wheel}."""

    name: str
    version: str
    sha256: str
    files: dict[str, str]


WHEELS = (
    Wheel(
        "sphinx-revealjs",
        "3.2.1",
        "805bed3ca459346e0f01967d5ed1c40d6b7b917de1541e1e4566c8341fe7017b",
        {
            "reset_css": "sphinx_revealjs/_static/revealjs/dist/reset.css",
            "reveal_css": "sphinx_revealjs/_static/revealjs/dist/reveal.css",
            "reveal_js": "sphinx_revealjs/_static/revealjs/dist/reveal.js",
            "notes_js": "sphinx_revealjs/_static/revealjs/plugin/notes/notes.js",
        },
    ),
    Wheel(
        "sphinx-mathjax-offline",
        "0.0.2",
        "206418155b2ff2f57496fb8501fdccae3da978e53031ff296c73729ba16062c4",
        {"mathjax_js": "sphinx-mathjax-offline/static/mathjax/tex-svg-full.js"},
    ),
)


# reveal.js and MathJax


def cache_folder() -> Path:
    """Where downloaded wheels are kept: vendor/ in COURSE_CACHE if that is set, else build/vendor."""
    return Path(os.environ.get("COURSE_CACHE") or "build") / "vendor"


def browser_files() -> dict[str, str]:
    """The texts of reveal.js and MathJax, from checked wheels; a missing wheel is downloaded once."""
    texts = {}
    for wheel in WHEELS:
        with zipfile.ZipFile(_fetch(wheel)) as archive:
            texts |= {name: archive.read(path).decode("utf-8") for name, path in wheel.files.items()}
    return texts


def _fetch(wheel):
    cached = cache_folder() / f"{wheel.name.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
    if not _is(wheel, cached):
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            _download(wheel, folder)
            os.replace(Path(folder) / cached.name, cached)
    return cached


def _is(wheel, path):
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == wheel.sha256


def _download(wheel, folder):
    """pip checks the hash; DeckError says how to get the file where no registry can be reached."""
    pinned = f"{wheel.name}=={wheel.version}"
    wanted = Path(folder) / "requirements.txt"
    wanted.write_text(f"{pinned} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    options = [
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--disable-pip-version-check",
    ]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(wanted), "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [*done.stderr.strip().splitlines(), "nothing"][0]
        raise DeckError(
            f"slides need {pinned} once, and pip could not download it (it said: {said}); "
            f"connect to a package index, or put the wheel into {cache_folder()}"
        )


# build


def build(path, out, libraries) -> Path:
    """Write the deck of one notebook into out, in one move; libraries as browser_files() gives them."""
    path, deck = Path(path), Path(out) / f"{Path(path).stem}.html"
    nb = as_shown(path)
    exporter = SlidesExporter(
        extra_template_basedirs=[str(TEMPLATE.parent)], template_name=TEMPLATE.name,
        exclude_input_prompt=True, exclude_output_prompt=True, exclude_anchor_links=True,
    )  # fmt: skip
    resources = {"metadata": {"name": path.stem, "path": str(path.parent)}}
    resources["course"] = {"title": slides_index.title(nb.cells, path.stem), **libraries, **_onward(path)}
    text, _ = exporter.from_notebook_node(nb, resources=resources)
    write_atomically(deck, lambda file: file.write(text.encode()))
    return deck


def _onward(path):
    """Name and title of the deck that follows, if one does."""
    after = slides_index.following(path)
    if after is None:
        return {}
    title = slides_index.title(nbformat.read(after, as_version=4).cells, after.stem)
    return {"next_deck": f"{after.stem}.html", "next_title": title}


# static checks


class _Page(HTMLParser):
    """Collects from a deck: the slides, what it would load, and pictures that have no words."""

    def __init__(self):
        super().__init__()
        self.in_style = False
        self.open, self.slides, self.htmls, self.loads, self.styles, self.silent = [], 0, 0, [], "", 0

    def handle_starttag(self, tag, attributes):
        given = {k: v or "" for k, v in attributes}
        self.htmls += tag == "html"
        self.silent += tag == "img" and given.get("alt", "").strip() in ("", NO_WORDS)
        if tag in LOADS:
            self.loads += [v for k, v in given.items() if k in SOURCES]
        self.styles += given.get("style", "") + "\n"
        if tag == "section":
            if self.open:
                self.open[-1] = False  # holds sections: a stack, not a slide
            self.open.append(True)
        self.in_style = tag == "style"

    def handle_endtag(self, tag):
        if tag == "section" and self.open:
            self.slides += self.open.pop()
        self.in_style = False

    def handle_data(self, data):
        if self.in_style:
            self.styles += data


def check_static(deck, nb) -> list[str]:
    """What is wrong with a deck by its text alone: what it loads, pictures, size, lost slides, long code."""
    text = Path(deck).read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    size, wanted = Path(deck).stat().st_size, slides_of(nb)
    found = [f"loads from outside: {v[:80]}" for v in page.loads if not re.match(r"data:|#", v)]
    found += [f"style loads from outside: {u[:80]}" for u in OUTSIDE.findall(page.styles)]
    found += ["style has an @import"] * ("@import" in page.styles)
    found += [f"{page.silent} images without alt text"] * bool(page.silent)
    found += [f"{page.htmls} <html> elements, must be 1"] * (page.htmls != 1)
    found += [f"{size / 1e6:.1f} MB, must be at most {MAX_BYTES / 1e6:.0f} MB"] * (size > MAX_BYTES)
    if page.slides != len(wanted):
        found.append(f"{page.slides} slides, the notebook has {len(wanted)}")
    for number, cells in enumerate(wanted, start=1):
        code = [c for c in cells if c.cell_type == "code" and PICTURE_ONLY not in c.metadata.get("tags", [])]
        lines = "\n".join(c.source for c in code).splitlines()
        longest = max(map(len, lines), default=0)
        found += [f"{_name(number, cells)} {half}" for half in slides_short.halves(cells)]
        if slides_short.silent(cells):
            found.append(f"{_name(number, cells)} prints lines or a table, and says nothing of them")
        if longest > MAX_COLUMNS:
            found.append(
                f"{_name(number, cells)} has a code line of {longest} columns, must be at most {MAX_COLUMNS}"
            )
    return [f"{Path(deck).name}: {message}" for message in found]


def _name(number, cells):
    return f"slide {number} ({heading(cells)})"


# checks in a browser


def browser() -> str | None:
    """The first Chromium on PATH, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def _chromium(page, *options, query=""):
    """What headless Chromium prints for a local page, with every host name unknown to it."""
    root = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    quiet = ("background-networking", "component-update", "default-apps", "sync", "extensions", "gpu")
    url = Path(page).resolve().as_uri() + query
    with tempfile.TemporaryDirectory(dir=Path(page).parent, ignore_cleanup_errors=True) as profile:
        command = [browser(), "--headless", *root, *(f"--disable-{name}" for name in quiet), "--no-first-run"]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={WIDTH},{HEIGHT}"]
        command += [f"--user-data-dir={profile}", "--virtual-time-budget=60000", *options, url]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=600)
    return done.stdout


def check_in_browser(deck, nb) -> list[str]:
    """What is wrong with a deck in Chromium, network cut: every slide visited, every fragment shown."""
    text = Path(deck).read_text(encoding="utf-8")
    first, last = ((TEMPLATE / f"probe_{n}.js").read_text(encoding="utf-8") for n in ("first", "last"))
    text = text.replace("<head>", f"<head><script>{first}</script>", 1)
    text = text[: text.rindex("</body>")] + f"<script>{last}</script></body></html>"
    with tempfile.TemporaryDirectory(dir=Path(deck).parent) as folder:
        page = Path(folder) / "probe.html"
        page.write_text(text, encoding="utf-8")
        dump = _chromium(page, "--dump-dom")
        phone = _chromium(page, "--dump-dom", query="?scroll")
    seen, narrow = (re.search(r'<pre id="report">(.*?)</pre>', text, re.S) for text in (dump, phone))
    if not seen or not narrow:
        return [f"{Path(deck).name}: Chromium gave no report"]
    found = judge(json.loads(html.unescape(seen[1])), nb)
    found += judge_phone(json.loads(html.unescape(narrow[1])), nb)
    return [f"{Path(deck).name}: {m}" for m in found]


def judge_phone(report, nb) -> list[str]:
    """The messages that follow from how much wider than a phone each slide is in the view that scrolls."""
    wanted = slides_of(nb)
    if len(report["over"]) != len(wanted):
        return [f"{len(report['over'])} slides on a phone, the notebook has {len(wanted)}"]
    wide = [(number, over) for number, over in enumerate(report["over"], start=1) if over > 1]
    return [f"{_name(k, wanted[k - 1])} is {over} px wider than a phone" for k, over in wide]


def judge(report, nb) -> list[str]:
    """The messages that follow from a probe's report."""
    wanted = slides_of(nb)
    found = list(dict.fromkeys(report["problems"]))
    found += [f"requested {name[:80]}" for name in report["requests"]]
    if not report["ready"]:
        return [*found, "the deck did not open"]
    if len(report["slides"]) != len(wanted):
        found.append(f"{len(report['slides'])} slides were walked, the notebook has {len(wanted)}")
    if report["reached"] != len(report["slides"]):
        found.append(f"the right arrow reaches {report['reached']} of {len(report['slides'])} slides")
    if report["late"]:
        found.append(f"{report['late']} notes are hidden from the speaker until a fragment is shown")
    for number, (seen, cells) in enumerate(zip(report["slides"], wanted, strict=False), start=1):
        found += [f"{_name(number, cells)} {message}" for message in _judge_slide(seen, formulas_on(cells))]
    return found


def _judge_slide(seen, formulas):
    if not seen["visible"]:
        yield "was not shown"
    if seen["height"] > HEIGHT:
        yield f"is {seen['height']} px high, must be at most {HEIGHT}"
    if seen["width"] > WIDTH:
        yield f"is {seen['width']} px wide, must be at most {WIDTH}"
    if seen["beyond"] > MARGIN:
        yield f"has a formula that reaches {seen['beyond']} px over the margin"
    if seen["hidden"]:
        yield f"keeps {seen['hidden']} fragments hidden"
    if seen["formulas"] != formulas:
        yield f"shows {seen['formulas']} formulas, the notebook has {formulas}"
    if seen["raw"]:
        yield f"shows raw maths: {seen['raw']!r}"
    if seen["words"] > slides_short.WORDS:
        yield f"shows {seen['words']} words of prose, must be at most {slides_short.WORDS}"
    for scale in seen["figures"]:
        if scale < SMALLEST:
            yield f"shows a figure at {scale:.2f} of the size it was drawn in, must be at least {SMALLEST}"
    for error in seen["errors"]:
        yield f"has a formula that MathJax cannot read: {error}"


# PDF


def print_pdf(deck, kind="print-pdf") -> Path:
    """The deck as a PDF beside it, with an outline: one page a slide, or as a "handout" with the notes."""
    deck = Path(deck)
    pdf = deck.with_suffix(".handout.pdf" if kind == "handout" else ".pdf")
    temporary = pdf.with_suffix(".part")
    options = ("--no-pdf-header-footer", "--generate-pdf-document-outline")
    _chromium(deck, f"--print-to-pdf={temporary.resolve()}", *options, query=f"?{kind}")
    if not temporary.exists():
        raise DeckError(f"{pdf.name}: Chromium wrote no PDF")
    os.replace(temporary, pdf)
    return pdf


def pages(pdf) -> int:
    """Pages of a PDF that Chromium printed (its page objects are not compressed)."""
    return len(re.findall(rb"/Type\s*/Page\b", Path(pdf).read_bytes()))


def check_pdf(pdf, nb) -> list[str]:
    """What is wrong with a printed deck: lost pages, no outline."""
    wanted = len(slides_of(nb))
    found = [f"{Path(pdf).name}: {pages(pdf)} pages for {wanted} slides"] * (pages(pdf) != wanted)
    return found + no_outline(pdf)


def no_outline(pdf) -> list[str]:
    """The message that a PDF has no outline, if it has none."""
    return [f"{Path(pdf).name}: has no outline"] * (b"/Outlines" not in Path(pdf).read_bytes())


def make(path, out, libraries, pdf=False) -> list[str]:
    """Build and check the deck of one notebook; every problem found."""
    nb = as_shown(path)
    deck = build(path, out, libraries)
    problems = check_static(deck, nb)
    if browser():
        problems += check_in_browser(deck, nb)
    if browser() and pdf:
        problems += check_pdf(print_pdf(deck), nb) + no_outline(print_pdf(deck, "handout"))
    if not problems:
        print(f"{deck}: {len(slides_of(nb))} slides, {deck.stat().st_size / 1e6:.1f} MB: ok", flush=True)
    return problems


def main(argv=None) -> int:
    """Exit status: 0, or 1 with every problem on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tools.slides", description=__doc__)
    parser.add_argument("paths", nargs="*", default=["notebooks"], help="notebooks or folders (notebooks/)")
    parser.add_argument("--out", default="build/slides", help="folder for the decks (build/slides)")
    parser.add_argument(
        "--pdf",
        action="store_true",
        help="print each deck and its handout to PDFs, where Chromium is installed",
    )
    arguments = parser.parse_args(argv)
    if not browser():
        lost = "heights, formulas and errors in a browser were not checked" + ", no PDF" * arguments.pdf
        print(f"no Chromium on PATH: {lost}; apt install chromium", flush=True)
    try:
        libraries = browser_files()
        paths = find(arguments.paths)
        problems = [p for path in paths for p in make(path, arguments.out, libraries, arguments.pdf)]
        listed = [(path, nbformat.read(path, 4)) for path in slides_index.built(paths, arguments.out)]
        decks = [
            slides_index.read(path, nb.cells, [heading(cells) for cells in slides_of(nb)])
            for path, nb in listed
        ]
        slides_index.write(decks, arguments.out)
    except DeckError as error:
        problems = [str(error)]
    if problems:
        print("\n".join(problems), file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
