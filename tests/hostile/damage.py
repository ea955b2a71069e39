"""Damage to files that are valid, the same at every run, and what a reader may make of it."""

import gzip
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from expo_cli.errors import ExpoError
from expo_cli.main import one_line

Case = TypeVar("Case")
Content = TypeVar("Content")

# JSON texts in place of a value: of every type, of no type, and too large for one.
VALUES = (
    *(b"null", b"true", b"0", b"1", b"-1", b"1.0", b"1.5", b"-0.0", b"1e400", b"-1e400"),
    *(b"NaN", b"Infinity", b"-Infinity", b"9" * 20, b"9" * 400, b"9" * 5000, b"1e", b"01", b"+1"),
    *(b'""', b'"x"', b'"1"', b'"../x"', b'"/x"', b'"a/b"', b'"a\\u0000b"', b'"a\\nb"', b"'x'"),
    *(b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\ude00"', b'"\\u2028"', b'"a\x00b"', b'"\t"'),
    *(b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b'"\xf0\x9f\x98\x80"', '"\u2028"'.encode()),
    *(b"[]", b"[1]", b'["x"]', b"[[]]", b"{}", b'{"a":1}', b"[", b"]", b"{", b"}", b"", b"nul"),
    *(
        b"[" * 20_000,
        b"[" * 20_000 + b"]" * 20_000,
        b'{"a":' * 20_000,
        b'"' + b"x" * 100_000 + b'"',
    ),
)

# Bytes to put before, after or in place of any text file.
WHOLE_FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "one line end": lambda data: b"\n",
    "blank": lambda data: b" \t\r\n",
    "a NUL": lambda data: b"\0",
    "NULs": lambda data: bytes(len(data)),
    "BOM": lambda data: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "UTF-16 without BOM": lambda data: data.decode().encode("utf-16-le"),
    "Latin-1 after it": lambda data: data + b"caf\xe9\n",
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "CR": lambda data: data.replace(b"\n", b"\r"),
    "line separators": lambda data: data.replace(b"\n", "\u2028".encode()),
    "no last line end": lambda data: data.removesuffix(b"\n"),
    "empty line after it": lambda data: data + b"\n",
    "empty line before it": lambda data: b"\n" + data,
    "NUL after it": lambda data: data + b"\0",
    "twice": lambda data: data + data,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zip": lambda data: b"PK\x03\x04" + data,
    "HTML": lambda data: b"<!DOCTYPE html><title>404</title>\n",
    "LFS pointer": lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
}


def plain(data: bytes) -> bytes:
    """What every reader of text makes of a file: no byte order mark, and lines that end in LF."""
    return data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def lines_changed(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Each line in turn deleted, doubled, swapped with the next, joined to it, and split."""
    lines = data.splitlines(keepends=True)
    for i, line in enumerate(lines):
        before, after = lines[:i], lines[i + 1 :]
        yield f"no line {i + 1}", b"".join([*before, *after])
        yield f"line {i + 1} twice", b"".join([*before, line, line, *after])
        yield f"line {i + 1} last", b"".join([*before, *after, line])
        yield f"line {i + 1} joined", b"".join([*before, line.rstrip(b"\n"), *after])
        yield f"line {i + 1} split", b"".join([*before, line[:9], b"\n", line[9:], *after])


def truncations(data: bytes, most: int = 10_000) -> Iterator[tuple[str, bytes]]:
    """The data cut at every length, or at `most` of them."""
    step = -(-len(data) // most)
    for length in range(0, len(data), step):
        yield f"first {length} bytes", data[:length]


def bytes_changed(data: bytes, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """One byte flipped, set, inserted or removed, or a stretch of them repeated or lost."""
    rng = random.Random(seed)
    for number in range(count):
        at, other = rng.randrange(len(data)), rng.randrange(len(data))
        byte = bytes([rng.choice([0, 9, 10, 13, 34, 44, 91, 92, 93, 123, 125, 127, 128, 255])])
        flipped = bytes([data[at] ^ 1 << rng.randrange(8)])
        yield (
            f"byte {at} changed ({number})",
            rng.choice(
                [
                    data[:at] + flipped + data[at + 1 :],
                    data[:at] + byte + data[at + 1 :],
                    data[:at] + byte + data[at:],
                    data[:at] + data[at + 1 :],
                    data[:at] + data[other : other + 50] + data[at:],
                    data[: min(at, other)] + data[max(at, other) :],
                ]
            ),
        )


def changed(data: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    """A text file damaged in all of these ways; `count` random ones."""
    for name, change in WHOLE_FILES.items():
        yield name, change(data)
    yield from lines_changed(data)
    yield from truncations(data)
    yield from bytes_changed(data, count)


def every(cases: Iterable[tuple[str, Case]], check: Callable[[Case], None]) -> None:
    """Check every case; fails with the names of those that are not as they should be."""
    failures, count = [], 0
    for name, case in cases:
        count += 1
        try:
            check(case)
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {error}"[:400])
    assert count, "no cases"
    assert not failures, "\n".join([f"{len(failures)} of {count} cases:", *failures[:30]])


def read_or_fault(read: Callable[[], Content], place: str) -> Content | None:
    """What is read, or None when the reader says in one line, beginning with the place, why not."""
    try:
        return read()
    except ExpoError as error:
        fault(error, place)
        return None


def values_changed(record: dict) -> Iterator[tuple[str, bytes]]:
    """The record as JSON, with each value in it replaced by each of VALUES, or left out."""

    def places(value: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if path:
            yield path
        for key, item in value.items() if isinstance(value, dict) else ():
            yield from places(item, (*path, key))

    for path in places(record, ()):
        tree = json.loads(json.dumps(record))
        inner = tree
        for key in path[:-1]:
            inner = inner[key]
        for number, text in enumerate(VALUES):
            inner[path[-1]] = "@@"
            line = json.dumps(tree).encode().replace(b'"@@"', text)
            yield f"{'.'.join(path)}: value {number}", line
        del inner[path[-1]]
        yield f"no {'.'.join(path)}", json.dumps(tree).encode()


def fault(error: ExpoError, place: str) -> None:
    """What the user sees of the error is one line of bounded length that begins with the place.

    `place` is a regular expression, see `at`.
    """
    line = one_line(str(error))
    assert re.match(place, line), f"{line[:300]!r} does not begin with {place!r}"
    assert line.isprintable()
    assert len(line) < 2500, f"{len(line)} characters: {line[:300]!r}"


def at(path: Path, line: int | None = None) -> str:
    """The pattern of a place in a file; of any line or none by default."""
    number = r"(:\d+)?" if line is None else f":{line}"
    return f"{re.escape(str(path))}{number}: "
