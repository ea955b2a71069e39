"""Recipes run whole, as their user runs them, at toy size."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]

# One worker at a time: most of such a run is the start of programs.
TOY = {
    "OFFLINE_PROMPTS": 6,
    "OFFLINE_PAIRS": 4,
    "NUM_PROMPTS": 3,
    "HELDOUT_PROMPTS": 2,
    "JUDGE_PROMPTS": 2,
    "IMAGES": 1,
    "STEPS": 2,
    "BATCH": 2,
    "GRADIENT_ACCUMULATION": 1,
    "CURVE": "none",
    "CORES": 1,
}


def run(recipe: str, *arguments: object, **settings: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", PROJECT / "recipes" / f"{recipe}.sh", *arguments],
        env=os.environ | {"VIRTUAL_ENV": sys.prefix} | {k: str(v) for k, v in settings.items()},
        capture_output=True,
        text=True,
    )


def results(evaluation: Path) -> dict:
    return json.loads((evaluation / "results.json").read_text())
