# shellcheck shell=bash
# Sourced by the recipes: use the active virtual environment, else make .venv, and install expo in
# it, with the extras named in $1 (such as "hpsv2,test"), unless that was done already.

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
extras=${1:-}
if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -d "$project/.venv" ] || python3 -m venv "$project/.venv"
    # shellcheck disable=SC1091
    source "$project/.venv/bin/activate"
fi
stamp="$VIRTUAL_ENV/.expo-installed-$(printf '%s' "$project $extras" | cksum | cut -d' ' -f1)"
if [ "$project/pyproject.toml" -nt "$stamp" ]; then
    python -m pip install --quiet --editable "$project${extras:+[$extras]}"
    touch "$stamp"
fi
