"""What the commands read, as the places that no output may take and as models that must agree."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from expo_cli.config import RunOptions
from expo_cli.contracts.identity import VAE, model_sha256s
from expo_cli.contracts.outputs import Input
from expo_cli.contracts.parts import Shard
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.sources import base_source, found_again, model_folder, shipped
from expo_cli.errors import ContractError, UsageError
from expo_cli.registry import split_spec
from expo_cli.stages.common.progress import Notes

if TYPE_CHECKING:  # what is finished is known without torch
    from expo_cli.models.protocol import TextEncoder

# Where a run says which VAE its latents are of: a rollout's, and that of imported images.
VAE_INPUTS = ("drawn_by/vae", "vae/vae")


def model_inputs(flag: str, source: str | None) -> list[Input]:
    """Where a model lies, and the base that a LoRA adapts."""
    if source is None:
        return []
    folder, base = model_folder(source), model_folder(base_source(source))
    own = [Input(flag, folder)]
    return own if base == folder else [*own, Input(f"the base of {flag}", base)]


def spec_inputs(flag: str, spec: str | None) -> list[Input]:
    """The files and folders that the options of a part name."""
    values = split_spec(spec)[1].values() if spec else ()
    paths = map(shipped, values)
    return [Input(flag, path) for path in paths if path.name and os.path.exists(path)]


def check_overwrite(options: RunOptions, shard: Shard) -> None:
    """Raises UsageError when one of several workers would remove the others' parts."""
    if options.overwrite and shard.count > 1:
        raise UsageError("--overwrite contradicts --shard; remove the output, then start them")


def note_cut(notes: Notes, command: str, text: TextEncoder) -> None:
    """Say once how many prompts were longer than what is read of them."""
    if text.cut:
        notes.say(
            f"{command}: note: {len(text.cut)} prompts are longer than the text encoder reads; their "
            "ends change nothing (`expo prep-prompts` drops such prompts)"
        )


def note_unchecked(notes: Notes, command: str, made: dict[Path, Run]) -> None:
    """Say once which inputs an older version of expo made, which did not write down of what."""
    if older := [str(place) for place, run in made.items() if run.is_older]:
        notes.say(
            f"{command}: note: made by an older version of expo, so their origin was not checked: "
            f"{', '.join(older)}"
        )


def maker_of_latents(folder: Path, run: Run) -> str | None:
    """The source of the model by whose VAE the latents in a folder are, as far as its run says."""
    return found_again(run.free | run.plan, "drawn_by", folder) or found_again(
        run.free | run.plan, "vae", folder
    )


def check_same_vae(folder: Path, run: Run, source: str) -> None:
    """Raises ContractError when the VAE of `source` is not the one that latents were made with.

    `run` made the folder that holds them; one that does not say by which VAE is not checked.
    """
    made_with = next((run.inputs[key] for key in VAE_INPUTS if key in run.inputs), None)
    own = model_sha256s("vae", source, VAE).get("vae/vae")
    if None not in (made_with, own) and made_with != own:
        maker = maker_of_latents(folder, run)
        raise ContractError(
            f"{folder}: its latents are of the VAE of {maker} (sha256 {made_with[:16]}), not of that "
            f"of {source} ({own[:16]}); other weights, scale or shift make them other images"
        )
