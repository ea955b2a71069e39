"""The interface of a family of diffusion models."""

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
    """The network's input for a batch of prompts.

    `prompt_embeds` [batch, tokens, dim]; in some families also `pooled_prompt_embeds` [batch, dim]
    and `guidance` [batch], a guidance scale that is an input of the network. Inputs that depend on
    the image's size are added by `DiffusionModel.predict`.
    """

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor | None = None
    guidance: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.prompt_embeds, self.pooled_prompt_embeds, self.guidance

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors() if tensor is not None)

    def rows(self, indices: Sequence[int]) -> "Conditioning":
        chosen = list(indices)
        return Conditioning(*(None if t is None else t[chosen] for t in self.tensors()))

    @staticmethod
    def concatenate(batches: Sequence["Conditioning"]) -> "Conditioning":
        columns = zip(*(batch.tensors() for batch in batches), strict=True)
        return Conditioning(*(None if c[0] is None else torch.cat(c) for c in columns))


class Decoder(Protocol):
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [batch, channels, height, width] -> fp32 images in [0, 1], [batch, 3, H, W]."""


class Encoder(Protocol):
    def image_size(self) -> int:
        """Height and width in pixels of the images the model was trained on."""

    def multiple(self) -> int:
        """Height and width must be multiples of this."""

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1], [batch, 3, H, W] -> fp32 mean and standard deviation of the latents,
        each [batch, channels, height, width]."""


class TextEncoder(Protocol):
    cut: set[str]
    """The encoded prompts that are too long for every text encoder, so that their end is ignored."""

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of each prompt, on the model's device."""


class DiffusionModel(Decoder, TextEncoder, Protocol):
    """A loaded pipeline folder. `network` is trained; everything else is frozen.

    `encode` uses `text`: by default the folder's own text encoders, which are loaded on first use
    unless they have been replaced.
    """

    folder: Path
    text: TextEncoder
    network: nn.Module
    network_name: str
    device: torch.device
    dtype: torch.dtype
    num_train_timesteps: int

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Cast all weights to `dtype`."""

    def image_size(self) -> int:
        """Height and width in pixels of the images that it was trained on."""

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape [channels, height, width] of the latents of an image of that size in pixels.

        Raises UsageError when the size is not a multiple of what the model needs.
        """

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's raw output for noisy latents [batch, channels, height, width]."""

    def training_timestep(self, generator: torch.Generator) -> float:
        """A training timestep from the family's distribution."""

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """A draw from q(x_t | x_0) with the given noise."""

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The target of `predict` for `add_noise` with the same arguments."""

    def epsilon(self, prediction: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        """The noise that a prediction implies, for `core.kl`."""

    def make_scheduler(self, name: str) -> SchedulerMixin:
        """The named sampler with this model's noise schedule. Raises UsageError if unknown."""

    def set_timesteps(
        self, scheduler: SchedulerMixin, num_inference_steps: int, shape: tuple[int, int, int]
    ) -> None:
        """Set the sampler's steps for latents of that shape. Raises ValueError if it cannot."""

    def reference(self) -> AbstractContextManager[None]:
        """A context in which `predict` is the model without its LoRA adapter."""
