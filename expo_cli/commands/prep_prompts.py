from pathlib import Path
from typing import Annotated

import typer

from expo_cli.commands.flags import config_flags
from expo_cli.commands.output import show
from expo_cli.config import PrepPromptsConfig, RunOptions


@config_flags
def command(
    inputs: Annotated[list[str], typer.Argument(help="Files of prompts, or - for stdin.")],
    out: Annotated[Path, typer.Option(help="prompts.jsonl to write, or - for stdout.")],
    config: PrepPromptsConfig,
    options: RunOptions,
    heldout_out: Annotated[
        Path | None,
        typer.Option(help="File for the held-out prompts (default: heldout.jsonl next to --out)."),
    ] = None,
) -> None:
    """Read prompts, drop duplicates and long ones, hold some out, and keep a sample.

    Example: expo prep-prompts train.parquet --layout pick-a-pic --sample 20480 --out prompts.jsonl
    """
    from expo_cli.stages.prep_prompts.run import prepare_prompts

    show(prepare_prompts(inputs, out, config, options, heldout_out), options)
