"""`make` sets the environment up once, trusts nothing before it is whole, and says what is wrong with another."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name == "nt" or not shutil.which("make"), reason="needs POSIX and make")

# Stands for Python, venv and pip: notes what pip is asked, and fails or is killed where the test says so.
FAKE = """#!/bin/sh
case "$*" in
*"-m venv"*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo venv >>"$LOG" ;;
*"-m pip"*)
    for last; do :; done
    if [ "$last" = ".[course,test]" ] && [ -e "${0%/bin/python}/.ready" ]; then echo "pip met a stamp" >>"$LOG"; fi
    echo "pip $last" >>"$LOG"
    if [ -n "$KILL" ]; then kill -9 $PPID; fi
    exit "${FAIL:-0}" ;;
*course_lib.__file__*) echo "${HERE:-$(pwd -P)}" ;;
*version_info*) echo VERSION ;;
esac
"""


@pytest.fixture
def project(tmp_path):
    """A copy of the files that set-up needs, at a path with a space, with Pythons of the test's own on PATH."""
    root = tmp_path / "a course"
    (root / "tools").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "tools/environment.sh"):
        shutil.copy(ROOT / name, root / name)
    add_python(tmp_path, "python3", "3.12")
    return root


def add_python(tmp_path, name, version):
    (tmp_path / "bin").mkdir(exist_ok=True)
    python = tmp_path / "bin" / name
    python.write_text(FAKE.replace("VERSION", version))
    python.chmod(0o755)


def make(project, *arguments, **variables):
    """(exit code, all that was printed, what venv and pip were asked to do)"""
    log = project.parent / "log"
    log.write_text("")
    tools = [
        shutil.which(name)
        for name in ("make", "sh", "ls", "mkdir", "find", "rm", "cp", "id", "grep", "dirname")
    ]
    for tool in tools:
        link = project.parent / "bin" / pathlib.Path(tool).name
        if not link.exists():
            link.symlink_to(tool)
    base = {"PATH": str(project.parent / "bin"), "LOG": str(log), "HOME": str(project.parent)}
    command = ["make", "--no-print-directory", *(arguments or ("environment",))]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, env=base | variables)
    return done.returncode, done.stdout + done.stderr, log.read_text().split("\n")[:-1]


FRESH = ["venv", "pip .[course,test]"]
IN_PLACE = ["pip .[course,test]"]


def later(*paths):
    for path in paths:
        os.utime(path, (2**31, 2**31))


def test_the_first_call_installs_and_the_second_finds_nothing_to_do(project):
    code, said, asked = make(project)
    assert (code, asked) == (0, FRESH)
    assert said == "Setting up .venv with Python 3.12: some minutes the first time.\n.venv is ready.\n"
    assert make(project) == (0, "", [])


def test_new_dependencies_are_installed_in_place(project):
    make(project)
    for name in ("pyproject.toml", "constraints.txt"):
        later(project / name)
        assert make(project)[2] == IN_PLACE
        os.utime(project / name, (1, 1))
        assert make(project)[2] == []


@pytest.mark.parametrize("how", [{"FAIL": "1"}, {"KILL": "1"}])
@pytest.mark.parametrize("before", ["nothing", "a whole one"])
def test_what_failed_or_was_killed_is_not_trusted_and_starts_afresh(project, how, before):
    if before == "a whole one":
        make(project)
        os.utime(project / ".venv" / ".ready", (2, 2))
    code, said, _ = make(project, **how)
    assert code != 0 and not (project / ".venv" / ".ready").exists()
    assert "FAIL" not in how or "run the same command again" in said
    (project / ".venv" / "half").touch()
    assert make(project)[2] == FRESH and not (project / ".venv" / "half").exists()


def test_a_folder_made_by_others_is_kept(project):
    (project / ".venv").mkdir()
    (project / ".venv" / "precious").touch()
    code, said, asked = make(project)
    assert code != 0 and asked == [] and (project / ".venv" / "precious").exists()
    assert ".venv exists and was not made by the course" in said and "COURSE_VENV=.venv-course" in said


def test_an_empty_folder_may_be_used_and_another_place_named(project):
    elsewhere = project.parent / "else where"
    elsewhere.mkdir()
    assert make(project, COURSE_VENV=str(elsewhere))[2] == FRESH
    assert (elsewhere / ".ready").exists() and not (project / ".venv").exists()
    assert make(project, COURSE_VENV=str(elsewhere))[2] == []


def test_a_moved_or_broken_environment_is_said_and_made_again(project):
    make(project)
    code, said, asked = make(project, HERE="/old/place")
    assert "it does not work here: it was made for /old/place" in said
    (project / ".venv" / "bin" / "python").unlink()
    code, said, asked = make(project)
    assert (code, asked) == (0, FRESH) and ".venv is made again: it does not work." in said


def test_the_python_that_is_asked_for_is_the_one_inside(project, tmp_path):
    make(project)
    add_python(tmp_path, "python3.11", "3.11")
    assert make(project)[2] == []
    code, said, asked = make(project, "environment", "PYTHON=python3.11")
    assert (code, asked) == (0, FRESH) and "it has Python 3.12, python3.11 is 3.11" in said
    assert make(project, PYTHON="python3.11")[2] == []
    add_python(tmp_path, "python3", "3.12")
    assert make(project)[2] == []  # python3 alone may come to mean another one


@pytest.mark.parametrize("version", ["3.10", "3.14", "2.7"])
def test_another_python_is_replaced_by_the_newest_that_serves_or_named(project, tmp_path, version):
    add_python(tmp_path, "python3", version)
    code, said, asked = make(project)
    assert code != 0 and asked == []
    assert f"needs Python 3.11 to 3.13; python3 is {version}, and PATH has no other" in said
    assert "make lab PYTHON=python3.13" in said
    add_python(tmp_path, "python3.11", "3.11")
    add_python(tmp_path, "python3.13", "3.13")
    code, said, asked = make(project)
    assert (code, asked) == (0, FRESH) and "with Python 3.13" in said


def test_a_python_that_does_not_exist_is_named(project):
    code, said, _ = make(project, "environment", "PYTHON=python9")
    assert code == 0 or "python9 is no Python that runs" in said


def test_an_extra_is_added_and_renewed_with_the_rest(project):
    target = ".venv/.ready-bench"
    assert make(project, target)[2] == [*FRESH, "pip .[bench]"]
    assert make(project, target)[2] == []
    later(project / ".venv" / ".ready")
    assert make(project, target)[2][-1:] == ["pip .[bench]"]


def test_the_script_is_plain_sh():
    dash = shutil.which("dash") or shutil.which("sh")
    for name in ("environment.sh", "matrix.sh"):
        subprocess.run([dash, "-n", str(ROOT / "tools" / name)], check=True)


def test_the_matrix_tries_every_python_it_finds_and_says_which_it_did_not(project, tmp_path):
    shutil.copy(ROOT / "tools" / "matrix.sh", project / "tools")
    add_python(tmp_path, "python3.12", "3.12")
    pyenv = tmp_path / "pyenv" / "versions" / "3.13.0" / "bin"
    pyenv.mkdir(parents=True)
    (pyenv / "python").symlink_to(tmp_path / "bin" / "python3.12")
    mine = tmp_path / "bin" / "mine"
    mine.write_text('#!/bin/sh\necho "in $COURSE_VENV: $*"\ncase $COURSE_VENV in *3.13) exit 1 ;; esac\n')
    mine.chmod(0o755)
    base = {
        "PATH": str(tmp_path / "bin"),
        "HOME": str(tmp_path),
        "MAKE": "mine",
        "PYENV_ROOT": str(tmp_path / "pyenv"),
    }
    done = subprocess.run(
        ["/bin/sh", "tools/matrix.sh"], cwd=project, capture_output=True, text=True, env=base
    )
    assert done.returncode == 1 and done.stdout.splitlines() == [
        f"=== Python 3.12 ({tmp_path}/bin/python3.12)",
        f"in build/matrix/3.12: --no-print-directory lint unit PYTHON={tmp_path}/bin/python3.12",
        f"=== Python 3.13 ({pyenv}/python)",
        f"in build/matrix/3.13: --no-print-directory lint unit PYTHON={pyenv}/python",
        "",
        "3.11 not found",
        "3.12 ok",
        "3.13 FAILED",
    ]


# the other targets


def plan(*arguments, **variables):
    base = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "M"))}
    command = ["make", "-n", "-C", str(ROOT), "--no-print-directory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**base, **variables})
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("test", "-m tools.ci"),
        ("lint", "-m tools.ci ruff format notebook-lint outputs density reference"),
        ("unit", "-m tools.ci unit"),
        ("notebooks", "-m tools.reference"),
        ("slides", "-m tools.slides --pdf"),
        ("bench", "-m tools.bench"),
        ("site", "-m tools.site --check"),
    ],
)
def test_make_sets_up_then_runs(target, command):
    lines = plan(target)
    assert lines[-1] == f'".venv/bin/python" {command}'
    assert any("environment.sh check" in line for line in lines[:-1])


@pytest.mark.parametrize(("user", "flags"), [("1000", []), ("0", ["--allow-root"])])
def test_make_lab_is_loopback_only_and_allows_root_to_root_alone(tmp_path, user, flags):
    (tmp_path / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (tmp_path / "id").chmod(0o755)
    lab = plan("lab", "LAB_ARGS=--no-browser", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert lab[-2] == '".venv/bin/python" -m tools.copies student --out "mine" --keep'
    assert shlex.split(lab[-1]) == [
        *[".venv/bin/python", "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1"],
        *[f"--ServerApp.root_dir={ROOT}", f"--LabApp.app_settings_dir={ROOT}/tools/lab_settings"],
        *["--LabApp.default_url=/lab/tree/mine/00_start_here.ipynb"],
        *[*flags, "--no-browser"],
    ]
    assert "/lab/tree/notebooks/00_start_here.ipynb" in plan("edit")[-1]


def test_the_settings_of_jupyterlab_are_settings_that_it_has():
    schemas = pathlib.Path(sysconfig.get_path("data")) / "share" / "jupyter" / "lab" / "schemas"
    ours = json.loads((ROOT / "tools" / "lab_settings" / "overrides.json").read_text(encoding="utf-8"))
    assert ours
    for plugin, settings in ours.items():
        package, name = plugin.split(":")
        known = json.loads((schemas / package / f"{name}.json").read_text(encoding="utf-8"))["properties"]
        for key, value in settings.items():
            assert value in [kind["const"] for kind in known[key]["oneOf"]]
