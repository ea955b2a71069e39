"""Images that no rollout made: a folder and a JSONL index of it."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from expo_cli.contracts import jsonl
from expo_cli.contracts.files import inside
from expo_cli.contracts.ids import digest, prompt_id
from expo_cli.contracts.images import open_rgb
from expo_cli.contracts.records import ImageEntry
from expo_cli.errors import ContractError
from expo_cli.stages.common.ahead import map_ahead


@dataclass(frozen=True)
class ImageIndex:
    """The images that the lines of `path` name, `samples_per_part` of them a part.

    `lines` are the line numbers by sample_id. `read_index` makes one. With `drop_unreadable` an
    image that cannot be used is passed over.
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

    def inputs(self) -> dict[str, str]:
        """The sha256 of the records; the images themselves are not hashed."""
        return {"index": hashlib.sha256(msgspec.json.encode(self.entries)).hexdigest()}

    def samples(self, part: int) -> Sequence[ImageEntry]:
        start = part * self.samples_per_part
        return self.entries[start : start + self.samples_per_part]

    def images(self, entries: Sequence[ImageEntry], ahead: int) -> Iterator[Image.Image | None]:
        """Their images, of which threads open the `ahead` next ones; None for a dropped one.

        Raises ContractError, with the index and its line, at an image that cannot be used.
        """
        return map_ahead(self.image, entries, ahead)

    def image(self, entry: ImageEntry) -> Image.Image | None:
        place = f"{self.path}:{self.lines[entry.sample_id]}"
        try:
            path = inside(self.folder, entry.image)
        except ContractError as error:
            raise ContractError(f"{place}: {error}") from error
        try:
            return open_rgb(path)
        except ContractError as error:
            if self.drop_unreadable:
                return None
            raise ContractError(
                f"{place}: {error}; --unreadable drop goes on without it"
            ) from error


def read_index(
    folder: Path,
    path: Path,
    samples_per_part: int,
    limit: int | None = None,
    drop_unreadable: bool = False,
) -> ImageIndex:
    """The index at `path` (`-`: standard input) of the images in `folder`.

    A missing prompt_id follows from the prompt, a missing sample_id from the prompt and `image`.
    Raises ContractError, with its line, for a record that is wrong or stands there twice.
    """
    entries: list[ImageEntry] = []
    lines: dict[str, int] = {}
    for number, entry in islice(jsonl.numbered(path, ImageEntry), limit):
        prompt = entry.prompt_id or prompt_id(entry.prompt)
        sample = entry.sample_id or f"{prompt}-{digest('image', entry.image):016x}"
        if sample in lines:
            raise ContractError(
                f"{path}:{number}: sample {sample} ({entry.image}) stands on line {lines[sample]} "
                "already; give each line its own sample_id"
            )
        lines[sample] = number
        entries.append(replace(entry, prompt_id=prompt, sample_id=sample))
    if not entries:
        raise ContractError(f"{path}: no images")
    return ImageIndex(folder, path, entries, lines, samples_per_part, drop_unreadable)
