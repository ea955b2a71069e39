#!/usr/bin/env bash
# Diffusion-DPO (Wallace et al., arXiv 2311.12908): the offline pairs alone, winner against loser. Its
# authors train 2000 steps of 2048 pairs with beta 5000 at 1e-8 x 2048 = 2.05e-5, 500 of them
# warm-up, and drop a fifth of the captions.
#
#   bash recipes/dpo.sh                                 the embedded model; results in runs/
#   WORLD=sd15 PROMPTS=prompts.txt bash recipes/dpo.sh  Stable Diffusion 1.5
cd "$(dirname "$0")/.."
source recipes/world.sh

begin
for ((t = 1; t <= ITERATIONS; t++)); do
    now=$OUT/iteration-$t
    update "dpo:beta=$DPO_BETA$SMOOTHED" "$DPO_LEARNING_RATE"
done
report
