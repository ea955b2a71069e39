#!/usr/bin/env bash
# The whole of EXPO in miniature: five iterations of online preference learning with exploration
# on the embedded model, in minutes on a CPU. Run it again after any interruption: finished work
# is skipped, and it ends with the same numbers.
#
#   bash recipes/quickstart.sh            results in runs/quickstart
#   OUT=elsewhere bash recipes/quickstart.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source recipes/environment.sh

OUT=${OUT:-runs/quickstart}
ITERATIONS=${ITERATIONS:-5}
PROMPTS=${PROMPTS:-160}        # fresh training prompts an iteration
IMAGES=${IMAGES:-3}            # images of each by each of the two agents
STEPS=${STEPS:-100}            # optimiser steps an iteration, of 16 pairs
HELDOUT_PROMPTS=${HELDOUT_PROMPTS:-112}

BASE=embedded:emoji-sd
# The reward that judges training, and one it never sees: nothing is selected on the second.
TRAINING_REWARD=pickscore:model=embedded:emoji-pickscore
HELDOUT_REWARD=hpsv2:model=embedded:emoji-hps
# alpha of Eq. 7's exploration term: it fades over the iterations.
ALPHA=(0.01 0.005 0 0 0)

# Two workers of half the cores each are faster than one of all.
THREADS=$(nproc)
export OMP_NUM_THREADS=$(((THREADS + 1) / 2))
stop_workers() { # when this script is stopped: the other worker and what it runs
    for worker in $(jobs -p); do
        pkill -P "$worker" || true
        kill "$worker" 2>/dev/null || true
    done
}
trap stop_workers EXIT
both() { # FUNCTION ONE OTHER: run it with each argument, side by side
    "$1" "$2" &
    local first=$!
    "$1" "$3"
    wait "$first"
}

# Images of prompts that no policy is ever trained on, with the same noise for every policy. DDPM's
# steps are Gaussian, so that the KL to the base is defined; fp32, as it is a difference of likes.
draw_heldout() { # SHARD
    expo rollout "$OUT/heldout.jsonl" --policy "$policy" --out "$heldout" --shard "$1" \
        --scheduler ddpm --num-inference-steps 16 --guidance-scale 1.5 --num-images-per-prompt 1 \
        --kl-to "$BASE" --dtype fp32 --images png --part-size 14
    expo score "$heldout" --reward "$TRAINING_REWARD" --reward "$HELDOUT_REWARD" --shard "$1"
}

# Both agents draw the same prompts, under negative prompts whose share falls from all to none.
draw() { # AGENT
    local explorer=()
    [ "$1" = main ] || explorer=(--explorer reference --ref "$BASE")
    expo rollout "$now/prompts.jsonl" --policy "$policy" --out "$now/$1" \
        --agent "$1" "${explorer[@]}" --num-images-per-prompt "$IMAGES" \
        --scheduler dpm-solver++ --num-inference-steps 10 --guidance-scale 1.5 \
        --neg-schedule linear --negative-prompts embedded:prompts/negative.txt \
        --iteration "$t" --iterations "$ITERATIONS"
    expo score "$now/$1" --reward "$TRAINING_REWARD"
}

policy=$BASE heldout=$OUT/base
expo prep-prompts embedded:prompts/heldout.jsonl --sample "$HELDOUT_PROMPTS" --out "$OUT/heldout.jsonl"
both draw_heldout 0/2 1/2

pairs=()
evaluations=("base=$heldout")
for ((t = 1; t <= ITERATIONS; t++)); do
    now=$OUT/iteration-$t

    # Draw and score.
    expo prep-prompts embedded:prompts/train.jsonl --sample "$PROMPTS" --seed "$t" \
        --out "$now/prompts.jsonl"
    both draw main explore

    # Pair: the best two against the worst two of a prompt's images by both agents.
    expo make-pairs "$now/main" "$now/explore" --pairing top-bottom:k=2 --out "$now/pairs.jsonl"
    pairs+=("$now/pairs.jsonl")

    # Train on the pairs of all iterations so far, from the last policy, against the base.
    OMP_NUM_THREADS=$THREADS expo train "${pairs[@]}" --init-from "$policy" --ref "$BASE" \
        --out "$now/checkpoint" --objective "expo:beta=2000,alpha=${ALPHA[t - 1]:-0}" \
        --caption-dropout 0.1 --learning-rate 1e-5 --train-batch-size 16 \
        --max-train-steps "$STEPS" --seed "$t"
    policy=$now/checkpoint

    # Evaluate.
    heldout=$now/heldout
    both draw_heldout 0/2 1/2
    evaluations+=("iteration-$t=$heldout")
done

expo evaluate "${evaluations[@]}" --baseline base --training-reward pickscore \
    --heldout-reward hpsv2 --out "$OUT/evaluation"
echo "report: $OUT/evaluation/report.html"
