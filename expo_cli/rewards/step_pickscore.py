"""The step-aware PickScore of SPO, which also judges images predicted during sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expo_cli.contracts.identity import file_sha256
from expo_cli.contracts.sources import HUB_FILES, model_folder
from expo_cli.errors import ContractError
from expo_cli.rewards.clip_files import CLIPFiles, clip_files
from expo_cli.rewards.pickscore import PROCESSOR
from expo_cli.rewards.protocol import Batch, Judgement, StepReward

if TYPE_CHECKING:
    import torch

TIME_CONDITIONING = "time_conditioning.safetensors"


@dataclass
class StepPickScore(StepReward):
    """exp(logit_scale) * cosine of an image at a timestep (SPO, https://arxiv.org/abs/2406.04314).

    `model` is that of a PickScore, with a `time_conditioning.safetensors` in its folder;
    recipes/spo/train_step_reward.py makes one. The published SPO checkpoints are pickles with
    parameters under other names, and are not read.
    """

    model: str
    processor: str | None = None

    def conditioning(self) -> Path:
        """Raises ContractError when the model has none, like a plain PickScore."""
        path = model_folder(self.model, files=(*HUB_FILES, TIME_CONDITIONING)) / TIME_CONDITIONING
        if not path.is_file():
            raise ContractError(
                f"{path.parent}: has no {path.name}, so it is not step-aware; "
                "recipes/spo/train_step_reward.py makes one of a PickScore"
            )
        return path

    def files(self) -> CLIPFiles:
        return clip_files(str(self.conditioning().parent), self.processor, PROCESSOR)

    def identity(self) -> dict[str, Any]:
        return self.files().identity() | {
            "time_conditioning": file_sha256(self.conditioning()),
            "scale": "exp(logit_scale)",
        }

    def load(self, device: torch.device, dtype: torch.dtype) -> None:
        # Imported here: transformers takes seconds to import, and finished scores do not need it.
        from expo_cli.rewards.step_clip import StepCLIP

        self._clip = StepCLIP(self.files(), self.conditioning(), device, dtype)

    def judge(self, batch: Batch) -> Judgement:
        return self.judge_at(batch, [0] * len(batch.images))

    def judge_at(self, batch: Batch, timesteps: Sequence[int]) -> Judgement:
        cosines, embeddings = self._clip.compare_at(batch, timesteps)
        return Judgement(cosines.tolist(), self._clip.logit_scale, embeddings)
