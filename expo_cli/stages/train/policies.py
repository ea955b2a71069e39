"""Loads the policy and its reference, and sets the attention of a UNet on a CPU."""

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from peft import LoraConfig
from torch import Tensor

from expo_cli.config import TrainConfig
from expo_cli.contracts.sources import base_source, is_adapter, lasting, model_folder
from expo_cli.errors import ExpoError
from expo_cli.models.component import stored_weights
from expo_cli.models.families import lora_targets, pipeline_class
from expo_cli.models.loading import load_base, load_model
from expo_cli.models.lora import apply_adapter, new_adapter, read_config
from expo_cli.models.protocol import DiffusionModel


def load_policy(
    config: TrainConfig, device: torch.device, dtype: torch.dtype
) -> tuple[DiffusionModel, LoraConfig | None]:
    """The policy: trained weights are fp32 and require gradients, the others are in `dtype`."""
    if not config.use_lora:
        policy = load_model(config.init_from, device, torch.float32)
        policy.network.requires_grad_(True)
        return policy, None
    policy = load_base(config.init_from, device, dtype)
    folder = model_folder(config.init_from)
    if is_adapter(folder):
        adapter = read_config(folder)
        if (adapter.r, adapter.lora_alpha) != (config.lora_rank, config.lora_alpha):
            raise ExpoError(
                f"{folder}: has LoRA rank {adapter.r} and alpha {adapter.lora_alpha}, not "
                f"{config.lora_rank} and {config.lora_alpha}"
            )
        wanted = set(config.lora_target_modules)
        if wanted and wanted != set(adapter.target_modules):
            raise ExpoError(
                f"{folder}: its LoRA adapts {', '.join(sorted(adapter.target_modules))}, not "
                f"{', '.join(sorted(wanted))}"
            )
        apply_adapter(policy.network, policy.network_name, folder)
    else:
        targets = list(config.lora_target_modules or lora_targets(pipeline_class(policy.folder)))
        adapter = new_adapter(
            policy.network, config.lora_rank, config.lora_alpha, targets, config.seed
        )
    for name, parameter in policy.network.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return policy, adapter


def starting_weights(policy: DiffusionModel) -> dict[str, Tensor]:
    """The initial trained weights; those that are in the policy's files are memory-mapped."""
    stored = stored_weights(policy.folder / policy.network_name)
    return {
        name: stored[name] if name in stored else parameter.detach().clone()
        for name, parameter in policy.network.named_parameters()
        if parameter.requires_grad
    }


def load_reference(
    config: TrainConfig, policy: DiffusionModel, adapter: LoraConfig | None, dtype: torch.dtype
) -> DiffusionModel:
    """The frozen reference; the policy itself if disabling its adapter gives the reference."""
    if adapter is not None and lasting(config.ref) == lasting(base_source(config.init_from)):
        return policy
    return load_model(config.ref, policy.device, dtype)


# With more keys, plain attention gains little, and it stores a matrix of queries by keys.
MAX_PLAIN_KEYS = 256


class CPUAttention:
    """Plain attention in bf16 with few keys, else torch's fused kernel, which is diffusers' default.

    With the fused kernel, forward and backward pass take 1.4 to 3 times as long in bf16 up to 256
    keys, but no longer beyond 1000 or in fp32 (`python -m tests.benchmarks.attention`).
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
        """Queries from (B, N, C), keys from (B, K, C') or the queries' input; returns (B, N, C)."""
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        few = hidden_states.dtype is torch.bfloat16 and keys.shape[1] <= MAX_PLAIN_KEYS
        process = self.plain if few else self.fused
        return process(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


def use_fast_attention(model: DiffusionModel) -> None:
    """Applied to both policy and reference, so that equal weights give equal errors."""
    if model.device.type == "cpu" and model.network_name == "unet":
        model.network.set_attn_processor(CPUAttention())
