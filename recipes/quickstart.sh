#!/usr/bin/env bash
# The whole of EXPO in miniature: five iterations of online preference learning with exploration
# on the embedded model, in about nine minutes on two CPU cores. Run it again after any interruption:
# finished work is skipped, and it ends with the same numbers.
#
#   bash recipes/quickstart.sh                                 results in runs/quickstart
#   SEED=1 OUT=runs/quickstart-1 bash recipes/quickstart.sh    another draw of everything random
#
# The claim, fixed before any run: on held-out prompts the last policy is above the base by both
# rewards, the lower end of the 95 % interval above 0, for seeds 0, 1 and 2. What came of it is in
# recipes/results/quickstart.
set -euo pipefail
cd "$(dirname "$0")/.."
source recipes/environment.sh

OUT=${OUT:-runs/quickstart}
SEED=${SEED:-0}
ITERATIONS=${ITERATIONS:-5}
PROMPTS=${PROMPTS:-32}                  # fresh training prompts per iteration
IMAGES=${IMAGES:-2}                     # images of each by each of the two agents
STEPS=${STEPS:-24}                      # optimiser steps per iteration, of 8 pairs
HELDOUT_PROMPTS=${HELDOUT_PROMPTS:-72}  # for the base and the last policy
CURVE_PROMPTS=${CURVE_PROMPTS:-24}      # the first of them, for every policy

BASE=embedded:emoji-sd
# The reward that judges training, and one it never sees: nothing is selected on the second.
TRAINING_REWARD=pickscore:model=embedded:emoji-pickscore
HELDOUT_REWARD=hpsv2:model=embedded:emoji-hps
# alpha of Eq. 7's exploration term: it fades over the iterations.
ALPHA=(0.01 0.005 0 0 0)

# Two workers of half the cores each are faster than one of all.
THREADS=$(expo env --cores)
export OMP_NUM_THREADS=$(((THREADS + 1) / 2))

# What each stage costs, in passes of the network over one image: for the time that is left.
JUDGING=$((CURVE_PROMPTS * 16 * 2)) JUDGING_ALL=$((HELDOUT_PROMPTS * 16 * 2))
DRAWING=$((PROMPTS * 2 * IMAGES * 8 * 2)) TRAINING=$((STEPS * 16 * 4))
TOTAL_WORK=$((JUDGING_ALL + ITERATIONS * (DRAWING + TRAINING) + (ITERATIONS - 1) * JUDGING + 2 * JUDGING_ALL))
# shellcheck source=recipes/quickstart/live.sh
source recipes/quickstart/live.sh

# Both agents draw the same prompts, under negative prompts whose share falls from all to none.
draw() { # AGENT
    local explorer=()
    [ "$1" = main ] || explorer=(--explorer reference --ref "$BASE")
    expo rollout "$now/prompts.jsonl" --policy "$policy" --out "$now/$1" \
        --agent "$1" "${explorer[@]}" --num-images-per-prompt "$IMAGES" \
        --scheduler dpm-solver++ --num-inference-steps 8 --guidance-scale 1.5 \
        --neg-schedule linear --negative-prompts embedded:prompts/negative.txt \
        --iteration "$t" --iterations "$ITERATIONS" --seed "$SEED"
    expo score "$now/$1" --reward "$TRAINING_REWARD"
}

# The best two against the worst two of a prompt's images by both agents.
draw_pairs() {
    expo prep-prompts embedded:prompts/train.jsonl --sample "$PROMPTS" --seed "$seed" \
        --out "$now/prompts.jsonl"
    side_by_side draw main explore
    expo make-pairs "$now/main" "$now/explore" --pairing top-bottom:k=2 --out "$now/pairs.jsonl"
}

# On the pairs of all iterations so far, from the last policy, against the base.
train() {
    OMP_NUM_THREADS=$THREADS expo train "${pairs[@]}" --init-from "$policy" --ref "$BASE" \
        --out "$now/checkpoint" --objective "expo:beta=2000,alpha=${ALPHA[t - 1]:-0}" \
        --caption-dropout 0.1 --learning-rate 2e-5 --train-batch-size 8 \
        --max-train-steps "$STEPS" --seed "$seed"
}

# Images of prompts that no policy is ever trained on, with the same noise for every policy. DDPM's
# steps are Gaussian, so that the KL to the base is defined; fp32, as it is a difference of likes.
draw_heldout() { # SHARD
    expo rollout "$OUT/heldout.jsonl" --policy "$policy" --out "$now/heldout" --shard "$1" \
        --scheduler ddpm --num-inference-steps 16 --guidance-scale 1.5 --num-images-per-prompt 1 \
        --dtype fp32 --images png --part-size 12 --seed "$SEED" "${extent[@]}"
    expo score "$now/heldout" --reward "$TRAINING_REWARD" --reward "$HELDOUT_REWARD" --shard "$1"
}
evaluate() { # OUT LABEL=FOLDER ...
    expo evaluate "${@:2}" --out "$1" --baseline base \
        --training-reward pickscore --heldout-reward hpsv2
}
judge() {
    side_by_side draw_heldout 0/2 1/2
    evaluate "$OUT/by-iteration" "${policies[@]}" "${rounds[@]}" --limit "$CURVE_PROMPTS"
}

judge_base() {
    expo prep-prompts embedded:prompts/heldout.jsonl --sample "$HELDOUT_PROMPTS" --seed "$SEED" \
        --out "$OUT/heldout.jsonl"
    judge
}

now=$OUT/base policy=$BASE extent=()
policies=("base=$now/heldout") rounds=()
stage "base: drawing and judging" "$JUDGING_ALL" judge_base
echo "pictures, with a new row after each iteration: $OUT/by-iteration/plots/images.png"
python recipes/quickstart/row.py "$OUT/by-iteration"

pairs=()
for ((t = 1; t <= ITERATIONS; t++)); do
    now=$OUT/iteration-$t seed=$((100 * SEED + t))
    pairs+=("$now/pairs.jsonl")
    rounds+=(--pairs "iteration-$t=$now/pairs.jsonl")
    policies+=("iteration-$t=$now/heldout")
    stage "iteration $t of $ITERATIONS: drawing" "$DRAWING" draw_pairs
    stage "iteration $t of $ITERATIONS: training" "$TRAINING" train
    policy=$now/checkpoint extent=(--limit "$CURVE_PROMPTS") judging=$JUDGING
    # The last policy is judged on all prompts, and by its KL, which is a second pass.
    [ "$t" -lt "$ITERATIONS" ] || extent=(--kl-to "$BASE") judging=$((2 * JUDGING_ALL))
    stage "iteration $t of $ITERATIONS: judging" "$judging" judge
    python recipes/quickstart/row.py "$OUT/by-iteration"
done

stage "all held-out prompts: evaluating" 0 evaluate "$OUT/evaluation" "${policies[0]}" "${policies[-1]}"
echo "the last policy on all $HELDOUT_PROMPTS held-out prompts:"
python recipes/quickstart/row.py "$OUT/evaluation"
echo "report: $OUT/evaluation/report.html"
