"""One part of a pipeline folder."""

from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from expo_cli.errors import ContractError

disable_progress_bar()


def load_component(cls: type, folder: Path, name: str, dtype: torch.dtype | None = None) -> Any:
    """`folder/name` by `cls.from_pretrained`; a network comes frozen, in evaluation mode.

    Raises ContractError when it is missing, broken, or exists only as a pickle.
    """
    part = folder / name
    weights = {} if dtype is None else {"torch_dtype": dtype, "use_safetensors": True}
    if dtype is not None and part.is_dir() and not list(part.glob("*.safetensors")):
        pickles = list(part.glob("*.bin")) + list(part.glob("*.pt")) + list(part.glob("*.ckpt"))
        found = f"only the pickle {pickles[0].name}" if pickles else "no weights"
        raise ContractError(f"{part}: {found}; weights must be safetensors")
    try:
        component = cls.from_pretrained(str(part), local_files_only=True, **weights)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ContractError(f"{part}: cannot be loaded as {cls.__name__}: {reason}") from error
    return component.requires_grad_(False).eval() if dtype is not None else component


def load_config(cls: type, folder: Path, name: str) -> dict[str, Any]:
    """The config of `folder/name`, without its weights. Raises ContractError when it is missing."""
    try:
        return cls.load_config(str(folder), subfolder=name, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ContractError(f"{folder / name}: has no config: {reason}") from error
