# shellcheck shell=bash
# Sourced by the job scripts: their environment, and how they run their command.
set -euo pipefail
# shellcheck source=recipes/slurm/site.sh
source "${SITE:-recipes/slurm/site.sh}"
prepare
# srun takes the CPUs of a task from here since SLURM 22.05.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

# Run the command as a job step, which receives all signals, while this shell waits for its end. If a
# signal stopped it (exit code 75, or killed by USR1, USR2 or TERM at the start), it is requeued.
step() { # COMMAND [ARGUMENT ...]
    local code=0 task=$SLURM_JOB_ID
    srun --wait=60 "$@" || code=$?
    case $code in 75 | 138 | 140 | 143)
        if [ "${SLURM_RESTART_COUNT:-0}" -lt "$MAX_REQUEUES" ]; then
            # The last task of an array has the array's id as its SLURM_JOB_ID.
            [ -z "${SLURM_ARRAY_JOB_ID:-}" ] || task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
            echo "stopped by a signal (exit code $code): requeue of $task" >&2
            scontrol requeue "$task"
        fi
        ;;
    esac
    exit "$code"
}
