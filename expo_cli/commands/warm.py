from typing import Annotated

import typer


def command(
    owner: Annotated[
        int | None,
        typer.Option(
            help="PID of the process with which the server exits (default: the shell that evaluates the output).",
            show_default=False,
        ),
    ] = None,
    idle_seconds: Annotated[
        float, typer.Option(min=0, help="Exit after this time without a command.")
    ] = 1800,
) -> None:
    """Start a server that imports everything once, and from which `expo` commands then fork.

    Each command saves the 4 to 9 CPU seconds of its imports and is otherwise the same. The output is
    shell code that connects the shell to the server, which exits with the shell. With a GPU, under
    SLURM, accelerate or torchrun, and outside Linux no server is started and commands run as usual.

    Example: eval "$(expo warm)"
    """
    from expo_cli.stages.warm import start_server

    if lines := start_server(owner, idle_seconds):
        typer.echo(lines)
