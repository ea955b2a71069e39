"""LoRA names and metadata for networks of which no checkpoint is needed."""

import pytest
import torch
from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin

from expo_cli.models.kohya import kohya_tensors
from expo_cli.models.modelspec import architecture_and_version


def test_alpha_is_alpha():
    down, up = torch.ones(4, 3), torch.ones(2, 4)
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    converted = kohya_tensors({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, 10)
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
    assert converted.keys() == {
        f"{layer}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    assert converted[f"{layer}.lora_down.weight"] is down
    assert converted[f"{layer}.lora_up.weight"] is up
    assert converted[f"{layer}.alpha"].item() == 10


def test_a_transformers_lora_is_read_back_by_diffusers():
    """FLUX; diffusers' reader of such names folds alpha / rank into the tensors."""
    layers = [
        "transformer.transformer_blocks.0.attn.to_q",
        "transformer.transformer_blocks.11.attn.add_k_proj",
        "transformer.transformer_blocks.11.attn.to_out.0",
        "transformer.single_transformer_blocks.3.attn.to_v",
    ]
    tensors = {
        f"{layer}.lora_{role}.weight": torch.randn(size)
        for layer in layers
        for role, size in (("A", (4, 6)), ("B", (5, 4)))
    }
    read = FluxLoraLoaderMixin.lora_state_dict(kohya_tensors(tensors, 10))
    assert read.keys() == tensors.keys()
    for layer in layers:
        a, b = f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"
        torch.testing.assert_close(read[b] @ read[a], 10 / 4 * tensors[b] @ tensors[a])


@pytest.mark.parametrize(
    ("pipeline", "predicted", "network", "expected"),
    [
        (
            "StableDiffusionPipeline",
            "epsilon",
            {"cross_attention_dim": 768},
            ("stable-diffusion-v1", "sd_v1"),
        ),
        (
            "StableDiffusionPipeline",
            "epsilon",
            {"cross_attention_dim": 1024},
            ("stable-diffusion-v2-512", "sd_v2"),
        ),
        (
            "StableDiffusionPipeline",
            "v",
            {"cross_attention_dim": 1024},
            ("stable-diffusion-v2-768-v", "sd_v2_v"),
        ),
        (
            "StableDiffusionXLPipeline",
            "epsilon",
            {},
            ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
        ),
        (
            "StableDiffusion3Pipeline",
            None,
            {"qk_norm": None},
            ("stable-diffusion-v3-medium", "sd3"),
        ),
        (
            "StableDiffusion3Pipeline",
            None,
            {"qk_norm": "rms_norm"},
            ("stable-diffusion-v3.5-large", "sd3"),
        ),
        ("FluxPipeline", None, {"guidance_embeds": True}, ("flux-1-dev", "flux1")),
        ("SomePipeline", None, {}, ("SomePipeline", "SomePipeline")),
    ],
)
def test_architectures(pipeline, predicted, network, expected):
    assert architecture_and_version(pipeline, predicted, network) == expected
