"""The load benchmark, at toy size: its synthetic inputs are what the commands read."""

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.measure import measured_apart

PROJECT = Path(__file__).parents[2]


def test_every_size_of_a_command_is_measured():
    command = [sys.executable, "-m", "tests.benchmarks.load", "pairs", "evaluate"]
    done = subprocess.run(
        [*command, "--scale", "0.002"], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows[2:]] == [
        ["make-pairs, two agents", "200 scores"],
        ["make-pairs, two agents", "667 scores"],
        ["make-pairs, two agents", "2,000 scores"],
        ["evaluate, two policies", "20 samples"],
        ["evaluate, two policies", "67 samples"],
        ["evaluate, two policies", "200 samples"],
    ]
    assert all(float(row[3]) > 0.1 and float(row[4]) > 10 for row in rows[2:])


def test_the_memory_that_is_measured_is_that_of_the_command():
    own = bytearray(200 << 20)  # what this process holds is not the command's
    small = measured_apart([sys.executable, "-c", ""])
    large = measured_apart([sys.executable, "-c", "bytearray(b'x') * (100 << 20)"])
    assert len(own) == 200 << 20
    assert small.peak_mib < 60
    assert 90 < large.peak_mib - small.peak_mib < 110
