"""FLUX.1: T5 and a pooled CLIP embedding, patches of 2x2 latents, guidance as an input."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer
from transformers.models.t5.modeling_t5 import T5EncoderModel
from transformers.models.t5.tokenization_t5 import T5Tokenizer

from expo_cli.models.flow_matching import FlowMatching
from expo_cli.models.protocol import Conditioning
from expo_cli.models.text import TextEncoders, t5_embeddings, token_ids
from expo_cli.models.vae import Geometry, pixels_per_latent

T5_TOKENS = 512
PATCH = 2
# From diffusers' FluxPipeline; the model's config does not state its size.
LATENTS_PER_SIDE = 128
# The guidance input in training, as in diffusers' train_dreambooth_lora_flux.py.
TRAINING_GUIDANCE = 3.5


class FluxText(TextEncoders):
    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(folder, device, dtype)
        self.clip_tokenizer = self.load_tokenizer(CLIPTokenizer, "tokenizer")
        self.clip = self.load_encoder(CLIPTextModel, "text_encoder")
        self.t5_tokenizer = self.load_tokenizer(T5Tokenizer, "tokenizer_2")
        self.t5 = self.load_encoder(T5EncoderModel, "text_encoder_2")

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        pooled = self.clip(token_ids(self.clip_tokenizer, prompts).to(self.device)).pooler_output
        t5 = t5_embeddings(self.t5_tokenizer, self.t5, prompts, T5_TOKENS)
        guidance = torch.full((len(prompts),), TRAINING_GUIDANCE, device=self.device)
        return Conditioning(t5, pooled, guidance)

    def reads_most(self) -> tuple[T5Tokenizer, int]:
        return self.t5_tokenizer, T5_TOKENS


class Flux(FlowMatching):
    """A folder in the layout of diffusers' FluxPipeline; see `protocol.DiffusionModel`.

    The guidance scale is an input of the network (FLUX.1-dev) or has no effect (schnell).
    """

    network_name = "transformer"
    network_class = FluxTransformer2DModel
    text_class = FluxText

    @classmethod
    def read_geometry(cls, folder: Path) -> Geometry:
        pixels = pixels_per_latent(folder)
        return Geometry(LATENTS_PER_SIDE * pixels, PATCH * pixels, pixels)

    @property
    def latent_channels(self) -> int:
        return self.network.config.in_channels // PATCH**2

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        height, width = latents.shape[-2:]
        tokens = conditioning.prompt_embeds.shape[1]
        packed = self.network(
            hidden_states=pack(latents.to(self.device, self.dtype)),
            timestep=timesteps.to(self.device) / self.num_train_timesteps,
            guidance=conditioning.guidance if self.network.config.guidance_embeds else None,
            pooled_projections=conditioning.pooled_prompt_embeds,
            encoder_hidden_states=conditioning.prompt_embeds,
            txt_ids=torch.zeros(tokens, 3, device=self.device, dtype=self.dtype),
            img_ids=positions(height // PATCH, width // PATCH).to(self.device, self.dtype),
            return_dict=False,
        )[0]
        return unpack(packed, height, width)

    def draw_position(self, generator: torch.Generator) -> float:
        """Uniform, the default of diffusers' train_dreambooth_lora_flux.py."""
        return float(torch.rand((), generator=generator))

    def set_timesteps(
        self, scheduler: SchedulerMixin, num_inference_steps: int, shape: tuple[int, int, int]
    ) -> None:
        _, height, width = shape
        scheduler.set_timesteps(
            sigmas=np.linspace(1.0, 1 / num_inference_steps, num_inference_steps),
            mu=self.dynamic_shift((height // PATCH) * (width // PATCH)),
        )


def pack(latents: Tensor) -> Tensor:
    """[batch, channels, height, width] -> [batch, patches, channels of a patch]."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * PATCH**2)


def unpack(patches: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack`."""
    batch = len(patches)
    latents = patches.view(batch, height // PATCH, width // PATCH, -1, PATCH, PATCH)
    return latents.permute(0, 3, 1, 4, 2, 5).reshape(batch, -1, height, width)


def positions(rows: int, columns: int) -> Tensor:
    """(0, row, column) of each patch, [patches, 3]."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(-1, 3)
