"""The labelled images of all files that a policy is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expo_cli.contracts.records import SampleRef
from expo_cli.stages.training.pairs import read_pairs


@dataclass(frozen=True, kw_only=True)
class TrainingImage:
    """An image, whether it is desirable, and the folder that its part is relative to."""

    image_id: str
    prompt: str
    ref: SampleRef
    desirable: bool
    folder: Path


def read_images(paths: Sequence[Path], limit: int | None) -> list[TrainingImage]:
    """The images of all pairs, or of the first `limit` ones: winners are desirable, losers are not.

    A sample in several pairs is several images: one that won and lost is desirable as often as it
    won. Raises ContractError when a pair stands there twice.
    """
    return [
        TrainingImage(
            image_id=f"{item.pair.pair_id}/{role}",
            prompt=item.pair.prompt,
            ref=getattr(item.pair, role),
            desirable=role == "winner",
            folder=item.folder,
        )
        for item in read_pairs(paths, limit)
        for role in ("winner", "loser")
    ]
