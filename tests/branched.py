"""Small rollouts whose steps were drawn several times, judged by a reward that needs no weights."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expo_cli.config import RolloutConfig, RunOptions
from expo_cli.rewards.protocol import Batch, Judgement, StepReward
from expo_cli.stages.rollout.plan import roll_out

PROMPTS = ("a red cat", "two blue dogs", "an owl")
# Steps 1, 2 and 3 of four are branched: 3 x 2 images make 18 steps, in parts of 12 and 6.
SETTINGS = {
    "scheduler": "ddim",
    "eta": 1.0,
    "num_inference_steps": 4,
    "guidance_scale": 5.0,
    "num_images_per_prompt": 2,
    "part_size": 2,
    "num_step_candidates": 3,
    "step_reward": f"{__name__}.Redness:strength=200",
    "skip_steps": 1,
    "dtype": "fp32",
}


@dataclass
class Redness(StepReward):
    """How much redder than blue an image is, and more so the less of its noise is gone."""

    strength: float = 1.0

    def identity(self) -> dict[str, Any]:
        return {"strength": self.strength}

    def load(self, device, dtype) -> None:
        pass

    def judge(self, batch: Batch) -> Judgement:
        return self.judge_at(batch, [0] * len(batch.images))

    def judge_at(self, batch: Batch, timesteps: Sequence[int]) -> Judgement:
        pixels = [np.asarray(image, dtype=np.float64) / 255 for image in batch.images]
        redness = [float((image[..., 0] - image[..., 2]).mean()) for image in pixels]
        raw = [r * (1 + t / 1000) for r, t in zip(redness, timesteps, strict=True)]
        return Judgement(raw, self.strength)


def roll_out_branched(folder: Path, policy: Path, shard: str = "0/1", **settings) -> Path:
    prompts = folder.parent / "prompts.jsonl"
    folder.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"prompt_id": f"p{n}", "prompt": text} for n, text in enumerate(PROMPTS)]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = RolloutConfig(policy=str(policy), **SETTINGS | settings)
    roll_out(prompts, folder, config, RunOptions(quiet=True), shard)
    return folder
