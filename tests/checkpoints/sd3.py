"""A StableDiffusion3Pipeline folder of random weights, as diffusers itself saves it."""

from pathlib import Path

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModelWithProjection

from tests.checkpoints.clip import VIT_BIG_G, VIT_L, clip_text_config, clip_tokenizer
from tests.checkpoints.t5 import t5
from tests.checkpoints.vae import vae_of_16_channels
from tests.checkpoints.weights import random_weights

TINY = {
    "sample_size": 8,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 64,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 32 + 16,
    "pos_embed_max_size": 16,
    "dual_attention_layers": (0,),
}
FULL = {
    "sample_size": 128,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 768 + 1280,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
}


def stable_diffusion_3(folder: Path, with_t5: bool = True, full: bool = False) -> Path:
    """SD 3.5 medium's layout: RMS norms, dual attention in the first layers, 16 latent channels.

    `full` is 16 GB, of which T5-XXL is 9.5.
    """
    text, text_2 = (VIT_L, VIT_BIG_G) if full else ({"hidden_size": 32}, {"hidden_size": 16})
    sizes = FULL if full else TINY
    with random_weights(full):
        tokenizer_3, encoder_3 = t5(sizes["joint_attention_dim"]) if with_t5 else (None, None)
        StableDiffusion3Pipeline(
            vae=vae_of_16_channels(full, scaling_factor=1.5305, shift_factor=0.0609),
            text_encoder=CLIPTextModelWithProjection(clip_text_config(**text)),
            text_encoder_2=CLIPTextModelWithProjection(
                clip_text_config(**text_2, hidden_act="gelu")
            ),
            text_encoder_3=encoder_3,
            tokenizer=clip_tokenizer(folder / "tokenizer"),
            tokenizer_2=clip_tokenizer(folder / "tokenizer_2"),
            tokenizer_3=tokenizer_3,
            transformer=SD3Transformer2DModel(qk_norm="rms_norm", **sizes),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        ).save_pretrained(folder, max_shard_size="5GB")
    return folder
