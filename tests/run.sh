#!/usr/bin/env bash
# Lint and tests, with their own set-up. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source recipes/environment.sh

ruff check .
ruff format --check .
lint-imports
shellcheck -x recipes/*.sh recipes/*/*.sh recipes/slurm/*.sbatch tests/*.sh tests/*/*.sh .ci/run
# A worker a core, each with whole files, as their tests share slow fixtures.
workers=$(expo env --cores)
OMP_NUM_THREADS=1 python -m pytest -n "$workers" --dist loadfile --no-loadscope-reorder "$@"
