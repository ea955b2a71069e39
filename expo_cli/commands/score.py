from pathlib import Path
from typing import Annotated

import typer

from expo_cli.commands.flags import config_flags
from expo_cli.commands.output import show
from expo_cli.config import RunOptions, ScoreConfig


@config_flags
def command(
    folder: Annotated[Path, typer.Argument(help="Rollout folder (with --index: image folder).")],
    config: ScoreConfig,
    options: RunOptions,
    out: Annotated[Path | None, typer.Option(help="Score folder (default: FOLDER/scores).")] = None,
    shard: Annotated[
        str, typer.Option(help="Process only the parts i modulo n.", metavar="i/n")
    ] = "0/1",
) -> None:
    """Score the samples of FOLDER with one or more rewards; existing scores are kept.

    Example: expo score it1/main --reward pickscore:model=embedded:emoji-pickscore
    """
    from expo_cli.stages.score.plan import score_folder

    show(score_folder(folder, out or folder / "scores", config, options, shard), options)
