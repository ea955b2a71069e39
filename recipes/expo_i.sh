#!/usr/bin/env bash
# EXPO-I: Diffusion-DPO on the offline pairs and on fresh ones of all earlier iterations. Both agents
# are the current policy, each with its own noise; there is no exploration term (alpha 0).
#
#   bash recipes/expo_i.sh                                 the embedded model; results in runs/
#   WORLD=sd15 PROMPTS=prompts.txt bash recipes/expo_i.sh  Stable Diffusion 1.5
cd "$(dirname "$0")/.."
source recipes/world.sh

begin
for ((t = 1; t <= ITERATIONS; t++)); do
    now=$OUT/iteration-$t
    update "dpo:beta=$EXPO_BETA$SMOOTHED" "$EXPO_LEARNING_RATE"
    [ "$t" -lt "$ITERATIONS" ] || break
    draw main
    draw explore --explorer same
    pair main explore
    pairs+=("$now/pairs.jsonl")
done
report
