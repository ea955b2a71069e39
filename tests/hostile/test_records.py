"""JSONL records: every kind, damaged, is what Python's own json reads or the line that is wrong."""

import json
import math
import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from expo_cli.contracts import jsonl
from expo_cli.contracts.records import (
    Score,
)
from expo_cli.errors import ContractError
from tests.hostile.damage import at, changed, every, fault, plain, read_or_fault, values_changed
from tests.records import EXAMPLES

KINDS = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)


class Twice(dict):
    """A JSON object that has a key twice: the last one counts, but all of them must be right."""


def independent(line: bytes, kind: type) -> object:
    """The record of a line by Python's own json. Raises ValueError when it is none."""

    def collected(items: list[tuple[str, object]]) -> dict:
        return (dict if len(dict(items)) == len(items) else Twice)(items)

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise ValueError(text)
        return number

    try:
        value = json.loads(
            line.decode(), parse_constant=finite, parse_float=finite, object_pairs_hook=collected
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    if isinstance(value, Twice):
        return None
    return conforming(value, kind)


def conforming(value: object, kind: Any) -> object:
    """A JSON value as a type hint asks for it. Raises ValueError when it is another one."""
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        for field in fields(kind):
            required = field.default is MISSING and field.default_factory is MISSING
            if required and field.name not in value:
                raise ValueError(f"no {field.name}")
        return kind(**{n: conforming(value[n], hint) for n, hint in hints.items() if n in value})
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(conforming(item, get_args(kind)[0]) for item in value)
    if get_origin(kind) is dict and isinstance(value, dict):
        return {key: conforming(item, get_args(kind)[1]) for key, item in value.items()}
    if get_origin(kind) in (Union, types.UnionType):
        for option in get_args(kind):
            if option is type(None) and value is None:
                return None
            if option is not type(None) and value is not None:
                return conforming(value, option)
    if get_origin(kind) is Literal and value in get_args(kind) and isinstance(value, str):
        return value
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise ValueError(f"{value!r} is no {kind}")


def agrees(path: Path, data: bytes, kind: type) -> None:
    """The reader and the independent one find the same records, and the same first bad line."""
    path.write_bytes(data)
    data = plain(data)
    expected, bad_line = [], None
    for number, line in enumerate(data.split(b"\n"), start=1):
        if number > 1 and not line and data.endswith(b"\n") and number > data.count(b"\n"):
            break
        if not data:
            break
        try:
            expected.append(independent(line, kind))
        except (ValueError, OverflowError):
            bad_line = number
            break
    found, refused = [], None
    try:
        found.extend(jsonl.read(path, kind))
    except ContractError as error:
        refused = error
    if refused and None in expected:
        fault(refused, at(path))
        return
    assert (refused is None) == (bad_line is None), refused or f"read {found[-1]!r}"
    if refused:
        fault(refused, at(path, bad_line))
    else:
        assert [record for record, one in zip(found, expected, strict=True) if one] == [
            one for one in expected if one
        ]


@KINDS
def test_every_value_of_every_field(example, tmp_path):
    good = msgspec.json.encode(example) + b"\n"
    every(
        values_changed(json.loads(good)),
        lambda line: agrees(tmp_path / "records.jsonl", good + line + b"\n" + good, type(example)),
    )


@KINDS
def test_damaged_lines_and_bytes(example, tmp_path):
    good = msgspec.json.encode(example) + b"\n"
    every(
        changed(3 * good, count=400),
        lambda data: agrees(tmp_path / "records.jsonl", data, type(example)),
    )


def test_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "none.jsonl"):
        assert read_or_fault(lambda path=path: list(jsonl.read(path, Score)), at(path)) is None
