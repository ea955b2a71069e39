"""JSONL: one record per line, read with the file and line of every error, written atomically."""

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from expo_cli.contracts.files import atomic, to_standard_output
from expo_cli.contracts.texts import LONGEST_LINE, STANDARD_STREAM, lines
from expo_cli.errors import ContractError

Record = TypeVar("Record")

# As Python's json module writes them.
NOT_FINITE = re.compile(rb"[:\[,]\s*-?(NaN|Infinity)\b")


def numbered(path: Path, record_type: type[Record]) -> Iterator[tuple[int, Record]]:
    """Each line's number, from 1, and its record; `-` is standard input. Errors as `texts.lines`.

    Raises ContractError with file and line at the first line that is not a valid record.
    """
    decoder = msgspec.json.Decoder(record_type)
    for number, line in lines(path):
        if line is None:
            raise ContractError(f"{path}:{number}: is longer than {LONGEST_LINE >> 20} MiB")
        try:
            if not line.isascii():
                line.decode()  # msgspec does not check keys that it skips
            yield number, decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            problem = f"{path}:{number}: {_problem(line, error)}"
            if made_by := getattr(record_type, "made_by", None):
                problem += f"; `{made_by}` writes such lines"
            raise ContractError(problem) from error


def _problem(line: bytes, error: Exception) -> str:
    if not line.strip():
        return "empty line"
    if NOT_FINITE.search(line):
        return f"{error}; numbers must be finite, and JSON has no NaN and no Infinity"
    return str(error)


def read(path: Path, record_type: type[Record]) -> Iterator[Record]:
    """The records of a JSONL file; see `numbered`."""
    for _, record in numbered(path, record_type):
        yield record


def write(path: Path, records: Iterable[object]) -> int:
    """Write records to `path`, or to standard output when it is `-`; returns how many.

    The file appears whole or not at all.
    """
    if path == STANDARD_STREAM:
        with to_standard_output():
            return _write_lines(sys.stdout.buffer, records)
    with atomic(path) as file:
        return _write_lines(file, records)


def _write_lines(file: IO[bytes], records: Iterable[object]) -> int:
    encoder = msgspec.json.Encoder()
    count = 0
    for record in records:
        file.write(encoder.encode(record) + b"\n")
        count += 1
    file.flush()
    return count
