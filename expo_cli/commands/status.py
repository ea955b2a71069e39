from pathlib import Path
from typing import Annotated

import typer

from expo_cli.commands.flags import config_flags
from expo_cli.config import StatusConfig


@config_flags
def command(
    outputs: Annotated[
        list[Path], typer.Argument(help="Files or folders made by the other commands.")
    ],
    config: StatusConfig,
) -> None:
    """Show what OUTPUTS are, what is missing and which commands complete them.

    Exit code 0: all are complete; 75: something is missing; 1: one was not made by expo.

    Example: expo status it1/main it1/pairs.jsonl it1/checkpoint
    """
    from expo_cli.stages.status import read_status

    status = read_status(outputs)
    typer.echo(status.text(config))
    raise typer.Exit(status.exit_code)
