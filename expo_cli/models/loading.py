"""From a source of weights (folder, LoRA checkpoint, hub id, `embedded:NAME`) to a model."""

from pathlib import Path
from typing import Any

import torch

from expo_cli.contracts.files import read_json
from expo_cli.contracts.sources import base_source, model_folder
from expo_cli.errors import ContractError
from expo_cli.models.protocol import Decoder, DiffusionModel, Encoder
from expo_cli.registry import MODELS, find, nearest


def pipeline_folder(source: str) -> Path:
    """The pipeline folder of a source; of a LoRA checkpoint, the one it adapts."""
    return model_folder(base_source(source))


def family(folder: Path) -> type:
    """The adapter class of a pipeline folder, by `_class_name` of its model_index.json.

    Raises ContractError when there is no such file or the family is not supported.
    """
    index = folder / "model_index.json"
    if not index.exists():
        raise ContractError(f"{index}: missing; {folder} is not a diffusers pipeline")
    name = read_json(index, dict[str, Any]).get("_class_name")
    if not isinstance(name, str):
        raise ContractError(f"{index}: has no _class_name")
    if name not in MODELS:
        raise ContractError(f"{index}: {name} is not supported; {nearest(name, MODELS)}")
    return find(MODELS, name)


def load_model(source: str, device: torch.device, dtype: torch.dtype) -> DiffusionModel:
    """The model of a source, its LoRA adapter applied if it has one; frozen, on `device`."""
    folder = model_folder(source)
    pipeline = pipeline_folder(source)
    model = family(pipeline)(pipeline, device, dtype)
    if folder != pipeline:
        # Imported here: peft takes a second, and most sources have no adapter.
        from expo_cli.models.lora import apply_adapter

        apply_adapter(model.network, model.network_name, folder)
        model.network.requires_grad_(False)
        model.set_dtype(dtype)
    return model


def load_decoder(source: str, device: torch.device, dtype: torch.dtype) -> Decoder:
    """Only what turns the latents of a source's model into images."""
    folder = pipeline_folder(source)
    return family(folder).decoder(folder, device, dtype)


def load_encoder(source: str, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Only what turns images into latents of a source's model."""
    folder = pipeline_folder(source)
    return family(folder).encoder(folder, device, dtype)
