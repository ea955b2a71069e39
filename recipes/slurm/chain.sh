# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by world.sh when submit.sh runs a recipe. Commands become jobs: a command that names a
# file waits only for the jobs that make that file, so that both agents and the images for judging
# are drawn in parallel.

# shellcheck source=recipes/slurm/site.sh
source "${SITE:=recipes/slurm/site.sh}"
export SITE NUM_SHARDS
LOGS=${LOGS:-$OUT/logs}
mkdir -p "$LOGS"

LAUNCH=(expo)      # train.sbatch starts the processes
shards() { "$@"; } # each task of an array takes its own

# Jobs of earlier submissions in the queue, by their comment, "COMMAND OUTPUT".
declare -A waiting running
ending=() # jobs of this run's outputs that are either over or about to be requeued
read_queue() {
    local queue id state reason dependency comment places
    places=("$(realpath --canonicalize-missing "$OUT")" "$(realpath --canonicalize-missing "$SHARED")")
    waiting=() running=() ending=()
    queue=$(squeue --me --array --noheader --format='%i|%T|%r|%E|%k')
    while IFS='|' read -r id state reason dependency comment; do
        case $state,$reason,$dependency in
        ,,) ;; # an empty queue
        COMPLETING,*)
            case ${comment#* }/ in "${places[0]}"/* | "${places[1]}"/*) ending+=("$id") ;; esac
            ;;
        *,DependencyNeverSatisfied,* | *failed*) ;; # is about to be removed
        *,'(null)') running[$comment]+=" $id" ;;    # or will be, whatever happens to others
        *) waiting[$comment]+=" $id" ;;
        esac
    done <<<"$queue"
}

# After `scancel` or a signal, jobs take seconds to end; a dependency on a cancelled job never ends.
read_settled_queue() {
    local waited
    for ((waited = 0; waited < ${END_TIMEOUT:=120}; waited++)); do
        read_queue
        [ ${#ending[@]} -gt 0 ] || return 0
        [ "$waited" -gt 0 ] || echo "${ending[*]}: COMPLETING, waiting for the end"
        sleep 1
    done
    echo "submit: ${ending[*]}: COMPLETING for $END_TIMEOUT s; submit again when squeue has them no more" >&2
    exit 1
}
read_settled_queue

# Submitted jobs and their dependencies must still be in the queue, or have succeeded.
relied_on=()
verify() {
    local code=$? all id state reason lost=()
    [ "$code" = 0 ] || exit "$code"
    read_settled_queue
    all=$(squeue --me --array --states=all --noheader --format='%i|%T|%r')
    while IFS='|' read -r id state reason; do
        [[ " ${relied_on[*]} " = *" $id "* || " ${relied_on[*]} " = *" ${id%%_*} "* ]] || continue
        case $state,$reason in
        *,DependencyNeverSatisfied) lost+=("$id: $reason") ;;
        PENDING,* | RUNNING,* | SUSPENDED,* | CONFIGURING,* | COMPLETING,* | COMPLETED,* | REQUEUE*) ;;
        *) lost+=("$id: $state") ;;
        esac
    done <<<"$all"
    [ ${#lost[@]} -gt 0 ] || exit 0
    echo "submit: what waits for these jobs will not run, submit again: $(printf '%s; ' "${lost[@]}")" >&2
    exit 1
}
trap verify EXIT # replaces the trap for workers, which do not exist here

declare -A given   # "COMMAND OUTPUT" -> yes; both agents use the same prompts
declare -A made_by # FILE -> the jobs that make it, if it does not exist yet
declare -A renewed # FILE -> yes, if this submission has some of them

expo() { # COMMAND [ARGUMENT ...]: submit its missing work
    local command=$1 output outputs=() after=() renews="" previous="" word key
    shift
    [ "$command" != score ] || outputs=("$1") # scores are in the folder of the images
    for word in "$@"; do
        case $previous in --out | --heldout-out) outputs+=("$word") ;; esac
        previous=$word
        word=${word##*=} # LABEL=FOLDER, or a part's last option
        [ -n "$word" ] || continue
        # shellcheck disable=SC2206 # several ids
        after+=(${made_by[$word]:-})
        renews+=${renewed[$word]:-}
    done
    output=${outputs[0]}
    key="$command $(realpath --canonicalize-missing "$output")"
    [ -z "${given[$key]:-}" ] || return 0
    given[$key]=yes

    # A waiting job is kept, unless it waits for a failed one that is now submitted again.
    local jobs=() doomed=()
    # shellcheck disable=SC2206
    if [ -n "$renews" ]; then
        jobs=(${running[$key]:-}) doomed=(${waiting[$key]:-})
    else
        jobs=(${running[$key]:-} ${waiting[$key]:-})
    fi
    [ ${#doomed[@]} = 0 ] || scancel --quiet "${doomed[@]}" || true # may be gone by now

    local missing task tasks=() id
    if [ ${#after[@]} -gt 0 ]; then
        missing=$(all_tasks "$command")
    else
        missing=$(missing_tasks "$command" "$output")
        if [ "$command" = score ] && [ -z "$missing" ]; then
            missing=$(shards_to_score "$@") # `status` knows no reward that is not begun
        elif [ -n "$missing" ]; then
            command expo "$command" "$@" --dry-run >/dev/null # refuses other settings now rather than later
        fi
        if [ -z "$missing" ] && [ ${#jobs[@]} = 0 ]; then
            command expo "$command" "$@" # fast, and refuses work with other settings
            return
        fi
    fi
    if is_array "$command"; then # except for tasks in the queue
        for task in $missing; do
            [[ "${jobs[*]} " = *"_$task "* ]] || tasks+=("$task")
        done
    elif [ ${#jobs[@]} = 0 ]; then
        read -ra tasks <<<"$missing"
    fi
    [ ${#jobs[@]} = 0 ] || echo "${jobs[*]}: $command $output, in the queue"
    if [ ${#tasks[@]} -gt 0 ]; then
        id=$(submit "$@")
        echo "$id: $command $output${after[*]:+, after ${after[*]}}"
        jobs+=("$id") renews=yes
    fi
    for output in "${outputs[@]}"; do
        made_by[$output]=${jobs[*]} renewed[$output]=$renews
        relied_on+=("${jobs[@]}")
    done
}

submit() { # [ARGUMENT ...]: with `expo`'s own variables; prints the job's id
    local options=() array=() log=%x-%j.log ids=${after[*]} path=$output
    read -ra options <<<"$SBATCH_OPTIONS ${COMMAND_OPTIONS[$command]:-}"
    if is_array "$command"; then
        array=("--array=$(IFS=, && echo "${tasks[*]}")") log=%x-%A_%a.log
    fi
    path=${path#"$OUT/"} path=${path#"$RUNS/"}
    sbatch --parsable "${options[@]}" "${array[@]}" ${ids:+"--dependency=afterok:${ids// /:}"} \
        --job-name="$command-${path//\//-}" --comment="$key" --output="$LOGS/$log" \
        "recipes/slurm/$command.sbatch" "$@" | cut -d ';' -f 1 # ID[;CLUSTER]
}

is_array() { # COMMAND
    [ "$1" = rollout ] || [ "$1" = score ]
}

all_tasks() { # COMMAND
    if is_array "$1"; then seq 0 $((NUM_SHARDS - 1)); else echo 0; fi
}

missing_tasks() { # COMMAND OUTPUT: those with work left, when all inputs are there
    local output=$2 code=0 shards
    [ "$1" != score ] || output+=/scores
    if is_array "$1"; then
        shards=$(command expo status --missing-shards "$NUM_SHARDS" "$output") || code=$?
        echo "${shards//,/ }"
    else
        command expo status "$output" >/dev/null || code=$?
        [ "$code" != 75 ] || echo 0
    fi
    [ "$code" = 0 ] || [ "$code" = 75 ]
}

shards_to_score() { # [ARGUMENT ...]
    local plan
    plan=$(command expo score "$@" --shard "0/$NUM_SHARDS" --dry-run --quiet) || return
    python -c 'import json, sys; print(*json.load(sys.stdin)["missing_shards"])' <<<"$plan"
}
