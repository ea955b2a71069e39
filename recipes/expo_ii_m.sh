#!/usr/bin/env bash
# EXPO-II-M: EXPO-II with two rewards that judge fresh samples together, by the sum of their z-scores
# within a prompt; the offline pairs are those of REWARD (EXPO-II-MP or -MH).
#
#   bash recipes/expo_ii_m.sh                                 the embedded model; results in runs/
#   WORLD=sd15 PROMPTS=prompts.txt bash recipes/expo_ii_m.sh  Stable Diffusion 1.5
cd "$(dirname "$0")/.."
source recipes/world.sh

DRAW_REWARDS=("${BOTH_REWARDS[@]}") PAIR_BY=(--reward pickscore --reward hpsv2 --combine z-score)
begin
for ((t = 1; t <= ITERATIONS; t++)); do
    now=$OUT/iteration-$t
    update "expo:beta=$DPO_BETA,alpha=${alphas[t - 1]:-0},gated=$GATED" "$DPO_LEARNING_RATE"
    [ "$t" -lt "$ITERATIONS" ] || break
    draw main
    draw explore --explorer "$EXPLORER" --ref "$BASE" --previous "$previous"
    pair main explore
    pairs+=("$now/pairs.jsonl")
done
report
