"""Images that no rollout made: a folder and a JSONL index of it."""

import hashlib
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import msgspec
from PIL import Image

from expo_cli.contracts import jsonl
from expo_cli.contracts.files import inside
from expo_cli.contracts.ids import digest, prompt_id
from expo_cli.contracts.records import ImageEntry
from expo_cli.errors import ContractError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
# `open_rgb` refuses these by itself: no warning can be caught in one thread alone.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class ImageIndex:
    """The images that the lines of `path` name, `samples_per_part` of them a part.

    `lines` are the line numbers by sample_id. `read_index` makes one.
    """

    folder: Path
    path: Path
    entries: Sequence[ImageEntry]
    lines: Mapping[str, int]
    samples_per_part: int

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

    def images(self, entries: Sequence[ImageEntry]) -> list[Image.Image]:
        """Raises ContractError, with the index and its line, when an image cannot be used."""
        images = []
        for entry in entries:
            try:
                images.append(open_rgb(inside(self.folder, entry.image)))
            except ContractError as error:
                line = self.lines[entry.sample_id]
                raise ContractError(f"{self.path}:{line}: {error}") from error
        return images


def read_index(
    folder: Path, path: Path, samples_per_part: int, limit: int | None = None
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
    return ImageIndex(folder, path, entries, lines, samples_per_part)


def open_rgb(file: Path | IO[bytes], name: str | None = None) -> Image.Image:
    """A still image as RGB; grey becomes RGB, transparency is laid over white.

    Raises ContractError, which calls the file `name`, for what has no one right reading (CMYK, 16
    bits, animations) and for files that are missing, truncated, no image, or larger than Pillow's
    limit on pixels. May be called by several threads.
    """
    name = name or str(file)
    try:
        with Image.open(file, formats=FORMATS) as image:
            num_pixels = image.width * image.height
            if num_pixels > Image.MAX_IMAGE_PIXELS:
                raise ContractError(f"{name}: has too many pixels ({image.width}x{image.height})")
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise ContractError(f"{name}: has {frames} frames; only stills are used")
            if image.mode not in MODES:
                raise ContractError(f"{name}: is {image.mode}; convert it to 8-bit RGB first")
            image.load()
            if not image.has_transparency_data:
                return image.convert("RGB")
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, image).convert("RGB")
    except FileNotFoundError as error:
        raise ContractError(f"{name}: no such image") from error
    except Image.DecompressionBombError as error:
        raise ContractError(f"{name}: has too many pixels ({error})") from error
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error) as error:
        raise ContractError(f"{name}: cannot be read as an image: {error}") from error
