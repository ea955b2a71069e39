# shellcheck shell=bash
# Sourced by the job scripts: their environment, and how they run their command.
set -euo pipefail
# shellcheck source=recipes/slurm/site.sh
source "${SITE:-recipes/slurm/site.sh}"
prepare
# srun takes the CPUs of a task from here since SLURM 22.05.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

# Run it as a job step, which gets all signals while this shell lives on to see how it ends. Stopped
# by one, it goes back into the queue: exit code 75, or death by USR1, USR2 or TERM before it began.
step() { # COMMAND [ARGUMENT ...]
    local code=0 task=$SLURM_JOB_ID
    srun --wait=60 "$@" || code=$?
    case $code in 75 | 138 | 140 | 143)
        if [ "${SLURM_RESTART_COUNT:-0}" -lt "$MAX_REQUEUES" ]; then
            # The last task of an array has the array's id for its own SLURM_JOB_ID.
            [ -z "${SLURM_ARRAY_JOB_ID:-}" ] || task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
            echo "stopped by a signal (exit code $code): requeue of $task" >&2
            scontrol requeue "$task"
        fi
        ;;
    esac
    exit "$code"
}
