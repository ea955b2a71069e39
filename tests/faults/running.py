"""`expo` commands at work in a folder, which can be killed; warm ones where a server was started."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NOTED = Path(__file__).with_name("noted.py")


@dataclass(frozen=True)
class Change:
    """Something a command was about to do to the disk, `seconds` after it began."""

    seconds: float
    what: str


@dataclass(frozen=True)
class Finished:
    """`code` is negative where a signal ended the process; `changes` are those before the end."""

    code: int
    errors: str
    seconds: float
    changes: Sequence[Change]

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Running:
    """A command at work in `folder`; its changes there are counted from 1."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, log: Path, signal_at: tuple[int, int] = (0, 0)
    ) -> None:
        """`signal_at` is a signal and the change right before which the command gets it."""
        self.log = log
        log.mkdir(parents=True, exist_ok=True)
        (log / "changes").write_bytes(b"")
        command = [sys.executable, NOTED, log / "changes", *map(str, signal_at), *arguments]
        with (log / "stdout").open("wb") as output, (log / "stderr").open("wb") as errors:
            self.process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=errors)

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)

    def ends_within(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def worker(self) -> int:
        """The id of the process that works: another than `process` where that is warm."""
        return int((self.log / "changes").read_text().partition("\n")[0])

    def changes(self) -> list[Change]:
        """What it was about to do so far; the last is "end" where it came to its end."""
        _, *lines = (self.log / "changes").read_text().splitlines() or [""]
        noted = (line.split(" ", 1) for line in lines)
        return [Change(float(seconds), what) for seconds, what in noted]

    def finished(self, timeout: float = 300) -> Finished:
        assert self.ends_within(timeout), f"still running after {timeout} s"
        changes, errors = self.changes(), (self.log / "stderr").read_text()
        seconds = changes.pop().seconds if changes and changes[-1].what == "end" else 0.0
        return Finished(self.process.returncode, errors, seconds, changes)
