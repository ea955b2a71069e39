"""What `expo train` does around the optimiser steps, from its records to the checkpoint."""

import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from expo_cli.config import RunOptions, TrainConfig
from expo_cli.contracts.checkpoints import states_folder
from expo_cli.contracts.files import alone
from expo_cli.contracts.parts import Shard
from expo_cli.contracts.provenance import Run, write_run
from expo_cli.core.objectives import Objective, learns_from
from expo_cli.models.families import has_t5, pipeline_folder
from expo_cli.stages.common.device import resolve_dtype
from expo_cli.stages.common.folders import begin_or_continue, clear_if_asked
from expo_cli.stages.common.progress import Notes
from expo_cli.stages.common.text_cache import TextCache, ask_ahead
from expo_cli.stages.training.checkpoint import write_checkpoint
from expo_cli.stages.training.origin import origin_of
from expo_cli.stages.training.plan import GO_ON, global_batch_size
from expo_cli.stages.training.processes import start_processes
from expo_cli.stages.training.trainer import DATA, Trainer


def train(
    records: Sequence[Any],
    objective: Objective,
    out: Path,
    config: TrainConfig,
    options: RunOptions,
    run: Run,
    notes: Notes,
) -> None:
    """Train to the last step and write the checkpoint; see `stages.train.train_policy`."""
    accelerator = start_processes(config, out)
    started = time.monotonic()
    with alone(out) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            clear_if_asked(out, options, Shard())
            begin_or_continue(out, run, remedy=GO_ON)
        accelerator.wait_for_everyone()
        if config.report_to != "none":
            accelerator.init_trackers("expo")
        origin = origin_of(config, objective, run)
        text = ask_text_encoders(records, objective, out, config, accelerator, notes)
        trainer = Trainer(records, objective, out, config, accelerator, notes, origin, text)
        trainer.run()
        weights = trainer.masters.state()
        if accelerator.is_main_process:
            measured = trainer.log.last()
            # Before the checkpoint, whose last file makes it finished.
            seconds = round(time.monotonic() - started, 3)
            write_run(out, replace(run, counts=measured, seconds=seconds))
            write_checkpoint(
                trainer.policy, weights, out, trainer.adapter, trainer.base, origin, measured
            )
            shutil.rmtree(states_folder(out), ignore_errors=True)
        accelerator.wait_for_everyone()
    accelerator.end_training()  # which also ends the process group


def ask_text_encoders(
    records: Sequence[Any],
    objective: Objective,
    out: Path,
    config: TrainConfig,
    accelerator: Accelerator,
    notes: Notes,
) -> TextCache | None:
    """What they say of all prompts to be visited, where they are too large to stay in memory."""
    if not has_t5(pipeline_folder(config.init_from)):
        return None
    device = accelerator.device
    count = config.max_train_steps * global_batch_size(config)
    prompts = DATA[learns_from(objective)].prompts(records, objective, config, 0, count)
    text = ask_ahead(
        config.text_cache or states_folder(out) / "text",
        config.init_from,
        device,
        resolve_dtype(config.mixed_precision, device),
        prompts,
        notes,
        Shard(accelerator.process_index, accelerator.num_processes),
    )
    accelerator.wait_for_everyone()
    return text
