#!/usr/bin/env bash
# Lint and tests, with their own set-up. Further arguments go to pytest.
#
#   bash tests/run.sh             all but the tests that take minutes each
#   bash tests/run.sh --nightly   those, marked `nightly`: long kills, SLURM disturbed, many attacks
set -euo pipefail
cd "$(dirname "$0")/.."
source recipes/environment.sh

if [ "${1:-}" = --nightly ]; then
    shift
    set -- -m nightly "$@"
fi
ruff check .
ruff format --check .
lint-imports
shellcheck -x recipes/*.sh recipes/*/*.sh recipes/slurm/*.sbatch tests/*.sh tests/*/*.sh .ci/run
# A worker per core, each with whole files, as their tests share slow fixtures; the order is that of
# tests/conftest.py.
workers=$(expo env --cores)
OMP_NUM_THREADS=1 python -m pytest -n "$workers" --dist loadfile --no-loadscope-reorder "$@"
