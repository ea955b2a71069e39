"""Reads a JSON array of any length, item by item."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from expo_cli.contracts.texts import decoded
from expo_cli.errors import ContractError

# Characters to read ahead, and the maximum of one item.
AHEAD = 1 << 21
LONGEST_ITEM = 1 << 24
BLANKS = re.compile(r"[ \t\r\n]*")


def json_array(path: Path, name: str) -> Iterator[tuple[int, Any]]:
    """Yields each item with the line it begins on. Errors call the file `name`.

    Holds a few MiB, however long the array is. Raises ContractError for anything but one JSON
    array, and for an item of more than `LONGEST_ITEM` characters; other errors as `texts.pieces`.
    """
    decoder = json.JSONDecoder()
    pieces = decoded(path, name)
    text, position, line, mark, more = "", 0, 1, "[", True

    def read(wanted: int) -> None:
        """Buffer `wanted` characters from `position` on, or all that are left."""
        nonlocal text, position, more
        found = [text[position:]]
        length = len(found[0])
        while more and length < wanted:
            piece = next(pieces, None)
            more = piece is not None
            found.append(piece or "")
            length += len(found[-1])
        text, position = "".join(found), 0

    def next_item() -> str:
        """The text of the item at `position`, which advances past it."""
        nonlocal position
        while True:
            try:
                _, end = decoder.raw_decode(text, position)
                cut = end == len(text)  # a number may continue
            except (ValueError, RecursionError):
                end, cut = len(text), True
                if not more:
                    raise
            if end - position > LONGEST_ITEM:
                raise ValueError(f"longer than {LONGEST_ITEM >> 20} MiB")
            if not (cut and more):
                break
            read(max(AHEAD, 4 * (len(text) - position)))
        start, position = position, end
        return text[start:end]

    def skip_blanks() -> None:
        nonlocal position, line
        start, position = position, BLANKS.match(text, position).end()
        line += text.count("\n", start, position)

    try:
        while True:
            if len(text) - position < AHEAD:
                read(2 * AHEAD)
            skip_blanks()
            if mark == "," and text.startswith("]", position):
                break
            if not text.startswith(mark, position):
                raise ContractError(f"{name}:{line}: expected {mark!r} of a JSON array")
            position += 1
            skip_blanks()
            if mark == "[" and text.startswith("]", position):
                break
            mark = ","
            try:
                found = next_item()
                # msgspec refuses what json accepts: NaN, lone surrogates.
                item = msgspec.json.decode(found)
            except (ValueError, RecursionError) as error:
                raise ContractError(f"{name}:{line}: not a JSON item: {error}") from error
            yield line, item
            line += found.count("\n")
        if text[position + 1 :].strip() or any(piece.strip() for piece in pieces):
            raise ContractError(f"{name}:{line}: unexpected text after the JSON array")
    except UnicodeDecodeError as error:
        raise ContractError(
            f"{name}:{line}: not UTF-8 from here on: {error}; save the file as UTF-8"
        ) from error
