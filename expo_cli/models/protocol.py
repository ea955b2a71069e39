"""What a family of diffusion models is to the rest of EXPO."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn


@dataclass(frozen=True)
class Conditioning:
    """What the network sees of a batch of prompts: `prompt_embeds` [batch, tokens, dim]."""

    prompt_embeds: Tensor

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def rows(self, indices: Sequence[int]) -> "Conditioning":
        return Conditioning(self.prompt_embeds[list(indices)])

    @staticmethod
    def concatenate(batches: Sequence["Conditioning"]) -> "Conditioning":
        return Conditioning(torch.cat([batch.prompt_embeds for batch in batches]))


class Decoder(Protocol):
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [batch, channels, height, width] -> fp32 images in [0, 1], [batch, 3, H, W]."""


class Encoder(Protocol):
    def image_size(self) -> int:
        """Height and width in pixels of the images the model was trained on."""

    def multiple(self) -> int:
        """What height and width must be multiples of."""

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1], [batch, 3, H, W] -> fp32 mean and standard deviation of the latents,
        each [batch, channels, height, width]."""


class DiffusionModel(Decoder, Protocol):
    """A pipeline folder, loaded. `network` is what is trained; the rest is frozen."""

    folder: Path
    network: nn.Module
    network_name: str
    device: torch.device
    dtype: torch.dtype
    num_train_timesteps: int

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Round all weights to `dtype`."""

    def image_size(self) -> int:
        """Height and width in pixels of the images it was trained on."""

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Latents' [channels, height, width] for an image of that many pixels.

        Raises UsageError when the size is not a multiple of what the model needs.
        """

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of each prompt, on the model's device."""

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's raw output for noisy latents [batch, channels, height, width]."""

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """A draw from q(x_t | x_0) with the given noise."""

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What `predict` should say of `add_noise` with the same arguments."""

    def epsilon(self, prediction: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        """The noise that a prediction implies; for the KL of `core.kl`."""

    def make_scheduler(self, name: str) -> SchedulerMixin:
        """The named sampler over this model's noise schedule. Raises UsageError if unknown."""

    def alphas_cumprod(self) -> Tensor:
        """The noise schedule [num_train_timesteps], on the CPU."""

    def reference(self) -> AbstractContextManager[None]:
        """Inside, `predict` is the model without its LoRA adapter."""
