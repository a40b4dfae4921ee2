"""The generated parts of README.md and assets/README.md say what the files say."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys

import nbformat
import pytest

from course_lib.recipes import tables
from course_lib.recipes.run import full_name, named, systems
from tools import picture, readme


def test_pages_are_up_to_date(capsys):
    assert readme.main(["--check"]) == 0, capsys.readouterr().out


@pytest.fixture
def project(tmp_path):
    """A course of one chapter and one recipe."""
    (tmp_path / "notebooks").mkdir()
    assets = tmp_path / "assets" / "01_x"
    assets.mkdir(parents=True)
    for name, source in (("00_start", "# Begin"), ("01_x", "# 1. A *title*\n\n**Question.** Why?")):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source)])
        nbformat.write(nb, tmp_path / "notebooks" / f"{name}.ipynb")
    (tmp_path / "assets" / "run_times.json").write_text('{"01_x": {"seconds": 7, "cores": 2}}')
    results = {
        "bits_per_dim": 1.23456,
        "bits_per_dim_se": 0.01,
        "accepted": {"samples": 0.5, "real": 0.75, "noise": 0.1},
    }
    (assets / "a.results.json").write_text(json.dumps(results))
    log = {
        "recipe": "01_x/a",
        "steps": 10,
        "device": "cpu",
        "seconds": 90,
        "made": "in two sittings, not by one command",
    }
    (assets / "a.log.json").write_text(json.dumps(log))
    blocks = {name: f"<!-- {name} -->\n<!-- end {name} -->\n" for name in ("links", "errata", "results")}
    (tmp_path / "README.md").write_text(
        "top\n<!-- chapters -->\nold\n<!-- end chapters -->\n" + "".join(blocks.values()) + "end\n"
    )
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "RESULTS.md").write_text(blocks["results"])
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "assets" / "README.md").write_text("<!-- index -->\n<!-- end index -->\n")
    return tmp_path


def test_tables(project):
    assert readme.chapters(project).splitlines()[2:] == [
        "| [00 Begin](notebooks/00_start.ipynb) | Where do I start? | not measured |",
        "| [01 A *title*](notebooks/01_x.ipynb) | Why? | 7 s |",
    ]
    assert readme.results(project).splitlines()[2:] == [
        "| `01_x/a` | 10 | 1.235 ± 0.010 / dim | 0.50 / 0.75 / 0.10 | cpu, 2 min; in two sittings, not by one command |"
    ]
    interrupted = project / "assets" / "a.session.progress.json"  # git does not see it, nor does the list
    interrupted.write_text("{}", encoding="utf-8")
    rows = readme.index(project).splitlines()[2:]
    path = project / "assets" / "01_x" / "a.log.json"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert (
        rows[0]
        == f"| 01_x/a.log.json | training log and command | a recipe | {path.stat().st_size} | {digest} |"
    )
    assert [row.split(" | ")[0] for row in rows] == [
        "| 01_x/a.log.json",
        "| 01_x/a.results.json",
        "| run_times.json",
    ]


def test_a_recipe_shows_what_it_has(project):
    """A measurement has no steps, and perhaps no bound; what has neither bound nor samples is left out."""
    assets = project / "assets" / "01_x"
    (assets / "b.results.json").write_text(json.dumps({"accepted": {"real": 0.75}, "methods": {}}))
    (assets / "b.log.json").write_text(json.dumps({"recipe": "01_x/b", "device": "cpu", "seconds": 30}))
    words = {"words_known": 0.4}
    text = {"bits_per_char": 2.5, "bits_per_char_se": 0.25, "real": {"words_known": 0.9}}
    (assets / "d.results.json").write_text(json.dumps(text | {"steps": {"1000": words, "64": {}}}))
    (assets / "d.log.json").write_text(json.dumps({"recipe": "01_x/d", "device": "cpu", "seconds": 1}))
    several = {"real": {"words_known": 0.9}, "calls": {"a": {"4": words}}}  # chapter 8's
    (assets / "c.results.json").write_text(json.dumps(several))
    (assets / "c.log.json").write_text(json.dumps({"recipe": "01_x/c", "device": "cpu", "seconds": 31}))
    assert readme.results(project).splitlines()[3:] == [
        "| `01_x/b` | - | - | 0.75 | cpu, 0 min |",
        "| `01_x/d` | - | 2.500 ± 0.250 / char | 0.40 / 0.90 of words | cpu, 0 min |",
    ]


def test_words_and_pairs():
    ln2 = 0.6931471805599453
    quality = {"perplexity": 80.4, "distinct2": 0.625}
    ways = {"a": {"200": quality, "50": {}}, "b": {"1000": {}}}
    verses = {
        "bound_per_word": 4 * ln2,
        "bound_per_word_se": ln2 / 10,
        "samplers": ways,
        "sampler": "a",
        "real": {"perplexity": 45, "distinct2": 0.75},
    }
    assert tables.bits(verses) == "4.000 ± 0.100 / word"
    assert tables.likeness(verses) == "perplexity 80 / 45, distinct-2 0.62 / 0.75"
    said = {"1": {"wer": 0.5, "per": 0.2}, "10": {"wer": 0.412, "per": 0.09}}
    sounds = {"candidates": said, "bound": {"mean": 3 * ln2, "se": ln2}}
    assert tables.bits(sounds) == "3.000 ± 1.000 / target"
    assert tables.likeness(sounds) == "41.2% of words, 9.0% of phones wrong"
    verses = {
        "candidates": {"1": {"bleu": 9.0}, "3": {"bleu": 12.25}},
        "copy": 16.4,
        "nll": {"mean": ln2, "se": ln2},
    }
    assert (tables.bits(verses), tables.likeness(verses)) == ("1.000 ± 1.000 / target", "BLEU 12.2 / 16.4")


def test_readme_links_to_where_the_course_lives_once_it_is_said(project):
    assert "make site" in readme.links(project) and "](http" not in readme.links(project)
    (project / "pyproject.toml").write_text('[project.urls]\nSource = "https://github.com/Some/course/"\n')
    said = readme.links(project)
    assert (
        "(https://some.github.io/course/)" in said
        and "(https://some.github.io/course/slides/index.html)" in said
    )
    assert "colab.research.google.com/github/Some/course/blob/pages/colab/00_start_here.ipynb" in said


def test_readme_shows_the_rows_that_matter_and_counts_errata(project, monkeypatch):
    assert len(readme.shown(project).splitlines()) == 2
    monkeypatch.setattr(readme, "SHOWN", ("01_x/a",))
    assert readme.shown(project) == readme.results(project)
    nb = nbformat.read(project / "notebooks" / "01_x.ipynb", 4)
    nb.cells.append(nbformat.v4.new_markdown_cell("**One paper, v2.**\n\n- a\n- b\n\n**Code: of it.** c"))
    nb.cells[-1].metadata["tags"] = ["errata"]
    nbformat.write(nb, project / "notebooks" / "01_x.ipynb")
    assert readme.faults(project).splitlines()[2:] == [
        "| [01 A *title*](notebooks/01_x.ipynb) | 3 | One paper; Code |"
    ]


def test_the_rows_of_readme_are_those_of_recipes_that_have_results():
    recipes = {full_name(r) for system in systems() for r in named(system).values()}
    assert set(readme.SHOWN) <= recipes
    there = [name for name in readme.SHOWN if (readme.ROOT / "assets" / f"{name}.results.json").is_file()]
    assert len(readme.shown().splitlines()) == 2 + len(there)
    assert len(there) >= len(readme.SHOWN) - 1  # a long training may come later


def test_check_finds_and_writing_mends(project, capsys):
    assert readme.main(["--check"], project) == 1
    assert (
        capsys.readouterr().out.splitlines()
        == [
            "README.md: out of date; run make notebooks",
            "docs/RESULTS.md: out of date; run make notebooks",
            "assets/README.md: out of date; run make notebooks",
        ]
        and "old" in (project / "README.md").read_text()
    )
    assert readme.main([], project) == 0 and "README.md: written" in capsys.readouterr().out
    text = (project / "README.md").read_text()
    assert (
        text.startswith("top\n<!-- chapters -->\n| chapter")
        and text.endswith("<!-- end results -->\nend\n")
        and "old" not in text
    )
    assert readme.main(["--check"], project) == 0 and capsys.readouterr().out == ""


def programs():
    """The programs of the README, in their order."""
    page = (readme.ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)


def test_the_example_runs():
    """The README's first program, with few steps."""
    code = programs()[0]
    for many, few in (("steps=1200", "steps=2"), ("n=64", "n=2"), ("steps=250", "steps=2")):
        assert many in code
        code = code.replace(many, few)
    names = {}
    exec(code, names)
    assert names["x0"].shape == (2, 1, 8, 8) and {"step", "t", "loss", "average"} <= {*dir(names["record"])}


def test_the_example_of_own_text_runs_as_printed_is_killed_and_goes_on(tmp_path):
    """Words that follow each other in a ring, with exceptions: perplexity below guessing's, the gap's ends kept."""
    (tmp_path / "own.py").write_text(programs()[1], encoding="utf-8")
    ring, g, n = ["the", "law", "of", "a", "free", "people", "shall", "be", "one"], random.Random(0), 0
    text = [ring[n := (n + (1 if g.random() < 0.8 else g.randrange(9))) % 9] for _ in range(3000)]
    (tmp_path / "text.txt").write_text(" ".join(text), encoding="utf-8")
    command = [sys.executable, "own.py", "text.txt"]
    inside = {"cwd": tmp_path, "text": True, "stdout": subprocess.PIPE}
    inside["env"] = {**os.environ, "PYTHONPATH": str(readme.ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, **inside) as first:
        seen = [next(first.stdout), next(first.stdout)]
        first.kill()
    assert [line.split(":")[0] for line in seen] == ["step 50", "step 100"]
    said = subprocess.run(command, **inside, check=True, timeout=500).stdout.splitlines()
    # How far it came before it was killed is the machine's affair; it goes on from a checkpoint.
    assert said[0].split(":")[0] in ("step 100", "step 150", "step 200") and said[-5].startswith("step 200: ")
    assert 1 < float(said[-4].removeprefix("perplexity at most ").split(" ± ")[0]) < 9
    for row in said[-3:]:
        words = row.split()
        assert (
            len(words) == 32
            and words[:4] == text[:4]
            and words[-3:] == text[4:7]
            and {*words} <= {*ring, "<unk>"}
        )


def test_the_example_of_a_sampler_runs_as_printed(capsys):
    (code,) = [code for code in programs() if "exact_law" in code]
    assert (
        len([line for line in code.split("\n\n\n", 1)[1].splitlines() if line]) <= 10
    )  # without the imports
    exec(code, {"__name__": "readme"})
    first, *rows = capsys.readouterr().out.splitlines()
    assert first == "total variation to the data: 0.0"
    assert len(rows) == 3 and all(len(row.split()) == 16 for row in rows)


def test_a_page_without_its_place_is_an_error():
    with pytest.raises(ValueError, match="the page must hold <!-- x --> and <!-- end x --> once each"):
        readme.fill("no place", {"x": "y"})
    assert readme.fill("a <!-- x -->1<!-- end x --> b", {"x": "2"}) == "a <!-- x -->\n2\n<!-- end x --> b"


def test_the_picture_is_made_of_shipped_weights(tmp_path, monkeypatch):
    fig = picture.draw(steps=8)
    cells = fig.axes[0].images[0].get_array()
    assert cells.shape == (3 * 29 - 1, 9 * 29 - 1) and [x.get_text() for x in fig.axes[0].get_xticklabels()] == [
        "1000", "875", "750", "625", "500", "375", "250", "125", "0",
    ]  # fmt: skip
    assert cells[:, -28:].min() < -0.9 < 0.9 < cells[:, -28:].max()  # ends in black and white
    monkeypatch.setattr(picture, "draw", lambda: fig)
    picture.main(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
