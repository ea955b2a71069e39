"""Loads models from a source of weights (folder, LoRA checkpoint, hub id, `embedded:NAME`)."""

from pathlib import Path

import torch

from expo_cli.contracts.sources import is_adapter, model_folder
from expo_cli.models.families import pipeline_class, pipeline_folder
from expo_cli.models.protocol import Decoder, DiffusionModel, Encoder, TextEncoder
from expo_cli.models.vae import VAEDecoder, VAEEncoder
from expo_cli.registry import MODELS, find


def family(folder: Path) -> type:
    """The adapter class of a pipeline folder; errors as `pipeline_class`."""
    return find(MODELS, pipeline_class(folder))


def load_base(source: str, device: torch.device, dtype: torch.dtype) -> DiffusionModel:
    """The model of a source without its LoRA adapter; frozen, on `device`."""
    pipeline = pipeline_folder(source)
    return family(pipeline)(pipeline, device, dtype)


def load_model(source: str, device: torch.device, dtype: torch.dtype) -> DiffusionModel:
    """The model of a source, its LoRA adapter applied if it has one; frozen, on `device`."""
    model = load_base(source, device, dtype)
    folder = model_folder(source)
    if folder != model.folder:
        # Imported here: peft takes a second to import, and most sources have no adapter.
        from expo_cli.models.lora import apply_adapter

        apply_adapter(model.network, model.network_name, folder)
        model.network.requires_grad_(False)
        model.set_dtype(dtype)
    return model


def load_reference(
    ref: str, policy: DiffusionModel, source: str, dtype: torch.dtype
) -> DiffusionModel:
    """The frozen model of `ref`; the `policy` itself, loaded from `source`, if disabling its LoRA
    adapter gives that model."""
    if is_adapter(model_folder(source)) and model_folder(ref).samefile(policy.folder):
        return policy
    return load_model(ref, policy.device, dtype)


def load_decoder(source: str, device: torch.device, dtype: torch.dtype) -> Decoder:
    """Only the decoder (latents to images) of a source's model."""
    folder = pipeline_folder(source)
    pipeline_class(folder)
    return VAEDecoder(folder, device, dtype)


def load_text_encoder(source: str, device: torch.device, dtype: torch.dtype) -> TextEncoder:
    """Only the text encoders (prompts to conditioning) of a source's model."""
    folder = pipeline_folder(source)
    return family(folder).text_class(folder, device, dtype)


def load_encoder(source: str, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Only the encoder (images to latents) of a source's model."""
    folder = pipeline_folder(source)
    return VAEEncoder(folder, device, dtype, family(folder).read_geometry(folder))
