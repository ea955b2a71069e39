#!/usr/bin/env bash
# Stop what start.sh started in FOLDER, and its jobs; by process id, and nothing else.
#
#   bash tests/slurm/stop.sh FOLDER
set -euo pipefail
export SLURM_CONF=$1/slurm.conf

if timeout 5 scontrol ping >/dev/null 2>&1; then
    scancel --user "$(id -un)"
    for _ in {1..100}; do
        [ -n "$(squeue --noheader)" ] || break
        sleep 0.1
    done
fi
for daemon in slurmd slurmctld munged; do
    pid=$(cat "$1/$daemon.pid" 2>/dev/null) || continue
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$daemon" ] || continue
    kill "$pid"
    for _ in {1..100}; do
        kill -0 "$pid" 2>/dev/null || continue 2
        sleep 0.1
    done
    kill -KILL "$pid"
done
