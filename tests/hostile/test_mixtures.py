"""A sample of the generated mixtures, of commands that draw nothing; `python -m
tests.hostile.mixtures` runs as many as one likes."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_mixture_is_mishandled():
    sample = ["--fast", "--count", "60", "--patience", "20"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.mixtures", *sample],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    *faults, figures = done.stdout.splitlines() or [done.stderr]
    assert not faults, "\n".join([f"{len(faults)} mishandled:", *faults, figures])
    assert done.returncode == 0, done.stderr
    assert '"attacks": 60' in figures
