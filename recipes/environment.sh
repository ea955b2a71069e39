# shellcheck shell=bash
# Sourced by the recipes and tests/run.sh: use the active virtual environment, else make .venv, and
# install expo with everything its recipes and tests need in it, unless that was done already.

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -f "$project/.venv/bin/activate" ] || python3 -m venv "$project/.venv"
    # shellcheck disable=SC1091
    source "$project/.venv/bin/activate"
fi
[[ $PATH = "$VIRTUAL_ENV/bin:"* ]] || export PATH="$VIRTUAL_ENV/bin:$PATH"
installed="$VIRTUAL_ENV/.expo-installed-from-$(cksum <<<"$project" | cut -d' ' -f1)"
if [ ! "$installed" -nt "$project/pyproject.toml" ]; then
    echo "installing into $VIRTUAL_ENV ..." >&2
    python -m pip install --quiet --editable "${project}[hpsv2,test]"
    touch "$installed"
fi
# From here on `expo` commands fork from a process that has imported everything, where they may: see
# `expo warm --help`. It ends with this shell, or is that of the one that started this.
eval "$(expo warm)"
