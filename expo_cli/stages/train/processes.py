"""The processes that train together, and the tracker that hears of it."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import gather_object

from expo_cli.config import TrainConfig
from expo_cli.contracts.kinds import TRACKERS
from expo_cli.errors import ExpoError
from expo_cli.stages.common.launch import num_launched

LONGEST_NAME = 128  # that W&B takes


def start_processes(config: TrainConfig, out: Path) -> Accelerator:
    """This process's place among the others; `begin_tracker` is still to be called.

    `config` says how many they are, see `stages.train.settings.resolve`.

    Raises ExpoError when the tracker is not installed, or the launch did not give the processes that
    it meant to: a wrong launch trains several independent copies, or one, without a word.
    """
    tracker = None if config.report_to == "none" else config.report_to
    if tracker and tracker not in map(str, get_available_trackers()):
        raise ExpoError(
            f"--report-to {tracker}: {tracker} is not installed; pip install {tracker}, or "
            "--report-to none"
        )
    accelerator = Accelerator(log_with=tracker, project_dir=out / TRACKERS)
    launched = num_launched()
    if not config.num_processes == launched == accelerator.num_processes:
        raise ExpoError(
            f"{config.num_processes} processes were asked for, {launched} launched, and "
            f"{accelerator.num_processes} train together; on a CPU launch with ACCELERATE_USE_CPU="
            "true accelerate launch --multi_gpu --num_processes N -m expo_cli train ..."
        )
    return accelerator


def begin_tracker(accelerator: Accelerator, config: TrainConfig, out: Path) -> None:
    """Tell the tracker, if there is one, the settings and where in `out` its files go.

    Raises ExpoError when W&B cannot begin, as without a key.
    """
    if config.report_to == "none":
        return
    # TensorBoard takes no others.
    settings = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in asdict(config).items()
    }
    wandb = {"name": str(out)[-LONGEST_NAME:], "dir": str(out / TRACKERS)}
    try:
        accelerator.init_trackers("expo", config=settings, init_kwargs={"wandb": wandb})
    except Exception as error:
        if not type(error).__module__.startswith("wandb."):  # which is not always installed
            raise
        raise ExpoError(f"--report-to {config.report_to}: {error}") from error


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
