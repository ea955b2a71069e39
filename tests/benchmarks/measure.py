"""What a command takes: its time and its peak memory.

    python tests/benchmarks/measure.py expo status run/main

Only the standard library is imported: Linux counts towards a process's peak memory what its parent
held when it started it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Measured:
    """One process: seconds from start to end and on the CPU, and its peak memory in MiB."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    exit_code: int


def measure(command: Sequence[str]) -> Measured:
    """Run a command, which shares standard input and error; its standard output is dropped.

    It starts cold: what a warm process forks is none of its children.
    """
    cold = {name: value for name, value in os.environ.items() if name != "EXPO_WARM"}
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=cold)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Measured(
        seconds=time.monotonic() - started,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_mib=usage.ru_maxrss / 1024,
        exit_code=process.returncode,
    )


def measured_apart(command: Sequence[object], **settings) -> Measured:
    """`measure` in a small process of its own; `settings` are those of subprocess.run.

    Raises RuntimeError with the command's output when it fails. Exit code 75, by which `expo status`
    reports missing work, is not a failure.
    """
    words = [sys.executable, __file__, *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, **settings)
    measured = Measured(**json.loads(done.stdout))
    if measured.exit_code not in (0, 75):
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr}")
    return measured


if __name__ == "__main__":
    print(json.dumps(asdict(measure(sys.argv[1:]))))  # noqa: T201
