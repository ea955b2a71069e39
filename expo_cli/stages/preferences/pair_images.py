"""The images of pairs: the files that a rollout kept; others are decoded from their latents."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from expo_cli.config import PairImagesConfig
from expo_cli.contracts import jsonl
from expo_cli.contracts.files import inside
from expo_cli.contracts.ids import bytes_digest
from expo_cli.contracts.kinds import made_by
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.records import Sample, SampleRef
from expo_cli.errors import ContractError, ExpoError
from expo_cli.stages.common.image_files import ImageFormat, image_bytes
from expo_cli.stages.common.inputs import check_same_vae, maker_of_latents

# sample_id -> digest of its latents, if recorded.
Digests: TypeAlias = Mapping[str, str | None]


@dataclass(frozen=True)
class EncodedFile:
    """The bytes of an image file, and its file extension."""

    data: bytes
    ending: str


class PairImages:
    """Finds the images of samples whose latents are in a rollout or in imported parts."""

    def __init__(self, config: PairImagesConfig, image_format: ImageFormat) -> None:
        self.config, self.image_format = config, image_format
        self.decoders: dict[str, Any] = {}
        self.runs: dict[Path, Run | None] = {}

    def files(self, refs: Iterable[tuple[Path, SampleRef]]) -> dict[str, EncodedFile]:
        """sample_id -> image. Each ref comes with the folder that it is relative to.

        Raises ContractError when a sample's latents or kept image are missing or broken.
        """
        by_part: dict[Path, dict[str, str | None]] = {}
        for folder, ref in refs:
            by_part.setdefault(inside(folder, ref.part), {})[ref.sample_id] = ref.digest
        found: dict[str, EncodedFile] = {}
        for part, digests in by_part.items():
            found |= self.kept(part, digests)
            rest = [sample_id for sample_id in digests if sample_id not in found]
            for start in range(0, len(rest), self.config.batch_size):
                chosen = rest[start : start + self.config.batch_size]
                found |= self.decoded(part, {name: digests[name] for name in chosen})
        return found

    def kept(self, part: Path, digests: Digests) -> dict[str, EncodedFile]:
        """Raises ContractError for an image that does not belong to the judged latents, or was changed
        since the rollout."""
        run = self.run(part)
        if run is None or run.command != "rollout":
            return {}
        found = {}
        for sample in jsonl.read(part.with_suffix(".jsonl"), Sample):
            if sample.sample_id not in digests or sample.image is None:
                continue
            path, judged = inside(part.parent, sample.image), digests[sample.sample_id]
            if None not in (judged, sample.digest) and judged != sample.digest:
                raise ContractError(
                    f"{path}: shows latents {sample.digest}, but the pair has {judged}: the rollout was "
                    "drawn again; make its pairs again"
                )
            try:
                data = path.read_bytes()
            except OSError as error:
                raise ExpoError(f"{path}: cannot be read: {error.strerror}") from error
            if sample.image_digest not in (None, digest := bytes_digest(data)):
                raise ContractError(
                    f"{path}: is {digest}, but was {sample.image_digest} when it was drawn: it was "
                    "replaced"
                )
            found[sample.sample_id] = EncodedFile(data, path.suffix.removeprefix("."))
        return found

    def decoded(self, part: Path, digests: Digests) -> dict[str, EncodedFile]:
        images = self.decoder(part).images(part, digests)
        files = [EncodedFile(image_bytes(i, self.image_format), self.image_format) for i in images]
        return dict(zip(digests, files, strict=True))

    def decoder(self, part: Path) -> Any:
        """The LatentDecoder of --vae, or of the model whose latents the part holds."""
        # Imported here: image files need neither torch nor diffusers.
        from expo_cli.stages.common.decoding import LatentDecoder
        from expo_cli.stages.common.device import default_device, resolve_dtype

        source = self.config.vae or self.maker(part)
        if source not in self.decoders:
            device = default_device()
            dtype = resolve_dtype(self.config.dtype, device)
            self.decoders[source] = LatentDecoder(source, device, dtype)
        return self.decoders[source]

    def maker(self, part: Path) -> str:
        """The source of the model of these latents. Raises ContractError if it is unknown."""
        run = self.run(part)
        source = maker_of_latents(part.parent, run) if run else None
        if source is None:
            raise ContractError(
                f"{part.parent}: does not state the model of its latents; give --vae"
            )
        check_same_vae(part.parent, run, source)
        return source

    def run(self, part: Path) -> Run | None:
        """The run that made the part's folder; None if there is no run.json."""
        folder = part.parent
        if folder not in self.runs:
            self.runs[folder] = made_by(folder)
        return self.runs[folder]
