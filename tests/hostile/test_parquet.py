"""Parquet, damaged or of other types: what pyarrow reads of the whole file, or one line."""

import io
import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from expo_cli.stages.preferences.layouts import ImagePreferences, PickAPic
from expo_cli.stages.preferences.protocol import Ranking
from expo_cli.stages.prep_prompts.sources import PromptFile, read_rows
from tests.hostile.damage import at, bytes_changed, every, read_or_fault, truncations
from tests.preferences import picture, png

IMAGE = png(picture(1, 8, 6))
PROMPTS = {"prompt": ["a cat", "b", "c"], "category": ["x", "y", None]}
PICK_A_PIC = {
    "caption": ["a", "b"],
    "jpg_0": [IMAGE] * 2,
    "jpg_1": [IMAGE] * 2,
    "label_0": [1.0, 0.0],
    "label_1": [0.0, 1.0],
    "image_0_uid": ["u", "v"],
    "image_1_uid": ["w", "x"],
    "has_label": [True, True],
}
NOT_UTF8 = pa.Array.from_buffers(
    pa.string(),
    2,
    [None, pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0])), pa.py_buffer(b"\xff\xfe")],
)
COLUMNS = {
    "integers": pa.array([1, 2]),
    "floats": pa.array([1.0, float("nan")]),
    "truths": pa.array([True, None]),
    "bytes": pa.array([b"\xff", b"a"]),
    "lists": pa.array([["a"], []]),
    "structs": pa.array([{"a": 1}, None]),
    "images elsewhere": pa.array([{"bytes": None, "path": "/etc/passwd"}] * 2),
    "bytes that are text": pa.array([{"bytes": "x", "path": ""}] * 2),
    "a dictionary": pa.array(["a", "b"]).dictionary_encode(),
    "nulls": pa.nulls(2),
    "large text": pa.array(["a", "b"], pa.large_string()),
    "nanoseconds": pa.array([1, 2], pa.timestamp("ns")),
    "dates after 9999": pa.array([2**31 - 1, 1], pa.date32()),
    "durations": pa.array([2**62, 1], pa.duration("s")),
    "decimals": pa.array([1, 2], pa.decimal128(5, 2)),
    "text that is none": NOT_UTF8,
}


def parquet(columns: dict) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=2)
    return buffer.getvalue()


def whole(path: Path) -> list[dict] | None:
    """Another reading: the whole file at once."""
    try:
        return pq.read_table(path).to_pylist()
    except Exception:  # pyarrow raises many kinds for a damaged file
        return None


def prompts(path: Path) -> list:
    return list(read_rows(PromptFile(str(path), path, "parquet"), None, None))


def pick_a_pic(path: Path) -> tuple[list, list]:
    """The rankings, and the images of all of them."""
    found = list(PickAPic().rankings(path))
    places = [image for row in found if isinstance(row, Ranking) for image in row.images]
    return found, list(PickAPic().read(path, places)) if places else []


def check_prompts(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    found = read_or_fault(lambda: prompts(path), at(path))
    expected = whole(path)
    if found is not None and expected is not None:
        assert [row.text for row in found] == [row["prompt"] or "" for row in expected]


def check_pick_a_pic(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    found = read_or_fault(lambda: pick_a_pic(path), at(path))
    expected = whole(path)
    if found is not None and expected is not None:
        rankings, images = found
        assert len(rankings) == len(expected)
        for ranking, row in zip(rankings, expected, strict=True):
            if isinstance(ranking, Ranking):
                assert ranking.prompt == row["caption"]
                assert tuple(ranking.scores) == (row["label_0"], row["label_1"])
        used = [
            row
            for ranking, row in zip(rankings, expected, strict=True)
            if isinstance(ranking, Ranking)
        ]
        cells = [row[name] for row in used for name in ("jpg_0", "jpg_1")]
        assert images == [cell if isinstance(cell, bytes) else None for cell in cells]


def test_damaged_bytes(tmp_path):
    good = parquet(PROMPTS)
    assert len(prompts_of(tmp_path, good)) == 3
    every(
        itertools.chain(truncations(good, 400), bytes_changed(good, 4500)),
        lambda data: check_prompts(tmp_path / "damaged.parquet", data),
    )
    good = parquet(PICK_A_PIC)
    every(
        itertools.chain(truncations(good, 200), bytes_changed(good, 1500)),
        lambda data: check_pick_a_pic(tmp_path / "damaged.parquet", data),
    )


def prompts_of(folder: Path, data: bytes) -> list:
    path = folder / "good.parquet"
    path.write_bytes(data)
    return prompts(path)


def test_columns_of_other_types(tmp_path):
    cases = [
        (f"{name}: {kind}", parquet(PICK_A_PIC | {name: column}))
        for name in PICK_A_PIC
        for kind, column in COLUMNS.items()
    ]
    every(cases, lambda data: check_pick_a_pic(tmp_path / "types.parquet", data))
    cases = [
        (f"{name}: {kind}", parquet({"prompt": ["a", "b"]} | {name: column}))
        for name in ("prompt", "category")
        for kind, column in COLUMNS.items()
    ]
    every(cases, lambda data: check_prompts(tmp_path / "types.parquet", data))


def test_a_label_that_is_no_truth_value_is_not_taken_for_one(tmp_path):
    path = tmp_path / "types.parquet"
    for name, column in (("has_label", ["false", "true"]), ("image_0_uid", [1.5, 2.5])):
        path.write_bytes(parquet(PICK_A_PIC | {name: column}))
        assert read_or_fault(lambda: pick_a_pic(path), at(path, 1)) is None


def test_two_columns_of_one_name(tmp_path):
    path = tmp_path / "twice.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["prompt", "prompt"]), path)
    assert read_or_fault(lambda: prompts(path), at(path)) is None


def test_images_of_image_preferences(tmp_path):
    layout, path = ImagePreferences(), tmp_path / "images.parquet"
    good = {"prompt": ["a", "b"], "chosen": [IMAGE] * 2, "rejected": [IMAGE] * 2}

    def check(data: bytes) -> None:
        path.write_bytes(data)
        found = read_or_fault(lambda: list(layout.rankings(path)), at(path))
        places = [image for row in found or () if isinstance(row, Ranking) for image in row.images]
        if places:
            images = read_or_fault(lambda: list(layout.read(path, places)), at(path))
            assert all(image is None or isinstance(image, bytes) for image in images or ())

    every(
        [
            (f"{name}: {kind}", parquet(good | {name: column}))
            for name in good
            for kind, column in COLUMNS.items()
        ],
        check,
    )


def test_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        assert read_or_fault(lambda path=path: prompts(path), at(path)) is None
        assert read_or_fault(lambda path=path: pick_a_pic(path), at(path)) is None
