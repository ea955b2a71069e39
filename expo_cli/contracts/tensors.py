"""Tensors on disk: safetensors only. Nothing is ever unpickled."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError, safe_open

from expo_cli.contracts.files import atomic
from expo_cli.errors import ContractError, ExpoError

if TYPE_CHECKING:  # an evaluation reads arrays of numpy, without the import of torch
    from torch import Tensor

# What torch.save writes begins as a zip or as a bare pickle.
PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write `tensors` to a safetensors file that appears whole or not at all.

    `metadata` holds one entry at most: safetensors writes several in an order of its own each time.
    """
    # Imported here, as torch above.
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as file:
        file.write(save(contiguous, metadata))


def open_tensors(path: Path, framework: Literal["pt", "numpy"] = "pt") -> safe_open:
    """An open safetensors file; its tensors are read when asked for.

    Raises ExpoError when it is missing, ContractError when it is a pickle, truncated or broken.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(9)
        # Eight bytes of a header's length, then the header: some lengths begin as a pickle does.
        if magic.startswith(PICKLE_MAGIC) and magic[8:] != b"{":
            raise ContractError(f"{path}: is a pickle; only safetensors are read")
        return safe_open(path, framework=framework)
    except OSError as error:
        raise ExpoError(f"{path}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ContractError(f"{path}: not a whole safetensors file: {error}") from error


def read_tensors(path: Path, framework: Literal["pt", "numpy"] = "pt") -> dict[str, Any]:
    """All tensors of a safetensors file, of torch or as arrays; errors as `open_tensors`."""
    with open_tensors(path, framework) as file:
        try:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # The others are numpy's, for types and shapes that it does not have.
        except (SafetensorError, TypeError, AttributeError, ValueError) as error:
            raise ContractError(f"{path}: {error}") from error


class TensorFiles:
    """Single tensors out of many safetensors files, with a bounded number of them open."""

    def __init__(self, max_open: int = 64) -> None:
        self.max_open = max_open
        self._open: OrderedDict[Path, safe_open] = OrderedDict()

    def get(self, path: Path, name: str) -> Tensor:
        """Raises ContractError when the file holds no such tensor; others as `open_tensors`."""
        if path in self._open:
            self._open.move_to_end(path)
        else:
            self._open[path] = open_tensors(path)
            if len(self._open) > self.max_open:
                self._open.popitem(last=False)
        try:
            return self._open[path].get_tensor(name)
        except SafetensorError as error:
            raise ContractError(f"{path}: {error}") from error
