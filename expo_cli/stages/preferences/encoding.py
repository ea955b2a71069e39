"""Encodes images to latents once, which the Diffusion-DPO scripts repeat before each step.

Resize the short side (bilinear), crop the centre, scale to [-1, 1], encode, times scaling_factor:
as in diffusers' train_diffusion_dpo.py with --no_hflip, but sampling the posterior by seed.
"""

import io
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, functional

from expo_cli.config import PairImagesConfig
from expo_cli.contracts import jsonl
from expo_cli.contracts.ids import digest
from expo_cli.contracts.images import open_rgb
from expo_cli.contracts.kinds import LatentParts, write_part_run
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.records import EncodedImage
from expo_cli.contracts.shards import part_path
from expo_cli.contracts.tensors import latents_digest, write_tensors
from expo_cli.core.noise import generators, normal
from expo_cli.errors import ContractError, ExpoError, UsageError
from expo_cli.models.loading import load_encoder
from expo_cli.models.protocol import Encoder
from expo_cli.stages.common.ahead import map_ahead
from expo_cli.stages.common.device import default_device, resolve_dtype
from expo_cli.stages.common.progress import Notes, seconds_since
from expo_cli.stages.common.stopping import stop_on_signal
from expo_cli.stages.preferences.protocol import NeededImage, Preferences, flipped

# Enlarging the short side of a longer image could exceed the memory.
MAX_ASPECT = 20
# Number of images to decode ahead of the encoder.
AHEAD = 64


@dataclass(frozen=True)
class ImageFile:
    """An image to decode: its contents, its path, or None if it is missing. Messages call it
    `source`."""

    sample_id: str
    source: str
    data: bytes | Path | None


@dataclass(frozen=True)
class Prepared:
    """An image to encode: its record and, if it is usable, its pixels [3, size, size] in [-1, 1]."""

    record: EncodedImage
    pixels: Tensor | None


class LatentEncoder:
    """Encodes images with the VAE of `config`."""

    def __init__(self, config: PairImagesConfig, seed: int) -> None:
        """Raises UsageError for a resolution that does not fit the model."""
        self.device = default_device()
        dtype = resolve_dtype(config.dtype, self.device)
        self.encoder: Encoder = load_encoder(config.vae, self.device, dtype)
        self.size = config.resolution or self.encoder.image_size()
        self.config, self.seed = config, seed
        if self.size % self.encoder.multiple():
            raise UsageError(
                f"--resolution must be a multiple of {self.encoder.multiple()}, got {self.size}"
            )

    def latents(self, images: Sequence[Prepared]) -> dict[str, Tensor]:
        """sample_id -> fp16 latents [channels, height, width]; mirrored images have their own ids.

        Raises ExpoError when they are not finite.
        """
        if not images:
            return {}
        pixels = torch.stack([image.pixels for image in images])
        sample_ids = [image.record.sample_id for image in images]
        found = self.encode(sample_ids, pixels)
        if self.config.flip:
            found |= self.encode(list(map(flipped, sample_ids)), pixels.flip(-1))
        return found

    def encode(self, sample_ids: Sequence[str], pixels: Tensor) -> dict[str, Tensor]:
        latents, deviation = self.encoder.encode(pixels)
        if self.config.posterior == "sample":
            seeds = [digest("posterior", self.seed, sample_id) for sample_id in sample_ids]
            noise = torch.stack([normal(g, latents.shape[1:]) for g in generators(seeds)])
            latents = latents + deviation * noise.to(latents.device)
        for sample_id, one in zip(sample_ids, latents, strict=True):
            if not one.isfinite().all():
                raise ExpoError(f"{sample_id} encodes to NaN; try --dtype fp32")
        return dict(zip(sample_ids, latents.half().cpu(), strict=True))


def encode_parts(
    preferences: Preferences,
    needed: Mapping[str, NeededImage],
    output: LatentParts,
    run: Run,
    parts: Sequence[int],
    config: PairImagesConfig,
    seed: int,
    notes: Notes,
) -> None:
    """Encode the images of the given parts of the output that `run` began; parts are atomic.

    Raises ContractError, with input and row, at an unusable image, unless these are dropped;
    Interrupted, between two batches, when a signal asks to stop.
    """
    encoder, folder = LatentEncoder(config, seed), output.path
    items = list(needed.items())
    of_part = {n: items[n * config.part_size : (n + 1) * config.part_size] for n in parts}
    total = sum(map(len, of_part.values()))
    notes.say(f"make-pairs: {total} images to {encoder.size}x{encoder.size} on {encoder.device}")
    with stop_on_signal() as stop, notes.bar(total, "images") as bar:
        for part, chosen in of_part.items():
            started = time.monotonic()
            records: list[EncodedImage] = []
            latents: dict[str, Tensor] = {}
            images = prepared(preferences, chosen, encoder.size)
            while batch := list(islice(images, config.batch_size)):
                stop.check()
                if config.unreadable == "stop":
                    require_usable(batch, needed, preferences)
                latents |= encoder.latents([image for image in batch if image.pixels is not None])
                records += [image.record for image in batch]
                bar.advance(len(batch))
            output.claim(run)
            write_tensors(part_path(folder, part, ".safetensors"), latents)
            records = [with_digests(record, latents) for record in records]
            part_run = Run(
                command="make-pairs",
                plan={"part": part},
                counts={
                    "images": len(records),
                    "unreadable": sum(bool(r.problem) for r in records),
                },
                seconds=seconds_since(started),
            )
            write_part_run(folder, part, part_run)
            jsonl.write(
                part_path(folder, part), records
            )  # written last: this file marks the part as done
            stop.check()


def with_digests(record: EncodedImage, latents: Mapping[str, Tensor]) -> EncodedImage:
    own, mirrored = (latents.get(name) for name in (record.sample_id, flipped(record.sample_id)))
    return replace(
        record,
        digest=None if own is None else latents_digest(own),
        flip_digest=None if mirrored is None else latents_digest(mirrored),
    )


def require_usable(
    images: Sequence[Prepared], needed: Mapping[str, NeededImage], preferences: Preferences
) -> None:
    for image in images:
        if image.record.problem:
            place = preferences.place(needed[image.record.sample_id])
            raise ContractError(
                f"{place}: {image.record.problem}; --unreadable drop leaves out its pairs"
            )


def prepared(
    preferences: Preferences, images: Iterable[tuple[str, NeededImage]], size: int
) -> Iterator[Prepared]:
    """Yields the images in order, read one by one and decoded in threads."""

    def files() -> Iterator[ImageFile]:
        for number, group in groupby(images, key=lambda item: item[1].input):
            chosen = list(group)
            path, places = preferences.inputs[number], [image.place for _, image in chosen]
            found = preferences.layout.read(path, places)
            for (sample_id, image), data in zip(chosen, found, strict=True):
                yield ImageFile(sample_id, preferences.source(image), data)

    return map_ahead(partial(prepare, size=size), files(), AHEAD)


def prepare(file: ImageFile, size: int) -> Prepared:
    sample_id, source, data = file.sample_id, file.source, file.data
    try:
        if data is None:
            raise ContractError(f"{source}: holds no image")
        image = open_rgb(io.BytesIO(data) if isinstance(data, bytes) else data, source)
        if max(image.size) > MAX_ASPECT * min(image.size):
            raise ContractError(f"{source}: is {image.width}x{image.height}, too long for a crop")
    except ContractError as error:
        problem = str(error).removeprefix(f"{source}: ")
        return Prepared(EncodedImage(sample_id=sample_id, source=source, problem=problem), None)
    record = EncodedImage(
        sample_id=sample_id, source=source, width=image.width, height=image.height
    )
    return Prepared(record, to_pixels(image, size))


def to_pixels(image: Image.Image, size: int) -> Tensor:
    """The centre crop [3, size, size] in [-1, 1] of the image, with its short side resized to `size`."""
    image = functional.resize(image, size, InterpolationMode.BILINEAR)
    image = functional.center_crop(image, size)
    return functional.normalize(functional.to_tensor(image), [0.5], [0.5])
