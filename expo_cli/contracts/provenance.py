"""`run.json`: which command made an output, from which inputs and settings.

`contracts.outputs` decides whether an output is begun, complete or finished.
"""

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from expo_cli.contracts.files import atomic, read_json
from expo_cli.contracts.shards import MOST_PARTS
from expo_cli.errors import ContractError, ExpoError

Setting = TypeVar("Setting")
Count = Annotated[int, msgspec.Meta(ge=1)]
PartCount = Annotated[int, msgspec.Meta(ge=1, le=MOST_PARTS)]

RUN = "run.json"
# Version of run.json. Outputs of an older format are read, with a note, but never continued.
FORMAT = 2

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

    - `plan`: settings and sizes that must be equal for a later run to continue this output
    - `free`: settings that a later run may change, and the paths of its inputs as given
    - `inputs`: input -> sha256; the parts of a model are called `NAME/PART`
    - `counts` and `seconds`, set at the end
    - `files`: all files of an output without parts, set at the end
    - `lines` and `sha256` of a single file, set at the end
    - `format`: 1 if run.json has none
    """

    command: str
    plan: dict[str, Any]
    free: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=lambda: sys.argv[1:])
    versions: dict[str, str] = field(default_factory=package_versions)
    counts: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    files: list[str] = field(default_factory=list)
    lines: int | None = None
    sha256: str | None = None
    format: int = 1

    @property
    def is_older(self) -> bool:
        """Whether it was made by a version of expo that did not record the identity of its inputs."""
        return self.format < FORMAT


def run_bytes(run: Run) -> bytes:
    """The run as JSON. Bytes of a file name that are not UTF-8 become `?`."""
    settings = asdict(replace(run, format=FORMAT))
    text = json.dumps(settings, indent=2, default=str, ensure_ascii=False)
    return text.encode(errors="replace") + b"\n"


def run_path(folder: Path) -> Path:
    return folder / RUN


def write_run(folder: Path, run: Run, name: str = RUN) -> None:
    with atomic(folder / name) as file:
        file.write(run_bytes(run))


def as_written(run: Run) -> Run:
    """The run as `read_run` returns it."""
    return msgspec.json.decode(run_bytes(run), type=Run)


def read_run(folder: Path, name: str = RUN) -> Run:
    """Raises ExpoError when there is none, ContractError when it is not valid or was written by a
    newer version of expo."""
    path = folder / name
    if not folder.is_dir():
        raise ExpoError(f"{folder}: no such folder")
    if not path.exists():
        raise ExpoError(f"{path}: missing; {folder} was not made by expo, or not begun")
    run = read_json(path, Run)
    if run.format > FORMAT:
        raise ContractError(
            f"{path}: has format {run.format}, this expo reads up to {FORMAT}; install a newer expo"
        )
    return run


def planned(run: Run, place: Path, name: str, kind: type[Setting]) -> Setting:
    """A setting of the run that made `place`.

    Raises ContractError when it is missing or has another type.
    """
    settings = run.free | run.plan
    if name not in settings:
        raise ContractError(f"{place}: its run.json has no {name!r}")
    try:
        return msgspec.convert(settings[name], kind)
    except msgspec.ValidationError as error:
        raise ContractError(f"{place}: its run.json has a bad {name}: {error}") from error
