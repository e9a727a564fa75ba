#!/usr/bin/env bash
# Tries the wheel on every supported Python that this machine has, besides that of .venv; two at a time.
set -euo pipefail
cd "$(dirname "$0")/.."

try() {
    local output code=0
    output=$(timeout 300 .ci/wheel.sh "$1" 2>&1) || code=$?
    echo "$output"
    if [ $code = 124 ]; then
        echo "$1: stopped after 300 s, not tried to the end"
    elif [ $code != 0 ]; then
        echo "$1: the wheel does not work on it" >&2
        return 1
    fi
}
export -f try

main=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
for version in 3.11 3.12 3.13 3.14; do
    [ "$version" != "$main" ] || continue
    for python in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
        if "$python" -c '' 2>/dev/null; then
            echo "$python"
            break
        fi
    done
done | xargs -r -P 2 -I{} bash -c 'try {}'
