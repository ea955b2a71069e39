"""The layouts of preference data that `expo make-pairs --layout` reads."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expo_cli.contracts import jsonl
from expo_cli.contracts.files import inside
from expo_cli.contracts.json_array import json_array
from expo_cli.errors import ContractError
from expo_cli.registry import nearest
from expo_cli.stages.common import parquet
from expo_cli.stages.preferences.protocol import ImagePlace, NoRanking, Ranking

NO_PROMPT = NoRanking("rows_without_prompt")
# Valid (label_0, label_1): a choice, or a tie.
LABELS = ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5))


@dataclass(frozen=True)
class PickAPic:
    """Pick-a-Pic v1 and v2 (Kirstain et al., arXiv 2305.01569) as parquet, or data with its columns.

    Required columns are caption, jpg_0, jpg_1, label_0 and label_1 (1 and 0, or 0.5 each for a
    tie). Optional ones are has_label, and image_0_uid and image_1_uid, which identify an image that
    is in several rows.
    """

    def rankings(self, path: Path) -> Iterator[Ranking | NoRanking]:
        names = parquet.column_names(path)
        if "jpg_0" not in names and "image_0_url" in names:
            raise ContractError(
                f"{path}: is a `_no_images` variant of Pick-a-Pic, which has only URLs; use "
                "the variant with the columns jpg_0 and jpg_1"
            )
        require_columns(path, names, "caption", "jpg_0", "jpg_1", "label_0", "label_1")
        optional = ("has_label", "image_0_uid", "image_1_uid")
        columns = ["caption", "label_0", "label_1", *(c for c in optional if c in names)]
        for row, cells in parquet.rows(path, columns):
            record = dict(zip(columns, cells, strict=True))
            labels = (record["label_0"], record["label_1"])
            has_label = record.get("has_label", True)
            uids = [record.get(f"image_{i}_uid") for i in range(2)]
            if not isinstance(has_label, bool | None):
                raise ContractError(f"{path}:{row}: has_label must be true or false")
            if not all(isinstance(uid, str | int | None) for uid in uids):
                raise ContractError(f"{path}:{row}: image_0_uid and image_1_uid must be text")
            if not has_label:
                yield NoRanking("rows_without_label")
            elif labels not in LABELS:
                raise ContractError(
                    f"{path}:{row}: label_0 and label_1 are {labels[0]} and {labels[1]}; a choice "
                    "is 1 and 0, a tie 0.5 and 0.5"
                )
            else:
                images = [ImagePlace(row, f"jpg_{i}", str(u or "")) for i, u in enumerate(uids)]
                yield ranking(f"{path}:{row}: caption", row, record["caption"], images, labels)

    def read(self, path: Path, places: Sequence[ImagePlace]) -> Iterator[bytes | Path | None]:
        return parquet_images(path, places)


@dataclass(frozen=True)
class ImagePreferences:
    """Parquet with a column of preferred and one of other images, as in open-image-preferences.

    The options name the columns; an image is a struct {bytes, path}, or bytes.
    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"

    def rankings(self, path: Path) -> Iterator[Ranking | NoRanking]:
        names = parquet.column_names(path)
        require_columns(path, names, self.prompt, self.chosen, self.rejected)
        for row, (prompt,) in parquet.rows(path, [self.prompt]):
            images = [ImagePlace(row, name) for name in (self.chosen, self.rejected)]
            yield ranking(f"{path}:{row}: {self.prompt}", row, prompt, images, (1.0, 0.0))

    def read(self, path: Path, places: Sequence[ImagePlace]) -> Iterator[bytes | Path | None]:
        return parquet_images(path, places)


@dataclass(frozen=True)
class HPDv2:
    """HPDv2's `train.json` and `test.json` (Wu et al., arXiv 2306.09341), with its folder of `images`.

    An item lists its files as file_path (train.json) or image_path (test.json), and
    human_preference (train.json, higher is better) or rank (test.json, lower is better).
    """

    images: str

    def rankings(self, path: Path) -> Iterator[Ranking | NoRanking]:
        for number, (line, item) in enumerate(json_array(path, str(path)), start=1):
            place = f"{path}:{line}: item {number}"
            if not isinstance(item, dict):
                raise ContractError(f"{place}: expected an object, got {type(item).__name__}")
            ranked = "rank" in item
            key = "image_path" if "image_path" in item else "file_path"
            value = "rank" if ranked else "human_preference"
            require_columns(place, item, "prompt", key, value)
            files, scores = item[key], item[value]
            if not is_list_of(files, str) or not is_list_of(scores, int | float):
                raise ContractError(f"{place}: {key} must list files, and {value} numbers")
            if not len(files) == len(scores) >= 2:
                raise ContractError(
                    f"{place}: {len(files)} files in {key} and {len(scores)} numbers in {value}"
                )
            images = [ImagePlace(number, file, file) for file in files]
            try:
                signed = [-float(score) if ranked else float(score) for score in scores]
            except OverflowError as error:
                raise ContractError(f"{place}: {value} must list finite numbers") from error
            yield ranking(f"{place}: prompt", number, item["prompt"], images, signed)

    def read(self, path: Path, places: Sequence[ImagePlace]) -> Iterator[bytes | Path | None]:
        return folder_images(path, Path(self.images), places)


@dataclass(frozen=True)
class ImageFolder:
    """A folder with a `metadata.jsonl`, as in the imagefolder of `datasets`; the options name its keys."""

    prompt: str = "prompt"
    winner: str = "winner_file_name"
    loser: str = "loser_file_name"

    def rankings(self, path: Path) -> Iterator[Ranking | NoRanking]:
        metadata = metadata_path(path)
        for line, record in jsonl.numbered(metadata, dict[str, Any]):
            place = f"{metadata}:{line}"
            require_columns(place, record, self.prompt, self.winner, self.loser)
            files = [record[self.winner], record[self.loser]]
            if not is_list_of(files, str):
                raise ContractError(f"{place}: {self.winner} and {self.loser} must be files")
            images = [ImagePlace(line, file, file) for file in files]
            yield ranking(f"{place}: {self.prompt}", line, record[self.prompt], images, (1.0, 0.0))

    def read(self, path: Path, places: Sequence[ImagePlace]) -> Iterator[bytes | Path | None]:
        metadata = metadata_path(path)
        return folder_images(metadata, metadata.parent, places)


def metadata_path(path: Path) -> Path:
    return path / "metadata.jsonl" if path.is_dir() else path


def require_columns(place: object, present: Collection[str], *needed: str) -> None:
    """Raises ContractError, with the nearest name, for the first missing column."""
    for name in needed:
        if name not in present:
            hint = nearest(name, list(present)) if present else "there is none"
            raise ContractError(f"{place}: no column {name!r}; {hint}")


def is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, kind) and not isinstance(item, bool) for item in value
    )


def ranking(
    place: str, row: int, prompt: object, images: Sequence[ImagePlace], scores: Sequence[float]
) -> Ranking | NoRanking:
    """The ranking of a row, or the reason why it has none.

    Raises ContractError, which begins with `place`, when the prompt is not text or a score is not
    finite.
    """
    if prompt is not None and not isinstance(prompt, str):
        raise ContractError(f"{place} must be text, got {type(prompt).__name__}")
    if not all(map(math.isfinite, scores)):
        raise ContractError(f"{place}: the scores must be finite, got {list(scores)}")
    if not prompt or not prompt.strip():
        return NO_PROMPT
    identities = [image.identity for image in images if image.identity]
    if len(set(identities)) < len(identities):
        return NoRanking("rows_with_an_image_twice")
    return Ranking(row, prompt, images, scores)


def folder_images(path: Path, folder: Path, places: Sequence[ImagePlace]) -> Iterator[Path]:
    """`Layout.read` for files of a folder, named by `path`."""
    for place in places:
        try:
            yield inside(folder, place.name)
        except ContractError as error:
            raise ContractError(f"{path}:{place.row}: {error}") from error


def parquet_images(path: Path, places: Sequence[ImagePlace]) -> Iterator[bytes | None]:
    """`Layout.read` for a column of bytes or of structs {bytes, path}."""
    columns = sorted({place.name for place in places})
    first, last = places[0].row, places[-1].row
    waiting = iter(places)
    place = next(waiting)
    for row, cells in parquet.rows(path, columns, first, last, parquet.IMAGES_PER_BATCH):
        record = dict(zip(columns, cells, strict=True))
        while place is not None and place.row == row:
            yield cell_bytes(record[place.name])
            place = next(waiting, None)


def cell_bytes(cell: object) -> bytes | None:
    """The bytes of a cell; None if it is empty, or a struct with only the path of another file."""
    data = cell.get("bytes") if isinstance(cell, Mapping) else cell
    return data if isinstance(data, bytes) else None
