"""The public provenance of a checkpoint, for its model card and LoRA metadata.

Absolute paths are reduced to their last part, and no clock is read, so the same run gives the same
text in any folder. `run.json` has the full paths.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from expo_cli.config import TrainConfig
from expo_cli.contracts.identity import one_sha256
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.sources import EMBEDDED, base_source, shipped
from expo_cli.core.objectives import Objective
from expo_cli.stages.train.settings import FREE_SETTINGS

# Settings that depend on the machine; the global batch size replaces its factors.
UNTOLD = set(FREE_SETTINGS) - {"train_batch_size", "gradient_accumulation_steps"}


@dataclass(frozen=True)
class Origin:
    """`base` is the model whose weights or adapter were trained; `hub_base` is its hub id, else that of
    the reference, if one of them has one. Digests are (name, sha256)."""

    title: str
    base: str
    hub_base: str | None
    command: str
    objective: str
    evidence: str
    settings: dict[str, Any]
    weights: list[tuple[str, str]]
    data: list[tuple[str, str]]
    versions: dict[str, str]


def told(source: str) -> str:
    """A path or other source of weights in a form for the public."""
    return Path(source).name if Path(source).is_absolute() else source


def on_hub(source: str) -> bool:
    return not source.startswith(EMBEDDED) and not shipped(source).exists()


def train_command(config: TrainConfig, paths: Sequence[str]) -> str:
    """The command that trains this checkpoint, with its non-default settings."""
    settings = {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if field.name not in UNTOLD
        and (config.use_lora or not field.name.startswith("lora_"))
        and getattr(config, field.name) != field.default
    }
    arguments = ["expo", "train", *map(told, paths)]
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(flag)
        else:
            values = value if isinstance(value, tuple) else (value,)
            arguments += [argument for one in values for argument in (flag, told(str(one)))]
    return shlex.join([*arguments, "--out", "checkpoint"])


def origin_of(config: TrainConfig, objective: Objective, run: Run) -> Origin:
    """The origin of the checkpoint of a run, given its resolved configuration."""
    base = base_source(config.init_from)
    paths = run.free["pairs"]
    sources = {"init_from": config.init_from, "ref": config.ref}
    name = Path(base.removeprefix(EMBEDDED)).name
    return Origin(
        title=f"{name}, aligned by {config.objective.partition(':')[0].rpartition('.')[2]}",
        base=told(base),
        hub_base=next(filter(on_hub, (base, config.ref)), None),
        command=train_command(config, paths),
        objective=str(objective) if is_dataclass(objective) else config.objective,
        evidence=f"{run.plan[f'num_{objective.learns_from}']} {objective.learns_from}",
        settings={name: told(source) for name, source in sources.items()} | run.plan,
        weights=list(
            dict.fromkeys((told(sources[name]), one_sha256(run.inputs, name)) for name in sources)
        ),
        data=[(told(path), run.inputs[f"pairs {n}"]) for n, path in enumerate(paths, start=1)],
        versions=run.versions,
    )


def lora_metadata(origin: Origin, step: int) -> dict[str, str]:
    """The metadata of a LoRA file after `step` optimiser steps.

    Keys that start with `ss_` are those of kohya's sd-scripts.
    """
    settings = origin.settings
    return {
        "modelspec.title": origin.title,
        "modelspec.description": f"Trained by `{origin.command}`: {origin.evidence}.",
        "ss_sd_model_name": origin.base,
        "ss_steps": str(step),
        "ss_max_train_steps": str(settings["max_train_steps"]),
        "ss_total_batch_size": str(settings["global_batch_size"]),
        "ss_learning_rate": str(settings["learning_rate"]),
        "ss_lr_scheduler": settings["lr_scheduler"],
        "ss_seed": str(settings["seed"]),
        "expo.command": origin.command,
        "expo.objective": origin.objective,
        "expo.weights_sha256": json.dumps(origin.weights),
        "expo.data_sha256": json.dumps(origin.data),
        "expo.versions": json.dumps(origin.versions),
    }
