"""The `expo` program: six commands, `status` and `env`, and one line for every error."""

import os
import signal
import sys
from types import FrameType

import typer
from typer.exceptions import Abort, TyperException

from expo_cli import __version__
from expo_cli.commands import (
    env,
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
for command in (prep_prompts, rollout, score, make_pairs, train, evaluate, status, env):
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
    """Exit at once: imports and the loading of models may take long and are safe to interrupt.

    Stages replace this handler by one that waits for a safe point while they work.
    """
    name = signal.Signals(number).name
    sys.stderr.write(f"expo: stopped by {name}; run the same command to continue\n")
    sys.exit(Interrupted.exit_code)


def system_problem(error: Exception) -> str | None:
    """What the operating system refused, or None if the error is our own."""
    text = str(error)
    if isinstance(error, RecursionError):
        return "the input is nested too deeply"
    if isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text:
        return f"not enough memory: {text or 'use smaller sizes or batches'}"
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror or text}"
    return None


def flush_stdout() -> None:
    """Write out what is buffered. After a failure stdout is discarded, or Python would fail at exit."""
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
        sys.stderr.write("expo: standard output is closed; use > /dev/null to discard it\n")
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
    except BrokenPipeError:  # the reader has closed the pipe
        code = 1
    except (OSError, MemoryError, RuntimeError) as error:
        message, code = system_problem(error), 1
        if message is None:
            raise
    if code == INTERRUPTED:  # what Typer returns when Ctrl-C ended a command
        message = "interrupted; run the same command again to continue"
    if message:
        sys.stderr.write(f"expo: {one_line(message)}\n")
    sys.exit(code)
