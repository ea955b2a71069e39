"""Reads a JSON array from a file, item by item, with the line that each begins on."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from expo_cli.contracts.texts import whole_text
from expo_cli.errors import ContractError

# The most characters of one item.
LONGEST_ITEM = 1 << 24
BLANKS = re.compile(r"[ \t\r\n]*")


def json_array(path: Path, name: str) -> Iterator[tuple[int, Any]]:
    """Each item, and the line it begins on. `name` is what errors call the file.

    Holds the file's text in memory. Raises ContractError for anything but one JSON array, and for an
    item of more than `LONGEST_ITEM` characters; others as `texts.whole_text`.
    """
    text = whole_text(path, name)
    position, line, mark = 0, 1, "["

    def move_to(end: int) -> None:
        nonlocal position, line
        line += text.count("\n", position, end)
        position = end

    def skip_blanks() -> None:
        move_to(BLANKS.match(text, position).end())

    while True:
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
            item, end = item_at(text, position)
        except (ValueError, RecursionError) as error:
            raise ContractError(f"{name}:{line}: not a JSON item: {error}") from error
        yield line, item
        move_to(end)
    if text[position + 1 :].strip():
        raise ContractError(f"{name}:{line}: something follows the JSON array")


def item_at(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at `start`, and where it ends.

    Raises ValueError or RecursionError where there is none.
    """
    _, end = json.JSONDecoder().raw_decode(text, start)
    if end - start > LONGEST_ITEM:
        raise ValueError(f"longer than {LONGEST_ITEM >> 20} MiB")
    # msgspec refuses what json accepts: NaN, half of a surrogate pair.
    return msgspec.json.decode(text[start:end]), end
