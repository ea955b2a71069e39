"""The `expo` program: six commands and their status, one line for every error."""

import sys

import typer
from typer.exceptions import Abort, TyperException

from expo_cli import __version__
from expo_cli.commands import evaluate, make_pairs, prep_prompts, rollout, score, status, train
from expo_cli.errors import ExpoError

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


def one_line(message: str) -> str:
    """The message on one line; control characters in it (a prompt's escapes) shown, not obeyed."""
    text = " ".join(message.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def main() -> None:
    message = ""
    try:
        code = app(standalone_mode=False)
    except ExpoError as error:
        message, code = str(error), error.exit_code
    except TyperException as error:
        message, code = error.format_message(), 2
    except (Abort, KeyboardInterrupt):
        code = INTERRUPTED
    if code == INTERRUPTED:  # what Typer returns when Ctrl-C ended a command
        message = "interrupted; run the same command again to go on"
    if message:
        sys.stderr.write(f"expo: {one_line(message)}\n")
    sys.exit(code)
