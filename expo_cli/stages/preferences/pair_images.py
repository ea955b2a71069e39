"""The images of pairs: those that a rollout kept, and all others decoded from their latents."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expo_cli.config import PairImagesConfig
from expo_cli.contracts import jsonl
from expo_cli.contracts.files import inside
from expo_cli.contracts.provenance import Run, read_run, run_path
from expo_cli.contracts.records import Sample, SampleRef
from expo_cli.errors import ContractError, ExpoError
from expo_cli.stages.common.image_files import ImageFormat, image_bytes


@dataclass(frozen=True)
class ImageFile:
    """The bytes of an image file, and the ending of its format."""

    data: bytes
    ending: str


class PairImages:
    """Image files of samples by where their latents are: a rollout's part, or an imported one."""

    def __init__(self, config: PairImagesConfig, image_format: ImageFormat) -> None:
        self.config, self.image_format = config, image_format
        self.decoders: dict[str, Any] = {}
        self.runs: dict[Path, Run | None] = {}

    def files(self, refs: Iterable[tuple[Path, SampleRef]]) -> dict[str, ImageFile]:
        """The image of each sample by its id. A ref comes with the folder that it is relative to.

        Raises ContractError when a sample's latents or kept image are missing or broken.
        """
        by_part: dict[Path, list[str]] = {}
        for folder, ref in refs:
            samples = by_part.setdefault(inside(folder, ref.part), [])
            if ref.sample_id not in samples:
                samples.append(ref.sample_id)
        found: dict[str, ImageFile] = {}
        for part, sample_ids in by_part.items():
            found |= self.kept(part, sample_ids)
            rest = [sample_id for sample_id in sample_ids if sample_id not in found]
            for start in range(0, len(rest), self.config.batch_size):
                found |= self.decoded(part, rest[start : start + self.config.batch_size])
        return found

    def kept(self, part: Path, sample_ids: Sequence[str]) -> dict[str, ImageFile]:
        run = self.run(part)
        if run is None or run.command != "rollout":
            return {}
        wanted, found = set(sample_ids), {}
        for sample in jsonl.read(part.with_suffix(".jsonl"), Sample):
            if sample.sample_id in wanted and sample.image is not None:
                path = inside(part.parent, sample.image)
                try:
                    data = path.read_bytes()
                except OSError as error:
                    raise ExpoError(f"{path}: cannot be read: {error.strerror}") from error
                found[sample.sample_id] = ImageFile(data, path.suffix.removeprefix("."))
        return found

    def decoded(self, part: Path, sample_ids: Sequence[str]) -> dict[str, ImageFile]:
        images = self.decoder(part).images(part, sample_ids)
        files = [ImageFile(image_bytes(i, self.image_format), self.image_format) for i in images]
        return dict(zip(sample_ids, files, strict=True))

    def decoder(self, part: Path) -> Any:
        """The LatentDecoder of --vae, or of the model whose latents the part holds."""
        # Imported here: kept images need neither torch nor diffusers.
        from expo_cli.stages.common.decoding import LatentDecoder
        from expo_cli.stages.common.device import default_device, resolve_dtype

        source = self.config.vae or self.maker(part)
        if source not in self.decoders:
            device = default_device()
            dtype = resolve_dtype(self.config.dtype, device)
            self.decoders[source] = LatentDecoder(source, device, dtype)
        return self.decoders[source]

    def maker(self, part: Path) -> str:
        """The source of the model whose latents these are. Raises ContractError if it is unknown."""
        run = self.run(part)
        source = (run.plan.get("drawn_by") or run.plan.get("vae")) if run else None
        if source is None:
            raise ContractError(f"{part.parent}: does not say whose latents it holds; give --vae")
        return source

    def run(self, part: Path) -> Run | None:
        """The run that made the part's folder; None where the user made it."""
        folder = part.parent
        if folder not in self.runs:
            self.runs[folder] = read_run(folder) if run_path(folder).exists() else None
        return self.runs[folder]
