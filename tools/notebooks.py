"""Run notebooks from a clean kernel and store them in one normal form: a diff shows only what changed."""

import argparse
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from course_lib.files import write_atomically, write_json

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
VOLATILE = ("collapsed", "scrolled", "execution", "trusted", "ExecuteTime")
NORMAL_ID = re.compile(r"[0-9a-f]{12}")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
CELL_SECONDS = 600


class NotebookError(Exception):
    """A notebook that cannot be stored; the message names the notebook and the cell."""


def find(paths) -> list[Path]:
    """Notebooks named by paths (files or folders), in order; ValueError names a path that holds none."""
    found = []
    for path in map(Path, paths):
        notebooks = sorted(path.glob("*.ipynb")) if path.is_dir() else [path]
        if not notebooks or any(n.suffix != ".ipynb" or not n.is_file() for n in notebooks):
            raise ValueError(f"paths must be .ipynb files or folders that hold some, got {str(path)!r}")
        found += notebooks
    return found


def where(path, number: int, cell) -> str:
    """'01_ddpm.ipynb cell 7 (check)': cells are counted from 1, the tags stand in brackets."""
    tags = ", ".join(cell.metadata.get("tags", [])) or cell.cell_type
    return f"{Path(path).name} cell {number} ({tags})"


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


def execute(path):
    """The notebook at path after a run in a fresh kernel, normalised; NotebookError names a failing cell."""
    path = Path(path)
    nb = nbformat.read(path, as_version=4)
    last = {}
    client = NotebookClient(
        nb, kernel_name="python3", timeout=CELL_SECONDS, store_widget_state=False, record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=lambda cell, cell_index: last.update(number=cell_index + 1, cell=cell),
    )  # fmt: skip
    try:
        client.execute(env=_environment())
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise NotebookError(_failure(path, last["number"], last["cell"], error)) from None
    normalise(nb)
    if refused := refusals(nb, path):
        raise NotebookError("\n".join(refused))
    nbformat.validate(nb)
    return nb


def _environment():
    """Blank exercises, full training, static widgets, one thread: whatever the caller's shell says."""
    mine = {k: v for k, v in os.environ.items() if k not in ("COURSE_SOLUTIONS", "COURSE_FAST")}
    return mine | {"COURSE_STATIC": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _failure(path, number, cell, error):
    if isinstance(error, CellExecutionError):
        what = f"{error.ename}: {error.evalue}"
    else:
        what = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return f"{where(path, number, cell)}: {cell.source.strip().splitlines()[0]!r} raised {what}"


def store(nb, path):
    """Write nb at path in one move: a reader sees the old file or the new one, never half of one."""
    write_atomically(path, lambda file: file.write(text_of(nb).encode()))


def store_seconds(path, seconds):
    """Put a chapter's run time into assets/run_times.json, from which its first cell and the README take it."""
    times = Path(path).resolve().parent.parent / "assets" / "run_times.json"
    if times.parent.is_dir():
        known = json.loads(times.read_text(encoding="utf-8")) if times.exists() else {}
        entry = {"seconds": round(seconds), "cores": os.cpu_count()}
        write_json(times, dict(sorted({**known, Path(path).stem: entry}.items())))


def check(path) -> list[str]:
    """How the stored notebook differs from normal form; nothing is run or written."""
    text = Path(path).read_text(encoding="utf-8")
    nb = nbformat.reads(text, as_version=4)
    messages = refusals(nb, path)
    if text_of(normalise(nb)) != text:
        messages.append(f"{Path(path).name}: not in normal form; run make notebooks")
    return messages


def _run(path):
    start = time.monotonic()
    try:
        nb = execute(path)
    except NotebookError as error:
        return [str(error)]
    store(nb, path)
    store_seconds(path, time.monotonic() - start)
    return []


def main(argv=None) -> int:
    """Exit status: 0, or 1 with every problem on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tools.notebooks", description=__doc__)
    parser.add_argument("paths", nargs="*", default=["notebooks"], help="notebooks or folders (notebooks/)")
    parser.add_argument("--check", action="store_true", help="say which differ from normal form, run nothing")
    arguments = parser.parse_args(argv)
    failed = False
    for path in find(arguments.paths):
        problems = check(path) if arguments.check else _run(path)
        failed = failed or bool(problems)
        print(
            "\n".join(problems) or f"{path.name}: ok", file=sys.stderr if problems else sys.stdout, flush=True
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
