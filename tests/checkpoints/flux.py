"""A FluxPipeline folder of random weights, as diffusers itself saves it."""

from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel

from tests.checkpoints.clip import VIT_L, clip_text_config, clip_tokenizer
from tests.checkpoints.t5 import t5
from tests.checkpoints.vae import vae_of_16_channels
from tests.checkpoints.weights import random_weights

TINY = {
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 16,
    "axes_dims_rope": (4, 6, 6),
}
FULL = {
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "axes_dims_rope": (16, 56, 56),
}


def flux(
    folder: Path, dev: bool = True, full: bool = False, layers: tuple[int, int] = (1, 1)
) -> Path:
    """FLUX.1-dev's layout, with guidance as an input and a shift by size, or schnell's.

    `layers`: how many double and single ones; the real model has (19, 38), 24 GB in bf16.
    """
    sizes = FULL if full else TINY
    with random_weights(full):
        tokenizer_2, text_encoder_2 = t5(sizes["joint_attention_dim"])
        FluxPipeline(
            vae=vae_of_16_channels(full, scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=CLIPTextModel(clip_text_config(**VIT_L if full else {"hidden_size": 16})),
            text_encoder_2=text_encoder_2,
            tokenizer=clip_tokenizer(folder / "tokenizer"),
            tokenizer_2=tokenizer_2,
            transformer=FluxTransformer2DModel(
                num_layers=layers[0], num_single_layers=layers[1], guidance_embeds=dev, **sizes
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(
                shift=3.0 if dev else 1.0, use_dynamic_shifting=dev
            ),
        ).save_pretrained(folder, max_shard_size="5GB")
    return folder
