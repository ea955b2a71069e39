"""The attention of a UNet that is trained on a CPU."""

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor

from expo_cli.models.protocol import DiffusionModel

# Beyond, the plain attention gains little, and keeps a matrix of queries by keys.
MAX_PLAIN_KEYS = 256


class CPUAttention:
    """Plain attention in bf16 where keys are few, else the fused one, as diffusers itself has it.

    With torch's fused kernel, forward and backward pass take 1.4 to 3 times as long in bf16 up to
    256 keys, and no longer beyond 1000 or in fp32 (`python -m tests.benchmarks.attention`).
    """

    plain, fused = AttnProcessor(), AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Queries from (B, N, C), keys from (B, K, C') or the same; returns (B, N, C)."""
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        few = hidden_states.dtype is torch.bfloat16 and keys.shape[1] <= MAX_PLAIN_KEYS
        process = self.plain if few else self.fused
        return process(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


def use_fast_attention(model: DiffusionModel) -> None:
    """For policy and reference alike, so that equal weights give equal errors."""
    if model.device.type == "cpu" and model.network_name == "unet":
        model.network.set_attn_processor(CPUAttention())
