#!/usr/bin/env bash
# The base model itself, the first row of Table 1. Also makes what all systems share: the prompts and
# the offline pairs.
#
#   bash recipes/base.sh                                 the embedded model; results in runs/
#   WORLD=sd15 PROMPTS=prompts.txt bash recipes/base.sh  Stable Diffusion 1.5
cd "$(dirname "$0")/.."
source recipes/world.sh

begin
report
