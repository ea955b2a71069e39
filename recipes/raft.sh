#!/usr/bin/env bash
# RAFT (Dong et al., arXiv 2304.06767): in each iteration, SFT on the best of the last policy's own
# samples. The first ones are the offline samples of the base model. One agent draws as many images
# as the two agents of EXPO, without negative prompts.
#
#   bash recipes/raft.sh                                 the embedded model; results in runs/
#   WORLD=sd15 PROMPTS=prompts.txt bash recipes/raft.sh  Stable Diffusion 1.5
cd "$(dirname "$0")/.."
source recipes/world.sh

IMAGES=$((2 * IMAGES)) NEG_SCHEDULE=none
begin
for ((t = 1; t <= ITERATIONS; t++)); do
    now=$OUT/iteration-$t
    update sft "$RAFT_LEARNING_RATE"
    [ "$t" -lt "$ITERATIONS" ] || break
    draw main
    pair main
    pairs=("$now/pairs.jsonl")
done
report
