"""Reads the rows of a parquet file in batches, with file and row of every error."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from expo_cli.errors import ContractError

ROWS_PER_BATCH = 4096
IMAGES_PER_BATCH = 16
# Bytes of a column read at once; the default is a whole row group, maybe a GB of images.
BUFFER = 1 << 20


def column_names(path: Path, name: str | None = None) -> list[str]:
    """Raises ContractError, which calls the file `name`, when it is missing or not a parquet file."""
    try:
        names = pyarrow.parquet.read_schema(path).names
    except FileNotFoundError as error:
        raise ContractError(f"{name or path}: cannot be read: no such file") from error
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ContractError(f"{name or path}: not a complete parquet file: {error}") from error
    if twice := next((column for column in names if names.count(column) > 1), None):
        raise ContractError(f"{name or path}: has two columns {twice!r}")
    return names


def rows(
    path: Path,
    columns: Sequence[str],
    first: int = 1,
    last: int | None = None,
    batch_size: int = ROWS_PER_BATCH,
    name: str | None = None,
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yields each row's number, from 1, and its values of `columns`, for rows `first` to `last`.

    Row groups without these rows are skipped. Raises ContractError, which calls the file `name`, at
    the first row that cannot be read.
    """
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER) as table:
            for group in range(table.num_row_groups):
                end = number + table.metadata.row_group(group).num_rows
                if end < first:
                    number = end
                    continue
                for batch in table.iter_batches(batch_size, row_groups=[group], columns=columns):
                    cells = [batch.column(column) for column in columns]
                    for i in range(batch.num_rows):
                        number += 1
                        if number >= first:
                            yield number, tuple(cell[i].as_py() for cell in cells)
                        if number == last:
                            return
    except (
        UnicodeDecodeError,
        OverflowError,
    ) as error:  # e.g. not UTF-8, or a date after year 9999
        raise ContractError(f"{name or path}:{number}: cannot be read: {error}") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise ContractError(f"{name or path}: not a complete parquet file: {error}") from error
