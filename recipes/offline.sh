# shellcheck shell=bash disable=SC2034,SC2153,SC2154
# Sourced by world.sh: D_off, the offline pairs, made once for all systems and seeds.
#
#   OFFLINE            pairs of your own, instead of all that follows
#   OFFLINE_KIND       whose images: own (default), the base's; other, those of a policy that was
#                      trained by the other reward; weaker, those of a base that SFT made worse
#   OFFLINE_PAIRING    best-worst (default) or random: which two of a prompt's images
#   OFFLINE_LABELS     training (default) or other: the reward that says which one wins
#   OFFLINE_AGREEMENT  share of labels that agree with that reward, e.g. 0.7 (default: all)
#   OFFLINE_STYLES     categories of the prompts, e.g. noto+flat (default: all)
#   OFFLINE_SEED       0 (default); another one draws prompts, images, noise and labels anew
#
# Images have a folder in SHARED, and pairs a file in it, whose names tell the settings.

OFFLINE_KIND=${OFFLINE_KIND:-own}
OFFLINE_PAIRING=${OFFLINE_PAIRING:-best-worst}
OFFLINE_LABELS=${OFFLINE_LABELS:-training}
OFFLINE_AGREEMENT=${OFFLINE_AGREEMENT:-}
OFFLINE_STYLES=${OFFLINE_STYLES:-}
OFFLINE_SEED=${OFFLINE_SEED:-0}
OTHER_STEPS=${OTHER_STEPS:-$STEPS}     # optimiser steps of the other policy
WEAKER_PORTIONS=${WEAKER_PORTIONS:-20} # at most, of WEAKER_STEPS optimiser steps of the weaker one

one_of() { # VARIABLE VALUE ...
    local name=$1
    shift
    [[ " $* " != *" ${!name} "* ]] || return 0
    echo "$name=${!name}: must be one of: $*" >&2
    exit 2
}
one_of OFFLINE_KIND own other weaker
one_of OFFLINE_PAIRING best-worst random
one_of OFFLINE_LABELS training other

offline_folder() { # of the images
    local folder=$SHARED/offline
    case $OFFLINE_KIND in
    other) folder+=-other-by-$HELDOUT_REWARD ;;
    weaker) folder+=-weaker-by-$REWARD ;;
    esac
    folder+=${OFFLINE_STYLES:+-$OFFLINE_STYLES}
    [ "$OFFLINE_SEED" = 0 ] || folder+=-seed-$OFFLINE_SEED
    echo "$folder"
}

offline_file() { # REWARD: of the pairs that it labels
    local name=$1
    [ "$OFFLINE_PAIRING" = best-worst ] || name+=-$OFFLINE_PAIRING
    name+=${OFFLINE_AGREEMENT:+-agreement-$OFFLINE_AGREEMENT}
    echo "$(offline_folder)/$name-$OFFLINE_PAIRS.jsonl"
}

label=$REWARD
[ "$OFFLINE_LABELS" = training ] || label=$HELDOUT_REWARD
MADE_OFFLINE=$(offline_file "$label")
OFFLINE=${OFFLINE:-$MADE_OFFLINE}

offline_pairs() {
    [ "$OFFLINE" = "$MADE_OFFLINE" ] || return 0 # given by the user
    local folder policy=$BASE first=0
    folder=$(offline_folder)
    # Images of another model have indices, and so ids, of their own.
    case $OFFLINE_KIND in
    other) first=100 && train_other ;;
    weaker) first=200 && train_weaker ;;
    esac
    draw_offline
}

# Several images per prompt by `policy`, each with another sampler; pairs labelled by each reward.
draw_offline() {
    local rollouts=() categories=() sampler number style reward
    for style in ${OFFLINE_STYLES//+/ }; do categories+=(--category "$style"); done
    # Seeds of no other draw of prompts.
    expo prep-prompts "$SHARED/train.jsonl" "${categories[@]}" --sample "$OFFLINE_PROMPTS" \
        --seed "$((100 + 1000 * OFFLINE_SEED))" --out "$folder/prompts.jsonl"
    for sampler in "${OFFLINE_SAMPLERS[@]}"; do
        number=${#rollouts[@]}
        rollouts+=("$folder/rollout-$number")
        # shellcheck disable=SC2086 # a sampler is several words
        shards expo rollout "$folder/prompts.jsonl" --policy "$policy" --out "$folder/rollout-$number" \
            $sampler --num-images-per-prompt 1 --first-index "$((first + number))" \
            --part-size "$PART_SIZE" --seed "$OFFLINE_SEED"
        shards expo score "$folder/rollout-$number" "${BOTH_REWARDS[@]}"
    done
    for reward in "$HELDOUT_REWARD" "$REWARD"; do
        expo make-pairs "${rollouts[@]}" --reward "$reward" --source offline \
            --pairing "$OFFLINE_PAIRING" ${OFFLINE_AGREEMENT:+--label-agreement "$OFFLINE_AGREEMENT"} \
            --limit "$OFFLINE_PAIRS" --seed "$OFFLINE_SEED" --out "$(offline_file "$reward")"
    done
}

# The base's own images, all prompts paired without noise, whatever the settings of D_off.
plain_pairs() { # SEED
    local OFFLINE_KIND=own OFFLINE_PAIRING=best-worst OFFLINE_AGREEMENT='' OFFLINE_STYLES=''
    local OFFLINE_SEED=$1 OFFLINE_PAIRS=$OFFLINE_PROMPTS folder policy=$BASE first=0
    folder=$(offline_folder)
    draw_offline
    plain=$folder
}

# A policy of about the base's quality: one iteration of Diffusion-DPO by the other reward, on
# images, and with noise, of another seed.
train_other() {
    local plain pairs seed=$((OFFLINE_SEED + 50)) STEPS=$OTHER_STEPS
    plain_pairs "$seed"
    pairs=("$plain/$HELDOUT_REWARD-$OFFLINE_PROMPTS.jsonl")
    fit "$folder/policy" "dpo:beta=$DPO_BETA" "$DPO_LEARNING_RATE" --seed "$seed"
    policy=$folder/policy
}

# A policy below the base: SFT on the losers of its own pairs, in portions, until the training reward
# on training prompts has fallen by WEAKER_BY.
train_weaker() {
    local JUDGE=train SEED=$OFFLINE_SEED STEPS=$WEAKER_STEPS evaluations=() plain pairs portion enough
    # Jobs are submitted before anyone can look.
    if [ -n "${SUBMIT:-}" ] && [ ! -d "$folder/rollout-0" ]; then
        echo "OFFLINE_KIND=weaker: run recipes/base.sh with these settings first, without SLURM" >&2
        exit 2
    fi
    plain_pairs "$OFFLINE_SEED"
    expo make-pairs "$plain"/rollout-* --reward "$REWARD" --source offline --label-agreement 0 \
        --seed "$OFFLINE_SEED" --out "$plain/$REWARD-losers.jsonl"
    pairs=("$plain/$REWARD-losers.jsonl")
    judge base "$SHARED/base/$JUDGE-$SEED"
    for ((portion = 1; portion <= WEAKER_PORTIONS; portion++)); do
        fit "$folder/portion-$portion/checkpoint" sft "$SFT_LEARNING_RATE" --seed "$((SEED * 100 + portion))"
        policy=$folder/portion-$portion/checkpoint
        judge weaker "$folder/portion-$portion/$JUDGE"
        expo evaluate "${evaluations[0]}" "${evaluations[-1]}" --baseline base \
            --training-reward "$REWARD" --out "$folder/portion-$portion/evaluation"
        enough=$(weak_enough "$folder/portion-$portion/evaluation/results.json")
        echo "weaker: $REWARD ${enough#* } after $((portion * WEAKER_STEPS)) steps on losers" >&2
        [[ $enough = no* ]] || return 0
    done
    echo "weaker: is not $WEAKER_BY below the base; raise WEAKER_PORTIONS or SFT_LEARNING_RATE" >&2
    exit 1
}

weak_enough() { # RESULTS: yes or no, and the last policy's training reward against the base's
    python -c 'import json, sys
results, reward, needed = sys.argv[1:]
rewards = json.load(open(results))["policies"][-1]["rewards"]
change = rewards[reward]["difference"]["value"]
print("yes" if change <= -float(needed) else "no", format(change, "+.2f"))' "$1" "$REWARD" "$WEAKER_BY"
}
