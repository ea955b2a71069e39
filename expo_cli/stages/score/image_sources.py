"""The inputs of `expo score`: the samples of a rollout, or an image folder with an index."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from expo_cli.config import ScoreConfig
from expo_cli.contracts.identity import VAE, json_sha256, model_sha256s
from expo_cli.contracts.kinds import IMAGES
from expo_cli.contracts.outputs import Input
from expo_cli.contracts.records import ImageEntry, Sample
from expo_cli.contracts.rollouts import Rollout, open_rollout
from expo_cli.errors import ContractError, ExpoError
from expo_cli.stages.common.inputs import check_same_vae, maker_of_latents, model_inputs
from expo_cli.stages.score.image_index import read_index


class ImageSource(Protocol):
    """Samples in parts; `stages.score.run.image_reader` opens their images."""

    num_samples: int
    samples_per_part: int
    unusable: str
    """The name under which samples without an image are counted."""

    def plan(self) -> dict[str, Any]:
        """The settings that determine the scores of these images."""

    def free(self) -> dict[str, Any]:
        """The paths of the images as given."""

    def inputs(self) -> dict[str, str]:
        """The sha256 of everything that determines the images."""

    def read(self) -> list[Input]:
        """The folders and files that are read."""

    def samples(self, part: int) -> Sequence[Sample | ImageEntry]: ...


@dataclass(frozen=True)
class RolloutImages:
    """The samples of a rollout (the first `limit`), decoded by the VAE of `vae`."""

    rollout: Rollout
    vae: str
    limit: int | None = None

    unusable = "samples_nan_or_black"

    @property
    def num_samples(self) -> int:
        return min(self.rollout.planned("num_samples"), self.limit or 2**63)

    @property
    def samples_per_part(self) -> int:
        return self.rollout.samples_per_part

    def plan(self) -> dict[str, Any]:
        return {"images": "rollout"}

    def free(self) -> dict[str, Any]:
        return {"vae": self.vae, "rollout": str(self.rollout.folder)}

    def inputs(self) -> dict[str, str]:
        """Does nothing: each score has the digest of the judged latents."""
        run = self.rollout.run
        settings = {"rollout": json_sha256([run.plan, run.inputs])}
        return settings | model_sha256s("vae", self.vae, VAE)

    def read(self) -> list[Input]:
        folder = self.rollout.folder
        own = [Input("FOLDER", folder), Input("the images of FOLDER", folder / IMAGES)]
        return own + model_inputs("--vae", self.vae)

    def samples(self, part: int) -> list[Sample]:
        """The samples of a part. Raises ContractError when their number is not the planned one."""
        first = part * self.samples_per_part
        return self.rollout.samples(part)[: self.num_samples - first]


def open_images(folder: Path, config: ScoreConfig) -> ImageSource:
    """The images given on a command line; errors as `open_rollout` and `read_index`."""
    if config.index is not None:
        drop = config.unreadable == "drop"
        return read_index(folder, Path(config.index), config.part_size, config.limit, drop)
    try:
        rollout = open_rollout(folder)
    except ContractError:
        raise
    except ExpoError as error:  # no run.json, perhaps because it is an image folder
        raise ExpoError(
            f"{error}; `expo score {folder} --index FILE` scores an image folder"
        ) from error
    vae = config.vae or maker_of_latents(folder, rollout.run)
    if vae is None:
        raise ContractError(
            f"{folder}: its run.json does not state the policy that drew it; give --vae"
        )
    if config.vae is None:
        check_same_vae(folder, rollout.run, vae)
    return RolloutImages(rollout, vae, config.limit)
