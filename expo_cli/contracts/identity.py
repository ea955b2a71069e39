"""The identity of an input is the sha256 of its contents, whatever its path.

A safetensors file that expo wrote states its own sha256, so that its data need not be read. Hashes
of other large files are cached. A model's identity covers only those of its parts that are used.
"""

import fnmatch
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from expo_cli.contracts.files import atomic, listing_sha256, read_json, sha256
from expo_cli.contracts.provenance import RUN
from expo_cli.contracts.sources import (
    ADAPTER_CONFIG,
    HUB_UNUSED,
    MODEL_INDEX,
    base_source,
    model_folder,
)
from expo_cli.contracts.tensors import stated_sha256
from expo_cli.errors import ContractError, ExpoError

# Parts of a pipeline that a command may use, as prefixes of folder names.
NETWORK = ("unet", "transformer")
TEXT = ("text_encoder", "tokenizer")
SCHEDULER = ("scheduler",)
VAE = ("vae",)
ADAPTER = "lora"

# Files of a part other than weights: settings and vocabularies.
TEXTS = ("*.json", "merges.txt", "vocab.txt", "*.model")
# The only key with an underscore that matters; the others say who wrote the config.
CLASS_NAME = "_class_name"
# Hashing a smaller file is faster than a look-up in the cache.
WORTH_REMEMBERING = 1 << 20
# A younger file may change again with the same timestamp.
YOUNG_SECONDS = 2.0


def file_sha256(path: Path) -> str:
    """The sha256 that identifies a file: the one it states if expo wrote it, else that of its contents.

    Raises ExpoError when it cannot be read or is not a regular file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise ExpoError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ExpoError(f"{path}: is not a regular file")
    if path.suffix == ".safetensors" and (stated := stated_sha256(path)):
        return stated
    if status.st_size < WORTH_REMEMBERING:
        return sha256(path)
    return _remembered(path, status)


def _remembered(path: Path, status: os.stat_result) -> str:
    """The sha256 of a file, from the cache unless the file has changed.

    ctime is part of the key, because `cp -p` and `touch -r` preserve size and mtime.
    """
    memory = _memory(status)
    with suppress(OSError):
        if len(known := memory.read_text()) == 64:
            return known
    found = sha256(path)
    changed = max(status.st_mtime, status.st_ctime)
    if time.time() - changed > YOUNG_SECONDS and _memory(path.stat()) == memory:
        with suppress(ExpoError), atomic(memory) as file:
            file.write(found.encode())
    return found


def _memory(status: os.stat_result) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    known_by = (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    name = hashlib.sha256(repr(known_by).encode()).hexdigest()
    return Path(cache, "expo", "sha256", name)


def parts_sha256(items: Iterable[tuple[str, str]]) -> str:
    """One sha256 over (name, sha256) items, independent of their order."""
    return listing_sha256(sorted(items))


def json_sha256(value: object) -> str:
    """The sha256 of a value as canonical JSON: keys sorted, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def records_sha256(records: Iterable[object]) -> str:
    """The sha256 of records as a JSONL file; the same whether they come from a pipe or a file."""
    digest, encoder = hashlib.sha256(), msgspec.json.Encoder()
    for record in records:
        digest.update(encoder.encode(record) + b"\n")
    return digest.hexdigest()


def config_sha256(path: Path, without: Sequence[str] = (), lists: bool = True) -> str:
    """The sha256 of a JSON file's settings, whatever its layout and metadata.

    `lists=False` leaves out lists: in a pipeline's index they name its parts, which have digests of
    their own.
    """
    settings = read_json(path, dict[str, Any])
    kept = {
        key: value
        for key, value in settings.items()
        if (key == CLASS_NAME or not key.startswith("_"))
        and key not in without
        and (lists or not isinstance(value, list))
    }
    return json_sha256(kept)


def folder_sha256(folder: Path) -> str:
    """The sha256 of the weights, settings and vocabulary in one folder."""
    items = [(path.name, file_sha256(path)) for path in weight_files(folder)]
    texts = {path for pattern in TEXTS for path in folder.glob(pattern) if path.is_file()}
    for path in texts:
        if path.name.endswith(".index.json") or path.name == RUN:
            continue
        items.append((path.name, text_sha256(path)))
    return parts_sha256(items)


def text_sha256(path: Path) -> str:
    """The sha256 of a settings or vocabulary file."""
    return config_sha256(path) if path.match("*config*.json") else file_sha256(path)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder that are loaded, without copies in other precisions."""
    files = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    unused = [pattern for pattern in HUB_UNUSED if "/" not in pattern]
    used = [p for p in files if not any(fnmatch.fnmatch(p.name, name) for name in unused)]
    return used or files


def pipeline_sha256s(folder: Path, parts: Sequence[str]) -> dict[str, str]:
    """Name -> sha256 of each part of a pipeline folder whose name starts with one of `parts`.

    Only parts that the pipeline's index names count; other contents of the folder are ignored.
    """
    index = read_json(folder / MODEL_INDEX, dict[str, Any])
    return {
        name: folder_sha256(folder / name)
        for name in sorted(index)
        if isinstance(index[name], list)
        and name.startswith(tuple(parts))
        and (folder / name).is_dir()
    }


def adapter_sha256(folder: Path) -> str:
    """The sha256 of a LoRA's own files; the location of its base does not matter."""
    weights = [(path.name, file_sha256(path)) for path in folder.glob("pytorch_lora*.safetensors")]
    if not weights:
        raise ContractError(f"{folder}: has no pytorch_lora_weights.safetensors")
    settings = config_sha256(
        folder / ADAPTER_CONFIG, without=("base_model_name_or_path", "base_path")
    )
    return parts_sha256([*weights, (ADAPTER_CONFIG, settings)])


def model_sha256s(name: str, source: str, parts: Sequence[str]) -> dict[str, str]:
    """`NAME/PART -> sha256` for the given parts of the model at a source of weights.

    A LoRA consists of its own files and the parts of its base. A folder, a hub id and its snapshot
    are equal if their files are; another precision or another split into files is another model.
    Raises ExpoError when there is no such model.
    """
    folder, base = model_folder(source), model_folder(base_source(source))
    found = {f"{name}/{part}": digest for part, digest in pipeline_sha256s(base, parts).items()}
    if set(NETWORK) <= set(parts):
        found[f"{name}/pipeline"] = config_sha256(base / MODEL_INDEX, lists=False)
        if folder != base:
            found[f"{name}/{ADAPTER}"] = adapter_sha256(folder)
    return found


def one_sha256(inputs: Mapping[str, str], name: str) -> str:
    """One sha256 over all parts of the model called `name` in `inputs`."""
    start = f"{name}/"
    return parts_sha256((key, inputs[key]) for key in inputs if key.startswith(start))
