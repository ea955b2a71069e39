from pathlib import Path
from typing import Annotated

import typer

from expo_cli.commands.flags import config_flags
from expo_cli.commands.output import show
from expo_cli.config import HubConfig, RunOptions, TrainConfig


@config_flags
def command(
    pairs: Annotated[
        list[Path], typer.Argument(help="Pair files, offline and online, of all iterations.")
    ],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to create or continue.")],
    config: TrainConfig,
    hub: HubConfig,
    options: RunOptions,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Do not train; fill --reference-cache with the reference's outputs for the parts i "
            "modulo n.",
            metavar="i/n",
        ),
    ] = None,
) -> None:
    """Train the policy to prefer the winners of PAIRS.

    Example: expo train it1/pairs.jsonl --init-from embedded:emoji-sd --out it1/checkpoint
    """
    from expo_cli.stages.train.plan import train_policy

    show(train_policy(pairs, out, config, options, hub, shard), options)
