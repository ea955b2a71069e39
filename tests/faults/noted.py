"""`expo` with a log of what it does to the disk: `python tests/faults/noted.py LOG NUMBER CHANGE ...`

LOG begins with the id of the process that works, warm or cold. Before the CHANGE-th change below the
working directory, the process gets the signal NUMBER. The remaining arguments are those of `expo`.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from expo_cli.warm.client import hand_over

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link")


def main() -> None:
    log, number, moment, *arguments = sys.argv[1:]
    changes = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(changes, f"{os.getpid()}\n".encode())
    from expo_cli.main import main

    write = note_changes(Path.cwd(), changes, int(number), int(moment))
    sys.argv = ["expo", *arguments]
    try:
        main()
    finally:
        write("end")


def note_changes(folder: Path, log: int, number: int, moment: int) -> Callable[[str], None]:
    """Write each change below `folder` to `log` before it is made; signal this process at one."""
    started, root, count = time.monotonic(), f"{folder}{os.sep}", 0

    def write(what: str) -> None:
        os.write(log, f"{time.monotonic() - started:.4f} {what}\n".encode())

    def hook(event: str, details: tuple) -> None:
        nonlocal count
        if event == "open":
            path, inside = details[0], details[2] & WRITES
        elif event in CHANGES:
            # A folder is removed through descriptors, by names relative to them.
            path, inside = details[0], True
            if details[-1] != -1 and event in ("os.remove", "os.rmdir"):
                path = root + os.fsdecode(path)
        else:
            return
        if not inside or isinstance(path, int):
            return
        name = os.path.abspath(os.fsdecode(path))
        if name.startswith(root):
            count += 1
            write(f"{event} {name.removeprefix(root)}")
            if count == moment:
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)
    return write


if __name__ == "__main__":
    hand_over("noted:main")
    main()
