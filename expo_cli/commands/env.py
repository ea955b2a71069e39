import typer

from expo_cli.commands.flags import config_flags
from expo_cli.config import EnvConfig
from expo_cli.threads import num_workers


@config_flags
def command(config: EnvConfig) -> None:
    """Print versions, devices, threads and memory. Please add this to every bug report.

    Example: expo env
    """
    if config.cores:  # recipes ask for it: no torch
        typer.echo(num_workers())
        return

    from expo_cli.stages.env import read_environment

    typer.echo(read_environment().text(config))
