#!/usr/bin/env bash
# SPO's step-aware preference model of a world (arXiv 2406.04314), from the base model's own images as
# PickScore ranks them. The embedded world's is shipped as embedded:emoji-step-pickscore.
#
#   bash recipes/spo/step_reward.sh                                 a quarter of an hour on one core
#   WORLD=sd15 PROMPTS=prompts.txt bash recipes/spo/step_reward.sh  Stable Diffusion 1.5
#
# Writes the model, runs/WORLD/spo/step-pickscore, and its accuracy, step-pickscore.json beside it.
cd "$(dirname "$0")/../.."
RUNS=${RUNS:-runs/${WORLD:-embedded}}
OUT=${OUT:-$RUNS/spo}
source recipes/world.sh

MODEL=yuvalkirstain/PickScore_v1
[[ "$PICKSCORE" != *model=* ]] || MODEL=${PICKSCORE#*model=}
if [ "$WORLD" = embedded ]; then
    SETTINGS=(
        --guidance-scale 1.5 --draws 5 --max-train-steps 360
        --learning-rate 1e-5 --conditioning-learning-rate 5e-4 --store fp16
    )
else # SPO's guidance and learning rate
    SETTINGS=(--guidance-scale 5 --draws 4 --max-train-steps 4000 --learning-rate 3e-6)
fi

# The offline images that all systems share; of each prompt the best two against the worst two.
split_prompts
plain_pairs 0
expo make-pairs "$SHARED"/offline/rollout-* --reward pickscore --source offline \
    --pairing top-bottom:k=2 --out "$SHARED/offline/step-pairs.jsonl"
OMP_NUM_THREADS=$CORES python recipes/spo/train_step_reward.py "$SHARED/offline/step-pairs.jsonl" \
    --policy "$BASE" --reward "$MODEL" --out "$OUT/step-pickscore" "${SETTINGS[@]}" --seed "$SEED" "$@"
