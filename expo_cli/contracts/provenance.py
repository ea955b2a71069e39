"""`run.json`: who made this output, from what, with which settings.

Whether an output is begun, whole or finished, `contracts.outputs` knows.
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
from expo_cli.contracts.parts import MOST_PARTS
from expo_cli.errors import ContractError, ExpoError

Setting = TypeVar("Setting")
Count = Annotated[int, msgspec.Meta(ge=1)]
PartCount = Annotated[int, msgspec.Meta(ge=1, le=MOST_PARTS)]

RUN = "run.json"
# Of run.json. Outputs of another format are read, with a note, and never continued.
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

    `plan` is what must be equal for a later run to continue this output (settings that change the
    result, sizes); `free` are settings that a later run may change, and how its inputs are spelled;
    `inputs` maps each input to its sha256, the parts of a model as `NAME/PART`. At the end are set
    `counts` and `seconds`; `files`, all of an output that has no parts; and of a single file its
    `lines` and `sha256`. `format` is 1 where run.json has none.
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
        """Whether it was made by a version of expo that did not know what its inputs were."""
        return self.format < FORMAT


def run_bytes(run: Run) -> bytes:
    """As JSON. A file's name that is not UTF-8, which JSON cannot hold, has `?` for what is not."""
    settings = asdict(replace(run, format=FORMAT))
    text = json.dumps(settings, indent=2, default=str, ensure_ascii=False)
    return text.encode(errors="replace") + b"\n"


def run_path(folder: Path) -> Path:
    return folder / RUN


def write_run(folder: Path, run: Run, name: str = RUN) -> None:
    with atomic(folder / name) as file:
        file.write(run_bytes(run))


def as_written(run: Run) -> Run:
    """The run as `read_run` gives it back."""
    return msgspec.json.decode(run_bytes(run), type=Run)


def read_run(folder: Path, name: str = RUN) -> Run:
    """Raises ExpoError when there is none, ContractError when it is not one, or one of a newer
    version of expo."""
    path = folder / name
    if not folder.is_dir():
        raise ExpoError(f"{folder}: no such folder")
    if not path.exists():
        raise ExpoError(f"{path}: missing; {folder} was not made by expo, or not begun")
    run = read_json(path, Run)
    if run.format > FORMAT:
        raise ContractError(
            f"{path}: is of format {run.format}, this expo knows {FORMAT}; install the newer expo"
        )
    return run


def planned(run: Run, place: Path, name: str, kind: type[Setting]) -> Setting:
    """A setting of a run, where `place` is what it made.

    Raises ContractError when there is none, or it is of another type.
    """
    settings = run.free | run.plan
    if name not in settings:
        raise ContractError(f"{place}: its run.json knows nothing of {name!r}")
    try:
        return msgspec.convert(settings[name], kind)
    except msgspec.ValidationError as error:
        raise ContractError(f"{place}: its run.json is wrong about {name}: {error}") from error
