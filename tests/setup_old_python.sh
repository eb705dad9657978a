#!/usr/bin/env bash
# Makes .venvs/pyVERSION, a device's Python with a device's libraries, for the agent's tests.
# Without that Python it fails in CI. Elsewhere it leaves a note that says what to install, in place of the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1
venv=.venvs/py$version

mkdir -p .venvs
if ! python=$(tests/find_python.sh "$version"); then
    message="skipped: no Python $version on PATH or in pyenv; install it, e.g. 'pyenv install $version', then remove $venv"
    if [ -n "${CI:-}" ]; then echo "$message" >&2; exit 1; fi
    mkdir -p "$venv" && echo "$message" | tee "$venv/.ready"
    exit 0
fi

rm -rf "$venv"
"$python" -m venv "$venv"
if [ "$version" = 3.6 ]; then
    # The pip of Python 3.6 does not know today's wheel tags and would compile grpcio.
    deploy/installing.sh "Installing pip 21.3.1 into $venv" \
        "$venv/bin/pip" install --quiet --disable-pip-version-check 'pip==21.3.1'
fi
# OpenVINO's first Python is 3.8.
runtimes=ort
if [ "$version" != 3.6 ]; then runtimes=ort,openvino; fi
deploy/installing.sh "Installing into $venv" \
    "$venv/bin/pip" install --quiet --disable-pip-version-check --constraint "tests/constraints-py$version.txt" \
    -e protos -e "agent[$runtimes]" pytest pytest-xdist
touch "$venv/.ready"
