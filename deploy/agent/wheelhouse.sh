#!/usr/bin/env bash
# Puts everything an offline device needs to install the agent into a folder: wheelhouse.sh TARGET [DIR]
#   nano         a Jetson with JetPack 4.6: Python 3.6 on aarch64
#   xavier       a Jetson with JetPack 5: Python 3.8 on aarch64
#   nano-x86_64  the Nano's Python on a PC, to try it
# Run it on a computer with a network, from anywhere; copy the folder to the device. PYTHON names the Python to use.
# The folder has efficientquant-agent[ort], without other extras, and a pip that knows the wheels' tags.
set -euo pipefail
targets="nano, xavier or nano-x86_64"
root=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
target=${1:-}
house=${2:-wheelhouse}
python=${PYTHON:-python3}

fail() {
    echo "wheelhouse.sh: $1" >&2
    exit 2
}

nano=(--python-version 36 --abi cp36m)
nano_pins=(pip==21.3.1 grpcio==1.44.0 six protobuf==3.19.6 onnxruntime==1.10.0 flatbuffers numpy==1.19.5)
case "$target" in
nano)
    wanted=("${nano[@]}" --platform manylinux2014_aarch64 --platform manylinux_2_17_aarch64)
    pins=("${nano_pins[@]}")
    ;;
nano-x86_64)
    wanted=("${nano[@]}" --platform manylinux2010_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64)
    pins=("${nano_pins[@]}")
    ;;
xavier)
    wanted=(--python-version 38 --abi cp38 --platform manylinux2014_aarch64 --platform manylinux_2_17_aarch64
        --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64)
    pins=(pip==25.0.1 grpcio==1.70.0 protobuf==5.29.5 onnxruntime==1.19.2 numpy==1.24.4 flatbuffers coloredlogs
        humanfriendly packaging sympy mpmath)
    ;;
-h | --help)
    sed -n '2,/^set/{/^# /s/^# //p}' "$0"
    exit 0
    ;;
"") fail "name a target: $targets" ;;
*) fail "'$target' is no target; name $targets" ;;
esac
[ $# -le 2 ] || fail "'$3' is one argument too many; pass a target and a folder"
case "$house" in -*) fail "'$house' is no folder; pass a target and a folder, or --help alone" ;; esac

"$python" -c '' 2>/dev/null || fail "'$python' does not run; install python3 and python3-pip, or set PYTHON to a Python"
pip=("$python" -m pip --disable-pip-version-check)
version=$("${pip[@]}" --version 2>/dev/null | cut -d ' ' -f 2) || fail "'$python' has no pip; install python3-pip, or \
set PYTHON to a Python that has it"
# Older releases accept only one --platform.
"$python" -c 'import sys; sys.exit(tuple(map(int, sys.argv[1].split(".")[:2])) < (20, 3))' "$version" 2>/dev/null ||
    fail "pip $version of '$python' is too old to download for another device; upgrade it to 20.3 or newer, or set \
PYTHON to another Python"

# Everything is made in a temporary folder and moved at the end, so that a failure leaves the house as it was.
made=
new=
work=$(mktemp -d)
clean_up() {
    rm -rf "$work" ${new:+"$new"}
    if [ -n "$made" ]; then rmdir "$house" 2>/dev/null || true; fi
}
trap clean_up EXIT
if [ ! -d "$house" ]; then
    mkdir -p -- "$house" 2>/dev/null || fail "the folder '$house' cannot be made; name one that you can write to"
    made=yes
fi
new=$(mktemp -d "$house/.new-XXXXXX" 2>/dev/null) || fail "the folder '$house' cannot be written to; name another one"

run_pip() {
    local log="$work/log"
    if ! "${pip[@]}" "$@" >"$log" 2>&1; then
        if grep -qE 'Retrying|Connection|timed out|name resolution' "$log"; then
            fail "the package index cannot be reached; run this on a computer with a network"
        fi
        if grep -q 'from versions: none' "$log"; then
            fail "the package index has no $(sed -n 's/.*No matching distribution found for //p' "$log" | tail -n 1) or \
cannot be reached; run this on a computer with a network"
        fi
        fail "pip $1 failed: $(grep -E '^ *(ERROR|error|OSError)' "$log" | tail -n 1 | sed 's/^ *//')"
    fi
}

echo "collecting wheels for $target in $house …"
run_pip download --no-deps --dest "$new" --only-binary :all: --implementation cp --abi none --platform any \
    "${wanted[@]}" "${pins[@]}"
# Built from copies, because a build in the tree leaves a build/ folder, and would pack the files of an older build.
cp -r "$root/protos" "$root/agent" "$work"
rm -rf "$work"/*/build "$work"/*/*.egg-info
run_pip wheel --use-pep517 --no-deps --wheel-dir "$new" "$work/protos" "$work/agent"

# With two versions of a package in the folder, the device's pip would choose one.
for wheel in "$new"/*.whl; do
    package=$(basename "$wheel")
    package=${package%%-*}
    for old in "$house/$package"-[0-9]*; do
        if [ -f "$old" ]; then
            rm -- "$old"
            [ -f "$new/$(basename "$old")" ] || echo "removed $(basename "$old")"
        fi
    done
done
count=$(find "$new" -name '*.whl' | wc -l | tr -d ' ')
mv -- "$new"/*.whl "$house"
made=
echo "$house: $count wheels for $target"
