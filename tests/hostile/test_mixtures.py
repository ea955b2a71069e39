"""A sample of the generated mixtures; `python -m tests.hostile.mixtures` runs as many as one likes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("count", "sample"),
    [
        (60, ["--fast", "--patience", "120"]),  # of commands that draw nothing
        pytest.param(500, ["--patience", "120"], marks=pytest.mark.nightly),
    ],
    ids=["fast", "all"],
)
def test_no_mixture_is_mishandled(count, sample):
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.mixtures", "--count", str(count), *sample],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    *faults, figures = done.stdout.splitlines() or [done.stderr]
    assert not faults, "\n".join([f"{len(faults)} mishandled:", *faults, figures])
    assert done.returncode == 0, done.stderr
    assert f'"attacks": {count}' in figures
