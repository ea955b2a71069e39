"""LoRA adapters on disk: diffusers' weight file and peft's config.

`pytorch_lora_weights.safetensors` is what `pipeline.load_lora_weights(folder)` reads;
`adapter_config.json` (peft) names the base model, the rank and alpha. The kohya file is for other tools.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.loaders.peft import PeftAdapterMixin
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from expo_cli.contracts.files import read_json, write_json
from expo_cli.contracts.sources import ADAPTER_CONFIG, AdapterConfig, written_down
from expo_cli.contracts.tensors import read_tensors, write_tensors
from expo_cli.errors import ContractError, UsageError, one_line
from expo_cli.models.kohya import KOHYA_WEIGHTS, write_kohya
from expo_cli.models.modelspec import lora_modelspec
from expo_cli.models.protocol import DiffusionModel

ADAPTER_WEIGHTS = "pytorch_lora_weights.safetensors"


def new_adapter(
    network: PeftAdapterMixin, rank: int, alpha: int, target_modules: list[str], seed: int
) -> LoraConfig:
    """Add a LoRA adapter in fp32 to all layers with these name suffixes; untrained, it has no effect.

    Raises UsageError when there are no such layers, or peft cannot adapt them.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=target_modules)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            add_adapter(network, config)
        except ValueError as error:
            raise UsageError(f"--lora-target-modules: {one_line(str(error))}") from error
    return config


def add_adapter(network: PeftAdapterMixin, config: LoraConfig) -> None:
    network.add_adapter(config)
    # peft casts it to the network's dtype.
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()


def read_config(folder: Path) -> LoraConfig:
    config = read_json(folder / ADAPTER_CONFIG, AdapterConfig)
    return LoraConfig(
        r=config.r, lora_alpha=config.lora_alpha, target_modules=config.target_modules
    )


def prefix(network_name: str) -> str:
    """diffusers' prefix for a network in a LoRA file."""
    return f"{network_name}."


def apply_adapter(network: PeftAdapterMixin, network_name: str, folder: Path) -> None:
    """Load the adapter of a checkpoint folder into `network`, in fp32.

    Raises ContractError when the file's weights do not fit the config.
    """
    path = folder / ADAPTER_WEIGHTS
    start = prefix(network_name)
    tensors = {name.removeprefix(start): t for name, t in read_tensors(path).items()}
    config = read_config(folder)
    # Checked before anything of that rank is allocated, as the config may claim any.
    ranks = {t.shape[:1] for name, t in tensors.items() if "lora_A" in name}
    if ranks != {(config.r,)}:
        raise ContractError(f"{path}: does not fit {ADAPTER_CONFIG}, whose rank is {config.r}")
    try:
        add_adapter(network, config)
        outcome = set_peft_model_state_dict(network, tensors)
    except (ValueError, RuntimeError) as error:
        reason = one_line(str(error))
        raise ContractError(f"{path}: does not fit this model: {reason}") from error
    wanted = len(get_peft_model_state_dict(network))
    if outcome.unexpected_keys or len(tensors) != wanted:
        raise ContractError(
            f"{path}: does not fit this model ({len(tensors)} tensors, {wanted} wanted)"
        )


def save_adapter(
    model: DiffusionModel,
    weights: dict[str, Tensor],
    folder: Path,
    config: LoraConfig,
    base: str,
    metadata: Mapping[str, str],
) -> None:
    """Write an adapter into `folder`; `weights` are its parameters as the network names them.

    `metadata` goes into the kohya file. The config is written last.
    """
    settings = {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "target_modules": sorted(config.target_modules),
    }
    start = prefix(model.network_name)
    # Without this header diffusers assumes that alpha is the rank.
    header = json.dumps({f"{start}{key}": value for key, value in settings.items()})
    tensors = get_peft_model_state_dict(model.network, state_dict=weights)
    tensors = {f"{start}{name}": tensor for name, tensor in tensors.items()}
    write_tensors(folder / ADAPTER_WEIGHTS, tensors, {LORA_ADAPTER_METADATA_KEY: header})
    write_kohya(folder / KOHYA_WEIGHTS, tensors, config, {**metadata, **lora_modelspec(model)})
    known = written_down("base", base, folder)
    configuration = {"peft_type": "LORA", "base_model_name_or_path": known.pop("base")}
    configuration |= known | settings
    write_json(folder / ADAPTER_CONFIG, configuration)
