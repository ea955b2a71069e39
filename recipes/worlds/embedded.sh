# shellcheck shell=bash disable=SC2034
# The embedded world: the small model and rewards in the package, and budgets for CPU cores.
# Sourced by world.sh; every value can be set from outside.

BASE=${BASE:-embedded:emoji-sd} # p_ref
NEGATIVE=${NEGATIVE:-embedded:prompts/negative.txt}
PICKSCORE=${PICKSCORE:-pickscore:model=embedded:emoji-pickscore}
HPSV2=${HPSV2:-hpsv2:model=embedded:emoji-hps}
STEP_REWARD=${STEP_REWARD:-step-pickscore:model=embedded:emoji-step-pickscore} # for SPO

LAUNCH=(expo)

ITERATIONS=${ITERATIONS:-5}         # T
NUM_PROMPTS=${NUM_PROMPTS:-96}      # N, sampled anew in each iteration
IMAGES=${IMAGES:-2}                 # B, for each of the two agents: best and worst of 4, as offline
OFFLINE_PROMPTS=${OFFLINE_PROMPTS:-384}
OFFLINE_PAIRS=${OFFLINE_PAIRS:-384} # D_off: as many as the online pairs of four iterations
STEPS=${STEPS:-40}                  # optimiser steps per iteration
BATCH=${BATCH:-16}                  # pairs per forward pass
GRADIENT_ACCUMULATION=${GRADIENT_ACCUMULATION:-1}
OPTIMISER=(--caption-dropout 0.1)
HELDOUT_PROMPTS=${HELDOUT_PROMPTS:-144}
JUDGE_PROMPTS=${JUDGE_PROMPTS:-128}  # training prompts, for JUDGE=train
WEAKER_BY=${WEAKER_BY:-3}           # training reward that OFFLINE_KIND=weaker loses
WEAKER_STEPS=${WEAKER_STEPS:-5}     # optimiser steps of it between two looks
PART_SIZE=${PART_SIZE:-24}          # prompts per part, the unit of work of a worker

# At guidance 1.5 the base's quality varies. Policies are judged with DDPM, whose Gaussian steps
# define the KL to the base.
SAMPLER=(--scheduler dpm-solver++ --num-inference-steps 8 --guidance-scale 1.5)
JUDGED_SAMPLER=(--scheduler ddpm --num-inference-steps 12 --guidance-scale 1.5 --dtype fp32)
# SPO: half of the paper's steps, as each step with candidates costs as much as four images.
SPO_SAMPLER=(--scheduler ddim --num-inference-steps 10 --eta 1 --guidance-scale 1.5)
SPO_CANDIDATES=(--num-step-candidates 4 --skip-steps 3)
SPO_OPTIMISER=()
KTO_OPTIMISER=()
OFFLINE_SAMPLERS=(
    "--scheduler dpm-solver++ --num-inference-steps 10 --guidance-scale 1.5"
    "--scheduler dpm-solver++ --num-inference-steps 10 --guidance-scale 3"
    "--scheduler ddim --num-inference-steps 8 --guidance-scale 1.5"
    "--scheduler dpm-solver++ --num-inference-steps 6 --guidance-scale 1"
)

# Chosen by search.sh, on training prompts by the training reward: recipes/results/search.
SFT_LEARNING_RATE=${SFT_LEARNING_RATE:-8e-5}
RAFT_LEARNING_RATE=${RAFT_LEARNING_RATE:-8e-5}
DPO_LEARNING_RATE=${DPO_LEARNING_RATE:-1e-5} DPO_BETA=${DPO_BETA:-2000}
# 2e-5 is as good for EXPO-I as Diffusion-DPO's own rate, within the interval.
EXPO_LEARNING_RATE=${EXPO_LEARNING_RATE:-1e-5} EXPO_BETA=${EXPO_BETA:-2000}
KTO_LEARNING_RATE=${KTO_LEARNING_RATE:-2e-5} KTO_BETA=${KTO_BETA:-250}
SPO_LEARNING_RATE=${SPO_LEARNING_RATE:-5e-6} SPO_BETA=${SPO_BETA:-10}

# Chosen by explorers.sh in the same way: recipes/results/explorers. An alpha of 0 is as good as 0.01,
# within the interval, and larger ones are worse.
EXPLORER=${EXPLORER:-sampling:guidance_scale=3}
ALPHA=${ALPHA:-0.01,0.01,0.01,0.01} # of Eq. 7's second term, from the first iteration that has it
TERM_OF_EQ7=${TERM_OF_EQ7:-pair}    # its form, see `expo train --objective`
GATED=${GATED:-false}
MIX=${MIX:-} # of all visits: newest=0.5 gives half to the newest round

split_prompts() { # they are split already
    expo prep-prompts embedded:prompts/train.jsonl --out "$SHARED/train.jsonl"
    expo prep-prompts embedded:prompts/heldout.jsonl --sample "$HELDOUT_PROMPTS" \
        --out "$SHARED/heldout.jsonl"
}
