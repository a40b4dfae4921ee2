"""Make .venv hold the tested set. A script for a bare python3: standard library only, safe to repeat."""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

PROJECT = pathlib.Path(__file__).resolve().parents[2]
VERSIONS = ("3.11", "3.12", "3.13")
EXTRAS = ("course", "test")
MARKER = ".made-by-the-course"  # there before anything else: this folder is ours to rebuild
STAMP = ".ready"  # there after everything else: this folder can be trusted
IMPORTS = "import torch, jupyterlab, course_lib"


class SetupError(Exception):
    """What went wrong and what to try, for the reader's eyes."""


def version_of(python):
    """'3.12' for the interpreter at this path, '' if it does not run."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def find_python(current, version, which=shutil.which, version_of=version_of):
    """(path, version) of this interpreter if the course supports it, else of the newest such on PATH."""
    if version in VERSIONS:
        return current, version
    for wanted in reversed(VERSIONS):
        found = which("python" + wanted)
        if found and version_of(found) == wanted:
            return found, wanted
    raise SetupError(
        "The course needs Python {} to {}; this is Python {} ({}) and PATH has no other.\n"
        "Install one (python.org, your package manager, or conda with environment.yml) and name it: "
        "make lab PYTHON=python{}".format(VERSIONS[0], VERSIONS[-1], version, current, VERSIONS[-1])
    )


def venv_python(folder):
    """Path of the interpreter inside a virtual environment."""
    return folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"


def fingerprint(project, version):
    """Hash of what decides an install: both dependency files, the Python version, the project's place."""
    files = [(project / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    parts = [hashlib.sha256(part).hexdigest() for part in [*files, version.encode(), str(project).encode()]]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_stamp(folder):
    """The stamp of a finished install, {} if there is none that can be read."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and venv_python(folder).exists() else {}


def write_stamp(folder, stamp):
    """Write to a temporary name, then rename: a stamp is whole or absent."""
    temporary = folder / (STAMP + ".new")
    temporary.write_text(json.dumps(stamp), encoding="utf-8")
    os.replace(temporary, folder / STAMP)


def is_foreign(folder):
    """True for anything at this path that the course did not make; an empty folder is free to use."""
    if not os.path.lexists(folder):
        return False
    if not folder.is_dir():
        return True
    return not (folder / MARKER).exists() and any(folder.iterdir())


def empty(folder):
    """Delete all but the marker, so that a kill half-way leaves a folder that is still known as ours."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARKER:
            path.unlink()


def try_lock(file):
    """Take the lock now or raise; the system gives it back when the last process that holds the file ends."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def locked(path, say, try_lock=try_lock, pause=0.2):
    """Hold the lock file at path; wait, and say so once, while another process does."""
    with open(path, "w") as file:
        os.set_inheritable(file.fileno(), True)  # a pip that outlives a killed parent still holds the lock
        waiting = False
        while True:
            try:
                try_lock(file)
                break
            except (BlockingIOError, PermissionError):
                if not waiting:
                    say("Another set-up is at work; waiting for it to end ...")
                waiting = True
                time.sleep(pause)
            except OSError as error:
                say("No file locks here ({}): do not run two set-ups at once.".format(error))
                break
        yield


def run(command, cwd):
    """Run a command, one moving line on a terminal; return (exit code, the last 25 lines it printed)."""
    tail = collections.deque(maxlen=25)
    moving = sys.stdout.isatty()
    with subprocess.Popen(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        close_fds=False,  # the child inherits the lock
    ) as child:
        for line in child.stdout:
            tail.append(line.rstrip())
            if moving:
                print("\r  " + tail[-1].strip()[:76].ljust(76), end="", flush=True)
    if moving:
        print("\r" + " " * 78 + "\r", end="", flush=True)
    return child.returncode, "\n".join(tail)


def commands(project, folder, python, extras, fresh):
    """(what it is, command) for each step of an install; -I keeps PYTHONPATH and the user's packages out."""
    inside = [str(venv_python(folder)), "-I"]
    target = ".[" + ",".join(extras) + "]"
    pip = [*inside, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    if fresh:
        yield "creating the environment", [python, "-m", "venv", str(folder)]
    yield "installing the packages", [*pip, "-c", "constraints.txt", "-e", target]
    yield "importing the packages", [*inside, "-c", IMPORTS]


def advice(what):
    """What a reader can try when this step failed."""
    if what.startswith("creating"):
        return "On Debian and Ubuntu, venv is a package of its own: sudo apt install python3-venv"
    return "Check the network (or proxy) and the free disk space (2 GB; 8 GB where torch brings CUDA along)"


def install(project, folder, python, version, extras, run):
    """Install into the folder, in place when its stamp is of this Python and project, else from scratch."""
    old = read_stamp(folder)
    fresh = (old.get("python"), old.get("project")) != (version, str(project))
    extras = sorted({*extras, *old.get("extras", [])})
    folder.mkdir(exist_ok=True)
    (folder / MARKER).touch()
    # First of all: from here to the end nobody may trust this folder.
    (folder / STAMP).unlink(missing_ok=True)
    if fresh:
        empty(folder)
    for what, command in commands(project, folder, python, extras, fresh):
        code, tail = run(command, project)
        if code != 0:
            raise SetupError(
                "{}\n\nSet-up failed while {} (exit code {}).\n{}, then run the same command again: "
                "it starts afresh.".format(tail, what, code, advice(what))
            )
    stamp = {
        "hash": fingerprint(project, version),
        "python": version,
        "project": str(project),
        "extras": extras,
    }
    write_stamp(folder, stamp)


def prepare(project, folder, python, version, extras=EXTRAS, run=run, say=print):
    """Make the folder hold the tested set; True if anything had to be installed.

    Raises SetupError for a folder that the course did not make, and when a step of the install fails.
    """

    def ready():
        stamp = read_stamp(folder)
        return stamp.get("hash") == fingerprint(project, version) and {*extras} <= {*stamp.get("extras", [])}

    if ready():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(folder.name + ".lock"), say):
        if ready():
            return False
        if is_foreign(folder):
            raise SetupError(
                "{} exists and was not made by the course, so it is left as it is.\nMove it away, or choose "
                "another folder: set the environment variable COURSE_VENV, say to .venv-course".format(folder)
            )
        say("Setting up {} with Python {}: some minutes the first time.".format(folder, version))
        install(project, folder, python, version, extras, run)
    return True


def main(arguments=None):
    """Command line: prepare the folder COURSE_VENV (default .venv); exit code 0, or 1 with a message."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extra", action="append", default=[], help="one more extra, say bench")
    extras = [*EXTRAS, *parser.parse_args(arguments).extra]
    folder = PROJECT / (os.environ.get("COURSE_VENV") or ".venv")
    start = time.monotonic()
    try:
        python, version = find_python(sys.executable, "%d.%d" % sys.version_info[:2])
        if prepare(PROJECT, folder, python, version, extras):
            print("{} is ready after {:.0f} s.".format(folder, time.monotonic() - start))
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print("Set-up failed: {}".format(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The next call starts afresh.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
