"""Attention in training on a CPU."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor

from expo_cli.stages.train.policies import CPUAttention


def outputs(attention: Attention, processor: object, states: Tensor, texts: Tensor | None):
    """What comes out, and the gradient with respect to what went in."""
    attention.set_processor(processor)
    states = states.clone().requires_grad_()
    out = attention(states, encoder_hidden_states=texts)
    (gradient,) = torch.autograd.grad(out.square().sum(), states)
    return out.detach(), gradient


@pytest.mark.parametrize(
    ("dtype", "queries", "keys", "expected"),
    [
        (torch.bfloat16, 64, None, AttnProcessor),
        (torch.bfloat16, 256, None, AttnProcessor),
        (torch.bfloat16, 257, None, AttnProcessor2_0),
        (torch.bfloat16, 400, 77, AttnProcessor),
        (torch.float32, 64, None, AttnProcessor2_0),
        (torch.float32, 64, 77, AttnProcessor2_0),
    ],
)
def test_it_is_the_faster_of_the_two_to_the_bit(dtype, queries, keys, expected):
    torch.manual_seed(0)
    attention = Attention(16, cross_attention_dim=keys and 24, heads=2, dim_head=8).to(dtype)
    states = torch.randn(2, queries, 16).to(dtype)
    texts = torch.randn(2, keys, 24).to(dtype) if keys else None
    made = outputs(attention, CPUAttention(), states, texts)
    for mine, same in zip(made, outputs(attention, expected(), states, texts), strict=True):
        assert torch.equal(mine, same)
    other = {AttnProcessor: AttnProcessor2_0, AttnProcessor2_0: AttnProcessor}[expected]
    for mine, like in zip(made, outputs(attention, other(), states, texts), strict=True):
        torch.testing.assert_close(mine, like, rtol=0.05, atol=0.05)


def test_a_unet_takes_it(tiny_sd):
    unet = UNet2DConditionModel.from_pretrained(tiny_sd, subfolder="unet")
    unet.set_attn_processor(CPUAttention())
    width = unet.config.cross_attention_dim
    latents, texts = torch.randn(1, 4, 8, 8), torch.randn(1, 77, width)
    mine = unet(latents, 5, texts).sample
    unet.set_attn_processor(AttnProcessor2_0())
    assert torch.equal(mine, unet(latents, 5, texts).sample)
