"""Blocks of the pages that are run word for word, but for the lines that are the reader's to set."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import EXPO
from tests.pages import PROJECT, blocks
from tests.preferences import write_pick_a_pic

README = PROJECT / "README.md"
PREFERENCES = PROJECT / "recipes" / "preferences" / "README.md"
# Small models in the same layouts, and five rows of Pick-a-Pic's columns.
STAND_INS = {
    "base": "sd",
    "judge": "pickscore:model=clip",
    "pickapic": "pickapic",
    "loras": "loras",
    "prompts": "prompts.txt",
    "steps": "2",
    "heldout": "2",
}
SHELL = f'set -euo pipefail\nexpo() {{ {EXPO} "$@"; }}\n'
SETTINGS = re.compile(r"(?:\w+=.*\n)+")
SETTING = re.compile(r"(?:^| )(\w+)=", re.MULTILINE)


def runnable(page: Path, title: str) -> str:
    """The section's first block, its settings replaced by ours of the same names."""
    section = page.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    block = blocks(section, "bash")[0]
    settings = SETTINGS.match(block)
    ours = [f"{name}={STAND_INS[name]}" for name in SETTING.findall(settings[0])]
    return "\n".join([*ours, block[settings.end() :]])


@pytest.fixture
def run(tiny_sd, tiny_clip, tmp_path, monkeypatch):
    """Run a block in a folder where the stand-ins are; returns the folder."""
    shutil.copytree(tiny_sd, tmp_path / "sd")
    shutil.copytree(tiny_clip, tmp_path / "clip")
    for split in ("train", "test_unique"):
        write_pick_a_pic(tmp_path / "pickapic" / f"{split}-00000-of-00001.parquet")
    (tmp_path / "loras").mkdir()
    monkeypatch.chdir(tmp_path)

    def shell(block: str) -> Path:
        subprocess.run(["bash", "-c", f"{SHELL}{block}"], check=True)
        return tmp_path

    return shell


def policies(evaluation: Path) -> list[str]:
    results = json.loads((evaluation / "results.json").read_text())
    return [policy["label"] for policy in results["policies"]]


def test_from_pick_a_pic_to_comfyui(run):
    folder = run(runnable(PREFERENCES, "From Pick-a-Pic to a LoRA in ComfyUI"))
    assert policies(folder / "run" / "evaluation") == ["base", "lora"]
    lora = folder / "loras" / "pickapic-dpo.safetensors"
    assert lora.read_bytes() == (folder / "run/lora/kohya_lora.safetensors").read_bytes()


def test_the_short_way_to_comfyui(run):
    folder = run(runnable(README, "Preference data, and a LoRA in ComfyUI"))
    lora = folder / "loras" / "pickapic-dpo.safetensors"
    assert lora.read_bytes() == (folder / "run/lora/kohya_lora.safetensors").read_bytes()


def test_your_own_model(run, tmp_path):
    """Of these prompts the fox, by its hash, is held out."""
    (tmp_path / "prompts.txt").write_text("a cat\na fox\n")
    folder = run(runnable(README, "Your own model"))
    assert policies(folder / "run" / "evaluation") == ["base", "policy"]
    assert (folder / "run/checkpoint/pytorch_lora_weights.safetensors").exists()
