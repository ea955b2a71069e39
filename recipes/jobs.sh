# shellcheck shell=bash
# Sourced by the recipes that compare systems: many runs of recipes in parallel, one core each.
#
# The recipe that sources this sets
#   RUNS     the folder of all runs
#   RESULTS  where each run's figures are kept; a run with kept figures is not repeated, and refused if
#            its settings differ from those kept with them
#   JOBS     number of parallel runs
#   SHARED   folder of what all runs share: prompts, offline pairs, the base's images

JOBS=${JOBS:-$(expo env --cores)}
export RUNS RESULTS SHARED=${SHARED:-runs/embedded/shared}

# The variables of recipes that are set in the environment; paths do not count as settings.
GIVEN=
# shellcheck disable=SC2016 # the pattern is not an expansion
for name in $(grep -ohE '\$\{[A-Z0-9_]+:[-?]' recipes/{world,offline}.sh recipes/worlds/*.sh | tr -d '${:?-' | sort -u); do
    case $name in CORES | LAUNCH | OUT | RUNS | SHARED | SUBMIT | SYSTEM) continue ;; esac
    [ -z "${!name:-}" ] || GIVEN+=" $name"
done
export GIVEN

# Run one line of a list: NAME RECIPE [VARIABLE=VALUE ...].
job() {
    local name=$1 recipe=$2 given settings
    shift 2
    settings=("recipe=$recipe")
    for given in $GIVEN; do settings+=("$given=${!given}"); done
    settings+=("$@")
    if [ -f "$RESULTS/$name.json" ]; then
        python recipes/table1/keep.py --check "$RESULTS/$name.json" "${settings[@]}"
        return
    fi
    echo "$(date +%T) $name begins" >&2
    mkdir -p "$RUNS/$name"
    if env CORES=1 OUT="$RUNS/$name" "$@" bash "recipes/$recipe.sh" >>"$RUNS/$name.log" 2>&1 &&
        python recipes/table1/keep.py "$RUNS/$name" "$RESULTS/$name.json" "${settings[@]}"; then
        echo "$(date +%T) $name is done" >&2
    else
        echo "$(date +%T) $name FAILED, see $RUNS/$name.log" >&2
        return 1
    fi
}
export -f job

jobs_of() { # reads the lines; fails at the end if one has failed
    xargs -P "$JOBS" -L 1 bash -c 'job "$@"' job
}
