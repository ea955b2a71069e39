"""`metrics.jsonl`: what `expo train` measures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expo_cli.contracts import jsonl


def floats(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """The scalars' values, in one transfer from the device."""
    numbers = torch.stack([value.detach().float() for value in scalars.values()]).tolist()
    return dict(zip(scalars, numbers, strict=True))


def means(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each measurement over those that hold it, by name."""
    values: dict[str, list[float]] = {}
    for one in measured:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return {name: sum(values[name]) / len(values[name]) for name in sorted(values)}


class MetricsLog:
    """The lines of `metrics.jsonl`, written whole. They hold no times: reruns give equal bytes.

    A line's measurements are means over the steps since the line before.
    """

    def __init__(self, out: Path, writes: bool) -> None:
        """Of several processes that train together, one `writes`."""
        self.path, self.writes = out / "metrics.jsonl", writes
        self.lines: list[dict[str, Any]] = []
        self.collected: list[dict[str, float]] = []
        self.between: dict[str, Any] | None = None

    def resume(
        self,
        lines: list[dict[str, Any]],
        collected: list[dict[str, float]],
        between: dict[str, Any] | None,
    ) -> None:
        """Go on from what a state remembers, whatever the file holds now."""
        self.lines, self.collected, self.between = lines, collected, between

    def collect(self, values: dict[str, float]) -> None:
        """Take in a step's measurements."""
        self.collected.append(values)

    def add(self, step: int, values: dict[str, float], on_grid: bool) -> None:
        """Add the line of a step: what was collected, and `values`.

        The last step's line, where it is not on the grid, is of the file alone: a longer run does
        not have it, and goes on collecting.
        """
        line = {"step": step, **means(self.collected), **values}
        if on_grid:
            self.lines.append(line)
            self.collected = []
        else:
            self.between = line

    def write(self) -> None:
        if self.writes:
            jsonl.write(self.path, self.all_lines())

    def all_lines(self) -> list[dict[str, Any]]:
        return self.lines if self.between is None else [*self.lines, self.between]

    def last(self) -> dict[str, Any]:
        return (self.all_lines() or [{}])[-1]
