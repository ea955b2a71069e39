#!/usr/bin/env bash
# Diffusion-KTO (Li et al., arXiv 2404.04465): single images of the offline pairs, winners desirable
# and losers not, with 80 % desirable ones in training. Its authors use beta 1000 (k itself, not half
# of it) and a learning rate of 1e-7, and drop a fifth of the captions.
#
#   bash recipes/kto.sh                                 the embedded model; results in runs/
#   WORLD=sd15 PROMPTS=prompts.txt bash recipes/kto.sh  Stable Diffusion 1.5
cd "$(dirname "$0")/.."
source recipes/world.sh

BATCH=$((2 * BATCH)) # images: as many per step as the other systems have in pairs
begin
for ((t = 1; t <= ITERATIONS; t++)); do
    now=$OUT/iteration-$t
    update "kto:beta=$KTO_BETA" "$KTO_LEARNING_RATE" "${KTO_OPTIMISER[@]}"
done
report
