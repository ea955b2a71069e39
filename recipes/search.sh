#!/usr/bin/env bash
# The same small search for each system: six settings (eight for KTO, whose best of the first six
# was at their edge; four for SPO and RAFT), each run once at Table 1's full budget and judged on
# training prompts by the training reward. The winners are set in worlds/embedded.sh. EXPO-II uses
# EXPO-I's values, without a search of its own.
#
#   bash recipes/search.sh [SYSTEM ...]
set -euo pipefail
cd "$(dirname "$0")/.."
source recipes/environment.sh
RUNS=${RUNS:-runs/embedded/search}
RESULTS=${RESULTS:-recipes/results/search}
# shellcheck source=recipes/jobs.sh
source recipes/jobs.sh

export JUDGE=train CURVE=none
bash recipes/base.sh # what all runs share
settings() { # SYSTEM
    local rate beta
    case $1 in
    sft) for rate in 1e-5 2e-5 4e-5 8e-5 1.6e-4 3.2e-4; do
        echo "sft-$rate sft SFT_LEARNING_RATE=$rate"
    done ;;
    raft) for rate in 1e-5 2e-5 4e-5 8e-5; do
        echo "raft-$rate raft RAFT_LEARNING_RATE=$rate"
    done ;;
    dpo) for rate in 5e-6 1e-5 2e-5; do for beta in 2000 8000; do
        echo "dpo-$rate-$beta dpo DPO_LEARNING_RATE=$rate DPO_BETA=$beta"
    done; done ;;
    expo_i) for rate in 5e-6 1e-5 2e-5; do for beta in 2000 8000; do
        echo "expo_i-$rate-$beta expo_i EXPO_LEARNING_RATE=$rate EXPO_BETA=$beta"
    done; done ;;
    kto) for rate in 1e-5 2e-5 4e-5 8e-5; do for beta in 250 1000; do
        echo "kto-$rate-$beta kto KTO_LEARNING_RATE=$rate KTO_BETA=$beta"
    done; done ;;
    spo) for rate in 5e-6 2e-5; do for beta in 10 100; do
        echo "spo-$rate-$beta spo SPO_LEARNING_RATE=$rate SPO_BETA=$beta"
    done; done ;;
    *) echo "no search for '$1': sft, raft, dpo, expo_i, kto or spo" >&2 && return 2 ;;
    esac
}
[ $# -gt 0 ] || set -- sft raft dpo expo_i kto spo
for system in "$@"; do settings "$system"; done | jobs_of
