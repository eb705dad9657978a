#!/usr/bin/env bash
# Puts everything an offline device needs to install the agent into a folder: wheelhouse.sh nano|xavier|nano-x86_64 [DIR]
# Run it on a computer with a network, from anywhere; copy the folder to the device. PYTHON names the Python to use.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
target=${1:-}
house=${2:-wheelhouse}
python=${PYTHON:-python3}

nano=(--python-version 36 --abi cp36m)
nano_pins=(pip==21.3.1 grpcio==1.48.2 six protobuf==3.19.6 onnxruntime==1.10.0 flatbuffers numpy==1.19.4)
case "$target" in
nano) # JetPack 4.6: Python 3.6
    wanted=("${nano[@]}" --platform manylinux2014_aarch64 --platform manylinux_2_17_aarch64)
    pins=("${nano_pins[@]}")
    ;;
nano-x86_64) # the same Python on a PC, to try it
    wanted=("${nano[@]}" --platform manylinux2010_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64)
    pins=("${nano_pins[@]}")
    ;;
xavier) # JetPack 5: Python 3.8
    wanted=(--python-version 38 --abi cp38 --platform manylinux2014_aarch64 --platform manylinux_2_17_aarch64
        --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64)
    pins=(grpcio==1.70.0 protobuf==5.29.5 onnxruntime==1.19.2 numpy==1.24.4 flatbuffers coloredlogs humanfriendly
        packaging sympy mpmath)
    ;;
*)
    echo "wheelhouse.sh: '$target' is no target; name nano, xavier or nano-x86_64" >&2
    exit 2
    ;;
esac

# Built from copies: a build in the tree leaves a build/ folder, and packs what an older one left there.
sources=$(mktemp -d)
trap 'rm -rf "$sources"' EXIT
cp -r "$root/protos" "$root/agent" "$sources"
rm -rf "$sources"/*/build "$sources"/*/*.egg-info

pip=("$python" -m pip --disable-pip-version-check)
"${pip[@]}" wheel --quiet --no-deps --wheel-dir "$house" "$sources/protos" "$sources/agent"
"${pip[@]}" download --quiet --no-deps --dest "$house" --only-binary :all: --implementation cp --abi none --platform any \
    "${wanted[@]}" "${pins[@]}"
echo "$house: $(find "$house" -name '*.whl' | wc -l) wheels for $target"
