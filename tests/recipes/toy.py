"""Recipes run whole, as their user runs them, at toy size."""

import json
import os
import shlex
import subprocess
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
    """As `SETTING=... bash recipes/RECIPE.sh`, but that the settings are not exported.

    All recipes then have the environment of the tests' warm process, from which their commands fork.
    """
    lines = [f"{name}={shlex.quote(str(value))}" for name, value in settings.items()]
    script = "\n".join([*lines, 'source "$0" "$@"'])
    path = PROJECT / "recipes" / f"{recipe}.sh"
    return subprocess.run(
        ["bash", "-c", script, path, *arguments], env=os.environ, capture_output=True, text=True
    )


def results(evaluation: Path) -> dict:
    return json.loads((evaluation / "results.json").read_text())
