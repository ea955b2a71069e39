"""A checkpoint as wide as Stable Diffusion 1.5, with random weights."""

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel

from tests.tiny import stable_diffusion


def stable_diffusion_15(folder: Path) -> Path:
    """SD 1.5's UNet, VAE and text encoder as their config.json files describe them; 2 GB in bf16.

    Tokenizer, scheduler and model_index.json are those of the tests' small checkpoint.
    """
    stable_diffusion(folder)
    torch.manual_seed(0)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            hidden_act="quick_gelu",
            bos_token_id=49406,
            eos_token_id=49407,
        )
    )
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=512,
    )
    for name, network in {"text_encoder": text_encoder, "unet": unet, "vae": vae}.items():
        network.to(torch.bfloat16).save_pretrained(folder / name)
    return folder
