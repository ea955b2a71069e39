"""Tensors on disk: safetensors only. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
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
# What a safetensors file begins with: its header's length, which is also a multiple of it.
LENGTH_BYTES = 8


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write `tensors` to a safetensors file that appears whole or not at all."""
    data = packed(tensors)
    with atomic(path) as file:
        if metadata is None:
            file.write(data)
        else:
            start = tensors_start(data)
            file.write(header_with(data[LENGTH_BYTES:start], metadata))
            file.write(memoryview(data)[start:])


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of `tensors`, without metadata."""
    # Imported here, as torch above.
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def tensors_start(data: bytes) -> int:
    """Where the tensors' own bytes begin in a safetensors file."""
    return LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Of what a safetensors file of these tensors holds after its header."""
    data = packed(tensors)
    return hashlib.sha256(memoryview(data)[tensors_start(data) :]).hexdigest()


def header_with(header: bytes, metadata: Mapping[str, str]) -> bytes:
    """The length and header of a safetensors file with `metadata` in the order of its keys.

    safetensors' own writer orders them anew each time. Padded as it does it, to eight bytes.
    """
    entries = {"__metadata__": dict(sorted(metadata.items())), **json.loads(header)}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


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
