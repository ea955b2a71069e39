"""Reads text files the same way everywhere, as editors, spreadsheets and scrapers write them.

Files are UTF-8, with or without a byte order mark; other encodings are reported. A line ends at LF,
CR LF or a lone CR. `lines` holds one line in memory, of at most LONGEST_LINE bytes.
"""

import codecs
import stat
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from expo_cli.errors import ContractError, ExpoError

STANDARD_STREAM = Path("-")
LONGEST_LINE = 1 << 24
BYTES_AT_ONCE = 1 << 20
LINE_ENDS = (b"\n", b"\r")


def pieces(path: Path, name: str) -> Iterator[bytes]:
    """Yields a file's bytes without its byte order mark. `-` is standard input; errors call it `name`.

    Raises ExpoError when it cannot be read, ContractError when it is UTF-16 or UTF-32, or a device,
    which has no end.
    """
    if path == STANDARD_STREAM and sys.stdin is None:
        raise ExpoError(f"{name}: standard input is closed")
    try:
        if path != STANDARD_STREAM and is_device(path):
            raise ContractError(f"{name}: is a device, not a text file")
        with nullcontext(sys.stdin.buffer) if path == STANDARD_STREAM else path.open("rb") as file:
            start = file.read(4)
            if found := other_encoding(start):
                raise ContractError(
                    f"{name}:1: is {found}; convert it to UTF-8 (iconv -f {found} -t UTF-8)"
                )
            yield start.removeprefix(codecs.BOM_UTF8)
            while piece := file.read1(BYTES_AT_ONCE):
                yield piece
    except OSError as error:
        raise ExpoError(f"{name}: cannot be read: {error.strerror or error}") from error


def is_device(path: Path) -> bool:
    """Whether it is a device other than a terminal; raises OSError when it does not exist."""
    if not stat.S_ISCHR(path.stat().st_mode):
        return path.is_block_device()
    with path.open("rb", buffering=0) as file:
        return not file.isatty()


def other_encoding(start: bytes) -> str | None:
    """The encoding of a file's first four bytes, by its byte order mark or the zeros around ASCII."""
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    match [byte == 0 for byte in start]:
        case [False, True, False, True] | [True, False, True, False]:
            return "UTF-16"
        case [False, True, True, True] | [True, True, True, False]:
            return "UTF-32"
    return None


def lines(path: Path, name: str | None = None) -> Iterator[tuple[int, bytes | None]]:
    """Each line's number, from 1, and the line with its end, or None if it is too long.

    Errors as `pieces`.
    """
    number, size = 0, 0
    begun: list[bytes] = []  # the unfinished line, of `size` bytes
    held = b""  # a CR at the end of a piece: a LF may follow
    for piece in pieces(path, name or str(path)):
        piece = held + piece
        held = b"\r" if piece.endswith(b"\r") else b""
        found: list[bytes | None] = piece.removesuffix(b"\r").splitlines(keepends=True)
        rest = found.pop() if found and not found[-1].endswith(LINE_ENDS) else b""
        if found and size:
            found[0] = joined([*begun, found[0]], size + len(found[0]))
            begun, size = [], 0
        for line in found:
            number += 1
            yield number, line
        size += len(rest)
        if rest and size <= LONGEST_LINE:
            begun.append(rest)
    if size or held:
        yield number + 1, joined([*begun, held], size + len(held))


def joined(parts: list[bytes], size: int) -> bytes | None:
    return b"".join(parts) if size <= LONGEST_LINE else None


def text_lines(path: Path, name: str | None = None) -> Iterator[tuple[int, str | None]]:
    """As `lines`, decoded. Raises ContractError at the first line that is not UTF-8."""
    name = name or str(path)
    for number, line in lines(path, name):
        try:
            yield number, None if line is None else line.decode()
        except UnicodeDecodeError as error:
            raise ContractError(
                f"{name}:{number}: not UTF-8: {error}; save the file as UTF-8"
            ) from error


def whole_text(path: Path, name: str) -> str:
    """The text, each of its lines ending in LF.

    Errors as `pieces`. Raises ContractError at the first line that is not UTF-8.
    """
    data = b"".join(pieces(path, name))
    try:
        return universal_newlines(data.decode())
    except UnicodeDecodeError as error:
        number = 1 + universal_newlines(data[: error.start].decode()).count("\n")
        raise ContractError(
            f"{name}:{number}: not UTF-8: {error}; save the file as UTF-8"
        ) from error


def universal_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
