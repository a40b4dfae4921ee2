#!/bin/sh
# Behind make's rule for .venv/.ready:   environment.sh install VENV PYTHON
# an extra in an environment that is:    environment.sh add VENV EXTRA
# is it whole, here, of this Python:     environment.sh check VENV [PYTHON]
# Do not run two at once on one folder.
set -eu

todo=$1 venv=$2
marker=$venv/.made-by-the-course # there first: this folder is ours to rebuild
stamp=$venv/.ready               # there last: this folder can be trusted
if [ "${OS:-}" = Windows_NT ]; then inside=$venv/Scripts/python; else inside=$venv/bin/python; fi

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

version_of() { # 3.12 for an interpreter that runs, nothing for another
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

find_python() { # $1 if the course supports it, else the newest such on PATH
    for python in "$1" python3.13 python3.12 python3.11; do
        case $(version_of "$python") in 3.11 | 3.12 | 3.13) return ;; esac
    done
    fail "The course needs Python 3.11 to 3.13; $1 is $(version_of "$1" | grep . || echo "no Python that runs"), and PATH has no other." \
        "Install one (python.org, your package manager, or conda with environment.yml) and name it: make lab PYTHON=python3.13"
}

pip_install() { # -I keeps PYTHONPATH and the user's packages out
    "$inside" -I -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e "$1" ||
        fail "" "Set-up failed while installing the packages. Check the network (or proxy) and the free disk space" \
            "(2 GB; 8 GB where torch brings CUDA along), then run the same command again."
}

case $todo in
install)
    if [ -e "$venv" ] && [ ! -e "$marker" ] && [ -n "$(ls -A "$venv")" ]; then
        fail "$venv exists and was not made by the course, so it is left as it is." \
            "Move it away, or choose another folder: make lab COURSE_VENV=.venv-course"
    fi
    find_python "$3"
    mkdir -p "$venv"
    : >"$marker"
    # In place where a whole one of this Python stood; from here to the end nobody may trust this folder.
    if [ -e "$stamp" ] && [ "$(version_of "$inside")" = "$(version_of "$python")" ]; then whole=1; else whole=; fi
    rm -f "$stamp"
    echo "Setting up $venv with Python $(version_of "$python"): some minutes the first time."
    if [ -z "$whole" ]; then
        find "$venv" -mindepth 1 -maxdepth 1 ! -name .made-by-the-course -exec rm -rf {} +
        "$python" -m venv "$venv" ||
            fail "" "On Debian and Ubuntu, venv is a package of its own: sudo apt install python3-venv"
    fi
    pip_install ".[course,test]"
    "$inside" -I -c "import torch, jupyterlab, course_lib" || fail "" "Set-up failed: the packages do not import."
    : >"$stamp"
    echo "$venv is ready."
    ;;
add)
    pip_install ".[$3]"
    : >"$stamp-$3"
    ;;
check)
    here=$("$inside" -I -c 'import os, course_lib; print(os.path.dirname(os.path.dirname(course_lib.__file__)))' 2>/dev/null || true)
    asked=${3:+$(version_of "$3")}
    if [ "$here" != "$(pwd -P)" ]; then
        why="it does not work${here:+ here: it was made for $here}"
    elif [ -n "$asked" ] && [ "$asked" != "$(version_of "$inside")" ]; then
        why="it has Python $(version_of "$inside"), $3 is $asked"
    else
        exit 0
    fi
    echo "$venv is made again: $why."
    rm -f "$stamp"
    exit 1
    ;;
esac
