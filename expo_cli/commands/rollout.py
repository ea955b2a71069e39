from pathlib import Path
from typing import Annotated

import typer

from expo_cli.commands.flags import config_flags
from expo_cli.commands.output import show
from expo_cli.config import RolloutConfig, RunOptions


@config_flags
def command(
    prompts: Annotated[Path, typer.Argument(help="prompts.jsonl, or - for stdin.")],
    out: Annotated[Path, typer.Option(help="Output folder to create or continue.")],
    config: RolloutConfig,
    options: RunOptions,
    shard: Annotated[
        str, typer.Option(help="Process only the parts i modulo n.", metavar="i/n")
    ] = "0/1",
) -> None:
    """Draw images of PROMPTS with a policy and save their latents.

    Example: expo rollout prompts.jsonl --policy embedded:emoji-sd --out it1/main --images png
    """
    from expo_cli.stages.rollout.plan import roll_out

    show(roll_out(prompts, out, config, options, shard), options)
