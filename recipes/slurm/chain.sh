# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by world.sh when submit.sh runs a recipe. Commands become jobs: a command that names a
# file waits for the jobs that make that file, and for no others, so that both agents, and the
# images to judge by, are drawn side by side.

# shellcheck source=recipes/slurm/site.sh
source "${SITE:=recipes/slurm/site.sh}"
export SITE NUM_SHARDS
LOGS=${LOGS:-$OUT/logs}
mkdir -p "$LOGS"

LAUNCH=(expo)      # train.sbatch starts the processes
shards() { "$@"; } # each task of an array takes its own

# What earlier submissions have in the queue, by "COMMAND OUTPUT", which is a job's comment.
declare -A waiting running
queue=$(squeue --me --array --noheader --format='%i|%r|%E|%k')
while IFS='|' read -r id reason dependency comment; do
    case $reason,$dependency in
    ,) ;; # an empty queue
    DependencyNeverSatisfied,* | *failed*) ;; # is about to be removed
    *,'(null)') running[$comment]+=" $id" ;; # or will be, whatever happens to others
    *) waiting[$comment]+=" $id" ;;
    esac
done <<<"$queue"

declare -A given   # "COMMAND OUTPUT" -> yes; both agents ask for the same prompts
declare -A made_by # FILE -> the jobs that make it, if it is still to be made
declare -A renewed # FILE -> yes, if some of them are of this submission

expo() { # COMMAND [ARGUMENT ...]: submit what is missing of it
    local command=$1 output outputs=() after=() renews="" previous="" word key
    shift
    [ "$command" != score ] || outputs=("$1") # scores stand in the folder of the images
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

    # What waits is sound, unless it waits for something that failed and is now submitted anew.
    local jobs=() doomed=()
    # shellcheck disable=SC2206
    if [ -n "$renews" ]; then
        jobs=(${running[$key]:-}) doomed=(${waiting[$key]:-})
    else
        jobs=(${running[$key]:-} ${waiting[$key]:-})
    fi
    [ ${#doomed[@]} = 0 ] || scancel "${doomed[@]}"

    local missing task tasks=() id
    if [ ${#after[@]} -gt 0 ]; then
        missing=$(all_tasks "$command")
    else
        missing=$(missing_tasks "$command" "$output" "$@")
        if [ -z "$missing" ] && [ ${#jobs[@]} = 0 ]; then
            command expo "$command" "$@" # takes a moment, and refuses work of other settings
            return
        fi
    fi
    if is_array "$command"; then # but for the tasks that are queued
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

missing_tasks() { # COMMAND OUTPUT [ARGUMENT ...]: those with work left, when all inputs are there
    local command=$1 output=$2 plan
    shift 2
    case $command in
    rollout | score)
        plan=$(command expo "$command" "$@" --shard "0/$NUM_SHARDS" --dry-run --quiet) || return
        python -c 'import json, sys; print(*json.load(sys.stdin)["missing_shards"])' <<<"$plan"
        ;;
    train) [ -f "$output/model_index.json" ] || [ -f "$output/adapter_config.json" ] || echo 0 ;;
    evaluate) [ -f "$output/run.json" ] || echo 0 ;; # seconds, so one that is made is made again
    *) [ -f "$output" ] && [ -f "$output.run.json" ] || echo 0 ;;
    esac
}
