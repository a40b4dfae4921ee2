"""Files that must agree with each other: dependencies, supported Pythons, commands that pages and workflows name."""

import itertools
import os
import pathlib
import re
import subprocess
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools import ci, oldest

ROOT = pathlib.Path(__file__).parents[2]
PYTHONS = ["3.11", "3.12", "3.13"]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def pyproject():
    return tomllib.loads(read("pyproject.toml"))["project"]


def pins():
    lines = read("constraints.txt").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_each_dependency_has_one_pin_inside_its_range():
    extras = pyproject()["optional-dependencies"]
    assert set(extras) == {"text", "plots", "course", "test", "bench", "edit", "site"}
    for line in [*pyproject()["dependencies"], *itertools.chain(*extras.values())]:
        wanted = Requirement(line)
        found = [pin for pin in pins() if canonicalize_name(pin.name) == canonicalize_name(wanted.name)]
        assert len(found) == 1, f"{wanted.name} has {len(found)} pins in constraints.txt, must have 1"
        assert found[0].marker is None, f"{wanted.name} is pinned for some machines only"
        (exact,) = found[0].specifier
        assert wanted.specifier and exact.version in wanted.specifier, f"{line} does not allow {found[0]}"


def test_the_course_has_what_its_parts_have():
    extras = pyproject()["optional-dependencies"]
    assert {*extras["text"], *extras["plots"]} <= {*extras["course"]}


def test_constraints_are_exact_public_versions_each_named_once():
    names = [canonicalize_name(pin.name) for pin in pins()]
    assert len(names) == len(set(names)) > 100
    for pin in pins():
        (exact,) = pin.specifier
        assert exact.operator == "==" and "*" not in exact.version and pin.url is None and not pin.extras
        assert Version(exact.version).local is None
    assert [str(pin) for pin in pins() if pin.name == "torch"] == ["torch==2.13.0"]


def test_the_oldest_versions_are_the_lower_bounds():
    project = pyproject()
    lines = oldest.oldest(project)
    wanted = [*project["dependencies"], *project["optional-dependencies"]["course"]]
    wanted += project["optional-dependencies"]["test"]
    assert len(lines) == len({Requirement(line).name for line in wanted})
    for line in lines:
        pin = Requirement(line)
        bounds = [Requirement(w).specifier for w in wanted if Requirement(w).name == pin.name]
        assert all(f">={next(iter(pin.specifier)).version}" in str(bound) for bound in bounds)


def test_the_supported_pythons_are_the_same_everywhere():
    supported = Requirement("python" + pyproject()["requires-python"]).specifier
    tried = [f"3.{minor}" for minor in range(8, 18)]
    assert [version for version in tried if version + ".1" in supported] == PYTHONS
    classifiers = [line for line in pyproject()["classifiers"] if "Python :: 3." in line]
    assert [line.rpartition(" ")[2] for line in classifiers] == PYTHONS
    jobs = workflow()["jobs"]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == PYTHONS
    assert {python_of(jobs[name]) for name in ("macos-windows", "newest", "oldest")} <= set(PYTHONS)
    assert f"for version in {' '.join(PYTHONS)}; do" in read("tools/matrix.sh")
    assert " | ".join(PYTHONS) in read("tools/environment.sh")


def test_conda_installs_the_same_set():
    conda = yaml.safe_load(read("environment.yml"))
    assert conda["name"] == pyproject()["name"] == "text-diffusion-course"
    python, installer, packages = conda["dependencies"]
    assert python.startswith("python=") and python[len("python=") :] in PYTHONS
    assert installer == "pip"
    assert packages == {"pip": ["-c constraints.txt", "-e .[course,test]"]}
    assert 'pip_install ".[course,test]"' in read("tools/environment.sh")


def targets():
    return re.findall(r"^([a-z]+):(?!=)", read("Makefile"), re.MULTILINE)


def workflow():
    return yaml.safe_load(read(".github/workflows/ci.yml"))


def python_of(job):
    (version,) = [s["with"]["python-version"] for s in job["steps"] if "python-version" in s.get("with", {})]
    return version


def check_commands(text):
    """Every make target, module, script, notebook, stage and extra that a command names must exist."""
    for target in re.findall(r"(?:^|[`:|] *|exec |    )make ([a-z]+)", text, re.MULTILINE):
        assert target in targets(), f"make {target} does not exist"
    for module in re.findall(r"-m ((?:course_lib|tools)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), f"{module} does not exist"
    for path in re.findall(r"(?<![\w./\\])[\w./\\]+\.(?:py|sh|ipynb|txt)\b", text):
        path = path.removeprefix("/lab/tree/")
        assert path.startswith("build/") or (ROOT / path.replace("\\", "/")).exists(), (
            f"{path} does not exist"
        )
    for stages in re.findall(r"tools\.ci((?: [a-z]+(?:-[a-z]+)*)*)", text):
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


@pytest.mark.parametrize(
    "name", ["environment.yml", "CONTRIBUTING.md", "Makefile", ".ci/run", "tools/matrix.sh"]
)
def test_the_pages_name_only_commands_that_exist(name):
    check_commands(read(name))


def test_make_alone_explains_every_target():
    listed = re.findall(r"^([a-z]+):[^#\n]* ## \w", read("Makefile"), re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)", read("Makefile"), re.MULTILINE)
    assert listed == targets() and sorted(phony[1].split()) == sorted(targets())


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX: file modes")
def test_ci_run_is_make_test_and_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert read(".ci/run").splitlines()[-1] == "exec make test"


def test_the_version_is_the_same_everywhere():
    import course_lib

    assert pyproject()["version"] == course_lib.__version__
    assert yaml.safe_load(read("CITATION.cff"))["version"] == course_lib.__version__


def test_the_wheel_holds_the_library_and_not_the_tools():
    settings = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]
    assert settings["packages"]["find"]["include"] == ["course_lib*"]
    assert (
        settings["package-data"] == {"course_lib": ["py.typed"]}
        and (ROOT / "course_lib" / "py.typed").exists()
    )
    assert not (ROOT / "course_lib" / "publish").exists()


def test_nothing_names_the_machine_it_was_made_on():
    """Paths of one machine, hosts of a package registry's mirror: only in tests that look for such paths."""
    words = (
        r"/work/|/opt/(pypi|wheels)|extra-index-url|--index-url|pkgs\.dev|artifactory|\bsession [0-9a-f]{4}"
    )
    command = ["git", "grep", "-nIE", words, "--", ".", ":!tests/repository/test_files.py", ":!LICENSE*"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if found.returncode == 128:  # a copy without git
        return
    assert found.stdout == ""
