"""`run.json`: who made this output, from what, with which settings."""

import json
import sys
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from expo_cli.contracts.files import atomic, read_json
from expo_cli.contracts.parts import MOST_PARTS
from expo_cli.errors import ContractError, ExpoError

Setting = TypeVar("Setting")
Count = Annotated[int, msgspec.Meta(ge=1)]
PartCount = Annotated[int, msgspec.Meta(ge=1, le=MOST_PARTS)]

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
    if not path.exists():
        raise ExpoError(f"{path}: missing; {folder} was not made by expo, or not begun")
    return read_json(path, Run)


def planned(run: Run, place: Path, name: str, kind: type[Setting]) -> Setting:
    """A setting of a run's plan, where `place` is what it made.

    Raises ContractError when there is none, or it is of another type.
    """
    if name not in run.plan:
        raise ContractError(f"{place}: its run.json knows nothing of {name!r}")
    try:
        return msgspec.convert(run.plan[name], kind)
    except msgspec.ValidationError as error:
        raise ContractError(f"{place}: its run.json is wrong about {name}: {error}") from error
