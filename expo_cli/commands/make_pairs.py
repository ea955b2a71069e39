from pathlib import Path
from typing import Annotated

import typer

from expo_cli.commands.flags import config_flags
from expo_cli.commands.output import show
from expo_cli.config import MakePairsConfig, RunOptions


@config_flags
def command(
    rollouts: Annotated[
        list[Path], typer.Argument(help="Scored rollout folders of one iteration.")
    ],
    out: Annotated[
        Path,
        typer.Option(help="pairs.jsonl to write, in a folder above the rollouts; - for stdout."),
    ],
    config: MakePairsConfig,
    options: RunOptions,
) -> None:
    """Pair the samples of each prompt by their scores, over all ROLLOUTS together.

    Example: expo make-pairs it1/main it1/explore --reward pickscore --out it1/pairs.jsonl
    """
    from expo_cli.stages.make_pairs import make_pairs

    show(make_pairs(rollouts, out, config, options), options)
