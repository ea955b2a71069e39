"""The processes that train together."""

from pathlib import Path

from accelerate import Accelerator

from expo_cli.config import TrainConfig
from expo_cli.errors import ExpoError
from expo_cli.stages.common.launch import num_launched


def start_processes(config: TrainConfig, out: Path) -> Accelerator:
    """This process's place among the others; `init_trackers` is still to be called.

    `config` says how many they are, see `stages.train.resolve`.

    Raises ExpoError when the launch did not give the processes that it meant to: a wrong launch
    trains several independent copies, or one, without a word.
    """
    tracked = config.report_to != "none"
    try:
        accelerator = Accelerator(
            log_with=config.report_to if tracked else None, project_dir=out if tracked else None
        )
    except (ImportError, ValueError) as error:
        raise ExpoError(f"--report-to {config.report_to}: {error}") from error
    launched = num_launched()
    if not config.num_processes == launched == accelerator.num_processes:
        raise ExpoError(
            f"{config.num_processes} processes were asked for, {launched} launched, and "
            f"{accelerator.num_processes} train together; on a CPU launch with ACCELERATE_USE_CPU="
            "true accelerate launch --multi_gpu --num_processes N -m expo_cli train ..."
        )
    return accelerator
