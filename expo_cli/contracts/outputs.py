"""The life of an output: begun, continued, finished, removed. Nothing else decides any of it.

These are the mechanics; `contracts.kinds` knows which files each kind of output has. An output is
known by its `run.json`, which is created at once by whoever comes first: others compare, and
continue or refuse. Nothing is removed that expo did not make, nor where no `run.json` says that the
same command made it.
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
from expo_cli.contracts.parts import ranges
from expo_cli.contracts.provenance import RUN, Run, as_written, read_run, run_bytes, write_run
from expo_cli.errors import ContractError, ExpoError, UsageError

START_ANEW = "choose another --out, or --overwrite to start it anew"
SHOWN_DIGITS = 16


@dataclass(frozen=True)
class Input:
    """Something that a command reads: the flag or argument that names it, and where it lies."""

    name: str
    path: Path


class Output(ABC):
    """What `command` makes at `path`. A kind of output says which files it has."""

    remedy = START_ANEW

    def __init__(self, path: Path, command: str) -> None:
        self.path, self.command = path, command

    @property
    def run_path(self) -> Path:
        return self.path / RUN

    @property
    def partials(self) -> str:
        """Pattern of its unfinished files, in the folder of run.json."""
        return "**/*"

    @abstractmethod
    def own_files(self) -> Iterator[Path]:
        """Its files and folders that are there, `run.json` not among them."""

    def run(self) -> Run | None:
        """Who began it, if anyone did. Raises ContractError when run.json is not whole."""
        path = self.run_path
        return read_run(path.parent, path.name) if path.exists() else None

    def check(self, run: Run, inputs: Sequence[Input], overwrite: bool) -> None:
        """Everything that could be refused; writes nothing.

        Raises UsageError for a place that is no output's, or that holds an input; ContractError
        when what is there was made by another command, by nobody known, or from other inputs and
        settings than `run` says.
        """
        begun = self.check_place(inputs)
        if overwrite:
            check_holds_none(self.path, inputs)
            if begun is None:
                self.check_empty()
        elif begun is not None:
            self.check_same(begun, run)

    def check_place(self, inputs: Sequence[Input]) -> Run | None:
        """Whether it may be made here at all, by whatever run; returns the one that began it.

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
        """Raises ContractError when files of its names are there that expo did not make."""
        if (own := next(self.own_files(), None)) is not None:
            raise ContractError(
                f"{own}: is there already, and no {self.run_path.name} says that expo made it; "
                "move it away, or choose another --out"
            )

    def check_empty(self) -> None:
        """Raises UsageError for a folder with anything in it that nobody known has begun."""
        if names_in(self.path):
            raise UsageError(
                f"--overwrite: {self.path} is not empty, and no {self.run_path.name} says that expo "
                "made it; choose another --out"
            )

    def check_same(self, begun: Run, run: Run) -> None:
        """Raises ContractError that names the first setting or input in which the two differ."""
        if begun.is_older:
            raise ContractError(
                f"{self.path}: was made by an older version of expo, which did not write down what "
                f"its inputs were: it can be read but not continued; {self.remedy}"
            )
        check_same_run(self.path, begun, as_written(run), self.remedy)

    def begin(self, run: Run, inputs: Sequence[Input], overwrite: bool = False) -> bool:
        """Begin the output, or continue it; errors as `check`. Returns whether it was begun now.

        With `overwrite` what it holds is removed first.
        """
        self.check(run, inputs, overwrite)
        if overwrite:
            self.remove()
        remove_abandoned(self.run_path.parent, self.partials)
        return self.claim(run)

    @contextmanager
    def begun(self, run: Run, inputs: Sequence[Input], overwrite: bool = False) -> Iterator[None]:
        """`begin`, which is undone when nothing could be made of it."""
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

        Called again before anything is put under its final name: another command may have
        started the output anew meanwhile. Raises ContractError when it is another run's.
        """
        while not self.run_path.exists():
            if create(self.run_path, run_bytes(run)):
                return True
        self.check_same(read_run(self.run_path.parent, self.run_path.name), run)
        return False

    def finish(self, run: Run) -> None:
        """Write down counts and seconds."""
        write_run(self.run_path.parent, run, self.run_path.name)

    def remove(self) -> None:
        """Remove its own files and the folders in it that this empties; run.json last, so that a
        kill in between leaves it begun."""
        with cannot_be_written(self.path):
            own = list(self.own_files())
            for path in own:
                remove_any(path)
            for folder in {path.parent for path in own if self.path in path.parent.parents}:
                if not names_in(folder):
                    folder.rmdir()
            self.run_path.unlink(missing_ok=True)


class Parts(Output):
    """A folder of `count` numbered parts that any number of workers make."""

    def __init__(self, path: Path, command: str, count: int) -> None:
        super().__init__(path, command)
        self.count = count

    @abstractmethod
    def part_files(self, part: int) -> list[str]:
        """The names of a part's files, the one last written first."""

    def missing(self) -> list[int]:
        """The parts that lack a file, rising."""
        there = names_in(self.path)
        return [n for n in range(self.count) if not self.is_whole(n, there)]

    def is_whole(self, part: int, there: set[str]) -> bool:
        return all(name in there for name in self.part_files(part))

    def require(self, numbers: Sequence[int] | None = None, command: str | None = None) -> None:
        """Raises ExpoError that names the missing parts, of all or of some, and the command that
        makes them."""
        wanted = range(self.count) if numbers is None else numbers
        lacking = set(self.missing()).intersection(wanted)
        if lacking:
            raise ExpoError(
                f"{self.path}: {len(lacking)} of {len(wanted)} parts are missing "
                f"({ranges(sorted(lacking), 8)}); run the same `expo {command or self.command}` "
                "again to make them"
            )


class Files(Output):
    """A folder of files that its run.json lists when they are finished."""

    def is_finished(self) -> bool:
        run = self.run()
        return run is not None and bool(run.files) and not self.missing(run)

    def names(self, run: Run) -> list[str]:
        """Of all its files, as far as they are known."""
        return run.files

    def missing(self, run: Run) -> list[str]:
        """The names of those that are not there."""
        return [name for name in self.names(run) if not (self.path / name).exists()]


class File(Output):
    """A single file, its provenance beside it in NAME.run.json. There is no folder for it alone."""

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
        """The run that made it from the same settings and inputs, None when it is to be made.

        Errors as `check`; ContractError when the file is not as it was written.
        """
        self.check(run, inputs, overwrite)
        made = self.run()
        if overwrite or made is None or made.sha256 is None or not self.path.exists():
            return None
        if sha256(self.path) != made.sha256:
            raise ContractError(
                f"{self.path}: was changed since expo wrote it ({self.run_path.name} has its "
                "sha256); write what you change to another file, or --overwrite to make it anew"
            )
        return made

    @contextmanager
    def making(self, run: Run, overwrite: bool) -> Iterator[None]:
        """While its one file is written: run.json says that it is begun. An error leaves the file
        and its run.json as they were; where the new file is there already, it stays begun."""
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
        """Which file it is now, if it is there: one that is replaced is another."""
        return self.path.stat().st_ino if self.path.exists() else None

    def finish(self, run: Run) -> None:
        super().finish(replace(run, lines=count_lines(self.path), sha256=sha256(self.path)))

    def is_finished(self) -> bool:
        run = self.run()
        return run is not None and run.sha256 is not None and self.path.exists()


def run_path_of(path: Path) -> Path:
    """Where the provenance of a single file is."""
    return path.with_name(f"{path.name}.{RUN}")


def count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def check_not_cut(path: Path) -> None:
    """Raises ContractError when a file that expo wrote has not as many lines as were written."""
    beside = run_path_of(path)
    if not beside.is_file() or not path.is_file():
        return
    written = read_run(beside.parent, beside.name).lines
    if written is not None and (found := count_lines(path)) != written:
        raise ContractError(
            f"{path}: has {found} lines, expo wrote {written} ({beside.name}): it was cut or "
            "changed; make it again, or write what you change to another file"
        )


def check_same_run(place: Path, begun: Run, run: Run, remedy: str) -> None:
    """Raises ContractError that names the first setting, or input, in which two runs differ."""
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
    """An input of a run in words: what it is, where it was found, and its sha256."""
    if key not in run.inputs:
        return f"no {key}"
    place = run.free.get(key.partition("/")[0])
    where = f" of {place}" if place is not None else ""
    return f"{key}{where} (sha256 {run.inputs[key][:SHOWN_DIGITS]})"


def check_place(out: Path, inputs: Sequence[Input]) -> None:
    """Raises UsageError where nothing may be made: here, above here, or where an input lies."""
    target, here = out.resolve(), Path.cwd().resolve()
    if target == here or target in here.parents:
        raise UsageError(
            f"--out {str(out)!r}: is the current folder or above it; name a place of its own"
        )
    for each in inputs:
        if is_same(each.path.resolve(), target):
            raise UsageError(
                f"--out {out}: is also {each.name} ({each.path}); an input is never an output"
            )


def check_holds_none(out: Path, inputs: Sequence[Input]) -> None:
    """Raises UsageError when a folder that is to be removed holds an input of the same command."""
    target = out.resolve()
    for each in inputs:
        found = each.path.resolve()
        if any(is_same(place, target) for place in (found, *found.parents)):
            raise UsageError(
                f"--overwrite: {out} holds {each.name} ({each.path}), which this command reads; "
                "choose another --out"
            )


def is_same(path: Path, other: Path) -> bool:
    """Whether two resolved paths are one file or folder, as the file system has it."""
    try:
        return path == other or path.samefile(other)
    except OSError:
        return False


def create(path: Path, content: bytes) -> bool:
    """Write a file that appears whole, and only if there is none; returns whether it was."""
    try:
        with atomic(path, publish=link_or_create) as file:
            file.write(content)
    except ExpoError as error:
        if isinstance(error.__cause__, FileExistsError):
            return False
        raise
    return True


def link_or_create(partial: Path, path: Path) -> None:
    """By a hard link, which fails where the name is taken. Where there are no links, in one exclusive
    step: others may then see the file before it is whole."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:
        with path.open("xb") as file:
            file.write(partial.read_bytes())
    partial.unlink()


def names_in(folder: Path) -> set[str]:
    """The names in a folder; none where there is no folder."""
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def remove_any(path: Path) -> None:
    """Remove a file, a link or a folder. A folder goes at once: a kill leaves nothing half of it."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    aside = partial_path(path)
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)  # what is left of it is abandoned
