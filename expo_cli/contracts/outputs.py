"""When an output is begun, a part whole, an output finished or removed: decided only here.

`contracts.kinds` knows the files of each kind of output. The first process creates `run.json`;
later ones compare it with their own run, and continue or refuse. Files are removed only if expo
made them, and only where `run.json` says that the same command did.
"""

import glob
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from expo_cli.contracts.files import (
    atomic,
    cannot_be_written,
    partial_path,
    remove_abandoned,
    sha256,
)
from expo_cli.contracts.provenance import RUN, Run, as_written, read_run, run_bytes, write_run
from expo_cli.contracts.shards import ranges
from expo_cli.errors import ContractError, ExpoError, UsageError

START_ANEW = "choose another --out, or --overwrite to start again"
SHOWN_DIGITS = 16


@dataclass(frozen=True)
class Input:
    """Something that a command reads: the flag or argument that names it, and its path."""

    name: str
    path: Path


class Output(ABC):
    """The output of `command` at `path`; subclasses know its files."""

    remedy = START_ANEW

    def __init__(self, path: Path, command: str) -> None:
        self.path, self.command = path, command

    @property
    def run_path(self) -> Path:
        return self.path / RUN

    @property
    def partials(self) -> str:
        """Glob pattern of its unfinished files, in the folder of run.json."""
        return "**/*"

    @abstractmethod
    def own_files(self) -> Iterator[Path]:
        """Its existing files and folders, without `run.json`."""

    def run(self) -> Run | None:
        """The run that began it, if any. Raises ContractError when run.json is not valid."""
        path = self.run_path
        return read_run(path.parent, path.name) if path.exists() else None

    def check(self, run: Run, inputs: Sequence[Input], overwrite: bool) -> None:
        """Check everything that could be refused; writes nothing.

        Raises UsageError for a path that cannot be an output or contains an input; ContractError
        when the existing files are of another command, of unknown origin, or made from other
        inputs and settings than those of `run`.
        """
        begun = self.check_place(inputs)
        if overwrite:
            check_holds_none(self.path, inputs)
            if begun is None:
                self.check_empty()
        elif begun is not None:
            self.check_same(begun, run)

    def check_place(self, inputs: Sequence[Input]) -> Run | None:
        """Check that the output may be made here by some run; returns the run that began it, if any.

        Errors as `check`.
        """
        check_place(self.path, inputs)
        begun = self.run()
        if begun is None:
            self.check_not_foreign()
        elif begun.command != self.command:
            raise UsageError(
                f"--out {self.path}: is the output of `expo {begun.command}`, not of "
                f"{self.command}; choose another --out"
            )
        return begun

    def check_not_foreign(self) -> None:
        """Raises ContractError when files with its names exist that expo did not make."""
        if (own := next(self.own_files(), None)) is not None:
            raise ContractError(
                f"{own}: exists, and no {self.run_path.name} says that expo made it; "
                "move it away, or choose another --out"
            )

    def check_empty(self) -> None:
        """Raises UsageError when the folder is not empty and was not begun by expo."""
        if names_in(self.path):
            raise UsageError(
                f"--overwrite: {self.path} is not empty, and no {self.run_path.name} says that expo "
                "made it; choose another --out"
            )

    def check_same(self, begun: Run, run: Run) -> None:
        """Raises ContractError that names the first setting or input in which the two differ."""
        if begun.is_older:
            raise ContractError(
                f"{self.path}: was made by an older version of expo, which did not record what "
                f"its inputs were: it can be read but not continued; {self.remedy}"
            )
        check_same_run(self.path, begun, as_written(run), self.remedy)

    def begin(self, run: Run, inputs: Sequence[Input], overwrite: bool = False) -> bool:
        """Begin or continue the output; errors as `check`. Returns whether it was begun now.

        With `overwrite` its files are removed first.
        """
        self.check(run, inputs, overwrite)
        if overwrite:
            self.remove()
        remove_abandoned(self.run_path.parent, self.partials)
        return self.claim(run)

    @contextmanager
    def begun(self, run: Run, inputs: Sequence[Input], overwrite: bool = False) -> Iterator[None]:
        """As `begin`; undone if an error occurs before any file is made."""
        existed = self.path.exists()
        created = self.begin(run, inputs, overwrite)
        try:
            yield
        except BaseException:
            if created and next(self.own_files(), None) is None:
                self.run_path.unlink(missing_ok=True)
                if not existed:
                    with suppress(OSError):
                        self.path.rmdir()
            raise

    def claim(self, run: Run) -> bool:
        """Create run.json if there is none, else compare with it; returns whether it was created.

        Called again before a file gets its final name, as another command may have replaced the
        output meanwhile. Raises ContractError when it belongs to another run.
        """
        while not self.run_path.exists():
            if create(self.run_path, run_bytes(run)):
                return True
        self.check_same(read_run(self.run_path.parent, self.run_path.name), run)
        return False

    def finish(self, run: Run) -> None:
        """Write the finished run, with counts and seconds."""
        write_run(self.run_path.parent, run, self.run_path.name)

    def remove(self) -> None:
        """Remove its files and the folders in it that become empty; run.json last, so that after
        a kill the output still counts as begun."""
        with cannot_be_written(self.path):
            own = list(self.own_files())
            for path in own:
                remove_any(path)
            for folder in {path.parent for path in own if self.path in path.parent.parents}:
                if not names_in(folder):
                    folder.rmdir()
            self.run_path.unlink(missing_ok=True)


class Parts(Output):
    """A folder of `count` numbered parts, made by any number of workers."""

    def __init__(self, path: Path, command: str, count: int) -> None:
        super().__init__(path, command)
        self.count = count

    @abstractmethod
    def part_files(self, part: int) -> list[str]:
        """Names of a part's files, the one that is written last first."""

    def missing(self) -> list[int]:
        """Numbers of the parts that lack a file, in ascending order."""
        there = names_in(self.path)
        return [n for n in range(self.count) if not self.is_whole(n, there)]

    def is_whole(self, part: int, there: set[str]) -> bool:
        return all(name in there for name in self.part_files(part))

    def require(self, numbers: Sequence[int] | None = None, command: str | None = None) -> None:
        """Raises ExpoError that names the missing ones among `parts` (default: all), and the
        command that makes them."""
        wanted = range(self.count) if numbers is None else numbers
        lacking = set(self.missing()).intersection(wanted)
        if lacking:
            raise ExpoError(
                f"{self.path}: {len(lacking)} of {len(wanted)} parts are missing "
                f"({ranges(sorted(lacking), 8)}); run the same `expo {command or self.command}` "
                "again to make them"
            )


class Files(Output):
    """A folder of files that run.json lists once they are finished."""

    def is_finished(self) -> bool:
        run = self.run()
        return run is not None and bool(run.files) and not self.missing(run)

    def names(self, run: Run) -> list[str]:
        """Names of all its files, as far as they are known."""
        return run.files

    def missing(self, run: Run) -> list[str]:
        """Names of the missing files."""
        return [name for name in self.names(run) if not (self.path / name).exists()]


class File(Output):
    """A single file, with its provenance next to it in NAME.run.json."""

    @property
    def run_path(self) -> Path:
        return run_path_of(self.path)

    @property
    def partials(self) -> str:
        return f"{glob.escape(self.path.name)}*"

    def own_files(self) -> Iterator[Path]:
        if os.path.lexists(self.path):
            yield self.path

    def check_place(self, inputs: Sequence[Input]) -> Run | None:
        if self.path.is_dir() or not self.path.name:
            raise UsageError(f"--out {str(self.path)!r}: is a folder; name a file")
        return super().check_place(inputs)

    def finished(self, run: Run, inputs: Sequence[Input], overwrite: bool) -> Run | None:
        """The run that made it from the same settings and inputs, None if it has yet to be made.

        Errors as `check`; ContractError when the file was changed since.
        """
        self.check(run, inputs, overwrite)
        made = self.run()
        if overwrite or made is None or made.sha256 is None or not self.path.exists():
            return None
        if sha256(self.path) != made.sha256:
            raise ContractError(
                f"{self.path}: was changed since expo wrote it ({self.run_path.name} has its "
                "sha256); write changes to another file, or --overwrite to make it again"
            )
        return made

    @contextmanager
    def making(self, run: Run, overwrite: bool) -> Iterator[None]:
        """Mark the file as begun in run.json while it is written. An error leaves the old file and
        its run.json unchanged; if the new file already exists, it stays begun."""
        before = self.run_path.read_bytes() if self.run_path.exists() else None
        file = self.inode()
        remove_abandoned(self.path.parent, self.partials)
        if overwrite:
            write_run(self.run_path.parent, run, self.run_path.name)
        else:
            self.claim(run)
        try:
            yield
        except BaseException:
            if self.inode() == file:
                if before is None:
                    self.run_path.unlink(missing_ok=True)
                else:
                    self.run_path.write_bytes(before)
            raise

    def inode(self) -> int | None:
        """The file's identity on disk, None if it is missing; a replaced file has another one."""
        return self.path.stat().st_ino if self.path.exists() else None

    def finish(self, run: Run) -> None:
        super().finish(replace(run, lines=count_lines(self.path), sha256=sha256(self.path)))

    def is_finished(self) -> bool:
        run = self.run()
        return run is not None and run.sha256 is not None and self.path.exists()


def run_path_of(path: Path) -> Path:
    """The path of a single file's run.json."""
    return path.with_name(f"{path.name}.{RUN}")


def count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def check_not_cut(path: Path) -> None:
    """Raises ContractError when a file of expo has another number of lines than expo wrote."""
    beside = run_path_of(path)
    if not beside.is_file() or not path.is_file():
        return
    written = read_run(beside.parent, beside.name).lines
    if written is not None and (found := count_lines(path)) != written:
        raise ContractError(
            f"{path}: has {found} lines, expo wrote {written} ({beside.name}): it was cut or "
            "changed; make it again, or write changes to another file"
        )


def check_same_run(place: Path, begun: Run, run: Run, remedy: str) -> None:
    """Raises ContractError that names the first setting or input in which two runs differ."""
    for key in sorted(begun.plan.keys() | run.plan.keys()):
        old, new = begun.plan.get(key), run.plan.get(key)
        if old != new:
            raise ContractError(f"{place}: was begun with {key}={old!r}, not {new!r}; {remedy}")
    for key in sorted(begun.inputs.keys() | run.inputs.keys()):
        if begun.inputs.get(key) != run.inputs.get(key):
            raise ContractError(
                f"{place}: was begun with {described(key, begun)}, not {described(key, run)}; "
                f"{remedy}"
            )


def described(key: str, run: Run) -> str:
    """An input of a run in words: its name, path and sha256."""
    if key not in run.inputs:
        return f"no {key}"
    place = run.free.get(key.partition("/")[0])
    where = f" of {place}" if place is not None else ""
    return f"{key}{where} (sha256 {run.inputs[key][:SHOWN_DIGITS]})"


def check_place(out: Path, inputs: Sequence[Input]) -> None:
    """Raises UsageError for the current folder, a folder above it, or the path of an input."""
    target, here = out.resolve(), Path.cwd().resolve()
    if target == here or target in here.parents:
        raise UsageError(
            f"--out {str(out)!r}: is the current folder or above it; choose a path of its own"
        )
    for each in inputs:
        if is_same(each.path.resolve(), target):
            raise UsageError(
                f"--out {out}: is also {each.name} ({each.path}); an input cannot be the output"
            )


def check_holds_none(out: Path, inputs: Sequence[Input]) -> None:
    """Raises UsageError when a folder to be removed contains an input of the same command."""
    target = out.resolve()
    for each in inputs:
        found = each.path.resolve()
        if any(is_same(place, target) for place in (found, *found.parents)):
            raise UsageError(
                f"--overwrite: {out} holds {each.name} ({each.path}), which this command reads; "
                "choose another --out"
            )


def is_same(path: Path, other: Path) -> bool:
    """Whether two resolved paths are the same file or folder on disk."""
    try:
        return path == other or path.samefile(other)
    except OSError:
        return False


def create(path: Path, content: bytes) -> bool:
    """Write a file atomically if it does not exist; returns whether it was written."""
    try:
        with atomic(path, publish=link_or_create) as file:
            file.write(content)
    except ExpoError as error:
        if isinstance(error.__cause__, FileExistsError):
            return False
        raise
    return True


def link_or_create(partial: Path, path: Path) -> None:
    """Publish by a hard link, which fails if the name is taken. Without hard links, by an exclusive
    copy, which others may see before it is complete."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:
        with path.open("xb") as file:
            file.write(partial.read_bytes())
    partial.unlink()


def names_in(folder: Path) -> set[str]:
    """The names in a folder; empty if there is no folder."""
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def remove_any(path: Path) -> None:
    """Remove a file, link or folder. A folder is renamed first, so that a kill never leaves half of it."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    aside = partial_path(path)
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)  # leftovers are removed as abandoned
