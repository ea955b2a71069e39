"""HPSv2 and HPSv2.1: an open_clip ViT-H-14 trained on the preferences of HPD v2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from expo_cli.contracts.identity import config_sha256, file_sha256
from expo_cli.contracts.sources import hub_file, model_folder, shipped
from expo_cli.errors import ContractError, ExpoError
from expo_cli.rewards.protocol import Batch, Judgement, Reward

if TYPE_CHECKING:
    import torch

HUB = "xswu/HPSv2"
CHECKPOINTS = {"2.0": "HPS_v2_compressed.pt", "2.1": "HPS_v2.1_compressed.pt"}
FOLDER_CONFIG = "open_clip_config.json"
FOLDER_WEIGHTS = "open_clip_model.safetensors"


@dataclass
class HPSv2(Reward):
    """100 * cosine, without the logit scale, https://arxiv.org/abs/2306.09341; raw is the cosine.

    The weights are those of `version` (default 2.1) from the hub, or `checkpoint` (safetensors,
    or `.pt` read without unpickling code), or `model`, an open_clip folder or hub id. `config` is
    the architecture of a checkpoint: an open_clip name, JSON file or folder.

    Published figures of 2.1 come from a torchvision that did not antialias when resizing tensors;
    `antialias=false` does the same and shifts the score by up to 2
    (https://github.com/tgxs002/HPSv2/issues/43).
    """

    version: Literal["2.0", "2.1"] | None = None
    checkpoint: str | None = None
    config: str | None = None
    model: str | None = None
    antialias: bool = True

    def __post_init__(self) -> None:
        if [self.version, self.checkpoint, self.model].count(None) < 2:
            raise ValueError("version, checkpoint and model contradict each other; use one")
        if self.config is not None and self.checkpoint is None:
            raise ValueError("config belongs to checkpoint=FILE; give both")

    def folder(self) -> Path:
        """The folder of `model`. Raises ContractError when a file is missing there."""
        folder = model_folder(self.model, files=("*.json", "*.txt", FOLDER_WEIGHTS))
        for name in (FOLDER_CONFIG, FOLDER_WEIGHTS):
            if not (folder / name).is_file():
                raise ContractError(f"{folder}: is not an open_clip folder: {name} is missing")
        return folder

    def weights(self) -> Path:
        """The checkpoint file. Raises ExpoError when there is none."""
        if self.model is not None:
            return self.folder() / FOLDER_WEIGHTS
        if self.checkpoint is None:
            return hub_file(HUB, CHECKPOINTS[self.version or "2.1"])
        path = shipped(self.checkpoint)
        if not path.is_file():
            raise ExpoError(f"{path}: no such checkpoint file")
        return path

    def architecture(self) -> str:
        """The architecture for open_clip: a name, or the path of a JSON file or folder."""
        if self.model is not None:
            return str(self.folder())
        if self.config is None:
            return "ViT-H-14"
        path = shipped(self.config)
        return str(path) if path.exists() else self.config

    def identity(self) -> dict[str, Any]:
        config = Path(self.architecture())
        config = config / FOLDER_CONFIG if config.is_dir() else config
        published = self.model is None and self.checkpoint is None
        return ({"version": self.version or "2.1"} if published else {}) | {
            "weights": file_sha256(self.weights()),
            "architecture": config_sha256(config) if config.is_file() else config.name,
            "preprocessing": "long side to the image size by bicubic on the tensor, zero padding",
            "antialias": self.antialias,
            "scale": 100.0,
        }

    def load(self, device: torch.device, dtype: torch.dtype) -> None:
        # Imported here: open_clip takes seconds to import, and finished scores do not need it.
        from expo_cli.rewards.open_clip_network import OpenCLIP

        self._network = OpenCLIP(self.architecture(), self.weights(), device, dtype)

    def judge(self, batch: Batch) -> Judgement:
        cosines, embeddings = self._network.compare(batch, self.antialias)
        return Judgement(cosines.tolist(), 100.0, embeddings)
