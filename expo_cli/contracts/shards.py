"""Shards, and the numbered parts that they share out.

`contracts.outputs` decides whether a part is whole, `contracts.kinds` knows its files.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from expo_cli.errors import UsageError

# A run.json with more parts is damaged.
MOST_PARTS = 1 << 20


@dataclass(frozen=True)
class Shard:
    """The parts of one of `count` workers: those with number `index` modulo `count`."""

    index: int = 0
    count: int = 1

    def takes(self, part: int) -> bool:
        return part % self.count == self.index


def parse_shard(text: str) -> Shard:
    """`i/n`, with i from 0 to n-1. Raises UsageError for anything else."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not int(match[1]) < int(match[2]):
        raise UsageError(f"--shard {text!r} must be i/n with 0 <= i < n, for example 0/4")
    return Shard(int(match[1]), int(match[2]))


def shards_with(parts: Iterable[int], count: int) -> list[int]:
    """Indices of the shards, out of `count`, that take any of the parts."""
    return sorted({part % count for part in parts})


def part_name(number: int) -> str:
    return f"part-{number:05d}"


def part_path(folder: Path, number: int, suffix: str = ".jsonl") -> Path:
    return folder / f"{part_name(number)}{suffix}"


def num_parts(num_items: int, part_size: int) -> int:
    """Number of parts. Raises UsageError when it exceeds what a folder may hold."""
    count = -(-num_items // part_size)
    if count > MOST_PARTS:
        raise UsageError(f"{count} parts of {part_size} are too many; raise --part-size")
    return count


def ranges(numbers: Iterable[int], most: int | None = None) -> str:
    """Ascending numbers as ranges, for example `3, 7-9`; after `most` ranges an ellipsis."""
    borders: list[list[int]] = []
    for number in numbers:
        if borders and borders[-1][1] == number - 1:
            borders[-1][1] = number
        else:
            borders.append([number, number])
    texts = [f"{first}-{last}" if first < last else str(first) for first, last in borders]
    return ", ".join(texts if most is None or len(texts) <= most else [*texts[:most], "..."])
