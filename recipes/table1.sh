#!/usr/bin/env bash
# Our own Table 1 on the embedded world: every system with the same offline pairs, the same number of
# optimiser steps and, online, of fresh prompts and images; the ablation of Figure 4; the paper's
# claim of efficiency. A few hours on 2 cores. Run it again after any interruption; a run whose
# figures are in RESULTS is not run again, so empty that folder to start anew.
#
#   bash recipes/table1.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source recipes/environment.sh
RUNS=${RUNS:-runs/embedded/table1}
RESULTS=${RESULTS:-recipes/results/table1/runs}
# shellcheck source=recipes/jobs.sh
source recipes/jobs.sh

OUT=$RUNS/base-0 bash recipes/base.sh # and what all of them share
{
    # Each system once, with its curve over the iterations.
    echo "base-0 base"
    for recipe in dpo expo_i expo_ii spo kto sft raft expo_ii_m; do
        echo "$recipe-pickscore-0 $recipe"
    done
    # Figure 4: the negative prompts of EXPO-II, linear above.
    for schedule in none constant; do
        echo "expo_ii-pickscore-0-$schedule expo_ii NEG_SCHEDULE=$schedule"
    done
    # More seeds of the systems that the questions are about.
    for seed in 1 2; do
        echo "base-$seed base SEED=$seed"
        for recipe in dpo expo_i expo_ii; do
            echo "$recipe-pickscore-$seed $recipe SEED=$seed CURVE=none"
        done
    done
    # "15 % of the training data and 1/4 of the training steps".
    for seed in 0 1 2; do
        echo "expo_ii-pickscore-$seed-efficient expo_ii SEED=$seed CURVE=none OFFLINE_PAIRS=58 NUM_PROMPTS=14 STEPS=10"
    done
    # The other reward in training.
    for recipe in dpo expo_i expo_ii expo_ii_m; do
        echo "$recipe-hpsv2-0 $recipe REWARD=hpsv2 CURVE=none"
    done
} | jobs_of

python recipes/table1/tables.py "$RESULTS" recipes/results/table1
python recipes/table1/figures.py "$RESULTS" recipes/results/table1
