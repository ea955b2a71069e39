"""The work of `expo train` around the optimiser steps, from records to checkpoint."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from expo_cli.config import RunOptions, TrainConfig
from expo_cli.contracts.files import alone
from expo_cli.contracts.kinds import Checkpoint
from expo_cli.contracts.outputs import Input
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.shards import Shard
from expo_cli.contracts.states import states_folder
from expo_cli.core.objectives import Objective
from expo_cli.models.families import has_t5, pipeline_folder
from expo_cli.stages.common.device import resolve_dtype
from expo_cli.stages.common.progress import Notes, seconds_since
from expo_cli.stages.common.text_cache import TextCache, ask_ahead
from expo_cli.stages.train.checkpoint import write_checkpoint
from expo_cli.stages.train.origin import origin_of
from expo_cli.stages.train.processes import begin_tracker, start_processes, together
from expo_cli.stages.train.records import EVIDENCE, TrainingRecord
from expo_cli.stages.train.settings import global_batch_size
from expo_cli.stages.train.trainer import Trainer


def train(
    records: Sequence[TrainingRecord],
    objective: Objective,
    checkpoint: Checkpoint,
    read: Sequence[Input],
    config: TrainConfig,
    options: RunOptions,
    run: Run,
    notes: Notes,
) -> None:
    """Train to the last step and write the checkpoint; see `stages.train.plan.train_policy`."""
    out = checkpoint.path
    accelerator = start_processes(config, out)
    started = time.monotonic()
    with ExitStack() as stack:

        def begin() -> None:
            if accelerator.is_main_process:
                stack.enter_context(alone(out))
                stack.enter_context(checkpoint.begun(run, read, options.overwrite))

        def go_on() -> None:
            if accelerator.is_main_process:
                checkpoint.go_on(run)

        def make_trainer() -> Trainer:
            begin_tracker(accelerator, config, out)
            text = ask_text_encoders(records, objective, out, config, accelerator, notes)
            return Trainer(records, objective, out, config, accelerator, notes, origin, text)

        def finish() -> None:
            if not accelerator.is_main_process:
                return
            measured = trainer.log.last()
            files = write_checkpoint(
                trainer.policy, weights, out, trainer.adapter, trainer.base, origin, measured
            )
            seconds = seconds_since(started)
            checkpoint.finish(replace(run, counts=measured, seconds=seconds, files=files))
            checkpoint.remove_states(run)

        together(accelerator, begin)
        origin = origin_of(config, objective, run)
        trainer = together(accelerator, make_trainer)
        together(accelerator, go_on)
        trainer.run()
        weights = trainer.masters.state()
        together(accelerator, finish)
    accelerator.end_training()  # also ends the process group


def ask_text_encoders(
    records: Sequence[TrainingRecord],
    objective: Objective,
    out: Path,
    config: TrainConfig,
    accelerator: Accelerator,
    notes: Notes,
) -> TextCache | None:
    """The cached embeddings of all prompts of the run if the model has T5, else None."""
    if not has_t5(pipeline_folder(config.init_from)):
        return None
    device = accelerator.device
    count = config.max_train_steps * global_batch_size(config)
    stream = EVIDENCE[objective.learns_from].stream
    prompts = stream.prompts(records, objective, config, 0, count)
    return ask_ahead(
        config.text_cache or states_folder(out) / "text",
        config.init_from,
        device,
        resolve_dtype(config.mixed_precision, device),
        prompts,
        notes,
        Shard(accelerator.process_index, accelerator.num_processes),
    )
