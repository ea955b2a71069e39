#!/usr/bin/env bash
# EXPO-II (Algorithm 1): the exploring agent differs from the main agent, and Eq. 7's second term
# pulls the policy towards its samples. Iteration t trains on the offline pairs and those of
# all earlier iterations; then, before the last, both agents draw the same fresh prompts.
#
#   bash recipes/expo_ii.sh                                 the embedded model; results in runs/
#   WORLD=sd15 PROMPTS=prompts.txt bash recipes/expo_ii.sh  Stable Diffusion 1.5
cd "$(dirname "$0")/.."
source recipes/world.sh

begin
for ((t = 1; t <= ITERATIONS; t++)); do
    now=$OUT/iteration-$t
    update "$(expo_objective)" "$EXPO_LEARNING_RATE"
    [ "$t" -lt "$ITERATIONS" ] || break
    draw main
    draw explore --explorer "$EXPLORER" --ref "$BASE" --previous "$previous"
    pair main explore
    pairs+=("$now/pairs.jsonl")
done
report
