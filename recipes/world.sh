# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by the recipe of each system: its settings, and the steps that all systems share.
#
#   WORLD   embedded (default) or sd15: models, rewards and budgets of recipes/worlds/$WORLD.sh
#   REWARD  the training reward: pickscore (default) or hpsv2, the -P and -H of Table 1
#   COMBINE how to combine both rewards for fresh samples: z-score, rank, ... (make-pairs --combine)
#   SEED    random seed; the offline pairs, whose settings offline.sh lists, are the same for every seed
#   RUNS    folder of all systems; contains OUT, that of this system, and SHARED, that of all
#   JUDGE   heldout (default) or train: judge on training prompts, as search.sh and explorers.sh do
#   CURVE   the iterations to judge in addition to the last: all (default), none or e.g. 1,3
#   CORES   number of cores to use
#
# Any recipe can be run again after any interruption: finished work is skipped. Every command is
# called again, so that changed settings are refused.
set -euo pipefail
source recipes/environment.sh

WORLD=${WORLD:-embedded}
REWARD=${REWARD:-pickscore}
SEED=${SEED:-0}
RUNS=${RUNS:-runs/$WORLD}
SYSTEM=${SYSTEM:-$(basename "$0" .sh)}
OUT=${OUT:-$RUNS/$SYSTEM-$REWARD/seed-$SEED}
NEG_SCHEDULE=${NEG_SCHEDULE:-linear} # of negative prompts; or constant, cosine, none
JUDGE=${JUDGE:-heldout}
JUDGED_IMAGES=${JUDGED_IMAGES:-1} # of each held-out prompt
REFERENCE=${REFERENCE:-base} # as in Algorithm 1; or previous: that of the last iteration, as SE-POPO
STOP_BY=${STOP_BY:-} # a second reward, which may stop a run: see `expo evaluate --watched-reward`
[[ -z $STOP_BY || -z ${SUBMIT:-} ]] || { echo "STOP_BY cannot be submitted" >&2 && exit 2; }
SMOOTHED=${LABEL_SMOOTHING:+,label_smoothing=$LABEL_SMOOTHING} # of objectives with pairs
case $REFERENCE in base | previous) ;; *) echo "REFERENCE must be base or previous" >&2 && exit 2 ;; esac
# shellcheck source=recipes/worlds/embedded.sh
source "recipes/worlds/$WORLD.sh"
CURVE=${CURVE:-$(seq -s , "$ITERATIONS")}

SHARED=${SHARED:-$RUNS/shared}
BOTH_REWARDS=(--reward "pickscore=$PICKSCORE" --reward "hpsv2=$HPSV2")
if [ "$REWARD" = hpsv2 ]; then
    TRAINING_REWARD="hpsv2=$HPSV2" HELDOUT_REWARD=pickscore
else
    TRAINING_REWARD="pickscore=$PICKSCORE" HELDOUT_REWARD=hpsv2
fi
# shellcheck source=recipes/offline.sh
source recipes/offline.sh
# The rewards that score and pair fresh samples.
if [ -n "${COMBINE:-}" ]; then
    DRAW_REWARDS=("${BOTH_REWARDS[@]}")
    PAIR_BY=(--reward pickscore --reward hpsv2 --combine "$COMBINE")
else
    DRAW_REWARDS=(--reward "$TRAINING_REWARD") PAIR_BY=(--reward "$REWARD")
fi

# For drawing and scoring, several workers with one core each are faster than one with all cores.
CORES=${CORES:-$(expo env --cores)}
export OMP_NUM_THREADS=1
stop_workers() { # when this script is stopped: the workers and what they run
    for worker in $(jobs -p); do
        pkill -P "$worker" || true
        kill "$worker" 2>/dev/null || true
    done
}
trap stop_workers EXIT
shards() { # COMMAND ...: once per worker, with the worker's --shard
    local worker job jobs=()
    for ((worker = 0; worker < CORES; worker++)); do
        "$@" --shard "$worker/$CORES" &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do wait "$job"; done
}

# The current policy's images of the prompts for judging, with the same noise for every policy. KL is
# measured on the first image of a prompt.
judge() { # LABEL FOLDER
    local prompts=$SHARED/heldout.jsonl rewards=("${BOTH_REWARDS[@]}") more=(--kl-to "$BASE" --images webp)
    if [ "$JUDGE" = train ]; then
        prompts=$SHARED/judge.jsonl rewards=(--reward "$TRAINING_REWARD") more=()
    fi
    shards expo rollout "$prompts" --policy "$policy" --out "$2" "${JUDGED_SAMPLER[@]}" "${more[@]}" \
        --num-images-per-prompt 1 --part-size "$PART_SIZE" --seed "$SEED"
    shards expo score "$2" "${rewards[@]}"
    evaluations+=("$1=$2")
    [[ $JUDGE = heldout && $JUDGED_IMAGES -gt 1 ]] || return 0
    shards expo rollout "$prompts" --policy "$policy" --out "$2-more" "${JUDGED_SAMPLER[@]}" \
        --num-images-per-prompt "$((JUDGED_IMAGES - 1))" --first-index 1 \
        --part-size "$PART_SIZE" --seed "$SEED"
    shards expo score "$2-more" "${rewards[@]}"
    more_evaluations+=("$1=$2-more")
}

begin() {
    policy=$BASE previous=$BASE # theta_0; then theta_t and theta_{t-1}
    evaluations=() more_evaluations=() watched=()
    split_prompts
    expo prep-prompts "$SHARED/train.jsonl" --sample "$JUDGE_PROMPTS" --seed 200 \
        --out "$SHARED/judge.jsonl"
    judge base "$SHARED/base/$JUDGE-$SEED"
    [ -z "$STOP_BY" ] || watch base "$SHARED/base/watched-$SEED"
    offline_pairs
    pairs=("$OFFLINE")
    IFS=, read -ra alphas <<<"$ALPHA"
}

# EXPO-II's objective in iteration t. The schedule of alpha begins with the first iteration that has
# pairs with samples of both agents.
expo_objective() {
    local alpha=0
    [ "$t" = 1 ] || alpha=${alphas[t - 2]:-0}
    echo "expo:beta=$EXPO_BETA,alpha=$alpha,term=$TERM_OF_EQ7,gated=$GATED$SMOOTHED"
}

# Train from the last policy, on all `pairs`, against the base or another `reference`.
fit() { # CHECKPOINT OBJECTIVE LEARNING_RATE [FLAGS OF expo train]
    local checkpoint=$1 objective=$2 rate=$3
    shift 3
    OMP_NUM_THREADS=$CORES "${LAUNCH[@]}" train "${pairs[@]}" --init-from "$policy" \
        --ref "${reference:-$BASE}" --out "$checkpoint" --objective "$objective" --learning-rate "$rate" \
        --max-train-steps "$STEPS" --train-batch-size "$BATCH" \
        --gradient-accumulation-steps "$GRADIENT_ACCUMULATION" "${OPTIMISER[@]}" "$@"
}

# The policy update of iteration t.
update() { # OBJECTIVE LEARNING_RATE [FLAGS OF expo train]
    local reference=$BASE
    [ "$REFERENCE" = base ] || reference=$policy
    fit "$now/checkpoint" "$1" "$2" --seed "$((SEED * 100 + t))" ${MIX:+--mix "$MIX"} "${@:3}"
    previous=$policy policy=$now/checkpoint
    [ -z "$STOP_BY" ] || watch "iteration-$t" "$now/watched"
    if [ "$t" = "$ITERATIONS" ] || [[ ",$CURVE," = *",$t,"* ]]; then
        judge "iteration-$t" "$now/$JUDGE"
    fi
}

# With STOP_BY: the policy's images of training prompts, by both rewards. Ends the recipe's loop when
# the training reward rises while STOP_BY falls; which iteration is best is in results.json.
watch() { # LABEL FOLDER
    shards expo rollout "$SHARED/judge.jsonl" --policy "$policy" --out "$2" "${JUDGED_SAMPLER[@]}" \
        --kl-to "$BASE" --num-images-per-prompt 1 --part-size "$PART_SIZE" --seed "$SEED"
    shards expo score "$2" "${BOTH_REWARDS[@]}"
    watched+=("$1=$2")
    [ ${#watched[@]} -gt 1 ] || return 0
    expo evaluate "${watched[@]}" --baseline base --out "$OUT/watched" \
        --training-reward "$REWARD" --watched-reward "$STOP_BY"
    if python -c 'import json, sys; sys.exit(not json.load(sys.stdin)["choice"]["stop"])' \
        <"$OUT/watched/results.json"; then
        ITERATIONS=$t
    fi
}

# Samples of fresh prompts by one agent, with negative prompts whose share follows the schedule:
# linear is p_t = 1 - (t - 1) / (T - 1).
draw() { # AGENT [FLAGS OF expo rollout]
    local agent=$1 negatives=(--negative-prompts "$NEGATIVE")
    shift
    [ "$NEG_SCHEDULE" != none ] || negatives=()
    expo prep-prompts "$SHARED/train.jsonl" --sample "$NUM_PROMPTS" \
        --seed "$((SEED * 100 + t))" --out "$now/prompts.jsonl"
    shards expo rollout "$now/prompts.jsonl" --policy "$policy" --out "$now/$agent" --agent "$agent" \
        "${SAMPLER[@]}" --num-images-per-prompt "$IMAGES" --part-size "$PART_SIZE" \
        --neg-schedule "$NEG_SCHEDULE" "${negatives[@]}" \
        --iteration "$t" --iterations "$ITERATIONS" --seed "$SEED" "$@"
    shards expo score "$now/$agent" "${DRAW_REWARDS[@]}"
}

# One pair per prompt: the best against the worst of all images by both agents.
pair() { # AGENT ...
    expo make-pairs "${@/#/$now/}" "${PAIR_BY[@]}" --out "$now/pairs.jsonl"
}

report() {
    local heldout=(--heldout-reward "$HELDOUT_REWARD") rounds=() number
    # A reward that has chosen an iteration is not held out.
    [[ $JUDGE = heldout && $STOP_BY != "$HELDOUT_REWARD" ]] || heldout=()
    # The ledger: pairs[i] is new in iteration i + 1, and some iterations are not judged.
    for ((number = 1; number < ${#pairs[@]}; number++)); do
        [[ " ${evaluations[*]}" != *" iteration-$((number + 1))="* ]] ||
            rounds+=(--pairs "iteration-$((number + 1))=${pairs[number]}")
    done
    expo evaluate "${evaluations[@]}" --baseline base --out "$OUT/evaluation-$JUDGE" "${rounds[@]}" \
        --training-reward "$REWARD" "${heldout[@]}" --title "$SYSTEM, $REWARD, seed $SEED"
    [ ${#more_evaluations[@]} = 0 ] ||
        expo evaluate "${more_evaluations[@]}" --baseline base --out "$OUT/more-evaluation-$JUDGE" \
            --training-reward "$REWARD" "${heldout[@]}"
}

# Run now or, for slurm/submit.sh, as jobs.
# shellcheck source=recipes/slurm/chain.sh
[ -z "${SUBMIT:-}" ] || source recipes/slurm/chain.sh
