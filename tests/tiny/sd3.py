"""A StableDiffusion3Pipeline folder of random weights, as diffusers itself saves it."""

from pathlib import Path

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModelWithProjection

from tests.tiny import clip_tokenizer
from tests.tiny.clip import clip_text_config
from tests.tiny.t5 import t5
from tests.tiny.vae import vae_of_16_channels


def stable_diffusion_3(folder: Path, with_t5: bool = True) -> Path:
    """SD 3.5 medium's layout: RMS norms, dual attention in the first layer, 16 latent channels."""
    torch.manual_seed(0)
    tokenizer_3, text_encoder_3 = t5(64) if with_t5 else (None, None)
    StableDiffusion3Pipeline(
        vae=vae_of_16_channels(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=CLIPTextModelWithProjection(clip_text_config(32)),
        text_encoder_2=CLIPTextModelWithProjection(clip_text_config(16, hidden_act="gelu")),
        text_encoder_3=text_encoder_3,
        tokenizer=clip_tokenizer(folder / "tokenizer"),
        tokenizer_2=clip_tokenizer(folder / "tokenizer_2"),
        tokenizer_3=tokenizer_3,
        transformer=SD3Transformer2DModel(
            sample_size=8,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=48,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)
    return folder
