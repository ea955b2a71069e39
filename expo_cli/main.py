"""The `expo` program: six commands and their status, one line for every error."""

import os
import signal
import sys
from types import FrameType

import typer
from typer.exceptions import Abort, TyperException

from expo_cli import __version__
from expo_cli.commands import (
    evaluate,
    make_pairs,
    prep_prompts,
    rollout,
    score,
    status,
    train,
    warm,
)
from expo_cli.errors import ExpoError, Interrupted, one_line

INTERRUPTED = 130

app = typer.Typer(
    name="expo",
    help="Align text-to-image diffusion models by online preference learning with exploration.\n\n"
    "prompts -> rollout -> score -> make-pairs -> train -> (rollout + score) -> evaluate",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (prep_prompts, rollout, score, make_pairs, train, evaluate, status):
    app.command(name=command.__name__.rpartition(".")[2].replace("_", "-"))(command.command)
app.command(name="warm", hidden=True)(warm.command)


def show_version(value: bool) -> None:
    if value:
        typer.echo(f"expo {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=show_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def stop(number: int, frame: FrameType | None) -> None:
    """End at once. Stages that do long work put a handler in this one's place that waits for a safe
    point; imports and the loading of models take many seconds too, and are always safe to end.
    """
    name = signal.Signals(number).name
    sys.stderr.write(f"expo: stopped by {name}; run the same command to go on\n")
    sys.exit(Interrupted.exit_code)


def system_problem(error: Exception) -> str | None:
    """What the system refused, or None for an error that is our own."""
    text = str(error)
    if isinstance(error, RecursionError):
        return "something is nested too deeply to be read"
    if isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text:
        return f"not enough memory: {text or 'use smaller sizes or batches'}"
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror or text}"
    return None


def flush_stdout() -> None:
    """Write out what is buffered; after a failure nothing is left to fail at the program's end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise ExpoError(f"standard output: {error.strerror}") from error


def main() -> None:
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        sys.stderr.write("expo: standard output is closed; > /dev/null throws it away\n")
        sys.exit(1)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, stop)
    message = ""
    try:
        code = app(standalone_mode=False)
        flush_stdout()
    except ExpoError as error:
        message, code = str(error), error.exit_code
    except TyperException as error:
        message, code = error.format_message(), 2
    except (Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough
        code = 1
    except (OSError, MemoryError, RuntimeError) as error:
        message, code = system_problem(error), 1
        if message is None:
            raise
    if code == INTERRUPTED:  # what Typer returns when Ctrl-C ended a command
        message = "interrupted; run the same command again to go on"
    if message:
        sys.stderr.write(f"expo: {one_line(message)}\n")
    sys.exit(code)
