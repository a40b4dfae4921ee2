"""A recipe killed again and again at random moments ends as if nothing had happened. KILLS=100 for a long evening.

Each life is a fork of this process, so that it costs no start of Python.
"""

import errno
import io
import json
import os
import random
import signal
import sys
import time
from dataclasses import replace

import pytest

from course_lib import checkpoint, files
from course_lib.recipes import ddpm, sitting
from course_lib.recipes.command import main
from tests.tools.test_recipes_command import TINY

KILLS = int(os.environ.get("KILLS", "3"))
STEPS = 120


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(ddpm, "tiny", replace(TINY, steps=STEPS), raising=False)
    monkeypatch.setattr(sitting, "EVERY", 10)


def words(out):
    return ["ddpm.tiny", "--out", str(out), "--device", "cpu"]


def live(out, seconds=None):
    """Run the recipe in a process that is killed after so many seconds; True if it came to its end before."""
    pid = os.fork()
    if not pid:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        try:
            main(words(out))
            os._exit(0)
        except BaseException:
            os._exit(1)
    start = time.monotonic()
    while seconds is None or time.monotonic() - start < seconds:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, "it failed by itself"
            return True
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def made(out):
    """Bytes of weights and results, and the log less its times."""
    log = json.loads((out / "tiny.log.json").read_text())
    del log["seconds"]
    return [(out / f"tiny.{kind}").read_bytes() for kind in ("safetensors", "results.json")], log


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX: fork and kill")
def test_kills_at_random_lose_nothing(tmp_path):
    start = time.monotonic()
    assert live(tmp_path / "whole")
    whole, chance, kills, runs = time.monotonic() - start, random.Random(0), 0, 0
    want = made(tmp_path / "whole")
    assert len(want[1]["loss_every_100_steps"]) == 2
    while kills < KILLS:
        out, runs = tmp_path / f"run{runs}", runs + 1
        while not live(out, chance.uniform(0.1, 1.3) * whole):
            kills += 1
        assert made(out) == want
        left = {path.name for path in out.iterdir() if not path.name.startswith(".")}
        assert left == {"tiny.safetensors", "tiny.log.json", "tiny.results.json"}


@pytest.mark.parametrize("which", ["checkpoint", "progress.json", "safetensors", "log.json", "results.json"])
def test_a_full_disk_is_said_and_what_was_there_stays(tmp_path, monkeypatch, capsys, which):
    main(words(tmp_path / "whole"))
    want = made(tmp_path / "whole")
    whole, calls = files.write_atomically, []

    def full(path, write):
        """No space for the second file of this kind, or for the first of those that come once."""
        if str(path).endswith(f"tiny.{which}"):
            calls.append(path)
            if len(calls) == (2 if which in ("checkpoint", "progress.json") else 1):
                raise files.about_path(OSError(errno.ENOSPC, "No space left on device"), "cannot write", path)
        whole(path, write)

    with monkeypatch.context() as m:
        m.setattr(files, "write_atomically", full)
        with pytest.raises(SystemExit) as end:
            main(words(tmp_path / "full"))
    said = capsys.readouterr().err
    assert end.value.code == 1 and "No space left on device" in said and f"tiny.{which}" in said
    if which == "checkpoint":
        assert checkpoint.load_tensors(tmp_path / "full" / "tiny.checkpoint")[1]["step"] == 10
    main(words(tmp_path / "full"))  # with space again it goes on
    assert made(tmp_path / "full") == want


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX: fork and limits")
@pytest.mark.parametrize("space", [0, 1500])
def test_files_that_the_system_does_not_let_grow(tmp_path, space):
    """A true limit of bytes a file, in a process of its own: nothing fits, or the notes do and the checkpoint not."""
    import resource  # POSIX only

    out, told = tmp_path / "run", tmp_path / "told"
    pid = os.fork()
    if not pid:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.stderr = io.StringIO()
            resource.setrlimit(resource.RLIMIT_FSIZE, (space, resource.RLIM_INFINITY))
            main(words(out))
        except SystemExit as end:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            told.write_text(sys.stderr.getvalue())
            os._exit(end.code)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    said = told.read_text()
    assert said.startswith("python -m course_lib.recipes: ") and len(said.splitlines()) == 1
    assert "File too large" in said and ("session" if space == 0 else "tiny.checkpoint") in said
    assert not list(out.glob(".*")) and not list(out.glob("*.safetensors"))  # no half files
    main(words(out))
    main(words(tmp_path / "whole"))
    assert made(out) == made(tmp_path / "whole")
