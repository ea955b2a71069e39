"""`run.json`: who made this output, from what, with which settings."""

import json
import sys
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from expo_cli.contracts.files import atomic
from expo_cli.errors import ContractError, ExpoError

PACKAGES = (
    "expo-cli",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "open_clip_torch",
    "safetensors",
)


@cache
def package_versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


@dataclass(frozen=True, kw_only=True)
class Run:
    """The provenance of one output.

    `plan` is what must be equal for a later run to continue this output (settings that change the
    result, sizes); `free` are settings that a later run may change; `inputs` maps each input to its
    sha256; `counts` and `seconds` are set at the end, by commands that end with one output.
    """

    command: str
    plan: dict[str, Any]
    free: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=lambda: sys.argv[1:])
    versions: dict[str, str] = field(default_factory=package_versions)
    counts: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None


def run_path(folder: Path) -> Path:
    return folder / "run.json"


def write_run(folder: Path, run: Run, name: str = "run.json") -> None:
    with atomic(folder / name) as file:
        file.write(json.dumps(asdict(run), indent=2, default=str).encode() + b"\n")


def read_run(folder: Path, name: str = "run.json") -> Run:
    """Raises ExpoError when there is none, ContractError when it is not one."""
    path = folder / name
    if not folder.is_dir():
        raise ExpoError(f"{folder}: no such folder")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Run)
    except FileNotFoundError as error:
        raise ExpoError(f"{path}: missing; {folder} was not made by expo, or not begun") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(f"{path}: {error}") from error
