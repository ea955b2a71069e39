#!/usr/bin/env bash
# SPO (Liang et al., arXiv 2406.04314): in each iteration the current policy draws fresh prompts with
# four candidates per step; a step-aware reward picks the best and the worst, and training raises the
# density of the best relative to the worst. No offline pairs, pairs of earlier iterations or negative
# prompts: it learns only from what the current policy has drawn.
#
# Its step reward is a PickScore, so it does not work with REWARD=hpsv2.
#
#   bash recipes/spo.sh                                 the embedded model; results in runs/
#   bash recipes/spo/step_reward.sh                     first, for another world: its step reward
#   WORLD=sd15 PROMPTS=prompts.txt bash recipes/spo.sh  Stable Diffusion 1.5
cd "$(dirname "$0")/.."
source recipes/world.sh

[ "$REWARD" = pickscore ] || { echo "spo: there is no step-aware $REWARD" >&2 && exit 2; }
# Pairs with a smaller difference of the two softmax values are dropped.
PAIRING=step-best-worst:min_confidence=0.3

begin
for ((t = 1; t <= ITERATIONS; t++)); do
    now=$OUT/iteration-$t
    expo prep-prompts "$SHARED/train.jsonl" --sample "$NUM_PROMPTS" --seed "$((SEED * 100 + t))" \
        --out "$now/prompts.jsonl"
    shards expo rollout "$now/prompts.jsonl" --policy "$policy" --out "$now/main" \
        "${SPO_SAMPLER[@]}" "${SPO_CANDIDATES[@]}" --step-reward "$STEP_REWARD" \
        --num-images-per-prompt 1 --part-size "$PART_SIZE" --iteration "$t" --seed "$SEED"
    expo make-pairs "$now/main" --pairing "$PAIRING" --out "$now/step-pairs.jsonl"
    pairs=("$now/step-pairs.jsonl")
    update "spo:beta=$SPO_BETA" "$SPO_LEARNING_RATE" --caption-dropout 0 "${SPO_OPTIMISER[@]}"
done
report
