#!/bin/sh
# Lint and unit tests on every supported Python found here, each in an environment of its own:   make matrix
# Unit tests with the oldest versions that pyproject.toml allows, on Python 3.11:                make oldest
set -eu

find_python() { # the interpreter of version $1: on PATH, else among pyenv's
    for python in "$(command -v "python$1" || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        if [ -x "$python" ] && "$python" -c "import sys, ssl, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" >/dev/null 2>&1; then
            echo "$python"
            return
        fi
    done
}

if [ "${1:-}" = oldest ]; then
    python=$(find_python 3.11)
    [ -n "$python" ] || { echo "no Python 3.11 here" >&2; exit 1; }
    folder=build/matrix/oldest
    mkdir -p build/matrix
    "$python" tools/oldest.py >build/matrix/oldest.txt
    "$python" -m venv --clear "$folder"
    "$folder/bin/python" -I -m pip install --quiet --disable-pip-version-check --no-input -c build/matrix/oldest.txt -e ".[course,test]"
    # What an old package warns of is no fault of ours.
    COURSE_STRICT=1 OMP_NUM_THREADS=1 exec "$folder/bin/python" -m pytest -n 2 --dist loadfile -o filterwarnings=
fi

report=
failed=0
for version in 3.11 3.12 3.13; do
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        report="$report
$version not found"
        continue
    fi
    echo "=== Python $version ($python)"
    if COURSE_VENV="build/matrix/$version" ${MAKE:-make} --no-print-directory lint unit PYTHON="$python"; then
        report="$report
$version ok"
    else
        failed=1
        report="$report
$version FAILED"
    fi
done
echo "$report"
exit "$failed"
