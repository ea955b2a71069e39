"""Sets up and synchronises the processes that train together, and their tracker."""

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

LONGEST_NAME = 128  # accepted by W&B


def start_processes(config: TrainConfig, out: Path) -> Accelerator:
    """The accelerator of this process; `begin_tracker` is still to be called.

    `config` has the number of processes, see `stages.train.settings.resolve`.

    Raises ExpoError when the tracker is not installed, or when the launch gave another number of
    processes: a wrong launch silently trains several independent copies, or only one.
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
            f"{config.num_processes} processes were requested, {launched} launched, and "
            f"{accelerator.num_processes} train together; on a CPU launch with ACCELERATE_USE_CPU="
            "true accelerate launch --multi_gpu --num_processes N -m expo_cli train ..."
        )
    return accelerator


def begin_tracker(accelerator: Accelerator, config: TrainConfig, out: Path) -> None:
    """Start the tracker, if there is one, with the settings and its folder in `out`.

    Raises ExpoError when W&B cannot start, for example without a key.
    """
    if config.report_to == "none":
        return
    # TensorBoard accepts only these types.
    settings = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in asdict(config).items()
    }
    wandb = {"name": str(out)[-LONGEST_NAME:], "dir": str(out / TRACKERS)}
    try:
        accelerator.init_trackers("expo", config=settings, init_kwargs={"wandb": wandb})
    except Exception as error:
        if not type(error).__module__.startswith("wandb."):  # not always installed
            raise
        raise ExpoError(f"--report-to {config.report_to}: {error}") from error


T = TypeVar("T")


class FailedElsewhere(ExpoError):
    """Another process failed; this one gets the same message and exit code."""

    def __init__(self, process: int, message: str, exit_code: int) -> None:
        super().__init__(f"process {process} failed: {message}")
        self.exit_code = exit_code


def gather(accelerator: Accelerator, own: T, fault: ExpoError | None = None) -> list[T]:
    """The values of all processes, in order; called by all at once.

    If any process failed, all raise: that process its own error, the others FailedElsewhere.
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
    """Call a function in every process, and continue only if all succeeded; see `gather`.

    The function must not wait for other processes.
    """
    result = fault = None
    try:
        result = function()
    except ExpoError as error:
        fault = error
    gather(accelerator, None, fault)
    return result
