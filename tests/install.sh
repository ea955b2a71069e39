#!/usr/bin/env bash
# Install what some tests need from Debian's packages: SLURM and munge, of which they run daemons of
# their own (slurm/start.sh), and faketime.
#
#   bash tests/install.sh
set -euo pipefail
PATH=$PATH:/usr/sbin

missing=()
for program in slurmctld slurmd sbatch munged faketime; do
    command -v "$program" >/dev/null || missing+=("$program")
done
[ ${#missing[@]} -gt 0 ] || exit 0
export DEBIAN_FRONTEND=noninteractive
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo --non-interactive --preserve-env=DEBIAN_FRONTEND)
echo "installing SLURM and faketime, as there is no ${missing[*]} ..." >&2
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -qq --no-install-recommends \
    slurmctld slurmd slurm-client munge faketime >/dev/null
