"""Sources of weights and data: a folder, a hub id, or `embedded:NAME` in the package."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from expo_cli.contracts.files import read_json
from expo_cli.errors import ExpoError

EMBEDDED = "embedded:"
# diffusers' list of a pipeline's parts.
MODEL_INDEX = "model_index.json"
# peft's config, which makes a folder a LoRA checkpoint.
ADAPTER_CONFIG = "adapter_config.json"
# Files of a hub repository: a pipeline's parts and single models, without other precisions,
# single-file duplicates of the whole pipeline, and the safety checker, which is never run.
HUB_FILES = [
    "*.json",
    "*.txt",
    "*.model",
    "*/*.safetensors",
    "model*.safetensors",
    "pytorch_lora*.safetensors",
]
HUB_UNUSED = ["*.fp16.safetensors", "*non_ema*", "safety_checker/*"]
PACKAGE_DATA = Path(__file__).parent.parent / "embedded"


@dataclass(frozen=True)
class AdapterConfig:
    """The fields of peft's config that are read."""

    base_model_name_or_path: str
    r: Annotated[int, msgspec.Meta(ge=1)]
    lora_alpha: int | float
    target_modules: list[str]
    base_path: str | None = None


def shipped(source: str) -> Path:
    """The path of `source`; `embedded:NAME` is a file or folder inside the package."""
    if source.startswith(EMBEDDED):
        return PACKAGE_DATA / source.removeprefix(EMBEDDED)
    return Path(source)


def model_folder(source: str, files: Sequence[str] = HUB_FILES) -> Path:
    """The local folder of a model: a folder, `embedded:NAME`, or the snapshot of a hub id.

    Of a hub repository only `files` (patterns) are fetched; nothing is downloaded if it is
    cached or HF_HUB_OFFLINE is set. Raises ExpoError when there is no such model.
    """
    path = shipped(source)
    if os.path.isdir(path):  # unlike Path.is_dir, no error for a long name
        return path
    if source.startswith((EMBEDDED, "/", ".")) or source.count("/") != 1:
        raise ExpoError(f"{source}: no such model folder (and not a hub id of the form OWNER/NAME)")
    # Imported here: a local folder needs no hub client, and its import is slow.
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(source, allow_patterns=list(files), ignore_patterns=HUB_UNUSED)
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ExpoError(f"{source}: no such folder, and not on the hub: {reason}") from error


def hub_file(repository: str, name: str) -> Path:
    """The local copy of one file of a hub repository; otherwise as `model_folder`."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name))
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ExpoError(f"{repository}: {name} cannot be fetched from the hub: {reason}") from error


def is_adapter(folder: Path) -> bool:
    """Whether a folder is a LoRA checkpoint rather than a whole model."""
    return (folder / ADAPTER_CONFIG).exists()


def base_source(source: str) -> str:
    """The base model of a LoRA checkpoint; any other source itself.

    Raises ContractError when the adapter's config is not valid.
    """
    folder = model_folder(source)
    if not is_adapter(folder):
        return source
    config = read_json(folder / ADAPTER_CONFIG, AdapterConfig)
    known = {"base": config.base_model_name_or_path, "base_path": config.base_path}
    return found_again(known, "base", folder) or config.base_model_name_or_path


def lasting(source: str) -> str:
    """The source in a form to record: a folder by its absolute path, others unchanged."""
    path = Path(source)
    return str(path.resolve()) if path.is_dir() else source


def written_down(name: str, source: str | None, out: Path) -> dict[str, str | None]:
    """How a file in the folder `out` records a source. For a folder this includes the relative path
    from `out`, which stays valid when both are moved."""
    if source is None or not Path(source).is_dir():
        return {name: source}
    return {
        name: str(Path(source).resolve()),
        f"{name}_path": os.path.relpath(Path(source).resolve(), out.resolve()),
    }


def found_again(known: Mapping[str, Any], name: str, folder: Path) -> str | None:
    """The source that `written_down` recorded in `folder`, even if both were moved together."""
    path = known.get(f"{name}_path")
    if isinstance(path, str) and "\0" not in path and (folder.resolve() / path).is_dir():
        return os.path.relpath(folder.resolve() / path)
    source = known.get(name)
    return source if isinstance(source, str) else None
