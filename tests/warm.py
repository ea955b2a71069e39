"""Servers from which the commands of tests fork; see `expo_cli.warm`."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from expo_cli.warm.caller import SOCKET


@contextmanager
def cold() -> Iterator[None]:
    """Commands import what they need, each anew."""
    before = os.environ.pop(SOCKET, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[SOCKET] = before


@contextmanager
def warm(*arguments: str) -> Iterator[str]:
    """Commands with the environment of now fork from a server of this process, whose socket is given.

    Where none may (with a GPU, say) they are cold, and the socket is "".
    """
    with cold():
        command = [
            sys.executable,
            "-m",
            "expo_cli",
            "warm",
            "--owner",
            str(os.getpid()),
            *arguments,
        ]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        place = shlex.split(printed)[-1].partition("=")[2] if printed else ""
        try:
            if place:
                os.environ[SOCKET] = place
            yield place
        finally:
            os.environ.pop(SOCKET, None)
