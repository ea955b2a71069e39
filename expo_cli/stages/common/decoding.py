"""Decodes the latents of a rollout to images."""

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from expo_cli.contracts.tensors import TensorFiles
from expo_cli.errors import ContractError
from expo_cli.models.loading import load_decoder


class LatentDecoder:
    """Decodes with the VAE of a model source."""

    def __init__(self, source: str, device: torch.device, dtype: torch.dtype) -> None:
        self.source = source
        self.decoder = load_decoder(source, device, dtype)
        self.files = TensorFiles()

    def images(self, path: Path, digests: Mapping[str, str | None]) -> list[Image.Image]:
        """The images of samples whose latents are in one safetensors file, in the order of their ids.

        Raises ContractError when latents are missing, not finite, do not fit the VAE, or do not
        match their digest.
        """
        sample_ids = list(digests)
        if not sample_ids:
            return []
        latents = [self.files.get(path, name, digest) for name, digest in digests.items()]
        for sample_id, one in zip(sample_ids, latents, strict=True):
            if not one.isfinite().all():
                raise ContractError(f"{path}: the latents of {sample_id} are not finite")
            if one.shape != latents[0].shape:
                raise ContractError(
                    f"{path}: the latents of {sample_id} are {list(one.shape)}, "
                    f"those of {sample_ids[0]} {list(latents[0].shape)}"
                )
        try:
            pixels = self.decoder.decode(torch.stack(latents))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ContractError(
                f"{path}: latents of shape {list(latents[0].shape)} do not fit the VAE of "
                f"{self.source}: {error}"
            ) from error
        for sample_id, one in zip(sample_ids, pixels, strict=True):
            if not one.isfinite().all():
                raise ContractError(f"{path}: {sample_id} decodes to NaN; try --dtype fp32")
        return to_images(pixels)


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Images [batch, 3, height, width] in [0, 1], rounded to 8 bits."""
    rounded = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(image) for image in rounded]
