"""The policy that is trained and the reference it is held to."""

import torch
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
    """The policy: what is to be trained requires gradients and is in fp32, the rest in `dtype`."""
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
    """What is trained, as it is now: those weights that the policy's files hold stay there."""
    stored = stored_weights(policy.folder / policy.network_name)
    return {
        name: stored[name] if name in stored else parameter.detach().clone()
        for name, parameter in policy.network.named_parameters()
        if parameter.requires_grad
    }


def load_reference(
    config: TrainConfig, policy: DiffusionModel, adapter: LoraConfig | None, dtype: torch.dtype
) -> DiffusionModel:
    """The frozen reference: the policy itself where switching its adapter off gives it."""
    if adapter is not None and lasting(config.ref) == lasting(base_source(config.init_from)):
        return policy
    return load_model(config.ref, policy.device, dtype)
