#!/usr/bin/env bash
# EXPO-II-M: EXPO-II with two rewards that judge fresh samples together, by the sum of their z-scores
# within a prompt; the offline pairs are those of REWARD (EXPO-II-MP or -MH).
#
#   bash recipes/expo_ii_m.sh                                 the embedded model; results in runs/
#   WORLD=sd15 PROMPTS=prompts.txt bash recipes/expo_ii_m.sh  Stable Diffusion 1.5
SYSTEM=expo_ii_m COMBINE=${COMBINE:-z-score}
# shellcheck source=recipes/expo_ii.sh
source "$(dirname "$0")/expo_ii.sh"
