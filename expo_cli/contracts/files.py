"""Writing whole files, and staying inside a folder while reading them."""

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
    """Errors of the system while `path` is written or removed, as ExpoError in one line."""
    try:
        yield
    except OSError as error:
        raise ExpoError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def to_standard_output() -> Iterator[None]:
    """Errors of writing there as ExpoError; a reader that has seen enough is none."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ExpoError(f"standard output: cannot be written: {error.strerror}") from error


def partial_path(path: Path) -> Path:
    """Where what becomes `path` is until it is whole, or goes to when it is removed."""
    return path.with_name(f"{path.name}.{HOST}-{secrets.token_hex(4)}.partial")


@contextmanager
def atomic(path: Path, publish: Callable[[Path, Path], None] = os.replace) -> Iterator[IO[bytes]]:
    """A binary file that appears under its final name only when it is whole, as `publish` puts it.

    Until then it is `NAME.HOST-TOKEN.partial`, beside it and locked; an error leaves the old file as
    it was.
    Raises ExpoError, in one line, when the folder cannot be written or the disk is full.
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
    """Remove the `.partial` files of `folder` that killed processes of this host left.

    Another host's stay: whether their writers live is not known everywhere.
    """
    for partial in folder.glob(f"{pattern}.{glob.escape(HOST)}-*.partial"):
        if partial.is_dir():  # what was being removed
            shutil.rmtree(partial, ignore_errors=True)
            continue
        with suppress(OSError), partial.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()


def lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the right to write `path`, a folder that only one process at a time may make.

    Raises ExpoError when another process holds it, or there can be no lock; the system frees it
    when that one ends.
    """
    lock = lock_path(path)
    try:
        file = _locked(lock)
    except BlockingIOError as error:
        raise ExpoError(f"{path}: another process is writing it; wait for its end") from error
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
            # Who held it may have removed it since it was opened: then it keeps nobody else out.
            if lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        except OSError:
            file.close()
            raise
        file.close()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under its final name only when everything in it is written.

    A folder left over from an interrupted run is replaced, so only one process may write it.
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

    Raises ContractError when it is absolute, or leaves the folder by `..` or by a symbolic link:
    a file from a stranger must not read or overwrite anything else.
    """
    path = folder / relative
    if leaves(relative) or not path.resolve().is_relative_to(folder.resolve()):
        raise ContractError(f"{relative!r} leaves the folder {folder}; paths must stay below it")
    return path


def leaves(relative: str) -> bool:
    """Whether a path leaves its folder by what it says; a symbolic link may lead out all the same."""
    # Without pathlib: each record of a file is asked.
    return "\0" in relative or relative.startswith("/") or ".." in relative.split("/")


def read_json(path: Path, kind: type[Content]) -> Content:
    """What a JSON file holds. Raises ExpoError when there is none, ContractError when it is another
    kind of thing."""
    try:
        return msgspec.json.decode(path.read_text(encoding="utf-8"), type=kind)
    except OSError as error:
        raise ExpoError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(f"{path}: {error}") from error


def json_bytes(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def write_json(path: Path, value: object) -> None:
    """Write indented JSON, whole or not at all."""
    with atomic(path) as file:
        file.write(json_bytes(value))


def sha256(path: Path) -> str:
    """Raises ExpoError when the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ExpoError(f"{path}: cannot be read: {error.strerror or error}") from error


def listing_sha256(items: Iterable[tuple[str, str]]) -> str:
    """One sha256 over names and their sha256s: what `sha256sum NAMES | sha256sum` prints."""
    listing = "".join(f"{digest}  {name}\n" for name, digest in items)
    return hashlib.sha256(listing.encode()).hexdigest()


def files_sha256(folder: Path, paths: Iterable[Path]) -> str:
    """One sha256 over files: what `sha256sum FILES | sha256sum` prints in `folder`."""
    return listing_sha256((path.relative_to(folder).as_posix(), sha256(path)) for path in paths)
