from typing import Annotated

import typer


def command(
    owner: Annotated[
        int | None,
        typer.Option(
            help="Process that the server ends with. [default: the shell that evaluates the output]",
            show_default=False,
        ),
    ] = None,
    idle_seconds: Annotated[
        float, typer.Option(min=0, help="End after this time without a command.")
    ] = 1800,
) -> None:
    """Start a process that imports everything once, from which `expo` commands then fork.

    Each saves the 4 to 9 CPU seconds of its imports, and is the same command otherwise. Prints the
    lines that make the process this shell's; it ends with the shell. Nothing is started, and commands
    run as ever, with a GPU in sight, under SLURM, accelerate or torchrun, and outside Linux.

    Example: eval "$(expo warm)"
    """
    from expo_cli.stages.warm import start_server

    if lines := start_server(owner, idle_seconds):
        typer.echo(lines)
