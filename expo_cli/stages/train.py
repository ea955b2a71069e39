"""`expo train`: what is trained on what, and whether anything is left to do.

Everything here is known before torch is imported.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from expo_cli.config import RunOptions, TrainConfig
from expo_cli.contracts.files import sha256
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.sources import ADAPTER_CONFIG, base_source, model_folder, source_sha256
from expo_cli.errors import UsageError
from expo_cli.registry import OBJECTIVES, build
from expo_cli.stages.folders import begin_or_continue
from expo_cli.stages.progress import Notes
from expo_cli.stages.training_pairs import read_pairs

# A run may be continued with other values of these: they do not change what it makes.
FREE_SETTINGS = ("report_to", "num_processes", "checkpoints_total_limit", "checkpointing_steps")


@dataclass(frozen=True)
class TrainResult:
    path: Path
    num_pairs: int
    steps: int
    plan: dict[str, Any]


def resolve_policies(config: TrainConfig) -> TrainConfig:
    """The configuration with its reference and LoRA alpha spelled out.

    Raises UsageError when --init-from is a LoRA checkpoint and --use-lora is not given.
    """
    starts_from_adapter = (model_folder(config.init_from) / ADAPTER_CONFIG).exists()
    if starts_from_adapter and not config.use_lora:
        raise UsageError(f"--init-from {config.init_from} is a LoRA checkpoint; add --use-lora")
    ref = config.ref or base_source(config.init_from)
    return replace(config, ref=ref, lora_alpha=config.lora_alpha or config.lora_rank)


def train_policy(
    pair_paths: Sequence[Path], out: Path, config: TrainConfig, options: RunOptions
) -> TrainResult:
    """Train from `init_from` on all pairs and write a checkpoint to `out`.

    A run that was stopped goes on from its last saved state and ends with the same bytes.
    """
    notes = Notes(options)
    objective = build(OBJECTIVES, config.objective)
    config = resolve_policies(config)
    pairs = read_pairs(pair_paths, config.limit)
    settings = {key: value for key, value in asdict(config).items() if key not in FREE_SETTINGS}
    plan = settings | {"num_pairs": len(pairs)}
    notes.say(
        f"train: {objective} on {len(pairs)} pairs, {config.max_train_steps} steps; "
        f"init-from {config.init_from}, ref {config.ref}"
    )
    if hasattr(objective, "beta"):
        notes.say(
            f"train: beta {objective.beta:g} (Diffusion-DPO's unit) is k = {objective.beta / 2:g}"
        )
    result = TrainResult(out, len(pairs), config.max_train_steps, plan)
    if options.dry_run:
        return result
    inputs = {
        "init_from": source_sha256(config.init_from),
        "ref": source_sha256(config.ref),
    } | {str(path): sha256(path) for path in pair_paths}
    run = Run(command="train", plan=plan, inputs=inputs)
    if is_finished(out) and not options.overwrite:
        begin_or_continue(out, run)
        notes.say(f"train: nothing to do, {out} is finished")
        return result
    # Imported here: a finished checkpoint is known without torch.
    from expo_cli.stages.training import train

    train(pairs, objective, out, config, options, run, notes)
    return result


def is_finished(out: Path) -> bool:
    return (out / "model_index.json").exists() or (out / ADAPTER_CONFIG).exists()
