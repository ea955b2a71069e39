#!/usr/bin/env bash
# Submit a system's recipe to SLURM, all iterations in one go: every command of the recipe becomes a
# job that waits for the jobs that make its inputs. Settings, files and results are those of
# `bash recipes/SYSTEM.sh`, which runs here with chain.sh instead of the work.
#
# Edit site.sh first. Submit again after any failure: finished work is skipped, queued jobs are kept,
# and missing ones are submitted.
#
#   bash recipes/slurm/submit.sh                                         EXPO-II, embedded model
#   WORLD=sd15 PROMPTS=prompts.txt bash recipes/slurm/submit.sh          Stable Diffusion 1.5
#   SEED=1 bash recipes/slurm/submit.sh dpo                              another system
#   SITE=my-site.sh bash recipes/slurm/submit.sh                         another site file
set -euo pipefail
cd "$(dirname "$0")/../.."
SUBMIT=yes exec bash "recipes/${1:-expo_ii}.sh"
