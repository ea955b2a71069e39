"""A StableDiffusionXLPipeline folder of random weights, as diffusers itself saves it."""

from pathlib import Path

from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tests.checkpoints.clip import VIT_BIG_G, VIT_L, clip_text_config, clip_tokenizer
from tests.checkpoints.vae import vae
from tests.checkpoints.weights import random_weights

TINY = {
    "sample_size": 8,
    "block_out_channels": (32, 32, 64),
    "layers_per_block": 1,
    "transformer_layers_per_block": (1, 1, 2),
    "cross_attention_dim": 32 + 16,
    "attention_head_dim": (2, 4, 8),
    "norm_num_groups": 8,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 16 + 6 * 8,
}
FULL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 768 + 1280,
    "attention_head_dim": (5, 10, 20),
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 1280 + 6 * 256,
}


def stable_diffusion_xl(folder: Path, full: bool = False) -> Path:
    """SDXL's layout, 3 UNet levels and two text encoders; `full` is 7 GB."""
    text, text_2 = (VIT_L, VIT_BIG_G) if full else ({"hidden_size": 32}, {"hidden_size": 16})
    with random_weights(full):
        StableDiffusionXLPipeline(
            vae=vae(full, scaling_factor=0.13025, force_upcast=True),
            text_encoder=CLIPTextModel(clip_text_config(**text)),
            text_encoder_2=CLIPTextModelWithProjection(
                clip_text_config(**text_2, hidden_act="gelu")
            ),
            tokenizer=clip_tokenizer(folder / "tokenizer"),
            tokenizer_2=clip_tokenizer(folder / "tokenizer_2"),
            unet=UNet2DConditionModel(
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                use_linear_projection=True,
                addition_embed_type="text_time",
                **FULL if full else TINY,
            ),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                steps_offset=1,
                timestep_spacing="leading",
            ),
        ).save_pretrained(folder)
    return folder
