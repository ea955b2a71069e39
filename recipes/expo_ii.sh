#!/usr/bin/env bash
# EXPO-II with the paper's settings, for Stable Diffusion 1.5 on GPUs: the chain of quickstart.sh at
# full size, after Algorithm 1. Iteration t trains on the offline pairs and those of all earlier
# iterations, then (before the last) draws new ones. Run it again after any interruption.
#
#   PROMPTS=prompts.txt NEGATIVE=negative.txt bash recipes/expo_ii.sh
#
# Several GPUs: launch `expo train` by `accelerate launch --num_processes 8 -m expo_cli train ...`,
# divide GRADIENT_ACCUMULATION by 8, and give each rollout worker its own --shard i/n.
set -euo pipefail
cd "$(dirname "$0")/.."
source recipes/environment.sh

OUT=${OUT:-runs/expo-ii}
BASE=${BASE:-stable-diffusion-v1-5/stable-diffusion-v1-5} # p_ref: fixed for the whole run
PROMPTS=${PROMPTS:?a file of training prompts, such as those of Pick-a-Pic v2 and HPDv2}
NEGATIVE=${NEGATIVE:?a file of negative prompts, one a line}
OFFLINE_PAIRS=${OFFLINE_PAIRS:-} # D_off: a pairs.jsonl, 81,920 pairs in the paper; none by default
TRAINING_REWARD=${TRAINING_REWARD:-pickscore}            # EXPO-II-P; hpsv2:version=2.1 is EXPO-II-H
HELDOUT_REWARD=${HELDOUT_REWARD:-hpsv2:version=2.1}

ITERATIONS=${ITERATIONS:-5}                 # T
NUM_PROMPTS=${NUM_PROMPTS:-20480}           # N, sampled afresh in each iteration
IMAGES=${IMAGES:-4}                         # B, for each of the two agents
STEPS=${STEPS:-2000}                        # optimiser steps an iteration
BATCH=${BATCH:-1}                           # pairs a forward pass; the paper's local batch
GRADIENT_ACCUMULATION=${GRADIENT_ACCUMULATION:-512} # times BATCH: 512 pairs a step
HELDOUT_PROMPTS=${HELDOUT_PROMPTS:-500}     # as in Pick-a-Pic's validation_unique
INFERENCE_STEPS=${INFERENCE_STEPS:-50}
EXPLORER=(--explorer reference --ref "$BASE") # EXPO-II: asymmetric agents. EXPO-I: --explorer same

# DDPM, 50 steps, CFG 7.5.
SAMPLER=(--scheduler ddpm --num-inference-steps "$INFERENCE_STEPS" --guidance-scale 7.5 --images webp)

# beta 5000 is k = 2500 on a difference of mean squared errors. alpha weighs Eq. 7's second term.
OBJECTIVE=expo:beta=5000,alpha=0.01
# "learning rate 1e-8" is the unscaled figure: times the batch of 512 it is 5.12e-6. AdamW as in the
# paper; 25 % warm-up, then constant; clipped at 1.
OPTIMISER=(
    --learning-rate 1e-8 --scale-lr --warmup-ratio 0.25 --lr-scheduler constant
    --adam-beta1 0.9 --adam-beta2 0.999 --adam-epsilon 1e-8 --adam-weight-decay 1e-2
    --max-grad-norm 1.0 --train-batch-size "$BATCH"
    --gradient-accumulation-steps "$GRADIENT_ACCUMULATION" --gradient-checkpointing
)

draw_heldout() { # POLICY FOLDER
    expo rollout "$OUT/heldout.jsonl" --policy "$1" --out "$2" "${SAMPLER[@]}" \
        --num-images-per-prompt 1 --kl-to "$BASE" --dtype fp32
    expo score "$2" --reward "training=$TRAINING_REWARD" --reward "heldout=$HELDOUT_REWARD"
}

# Duplicates and prompts over 77 CLIP tokens are dropped; 5 % never appear in training.
expo prep-prompts "$PROMPTS" --heldout-fraction 0.05 --heldout-sample "$HELDOUT_PROMPTS" \
    --out "$OUT/prompts.jsonl" --heldout-out "$OUT/heldout.jsonl"
draw_heldout "$BASE" "$OUT/base"

policy=$BASE
pairs=()
[ -z "$OFFLINE_PAIRS" ] || pairs=("$OFFLINE_PAIRS")
evaluations=("base=$OUT/base")
for ((t = 1; t <= ITERATIONS; t++)); do
    now=$OUT/iteration-$t

    # Policy update: exploit all data so far, warm-started, against the fixed reference.
    if [ ${#pairs[@]} -gt 0 ]; then
        expo train "${pairs[@]}" --init-from "$policy" --ref "$BASE" --out "$now/checkpoint" \
            --objective "$OBJECTIVE" "${OPTIMISER[@]}" --max-train-steps "$STEPS" --seed "$t"
        policy=$now/checkpoint
        draw_heldout "$policy" "$now/heldout"
        evaluations+=("iteration-$t=$now/heldout")
    fi

    # Exploration: both agents draw the same prompts under the same negative prompts, whose
    # probability falls linearly, p_t = 1 - (t - 1) / (T - 1).
    [ "$t" -lt "$ITERATIONS" ] || break
    expo prep-prompts "$OUT/prompts.jsonl" --sample "$NUM_PROMPTS" --seed "$t" \
        --out "$now/prompts.jsonl"
    for agent in main explore; do
        explorer=()
        [ "$agent" = main ] || explorer=("${EXPLORER[@]}")
        expo rollout "$now/prompts.jsonl" --policy "$policy" --out "$now/$agent" "${SAMPLER[@]}" \
            --agent "$agent" "${explorer[@]}" --num-images-per-prompt "$IMAGES" \
            --neg-schedule linear --negative-prompts "$NEGATIVE" \
            --iteration "$t" --iterations "$ITERATIONS"
        expo score "$now/$agent" --reward "training=$TRAINING_REWARD"
    done
    # One pair a prompt and iteration: the best against the worst of all eight images.
    expo make-pairs "$now/main" "$now/explore" --reward training --out "$now/pairs.jsonl"
    pairs+=("$now/pairs.jsonl")
done

expo evaluate "${evaluations[@]}" --baseline base --training-reward training \
    --heldout-reward heldout --out "$OUT/evaluation"
echo "report: $OUT/evaluation/report.html"
