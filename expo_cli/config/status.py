"""Knobs of `expo status`."""

from dataclasses import dataclass
from typing import Annotated

from expo_cli.config.common import Flag, check_positive


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    json: Annotated[
        bool, Flag("Print it as JSON, with the numbers of all missing parts.", "Output")
    ] = False
    missing_shards: Annotated[
        int | None,
        Flag(
            "Print only which of N shards have parts to make, as in 0,3,7: what --array of sbatch "
            "takes.",
            "Output",
        ),
    ] = None

    def __post_init__(self) -> None:
        check_positive(missing_shards=self.missing_shards)
        if self.json and self.missing_shards is not None:
            raise ValueError("--json contradicts --missing-shards: each is all that is printed")
