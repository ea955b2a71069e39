# shellcheck shell=bash disable=SC2034
# Your cluster: the one file to edit, or to copy and name by SITE. Sourced by submit.sh and, on the
# node, by every job.

# Tasks of each array of `rollout` and `score`: at most as many as there are parts (prompts through
# PART_SIZE) and as MaxArraySize allows. Change it only while nothing of the run is queued.
NUM_SHARDS=${NUM_SHARDS:-4}

# Options of sbatch: of every job, then of each command's. A job that reaches its time limit goes on
# where it was, so a limit may be short; it must hold the start and some batches.
GPU=--gpus-per-node=1
[ "${WORLD:-embedded}" != embedded ] || GPU=
SBATCH_OPTIONS="" # --partition=gpu --account=me --qos=preemptible
declare -A COMMAND_OPTIONS=(
    [prep-prompts]="--time=1:00:00"
    [rollout]="--time=4:00:00 $GPU"
    [score]="--time=4:00:00 $GPU"
    [make-pairs]="--time=1:00:00"
    # Several processes are several tasks: --nodes=1 --ntasks-per-node=8 --gpus-per-node=8, and a
    # GRADIENT_ACCUMULATION divided by 8 (recipes/worlds/sd15.sh).
    [train]="--time=24:00:00 $GPU"
    [evaluate]="--time=1:00:00"
)

# How often a task goes back into the queue after a signal (time limit, pre-emption) before it fails.
MAX_REQUEUES=${MAX_REQUEUES:-50}

# What a job does first, such as `module load cuda` and `source .venv/bin/activate`. Without, it has
# the environment of the shell that submitted it.
prepare() { :; }

# What stands before `expo` on the node, such as (apptainer exec --nv expo.sif).
CONTAINER=()
