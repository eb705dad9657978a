#!/usr/bin/env bash
# Runs an installation and shows how long it has taken: installing.sh TEXT COMMAND...
# The command's own output appears only if it fails. A terminal shows the seconds on one line, anything else gets a line every 30.
set -uo pipefail
text=$1
shift
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
"$@" >"$log" 2>&1 &
command=$!
trap 'kill "$command" 2>/dev/null; wait "$command"; echo >&2; exit 130' INT
trap 'kill "$command" 2>/dev/null; wait "$command"; exit 143' TERM

SECONDS=0
if [ -t 2 ]; then printf '%s …' "$text" >&2; else echo "$text …" >&2; fi
while kill -0 "$command" 2>/dev/null; do
    if [ -t 2 ]; then
        printf '\r%s … %d s' "$text" "$SECONDS" >&2
    elif [ "$SECONDS" -gt 0 ] && [ $((SECONDS % 30)) = 0 ]; then
        echo "$text … $SECONDS s" >&2
    fi
    sleep 1
done
wait "$command"
status=$?
[ ! -t 2 ] || printf '\r' >&2
if [ "$status" = 0 ]; then
    echo "$text: done in $SECONDS s" >&2
else
    echo "$text: failed after $SECONDS s; its output:" >&2
    cat "$log" >&2
fi
exit "$status"
