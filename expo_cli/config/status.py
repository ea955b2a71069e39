"""Settings of `expo status`."""

from dataclasses import dataclass
from typing import Annotated

from expo_cli.config.common import Flag, check_positive


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    json: Annotated[
        bool, Flag("Print JSON that also lists the numbers of all missing parts.", "Output")
    ] = False
    missing_shards: Annotated[
        int | None,
        Flag(
            "Print only which of N shards have missing parts, in the format of sbatch --array"
            " (0,3,7).",
            "Output",
        ),
    ] = None

    def __post_init__(self) -> None:
        check_positive(missing_shards=self.missing_shards)
        if self.json and self.missing_shards is not None:
            raise ValueError("--json contradicts --missing-shards; choose one")
