"""The README's page from Pick-a-Pic to ComfyUI, its commands as they stand there."""

import json
import re
import shutil
import subprocess
from pathlib import Path

from tests.preferences import write_pick_a_pic

README = Path(__file__).parents[1] / "README.md"
# Small models in the same layouts, and five rows of Pick-a-Pic's columns.
STAND_INS = "base=sd judge=pickscore:model=clip pickapic=pickapic loras=loras steps=2 heldout=2"


def blocks(title: str) -> tuple[str, str]:
    """The page's two blocks: what the reader sets, and what everyone runs."""
    page = README.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    yours, everyones = re.findall(r"^```bash\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return yours, everyones


def test_from_pick_a_pic_to_comfyui(tiny_sd, tiny_clip, tmp_path, monkeypatch):
    yours, everyones = blocks("From Pick-a-Pic to a LoRA in ComfyUI")
    names = [set(re.findall(r"(?:^| )(\w+)=", text, re.MULTILINE)) for text in (yours, STAND_INS)]
    assert names[0] == names[1]
    shutil.copytree(tiny_sd, tmp_path / "sd")
    shutil.copytree(tiny_clip, tmp_path / "clip")
    for split in ("train", "test_unique"):
        write_pick_a_pic(tmp_path / "pickapic" / f"{split}-00000-of-00001.parquet")
    (tmp_path / "loras").mkdir()
    monkeypatch.chdir(tmp_path)
    subprocess.run(["bash", "-c", f"set -euo pipefail\n{STAND_INS}\n{everyones}"], check=True)
    results = json.loads((tmp_path / "run/evaluation/results.json").read_text())
    assert [policy["label"] for policy in results["policies"]] == ["base", "lora"]
    lora = tmp_path / "loras" / "pickapic-dpo.safetensors"
    assert lora.read_bytes() == (tmp_path / "run/lora/kohya_lora.safetensors").read_bytes()
