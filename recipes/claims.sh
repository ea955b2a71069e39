#!/usr/bin/env bash
# When does exploration pay? Runs claims/plan.md, which was written before: a search on training
# prompts, then one contrast per question on held-out prompts. Many hours on 2 cores; run it again after
# any interruption. Runs with figures in RESULTS are not repeated.
#
#   bash recipes/claims.sh                       everything, in the plan's order
#   bash recipes/claims.sh search people         stage 1 in one situation: people or clean
#   bash recipes/claims.sh ask a                 one question of stage 2: a to h, or controls
set -euo pipefail
cd "$(dirname "$0")/.."
source recipes/environment.sh
RUNS=${RUNS:-runs/embedded/claims}
RESULTS=${RESULTS:-recipes/results/claims}
export SHARED=${SHARED:-$RUNS/shared}
# shellcheck source=recipes/jobs.sh
source recipes/jobs.sh
FOUND=$RESULTS

# The exploring agent's two images: more guidance than the main agent's, and less in fewer steps.
MIXTURE=mixture:scheduler=dpm-solver++,num_inference_steps=10/6,guidance_scale=3/1
BY_SIZE=MIX= HALF=MIX=newest=0.5

situation() { # NAME: the settings of D_off
    case $1 in
    people) echo "OFFLINE_KIND=other OFFLINE_PAIRING=random OFFLINE_AGREEMENT=0.7" ;;
    clean) echo "OFFLINE_KIND=own" ;;
    *) echo "no situation '$1': people or clean" >&2 && return 2 ;;
    esac
}

# The settings of the run with the best training reward among those whose names begin so.
best() { # PREFIX
    python recipes/claims/choose.py "$FOUND/search" "$1"
}

# What the runs of a seed share is made first: D_off and the base's images.
share() { # NAME SETTING ...
    env OUT="$RUNS/base-$1" CORES="$JOBS" "${@:2}" bash recipes/base.sh
}

search() { # SITUATION
    local kind=$1 given rate smoothing words
    local RESULTS=$FOUND/search RUNS=$RUNS/search
    export RESULTS RUNS
    given="SEED=10 OFFLINE_SEED=10 JUDGE=train CURVE=none $(situation "$kind")"
    # shellcheck disable=SC2086 # settings are words
    share "$kind" $given
    trial() { # NAME RECIPE SETTING ...
        echo "$kind-$1 $2 $given ${*:3}"
    }
    {
        for rate in 5e-6 1e-5 2e-5 4e-5; do for smoothing in "" 0.3; do
            trial "dpo-$rate${smoothing:+-smoothed}" dpo \
                "DPO_LEARNING_RATE=$rate LABEL_SMOOTHING=$smoothing"
        done; done
        for rate in 1e-5 2e-5; do
            trial "dpo-$rate-beta-500" dpo "DPO_LEARNING_RATE=$rate DPO_BETA=500"
            for smoothing in "" 0.3; do
                words="EXPO_LEARNING_RATE=$rate LABEL_SMOOTHING=$smoothing"
                trial "expo_i-$rate${smoothing:+-smoothed}" expo_i "$words" "$BY_SIZE"
                trial "expo_i-$rate${smoothing:+-smoothed}-half" expo_i "$words" "$HALF"
            done
        done
        words="EXPO_LEARNING_RATE=2e-5 ALPHA=0 $HALF"
        trial expo_ii-explorer-mixture expo_ii "$words EXPLORER=$MIXTURE NEG_SCHEDULE=none"
        trial expo_ii-explorer-sampling expo_ii "$words EXPLORER=sampling:guidance_scale=3"
        trial expo_ii-explorer-extrapolate expo_ii "$words EXPLORER=extrapolate:w=1.5"
        trial expo_ii-explorer-reference expo_ii "$words EXPLORER=reference"
    } | jobs_of
    {
        words=$(best "$kind-expo_i-")
        trial expo_i-again-beta-500 expo_i "$words EXPO_BETA=500"
        trial expo_i-again-4e-5 expo_i "$words EXPO_LEARNING_RATE=4e-5"
        words=$(best "$kind-expo_ii-explorer-")
        trial expo_ii-again-1e-5 expo_ii "$words EXPO_LEARNING_RATE=1e-5"
        trial expo_ii-again-smoothed expo_ii "$words LABEL_SMOOTHING=0.3"
        trial expo_ii-again-by-size expo_ii "$words $BY_SIZE"
    } | jobs_of
    {
        words=$(best "$kind-expo_ii-")
        for form in pair main rejected; do
            trial "expo_ii-term-$form" expo_ii "$words ALPHA=0.1,0.1,0.1,0.1 TERM_OF_EQ7=$form"
        done
    } | jobs_of
}

# The best of 4 and of 8 of the base's images of a prompt, by the training reward.
best_of() {
    local drawn=$SHARED/base/heldout-0
    expo rollout "$SHARED/heldout.jsonl" --policy embedded:emoji-sd --out "$drawn-8" --scheduler ddpm \
        --num-inference-steps 12 --guidance-scale 1.5 --dtype fp32 --num-images-per-prompt 4 \
        --first-index 4 --part-size 24 --seed 0
    expo score "$drawn-8" --reward pickscore=pickscore:model=embedded:emoji-pickscore \
        --reward hpsv2=hpsv2:model=embedded:emoji-hps
    python recipes/claims/best_of.py "$RESULTS/best-of.json" "$drawn" "$drawn-more" "$drawn-8"
}

ask() { # QUESTION
    local kind=people seeds="0 1 2" seed
    local RESULTS=$FOUND/answers RUNS=$RUNS/answers
    local judged="HELDOUT_PROMPTS=216 JUDGED_IMAGES=4 CURVE=none" made=(OFFLINE_PAIRS=384) setting
    export RESULTS RUNS
    case $1 in # `made`: the sets D_off that its runs learn from
    a) seeds="0 1 2 3 4 5" ;;
    b) kind=clean ;;
    c | d | e) ;;
    f) made=(OFFLINE_PAIRS=24 OFFLINE_PAIRS=96) ;;
    g) made=(OFFLINE_STYLES=noto+flat) ;;
    h) made=(OFFLINE_PAIRS=58) ;;
    controls) made=(OFFLINE_AGREEMENT=0.5) ;;
    *) echo "no question '$1': a to h, or controls" >&2 && return 2 ;;
    esac
    for seed in $seeds; do for setting in "${made[@]}"; do
        # shellcheck disable=SC2046,SC2086 # settings are words
        share "$kind-$seed" "SEED=$seed" "OFFLINE_SEED=$seed" $judged $(situation "$kind") "$setting"
    done; done
    [ "$1" != controls ] || best_of
    run() { # NAME SYSTEM SETTING ...
        echo "$kind-$1-$seed $2 SEED=$seed OFFLINE_SEED=$seed $judged" \
            "$(situation "$kind") $(best "$kind-$2-") ${*:3}"
    }
    for seed in $seeds; do
        case $1 in
        a) for system in dpo expo_ii expo_i; do run "$system" "$system" CURVE=1,3; done ;;
        b) for system in dpo expo_ii; do run "$system" "$system"; done ;;
        c) run by-size expo_ii "$BY_SIZE" && run half expo_ii "$HALF" ;;
        d) run same expo_ii EXPLORER=same ;;
        e) run alpha-0 expo_ii ALPHA=0 && run alpha expo_ii ALPHA=0.1,0.1,0.1,0.1 ;;
        f) for pairs in 24 96; do for system in dpo expo_ii; do
            run "$system-$pairs-pairs" "$system" "OFFLINE_PAIRS=$pairs"
        done; done ;;
        # Words of a list cannot hold spaces: two styles are one.
        g) for system in dpo expo_ii; do run "$system-styles" "$system" OFFLINE_STYLES=noto+flat; done ;;
        h) run expo_ii-efficient expo_ii "OFFLINE_PAIRS=58 NUM_PROMPTS=14 STEPS=10" ;;
        controls) for system in dpo expo_ii; do
            run "$system-coin" "$system" OFFLINE_AGREEMENT=0.5
        done ;;
        esac
    done | jobs_of
}

if [ $# = 0 ]; then
    search people
    ask a
    search clean
    for question in b c d e f g h controls; do ask "$question"; done
else
    case $1 in search | ask) "$@" ;; *) echo "$0 [search SITUATION | ask QUESTION]" >&2 && exit 2 ;; esac
fi
python recipes/claims/tables.py "$FOUND"
