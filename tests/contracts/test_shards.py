import pytest
from hypothesis import given
from hypothesis import strategies as st

from expo_cli.contracts.shards import (
    Shard,
    num_parts,
    parse_shard,
    part_path,
    ranges,
    shards_with,
)
from expo_cli.errors import UsageError


@given(st.integers(0, 500), st.integers(1, 40))
def test_every_part_has_exactly_one_worker(parts, workers):
    shards = [Shard(index, workers) for index in range(workers)]
    for part in range(parts):
        assert sum(shard.takes(part) for shard in shards) == 1


@given(st.integers(0, 1000), st.integers(1, 100))
def test_parts_hold_all_items_and_none_is_empty(items, part_size):
    count = num_parts(items, part_size)
    assert count * part_size >= items > (count - 1) * part_size


def test_part_names_sort_as_numbers(tmp_path):
    assert part_path(tmp_path, 12).name == "part-00012.jsonl"
    assert part_path(tmp_path, 12, ".safetensors").name == "part-00012.safetensors"
    assert part_path(tmp_path, 2).name < part_path(tmp_path, 12).name


@pytest.mark.parametrize(("text", "shard"), [("0/1", Shard(0, 1)), ("3/4", Shard(3, 4))])
def test_shards(text, shard):
    assert parse_shard(text) == shard


@pytest.mark.parametrize(
    "text", ["4/4", "-1/4", "1", "1/", "/4", "a/b", "0/0", "1/4/2", " 1/4", ""]
)
def test_what_is_no_shard(text):
    with pytest.raises(UsageError, match="must be i/n with 0 <= i < n"):
        parse_shard(text)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([4], "4"), ([3, 7, 8, 9], "3, 7-9"), ([0, 1, 3, 4], "0-1, 3-4")],
)
def test_ranges(numbers, text):
    assert ranges(numbers) == text


@given(st.sets(st.integers(0, 500)), st.integers(1, 40))
def test_shards_with_parts_are_those_that_take_one(parts, workers):
    taking = [i for i in range(workers) if any(Shard(i, workers).takes(part) for part in parts)]
    assert shards_with(parts, workers) == taking
