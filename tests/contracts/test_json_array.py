import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expo_cli.contracts import texts
from expo_cli.contracts.json_array import json_array
from expo_cli.errors import ContractError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(JSON), st.sampled_from([None, 0, 2]), st.booleans())
def test_reads_what_json_reads(tmp_path, items, indent, ascii_only):
    path = tmp_path / "array.json"
    path.write_text(json.dumps(items, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    assert [item for _, item in json_array(path, "array.json")] == items


def test_items_know_their_line(tmp_path):
    path = tmp_path / "array.json"
    path.write_text('[\n"a", {"b":\n1},\n\n"c"]\n')
    assert list(json_array(path, "array.json")) == [(2, "a"), (2, {"b": 1}), (5, "c")]


def test_an_array_longer_than_what_is_read_at_once(tmp_path, monkeypatch):
    """Items begin and end, and characters are cut, anywhere in what is read."""
    monkeypatch.setattr(texts, "BYTES_AT_ONCE", 7)
    path = tmp_path / "array.json"
    items = [f"prompt number {number}, {'é' * (number % 90)}" for number in range(1000)]
    items += [number * 7**60 for number in range(100)]
    path.write_text(json.dumps(items, indent=1, ensure_ascii=False), encoding="utf-8")
    assert [item for _, item in json_array(path, "array.json")] == items


def test_the_line_that_is_not_utf_8_is_named(tmp_path):
    path = tmp_path / "array.json"
    path.write_bytes(b'["a",\r\n"b",\r"\xff"]')
    with pytest.raises(ContractError, match="^array.json:3: not UTF-8"):
        list(json_array(path, "array.json"))
