"""A FluxPipeline folder of random weights, as diffusers itself saves it."""

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel

from tests.tiny import clip_tokenizer
from tests.tiny.clip import clip_text_config
from tests.tiny.t5 import t5
from tests.tiny.vae import vae_of_16_channels


def flux(folder: Path, dev: bool = True) -> Path:
    """FLUX.1-dev's layout, with guidance as an input and a shift by size, or schnell's."""
    torch.manual_seed(0)
    tokenizer_2, text_encoder_2 = t5(32)
    FluxPipeline(
        vae=vae_of_16_channels(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=CLIPTextModel(clip_text_config(16)),
        text_encoder_2=text_encoder_2,
        tokenizer=clip_tokenizer(folder / "tokenizer"),
        tokenizer_2=tokenizer_2,
        transformer=FluxTransformer2DModel(
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=dev,
            axes_dims_rope=(4, 6, 6),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if dev else 1.0, use_dynamic_shifting=dev
        ),
    ).save_pretrained(folder)
    return folder
