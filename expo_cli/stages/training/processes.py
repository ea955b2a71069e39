"""The processes that train together."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object

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


T = TypeVar("T")


class FailedElsewhere(ExpoError):
    """Another of the processes met an error; its message and exit code are this one's too."""

    def __init__(self, process: int, message: str, exit_code: int) -> None:
        super().__init__(f"process {process} failed: {message}")
        self.exit_code = exit_code


def gather(accelerator: Accelerator, own: T, fault: ExpoError | None = None) -> list[T]:
    """What each process holds, by process; called by all at once.

    Where any met a fault all raise: that process its own, the others FailedElsewhere.
    """
    said = None if fault is None else (str(fault), fault.exit_code)
    each = [(own, said)]
    if accelerator.num_processes > 1:
        each = gather_object(each)
    if fault is not None:
        raise fault
    for process, (_, said) in enumerate(each):
        if said is not None:
            raise FailedElsewhere(process, *said)
    return [held for held, _ in each]


def together(accelerator: Accelerator, function: Callable[[], T]) -> T:
    """Call a function in every process, and go on only when all have ended well; see `gather`.

    The function does not wait for other processes.
    """
    result = fault = None
    try:
        result = function()
    except ExpoError as error:
        fault = error
    gather(accelerator, None, fault)
    return result
