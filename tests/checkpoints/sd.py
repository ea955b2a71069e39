"""A StableDiffusionPipeline folder of random weights."""

import json
from pathlib import Path

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from transformers.models.clip.modeling_clip import CLIPTextModel

from tests.checkpoints.clip import VIT_L, clip_text_config, clip_tokenizer
from tests.checkpoints.vae import vae
from tests.checkpoints.weights import random_weights

TINY = {
    "sample_size": 8,
    "block_out_channels": (32, 32, 64, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
FULL = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}


def stable_diffusion(
    folder: Path, prediction_type: str = "epsilon", seed: int = 0, full: bool = False
) -> Path:
    """SD 1.5's layout, 4 UNet levels and a VAE of factor 8; `full` is 2 GB."""
    text = VIT_L if full else {"hidden_size": 32, "num_hidden_layers": 2}
    clip_tokenizer(folder / "tokenizer")
    with random_weights(full, seed):
        CLIPTextModel(clip_text_config(**text)).save_pretrained(folder / "text_encoder")
        UNet2DConditionModel(**FULL if full else TINY).save_pretrained(folder / "unet")
        vae(full).save_pretrained(folder / "vae")
    PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        set_alpha_to_one=False,
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type=prediction_type,
    ).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(
        json.dumps(
            {
                "_class_name": "StableDiffusionPipeline",
                "feature_extractor": [None, None],
                "image_encoder": [None, None],
                "requires_safety_checker": False,
                "safety_checker": [None, None],
                "scheduler": ["diffusers", "PNDMScheduler"],
                "text_encoder": ["transformers", "CLIPTextModel"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "unet": ["diffusers", "UNet2DConditionModel"],
                "vae": ["diffusers", "AutoencoderKL"],
            }
        )
    )
    return folder
