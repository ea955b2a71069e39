"""`expo` commands in forks of a process that has imported everything, told to stop at a change.

Each command has its own streams and a bound on its memory, and is ended when it is silent.
"""

import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from expo_cli.warm import server
from tests.faults.noted import note_changes

ALSO_IMPORTED = (
    "pydantic",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    *(f"diffusers.schedulers.scheduling_{name}" for name in ("ddpm", "ddim", "pndm")),
)
MEMORY = 6 << 30
SILENT = -1000


def preload() -> None:
    """Import what commands import."""
    for name in ALSO_IMPORTED:
        importlib.import_module(name)
    server.preload()


@dataclass(frozen=True)
class Ended:
    """`code` is negative where a signal ended it, SILENT where the harness did; `changes` are what
    it was about to do to the disk, in order."""

    code: int
    output: str
    errors: str
    changes: Sequence[str]


class Started:
    """`expo ARGUMENTS` at work in a folder below `root`."""

    def __init__(
        self,
        arguments: Sequence[str],
        root: Path,
        log: Path,
        folder: str = ".",
        signal_at: tuple[int, int] = (0, 0),
    ) -> None:
        """`signal_at` is a signal and the change below `root` right before which it comes."""
        self.log = log
        log.mkdir(parents=True, exist_ok=True)
        for name in ("stdout", "stderr", "changes"):
            (log / name).write_bytes(b"")
        self.pid = os.fork()
        if self.pid == 0:
            run(arguments, root, log, folder, signal_at)

    def size(self) -> int:
        return sum((self.log / name).stat().st_size for name in ("stdout", "stderr", "changes"))

    def wait(self, patience: float, stopped: bool = False, limit: float = 1e9) -> Ended | None:
        """Until it ends, or, where `stopped`, is stopped by a signal, which gives None.

        After `limit` seconds it is asked to end, and has as many again.
        """
        last, seen, nap = time.monotonic(), 0, 0.001
        end = last + limit
        options = os.WNOHANG | (os.WUNTRACED if stopped else 0)
        while True:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                return None if os.WIFSTOPPED(status) else self.ended(status)
            now = time.monotonic()
            if self.size() != seen:
                last, seen = now, self.size()
            if now > end:
                os.kill(self.pid, signal.SIGTERM)
                last, end, patience = now, 1e12, limit
            if now - last > patience:
                os.kill(self.pid, signal.SIGKILL)
                _, status = os.waitpid(self.pid, 0)
                return self.ended(SILENT)
            time.sleep(nap)
            nap = min(0.02, nap * 1.5)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def ended(self, status: int) -> Ended:
        code = status if status == SILENT else os.waitstatus_to_exitcode(status)
        output, errors, changes = (
            (self.log / name).read_text(errors="replace")
            for name in ("stdout", "stderr", "changes")
        )
        return Ended(code, output, errors, [line.split(" ", 1)[1] for line in changes.splitlines()])


def run(
    arguments: Sequence[str], root: Path, log: Path, folder: str, signal_at: tuple[int, int]
) -> None:
    """What the child does, as the console script does it; never returns."""
    code = 1
    try:
        os.chdir(root / folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(log / name, os.O_WRONLY | os.O_APPEND), descriptor)
        changes = os.open(log / "changes", os.O_WRONLY | os.O_APPEND)
        bound = address_space() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
        note_changes(root, changes, *signal_at)
        sys.argv = ["expo", *arguments]
        from expo_cli.main import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 0xFF)


def address_space() -> int:
    """Bytes that this process has mapped already."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
