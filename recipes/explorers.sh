#!/usr/bin/env bash
# Which exploring agent, and which weight of Eq. 7's exploration term? Three iterations of EXPO-II
# with each choice, judged on training prompts by the training reward. The winner is set in
# worlds/embedded.sh.
#
#   bash recipes/explorers.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source recipes/environment.sh
RUNS=${RUNS:-runs/embedded/explorers}
RESULTS=${RESULTS:-recipes/results/explorers}
# shellcheck source=recipes/jobs.sh
source recipes/jobs.sh
SEEDS=${SEEDS:-0}

export ITERATIONS=3 JUDGE=train CURVE=none
# A second policy, for the explorer `checkpoint`: Diffusion-DPO on the offline pairs, with another seed.
OUT=$RUNS/second ITERATIONS=1 SEED=9 bash recipes/dpo.sh
{
    for seed in $SEEDS; do
        # Only the agents, without the term: the images to make pairs from differ.
        for explorer in same previous reference sampling:guidance_scale=3 \
            "checkpoint:path=$RUNS/second/iteration-1/checkpoint"; do
            name=${explorer%%:*}
            echo "explorer-$name-$seed expo_ii SEED=$seed ALPHA=0 EXPLORER=$explorer"
        done
        # The term: constant over the iterations, falling, and only if the explorer scored higher.
        for alpha in 0.01,0.01,0.01 0.1,0.1,0.1 0.5,0.5,0.5 0.5,0.25,0; do
            echo "alpha-$alpha-$seed expo_ii SEED=$seed ALPHA=$alpha EXPLORER=reference"
        done
        echo "gated-$seed expo_ii SEED=$seed ALPHA=0.5,0.5,0.5 EXPLORER=reference GATED=true"
    done
} | jobs_of
