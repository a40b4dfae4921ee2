"""The set-up script, the CI runner, and the files that must agree with each other."""

import ast
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
import types

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from course_lib.publish import ci, environment
from course_lib.publish.environment import MARKER, STAMP, SetupError

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = ROOT / "course_lib" / "publish" / "environment.py"
THIS_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX processes, links and file modes")


class FakeRun:
    """Stands for venv and pip: notes each command, makes the files, fails at command number `fail`."""

    def __init__(self, fail=None, kill=None, pause=0.0):
        self.fail, self.kill, self.pause = fail, kill, pause
        self.steps, self.commands = [], []

    def __call__(self, command, cwd):
        folder = pathlib.Path(command[-1]) if "venv" in command else pathlib.Path(command[0]).parents[1]
        assert not (folder / STAMP).exists(), "nothing may trust a folder while it changes"
        assert (folder / MARKER).exists()
        self.commands.append(command)
        self.steps.append("venv" if "venv" in command else "pip" if "pip" in command else "import")
        time.sleep(self.pause)
        if self.kill == len(self.steps):
            raise KeyboardInterrupt
        if self.steps[-1] == "venv":
            python = environment.venv_python(folder)
            python.parent.mkdir()
            python.touch()
        if self.steps[-1] == "pip":
            (folder / "installed").touch()
        return (7, "the end of what pip said") if self.fail == len(self.steps) else (0, "")


@pytest.fixture
def project(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project]")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0")
    return tmp_path


def prepare(project, run, version="3.11", extras=("course", "test"), say=lambda line: None):
    return environment.prepare(project, project / ".venv", "/usr/bin/python", version, extras, run, say)


def stamp_of(project):
    return json.loads((project / ".venv" / STAMP).read_text())


# which Python


def test_a_supported_interpreter_is_used_without_a_search():
    for version in ("3.11", "3.12", "3.13"):
        assert environment.find_python("/here/python", version, which=None) == ("/here/python", version)


@pytest.mark.parametrize("version", ["3.10", "3.14", "2.7"])
def test_the_newest_supported_python_on_path_replaces_another_version(version):
    found = {"python3.11": "/a", "python3.12": "/b", "python3.13": "/liar"}
    versions = {"/a": "3.11", "/b": "3.12", "/liar": "3.10"}
    assert environment.find_python("/here", version, found.get, versions.get) == ("/b", "3.12")


def test_no_supported_python_is_said_clearly():
    with pytest.raises(
        SetupError, match=r"needs Python 3\.11 to 3\.13; this is Python 3\.9 \(/here\)"
    ) as caught:
        environment.find_python("/here", "3.9", which=lambda name: None)
    assert str(caught.value).endswith("name it: make lab PYTHON=python3.13")


def test_version_of_asks_the_interpreter(tmp_path):
    assert environment.version_of(sys.executable) == THIS_VERSION
    assert environment.version_of(str(tmp_path / "none")) == ""


@POSIX
def test_version_of_a_broken_interpreter_is_empty(tmp_path):
    broken = tmp_path / "python3.12"
    broken.write_text("#!/bin/sh\necho 3.12\nexit 1\n")
    broken.chmod(0o755)
    assert environment.version_of(str(broken)) == ""


def test_the_script_is_plain_python_for_old_interpreters():
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 8))
    answer = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), "--help"], capture_output=True, text=True
    )
    assert answer.returncode == 0 and "--extra" in answer.stdout


def test_the_interpreter_lies_where_venv_puts_it(tmp_path, monkeypatch):
    for system, place in (("posix", ("bin", "python")), ("nt", ("Scripts", "python.exe"))):
        with monkeypatch.context() as patched:
            patched.setattr(os, "name", system)
            found = environment.venv_python(tmp_path)
        assert found.parts == (*tmp_path.parts, *place)


def test_the_names_in_folders_already_made_do_not_change():
    assert (MARKER, STAMP) == (".made-by-the-course", ".ready")


# fresh, repeated, failed, killed


def test_fresh_install_then_nothing_to_do(project):
    run, said = FakeRun(), []
    assert prepare(project, run, say=said.append) is True
    python = str(environment.venv_python(project / ".venv"))
    pip = [python, "-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    assert run.commands == [
        ["/usr/bin/python", "-m", "venv", str(project / ".venv")],
        [*pip, "-c", "constraints.txt", "-e", ".[course,test]"],
        [python, "-I", "-c", "import torch, jupyterlab, course_lib"],
    ]
    assert said == [f"Setting up {project / '.venv'} with Python 3.11: some minutes the first time."]
    hash = environment.fingerprint(project, "3.11")
    assert stamp_of(project) == {
        "hash": hash,
        "python": "3.11",
        "project": str(project),
        "extras": ["course", "test"],
    }
    assert prepare(project, run, say=said.append) is False
    assert len(run.commands) == 3 and len(said) == 1
    (project / ".venv.lock").unlink()
    assert prepare(project, run) is False
    assert not (project / ".venv.lock").exists(), "what is ready waits for no lock"


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (1, "creating the environment (exit code 7).\nOn Debian and Ubuntu, venv is a package of its own: "),
        (2, "installing the packages (exit code 7).\nCheck the network (or proxy) and the free disk space "),
        (3, "importing the packages (exit code 7).\nCheck the network (or proxy) and the free disk space "),
    ],
)
def test_a_failed_install_is_explained_not_trusted_and_retried(project, step, says):
    with pytest.raises(SetupError) as caught:
        prepare(project, FakeRun(fail=step))
    assert str(caught.value).startswith("the end of what pip said\n\nSet-up failed while " + says)
    assert str(caught.value).endswith(", then run the same command again: it starts afresh.")
    assert not (project / ".venv" / STAMP).exists()
    (project / ".venv" / "half-made").touch()
    run = FakeRun()
    assert prepare(project, run) is True
    assert run.steps == ["venv", "pip", "import"]
    assert not (project / ".venv" / "half-made").exists()


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_interrupted_install_is_rebuilt(project, step):
    with pytest.raises(KeyboardInterrupt):
        prepare(project, FakeRun(kill=step))
    run = FakeRun()
    assert prepare(project, run) is True
    assert run.steps == ["venv", "pip", "import"]


def test_a_kill_while_the_old_folder_is_emptied_leaves_no_stamp(project, monkeypatch):
    prepare(project, FakeRun())
    with monkeypatch.context() as patched:
        patched.setattr(environment, "empty", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(project, FakeRun(), version="3.12")
    assert not (project / ".venv" / STAMP).exists() and (project / ".venv" / MARKER).exists()


@POSIX
def test_empty_keeps_the_marker_and_follows_no_link(tmp_path):
    folder, other = tmp_path / "venv", tmp_path / "other"
    (folder / "lib" / "deep").mkdir(parents=True)
    other.mkdir()
    for path in (folder / MARKER, folder / "file", folder / "lib" / "deep" / "file", other / "kept"):
        path.touch()
    (folder / "lib64").symlink_to(other)
    environment.empty(folder)
    assert [path.name for path in folder.iterdir()] == [MARKER]
    assert (other / "kept").exists()


# what is not ours


def test_a_folder_made_by_others_is_kept(project):
    (project / ".venv").mkdir()
    (project / ".venv" / "pyvenv.cfg").write_text("mine")
    with pytest.raises(SetupError, match=r"\.venv exists and was not made by the course") as caught:
        prepare(project, FakeRun())
    assert str(caught.value).endswith("set the environment variable COURSE_VENV, say to .venv-course")
    assert [path.name for path in (project / ".venv").iterdir()] == ["pyvenv.cfg"]


def test_a_file_is_foreign_an_empty_folder_and_no_folder_are_not(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    assert environment.is_foreign(tmp_path / "file") is True
    assert environment.is_foreign(tmp_path / "empty") is False
    assert environment.is_foreign(tmp_path / "nothing") is False
    assert environment.is_foreign(tmp_path) is True
    (tmp_path / MARKER).touch()
    assert environment.is_foreign(tmp_path) is False


@POSIX
def test_a_dangling_link_is_foreign(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert environment.is_foreign(tmp_path / "link") is True


def test_the_folder_may_lie_deep_elsewhere(project):
    folder = project / "some" / "where" / "venv"
    assert environment.prepare(project, folder, "python", "3.11", run=FakeRun(), say=print) is True
    assert (folder / STAMP).exists() and (project / "some" / "where" / "venv.lock").exists()


# what changes


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_dependencies_are_installed_in_place(project, name):
    prepare(project, FakeRun())
    (project / name).write_text("changed")
    (project / ".venv" / "kept").touch()
    run = FakeRun()
    assert prepare(project, run) is True
    assert run.steps == ["pip", "import"] and (project / ".venv" / "kept").exists()
    assert prepare(project, run) is False


def test_a_failed_upgrade_is_rebuilt_from_scratch(project):
    prepare(project, FakeRun())
    (project / "constraints.txt").write_text("changed")
    with pytest.raises(SetupError):
        prepare(project, FakeRun(fail=1))
    run = FakeRun()
    prepare(project, run)
    assert run.steps == ["venv", "pip", "import"]


def test_another_python_rebuilds(project):
    prepare(project, FakeRun())
    run = FakeRun()
    assert prepare(project, run, version="3.12") is True
    assert run.steps == ["venv", "pip", "import"] and stamp_of(project)["python"] == "3.12"


def test_a_moved_project_rebuilds(project, tmp_path_factory):
    prepare(project, FakeRun())
    moved = tmp_path_factory.mktemp("moved") / "course"
    shutil.move(project, moved)
    run = FakeRun()
    assert prepare(moved, run) is True
    assert run.steps == ["venv", "pip", "import"] and stamp_of(moved)["project"] == str(moved)


def test_an_environment_that_lost_its_interpreter_is_rebuilt(project):
    prepare(project, FakeRun())
    environment.venv_python(project / ".venv").unlink()
    run = FakeRun()
    assert prepare(project, run) is True
    assert run.steps == ["venv", "pip", "import"]


@pytest.mark.parametrize("junk", ["", "[]", "{", '"text"'])
def test_a_stamp_that_is_no_stamp_is_not_trusted(project, junk):
    prepare(project, FakeRun())
    (project / ".venv" / STAMP).write_text(junk)
    assert environment.read_stamp(project / ".venv") == {}
    assert prepare(project, FakeRun()) is True


def test_an_extra_is_added_in_place_and_kept_by_later_upgrades(project):
    prepare(project, FakeRun())
    run = FakeRun()
    assert prepare(project, run, extras=("course", "test", "bench")) is True
    assert run.steps == ["pip", "import"] and run.commands[0][-1] == ".[bench,course,test]"
    assert prepare(project, run) is False
    (project / "constraints.txt").write_text("changed")
    assert prepare(project, run) is True
    assert run.commands[-2][-1] == ".[bench,course,test]"


def test_the_fingerprint_depends_on_each_input(project, tmp_path_factory):
    first = environment.fingerprint(project, "3.11")
    assert re.fullmatch("[0-9a-f]{64}", first) and environment.fingerprint(project, "3.11") == first
    other = tmp_path_factory.mktemp("other")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(project / name, other)
    seen = {first, environment.fingerprint(project, "3.12"), environment.fingerprint(other, "3.11")}
    for name in ("pyproject.toml", "constraints.txt"):
        (project / name).write_text("changed " + name)
        seen.add(environment.fingerprint(project, "3.11"))
    assert len(seen) == 5


def test_a_stamp_is_whole_or_absent(tmp_path, monkeypatch):
    environment.write_stamp(tmp_path, {"hash": "new"})
    assert os.listdir(tmp_path) == [STAMP]
    monkeypatch.setattr(os, "replace", lambda source, target: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        environment.write_stamp(tmp_path, {"hash": "newer"})
    assert json.loads((tmp_path / STAMP).read_text()) == {"hash": "new"}


# one at a time


def test_parallel_calls_install_once(project):
    run, said, answers = FakeRun(pause=0.15), [], []
    work = [
        threading.Thread(target=lambda: answers.append(prepare(project, run, say=said.append)))
        for _ in "abcd"
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert sorted(answers) == [False, False, False, True]
    assert run.steps == ["venv", "pip", "import"]
    assert said.count("Another set-up is at work; waiting for it to end ...") == 3


@POSIX
def test_a_killed_holder_frees_the_lock_when_its_child_ends_too(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import environment\n"
        "with environment.locked(sys.argv[2], print):\n"
        "    print('held', flush=True)\n"
        "    environment.run([sys.executable, '-c', 'import time; time.sleep(1.0)'], '.')"
    )
    lock = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, SCRIPT.parent, lock], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    time.sleep(0.3)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with open(lock, "w") as file, pytest.raises(BlockingIOError):
        environment.try_lock(file)
    said = []
    with environment.locked(lock, said.append, pause=0.02):
        assert len(said) == 1
    with open(lock, "w") as file:
        environment.try_lock(file)


def test_windows_locks_one_byte_without_waiting(tmp_path, monkeypatch):
    calls = []
    windows = types.SimpleNamespace(LK_NBLCK=2, locking=lambda *arguments: calls.append(arguments))
    with open(tmp_path / "lock", "w") as file, monkeypatch.context() as patched:
        patched.setattr(os, "name", "nt")
        patched.setitem(sys.modules, "msvcrt", windows)
        environment.try_lock(file)
        assert calls == [(file.fileno(), 2, 1)]


def test_where_files_cannot_be_locked_it_goes_on_and_says_so(tmp_path):
    def no_locks(file):
        raise OSError(95, "not supported")

    said = []
    with environment.locked(tmp_path / "lock", said.append, try_lock=no_locks):
        pass
    assert said == ["No file locks here ([Errno 95] not supported): do not run two set-ups at once."]


# running commands


def test_run_gives_the_exit_code_and_the_last_lines_of_both_streams(tmp_path):
    code = "import os, sys; [print(i, flush=True) for i in range(30)]"
    code += "; print(os.getcwd(), file=sys.stderr); sys.exit(3)"
    answer, tail = environment.run([sys.executable, "-c", code], tmp_path)
    assert answer == 3
    assert tail.splitlines() == [*map(str, range(6, 30)), str(tmp_path.resolve())]


def test_run_is_silent_but_for_a_moving_line_on_a_terminal(tmp_path, monkeypatch, capsys):
    command = [sys.executable, "-c", "print('  x' * 50)"]
    environment.run(command, tmp_path)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    environment.run(command, tmp_path)
    line = ("x  " * 50)[:76]
    assert capsys.readouterr().out == f"\r  {line}\r{' ' * 78}\r"


# the command line


@pytest.fixture
def prepared(monkeypatch):
    """Replace `prepare`; gives the list of its arguments, one call each."""
    calls = []
    monkeypatch.setattr(environment, "prepare", lambda *arguments: calls.append(arguments) or True)
    monkeypatch.setattr(environment, "find_python", lambda path, version: (path, version))
    monkeypatch.delenv("COURSE_VENV", raising=False)
    return calls


def test_main_prepares_dot_venv_of_this_project(prepared, capsys):
    assert environment.main([]) == 0
    assert prepared == [(ROOT, ROOT / ".venv", sys.executable, THIS_VERSION, ["course", "test"])]
    assert re.fullmatch(r".*\.venv is ready after 0 s\.\n", capsys.readouterr().out)


def test_main_takes_extras_and_another_folder(prepared, monkeypatch):
    monkeypatch.setenv("COURSE_VENV", ".venv-course")
    assert environment.main(["--extra", "bench", "--extra", "edit"]) == 0
    assert prepared[0][1] == ROOT / ".venv-course"
    assert prepared[0][4] == ["course", "test", "bench", "edit"]


def test_main_says_nothing_when_there_was_nothing_to_do(prepared, monkeypatch, capsys):
    monkeypatch.setattr(environment, "prepare", lambda *arguments: False)
    assert environment.main([]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (SetupError("what to try"), 1, "what to try\n"),
        (PermissionError(13, "Permission denied"), 1, "Set-up failed: [Errno 13] Permission denied\n"),
        (KeyboardInterrupt(), 130, "\nStopped. The next call starts afresh.\n"),
    ],
)
def test_main_turns_errors_into_a_message_and_an_exit_code(prepared, monkeypatch, capsys, error, code, says):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(environment, "prepare", fail)
    assert environment.main([]) == code
    assert capsys.readouterr().err == says


def test_the_script_ends_with_the_exit_code(tmp_path):
    folder = tmp_path / "venv"
    folder.mkdir()
    (folder / "mine").touch()
    command, base = [sys.executable, "-I", str(SCRIPT)], {**os.environ, "COURSE_VENV": str(folder)}
    answer = subprocess.run(command, env=base, capture_output=True, text=True)
    assert answer.returncode == 1 and "was not made by the course" in answer.stderr


# the CI runner

WITH_WORKERS = "-m pytest -n 2 --dist loadfile"
FOR_NOTEBOOKS = (
    f"{WITH_WORKERS} -o addopts= -o filterwarnings= --nbval-lax --nbval-current-env --nbval-cell-timeout 600"
)


def test_the_stages_are_these_in_this_order():
    table = ci.stages(["notebooks"])
    solved = {"COURSE_SOLUTIONS": "1", "COURSE_FAST": "1"}
    assert [(name, (" ".join(line), extra)) for name, (line, extra) in table.items()] == [
        ("ruff", ("-m ruff check .", {})),
        ("format", ("-m ruff format --check .", {})),
        ("notebook-lint", ("-m course_lib.publish.lint notebooks", {})),
        ("unit", (WITH_WORKERS, {})),
        ("blank", (f"{FOR_NOTEBOOKS} notebooks", {})),
        ("solved", (f"{FOR_NOTEBOOKS} notebooks", solved)),
        ("slides", ("-m course_lib.publish.slides", {})),
    ]


def test_a_stage_sees_one_thread_and_only_its_own_mode():
    base = {
        "PATH": "p",
        "COURSE_SOLUTIONS": "1",
        "COURSE_FAST": "1",
        "COURSE_STATIC": "1",
        "OMP_NUM_THREADS": "8",
    }
    plain = {"PATH": "p", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    assert ci.environment({}, base) == plain
    assert ci.environment({"COURSE_FAST": "1"}, base) == {**plain, "COURSE_FAST": "1"}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("== 1 failed, 12 passed, 3 skipped in 4.05s ==", {"failed": 1, "passed": 12, "skipped": 3}),
        ("= 5 passed, 1 xfailed, 2 errors in 75.00s (0:01:15) =", {"passed": 5, "errors": 2}),
        ("== 1 error in 0.20s ==", {"error": 1}),
        ("no tests ran in 0.01s", {}),
        ("3 passed the gate", {}),
    ],
)
def test_counts_reads_only_the_closing_line_of_pytest(line, found):
    assert ci.counts(line) == found


def test_a_stage_runs_with_its_variables_and_shows_its_output(monkeypatch, capsys):
    monkeypatch.setenv("COURSE_SOLUTIONS", "1")
    code = "import os, sys; seen = os.environ.get; print(seen('COURSE_SOLUTIONS'), seen('A'), flush=True)"
    code += "; print('1 passed in 0.10s', flush=True); print('last', file=sys.stderr); sys.exit(4)"
    assert ci.run_stage(["-c", code], {"A": "b"}) == (4, {"passed": 1})
    assert capsys.readouterr().out == "None b\n1 passed in 0.10s\nlast\n"


def clock_of(*times):
    return iter(times).__next__


def test_all_stages_run_and_the_counts_are_summed(capsys):
    answers = {"a": (0, {}), "b": (0, {"passed": 2, "skipped": 1}), "c": (0, {"passed": 40})}
    table = {name: ([name, "x"], {"V": name}) for name in answers}

    def run_stage(arguments, variables):
        assert variables == {"V": arguments[0]}
        return answers[arguments[0]]

    assert ci.run(table, run_stage, clock_of(0.0, 1.0, 2.5, 3.0, 5.0, 6.0, 9.0, 10.0)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "--- a: python a x",
        "--- b: python b x",
        "--- c: python c x",
        "",
        "a              ok         1.5 s",
        "b              ok         2.0 s",
        "c              ok         3.0 s",
        "42 passed, 1 skipped in 10.00s",
    ]


def test_the_first_stage_that_fails_stops_the_run_and_is_named(capsys):
    answers = {"a": (0, {"passed": 3}), "b": (2, {"failed": 1, "passed": 2}), "c": (0, {})}
    table = {name: ([name], {}) for name in answers}
    assert ci.run(table, lambda arguments, variables: answers[arguments[0]], clock_of(*range(9))) == 2
    assert capsys.readouterr().out.splitlines()[2:] == [
        "",
        "a              ok         1.0 s",
        "b              FAILED     1.0 s",
        "FAILED at stage: b",
        "1 failed, 5 passed in 5.00s",
    ]


def test_main_runs_the_named_stages_or_all(monkeypatch, capsys):
    tables = []
    monkeypatch.setattr(ci, "run", lambda table: tables.append(table) or 5)
    assert ci.main([]) == 5
    assert tables[0] == ci.stages(["notebooks"])
    assert ci.main(["unit", "solved", "--notebooks", "a.ipynb", "b.ipynb"]) == 5
    assert list(tables[1]) == ["unit", "solved"] and tables[1]["solved"][0][-2:] == ["a.ipynb", "b.ipynb"]
    with pytest.raises(SystemExit) as caught:
        ci.main(["unit", "units"])
    assert (
        caught.value.code == 2 and "stage is units, must be one of: ruff, format" in capsys.readouterr().err
    )


def test_the_runner_exits_with_the_code_of_the_stage_that_failed(tmp_path):
    command = [sys.executable, "-m", "course_lib.publish.ci", "ruff", "unit"]
    (tmp_path / "bad.py").write_text("import os\n")
    base = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(command, cwd=tmp_path, env=base, capture_output=True, text=True)
    assert answer.returncode == 1 and answer.stdout.endswith("FAILED at stage: ruff\n")


# files that must agree


def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_each_dependency_has_one_pin_inside_its_range():
    extras = pyproject()["optional-dependencies"]
    assert set(extras) == {"course", "test", "bench", "edit"}
    for line in [*pyproject()["dependencies"], *itertools.chain(*extras.values())]:
        wanted = Requirement(line)
        found = [pin for pin in pins() if canonicalize_name(pin.name) == canonicalize_name(wanted.name)]
        assert len(found) == 1, f"{wanted.name} has {len(found)} pins in constraints.txt, must have 1"
        assert found[0].marker is None, f"{wanted.name} is pinned for some machines only"
        (exact,) = found[0].specifier
        assert wanted.specifier and exact.version in wanted.specifier, f"{line} does not allow {found[0]}"


def test_constraints_are_exact_public_versions_each_named_once():
    names = [canonicalize_name(pin.name) for pin in pins()]
    assert len(names) == len(set(names)) > 100
    for pin in pins():
        (exact,) = pin.specifier
        assert exact.operator == "==" and "*" not in exact.version and pin.url is None and not pin.extras
        assert Version(exact.version).local is None
    assert [str(pin) for pin in pins() if pin.name == "torch"] == ["torch==2.13.0"]


def test_the_supported_pythons_are_the_same_everywhere():
    supported = Requirement("python" + pyproject()["requires-python"]).specifier
    tried = [f"3.{minor}" for minor in range(8, 18)]
    assert [version for version in tried if version + ".1" in supported] == list(environment.VERSIONS)
    classifiers = [line for line in pyproject()["classifiers"] if "Python :: 3." in line]
    assert [line.rpartition(" ")[2] for line in classifiers] == list(environment.VERSIONS)
    jobs = workflow()["jobs"]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == list(environment.VERSIONS)
    assert {python_of(jobs["macos-windows"]), python_of(jobs["newest"])} <= set(environment.VERSIONS)


def test_conda_installs_the_same_set():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert conda["name"] == pyproject()["name"] == "text-diffusion-course"
    python, installer, packages = conda["dependencies"]
    assert python.startswith("python=") and python[len("python=") :] in environment.VERSIONS
    assert installer == "pip"
    assert packages == {"pip": ["-c constraints.txt", f"-e .[{','.join(environment.EXTRAS)}]"]}


def targets():
    return re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def workflow():
    return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))


def python_of(job):
    (version,) = [
        step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})
    ]
    return version


def check_commands(text):
    """Every make target, module, script, notebook, stage and extra that a command names must exist."""
    for target in re.findall(r"(?:^|[`:|] *|exec |    )make ([a-z]+)", text, re.MULTILINE):
        assert target in targets(), f"make {target} does not exist"
    for module in re.findall(r"-m (course_lib[\w.]*)", text):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), f"{module} does not exist"
    for path in re.findall(r"[\w./\\]+\.(?:py|ipynb|txt)\b", text):
        assert (ROOT / path.replace("\\", "/")).exists(), f"{path} does not exist"
    for stages in re.findall(r"publish\.ci((?: [a-z]+(?:-[a-z]+)*)*)", text):
        assert set(stages.split()) <= set(ci.stages([])), f"no such stage:{stages}"
    for extras in re.findall(r"\.\[([\w,]+)\]", text):
        assert set(extras.split(",")) <= set(pyproject()["optional-dependencies"])


def test_the_workflow_names_only_what_exists():
    commands = [step["run"] for job in workflow()["jobs"].values() for step in job["steps"] if "run" in step]
    assert "make test PYTHON=python" in commands
    check_commands("\n".join(commands))
    cached = re.findall(r"cache-dependency-path': '([^']*)'", str(workflow()))
    assert cached == [r"pyproject.toml\nconstraints.txt\n"] * 2


def test_the_workflow_runs_where_it_should():
    jobs = workflow()["jobs"]
    assert jobs["macos-windows"]["strategy"]["matrix"]["os"] == ["macos-latest", "windows-latest"]
    assert jobs["newest"]["continue-on-error"] is True
    assert "constraints.txt -e" not in str(jobs["newest"]) and "GITHUB_STEP_SUMMARY" in str(jobs["newest"])
    assert workflow()[True]["schedule"] == [{"cron": "17 4 * * 1"}]


@pytest.mark.parametrize("name", ["environment.yml", "CONTRIBUTING.md", "Makefile", ".ci/run"])
def test_the_pages_name_only_commands_that_exist(name):
    check_commands((ROOT / name).read_text(encoding="utf-8"))


@POSIX
def test_ci_run_is_make_test_and_executable():
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    assert path.read_text().splitlines()[-2:] == ['cd "$(dirname "${BASH_SOURCE[0]}")/.."', "exec make test"]


# the Makefile

MAKE = pytest.mark.skipif(os.name == "nt" or not shutil.which("make"), reason="needs make")


def make(*arguments, **variables):
    base = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "M"))}
    command = ["make", "-C", str(ROOT), "--no-print-directory", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env={**base, **variables}
    ).stdout


@MAKE
def test_make_alone_explains_every_target():
    listed = re.findall(r"^  make (\w+) +\S", make(), re.MULTILINE)
    assert listed == targets() and len(listed) == 10
    assert make() == make("help")
    phony = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(phony[1].split()) == sorted(targets())


@MAKE
@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("test", '".venv/bin/python" -m course_lib.publish.ci'),
        ("lint", '".venv/bin/python" -m course_lib.publish.ci ruff format notebook-lint'),
        ("unit", '".venv/bin/python" -m course_lib.publish.ci unit'),
        ("slides", '".venv/bin/python" -m course_lib.publish.slides --pdf'),
    ],
)
def test_make_sets_up_then_runs(target, command):
    assert make("-n", target).splitlines() == ["python3 course_lib/publish/environment.py", command]


@MAKE
def test_make_notebooks_renews_the_pages_that_quote_them():
    assert make("-n", "notebooks").splitlines()[1:] == [
        '".venv/bin/python" -m course_lib.publish.notebooks notebooks',
        '".venv/bin/python" -m course_lib.publish.readme',
    ]


@MAKE
def test_make_bench_installs_its_extra():
    assert make("-n", "bench", "PYTHON=python3.12", COURSE_VENV="/else/where").splitlines() == [
        "python3.12 course_lib/publish/environment.py --extra bench",
        '"/else/where/bin/python" -m pytest -o addopts= -o filterwarnings= tests/benchmarks',
    ]


@MAKE
@pytest.mark.parametrize(("user", "flags"), [("1000", []), ("0", ["--allow-root"])])
def test_make_lab_is_loopback_only_and_allows_root_to_root_alone(tmp_path, user, flags):
    (tmp_path / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (tmp_path / "id").chmod(0o755)
    lab = make("-n", "lab", "LAB_ARGS=--no-browser", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert lab.splitlines()[1].split() == [
        *['".venv/bin/python"', "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1"],
        *[*flags, "--no-browser", "notebooks/00_start_here.ipynb"],
    ]
