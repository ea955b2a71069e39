"""A JSON array of any length, read an item at a time."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from expo_cli.errors import ContractError, ExpoError

LONGEST_ITEM = 1 << 20
BLANKS = re.compile(r"[ \t\r\n]*")


def json_array(path: Path, name: str) -> Iterator[tuple[int, Any]]:
    """Each item, and the line it begins on. `name` is what errors call the file.

    Holds a few MiB, however long the array is. Raises ContractError for anything but one JSON
    array, and for an item of more than `LONGEST_ITEM` characters.
    """
    decoder = json.JSONDecoder()
    text, position, line, mark, more = "", 0, 1, "[", True

    def skip_blanks() -> None:
        nonlocal position, line
        start, position = position, BLANKS.match(text, position).end()
        line += text.count("\n", start, position)

    try:
        with path.open(encoding="utf-8-sig") as file:
            while True:
                if more and len(text) - position < 2 * LONGEST_ITEM:
                    piece = file.read(8 * LONGEST_ITEM)
                    text, position, more = text[position:] + piece, 0, bool(piece)
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
                start = position
                try:
                    _, position = decoder.raw_decode(text, start)
                    # msgspec refuses what json lets through: NaN, half of a surrogate pair.
                    item = msgspec.json.decode(text[start:position])
                except (ValueError, RecursionError) as error:
                    raise ContractError(f"{name}:{line}: not a JSON item: {error}") from error
                yield line, item
                line += text.count("\n", start, position)
            if text[position + 1 :].strip() or file.read(1):
                raise ContractError(f"{name}:{line}: something follows the JSON array")
    except UnicodeDecodeError as error:
        raise ContractError(f"{name}:{line}: not UTF-8 from here on: {error}") from error
    except OSError as error:
        raise ExpoError(f"{name}: cannot be read: {error.strerror or error}") from error
