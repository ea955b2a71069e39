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

if TYPE_CHECKING:  # `expo evaluate` reads numpy arrays and does not import torch
    from torch import Tensor

# Files by torch.save begin as a zip or a bare pickle.
PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
# Bytes of the header-length field; headers are padded to a multiple of it.
LENGTH_BYTES = 8
METADATA = "__metadata__"
# The limit of safetensors itself.
MAX_HEADER_BYTES = 100_000_000
# Metadata entry with the sha256 of all other entries and the tensors; only in files that expo wrote.
SHA256 = "expo.sha256"
# torch's names and safetensors', in the order of its files: the widest first, for alignment.
DTYPES = {
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
ORDER = list(DTYPES)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `tensors` atomically to a safetensors file that states its own sha256.

    Tensors are copied one at a time. safetensors' own writer would hold two more copies of all of
    them, and does not write metadata in a fixed order.
    """
    tensors = in_file_order(tensors)
    header = {METADATA: dict(metadata or {}), **layout(tensors)}
    digest = digest_of(header)

    def beginning(sha256: str) -> bytes:
        whole = header | {METADATA: header[METADATA] | {SHA256: sha256}}
        text = json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % LENGTH_BYTES)
        return len(text).to_bytes(LENGTH_BYTES, "little") + text

    with atomic(path) as file:
        file.write(beginning("0" * len(digest.hexdigest())))
        for tensor in tensors.values():
            data = contents(tensor)
            digest.update(data)
            file.write(data)
        file.seek(0)
        file.write(beginning(digest.hexdigest()))


def in_file_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = sorted(tensors, key=lambda name: (ORDER.index(type_of(tensors[name])), name))
    return {name: tensors[name] for name in names}


def layout(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """The safetensors header of tensors that are in file order."""
    entries, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": DTYPES[type_of(tensor)],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    return entries


def type_of(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def contents(tensor: Tensor) -> memoryview:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())


def latents_digest(*tensors: Tensor) -> str:
    """The digest of tensors in a record: 16 hexadecimal digits of the sha256 of their stored bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(contents(tensor))
    return digest.hexdigest()[:16]


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of the data of a safetensors file with these tensors, without its header."""
    digest = hashlib.sha256()
    for tensor in in_file_order(tensors).values():
        digest.update(contents(tensor))
    return digest.hexdigest()


def digest_of(header: Mapping[str, Any]) -> hashlib._Hash:
    """A sha256 that has been fed the header; the tensors' bytes follow."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode())


def stated_sha256(path: Path) -> str | None:
    """The sha256 that a safetensors file states, without reading its tensors.

    None if it states none, as files of other programs, or its header is broken. It is verified when
    the tensors are read.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if not 0 < length < min(MAX_HEADER_BYTES, path.stat().st_size):
                return None
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError):
        return None
    metadata = header.get(METADATA) if isinstance(header, dict) else None
    stated = metadata.get(SHA256) if isinstance(metadata, dict) else None
    return stated if isinstance(stated, str) else None


def check_sha256(path: Path) -> None:
    """Raises ContractError when a safetensors file does not match the sha256 that it states."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        header = json.loads(file.read(length))
        wanted = header.get(METADATA, {}).pop(SHA256, None)
        if wanted is None:
            return
        digest = digest_of(header)
        if hashlib.file_digest(file, lambda: digest).hexdigest() != wanted:
            raise ContractError(
                f"{path}: damaged: its sha256 is not the one that was written; remove it, and run the "
                "command that made it again"
            )


def open_tensors(
    path: Path, framework: Literal["pt", "numpy"] = "pt", *, checked: bool = False
) -> safe_open:
    """An open safetensors file; its tensors are read on demand.

    Raises ExpoError when it is missing, ContractError when it is a pickle, truncated, broken or,
    unless it was `checked` before, does not match its sha256.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(9)
        # Eight bytes of length, then the header: some lengths begin like a pickle.
        if magic.startswith(PICKLE_MAGIC) and magic[8:] != b"{":
            raise ContractError(f"{path}: is a pickle; only safetensors are read")
        opened = safe_open(path, framework=framework)
        if not checked:
            check_sha256(path)
        return opened
    except OSError as error:
        raise ExpoError(f"{path}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ContractError(f"{path}: not a complete safetensors file: {error}") from error


def check_whole(place: Path, kind: str, loading: Mapping[str, Any]) -> None:
    """Raises ContractError when weights were missing; `loading` is the info from `from_pretrained`.

    diffusers and transformers replace missing weights with random ones.
    """
    if lacking := sorted([*loading["missing_keys"], *map(str, loading["mismatched_keys"])]):
        raise ContractError(f"{place}: not a complete {kind}: has no weights {lacking[0]}")


def read_tensors(path: Path, framework: Literal["pt", "numpy"] = "pt") -> dict[str, Any]:
    """All tensors of a safetensors file, as torch tensors or numpy arrays; errors as `open_tensors`."""
    with open_tensors(path, framework) as file:
        try:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # The others are numpy's, for unsupported types and shapes.
        except (SafetensorError, TypeError, AttributeError, ValueError) as error:
            raise ContractError(f"{path}: {error}") from error


class TensorFiles:
    """Reads single tensors from many safetensors files, with a bounded number of open files."""

    def __init__(self, max_open: int = 64) -> None:
        self.max_open = max_open
        self._open: OrderedDict[Path, safe_open] = OrderedDict()
        self._checked: set[Path] = set()

    def get(self, path: Path, name: str, digest: str | None = None) -> Tensor:
        """Raises ContractError when the file has no such tensor, or one with another digest than
        `digest`; other errors as `open_tensors`."""
        if path in self._open:
            self._open.move_to_end(path)
        else:
            self._open[path] = open_tensors(path, checked=path in self._checked)
            self._checked.add(path)
            if len(self._open) > self.max_open:
                self._open.popitem(last=False)
        try:
            tensor = self._open[path].get_tensor(name)
        except SafetensorError as error:
            raise ContractError(f"{path}: {error}") from error
        if digest is not None and (found := latents_digest(tensor)) != digest:
            raise ContractError(
                f"{path}: latents {name} are {found}, but were {digest} when they were judged: they "
                "were drawn again or replaced"
            )
        return tensor
