"""Progress and notes on stderr: a bar on a terminal, plain lines elsewhere."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from expo_cli.config import RunOptions
from expo_cli.errors import one_line
from expo_cli.stages.common.launch import is_first

SECONDS_BETWEEN_LINES = 20.0
# Environment by which --quiet silences libraries and child processes.
SILENCE = {
    "PYTHONWARNINGS": "ignore",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}
WIDTH_OF_LOGS = 160


def silence_libraries() -> None:
    """Silence warnings and progress bars of libraries."""
    os.environ.update(SILENCE)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def seconds_since(started: float) -> float:
    """Seconds since `time.monotonic()` was `started`, as records hold them."""
    return round(time.monotonic() - started, 3)


class Bar:
    """Counts finished items; made by `Notes.bar`."""

    def __init__(self, total: int, unit: str, done: int) -> None:
        self.total, self.unit, self.done, self.done_before = total, unit, done, done
        self.started = time.monotonic()

    @property
    def rate(self) -> float:
        """Items per second in this run, without those of an earlier one."""
        return (self.done - self.done_before) / max(time.monotonic() - self.started, 1e-9)

    def advance(self, count: int = 1) -> None:
        self.done += count


class _LineBar(Bar):
    def __init__(self, total: int, unit: str, done: int) -> None:
        super().__init__(total, unit, done)
        self.last_line = self.started

    def advance(self, count: int = 1) -> None:
        super().advance(count)
        now = time.monotonic()
        if now - self.last_line >= SECONDS_BETWEEN_LINES or self.done == self.total:
            self.last_line = now
            left = (self.total - self.done) / self.rate
            sys.stderr.write(
                f"{self.done}/{self.total} {self.unit}, {self.rate:.1f}/s, {left:.0f} s left\n"
            )


class _RichBar(Bar):
    def __init__(self, total: int, unit: str, done: int, progress: Progress) -> None:
        super().__init__(total, unit, done)
        self.progress = progress
        self.task = progress.add_task(unit, total=total, completed=done, rate="")

    def advance(self, count: int = 1) -> None:
        super().advance(count)
        self.progress.update(self.task, advance=count, rate=f"{self.rate:.1f}/s")


class Notes:
    """Everything a stage prints while it works."""

    def __init__(self, options: RunOptions) -> None:
        # Of several processes that train together, only the first one prints.
        self.quiet = options.quiet or not is_first()
        if self.quiet:
            silence_libraries()
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(one_line(text), markup=False, emoji=False)

    def show(self, table: Table) -> None:
        """Print a table, in full width if stderr is not a terminal."""
        if not self.quiet:
            width = None if self.console.is_terminal else WIDTH_OF_LOGS
            Console(stderr=True, width=width).print(table)

    @contextmanager
    def bar(self, total: int, unit: str, done: int = 0) -> Iterator[Bar]:
        """A progress bar over `total` items, `done` of which an earlier run finished."""
        if self.quiet:
            yield Bar(total, unit, done)
        elif not self.console.is_terminal:
            yield _LineBar(total, unit, done)
        else:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.console) as progress:
                yield _RichBar(total, unit, done, progress)
