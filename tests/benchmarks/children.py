"""A way that runs in a process of its own, so that its memory can be told."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def peak_mib() -> float:
    """The most memory that this process has held so far; only Linux says."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def show_work(work: Callable[[], object]) -> None:
    """Do the work and print its seconds and the process's peak memory, for `Child` to read."""
    started = time.perf_counter()
    work()
    print(time.perf_counter() - started, peak_mib())


class Child:
    """`python -m MODULE ARGUMENTS`, which ends in `show_work`, as a way to time.

    Imports are not counted; `tests.benchmarks.start_up` measures them. `peak_mib` is that of the
    last run.
    """

    def __init__(self, module: str, *arguments: object) -> None:
        self.command = [sys.executable, "-m", module, *map(str, arguments)]
        self.peak_mib = 0.0

    def __call__(self) -> float:
        done = subprocess.run(
            self.command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True
        )
        seconds, self.peak_mib = map(float, done.stdout.split()[-2:])
        return seconds
