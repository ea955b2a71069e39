"""What a command prints to stdout: the path it made, or its result as JSON."""

import json
import os
from dataclasses import asdict
from typing import Protocol

import typer

from expo_cli.config import RunOptions
from expo_cli.contracts.files import to_standard_output


class Result(Protocol):
    """What a stage returns: a dataclass with `path`, the file or folder it made."""

    path: object


def show(result: Result, options: RunOptions) -> None:
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes that train together, only the first one speaks
    with to_standard_output():
        if options.json or options.dry_run:
            typer.echo(json.dumps(asdict(result), default=str))
        elif str(result.path) != "-":
            typer.echo(os.fsencode(str(result.path)))  # its name need not be text
