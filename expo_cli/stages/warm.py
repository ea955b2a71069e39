"""`expo warm`: starts a server of `expo_cli.warm`, and prints the code that connects a shell to it."""

import os
import shlex
import socket
import tempfile
from pathlib import Path

from expo_cli.warm import server
from expo_cli.warm.caller import SOCKET, may_fork


def start_server(owner: int | None, idle_seconds: float) -> str:
    """Start a server and return the code for the shell; empty where commands have to run cold, or
    fork already, as this one did.

    The server exits with the process `owner`, by default the shell, which writes its own PID.
    """
    if not may_fork() or server.is_worker:
        return ""
    folder = Path(tempfile.mkdtemp(prefix="expo-warm-"))  # of mode 700
    place, written = folder / "socket", folder / "owner"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen(128)
        listener.setblocking(False)
        if owner is not None:
            written.write_text(f"{owner}\n")
        server.start(listener, folder, idle_seconds, os.environ)
    lines = [f"export {SOCKET}={shlex.quote(str(place))}"]
    if owner is None:
        lines.append(f"echo $$ >{shlex.quote(str(written))}")
    return "\n".join(lines)
