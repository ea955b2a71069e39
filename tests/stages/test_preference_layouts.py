"""Each layout of preference data: its rows, its label semantics, its images, its refusals."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expo_cli.errors import ContractError, UsageError
from expo_cli.registry import LAYOUTS, build
from expo_cli.stages.preferences.protocol import ImagePlace, NoRanking, Ranking
from tests.preferences import write_parquet

ROW = {"caption": "a cat", "jpg_0": b"left", "jpg_1": b"right", "label_0": 1.0, "label_1": 0.0}


def pick_a_pic(tmp_path, *rows):
    path = write_parquet(tmp_path / "train.parquet", [ROW | row for row in rows])
    return list(build(LAYOUTS, "pick-a-pic").rankings(path))


def rankings(layout, path):
    return list(build(LAYOUTS, layout).rankings(path))


class TestPickAPic:
    def test_labels(self, tmp_path):
        first, second, tie = pick_a_pic(
            tmp_path, {}, {"label_0": 0.0, "label_1": 1.0}, {"label_0": 0.5, "label_1": 0.5}
        )
        assert (first.row, first.prompt, first.scores) == (1, "a cat", (1.0, 0.0))
        assert (second.row, second.scores) == (2, (0.0, 1.0))
        assert tie.scores == (0.5, 0.5)
        assert first.images == [ImagePlace(1, "jpg_0"), ImagePlace(1, "jpg_1")]

    def test_what_says_nothing_is_named(self, tmp_path):
        rows = pick_a_pic(
            tmp_path,
            {"has_label": False, "label_0": None, "label_1": None},
            {"has_label": True, "caption": " "},
            {"has_label": True, "caption": None},
            {"has_label": True, "image_0_uid": "u", "image_1_uid": "u"},
        )
        assert [row.reason for row in rows] == [
            "rows_without_label",
            "rows_without_prompt",
            "rows_without_prompt",
            "rows_with_an_image_twice",
        ]

    def test_images_have_their_uids(self, tmp_path):
        [row] = pick_a_pic(tmp_path, {"image_0_uid": "u0", "image_1_uid": "u1"})
        assert [image.identity for image in row.images] == ["u0", "u1"]

    @pytest.mark.parametrize(
        "labels", [(1.0, 1.0), (0.3, 0.7), (None, None), (float("nan"), 0.0), (2.0, -1.0)]
    )
    def test_other_labels_are_refused(self, tmp_path, labels):
        with pytest.raises(ContractError, match=r"train.parquet:2: label_0 and label_1 are"):
            pick_a_pic(tmp_path, {}, dict(zip(("label_0", "label_1"), labels, strict=True)))

    def test_the_variant_without_images(self, tmp_path):
        row = {k: v for k, v in ROW.items() if not k.startswith("jpg")} | {"image_0_url": "x"}
        path = write_parquet(tmp_path / "t.parquet", [row])
        with pytest.raises(ContractError, match="`_no_images` variant"):
            rankings("pick-a-pic", path)

    def test_a_missing_column(self, tmp_path):
        path = write_parquet(tmp_path / "t.parquet", [{"captions": "a", **ROW} | {"captions": "b"}])
        assert len(rankings("pick-a-pic", path)) == 1
        row = {k: v for k, v in ROW.items() if k != "caption"} | {"captions": "b"}
        path = write_parquet(tmp_path / "t.parquet", [row])
        with pytest.raises(ContractError, match="no column 'caption'; did you mean 'captions'"):
            rankings("pick-a-pic", path)

    @pytest.mark.parametrize("as_struct", [False, True])
    @pytest.mark.parametrize("row_group_size", [1, 3, 100])
    def test_images_of_any_rows(self, tmp_path, as_struct, row_group_size):
        def cell(data):
            return {"bytes": data, "path": "x.png"} if as_struct else data

        rows = [ROW | {"jpg_0": cell(b"%d-0" % n), "jpg_1": cell(b"%d-1" % n)} for n in range(1, 9)]
        path = write_parquet(tmp_path / "t.parquet", rows, row_group_size=row_group_size)
        places = [ImagePlace(3, "jpg_1"), ImagePlace(3, "jpg_0"), ImagePlace(7, "jpg_0")]
        found = list(build(LAYOUTS, "pick-a-pic").read(path, places))
        assert found == [b"3-1", b"3-0", b"7-0"]

    def test_an_empty_cell_is_no_image(self, tmp_path):
        rows = [ROW, ROW | {"jpg_0": None}]
        path = write_parquet(tmp_path / "t.parquet", rows)
        assert list(build(LAYOUTS, "pick-a-pic").read(path, [ImagePlace(2, "jpg_0")])) == [None]

    @pytest.mark.parametrize("keep", [0, 4, 0.5])
    def test_a_file_that_is_not_whole(self, tmp_path, keep):
        path = write_parquet(tmp_path / "t.parquet", [ROW])
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep) if keep < 1 else keep])
        with pytest.raises(ContractError, match=r"t.parquet: not a complete parquet file"):
            rankings("pick-a-pic", path)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(ContractError, match=r"t.parquet: cannot be read: no such file"):
            rankings("pick-a-pic", tmp_path / "t.parquet")


class TestImagePreferences:
    def test_columns_by_name(self, tmp_path):
        row = {"text": "a cat", "yes": {"bytes": b"y", "path": None}, "no": {"bytes": b"n"}}
        path = write_parquet(tmp_path / "t.parquet", [row])
        layout = build(LAYOUTS, "image-preferences:prompt=text,chosen=yes,rejected=no")
        [ranking] = layout.rankings(path)
        assert (ranking.prompt, ranking.scores) == ("a cat", (1.0, 0.0))
        assert list(layout.read(path, ranking.images)) == [b"y", b"n"]

    def test_a_missing_column(self, tmp_path):
        path = write_parquet(
            tmp_path / "t.parquet", [{"prompt": "a", "chosen": b"", "reject": b""}]
        )
        with pytest.raises(ContractError, match="no column 'rejected'; did you mean 'reject'"):
            rankings("image-preferences", path)


class TestHPDv2:
    def items(self, tmp_path, *items):
        path = tmp_path / "train.json"
        path.write_text(json.dumps(list(items), indent=1))
        return rankings("hpdv2:images=x", path)

    def test_a_preference_and_a_rank(self, tmp_path):
        train, test, other = self.items(
            tmp_path,
            {"prompt": "a cat", "human_preference": [0, 1], "file_path": ["a.jpg", "b.jpg"]},
            {"prompt": "a dog", "rank": [2, 3, 1], "image_path": ["a.jpg", "b.jpg", "c.jpg"]},
            {"prompt": "a cat", "human_preference": [0, 1], "image_path": ["a.jpg", "b.jpg"]},
        )
        assert (train.row, train.scores) == (1, [0.0, 1.0])
        assert (other.scores, other.images[1]) == ([0.0, 1.0], ImagePlace(3, "b.jpg", "b.jpg"))
        # The lowest rank is the best.
        assert (test.row, test.scores) == (2, [-2.0, -3.0, -1.0])
        assert test.images[2] == ImagePlace(2, "c.jpg", "c.jpg")

    @pytest.mark.parametrize(
        ("item", "message"),
        [
            ([], "item 1: expected an object"),
            ({"prompt": "x"}, "no column 'file_path'"),
            ({"prompt": "x", "image_path": ["a", "b"]}, "no column 'human_preference'"),
            (
                {"prompt": "x", "human_preference": [1], "file_path": ["a", "b"]},
                "2 files in file_path and 1 numbers in human_preference",
            ),
            ({"prompt": "x", "human_preference": 0, "file_path": ["a", "b"]}, "must list files"),
            ({"prompt": "x", "human_preference": [1, 0], "file_path": ["a", 1]}, "must list files"),
            ({"prompt": 5, "human_preference": [1, 0], "file_path": ["a", "b"]}, "must be text"),
        ],
    )
    def test_a_wrong_item_is_named(self, tmp_path, item, message):
        with pytest.raises(ContractError, match=message):
            self.items(tmp_path, item)

    def test_the_folder_is_needed(self):
        with pytest.raises(UsageError, match="images"):
            build(LAYOUTS, "hpdv2")
        assert build(LAYOUTS, "hpdv2:some/folder").images == "some/folder"


class TestImageFolder:
    def test_a_folder_or_its_metadata(self, tmp_path):
        record = {"winner_file_name": "w.png", "loser_file_name": "l.png", "prompt": "x", "n": 1}
        metadata = tmp_path / "metadata.jsonl"
        metadata.write_text(json.dumps(record) + "\n")
        (tmp_path / "w.png").write_bytes(b"w")
        [row] = rankings("imagefolder", tmp_path)
        assert [row] == rankings("imagefolder", metadata)
        assert row.scores == (1.0, 0.0)
        files = list(build(LAYOUTS, "imagefolder").read(tmp_path, row.images))
        assert files == [tmp_path / "w.png", tmp_path / "l.png"]

    def test_files_stay_below_the_folder(self, tmp_path):
        places = [ImagePlace(4, "../secret.png")]
        with pytest.raises(ContractError, match=r"metadata.jsonl:4: .*leaves the folder"):
            list(build(LAYOUTS, "imagefolder").read(tmp_path / "metadata.jsonl", places))

    @pytest.mark.parametrize(
        ("record", "message"),
        [
            ({"prompt": "x", "winner_file_name": "w"}, "no column 'loser_file_name'"),
            ({"prompt": "x", "winner_file_name": "w", "loser_file_name": 1}, "must be files"),
            ({"prompt": [], "winner_file_name": "w", "loser_file_name": "l"}, "must be text"),
            ({"file_name": "w", "prompt": "x"}, "did you mean 'file_name'|no column"),
        ],
    )
    def test_a_wrong_line_is_named(self, tmp_path, record, message):
        (tmp_path / "metadata.jsonl").write_text(json.dumps(record) + "\n")
        with pytest.raises(ContractError, match=rf"metadata.jsonl:1: .*({message})"):
            rankings("imagefolder", tmp_path)


CELLS = st.none() | st.text(max_size=5) | st.booleans() | st.integers(-2, 2) | st.floats()
JSON = st.recursive(CELLS, lambda inner: st.lists(inner, max_size=3), max_leaves=4)


def only_rankings_or_one_line(read, path):
    """What a parser of strangers' data may do: rows, or a ContractError."""
    with suppress(ContractError):
        assert all(isinstance(row, Ranking | NoRanking) for row in read(path))


@given(st.lists(st.dictionaries(st.sampled_from(
    ["prompt", "human_preference", "file_path", "rank", "image_path"]
), JSON) | JSON, max_size=3))  # fmt: skip
def test_any_json_is_rankings_or_one_line(tmp_path, items):
    path = tmp_path / "any.json"
    path.write_text(json.dumps(items))
    only_rankings_or_one_line(build(LAYOUTS, "hpdv2:images=x").rankings, path)


@given(st.dictionaries(st.sampled_from(["prompt", "winner_file_name", "loser_file_name"]), JSON))
def test_any_line_is_rankings_or_one_line(tmp_path, record):
    path = tmp_path / "metadata.jsonl"
    path.write_text(json.dumps(record) + "\n")
    only_rankings_or_one_line(build(LAYOUTS, "imagefolder").rankings, path)


COLUMNS = {
    "caption": st.none() | st.text(max_size=5),
    "label_0": st.sampled_from([None, 0.0, 0.5, 1.0, 2.0]),
    "label_1": st.sampled_from([None, 0.0, 0.5, 1.0, float("nan")]),
    "has_label": st.none() | st.booleans(),
    "image_0_uid": st.none() | st.text(max_size=3),
    "image_1_uid": st.none() | st.text(max_size=3),
}


@given(st.lists(st.fixed_dictionaries(COLUMNS), min_size=1, max_size=4))
def test_any_row_is_rankings_or_one_line(tmp_path, rows):
    path = write_parquet(tmp_path / "any.parquet", [ROW | row for row in rows])
    only_rankings_or_one_line(build(LAYOUTS, "pick-a-pic").rankings, path)


@given(st.data())
@settings(max_examples=60)
def test_a_damaged_parquet_file_is_rankings_or_one_line(tmp_path, data):
    path = write_parquet(tmp_path / "damaged.parquet", [ROW, ROW])
    whole = path.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.binary(max_size=4))
    path.write_bytes(whole[:position] + damage + whole[position + len(damage) + 1 :])
    only_rankings_or_one_line(build(LAYOUTS, "pick-a-pic").rankings, path)
