"""The notebook tool: one run, one normal form, and no half-written file."""

import json
import os
import stat

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import notebooks


def write(path, *sources, **metadata):
    nb = new_notebook(cells=[new_code_cell(s) for s in sources], metadata=metadata)
    nbformat.write(nb, path)
    return path


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def test_ids_are_kept_made_and_counted():
    cells = [new_markdown_cell("a", id="0123456789ab"), new_markdown_cell("b", id="0123456789ab")]
    cells += [
        new_markdown_cell("x", id="ABC"),
        new_markdown_cell("x", id="ABC"),
        new_code_cell("x", id="ABC"),
    ]
    nb = new_notebook()
    nb.cells = cells
    ids = [c.id for c in notebooks.normalise(nb).cells]
    # sha1 of "markdown\nb", "markdown\nx", "markdown\nx\n1", "code\nx"
    assert ids == ["0123456789ab", "926920ea3fdd", "93a758914b99", "407f38845c6b", "f08316c32952"]


def test_normal_form_removes_what_a_run_leaves_behind():
    volatile = {"collapsed": True, "scrolled": True, "execution": {}, "trusted": True, "tags": ["code"]}
    volatile["ExecuteTime"] = {}
    outputs = [stream("a"), stream("b"), new_output("execute_result", {"text/plain": "1"}, execution_count=9)]
    outputs += [stream(""), stream("c")]
    cells = [new_code_cell("1", outputs=outputs, execution_count=9, metadata=volatile), new_code_cell("  ")]
    cells += [new_markdown_cell("text"), new_code_cell("2", execution_count=3)]
    about = {"widgets": {}, "title": "T", "kernelspec": {"name": "mine", "display_name": "M"}}
    about["language_info"] = {"name": "python", "version": "3.9.1"}
    nb = notebooks.normalise(new_notebook(cells=cells, metadata=about))
    assert nb.metadata == {
        "title": "T",
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert nb.cells[0].metadata == {"tags": ["code"]}
    assert [c.get("execution_count") for c in nb.cells] == [1, None, None, 2]
    assert [o.get("text") for o in nb.cells[0].outputs] == ["ab", None, "c"]
    assert nb.cells[0].outputs[1].execution_count == 1
    assert (nb.nbformat, nb.nbformat_minor) == (4, 5)


def test_streams_of_two_names_stay_apart():
    nb = new_notebook(cells=[new_code_cell("1", outputs=[stream("a"), stream("b", "stderr"), stream("c")])])
    assert [o.text for o in notebooks.normalise(nb).cells[0].outputs] == ["a", "b", "c"]


def test_a_run_is_stored_in_normal_form_and_repeats_to_the_byte(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_SOLUTIONS", "1")
    monkeypatch.setenv("COURSE_FAST", "1")
    names = "COURSE_STATIC", "COURSE_SOLUTIONS", "COURSE_FAST", "OMP_NUM_THREADS", "MKL_NUM_THREADS"
    path = write(
        tmp_path / "a.ipynb",
        f"import os\nprint([os.environ.get(n) for n in {names}])",
        "print(os.path.basename(os.getcwd()))\nprint(1)\n41 + 1",
        widgets={"state": {}},
    )
    path.chmod(0o640)
    assert notebooks.main([str(path)]) == 0
    first = path.read_bytes()
    nb = nbformat.read(path, as_version=4)
    assert nb.cells[0].outputs[0].text == "['1', None, None, '1', '1']\n"
    assert nb.cells[1].outputs[0].text == f"{tmp_path.name}\n1\n"
    assert nb.cells[1].outputs[1].data["text/plain"] == "42"
    assert "widgets" not in nb.metadata and "execution" not in nb.cells[0].metadata
    assert first.endswith(b"}\n") and not first.endswith(b"\n\n") and b"\r" not in first
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert notebooks.main([str(path)]) == 0
    assert path.read_bytes() == first
    assert notebooks.main(["--check", str(path)]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.ipynb"]


FAILURES = {
    "raises": (
        "\nx = 1\n1 / 0",
        "bad.ipynb cell 2 (code): 'x = 1' raised ZeroDivisionError: division by zero",
    ),
    "stderr": ("import sys\nprint('careful', file=sys.stderr)", "cell 2 (code): wrote to stderr: careful"),
    "dies": (
        "import os\nos._exit(1)",
        "bad.ipynb cell 2 (code): 'import os' raised DeadKernelError: Kernel died",
    ),
    "slow": ("import time\ntime.sleep(60)", "'import time' raised CellTimeoutError: A cell timed out"),
    "widget": (
        "display({'application/vnd.jupyter.widget-view+json': {}, 'text/plain': 'w'}, raw=True)",
        "cell 2 (code): stores a widget view",
    ),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failing_cell_is_named_and_the_file_is_untouched(kind, tmp_path, capsys, monkeypatch):
    source, message = FAILURES[kind]
    monkeypatch.setattr(notebooks, "CELL_SECONDS", 1 if kind == "slow" else 60)
    path = write(tmp_path / "bad.ipynb", "print(1)", source)
    before = path.read_bytes()
    assert notebooks.main([str(path)]) == 1
    assert message in capsys.readouterr().err
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["bad.ipynb"]


def test_check_names_what_differs_and_runs_nothing(tmp_path, capsys):
    good, bad = write(tmp_path / "good.ipynb", "1 / 0"), write(tmp_path / "bad.ipynb", "1 / 0")
    notebooks.store(notebooks.normalise(nbformat.read(good, as_version=4)), good)
    before = bad.read_bytes()
    assert notebooks.main(["--check", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == "good.ipynb: ok\n"
    assert said.err == "bad.ipynb: not in normal form; run make notebooks\n"
    assert bad.read_bytes() == before


def test_the_folder_notebooks_is_meant_unless_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    write(tmp_path / "notebooks" / "a.ipynb", "1")
    monkeypatch.chdir(tmp_path)
    assert notebooks.main(["--check"]) == 1
    assert capsys.readouterr().err == "a.ipynb: not in normal form; run make notebooks\n"


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = write(tmp_path / "a.ipynb", "1")
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        notebooks.store(nbformat.read(path, as_version=4), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ipynb"]


def test_find_takes_files_and_folders_in_order_and_names_what_is_missing(tmp_path):
    for name in ("b.ipynb", "a.ipynb", "c.txt"):
        write(tmp_path / name, "1")
    names = [p.name for p in notebooks.find([tmp_path / "b.ipynb", tmp_path])]
    assert names == ["b.ipynb", "a.ipynb", "b.ipynb"]
    (tmp_path / "empty").mkdir()
    for bad in ("c.txt", "missing.ipynb", "empty"):
        with pytest.raises(ValueError, match=f"must be .ipynb files or folders that hold some.*{bad}"):
            notebooks.find([tmp_path / bad])


def test_run_times_are_kept_for_all_notebooks(tmp_path):
    (tmp_path / "notebooks").mkdir()
    entry = {"seconds": 4, "cores": 2}
    notebooks.store_run_time(tmp_path / "notebooks" / "02_b.ipynb", entry)  # no assets: nothing to write
    (tmp_path / "assets").mkdir()
    for name in ("02_b", "01_a"):
        notebooks.store_run_time(tmp_path / "notebooks" / f"{name}.ipynb", entry)
    notebooks.store_run_time(tmp_path / "notebooks" / "02_b.ipynb", entry | {"seconds": 5})
    times = json.loads((tmp_path / "assets" / "run_times.json").read_text())
    assert list(times) == ["01_a", "02_b"] and times["02_b"] == {"seconds": 5, "cores": 2}
    assert times["01_a"]["seconds"] == 4


def test_the_run_time_a_notebook_shows_is_that_of_this_very_run(tmp_path):
    """The page, the file and the first cell name one number."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "assets").mkdir()
    sentence = notebooks.SAID.format(seconds=9999, cores=1)
    path = write(tmp_path / "notebooks" / "01_a.ipynb", f"print('first\\n{sentence}\\nlast')")
    assert notebooks.main([str(path)]) == 0
    entry = json.loads((tmp_path / "assets" / "run_times.json").read_text())["01_a"]
    said = nbformat.read(path, as_version=4).cells[0].outputs[0].text
    assert said == f"first\n{notebooks.SAID.format(**entry)}\nlast\n" and entry["seconds"] < 9999


def test_the_sentence_is_the_librarys():
    from course_lib.notebook import ROOT, run_time

    times = json.loads((ROOT / "assets" / "run_times.json").read_text())
    assert [run_time(name) for name in times] == [notebooks.SAID.format(**entry) for entry in times.values()]


def test_only_what_needs_it_is_run_and_two_at_a_time(tmp_path, monkeypatch, capsys):
    """A second call goes on where the first was stopped; a notebook that is named runs again."""
    (tmp_path / "notebooks").mkdir()
    paths = [write(tmp_path / "notebooks" / f"0{n}_x.ipynb", f"print({n})") for n in (1, 2, 3)]
    monkeypatch.chdir(tmp_path)
    assert notebooks.main([str(paths[0])]) == 0
    capsys.readouterr()
    assert notebooks.main([]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "01_x.ipynb: up to date",
        "02_x.ipynb: ok",
        "03_x.ipynb: ok",
    ]
    assert nbformat.read(paths[2], as_version=4).cells[0].outputs[0].text == "3\n"
    assert notebooks.main([]) == 0 and capsys.readouterr().out.count("up to date") == 3
    nb = nbformat.read(paths[1], as_version=4)
    nb.cells[0].source = "print(5)"
    notebooks.store(nb, paths[1])
    assert notebooks.main(["--jobs", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "01_x.ipynb: up to date",
        "03_x.ipynb: up to date",
        "02_x.ipynb: ok",
    ]
    assert notebooks.main(["notebooks/03_x.ipynb"]) == 0 and capsys.readouterr().out == "03_x.ipynb: ok\n"


def test_each_notebook_shows_the_run_time_that_the_readme_quotes():
    """Of notebooks with a stamp: make lint names those without one."""
    from tools.stamps import KEY, ROOT

    times = json.loads((ROOT / "assets" / "run_times.json").read_text(encoding="utf-8"))
    for path in notebooks.find([ROOT / "notebooks"]):
        nb = nbformat.read(path, as_version=4)
        printed = "".join(o.get("text", "") for c in nb.cells for o in c.get("outputs", []))
        if KEY in nb.metadata:
            assert notebooks.RUN_TIME.findall(printed) == [notebooks.SAID.format(**times[path.stem])]
