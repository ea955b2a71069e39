"""The interface of a reward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:  # Only judging needs torch; naming a reward and identifying its weights do not.
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
    """Scores of a batch, in order: `score = raw * scale`, always higher is better.

    `embeddings` are the normalised image features [batch, dim], if the reward has them.
    """

    raw: Sequence[float]
    scale: float = 1.0
    embeddings: torch.Tensor | None = None


class Reward(ABC):
    """A judge; your own reward inherits from this class."""

    whole_parts: ClassVar[bool] = False
    """Whether `judge` gets all samples of a part at once instead of batches; for external programs,
    which load their model at every call."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that determines a score: sha256 of the weights, preprocessing, scale.

        Recorded with the scores; all scores of a label have the same identity. Called before `load`.
        """

    @abstractmethod
    def load(self, device: torch.device, dtype: torch.dtype) -> None:
        """Load the weights; called once, before the first `judge`."""

    @abstractmethod
    def judge(self, batch: Batch) -> Judgement: ...


def whole_identity(reward: Reward, spec: str) -> dict[str, Any]:
    """The identity of a reward, with its class. For external classes it includes the options, in case
    their `identity` forgot one."""
    kind = f"{type(reward).__module__}.{type(reward).__qualname__}"
    own = {"reward": kind}
    if not kind.startswith("expo_cli."):
        own["options"] = spec.partition(":")[2]
    return own | reward.identity()


class StepReward(Reward):
    """A judge of unfinished images, which takes their timestep into account."""

    @abstractmethod
    def judge_at(self, batch: Batch, timesteps: Sequence[int]) -> Judgement:
        """Judge images that were predicted at `timesteps`; 0 is a finished image, as for `judge`."""
