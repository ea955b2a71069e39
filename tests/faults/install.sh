#!/usr/bin/env bash
# Install what the test of wrong clocks needs, from Debian's packages: faketime.
#
#   bash tests/faults/install.sh
set -euo pipefail

if command -v faketime >/dev/null; then
    exit
fi
export DEBIAN_FRONTEND=noninteractive
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo --non-interactive --preserve-env=DEBIAN_FRONTEND)
echo "installing faketime ..." >&2
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -qq --no-install-recommends faketime >/dev/null
