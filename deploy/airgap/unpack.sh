#!/usr/bin/env bash
# Joins the parts that pack.sh made, in as many trips as they need, and unpacks them.
#
#   unpack.sh FROM STORE TARGET     FROM: the folder in which parts have arrived now; STORE: keeps them until all are
#                                   there; TARGET: gets the Python packages. Call it once a trip, with the same STORE
#                                   and TARGET; what was checked before is not read again.
#   unpack.sh env TARGET            print the environment again:  eval "$(unpack.sh env TARGET)"
#
# Needs bash, tar, coreutils, python3 (or $PYTHON), and xz where that Python has no lzma.
# Exit code 0: unpacked, checked, environment printed. 3: parts are missing, named on standard error. 1: a part is
# damaged, or it cannot be unpacked; TARGET is as it was. 2: a wrong argument.
set -euo pipefail
interpreter=${PYTHON:-python3}
usage() { sed -n '2,/^set/p' "$0" | sed '/^set/d; s/^# \{0,1\}//'; }
refuse() { echo "unpack: $*" >&2; exit 2; }
die() { echo "unpack: $*" >&2; exit 1; }
say() { echo "unpack: $*" >&2; }

environment() { # TARGET: print PYTHONPATH with its packages first, and LD_LIBRARY_PATH with their libraries and CUDA's
    "$interpreter" - "$1" << 'PY'
import glob, os, shlex, site, sys, sysconfig
target = os.path.abspath(sys.argv[1])
inside = glob.escape(target)
folders = sorted({os.path.dirname(path) for path in glob.glob(inside + "/*/*.so.*") + glob.glob(inside + "/*/capi/*.so*")})
roots = [sysconfig.get_paths()["purelib"]] + getattr(site, "getsitepackages", list)() + sys.path
for root in dict.fromkeys(roots):
    folders += sorted(glob.glob(os.path.join(glob.escape(root), "nvidia", "*", "lib")), reverse=True)
folders += [path for path in ("/usr/local/cuda/lib64",) if os.path.isdir(path)]
for name, values in (("PYTHONPATH", [target]), ("LD_LIBRARY_PATH", list(dict.fromkeys(folders)))):
    if values:
        print("export {0}={1}${{{0}:+:${0}}}".format(name, shlex.quote(":".join(values))))
PY
}

read_list() { # FILE: set name count bytes made_for files sums parts, or return 1 for a file that pack.sh did not write
    local line
    sums=() parts=() name=$(basename "$1" .parts.sha256)
    [[ $name =~ ^[A-Za-z0-9][A-Za-z0-9._+-]*$ ]] || return 1
    {
        IFS= read -r line || return 1
        [[ ${line%$'\r'} =~ ^"# $name: "([1-9][0-9]{0,4})" parts, "([0-9]{1,15})" bytes unpacked, for "(any|cp3[0-9]+)", files "([0-9a-f]{64})$ ]] ||
            return 1
        count=${BASH_REMATCH[1]} bytes=${BASH_REMATCH[2]} made_for=${BASH_REMATCH[3]} files=${BASH_REMATCH[4]}
        while IFS= read -r line; do
            [[ ${line%$'\r'} =~ ^([0-9a-f]{64})"  $name.tar.xz."([0-9]{4})$ ]] || return 1
            [ "$((10#${BASH_REMATCH[2]}))" = ${#parts[@]} ] || return 1
            sums+=("${BASH_REMATCH[1]}") parts+=("$name.tar.xz.${BASH_REMATCH[2]}")
        done
    } < "$1"
    [ ${#parts[@]} = "$count" ]
}

is() { [ "$(sha256sum < "$2" | cut -d ' ' -f 1)" = "$1" ]; } # SUM FILE

collect() { # keep the arrived parts of the current list, and count missing and damaged ones
    local i sum part kept
    for i in "${!parts[@]}"; do
        sum=${sums[i]} part=${parts[i]} kept=$store/${sums[i]}.part
        [ ! -e "$kept" ] || continue
        if [ ! -e "$from/$part" ]; then
            say "still missing $part"
            missing=$((missing + 1)) whole=0
            continue
        fi
        cp "$from/$part" "$arriving" || die "$part could not be copied to $store: is its disk full?"
        if is "$sum" "$arriving"; then
            mv "$arriving" "$kept"
        else
            rm -f "$arriving"
            say "$part is damaged, or a part of another packing of $name: carry it again"
            damaged=$((damaged + 1)) whole=0
        fi
    done
}

joined() { # print the decompressed archive of the current list
    local i
    for i in "${!sums[@]}"; do cat "$store/${sums[i]}.part"; done |
        if command -v xz > /dev/null; then xz -dc; else
            "$interpreter" -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.stdin.buffer), sys.stdout.buffer, 1 << 20)'
        fi
}

unpack() { # unpack the current list into a staging folder, check all files, and move them to the target
    local free_kib need_kib=$((bytes / 1000))
    free_kib=$(df -Pk "$target" | awk 'NR == 2 { print $4 }')
    [ "$free_kib" -ge "$need_kib" ] ||
        die "$name takes $((need_kib / 1024)) MiB and $target has $((free_kib / 1024)) MiB free; free some, or choose another"
    rm -rf "$staging"
    mkdir "$staging"
    joined | tar -C "$staging" --no-same-owner -xf - || die "$name could not be unpacked; $target is as it was"
    [ -z "$(find "$staging" ! -type f ! -type d)" ] || die "$name holds links or devices, which pack.sh never packs"
    [ -f "$staging/.$name.sha256" ] && is "$files" "$staging/.$name.sha256" &&
        [ "$(find "$staging" -type f | wc -l)" = $(($(wc -l < "$staging/.$name.sha256") + 1)) ] &&
        (cd "$staging" && sha256sum --check --quiet --strict ".$name.sha256") >&2 ||
        die "$name: what was unpacked is not what was packed; $target is as it was"
    "$interpreter" - "$staging" "$target" << 'PY' || die "$name could not be moved into $target"
import filecmp, os, sys
staging, target = sys.argv[1:]
files = [os.path.relpath(os.path.join(folder, name), staging) for folder, _, names in os.walk(staging) for name in names]
taken = [
    path
    for path in sorted(files)
    if os.path.lexists(os.path.join(target, path))
    and not filecmp.cmp(os.path.join(staging, path), os.path.join(target, path), shallow=False)
]
if taken:
    sys.exit("unpack: {} has another {} already; choose another TARGET, or remove that one".format(target, taken[0]))
for path in files:
    os.makedirs(os.path.dirname(os.path.join(target, path)), exist_ok=True)
    os.replace(os.path.join(staging, path), os.path.join(target, path))
PY
    rm -rf "$staging"
    echo "$files" > "$target/.$name.done.partial"
    mv "$target/.$name.done.partial" "$target/.$name.done"
    say "$name is in $target"
}

case ${1:-} in
-h | --help) usage; exit 0 ;;
env)
    [ $# -eq 2 ] || refuse "env needs TARGET and nothing else"
    [ -d "$2" ] || refuse "$2 is no folder; name the one that unpack.sh filled"
    [[ $2 != *:* ]] || refuse "$2 has a colon in its name, which a search path cannot hold"
    environment "$2"
    exit
    ;;
esac
[ $# -eq 3 ] || { usage >&2; exit 2; }
from=$1 store=$2 target=$3
[ -d "$from" ] || refuse "$from is no folder; name the one in which the parts arrived"
[[ $target != *:* ]] || refuse "$target has a colon in its name, which a search path cannot hold"
for tool in tar sha256sum "$interpreter"; do
    command -v "$tool" > /dev/null || die "$tool is missing on this machine"
done
for folder in "$store" "$target"; do
    mkdir -p "$folder" 2> /dev/null && [ -w "$folder" ] || refuse "the folder $folder cannot be made or written to"
done
[ ! "$from" -ef "$store" ] && [ ! "$from" -ef "$target" ] && [ ! "$store" -ef "$target" ] ||
    refuse "FROM, STORE and TARGET are three folders, and two of these are the same"
arriving=$store/.arriving staging=$target/.unpacking
if command -v flock > /dev/null; then
    exec 9> "$store/.lock"
    flock -n 9 || die "another unpack.sh works with $store; wait until it has ended"
fi
trap 'rm -rf "$arriving" "$staging"' EXIT
trap 'exit 130' INT TERM HUP

for list in "$from"/*.parts.sha256; do
    [ -e "$list" ] || continue
    read_list "$list" || die "$list is damaged, or no list that pack.sh wrote: carry it again"
    here=$("$interpreter" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
    [ "$made_for" = any ] || [ "$made_for" = "$here" ] ||
        refuse "$name is for Python ${made_for/cp3/3.}, and $interpreter is ${here/cp3/3.}: set PYTHON, or pack it for this one"
    cp "$list" "$arriving" && mv "$arriving" "$store/$name.parts.sha256" || die "$list could not be copied to $store"
done
missing=0 damaged=0 lists=0
for list in "$store"/*.parts.sha256; do
    [ -e "$list" ] || die "there is no *.parts.sha256 in $from: carry it along with the parts"
    read_list "$list" || die "$list is damaged: remove it, and carry it again"
    lists=$((lists + 1)) whole=1
    if [ "$(cat "$target/.$name.done" 2> /dev/null || true)" != "$files" ]; then
        collect
        [ $whole = 1 ] || continue
        unpack
    fi
    for i in "${!sums[@]}"; do rm -f "$store/${sums[i]}.part"; done
    rm -f "$list"
done
for part in "$from"/*.tar.xz.[0-9]*; do
    [ -e "$part" ] || continue
    [ -e "$from/$(basename "${part%.tar.xz.*}").parts.sha256" ] || [ -e "$store/$(basename "${part%.tar.xz.*}").parts.sha256" ] ||
        [ -e "$target/.$(basename "${part%.tar.xz.*}").done" ] || say "$(basename "$part") is in no list here: carry its .parts.sha256 too"
done
[ $damaged = 0 ] || exit 1
[ $missing = 0 ] || exit 3
environment "$target"
