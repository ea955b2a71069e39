"""Writes files atomically, and keeps reads inside a folder."""

import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from expo_cli.errors import ContractError, ExpoError

Content = TypeVar("Content")

HOST = os.uname().nodename


@contextmanager
def cannot_be_written(path: Path) -> Iterator[None]:
    """Turn an OSError raised while `path` is written or removed into a one-line ExpoError."""
    try:
        yield
    except OSError as error:
        raise ExpoError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def to_standard_output() -> Iterator[None]:
    """Turn an OSError into ExpoError, except for a closed pipe."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ExpoError(f"standard output: cannot be written: {error.strerror}") from error


def partial_path(path: Path) -> Path:
    """A new temporary name next to `path`, for a file being written or a folder being removed."""
    return path.with_name(f"{path.name}.{HOST}-{secrets.token_hex(4)}.partial")


@contextmanager
def atomic(path: Path, publish: Callable[[Path, Path], None] = os.replace) -> Iterator[IO[bytes]]:
    """A binary file that gets its final name, by `publish`, only when it is complete.

    Until then it is called `NAME.HOST-TOKEN.partial`, in the same folder, and locked. An error
    leaves the old file unchanged. Raises ExpoError when the folder cannot be written or the disk
    is full.
    """
    partial = partial_path(path)
    with cannot_be_written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                with suppress(OSError):  # not every file system has locks
                    fcntl.flock(file, fcntl.LOCK_SH)
                yield file
                file.flush()
                os.fsync(file.fileno())
                publish(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def remove_abandoned(folder: Path, pattern: str = "**/*") -> None:
    """Remove `.partial` files that killed processes of this host left in `folder`.

    Those of other hosts are kept, because their writers may still be running.
    """
    for partial in folder.glob(f"{pattern}.{glob.escape(HOST)}-*.partial"):
        if partial.is_dir():  # a folder that was being removed
            shutil.rmtree(partial, ignore_errors=True)
            continue
        with suppress(OSError), partial.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()


def lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Lock `path`, a folder that only one process at a time may write.

    The system releases the lock when the process ends. Raises ExpoError when another process holds
    it, or when it cannot be locked.
    """
    lock = lock_path(path)
    try:
        file = _locked(lock)
    except BlockingIOError as error:
        raise ExpoError(
            f"{path}: another process is writing it; wait until it has finished"
        ) from error
    except OSError as error:
        raise ExpoError(f"{lock}: cannot be locked: {error.strerror or error}") from error
    with file:
        try:
            yield
        finally:
            lock.unlink()


def _locked(lock: Path) -> IO[bytes]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = lock.open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The previous holder may have removed the file since: then this lock excludes nobody.
            if lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        except OSError:
            file.close()
            raise
        file.close()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder that gets its final name only when everything in it is written.

    Leftovers of an interrupted run are replaced, so only one process may write it.
    """
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with cannot_be_written(path):
        partial.mkdir(parents=True)
        try:
            yield partial
            shutil.rmtree(path, ignore_errors=True)
            os.replace(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def inside(folder: Path, relative: str) -> Path:
    """The file `relative` of `folder`.

    Raises ContractError when it is absolute, or leaves the folder through `..` or a symbolic link:
    an untrusted file must not read or overwrite anything else.
    """
    path = folder / relative
    if leaves(relative) or not path.resolve().is_relative_to(folder.resolve()):
        raise ContractError(f"{relative!r} leaves the folder {folder}; paths must stay below it")
    return path


def leaves(relative: str) -> bool:
    """Whether a path leaves its folder by its text alone; symbolic links are not followed."""
    # Without pathlib, which is slow: this is called for each record.
    return "\0" in relative or relative.startswith("/") or ".." in relative.split("/")


def read_json(path: Path, kind: type[Content]) -> Content:
    """The contents of a JSON file. Raises ExpoError when it cannot be read, ContractError when it is
    not a `kind`."""
    try:
        return msgspec.json.decode(path.read_text(encoding="utf-8"), type=kind)
    except OSError as error:
        raise ExpoError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(f"{path}: {error}") from error


def json_bytes(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def write_json(path: Path, value: object) -> None:
    """Write indented JSON atomically."""
    with atomic(path) as file:
        file.write(json_bytes(value))


def sha256(path: Path) -> str:
    """The file's sha256 in hex. Raises ExpoError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ExpoError(f"{path}: cannot be read: {error.strerror or error}") from error


def listing_sha256(items: Iterable[tuple[str, str]]) -> str:
    """One sha256 over (name, sha256) items: the output of `sha256sum NAMES | sha256sum`."""
    listing = "".join(f"{digest}  {name}\n" for name, digest in items)
    return hashlib.sha256(listing.encode()).hexdigest()


def files_sha256(folder: Path, paths: Iterable[Path]) -> str:
    """One sha256 over files: the output of `sha256sum FILES | sha256sum` in `folder`."""
    return listing_sha256((path.relative_to(folder).as_posix(), sha256(path)) for path in paths)
