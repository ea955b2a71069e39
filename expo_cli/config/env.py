"""Settings of `expo env`."""

from dataclasses import dataclass
from typing import Annotated

from expo_cli.config.common import Flag


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    json: Annotated[bool, Flag("Print JSON, with memory in bytes.", "Output")] = False
    cores: Annotated[
        bool,
        Flag(
            "Print only the number of cores to use: like nproc, but within the cgroup's quota.",
            "Output",
        ),
    ] = False

    def __post_init__(self) -> None:
        if self.json and self.cores:
            raise ValueError("--json contradicts --cores; choose one")
