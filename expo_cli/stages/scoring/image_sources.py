"""What `expo score` can score: the samples of a rollout, or an image folder with an index."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from expo_cli.config import ScoreConfig
from expo_cli.contracts.parts import part_path
from expo_cli.contracts.provenance import Count, planned
from expo_cli.contracts.records import ImageEntry, Sample
from expo_cli.contracts.rollouts import Rollout, open_rollout
from expo_cli.errors import ContractError, ExpoError
from expo_cli.stages.scoring.image_index import read_index


class ImageSource(Protocol):
    """Samples in parts. What reading their images needs beside, `stages.scoring.run` knows."""

    num_samples: int
    samples_per_part: int
    unusable: str
    """What samples without an image to judge are counted as."""

    def plan(self) -> dict[str, Any]:
        """The settings that scores of these images depend on."""

    def inputs(self) -> dict[str, str]:
        """sha256 of what determines the images."""

    def samples(self, part: int) -> Sequence[Sample | ImageEntry]: ...


@dataclass(frozen=True)
class RolloutImages:
    """The samples of a rollout, or the first `limit`, to be decoded by the VAE of `vae`."""

    rollout: Rollout
    vae: str
    limit: int | None = None

    unusable = "samples_nan_or_black"

    @property
    def num_samples(self) -> int:
        return min(self.planned("num_samples"), self.limit or 2**63)

    @property
    def samples_per_part(self) -> int:
        return self.planned("part_size") * self.planned("num_images_per_prompt")

    def planned(self, name: str) -> int:
        return planned(self.rollout.run, self.rollout.folder, name, Count)

    def plan(self) -> dict[str, Any]:
        return {"images": "rollout", "vae": self.vae}

    def inputs(self) -> dict[str, str]:
        run = self.rollout.run
        settings = json.dumps([run.plan, run.inputs], sort_keys=True)
        return {"rollout": hashlib.sha256(settings.encode()).hexdigest()}

    def samples(self, part: int) -> list[Sample]:
        """Raises ContractError when they are not as many as were drawn."""
        first, samples = part * self.samples_per_part, self.rollout.samples(part)
        drawn = min(self.samples_per_part, self.planned("num_samples") - first)
        found = len({sample.sample_id for sample in samples})
        if not found == len(samples) == drawn:
            raise ContractError(
                f"{part_path(self.rollout.folder, part)}: {len(samples)} samples, {found} of them "
                f"distinct, not the {drawn} of this part; remove it and run `expo rollout` again"
            )
        return samples[: self.num_samples - first]


def open_images(folder: Path, config: ScoreConfig) -> ImageSource:
    """The images that a command line means; errors as `open_rollout` and `read_index`."""
    if config.index is not None:
        drop = config.unreadable == "drop"
        return read_index(folder, Path(config.index), config.part_size, config.limit, drop)
    try:
        rollout = open_rollout(folder)
    except ContractError:
        raise
    except ExpoError as error:  # there is no run, perhaps because there are only images
        raise ExpoError(
            f"{error}; `expo score {folder} --index FILE` scores an image folder"
        ) from error
    vae = config.vae or planned(rollout.run, folder, "drawn_by", str)
    return RolloutImages(rollout, vae, config.limit)
