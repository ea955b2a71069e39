"""The two shipped rewards as plain scorers of uint8 images, for measuring."""

from collections.abc import Sequence
from pathlib import Path

import clip
import open_clip
import reward_b
import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer


class RewardA:
    """PickScore's formula: exp(logit_scale) * cosine."""

    def __init__(self, folder: Path) -> None:
        self.model = CLIPModel.from_pretrained(folder).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        return torch.cat([clip.features(self.model, batch) for batch in images.split(256)])

    @torch.no_grad()
    def captions(self, captions: Sequence[str]) -> Tensor:
        words = clip.text_features(self.model, self.tokenizer, list(captions))
        return self.model.logit_scale.exp() * words


class RewardB:
    """HPSv2's formula: the cosine alone."""

    def __init__(self, folder: Path) -> None:
        self.model = open_clip.create_model(f"local-dir:{folder}").eval()
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        return torch.cat([reward_b.features(self.model, batch) for batch in images.split(256)])

    @torch.no_grad()
    def captions(self, captions: Sequence[str]) -> Tensor:
        return reward_b.text_features(self.model, self.tokenizer(list(captions)))


def scores(judge: RewardA | RewardB, images: Tensor, captions: Sequence[str]) -> Tensor:
    """The score of each image for its caption: [count]."""
    return (judge.images(images) * judge.captions(captions)).sum(-1)
