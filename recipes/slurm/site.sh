# shellcheck shell=bash disable=SC2034
# Your cluster: the only file to edit, or to copy and set as SITE. Sourced by submit.sh and, on the
# node, by every job.

# Tasks of each array of `rollout` and `score`: at most the number of parts (prompts divided by
# PART_SIZE) and MaxArraySize. Change it only while no job of the run is queued.
NUM_SHARDS=${NUM_SHARDS:-4}

# Options of sbatch: for all jobs, then for each command. A job that reaches its time limit continues
# where it stopped, so a limit may be short; it must cover the start and some batches.
GPU=--gpus-per-node=1
[ "${WORLD:-embedded}" != embedded ] || GPU=
SBATCH_OPTIONS="" # --partition=gpu --account=me --qos=preemptible
declare -A COMMAND_OPTIONS=(
    [prep-prompts]="--time=1:00:00"
    [rollout]="--time=4:00:00 $GPU"
    [score]="--time=4:00:00 $GPU"
    [make-pairs]="--time=1:00:00"
    # For several processes: --nodes=1 --ntasks-per-node=8 --gpus-per-node=8, and
    # GRADIENT_ACCUMULATION divided by 8 (recipes/worlds/sd15.sh).
    [train]="--time=24:00:00 $GPU"
    [evaluate]="--time=1:00:00"
)

# How often a task is requeued after a signal (time limit, pre-emption) before it fails.
MAX_REQUEUES=${MAX_REQUEUES:-50}

# Run by each job first, e.g. `module load cuda` or `source .venv/bin/activate`. By default a job has
# the environment of the submitting shell.
prepare() { :; }

# Prefix of `expo` on the node, such as (apptainer exec --nv expo.sif).
CONTAINER=()
