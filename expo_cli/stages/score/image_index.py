"""An image folder with a JSONL index."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from expo_cli.contracts import jsonl
from expo_cli.contracts.files import inside, sha256
from expo_cli.contracts.identity import records_sha256
from expo_cli.contracts.ids import digest, prompt_id
from expo_cli.contracts.images import open_rgb
from expo_cli.contracts.kinds import ScoreParts
from expo_cli.contracts.outputs import Input
from expo_cli.contracts.records import ImageEntry, Score
from expo_cli.contracts.rollouts import score_path
from expo_cli.contracts.shards import Shard, num_parts
from expo_cli.errors import ContractError, ExpoError
from expo_cli.stages.common.ahead import map_ahead


@dataclass(frozen=True)
class ImageIndex:
    """The images named by the lines of `path`, `samples_per_part` per part; made by `read_index`.

    `lines` are the line numbers by sample_id. With `drop_unreadable` an unusable image is skipped.
    """

    folder: Path
    path: Path
    entries: Sequence[ImageEntry]
    lines: Mapping[str, int]
    samples_per_part: int
    drop_unreadable: bool = False

    unusable = "unreadable_images"

    @property
    def num_samples(self) -> int:
        return len(self.entries)

    def plan(self) -> dict[str, Any]:
        return {"images": "index", "samples_per_part": self.samples_per_part}

    def free(self) -> dict[str, Any]:
        return {"index": str(self.path), "folder": str(self.folder)}

    def inputs(self) -> dict[str, str]:
        """The sha256 of the records; each score has the digest of the image that was judged."""
        return {"index": records_sha256(self.entries)}

    def read(self) -> list[Input]:
        own = [Input("FOLDER", self.folder)]
        return own if self.path == jsonl.STANDARD_STREAM else [*own, Input("--index", self.path)]

    def samples(self, part: int) -> Sequence[ImageEntry]:
        start = part * self.samples_per_part
        return self.entries[start : start + self.samples_per_part]

    def images(self, entries: Sequence[ImageEntry], ahead: int) -> Iterator[Image.Image | None]:
        """Yields their images, opened ahead in threads; None for a dropped one.

        Raises ContractError, with the index and line, at an unusable image.
        """
        return map_ahead(self.image, entries, ahead)

    def image(self, entry: ImageEntry) -> Image.Image | None:
        try:
            path = inside(self.folder, entry.image)
        except ContractError as error:
            raise self.located(entry, error) from error
        try:
            return open_rgb(path)
        except ContractError as error:
            if self.drop_unreadable:
                return None
            advice = ContractError(f"{error}; --unreadable drop leaves it out")
            raise self.located(entry, advice) from error

    def digest(self, entry: ImageEntry) -> str | None:
        """The digest of the image's file; it may be missing if unreadable images are dropped."""
        try:
            return sha256(inside(self.folder, entry.image))[:16]
        except ExpoError as error:
            if self.drop_unreadable:
                return None
            raise self.located(entry, error) from error

    def located(self, entry: ImageEntry, error: ExpoError) -> ContractError:
        return ContractError(f"{self.path}:{self.lines[entry.sample_id]}: {error}")


def read_index(
    folder: Path,
    path: Path,
    samples_per_part: int,
    limit: int | None = None,
    drop_unreadable: bool = False,
) -> ImageIndex:
    """The index at `path` (`-`: standard input) of the images in `folder`.

    A missing prompt_id is derived from the prompt, a missing sample_id from the prompt and `image`.
    Raises ContractError, with the line, for a bad or duplicate record.
    """
    entries: list[ImageEntry] = []
    lines: dict[str, int] = {}
    for number, entry in islice(jsonl.numbered(path, ImageEntry), limit):
        prompt = entry.prompt_id or prompt_id(entry.prompt)
        sample = entry.sample_id or f"{prompt}-{digest('image', entry.image):016x}"
        if sample in lines:
            raise ContractError(
                f"{path}:{number}: sample {sample} ({entry.image}) is already on line {lines[sample]}; "
                "give each line its own sample_id"
            )
        lines[sample] = number
        entries.append(replace(entry, prompt_id=prompt, sample_id=sample))
    if not entries:
        raise ContractError(f"{path}: no images")
    return ImageIndex(folder, path, entries, lines, samples_per_part, drop_unreadable)


def check_judged_images(index: ImageIndex, out: Path, labels: Sequence[str], shard: Shard) -> None:
    """Raises ContractError when an image of a scored part was changed since it was judged."""
    count = num_parts(index.num_samples, index.samples_per_part)
    for parts in (ScoreParts(out, label, count) for label in labels):
        missing = parts.missing()
        for part in range(count):
            if part in missing or not shard.takes(part):
                continue
            path = score_path(out, part, parts.label)
            judged = {score.sample_id: score.digest for score in jsonl.read(path, Score)}
            for entry in index.samples(part):
                old, new = judged.get(entry.sample_id), index.digest(entry)
                if old is not None and old != new:
                    raise ContractError(
                        f"{path}: {parts.label} judged {index.folder / entry.image} when it was {old}, "
                        f"now it is {new}; --overwrite to score again"
                    )
