"""What the knobs of all commands share."""

import math
from dataclasses import dataclass, fields
from typing import Annotated, Literal

LARGEST_SEED = 2**63 - 1
# Beyond these a number is a slip of the hand, and would take all memory before it is noticed.
LARGEST_BATCH = 100_000
LARGEST_SIDE = 16_384
LARGEST_COUNT = 10**9

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Flag:
    """What the command line shows of a field."""

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
    """How a command runs; nothing here changes what it makes."""

    dry_run: Annotated[
        bool, Flag("Print the plan (counts, sizes, effective settings) and stop.", "Running")
    ] = False
    overwrite: Annotated[
        bool, Flag("Start an output that exists anew instead of continuing it.", "Running")
    ] = False
    quiet: Annotated[bool, Flag("No progress and no notes on stderr.", "Running")] = False
    json: Annotated[bool, Flag("Print the result as JSON on stdout.", "Running")] = False


@dataclass(frozen=True, kw_only=True)
class CommonConfig:
    seed: Annotated[int, Flag("Seed of everything random.", "Running")] = 0
    limit: Annotated[int | None, Flag("Use only the first N inputs.", "Running")] = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ValueError(f"--seed must be from 0 to {LARGEST_SEED}, got {self.seed}")
        check_positive(limit=self.limit)
        check_at_most(LARGEST_COUNT, limit=self.limit)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"--{field.name.replace('_', '-')} must be finite, got {value}")
