"""LAION's aesthetic predictor v2: how pleasing an image is, regardless of its prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expo_cli.contracts.identity import file_sha256
from expo_cli.contracts.sources import shipped
from expo_cli.errors import ExpoError
from expo_cli.rewards.clip_files import CLIPFiles, clip_files
from expo_cli.rewards.protocol import Batch, Judgement, Reward

if TYPE_CHECKING:
    import torch

PUBLISHED = (
    "sac+logos+ava1-l14-linearMSE.pth of "
    "https://github.com/christophschuhmann/improved-aesthetic-predictor"
)


@dataclass
class LAIONAesthetic(Reward):
    """`weights` is the predictor's file (.pth, from which only tensors are read, or .safetensors).
    `model` is the CLIP ViT-L/14 for its input, the normalised image embedding: a folder or hub id,
    with `processor` as in PickScore. Scores are about 1 to 10.
    """

    weights: str = ""
    model: str = "openai/clip-vit-large-patch14"
    processor: str | None = None

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError(f"weights=FILE is missing: {PUBLISHED}")

    def files(self) -> CLIPFiles:
        return clip_files(self.model, self.processor)

    def weights_path(self) -> Path:
        """Raises ExpoError when there is no such file."""
        path = shipped(self.weights)
        if not path.is_file():
            raise ExpoError(f"{path}: no such file; needed is {PUBLISHED}")
        return path

    def identity(self) -> dict[str, Any]:
        return self.files().identity() | {
            "predictor": file_sha256(self.weights_path()),
            "scale": 1.0,
        }

    def load(self, device: torch.device, dtype: torch.dtype) -> None:
        # Imported here: transformers takes seconds to import, and finished scores do not need it.
        from expo_cli.rewards.aesthetic_predictor import AestheticPredictor
        from expo_cli.rewards.clip import CLIP

        self._clip = CLIP(self.files(), device, dtype)
        width = self._clip.network.config.projection_dim
        self._predictor = AestheticPredictor(self.weights_path(), width, device)

    def judge(self, batch: Batch) -> Judgement:
        embeddings = self._clip.embed(batch.images)
        return Judgement(self._predictor(embeddings).tolist(), 1.0, embeddings)
