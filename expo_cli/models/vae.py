"""Encodes and decodes images with a family's VAE."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from expo_cli.errors import ContractError, UsageError
from expo_cli.models.component import load_component, load_config


@dataclass(frozen=True)
class Geometry:
    """Sizes of a model's images in pixels: the training size, the required multiple of height and
    width, and the pixels per latent in each direction."""

    image_size: int
    multiple: int
    pixels_per_latent: int

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Raises UsageError for sizes that are not multiples of `multiple`."""
        for name, size in (("height", height), ("width", width)):
            if size % self.multiple:
                raise UsageError(f"--{name} must be a multiple of {self.multiple}, got {size}")
        return height // self.pixels_per_latent, width // self.pixels_per_latent


def pixels_per_latent(folder: Path) -> int:
    return 2 ** (len(load_config(AutoencoderKL, folder, "vae")["block_out_channels"]) - 1)


def load_vae(folder: Path, dtype: torch.dtype) -> AutoencoderKL:
    """Loads the VAE, in fp32 instead of fp16 if its config sets `force_upcast` (SDXL's overflows).

    Raises ContractError for latents normalised per channel, which no supported family has.
    """
    # Read from the file, because the class's default is SDXL's.
    config = AutoencoderKL.load_config(str(folder), subfolder="vae", local_files_only=True)
    if config.get("latents_mean") is not None:
        raise ContractError(f"{folder / 'vae'}: latents_mean and latents_std are not supported")
    overflows = dtype is torch.float16 and config.get("force_upcast", False)
    return load_component(AutoencoderKL, folder, "vae", torch.float32 if overflows else dtype)


class VAEDecoder:
    """The VAE's decoder alone; see `protocol.Decoder`."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.vae = load_vae(folder, dtype).to(device)
        self.shift = self.vae.config.shift_factor or 0.0

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.to(self.vae.device, self.vae.dtype) / self.vae.config.scaling_factor
        return (self.vae.decode(latents + self.shift).sample.float() / 2 + 0.5).clamp(0, 1)


class VAEEncoder:
    """The VAE's encoder alone; see `protocol.Encoder`."""

    def __init__(
        self, folder: Path, device: torch.device, dtype: torch.dtype, geometry: Geometry
    ) -> None:
        self.vae = load_vae(folder, dtype).to(device)
        self.shift = self.vae.config.shift_factor or 0.0
        self.geometry = geometry

    def image_size(self) -> int:
        return self.geometry.image_size

    def multiple(self) -> int:
        return self.geometry.multiple

    @torch.inference_mode()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(images.to(self.vae.device, self.vae.dtype)).latent_dist
        scale = self.vae.config.scaling_factor
        return (posterior.mean.float() - self.shift) * scale, posterior.std.float() * scale
