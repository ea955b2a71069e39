#!/usr/bin/env bash
# SFT: the diffusion loss on the winners of the offline pairs, without a reference. Like the other
# offline systems, it is trained in as many stages as the online ones have iterations.
#
#   bash recipes/sft.sh                                 the embedded model; results in runs/
#   WORLD=sd15 PROMPTS=prompts.txt bash recipes/sft.sh  Stable Diffusion 1.5
cd "$(dirname "$0")/.."
source recipes/world.sh

begin
for ((t = 1; t <= ITERATIONS; t++)); do
    now=$OUT/iteration-$t
    update sft "$SFT_LEARNING_RATE"
done
report
