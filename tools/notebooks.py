"""Run notebooks from a clean kernel and store them in one normal form: a diff shows only what changed.

python -m tools.notebooks                     those whose outputs are older than what made them, two at a time
python -m tools.notebooks notebooks/X.ipynb   this one, whatever its stamp says
python -m tools.notebooks --check             say which differ from normal form, run nothing
"""

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from course_lib import style
from course_lib.files import write_atomically, write_json
from tools import figures, stamps
from tools.where import find, where

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
VOLATILE = ("collapsed", "scrolled", "execution", "trusted", "ExecuteTime")
NORMAL_ID = re.compile(r"[0-9a-f]{12}")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
CELL_SECONDS = 600
RUN_TIME = re.compile(r"^run time: .*$", re.MULTILINE)  # what course_lib.notebook prints in the first cell
SAID = "run time: {seconds} s when its outputs were stored, on {cores} CPU cores"


class NotebookError(Exception):
    """A notebook that cannot be stored; the message names the notebook and the cell."""


def normalise(nb):
    """nb itself, brought to normal form: stable ids, counts 1..n, no widget state, no volatile metadata."""
    nb.nbformat, nb.nbformat_minor = 4, 5
    nb.metadata.pop("widgets", None)
    nb.metadata["kernelspec"] = nbformat.from_dict(KERNEL)
    nb.metadata["language_info"] = nbformat.from_dict({"name": "python"})
    _stable_ids(nb.cells)
    for cell in nb.cells:
        for key in VOLATILE:
            cell.metadata.pop(key, None)
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    for count, cell in enumerate((c for c in code if c.source.strip()), start=1):
        cell.execution_count = count
    for cell in code:
        cell.outputs = _merge_streams(cell.outputs)
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = cell.execution_count
    return nb


def _stable_ids(cells):
    """The first cell with an id in normal form keeps it; other ids are made from type and source."""
    taken = set()
    for cell in cells:
        old = cell.get("id", "")
        copies = 0
        while not NORMAL_ID.fullmatch(old) or old in taken:
            text = f"{cell.cell_type}\n{cell.source}" + (f"\n{copies}" if copies else "")
            old, copies = hashlib.sha1(text.encode()).hexdigest()[:12], copies + 1
        cell["id"] = old
        taken.add(old)


def _merge_streams(outputs):
    """One output for each run of prints: how the kernel cuts them up depends on timing."""
    merged = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == "stream" == last.output_type and output.name == last.name:
            last.text += output.text
        elif output.output_type != "stream" or output.text:
            merged.append(output)
    return merged


def refusals(nb, path) -> list[str]:
    """Why nb may not be stored: one message for each cell with stderr output or a widget view."""
    messages = []
    for number, cell in enumerate(nb.cells, start=1):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr" and output.text.strip():
                messages.append(f"{where(path, number, cell)}: wrote to stderr: {output.text.strip()[:200]}")
            if WIDGET_VIEW in output.get("data", {}):
                messages.append(
                    f"{where(path, number, cell)}: stores a widget view; print its picture instead"
                )
    return messages


def text_of(nb) -> str:
    """The file's text, with one newline at its end."""
    return nbformat.writes(nb).rstrip("\n") + "\n"


def execute(path, drawn=""):
    """The notebook at path after a run in a fresh kernel, normalised; NotebookError names a failing cell.

    Its figures for the wall are in the folder drawn, where one is given.
    """
    path = Path(path)
    nb = nbformat.read(path, as_version=4)
    last = {}
    client = NotebookClient(
        nb, kernel_name="python3", timeout=CELL_SECONDS, store_widget_state=False, record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=lambda cell, cell_index: last.update(number=cell_index + 1, cell=cell),
    )  # fmt: skip
    try:
        client.execute(env=_environment(drawn))
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise NotebookError(_failure(path, last["number"], last["cell"], error)) from None
    normalise(nb)
    if refused := refusals(nb, path):
        raise NotebookError("\n".join(refused))
    nbformat.validate(nb)
    return nb


def _environment(drawn):
    """Blank exercises, full training, static widgets, one thread: whatever the caller's shell says."""
    mine = {k: v for k, v in os.environ.items() if k not in ("COURSE_SOLUTIONS", "COURSE_FAST")}
    return mine | {
        "COURSE_STATIC": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        style.FOLDER: str(drawn),
    }


def _failure(path, number, cell, error):
    if isinstance(error, CellExecutionError):
        what = f"{error.ename}: {error.evalue}"
    else:
        what = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return f"{where(path, number, cell)}: {cell.source.strip().splitlines()[0]!r} raised {what}"


def store(nb, path):
    """Write nb at path in one move: a reader sees the old file or the new one, never half of one."""
    write_atomically(path, lambda file: file.write(text_of(nb).encode()))


def put_run_time(nb, entry):
    """Make the first cell say how long this very run took: it could not know that when it printed."""
    for output in (output for cell in nb.cells for output in cell.get("outputs", [])):
        if output.output_type == "stream":
            output.text = RUN_TIME.sub(SAID.format(**entry), output.text)


def store_run_time(path, entry):
    """Put a chapter's run time into assets/run_times.json, from which its first cell and the README take it."""
    times = Path(path).resolve().parent.parent / "assets" / "run_times.json"
    if times.parent.is_dir():
        known = json.loads(times.read_text(encoding="utf-8")) if times.exists() else {}
        write_json(times, dict(sorted({**known, Path(path).stem: entry}.items())))


def check(path) -> list[str]:
    """How the stored notebook differs from normal form; nothing is run or written."""
    text = Path(path).read_text(encoding="utf-8")
    nb = nbformat.reads(text, as_version=4)
    messages = refusals(nb, path)
    if text_of(normalise(nb)) != text:
        messages.append(f"{Path(path).name}: not in normal form; run make notebooks")
    return messages


def renew(path) -> tuple[list[str], dict]:
    """Run the notebook and store it with its stamp and run time: (problems, run time); a problem changes no file."""
    start = time.monotonic()
    files = stamps.made_from(nbformat.read(path, as_version=4), Path(path))[
        "files"
    ]  # as they are when it starts
    with tempfile.TemporaryDirectory() as drawn:
        try:
            nb = execute(path, drawn)
        except NotebookError as error:
            return [str(error)], {}
        figures.pack(nb, drawn, path)
    entry = {"seconds": round(time.monotonic() - start), "cores": os.cpu_count()}
    put_run_time(nb, entry)
    nb.metadata[stamps.KEY] = nbformat.from_dict(stamps.made_from(nb, Path(path)) | {"files": files})
    store(nb, path)
    return [], entry


def renew_all(paths, jobs: int):
    """(path, problems) as the runs end, `jobs` at a time, each in a process of its own where there are several."""
    if min(jobs, len(paths)) <= 1:
        yield from ((path, *renew(path)) for path in paths)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        runs = {pool.submit(renew, path): path for path in paths}
        yield from ((runs[run], *run.result()) for run in as_completed(runs))


def say(path, problems):
    print("\n".join(problems) or f"{path.name}: ok", file=sys.stderr if problems else sys.stdout, flush=True)
    return bool(problems)


def main(argv=None) -> int:
    """Exit status: 0, or 1 with every problem on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tools.notebooks", description=__doc__.splitlines()[0])
    parser.add_argument(
        "paths", nargs="*", help="notebooks to run again; by default those in notebooks/ that need it"
    )
    parser.add_argument("--check", action="store_true", help="say which differ from normal form, run nothing")
    parser.add_argument("--jobs", type=int, default=2, help="how many run at a time (2)")
    arguments = parser.parse_args(argv)
    paths = find(arguments.paths or ["notebooks"])
    if arguments.check:
        return int(any([say(path, check(path)) for path in paths]))
    wanted = [path for path in paths if arguments.paths or stamps.changes(path) or check(path)]
    for path in paths:
        if path not in wanted:
            print(f"{path.name}: up to date", flush=True)
    failed = False
    for path, problems, entry in renew_all(wanted, arguments.jobs):
        if entry:
            store_run_time(path, entry)
        failed = say(path, problems) or failed
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
