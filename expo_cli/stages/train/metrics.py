"""`metrics.jsonl`: the measurements of `expo train`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expo_cli.contracts import jsonl

SHARE = "share/"


def floats(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """The scalars' values, in one transfer from the device."""
    numbers = torch.stack([value.detach().float() for value in scalars.values()]).tolist()
    return dict(zip(scalars, numbers, strict=True))


def means(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each measurement over the dicts that contain it. `NAME/FILE` is weighted by
    `share/FILE`, so that it is the mean over the file's items."""
    found = {}
    for name in sorted({name for one in measured for name in one}):
        dicts = [one for one in measured if name in one]
        weights = [1.0] * len(dicts)
        if "/" in name and not name.startswith(SHARE):
            weights = [one[SHARE + name.partition("/")[2]] for one in dicts]
        total = sum(one[name] * weight for one, weight in zip(dicts, weights, strict=True))
        found[name] = total / sum(weights)
    return found


class MetricsLog:
    """The lines of `metrics.jsonl`, written atomically. They contain no times, so reruns give equal bytes.

    A line's measurements are means over the steps since the previous line.
    """

    def __init__(self, out: Path, writes: bool) -> None:
        """Of several processes that train together, only one `writes`."""
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
        """Continue from a state, whatever the file contains now."""
        self.lines, self.collected, self.between = lines, collected, between

    def collect(self, values: dict[str, float]) -> None:
        """Add a step's measurements to the next line."""
        self.collected.append(values)

    def add(self, step: int, values: dict[str, float], on_grid: bool) -> None:
        """Add the line of a step: the means of what was collected, and `values`.

        A last step off the grid only adds a line to the file: a longer run does not have it, and
        continues collecting.
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

    def last_steps(self) -> int:
        """How many steps the last line is a mean over."""
        steps = [0, *(line["step"] for line in self.all_lines())]
        return steps[-1] - steps[-2]

    def reaches(self, step: int) -> bool:
        """Whether the last line is the first of this step or a later one."""
        return step <= self.last()["step"] < step + self.last_steps()

    def last(self) -> dict[str, Any]:
        return (self.all_lines() or [{}])[-1]
