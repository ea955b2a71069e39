"""Reads prompts from files in common formats, row by row."""

import csv
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from expo_cli.contracts.json_array import json_array
from expo_cli.contracts.texts import LONGEST_LINE, STANDARD_STREAM, text_lines
from expo_cli.errors import ContractError, UsageError
from expo_cli.registry import nearest
from expo_cli.stages.common import parquet

LAYOUT_OF_ENDING = {
    ".txt": "txt",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
}

# Layouts with other column names for prompt and category. PartiPrompts is a tsv.
COLUMNS = {"pick-a-pic": ("caption", "category"), "parti-prompts": ("Prompt", "Category")}


@dataclass(frozen=True)
class PromptFile:
    """An input: its name as given, the path of its bytes, and its layout."""

    name: str
    path: Path
    layout: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an input; `number` counts lines, or items where a line may have several.

    A `too_long` row exceeds the longest line that is read, and has no text.
    """

    number: int
    text: str
    category: str | None = None
    negative_prompt: str | None = None
    too_long: bool = False


@dataclass(frozen=True)
class Columns:
    """The columns of a row. A category column that the user did not name may be missing."""

    prompt: str
    category: str = "category"
    category_required: bool = False
    negative_prompt: str = "negative_prompt"

    @property
    def names(self) -> tuple[str, str, str]:
        return self.prompt, self.category, self.negative_prompt

    def check(self, present: Collection[str], place: str) -> None:
        """Raises ContractError, with the nearest name, for a missing required column."""
        if self.prompt not in present:
            raise ContractError(
                f"{place}: no column {self.prompt!r}; {nearest(self.prompt, list(present))} "
                "(--prompt-column names it)"
            )
        if self.category_required and self.category not in present:
            hint = nearest(self.category, list(present))
            raise ContractError(f"{place}: no column {self.category!r}; {hint}")

    def row(self, number: int, record: Mapping[str, Any], place: str) -> Row:
        """Raises ContractError when a field is missing or is not text."""
        self.check(record, place)
        values = [record.get(name) for name in self.names]
        for name, value in zip(self.names, values, strict=True):
            if value is not None and not isinstance(value, str):
                raise ContractError(f"{place}: {name!r} must be text, got {type(value).__name__}")
        text, category, negative_prompt = values
        return Row(number, text or "", category or None, negative_prompt or None)


def resolve_layout(name: str, layout: str) -> str:
    """The layout of an input; `auto` goes by the file extension, and is JSONL for standard input.

    Raises UsageError for an unknown extension.
    """
    if layout != "auto":
        return layout
    if name == str(STANDARD_STREAM):
        return "jsonl"
    ending = Path(name).suffix.lower()
    if ending == ".json":
        raise UsageError(f"{name}: for JSON give --layout hpdv2 or --layout hps-benchmark")
    if ending not in LAYOUT_OF_ENDING:
        raise UsageError(f"{name}: unknown file extension; give --layout txt, csv, jsonl, ...")
    return LAYOUT_OF_ENDING[ending]


def read_rows(
    file: PromptFile, prompt_column: str | None, category_column: str | None
) -> Iterator[Row]:
    """The rows of one input, including empty ones.

    Raises ContractError with file and line at the first row that cannot be read.
    """
    prompt, category = COLUMNS.get(file.layout, ("prompt", "category"))
    columns = Columns(
        prompt=prompt_column or prompt,
        category=category_column or category,
        category_required=category_column is not None,
    )
    match file.layout:
        case "txt":
            return (
                Row(number, line or "", too_long=line is None)
                for number, line in text_lines(file.path, file.name)
            )
        case "csv" | "tsv" | "parti-prompts":
            return _table_rows(file, columns)
        case "jsonl":
            return _jsonl_rows(file, columns)
        case "parquet" | "pick-a-pic":
            return _parquet_rows(file, columns)
        case "hpdv2":
            return _object_rows(file, columns)
        case "hps-benchmark":
            return _string_rows(file)
    raise AssertionError(file.layout)


def _table_rows(file: PromptFile, columns: Columns) -> Iterator[Row]:
    """A row with a line that is too long is reported as such, however many lines it has."""
    skipped: list[int] = []

    def lines() -> Iterator[str]:
        for number, line in text_lines(file.path, file.name):
            if line is None:
                skipped.append(number)
            yield "\n" if line is None else line

    if file.layout != "csv":
        # No quoting: PartiPrompts has a prompt that begins with a quotation mark.
        reader = csv.reader(lines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines(), strict=True)
    csv.field_size_limit(LONGEST_LINE)
    try:
        header = next(reader, [])
        check_header(header, columns, reader.dialect.delimiter, f"{file.name}:1")
        number = reader.line_num + 1
        for cells in reader:
            place = f"{file.name}:{number}"
            if skipped:
                skipped.clear()
                yield Row(number, "", too_long=True)
            elif cells and len(cells) != len(header):
                raise ContractError(f"{place}: {len(cells)} fields, not the header's {len(header)}")
            elif cells:
                yield columns.row(number, dict(zip(header, cells, strict=True)), place)
            else:
                yield Row(number, "")
            number = reader.line_num + 1
    except csv.Error as error:
        problem = str(error)
        if problem.startswith("field larger"):
            problem = f"a field of more than {LONGEST_LINE >> 20} MiB; is a quotation mark missing?"
        raise ContractError(f"{file.name}:{reader.line_num}: {problem}") from error


def check_header(header: Sequence[str], columns: Columns, delimiter: str, place: str) -> None:
    """Raises ContractError for a duplicate column, or a missing required one."""
    if twice := next((name for name in header if name and header.count(name) > 1), None):
        raise ContractError(f"{place}: has two columns {twice!r}")
    others = [
        mark for mark in (";", "\t", "|", ",") if mark != delimiter and mark in "".join(header)
    ]
    if len(header) == 1 and header[0] != columns.prompt and others:
        raise ContractError(
            f"{place}: its columns seem to be separated by {others[0]!r}, not {delimiter!r}"
        )
    columns.check(header, place)


def _jsonl_rows(file: PromptFile, columns: Columns) -> Iterator[Row]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in text_lines(file.path, file.name):
        place = f"{file.name}:{number}"
        if line is None:
            yield Row(number, "", too_long=True)
            continue
        if not line.strip():
            yield Row(number, "")
            continue
        try:
            record = decoder.decode(line)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ContractError(f"{place}: {error}") from error
        yield columns.row(number, record, place)


def _parquet_rows(file: PromptFile, columns: Columns) -> Iterator[Row]:
    """Only the required columns are read, so image columns cost nothing."""
    names = parquet.column_names(file.path, file.name)
    columns.check(names, file.name)
    wanted = [name for name in columns.names if name in names]
    for number, cells in parquet.rows(file.path, wanted, name=file.name):
        record = dict(zip(wanted, cells, strict=True))
        yield columns.row(number, record, f"{file.name}:{number}")


def _object_rows(file: PromptFile, columns: Columns) -> Iterator[Row]:
    """HPDv2's `train.json` and `test.json`: an array of `{"prompt": ...}`."""
    for number, (line, item) in enumerate(json_array(file.path, file.name), start=1):
        place = f"{file.name}:{line}: item {number}"
        if not isinstance(item, dict):
            raise ContractError(f"{place}: expected an object, got {type(item).__name__}")
        yield columns.row(number, item, place)


def _string_rows(file: PromptFile) -> Iterator[Row]:
    """The HPS benchmark's `anime.json`: an array of prompts; their category is the file's name."""
    for number, (line, item) in enumerate(json_array(file.path, file.name), start=1):
        if not isinstance(item, str):
            raise ContractError(
                f"{file.name}:{line}: item {number}: expected a string, got {type(item).__name__}"
            )
        yield Row(number, item, category=Path(file.name).stem)
