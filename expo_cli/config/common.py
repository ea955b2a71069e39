"""Settings that all commands share."""

import math
from dataclasses import dataclass, fields
from typing import Annotated, Literal

LARGEST_SEED = 2**63 - 1
# A larger number is a typo, and would exhaust the memory before anyone notices.
LARGEST_BATCH = 100_000
LARGEST_SIDE = 16_384
LARGEST_COUNT = 10**9

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Flag:
    """How the command line shows a field."""

    help: str
    panel: str = "Options"


def check_positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and value <= 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}")


def check_at_most(bound: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value > bound:
            raise ValueError(f"--{name.replace('_', '-')} must be at most {bound}, got {value}")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a command runs; none of these changes its output."""

    dry_run: Annotated[
        bool, Flag("Print the plan (counts, sizes, effective settings) and exit.", "Running")
    ] = False
    overwrite: Annotated[
        bool, Flag("Replace an existing output instead of continuing it.", "Running")
    ] = False
    quiet: Annotated[bool, Flag("Show no progress bars and no notes on stderr.", "Running")] = False
    json: Annotated[bool, Flag("Print the result as JSON to stdout.", "Running")] = False


@dataclass(frozen=True, kw_only=True)
class CommonConfig:
    seed: Annotated[int, Flag("Random seed.", "Running")] = 0
    limit: Annotated[
        int | None, Flag("Use only the first N inputs (rows, prompts, images or pairs).", "Running")
    ] = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ValueError(f"--seed must be from 0 to {LARGEST_SEED}, got {self.seed}")
        check_positive(limit=self.limit)
        check_at_most(LARGEST_COUNT, limit=self.limit)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"--{field.name.replace('_', '-')} must be finite, got {value}")
