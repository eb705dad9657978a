#!/usr/bin/env bash
# Generates the Python code of fleet.proto with a pinned compiler. With --check, fails unless the committed code is current.
set -euo pipefail
cd "$(dirname "$0")"
out=efficientquant_protos/v1
venv=${EFFICIENTQUANT_PROTOS_VENV:-../.venvs/protos}

if ! python=$(../tests/find_python.sh 3.10 3.9 3.8 3.7); then
    echo "generate.sh needs Python 3.7 to 3.10 (grpcio-tools 1.48.2 has no wheel for newer ones); install one, e.g. 'pyenv install 3.10'" >&2
    exit 3
fi

if [ ! -e "$venv/.ready" ]; then
    "$python" -m venv "$venv"
    # setuptools: grpcio-tools 1.48.2 imports pkg_resources
    ../deploy/installing.sh "Installing the compiler of fleet.proto" "$venv/bin/pip" install --quiet --disable-pip-version-check \
        'setuptools==65.5.0' 'grpcio-tools==1.48.2' 'protobuf==3.19.6' 'mypy-protobuf==3.2.0'
    touch "$venv/.ready"
fi

generate() {
    PATH="$venv/bin:$PATH" "$venv/bin/python" -m grpc_tools.protoc -I . \
        --python_out="$1" --grpc_python_out="$1" --mypy_out=quiet:"$1" \
        "$out/fleet.proto"
}

if [ "${1:-}" = --check ]; then
    fresh=$(mktemp -d)
    trap 'rm -rf "$fresh"' EXIT
    generate "$fresh"
    for file in fleet_pb2.py fleet_pb2.pyi fleet_pb2_grpc.py; do
        if ! diff -u "$out/$file" "$fresh/$out/$file"; then
            echo "protos/$out/$file is not what fleet.proto generates; run protos/generate.sh and commit" >&2
            exit 1
        fi
    done
    echo "protos: generated code is current"
else
    generate .
fi
