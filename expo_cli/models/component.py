"""Loads one part of a pipeline folder."""

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from expo_cli.contracts.files import read_json
from expo_cli.contracts.tensors import check_sha256, check_whole
from expo_cli.errors import ContractError, one_line

disable_progress_bar()

# diffusers' file name of a network's weights; `expo train` writes them with a sha256.
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = "config.json"

Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]
Layers = Annotated[int, msgspec.Meta(ge=0, le=1000)]
Real = Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]
# Settings whose wrong types would cause an error only later, when they are used.
SETTINGS: dict[str, Any] = {
    "attention_head_dim": Size | list[Size] | None,
    "beta_end": Real,
    "beta_start": Real,
    "block_out_channels": Annotated[list[Size], msgspec.Meta(min_length=1)],
    "downsample_padding": Offset,
    "eos_token_id": Offset,
    "freq_shift": Real,
    "layer_norm_eps": Real,
    "layers_per_block": Layers | list[Layers],
    "mid_block_scale_factor": Real,
    "norm_eps": Real,
    "norm_num_groups": Size | None,
    "num_attention_heads": Size | list[Size] | None,
    "num_train_timesteps": Size,
    "sample_size": Size,
    "scaling_factor": Real,
    "steps_offset": Offset,
    "trained_betas": list[float] | None,
}


class WeightsIndex(msgspec.Struct):
    """The index of weights in several files: parameter -> file."""

    weight_map: dict[str, str]


def load_component(cls: type, folder: Path, name: str, dtype: torch.dtype | None = None) -> Any:
    """`folder/name` by `cls.from_pretrained`; a network comes frozen, in evaluation mode.

    Raises ContractError when it is missing, broken, lacks weights, or exists only as a pickle.
    """
    part = folder / name
    weights: dict[str, Any] = {}
    if dtype is not None:
        weights = {"torch_dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    if dtype is not None and part.is_dir() and not list(part.glob("*.safetensors")):
        pickles = list(part.glob("*.bin")) + list(part.glob("*.pt")) + list(part.glob("*.ckpt"))
        found = f"only the pickle {pickles[0].name}" if pickles else "no weights"
        raise ContractError(f"{part}: {found}; weights must be safetensors")
    if (part / CONFIG).exists():  # before anything of that size is allocated
        check_settings(part, read_json(part / CONFIG, dict).items())
    try:
        loaded = cls.from_pretrained(str(part), local_files_only=True, **weights)
    except Exception as error:  # no common error class
        reason = one_line(str(error)) or type(error).__name__
        raise ContractError(f"{part}: cannot be loaded as {cls.__name__}: {reason}") from error
    component, loading = loaded if dtype is not None else (loaded, None)
    check_settings(part, settings_of(component))
    if dtype is None:
        return component
    if (part / WEIGHTS).exists():
        check_sha256(part / WEIGHTS)
    check_whole(part, cls.__name__, loading)
    return component.requires_grad_(False).eval()


def stored_weights(part: Path) -> dict[str, Tensor]:
    """A network's weights in its folder, memory-mapped."""
    names = {WEIGHTS}
    if not (part / WEIGHTS).exists():
        names = set(read_json(part / f"{WEIGHTS}.index.json", WeightsIndex).weight_map.values())
    return {key: t for name in names for key, t in load_file(part / name).items()}


def load_config(cls: type, folder: Path, name: str) -> dict[str, Any]:
    """The config of `folder/name`, without its weights. Raises ContractError when it is missing or
    not valid."""
    try:
        config = cls.load_config(str(folder), subfolder=name, local_files_only=True)
    except Exception as error:  # as above
        reason = one_line(str(error))
        raise ContractError(f"{folder / name}: has no config: {reason}") from error
    parameters = inspect.signature(cls.__init__).parameters.values()
    config = {p.name: p.default for p in parameters if p.default is not p.empty} | config
    check_settings(folder / name, config.items())
    return config


def settings_of(component: Any) -> Iterable[tuple[str, Any]]:
    """A component's settings: diffusers' are mappings, transformers' are objects, tokenizers have none."""
    config = getattr(component, "config", {})
    return (config.to_dict() if hasattr(config, "to_dict") else config).items()


def check_settings(part: Path, settings: Iterable[tuple[str, Any]]) -> None:
    """Raises ContractError when one of SETTINGS has the wrong type."""
    for name, value in settings:
        try:
            msgspec.convert(value, SETTINGS.get(name, Any))
        except msgspec.ValidationError as error:
            raise ContractError(f"{part}: its config has a bad {name}: {error}") from error
