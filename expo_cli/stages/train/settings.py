"""The settings of a training: resolved, and split into fixed and free ones."""

from dataclasses import asdict, replace
from typing import Any

from expo_cli.config import TrainConfig
from expo_cli.contracts.sources import base_source, is_adapter, model_folder
from expo_cli.core.objectives import Objective
from expo_cli.errors import UsageError
from expo_cli.stages.common.launch import num_launched

# A run may continue with other values of these, at the same global batch: they affect the result
# only through the order in which floats are added.
FREE_SETTINGS = (
    "report_to",
    "num_processes",
    "shard_optimizer",
    "train_batch_size",
    "gradient_accumulation_steps",
    "checkpoints_total_limit",
    "checkpointing_steps",
    "keep_state",
    "reference_cache",
    "text_cache",
)
# Paths as given; the identity of these inputs is among the run's inputs.
SPELLED = ("init_from", "ref")


def resolve(config: TrainConfig) -> TrainConfig:
    """The configuration with its reference, LoRA alpha and number of processes filled in.

    Raises UsageError when --init-from is a LoRA checkpoint and --use-lora is not given.
    """
    starts_from_adapter = is_adapter(model_folder(config.init_from))
    if starts_from_adapter and not config.use_lora:
        raise UsageError(f"--init-from {config.init_from} is a LoRA checkpoint; add --use-lora")
    return replace(
        config,
        ref=config.ref or base_source(config.init_from),
        lora_alpha=config.lora_alpha or config.lora_rank,
        num_processes=config.num_processes or num_launched(),
    )


def global_batch_size(config: TrainConfig) -> int:
    """Items per optimiser step over all processes, for a resolved configuration."""
    return config.train_batch_size * config.gradient_accumulation_steps * config.num_processes


def plan_and_free(
    config: TrainConfig, objective: Objective
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that a later run must share, and those that it may change."""
    free = [*FREE_SETTINGS, *SPELLED]
    if objective.mixes_batch:
        free = [name for name in free if name not in ("train_batch_size", "num_processes")]
    settings = asdict(config) | {"global_batch_size": global_batch_size(config)}
    return (
        {name: value for name, value in settings.items() if name not in free},
        {name: settings[name] for name in free},
    )
