"""A StableDiffusionXLPipeline folder of random weights, as diffusers itself saves it."""

from pathlib import Path

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tests.tiny import clip_tokenizer
from tests.tiny.clip import clip_text_config
from tests.tiny.vae import vae


def stable_diffusion_xl(folder: Path) -> Path:
    """SDXL's layout: 3 UNet levels, hidden sizes 32 and 16 of the two encoders."""
    torch.manual_seed(0)
    StableDiffusionXLPipeline(
        vae=vae(scaling_factor=0.13025, force_upcast=True),
        text_encoder=CLIPTextModel(clip_text_config(32)),
        text_encoder_2=CLIPTextModelWithProjection(clip_text_config(16, hidden_act="gelu")),
        tokenizer=clip_tokenizer(folder / "tokenizer"),
        tokenizer_2=clip_tokenizer(folder / "tokenizer_2"),
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            transformer_layers_per_block=(1, 1, 2),
            cross_attention_dim=48,
            attention_head_dim=(2, 4, 8),
            norm_num_groups=8,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=16 + 6 * 8,
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
