"""The benchmarks against peers, at toy size: both ways still run, and what comes out is compared."""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


TRAIN = "--rounds 1 --steps 1 --batch 2 --pairs 4 --no-memory"
ROLLOUT = "--rounds 1 --prompts 2 --steps 1 --images-per-prompt 1"
ATTENTION = "--rounds 1 --sizes 2"
BUSY = "--rounds 1 --settings expo --work score --beside alone 1-loop"


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        pytest.param("train", TRAIN, "gradients", marks=pytest.mark.nightly),
        pytest.param("rollout", ROLLOUT, "images differ by", marks=pytest.mark.nightly),
        ("score", "--rounds 1 --images 2 --size 64", "where the time goes"),
        pytest.param("attention", ATTENTION, "fused / plain", marks=pytest.mark.nightly),
        pytest.param("busy", BUSY, "1.95", marks=pytest.mark.nightly),
        ("start_up", "--rounds 1 --commands prep-prompts", "imports"),
    ],
)
def test_a_benchmark_runs(name, arguments, says):
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments.split()]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
