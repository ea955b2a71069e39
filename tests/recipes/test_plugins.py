"""The worked examples of recipes/plugins, by the commands in their own words."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from expo_cli.contracts import jsonl
from expo_cli.contracts.records import Score

PROJECT = Path(__file__).parents[2]
PLUGINS = PROJECT / "recipes" / "plugins"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A sharp dark image, and a blurred bright one, with their index."""
    sharp = Image.radial_gradient("L").point(lambda level: 90 * (level // 16 % 2)).convert("RGB")
    bright = sharp.point(lambda level: 255 - level).filter(ImageFilter.GaussianBlur(8))
    for name, image in (("sharp", sharp), ("bright", bright)):
        image.save(tmp_path / f"{name}.png")
    lines = [{"image": f"{name}.png", "prompt": name} for name in ("sharp", "bright")]
    (tmp_path / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.mark.parametrize(
    ("plugin", "label", "best"), [("sharpness", "sharp", 0), ("judge", "bright", 1)]
)
def test_an_example_scores_as_it_says(plugin, label, best, folder, expo):
    source = (PLUGINS / f"{plugin}.py").read_text()
    assert f"--reward {label}=" in (PLUGINS / "README.md").read_text()
    [line] = re.findall(r"^    (.*expo score .*)$", source, re.MULTILINE)
    variables, command = line.split("expo score run/main ")
    environment = dict(word.split("=") for word in shlex.split(variables))
    # The program is run by this environment's Python, as its first line asks for.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = expo(
        "score",
        folder,
        *shlex.split(command),
        "--index",
        folder / "index.jsonl",
        "--out",
        folder / "scores",
        cwd=PROJECT,
        env=os.environ | environment | {"PATH": path},
    )
    assert done.returncode == 0, done.stderr
    scores = list(jsonl.read(folder / "scores" / f"part-00000.{label}.jsonl", Score))
    assert len(scores) == 2
    assert scores[best].score > 2 * scores[1 - best].score


def test_a_rollout_of_one_s_own_goes_through_every_command(tiny_sd, tiny_clip, expo, tmp_path):
    """Drawn by diffusers; its latents are tied to scores and pairs as those of `expo rollout` are."""
    prompts = [{"prompt_id": f"p{n}", "prompt": text} for n, text in enumerate(("a cat", "a dog"))]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    script = [sys.executable, PLUGINS / "own_rollout.py", "prompts.jsonl", tiny_sd, "run/mine"]
    subprocess.run(script, cwd=tmp_path, check=True, capture_output=True)
    lora = ("--use-lora", "--max-train-steps", "1", "--train-batch-size", "1")
    for command in (
        ("score", "run/mine", "--reward", f"pickscore:model={tiny_clip}"),
        ("make-pairs", "run/mine", "--out", "run/pairs.jsonl"),
        ("train", "run/pairs.jsonl", "--init-from", tiny_sd, "--out", "run/lora", *lora),
        ("evaluate", "mine=run/mine", "--out", "run/evaluation"),
        ("status", "run/mine", "run/pairs.jsonl", "run/lora", "run/evaluation"),
    ):
        done = expo(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "not checked" not in done.stderr
    # Drawn anew from another prompt under the old name, it no longer fits its scores.
    (tmp_path / "prompts.jsonl").write_text(json.dumps(prompts[0] | {"prompt": "an owl"}) + "\n")
    subprocess.run(script, cwd=tmp_path, check=True, capture_output=True)
    done = expo("make-pairs", "run/mine", "--out", "run/again.jsonl", cwd=tmp_path)
    assert done.returncode == 1
    assert "it was drawn again" in done.stderr
