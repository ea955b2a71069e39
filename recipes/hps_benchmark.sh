#!/usr/bin/env bash
# The HPS benchmark (v2): one image per prompt by every policy, scored by HPSv2.1.
#
#   bash recipes/hps_benchmark.sh PROMPTS POLICY [POLICY ...]
#
# PROMPTS is the folder of the benchmark's anime.json, concept-art.json, paintings.json and photo.json
# (https://huggingface.co/datasets/ymhao/HPDv2, benchmark/). The first policy is the
# baseline. Published figures do not name a sampler; EXPO's paper draws by DDPM in 50 steps, and here
# the sampler is recorded with each figure.
set -euo pipefail
[ $# -ge 2 ] || {
    echo "usage: $0 PROMPTS POLICY [POLICY ...]" >&2
    exit 2
}
# shellcheck source=recipes/environment.sh
source "$(dirname "$0")/environment.sh"

: "${OUT:=runs/hps-benchmark}" "${REWARD:=hpsv2:version=2.1}" "${NUM_PROMPTS:=3200}"
: "${SAMPLER:=--scheduler ddpm --num-inference-steps 50 --guidance-scale 7.5}"
read -ra sampler <<<"$SAMPLER"
prompts=$1
shift

# Long and duplicate prompts are kept too.
expo prep-prompts "$prompts"/{anime,concept-art,paintings,photo}.json --layout hps-benchmark \
    --keep-all --out "$OUT/prompts.jsonl"
found=$(wc -l <"$OUT/prompts.jsonl")
if [ "$found" != "$NUM_PROMPTS" ]; then # before anything is drawn
    echo "$prompts: $found prompts, the benchmark has $NUM_PROMPTS (NUM_PROMPTS=$found takes these)" >&2
    exit 1
fi
labels=()
for policy in "$@"; do
    label=$(basename "$policy" | tr -c 'A-Za-z0-9_\n-' -)
    expo rollout "$OUT/prompts.jsonl" --policy "$policy" --num-images-per-prompt 1 "${sampler[@]}" \
        --out "$OUT/$label"
    expo score "$OUT/$label" --reward "hpsv2=$REWARD"
    labels+=("$label=$OUT/$label")
done
expo evaluate "${labels[@]}" --protocol hps-benchmark --out "$OUT/evaluation"
