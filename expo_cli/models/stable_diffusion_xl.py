"""Stable Diffusion XL: two text encoders, their pooled embedding, and the image's size as input."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from expo_cli.models.families import read_index
from expo_cli.models.protocol import Conditioning
from expo_cli.models.stable_diffusion import StableDiffusion
from expo_cli.models.text import TextEncoders, clip_embeddings, zeros_where


class StableDiffusionXLText(TextEncoders):
    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(folder, device, dtype)
        self.tokenizers = [
            self.load_tokenizer(CLIPTokenizer, n) for n in ("tokenizer", "tokenizer_2")
        ]
        self.encoders = [
            self.load_encoder(CLIPTextModel, "text_encoder"),
            self.load_encoder(CLIPTextModelWithProjection, "text_encoder_2"),
        ]
        # The default of diffusers' pipeline.
        self.zeros_for_empty = read_index(folder).get("force_zeros_for_empty_prompt", True)

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        """An empty prompt is encoded as zeros if model_index.json sets
        `force_zeros_for_empty_prompt`, as the branch without a prompt in diffusers' pipeline.

        Dropped captions are so too, unlike in diffusers' DPO script, which encodes "": guidance
        then steers away from what caption dropout has trained.
        """
        (first, _), (second, pooled) = (
            clip_embeddings(tokenizer, encoder, prompts)
            for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True)
        )
        prompt_embeds = torch.cat([first, second], dim=-1)
        if self.zeros_for_empty:
            empty = [not prompt for prompt in prompts]
            prompt_embeds, pooled = zeros_where(empty, prompt_embeds), zeros_where(empty, pooled)
        return Conditioning(prompt_embeds, pooled)

    def reads_most(self) -> tuple[CLIPTokenizer, int]:
        return self.tokenizers[0], self.tokenizers[0].model_max_length


class StableDiffusionXL(StableDiffusion):
    """A folder in the layout of diffusers' StableDiffusionXLPipeline; see `protocol.DiffusionModel`.

    Size conditioning (Podell et al., arXiv 2307.01952, section 2.2) is the pipeline's default, both
    in sampling and in training: original and target size are the image's own, with no crop.
    """

    text_class = StableDiffusionXLText

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        size = [side * self.geometry.pixels_per_latent for side in latents.shape[-2:]]
        time_ids = torch.tensor([*size, 0, 0, *size], dtype=self.dtype, device=self.device)
        return self.network(
            latents.to(self.device, self.dtype),
            timesteps.to(self.device),
            encoder_hidden_states=conditioning.prompt_embeds,
            added_cond_kwargs={
                "text_embeds": conditioning.pooled_prompt_embeds,
                "time_ids": time_ids.expand(len(latents), -1),
            },
            return_dict=False,
        )[0]
