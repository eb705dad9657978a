#!/usr/bin/env bash
# Prints the first interpreter of the given versions, from PATH or from pyenv. Exits with 1 when there is none.
for version in "$@"; do
    if "python$version" -c '' 2>/dev/null; then command -v "python$version"; exit 0; fi
    # pyenv keeps interpreters that are not selected off PATH, and its shims refuse
    for python in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
        if [ -x "$python" ]; then echo "$python"; exit 0; fi
    done
done
exit 1
