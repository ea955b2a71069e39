"""What a reward is to the rest of EXPO."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:  # Naming a reward and identifying its weights need no torch, only judging does.
    import torch
    from PIL.Image import Image


@dataclass(frozen=True)
class Batch:
    """Samples to judge: each RGB image against its prompt."""

    sample_ids: Sequence[str]
    prompts: Sequence[str]
    images: Sequence[Image]


@dataclass(frozen=True)
class Judgement:
    """Scores of a batch, in its order: `score = raw * scale`, higher is better, always.

    `embeddings` are the normalised image features [batch, dim], where the reward has them.
    """

    raw: Sequence[float]
    scale: float = 1.0
    embeddings: torch.Tensor | None = None


class Reward(ABC):
    """A judge; your own reward inherits from this class."""

    whole_parts: ClassVar[bool] = False
    """Whether `judge` takes all samples of a part at once instead of --batch-size of them, as an
    outside program does, which loads its model at every call."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that determines a score: sha256 of the weights, preprocessing, scale.

        Kept beside the scores; scores under one label have one identity. Called before `load`.
        """

    @abstractmethod
    def load(self, device: torch.device, dtype: torch.dtype) -> None:
        """Load the weights; called once, before the first `judge`."""

    @abstractmethod
    def judge(self, batch: Batch) -> Judgement: ...


def whole_identity(reward: Reward, spec: str) -> dict[str, Any]:
    """The identity of a reward and its class; of one that is not EXPO's its options too, which it may
    have forgotten."""
    kind = f"{type(reward).__module__}.{type(reward).__qualname__}"
    own = {"reward": kind}
    if not kind.startswith("expo_cli."):
        own["options"] = spec.partition(":")[2]
    return own | reward.identity()


class StepReward(Reward):
    """A judge that also knows how far an image still is from finished."""

    @abstractmethod
    def judge_at(self, batch: Batch, timesteps: Sequence[int]) -> Judgement:
        """Judge each image as predicted at its timestep; 0 is a finished image, as `judge` judges."""
