"""A comparison of systems knows the settings of the figures that it has kept."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes.toy import PROJECT

KEPT = {"recipe": "dpo", "STEPS": "3", "SEED": "4"}


def compare(folder: Path, line: str, **settings: str) -> subprocess.CompletedProcess:
    """What `search.sh` and others do with a line of theirs, whose figures are kept."""
    (folder / "mine.json").write_text(json.dumps({"settings": KEPT}))
    return subprocess.run(
        ["bash", "-c", f"source recipes/jobs.sh; jobs_of <<<'{line}'"],
        cwd=PROJECT,
        env=os.environ
        | {"PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"}
        | {"RUNS": str(folder / "runs"), "RESULTS": str(folder)}
        | settings,
        capture_output=True,
        text=True,
    )


def test_a_run_whose_figures_are_kept_is_not_run_again(tmp_path):
    done = compare(tmp_path, "mine dpo SEED=4", STEPS="3")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("line", "settings", "difference"),
    [
        ("mine dpo SEED=4", {"STEPS": "5"}, "STEPS=3, not 5"),
        ("mine dpo SEED=4", {}, "STEPS=3, not its default"),
        ("mine dpo SEED=4", {"STEPS": "3", "BATCH": "2"}, "BATCH=its default, not 2"),
        ("mine kto SEED=4", {"STEPS": "3"}, "recipe=dpo, not kto"),
        ("mine dpo SEED=5", {"STEPS": "3", "SEED": "4"}, "SEED=4, not 5"),
    ],
)
def test_figures_of_other_settings_are_refused_in_one_line(line, settings, difference, tmp_path):
    done = compare(tmp_path, line, **settings)
    assert done.returncode != 0
    assert done.stderr == (
        f"{tmp_path}/mine.json: was made with {difference}; choose another RESULTS and RUNS, or "
        "move it away\n"
    )
