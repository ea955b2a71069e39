import pytest
from hypothesis import given
from hypothesis import strategies as st

from expo_cli.contracts.parts import (
    Shard,
    check_same_plan,
    missing_parts,
    num_parts,
    parse_shard,
    part_path,
    ranges,
    require_complete,
    shards_with,
)
from expo_cli.errors import ContractError, ExpoError, UsageError


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


def test_missing_parts_are_named(tmp_path):
    for number in (0, 2):
        part_path(tmp_path, number).touch()
    part_path(tmp_path, 1, ".safetensors").touch()
    assert missing_parts(tmp_path, 4) == [1, 3]
    with pytest.raises(ExpoError, match=r"2 of 4 parts are missing \(1, 3\).*`expo rollout` again"):
        require_complete(tmp_path, 4, "rollout")
    part_path(tmp_path, 1).touch()
    assert require_complete(tmp_path, 3, "rollout") == [part_path(tmp_path, n) for n in range(3)]


def test_a_list_of_missing_parts_stays_short(tmp_path):
    with pytest.raises(ExpoError, match=r"1000 of 1000 parts are missing \(0-999\)"):
        require_complete(tmp_path, 1000, "rollout")
    for number in range(0, 1000, 2):
        part_path(tmp_path, number).touch()
    with pytest.raises(ExpoError, match=r"\(1, 3, 5, 7, 9, 11, 13, 15, \.\.\.\)"):
        require_complete(tmp_path, 1000, "rollout")


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


def test_another_plan_is_named(tmp_path):
    check_same_plan(tmp_path, {"seed": 1}, {"seed": 1})
    with pytest.raises(ContractError, match="begun with seed=1, not 2; choose another --out"):
        check_same_plan(tmp_path, {"seed": 1, "z": 0}, {"seed": 2, "z": 1})
    with pytest.raises(ContractError, match="begun with eta=None, not 1"):
        check_same_plan(tmp_path, {}, {"eta": 1})
