#!/usr/bin/env bash
# Install what the tests of recipes/slurm need, from Debian's packages: SLURM and munge. The tests
# run daemons of their own (start.sh).
#
#   bash tests/slurm/install.sh
set -euo pipefail
PATH=$PATH:/usr/sbin

if command -v slurmctld && command -v slurmd && command -v sbatch && command -v munged; then
    exit
fi >/dev/null
export DEBIAN_FRONTEND=noninteractive
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo --non-interactive --preserve-env=DEBIAN_FRONTEND)
echo "installing SLURM ..." >&2
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -qq --no-install-recommends \
    slurmctld slurmd slurm-client munge >/dev/null
