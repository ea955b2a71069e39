"""The recipes, run whole at toy size on random weights in the layouts of the real models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


def run(recipe: str, **settings: object) -> subprocess.CompletedProcess:
    done = subprocess.run(
        ["bash", PROJECT / "recipes" / recipe],
        env=os.environ | {"VIRTUAL_ENV": sys.prefix} | {k: str(v) for k, v in settings.items()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


def results(out: Path) -> dict:
    return json.loads((out / "evaluation" / "results.json").read_text())


@pytest.mark.parametrize("layout", ["tiny_sd", "tiny_sd_v"])
def test_expo_ii_runs_on_the_layout_of_stable_diffusion(
    layout, tiny_clip, tiny_open_clip, tmp_path, request
):
    (tmp_path / "prompts.txt").write_text("".join(f"prompt number {n}\n" for n in range(60)))
    (tmp_path / "negative.txt").write_text("blurry\nugly, noisy\n")
    out = tmp_path / "out"
    settings = {
        "OUT": out,
        "BASE": request.getfixturevalue(layout),
        "PROMPTS": tmp_path / "prompts.txt",
        "NEGATIVE": tmp_path / "negative.txt",
        "TRAINING_REWARD": f"pickscore:model={tiny_clip}",
        "HELDOUT_REWARD": f"hpsv2:model={tiny_open_clip}",
        "ITERATIONS": 2,
        "NUM_PROMPTS": 3,
        "HELDOUT_PROMPTS": 2,
        "IMAGES": 2,
        "STEPS": 2,
        "BATCH": 2,
        "GRADIENT_ACCUMULATION": 1,
        "INFERENCE_STEPS": 2,
    }
    run("expo_ii.sh", **settings)
    found = results(out)
    assert [policy["label"] for policy in found["policies"]] == ["base", "iteration-2"]
    assert found["policies"][1]["kl"]["nats"]["value"] > 0
    assert (out / "evaluation" / "report.html").stat().st_size > 10_000


def test_the_quickstart_ends_with_the_same_numbers_after_an_interruption(tmp_path):
    settings = {"ITERATIONS": 1, "PROMPTS": 4, "HELDOUT_PROMPTS": 4, "STEPS": 2}
    out = tmp_path / "out"
    run("quickstart.sh", OUT=out, **settings)
    first = results(out)
    # As after a kill: an unfinished part, a checkpoint without its index, no evaluation.
    (out / "iteration-1" / "heldout" / "part-00000.jsonl").unlink()
    (out / "iteration-1" / "checkpoint" / "model_index.json").unlink()
    for path in (out / "iteration-1" / "heldout" / "scores").glob("part-*"):
        path.unlink()
    run("quickstart.sh", OUT=out, **settings)
    assert results(out) == first
