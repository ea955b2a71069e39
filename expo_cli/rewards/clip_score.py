"""CLIP score: how well an image matches its prompt, by any CLIP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expo_cli.rewards.clip_files import CLIPFiles, clip_files
from expo_cli.rewards.protocol import Batch, Judgement, Reward

if TYPE_CHECKING:
    import torch


@dataclass
class CLIPScore(Reward):
    """100 * max(cosine, 0), as in torchmetrics; raw is max(cosine, 0).

    (https://arxiv.org/abs/2104.08718 uses 2.5 instead of 100.) `model` and `processor` as in
    PickScore; the default processor is the model's own.
    """

    model: str = "openai/clip-vit-large-patch14"
    processor: str | None = None

    def files(self) -> CLIPFiles:
        return clip_files(self.model, self.processor)

    def identity(self) -> dict[str, Any]:
        return self.files().identity() | {"scale": 100.0}

    def load(self, device: torch.device, dtype: torch.dtype) -> None:
        # Imported here: transformers takes seconds to import, and finished scores do not need it.
        from expo_cli.rewards.clip import CLIP

        self._clip = CLIP(self.files(), device, dtype)

    def judge(self, batch: Batch) -> Judgement:
        cosines, embeddings = self._clip.compare(batch)
        return Judgement(cosines.clamp(min=0).tolist(), 100.0, embeddings)
