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
PROMPTS=${PROMPTS:-192}        # fresh training prompts an iteration, 8 images each
HELDOUT_PROMPTS=${HELDOUT_PROMPTS:-128}
STEPS=${STEPS:-120}            # optimiser steps an iteration, of 16 pairs
BASE=embedded:emoji-sd
# The reward that judges training, and one it never sees. Nothing is selected on the second.
TRAINING_REWARD=pickscore:model=embedded:emoji-pickscore
HELDOUT_REWARD=hpsv2:model=embedded:emoji-hps
# The same sampler everywhere. DDPM has Gaussian steps, so that the KL to the base is defined.
SAMPLER=(--scheduler ddpm --num-inference-steps 16 --guidance-scale 4 --images png)

# Images of a policy on prompts that no policy is ever trained on: the same noise for every policy.
draw_heldout() { # POLICY FOLDER
    expo rollout "$OUT/heldout.jsonl" --policy "$1" --out "$2" "${SAMPLER[@]}" \
        --num-images-per-prompt 2 --kl-to "$BASE"
    expo score "$2" --reward "$TRAINING_REWARD" --reward "$HELDOUT_REWARD"
}

expo prep-prompts embedded:prompts/heldout.jsonl --sample "$HELDOUT_PROMPTS" --out "$OUT/heldout.jsonl"
draw_heldout "$BASE" "$OUT/base"

policy=$BASE
pairs=()
evaluations=("base=$OUT/base")
for ((t = 1; t <= ITERATIONS; t++)); do
    now=$OUT/iteration-$t

    # 1. Draw: fresh prompts, four images by each agent. Negative prompts fall from all to none.
    expo prep-prompts embedded:prompts/train.jsonl --sample "$PROMPTS" --seed "$t" --out "$now/prompts.jsonl"
    for agent in main explore; do
        explorer=()
        [ "$agent" = main ] || explorer=(--explorer reference --ref "$BASE")
        expo rollout "$now/prompts.jsonl" --policy "$policy" --out "$now/$agent" "${SAMPLER[@]}" \
            --agent "$agent" "${explorer[@]}" --num-images-per-prompt 4 \
            --neg-schedule linear --negative-prompts embedded:prompts/negative.txt \
            --iteration "$t" --iterations "$ITERATIONS"
        # 2. Score with the training reward.
        expo score "$now/$agent" --reward "$TRAINING_REWARD"
    done

    # 3. Pair: the best against the worst of a prompt's eight images.
    expo make-pairs "$now/main" "$now/explore" --reward pickscore --out "$now/pairs.jsonl"
    pairs+=("$now/pairs.jsonl")

    # 4. Train on the pairs of all iterations so far, from the last policy, against the base.
    expo train "${pairs[@]}" --init-from "$policy" --ref "$BASE" --out "$now/checkpoint" \
        --objective expo:beta=2000,alpha=0.01 --caption-dropout 0.1 --learning-rate 1e-5 \
        --train-batch-size 16 --max-train-steps "$STEPS" --seed "$t"
    policy=$now/checkpoint

    # 5. Evaluate on the held-out prompts.
    draw_heldout "$policy" "$now/heldout"
    evaluations+=("iteration-$t=$now/heldout")
done

expo evaluate "${evaluations[@]}" --baseline base --training-reward pickscore \
    --heldout-reward hpsv2 --out "$OUT/evaluation"
echo "report: $OUT/evaluation/report.html"
