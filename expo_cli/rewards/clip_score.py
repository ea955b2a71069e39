"""CLIP score: how well an image fits its prompt, by any CLIP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expo_cli.rewards.clip_files import CLIPFiles, clip_files
from expo_cli.rewards.protocol import Batch, Judgement, Reward

if TYPE_CHECKING:
    import torch


@dataclass
class CLIPScore(Reward):
    """100 * max(cosine, 0), as torchmetrics has it; raw is max(cosine, 0).

    (https://arxiv.org/abs/2104.08718 has 2.5 in place of 100.) `model` and `processor` as in
    PickScore; there is no other processor than the model's own by default.
    """

    model: str = "openai/clip-vit-large-patch14"
    processor: str | None = None

    def files(self) -> CLIPFiles:
        return clip_files(self.model, self.processor)

    def identity(self) -> dict[str, Any]:
        return self.files().identity() | {"scale": 100.0}

    def load(self, device: torch.device, dtype: torch.dtype) -> None:
        # Imported here: transformers takes seconds, and finished scores need none of it.
        from expo_cli.rewards.clip import CLIP

        self._clip = CLIP(self.files(), device, dtype)

    def judge(self, batch: Batch) -> Judgement:
        cosines, embeddings = self._clip.compare(batch)
        return Judgement(cosines.clamp(min=0).tolist(), 100.0, embeddings)
