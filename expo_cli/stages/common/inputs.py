"""The inputs of commands: paths that no output may use, and models that must agree."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from expo_cli.config import RunOptions
from expo_cli.contracts.identity import VAE, model_sha256s
from expo_cli.contracts.outputs import Input
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.shards import Shard
from expo_cli.contracts.sources import base_source, found_again, model_folder, shipped
from expo_cli.errors import ContractError, UsageError
from expo_cli.registry import split_spec
from expo_cli.stages.common.progress import Notes

if TYPE_CHECKING:  # finished outputs are recognised without torch
    from expo_cli.models.protocol import TextEncoder

# The inputs of a run that name the VAE of its latents: of a rollout, and of imported images.
VAE_INPUTS = ("drawn_by/vae", "vae/vae")


def model_inputs(flag: str, source: str | None) -> list[Input]:
    """The folders of a model and, for a LoRA, of its base."""
    if source is None:
        return []
    folder, base = model_folder(source), model_folder(base_source(source))
    own = [Input(flag, folder)]
    return own if base == folder else [*own, Input(f"the base of {flag}", base)]


def spec_inputs(flag: str, spec: str | None) -> list[Input]:
    """The existing files and folders among the options of a spec."""
    values = split_spec(spec)[1].values() if spec else ()
    paths = map(shipped, values)
    return [Input(flag, path) for path in paths if path.name and os.path.exists(path)]


def check_overwrite(options: RunOptions, shard: Shard) -> None:
    """Raises UsageError for --overwrite with several shards: one would remove the others' parts."""
    if options.overwrite and shard.count > 1:
        raise UsageError(
            "--overwrite contradicts --shard; remove the output first, then start the shards"
        )


def note_cut(notes: Notes, command: str, text: TextEncoder) -> None:
    """Print a note on how many prompts were truncated."""
    if text.cut:
        notes.say(
            f"{command}: note: {len(text.cut)} prompts are longer than the text encoder reads; their "
            "ends have no effect (`expo prep-prompts` drops such prompts)"
        )


def note_unchecked(notes: Notes, command: str, made: dict[Path, Run]) -> None:
    """Print a note on inputs made by an older version of expo, which did not record their origin."""
    if older := [str(place) for place, run in made.items() if run.is_older]:
        notes.say(
            f"{command}: note: made by an older version of expo, so their origin was not checked: "
            f"{', '.join(older)}"
        )


def maker_of_latents(folder: Path, run: Run) -> str | None:
    """The source of the model whose VAE the latents in a folder belong to, if its run states it."""
    return found_again(run.free | run.plan, "drawn_by", folder) or found_again(
        run.free | run.plan, "vae", folder
    )


def check_same_vae(folder: Path, run: Run, source: str) -> None:
    """Raises ContractError when the VAE of `source` is not the one of the latents in `folder`.

    `run` made the folder; nothing is checked if it does not state its VAE.
    """
    made_with = next((run.inputs[key] for key in VAE_INPUTS if key in run.inputs), None)
    own = model_sha256s("vae", source, VAE).get("vae/vae")
    if None not in (made_with, own) and made_with != own:
        maker = maker_of_latents(folder, run)
        raise ContractError(
            f"{folder}: its latents are of the VAE of {maker} (sha256 {made_with[:16]}), not of that "
            f"of {source} ({own[:16]}), which would decode them to different images"
        )
