"""PickScore: a CLIP trained on the preferences of Pick-a-Pic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expo_cli.rewards.clip_files import CLIPFiles, clip_files
from expo_cli.rewards.protocol import Batch, Judgement, Reward

if TYPE_CHECKING:
    import torch

PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


@dataclass
class PickScore(Reward):
    """exp(logit_scale) * cosine, https://arxiv.org/abs/2305.01569; raw is the cosine.

    `model` is a CLIPModel of transformers: folder, hub id or `embedded:NAME`. `processor` holds
    the tokenizer and preprocessing; by default the model's own, else those that PickScore was
    trained with.
    """

    model: str = "yuvalkirstain/PickScore_v1"
    processor: str | None = None

    def files(self) -> CLIPFiles:
        return clip_files(self.model, self.processor, PROCESSOR)

    def identity(self) -> dict[str, Any]:
        return self.files().identity() | {"scale": "exp(logit_scale)"}

    def load(self, device: torch.device, dtype: torch.dtype) -> None:
        # Imported here: transformers takes seconds to import, and finished scores do not need it.
        from expo_cli.rewards.clip import CLIP

        self._clip = CLIP(self.files(), device, dtype)

    def judge(self, batch: Batch) -> Judgement:
        cosines, embeddings = self._clip.compare(batch)
        return Judgement(cosines.tolist(), self._clip.logit_scale, embeddings)
