"""Stable Diffusion 3 and 3.5: two CLIP text encoders and, optionally, T5."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection
from transformers.models.clip.tokenization_clip import CLIPTokenizer
from transformers.models.t5.modeling_t5 import T5EncoderModel
from transformers.models.t5.tokenization_t5 import T5Tokenizer

from expo_cli.core.noise import normal
from expo_cli.models.component import load_config
from expo_cli.models.flow_matching import FlowMatching
from expo_cli.models.protocol import Conditioning
from expo_cli.models.text import TextEncoders, clip_embeddings, t5_embeddings
from expo_cli.models.vae import Geometry, pixels_per_latent

T5_TOKENS = 256


class StableDiffusion3Text(TextEncoders):
    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(folder, device, dtype)
        self.tokenizers = [
            self.load_tokenizer(CLIPTokenizer, n) for n in ("tokenizer", "tokenizer_2")
        ]
        self.encoders = [
            self.load_encoder(CLIPTextModelWithProjection, n)
            for n in ("text_encoder", "text_encoder_2")
        ]
        if self.has_t5:
            self.t5_tokenizer = self.load_tokenizer(T5Tokenizer, "tokenizer_3")
            self.t5 = self.load_encoder(T5EncoderModel, "text_encoder_3")
        config = load_config(SD3Transformer2DModel, folder, "transformer")
        self.width = config["joint_attention_dim"]

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        """If T5 is missing, its tokens are zeros, as in diffusers' pipeline."""
        (first, first_pooled), (second, second_pooled) = (
            clip_embeddings(tokenizer, encoder, prompts)
            for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True)
        )
        clip = torch.cat([first, second], dim=-1)
        clip = F.pad(clip, (0, self.width - clip.shape[-1]))
        if self.has_t5:
            t5 = t5_embeddings(self.t5_tokenizer, self.t5, prompts, T5_TOKENS)
        else:
            t5 = clip.new_zeros(len(prompts), T5_TOKENS, self.width)
        return Conditioning(
            torch.cat([clip, t5], dim=1), torch.cat([first_pooled, second_pooled], dim=-1)
        )

    def reads_most(self) -> tuple[CLIPTokenizer | T5Tokenizer, int]:
        if self.has_t5:
            return self.t5_tokenizer, T5_TOKENS
        return self.tokenizers[0], self.tokenizers[0].model_max_length


class StableDiffusion3(FlowMatching):
    """A folder in the layout of diffusers' StableDiffusion3Pipeline; see `protocol.DiffusionModel`."""

    network_name = "transformer"
    network_class = SD3Transformer2DModel
    text_class = StableDiffusion3Text

    @classmethod
    def read_geometry(cls, folder: Path) -> Geometry:
        config, pixels = cls.network_config(folder), pixels_per_latent(folder)
        return Geometry(config["sample_size"] * pixels, config["patch_size"] * pixels, pixels)

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        return self.network(
            hidden_states=latents.to(self.device, self.dtype),
            timestep=timesteps.to(self.device),
            encoder_hidden_states=conditioning.prompt_embeds,
            pooled_projections=conditioning.pooled_prompt_embeds,
            return_dict=False,
        )[0]

    def draw_position(self, generator: torch.Generator) -> float:
        """Logit-normal(0, 1): Esser et al., arXiv 2403.03206, section 3.1."""
        return float(normal(generator, ()).sigmoid())

    def set_timesteps(
        self, scheduler: SchedulerMixin, num_inference_steps: int, shape: tuple[int, int, int]
    ) -> None:
        shift = {}
        if scheduler.config.use_dynamic_shifting:
            _, height, width = shape
            patch = self.network.config.patch_size
            shift = {"mu": self.dynamic_shift((height // patch) * (width // patch))}
        scheduler.set_timesteps(num_inference_steps, **shift)
