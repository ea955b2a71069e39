"""LoRA files and names for ComfyUI, AUTOMATIC1111 and other tools that read the format of kohya's sd-scripts.

Names are those of sd-scripts for a UNet and of OneTrainer for a transformer: `lora_`, then the
diffusers names of network and layer with `_` for each dot. ComfyUI reads both
(comfy/lora.py, model_lora_keys_unet).
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig
from torch import Tensor

from expo_cli.contracts.tensors import tensors_sha256, write_tensors

KOHYA_WEIGHTS = "kohya_lora.safetensors"
ROLES = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}


def kohya_tensors(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The tensors of a diffusers LoRA file under kohya's names, with `alpha` for each layer.

    A layer's weight W becomes W + alpha / rank * up @ down. diffusers' own converter,
    `convert_state_dict_to_kohya`, writes the rank for alpha.
    """
    converted = {}
    for name, tensor in tensors.items():
        layer, role = name.rsplit(".", 2)[0], ".".join(name.rsplit(".", 2)[1:])
        layer = f"lora_{layer.replace('.', '_')}"
        converted[f"{layer}.{ROLES[role]}"] = tensor
        converted[f"{layer}.alpha"] = torch.tensor(float(alpha))
    return converted


def write_kohya(
    path: Path, tensors: Mapping[str, Tensor], config: LoraConfig, metadata: Mapping[str, str]
) -> None:
    """Write a diffusers LoRA file's tensors as a kohya file.

    `metadata` is extended by keys that user interfaces read (network and hash).
    """
    converted = kohya_tensors(tensors, config.lora_alpha)
    digest = tensors_sha256(converted)
    network = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(config.r),
        "ss_network_alpha": str(float(config.lora_alpha)),
        "sshs_model_hash": digest,
        "modelspec.hash_sha256": f"0x{digest}",
    }
    write_tensors(path, converted, {**metadata, **network})
