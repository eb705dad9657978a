#!/usr/bin/env bash
# Packs what a machine with an NVIDIA GPU and no internet needs into parts that can be carried one by one.
#
#   pack.sh onnxruntime-gpu OUT [--version 1.31.1]                 with its CUDA provider, and the one for TensorRT 10
#   pack.sh tensorrt        OUT --libs WHEEL [--sm 90]             builder, parser and runtime for one compute capability
#   pack.sh tensorrt-rtx    OUT [--version 1.7.1.116]              for SM 7.5, 8.0, 8.6, 8.9, 12.0 and 12.1, not 9.0
#   pack.sh tensorrt-lean   OUT [--version 10.16.1.11]             loads version-compatible plans and builds nothing
#   pack.sh wheels          OUT NAME==VERSION ...                  any other wheels, without what they depend on
#
#   --python 3.12      the Python of the GPU machine        --cuda 13          the major version of its CUDA
#   --part-mib 58      the size of a part                   --level 7          of xz: 0 is fast, 9 is small
#   --wheels DIR       take wheels from this folder alone, and nothing from the internet
#   --libs WHEEL       the wheel tensorrt_cuNN_libs: a file, a URL, or INDEX#tensorrt_cuNN_libs==VERSION
#
# Needs Linux with bash, python3 (or $PYTHON) with pip, tar, xz, split and sha256sum. OUT keeps its earlier parts until
# the new ones are complete. Exit code 1: it could not be packed; 2: a wrong argument.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
interpreter=${PYTHON:-python3}
usage() { sed -n '2,/^set/p' "$0" | sed '/^set/d; s/^# \{0,1\}//'; }
refuse() { echo "pack: $*" >&2; exit 2; }
die() { echo "pack: $*" >&2; exit 1; }

case ${1:-} in -h | --help) usage; exit 0 ;; esac
[ $# -ge 2 ] || { usage >&2; exit 2; }
profile=$1 out=$2
shift 2
version="" sm=90 python=3.12 cuda=13 part_mib=58 level=7 libs="" local_wheels="" wheels=() given=" "
while [ $# -gt 0 ]; do
    case $1 in
    --version | --sm | --python | --cuda | --part-mib | --level | --libs | --wheels)
        [ $# -ge 2 ] && [ -n "$2" ] || refuse "$1 needs a value"
        given+="$1 "
        case $1 in
        --version) version=$2 ;; --sm) sm=${2/./} ;; --python) python=$2 ;; --cuda) cuda=$2 ;;
        --part-mib) part_mib=$2 ;; --level) level=$2 ;; --libs) libs=$2 ;; --wheels) local_wheels=$2 ;;
        esac
        shift 2
        ;;
    -*) refuse "there is no option $1; pack.sh --help shows all" ;;
    *) wheels+=("$1"); shift ;;
    esac
done

only() { # PROFILES OPTION: refuse the option for all other profiles
    [[ $given != *" $2 "* || " $1 " == *" $profile "* ]] || refuse "$2 is for $1, not for $profile"
}
case $profile in
onnxruntime-gpu | tensorrt | tensorrt-rtx | tensorrt-lean | wheels) ;;
*) refuse "'$profile' is nothing to pack; name onnxruntime-gpu, tensorrt, tensorrt-rtx, tensorrt-lean or wheels" ;;
esac
only tensorrt --libs
only tensorrt --sm
only "onnxruntime-gpu tensorrt tensorrt-rtx tensorrt-lean" --version
only "tensorrt tensorrt-rtx tensorrt-lean" --cuda
[ "$profile" = wheels ] || [ ${#wheels[@]} = 0 ] || refuse "'${wheels[0]}' is one argument too many for $profile"
[ "$profile" != wheels ] || [ ${#wheels[@]} -gt 0 ] || refuse "name the wheels: NAME==VERSION ..."
for wheel in ${wheels[@]+"${wheels[@]}"}; do
    [[ $wheel =~ ^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+!_]*$ ]] || refuse "'$wheel' is not NAME==VERSION"
done
[[ $version =~ ^([A-Za-z0-9][A-Za-z0-9.+]*)?$ ]] || refuse "--version $version is no version"
[[ $sm =~ ^[1-9][0-9]{1,2}$ ]] || refuse "--sm $sm is no compute capability; 86 or 8.6 is that of an RTX 3080"
[[ $python =~ ^3\.[0-9]{1,2}$ ]] || refuse "--python $python is no version such as 3.12"
[[ $cuda =~ ^[1-9][0-9]$ ]] || refuse "--cuda $cuda is no major version such as 13"
[[ $part_mib =~ ^[1-9][0-9]{0,4}$ ]] || refuse "--part-mib $part_mib is no number from 1 to 99999"
[[ $level =~ ^[0-9]$ ]] || refuse "--level $level is no number from 0 to 9"
if [ "$profile" = tensorrt ]; then
    [ -n "$libs" ] || refuse "tensorrt needs --libs WHEEL: tensorrt_cu${cuda}_libs, from NVIDIA's own index"
    [[ $libs == *://* ]] || [ -f "$libs" ] || refuse "--libs $libs is not there"
fi
[ -z "$local_wheels" ] || [ -d "$local_wheels" ] || refuse "--wheels $local_wheels is no folder"
for tool in tar xz split sha256sum "$interpreter"; do
    command -v "$tool" > /dev/null || die "$tool is missing on this machine; install it"
done
"$interpreter" -c 'import pip' 2> /dev/null || die "$interpreter has no pip; install it, or set PYTHON"
mkdir -p "$out" 2> /dev/null || refuse "the folder $out cannot be made"
[ -w "$out" ] || refuse "the folder $out cannot be written to"

work=$(mktemp -d "$out/.packing.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
site=$work/site made_for=any
mkdir "$site" "$work/wheels" "$work/parts"

add_wheels() { # WHEEL==VERSION ...: unpack these wheels into the site folder
    local source=() wheel platforms=() minor
    [ -z "$local_wheels" ] || source=(--no-index --find-links "$local_wheels")
    for minor in $(seq 28 -1 17); do platforms+=(--platform "manylinux_2_${minor}_x86_64"); done
    "$interpreter" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
        --python-version "$python" "${platforms[@]}" --platform manylinux2014_x86_64 ${source[@]+"${source[@]}"} \
        -d "$work/wheels" "$@" > "$work/pip.log" 2>&1 ||
        die "pip found no wheel of $* for Python $python on x86-64 Linux ($(grep ERROR "$work/pip.log" | head -n 1))"
    for wheel in "$work"/wheels/*.whl; do
        case $wheel in *-cp3*-abi3-*) ;; *-cp3*) made_for=cp${python/./} ;; esac
        "$interpreter" "$here/members.py" get "$wheel" "$site" '*' > /dev/null || die "that wheel cannot be packed"
        rm "$wheel"
    done
}

case $profile in
tensorrt)
    # The wheel holds the libraries of all architectures, 3.7 GB. Only these members are read.
    "$interpreter" "$here/members.py" get "$libs" "$site" 'tensorrt_libs/__init__.py' 'tensorrt_libs/libnvinfer.so.*' \
        'tensorrt_libs/libnvonnxparser.so.*' 'tensorrt_libs/libnvinfer_plugin.so.*' \
        "tensorrt_libs/libnvinfer_builder_resource_sm$sm.so.*" '*.dist-info/METADATA' ||
        die "TensorRT's libraries for SM $sm could not be taken from $libs"
    of_libs=$(sed -n 's/^Version: *//p' "$site"/*.dist-info/METADATA | head -n 1 | tr -d '\r')
    [ -z "$version" ] || [ "$version" = "$of_libs" ] || refuse "--version $version is not that of --libs, $of_libs"
    version=$of_libs
    add_wheels "tensorrt_cu${cuda}_bindings==$version"
    mkdir -p "$site/tensorrt"
    printf 'from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n' > "$site/tensorrt/__init__.py"
    name=tensorrt-$version-sm$sm-cp${python/./}
    ;;
tensorrt-rtx)
    version=${version:-1.7.1.116}
    add_wheels "tensorrt_rtx_cu${cuda}_libs==$version" "tensorrt_rtx_cu${cuda}_bindings==$version"
    name=tensorrt-rtx-$version-cp${python/./}
    ;;
tensorrt-lean)
    version=${version:-10.16.1.11}
    add_wheels "tensorrt_lean_cu${cuda}_libs==$version" "tensorrt_lean_cu${cuda}_bindings==$version"
    name=tensorrt-lean-$version-cp${python/./}
    ;;
onnxruntime-gpu)
    version=${version:-1.31.1}
    add_wheels "onnxruntime-gpu==$version"
    name=onnxruntime-gpu-$version-cp${python/./}
    ;;
wheels)
    add_wheels "${wheels[@]}"
    name=wheels-$(printf '%s\n' "${wheels[@]}" | sort | sha256sum | cut -c 1-8)-cp${python/./}
    ;;
esac

(cd "$site" && find . -type f -print0 | sort -z | xargs -0 sha256sum) > "$work/files"
files=$(sha256sum < "$work/files" | cut -d ' ' -f 1)
bytes=$(du -sb "$site" | cut -f 1)
mv "$work/files" "$site/.$name.sha256"
echo "packing $((bytes / 1048576)) MiB as $name ..."
tar -C "$site" --owner=0 --group=0 --mtime=@0 --sort=name -cf - . | xz "-$level" -T0 |
    split -b $((part_mib * 1048576)) -d -a 4 - "$work/parts/$name.tar.xz." ||
    die "$name could not be packed: is the disk of $out full, or are there over 10000 parts?"
count=$(find "$work/parts" -type f | wc -l)
{
    echo "# $name: $count parts, $bytes bytes unpacked, for $made_for, files $files"
    (cd "$work/parts" && sha256sum "$name".tar.xz.*)
} > "$work/list"

# The list comes last, so that the parts it names are complete.
rm -f "$out/$name.parts.sha256" "$out/$name".tar.xz.*
mv "$work/parts/$name".tar.xz.* "$out/"
cp "$here/unpack.sh" "$out/"
packed=$(du -cm "$out/$name".tar.xz.* | tail -n 1 | cut -f 1)
mv "$work/list" "$out/$name.parts.sha256"
echo "$packed MiB in $count parts; carry $name.parts.sha256 and unpack.sh along with them"
