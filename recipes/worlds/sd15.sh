# shellcheck shell=bash disable=SC2034
# Stable Diffusion 1.5 on GPUs, with the paper's constants. Sourced by world.sh; every value can be
# set from outside. For several GPUs: LAUNCH="accelerate launch --num_processes 8 -m expo_cli",
# and GRADIENT_ACCUMULATION divided by 8.

BASE=${BASE:-stable-diffusion-v1-5/stable-diffusion-v1-5} # p_ref
PROMPTS=${PROMPTS:?a file of prompts, such as those of Pick-a-Pic v2 and HPDv2}
NEGATIVE=${NEGATIVE:-recipes/worlds/sd15-negative.txt}
PICKSCORE=${PICKSCORE:-pickscore}
HPSV2=${HPSV2:-hpsv2:version=2.1}
# For SPO; made by recipes/spo/step_reward.sh. The checkpoints by SPO's authors are pickles.
STEP_REWARD=${STEP_REWARD:-step-pickscore:model=$RUNS/spo/step-pickscore}
read -ra LAUNCH <<<"${LAUNCH:-expo}"

ITERATIONS=${ITERATIONS:-5}           # T
NUM_PROMPTS=${NUM_PROMPTS:-20480}     # N, sampled anew in each iteration
IMAGES=${IMAGES:-4}                   # B, for each of the two agents
OFFLINE_PROMPTS=${OFFLINE_PROMPTS:-81920}
OFFLINE_PAIRS=${OFFLINE_PAIRS:-81920} # D_off: as many as the online pairs of four iterations
STEPS=${STEPS:-2000}                  # optimiser steps per iteration
BATCH=${BATCH:-1}                     # pairs per forward pass
GRADIENT_ACCUMULATION=${GRADIENT_ACCUMULATION:-512} # times BATCH: 512 pairs per step
HELDOUT_PROMPTS=${HELDOUT_PROMPTS:-500} # as in Pick-a-Pic's validation_unique
JUDGE_PROMPTS=${JUDGE_PROMPTS:-500}   # training prompts, for JUDGE=train
WEAKER_BY=${WEAKER_BY:-1}             # training reward that OFFLINE_KIND=weaker loses
WEAKER_STEPS=${WEAKER_STEPS:-100}     # optimiser steps of it between two looks
PART_SIZE=${PART_SIZE:-64}            # prompts per part, the unit of work of a worker
INFERENCE_STEPS=${INFERENCE_STEPS:-50}

# AdamW as in the paper; 25 % warm-up, then constant; clipped at 1. A rate is scaled by the batch:
# "learning rate 1e-8" is the unscaled figure, 5.12e-6 at 512 pairs.
OPTIMISER=(
    --scale-lr --warmup-ratio 0.25 --lr-scheduler constant --adam-beta1 0.9 --adam-beta2 0.999
    --adam-epsilon 1e-8 --adam-weight-decay 1e-2 --max-grad-norm 1.0 --gradient-checkpointing
    --caption-dropout 0.2 # as the authors of Diffusion-DPO and Diffusion-KTO
)
SAMPLER=(--scheduler ddpm --num-inference-steps "$INFERENCE_STEPS" --guidance-scale 7.5)
JUDGED_SAMPLER=("${SAMPLER[@]}" --dtype fp32)
# SPO, as in its authors' code: 20 steps of DDIM with eta 1, the first 4 without candidates, guidance 5
# in sampling and in the loss; LoRA of rank 4, unscaled learning rate 6e-5 without warm-up, weight decay
# 1e-4, batches of 10 a GPU. They train after every 10 prompts; here a policy draws all prompts of an
# iteration, so that its training is less on-policy than theirs.
SPO_SAMPLER=(
    --scheduler ddim --num-inference-steps "${SPO_INFERENCE_STEPS:-20}" --eta 1 --guidance-scale 5
)
SPO_CANDIDATES=(--num-step-candidates 4 --skip-steps "${SPO_SKIP_STEPS:-4}")
SPO_OPTIMISER=(
    --use-lora --lora-rank 4 --no-scale-lr --adam-weight-decay 1e-4 --warmup-ratio 0
    --train-batch-size 10 --gradient-accumulation-steps 1
)
# Diffusion-KTO's authors: unscaled 1e-7 at 2 images on each of 4 GPUs, 1 % warm-up.
KTO_OPTIMISER=(--no-scale-lr --warmup-ratio 0.01)
# The paper's offline pairs are those of Pick-a-Pic v2 and HPDv2: give yours as OFFLINE=pairs.jsonl.
# The paper's -H systems learn from HPDv2, its -P ones from Pick-a-Pic: with REWARD=hpsv2 give HPDv2's
# pairs, as REWARD alone changes who judges. By default the pairs are made from the base's own images
# with these settings.
OFFLINE_SAMPLERS=(
    "--scheduler ddpm --num-inference-steps $INFERENCE_STEPS --guidance-scale 7.5"
    "--scheduler ddpm --num-inference-steps $INFERENCE_STEPS --guidance-scale 3"
    "--scheduler dpm-solver++ --num-inference-steps $INFERENCE_STEPS --guidance-scale 7.5"
    "--scheduler dpm-solver++ --num-inference-steps $INFERENCE_STEPS --guidance-scale 12"
)

SFT_LEARNING_RATE=${SFT_LEARNING_RATE:-1e-8}
RAFT_LEARNING_RATE=${RAFT_LEARNING_RATE:-1e-8}
# beta 5000 is k = 2500 on a difference of mean squared errors.
DPO_LEARNING_RATE=${DPO_LEARNING_RATE:-1e-8} DPO_BETA=${DPO_BETA:-5000}
EXPO_LEARNING_RATE=${EXPO_LEARNING_RATE:-1e-8} EXPO_BETA=${EXPO_BETA:-5000}
KTO_LEARNING_RATE=${KTO_LEARNING_RATE:-1e-7} KTO_BETA=${KTO_BETA:-1000}
SPO_LEARNING_RATE=${SPO_LEARNING_RATE:-6e-5} SPO_BETA=${SPO_BETA:-10}

EXPLORER=${EXPLORER:-reference}
# Eq. 7's second term, from the first iteration that has it. SE-POPO's schedule is 1e-2, 5e-3, 0 over
# a beta of 0.1 (arXiv 2502.00666 and its code); Eq. 7 does not divide by beta.
ALPHA=${ALPHA:-0.1,0.05,0,0}
TERM_OF_EQ7=${TERM_OF_EQ7:-pair}
GATED=${GATED:-false}
MIX=${MIX:-} # of all visits: newest=0.5 gives half to the newest round

split_prompts() { # duplicates and prompts over 77 CLIP tokens are dropped
    expo prep-prompts "$PROMPTS" --heldout-fraction 0.05 --heldout-sample "$HELDOUT_PROMPTS" \
        --out "$SHARED/train.jsonl" --heldout-out "$SHARED/heldout.jsonl"
}
