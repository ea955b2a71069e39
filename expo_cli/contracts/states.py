"""The states in a checkpoint folder, from which a stopped training resumes.

A state is a folder with `STATE_FILES` and `sha256.json`, which lists their digests.
"""

import re
from pathlib import Path

from expo_cli.contracts.files import read_json, sha256, write_json
from expo_cli.errors import ContractError

STATE_FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
DIGESTS = "sha256.json"


def states_folder(folder: Path) -> Path:
    return folder / "state"


def state_folder(folder: Path, step: int) -> Path:
    return states_folder(folder) / f"step-{step:08d}"


def saved_steps(folder: Path) -> list[int]:
    """Steps of the states in a checkpoint folder, in ascending order."""
    names = (path.name for path in states_folder(folder).glob("step-*"))
    return sorted(int(m[1]) for name in names if (m := re.fullmatch(r"step-(\d+)", name)))


def seal_state(folder: Path) -> None:
    """Write the sha256 of each file of a state to `sha256.json`."""
    write_json(folder / DIGESTS, {name: sha256(folder / name) for name in STATE_FILES})


def check_state(folder: Path) -> None:
    """Raises ExpoError that names the first missing or damaged file."""
    digests = read_json(folder / DIGESTS, dict[str, str])
    for name in STATE_FILES:
        if sha256(folder / name) != digests.get(name):
            raise ContractError(
                f"{folder / name}: truncated or damaged, its sha256 is not the one in {DIGESTS}"
            )
