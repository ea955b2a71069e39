"""Files of prompts, damaged: the rows that another reading finds, or the line that is wrong."""

import itertools
import json
import math
from pathlib import Path

import pytest

from expo_cli.contracts.texts import LONGEST_LINE
from expo_cli.errors import ContractError, ExpoError
from expo_cli.stages.preferences.layouts import HPDv2, ImageFolder
from expo_cli.stages.preferences.protocol import Ranking
from expo_cli.stages.prep_prompts.sources import PromptFile, Row, read_rows
from expo_cli.stages.rollout.plan import read_negative_prompts
from tests.hostile.damage import (
    VALUES,
    at,
    changed,
    every,
    fault,
    plain,
    read_or_fault,
    values_changed,
)

CSV = (
    'prompt,category,negative_prompt\na cat,x,\n"a, ""dog""\nand more",y,blurry\ncaf\u00e9,,\n'
).encode()
TSV = 'prompt\tcategory\nquoted "cat"\tx\n"a dog\ty\ncaf\u00e9\t\n'.encode()
TEXT = "a cat\na dog\n\ncaf\u00e9\n".encode()
LINE = {"prompt": "a cat", "category": "x", "negative_prompt": None, "note": 1}
HPS = '["a cat",\n "caf\u00e9",\n "a dog"]\n'.encode()
HPDV2 = b'[{"prompt":"a cat","file_path":["1.jpg"]},\n{"prompt":"a dog"}]\n'


def rows(path: Path, layout: str) -> list[Row]:
    return list(read_rows(PromptFile(str(path), path, layout), None, None))


def strict_json(text: str) -> object:
    """As Python's json, but for numbers that are none and halves of surrogate pairs."""

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise ValueError(number)
        return float(number)

    try:
        value = json.loads(text, parse_constant=finite, parse_float=finite)
    except RecursionError as error:
        raise ValueError("deep") from error
    json.dumps(value, ensure_ascii=False).encode()
    return value


def text_of(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(value)
    return value


def txt_texts(data: bytes) -> list[str]:
    lines = plain(data).decode().split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def jsonl_texts(data: bytes) -> list[str]:
    texts = []
    for line in txt_texts(data):
        record = strict_json(line) if line.strip() else {"prompt": ""}
        [text_of(record.get(name)) for name in ("category", "negative_prompt")]
        texts.append(text_of(record["prompt"]) or "")
    return texts


def twice(header: list[str]) -> bool:
    """Whether a named column is duplicated, which makes it ambiguous."""
    named = [name for name in header if name]
    return len(set(named)) < len(named)


def tsv_texts(data: bytes) -> list[str]:
    header, *lines = [line.split("\t") for line in txt_texts(data)]
    if twice(header) or any(len(cells) != len(header) for cells in lines if cells != [""]):
        raise ValueError("ragged")
    column = len(header) - 1 - header[::-1].index("prompt")
    return ["" if cells == [""] else cells[column] for cells in lines]


def csv_texts(data: bytes) -> list[str]:
    """RFC 4180, a character at a time."""
    records, cells, cell, state = [], [], "", "start"
    for character in [*plain(data).decode(), None]:
        if state == "quoted":
            if character is None:
                raise ValueError("no end")
            state, cell = ("quote", cell) if character == '"' else (state, cell + character)
        elif character == '"' and state in ("start", "quote"):
            state, cell = "quoted", cell + ('"' if state == "quote" else "")
        elif character in (",", "\n", None):
            ends_nothing = character is None and not cells and state == "start"
            cells, cell, state = [*cells, cell], "", "start"
            if character != "," and not ends_nothing:
                records.append(cells)
            if character != ",":
                cells = []
        elif state == "quote":
            raise ValueError("text after a quotation")
        else:
            state, cell = "plain", cell + character
    header, *others = records
    if twice(header) or any(len(cells) != len(header) for cells in others if cells != [""]):
        raise ValueError("ragged")
    column = len(header) - 1 - header[::-1].index("prompt")
    return ["" if cells == [""] else cells[column] for cells in others]


def hps_texts(data: bytes) -> list[str]:
    items = strict_json(data.removeprefix(b"\xef\xbb\xbf").decode())
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError(items)
    return items


def hpdv2_texts(data: bytes) -> list[str]:
    items = strict_json(data.removeprefix(b"\xef\xbb\xbf").decode())
    if not isinstance(items, list):
        raise TypeError(items)
    [text_of(item.get(name)) for item in items for name in ("category", "negative_prompt")]
    return [text_of(item["prompt"]) or "" for item in items]


def in_array(cases):
    return ((name, b'[{"prompt":"a"},\n' + text + b"]") for name, text in cases)


def of_layout(layout: str):
    match layout:
        case "txt":
            return txt_texts, changed(TEXT, 600)
        case "csv":
            return csv_texts, changed(CSV, 1500)
        case "tsv":
            return tsv_texts, changed(TSV, 800)
        case "jsonl":
            line = json.dumps(LINE).encode() + b"\n"
            values = ((name, line + text + b"\n") for name, text in values_changed(LINE))
            return jsonl_texts, itertools.chain(changed(3 * line, 800), values)
        case "hps-benchmark":
            values = ((f"{n}", b'["a",\n' + text + b"]") for n, text in enumerate(VALUES))
            return hps_texts, itertools.chain(changed(HPS, 500), values)
        case "hpdv2":
            return hpdv2_texts, itertools.chain(changed(HPDV2, 500), in_array(values_changed(LINE)))
    raise AssertionError(layout)


# What JSON and tsv hold is beyond doubt. A csv file with stray carriage returns or quotation marks
# may be refused though another reader makes something of it.
@pytest.mark.parametrize("layout", ["txt", "csv", "tsv", "jsonl", "hps-benchmark", "hpdv2"])
def test_rows_are_those_of_another_reading(layout, tmp_path):
    other, cases = of_layout(layout)
    path = tmp_path / "prompts"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        found = read_or_fault(lambda: rows(path, layout), at(path))
        try:
            expected = other(data)
        except (ValueError, LookupError, TypeError, AttributeError):
            assert found is None, f"read {found}"
            return
        if found is None:
            refusable = layout in ("csv", "tsv") and (b"\r" in data or b'"' in data)
            refusable |= b"\0" in data[:4]  # as UTF-16 has it
            assert refusable or b"[" * 1000 in data or b'{"a":' * 1000 in data, "refused"
        else:
            assert [row.text.split() for row in found] == [text.split() for text in expected]

    every(cases, check)


@pytest.mark.parametrize("layout", ["txt", "csv", "tsv", "jsonl", "hps-benchmark", "hpdv2"])
def test_what_is_no_file(layout, tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        assert read_or_fault(lambda path=path: rows(path, layout), at(path)) is None


def test_items_larger_than_memory_should_hold_are_refused(tmp_path):
    path = tmp_path / "long.json"
    for item in (b'"' + b"x" * 20_000_000 + b'"', b"[" * 20_000_000, b"9" * 20_000_000):
        path.write_bytes(b'["a",' + item + b"]")
        assert read_or_fault(lambda: rows(path, "hps-benchmark"), at(path, 1)) is None


@pytest.mark.parametrize("size", [200_000, 20_000_000])
@pytest.mark.parametrize("layout", ["txt", "csv", "tsv", "jsonl"])
def test_a_huge_row_is_one_that_is_too_long(layout, size, tmp_path):
    """Below the longest line it is a row like others, of which a sieve sees that it is too long."""
    path, huge = tmp_path / "prompts", b"x" * size
    path.write_bytes(
        {
            "txt": huge + b"\na dog\n",
            "csv": b"prompt,note\n" + huge + b",1\na dog,2\n",
            "tsv": b"note\tprompt\n" + b"1\t" + huge + b"\n2\ta dog\n",
            "jsonl": b'{"prompt":"' + huge + b'"}\n{"prompt":"a dog"}\n',
        }[layout]
    )
    first, dog = rows(path, layout)
    assert first.too_long == (size > LONGEST_LINE)
    assert first.too_long or len(first.text) >= size
    assert (dog.text.strip(), dog.number) == ("a dog", {"csv": 3, "tsv": 3}.get(layout, 2))


def test_a_quotation_without_an_end_stops_at_the_longest_line(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_bytes(b'prompt\n"a dog\n' + b"a long line\n" * 2_000_000)
    with pytest.raises(ContractError, match="is a quotation mark missing"):
        rows(path, "csv")


def test_json_items_of_some_megabytes_are_rows(tmp_path):
    path = tmp_path / "long.json"
    path.write_text(json.dumps(["a", "x" * 5_000_000, "b"], indent=1))
    assert [len(row.text) for row in rows(path, "hps-benchmark")] == [1, 5_000_000, 1]


RANKED = {"prompt": "a", "file_path": ["a.jpg", "b.jpg"], "human_preference": [1, 0]}
TESTED = {"prompt": "a", "image_path": ["a.jpg", "b.jpg"], "rank": [1, 2]}
FOLDER = {"winner_file_name": "a.png", "loser_file_name": "b.png", "prompt": "x"}


def lists_changed():
    for number, text in enumerate(VALUES):
        yield (
            f"score {number}",
            b'[{"prompt":"a","file_path":["a","b"],"human_preference":[1,%b]}]' % text,
        )
        yield (
            f"file {number}",
            b'[{"prompt":"a","file_path":["a",%b],"human_preference":[1,0]}]' % text,
        )


def test_hpdv2_rankings(tmp_path):
    path = tmp_path / "train.json"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        found = read_or_fault(lambda: list(HPDv2(str(tmp_path)).rankings(path)), at(path))
        for item, row in zip(strict_json(data.decode()) if found else (), found or (), strict=True):
            if isinstance(row, Ranking):
                key = "image_path" if "image_path" in item else "file_path"
                sign, scores = (-1, "rank") if "rank" in item else (1, "human_preference")
                assert [image.name for image in row.images] == item[key]
                assert row.scores == [sign * float(score) for score in item[scores]]

    whole = json.dumps([RANKED, TESTED]).encode()
    no_text = ("UTF-16", "BOM")
    every(
        itertools.chain(
            (
                (name, b"[" + text + b"]")
                for r in (RANKED, TESTED)
                for name, text in values_changed(r)
            ),
            lists_changed(),
            (case for case in changed(whole, 500) if not case[0].startswith(no_text)),
        ),
        check,
    )


def test_imagefolder_rankings(tmp_path):
    path = tmp_path / "metadata.jsonl"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        found = read_or_fault(lambda: list(ImageFolder().rankings(path)), at(path))
        if found is not None:
            records = [strict_json(line) for line in txt_texts(data)]
            for record, row in zip(records, found, strict=True):
                names = [record["winner_file_name"], record["loser_file_name"]]
                assert not isinstance(row, Ranking) or [image.name for image in row.images] == names

    line = json.dumps(FOLDER).encode() + b"\n"
    every(itertools.chain(changed(2 * line, 500), values_changed(FOLDER)), check)


def test_negative_prompts(tmp_path):
    path = tmp_path / "negative.txt"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            found = read_negative_prompts(str(path))
        except (ExpoError, ContractError) as error:
            fault(error, at(path))
            assert not data.strip() or not data.isascii() or b"\0" in data
        else:
            assert found == [line.strip() for line in txt_texts(data) if line.strip()]

    every(changed("blurry\nbad, ugly\ncaf\u00e9\n".encode(), 300), check)
    assert read_or_fault(lambda: read_negative_prompts(str(tmp_path)), at(tmp_path)) is None
