import contextlib
import io
import math
import sys
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expo_cli.contracts import jsonl, records
from expo_cli.contracts.jsonl import STANDARD_STREAM
from expo_cli.contracts.records import Checks, ImageEntry, Pair, Prompt, Sample, SampleRef, Score
from expo_cli.errors import ContractError, ExpoError
from tests.records import EXAMPLES, REF

RECORDS = [Prompt, Sample, ImageEntry, Score, SampleRef, Pair]
IDS = st.from_regex(records.ID, fullmatch=True)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def instances(record: type) -> st.SearchStrategy:
    """Any valid record of a type: ids are ids, numbers finite, the rest as its field says."""
    ids = {field.name: IDS for field in fields(record) if field.name.endswith("_id")}
    optional_ids = {"prompt_id": st.none() | IDS, "sample_id": st.none() | IDS}
    paths = {"image": IDS} if record is ImageEntry else {}
    paths |= {"image": st.none() | IDS} if record is Sample else {}
    paths |= {"part": IDS} if record is SampleRef else {}
    return st.builds(record, **(optional_ids if record is ImageEntry else ids), **paths)


st.register_type_strategy(float, FLOATS)
st.register_type_strategy(str, TEXT)
for record in (Checks, SampleRef):
    st.register_type_strategy(record, instances(record))


@pytest.mark.parametrize("record", RECORDS)
@given(data=st.data())
def test_every_record_survives_a_round_trip(record, data, tmp_path):
    written = data.draw(st.lists(instances(record), max_size=4))
    path = tmp_path / "records.jsonl"
    assert jsonl.write(path, written) == len(written)
    assert list(jsonl.read(path, record)) == written
    assert path.read_bytes().count(b"\n") == len(written)


@pytest.mark.parametrize("record", RECORDS)
def test_every_number_of_a_record_must_be_finite(record):
    """JSON has no NaN, so one that got into a record would be written as null."""
    valid = EXAMPLES_BY_KIND[record]
    numbers = [f.name for f in fields(record) if isinstance(getattr(valid, f.name), float)]
    values = {field.name: getattr(valid, field.name) for field in fields(record)}
    for name in numbers:
        for value in (math.nan, math.inf, -math.inf):
            with pytest.raises(ValueError, match="must be finite"):
                record(**values | {name: value})


@pytest.mark.parametrize(
    "bad", ["", "../up", "a/b", "a b", ".hidden", "a\0", "a\n", "\u00e9", "a" * 201]
)
def test_ids_hold_nothing_that_means_something_in_a_path(bad):
    with pytest.raises(ValueError, match="may hold only"):
        Prompt(prompt_id=bad, prompt="a cat")
    with pytest.raises(ValueError, match="may hold only"):
        SampleRef(sample_id=bad, part="main/part-00000.safetensors")


EXAMPLES_BY_KIND = {type(example): example for example in [*EXAMPLES, REF]}

GOOD = b'{"sample_id":"s","prompt_id":"p","reward":"r","score":1.0,"raw":1.0}\n'


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"\n", "empty line"),
        (GOOD[:-20] + b"\n", "malformed"),
        (GOOD.replace(b"1.0", b'"1"', 1), "Expected `float`, got `str` - at `$.score`"),
        (GOOD.replace(b"1.0", b"null", 1), "Expected `float`, got `null` - at `$.score`"),
        (GOOD.replace(b"1.0", b"NaN", 1), "numbers must be finite"),
        (GOOD.replace(b"1.0", b"-Infinity", 1), "numbers must be finite"),
        (GOOD.replace(b"1.0", b"1e999", 1), "out of range"),
        (GOOD.replace(b'"score":1.0,', b""), "missing required field `score`"),
        (GOOD.replace(b'"s"', b'"../s"'), "may hold only letters"),
        (b"[" * 100_000 + b"\n", "Expected `object`"),
        (b'{"x":' + b"[" * 100_000 + b"\n", "recursion"),
        (GOOD.replace(b'"r"', b'"\xff"'), "utf-8"),
        (GOOD.strip() + GOOD, "trailing"),
    ],
)
def test_a_bad_line_is_named(line, problem, tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_bytes(GOOD + line + GOOD)
    with pytest.raises(ContractError) as raised:
        list(jsonl.read(path, Score))
    assert str(raised.value).startswith(f"{path}:2: ")
    assert problem in str(raised.value)
    assert str(raised.value).endswith("; `expo score` writes such lines")


@given(st.binary())
def test_any_bytes_are_records_or_a_contract_error(tmp_path, content):
    path = tmp_path / "any.jsonl"
    path.write_bytes(content)
    with contextlib.suppress(ContractError):
        list(jsonl.read(path, Score))


def test_fields_of_the_future_are_no_fault(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_bytes(GOOD.replace(b"{", b'{"new_field":{"a":[1]},'))
    [score] = jsonl.read(path, Score)
    assert score == Score(sample_id="s", prompt_id="p", reward="r", score=1.0, raw=1.0)


def test_a_missing_file(tmp_path):
    with pytest.raises(ExpoError, match="none.jsonl: cannot be read: No such file"):
        list(jsonl.read(tmp_path / "none.jsonl", Score))


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("old")

    def failing():
        yield Prompt(prompt_id="p", prompt="a cat")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        jsonl.write(path, failing())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_standard_streams(monkeypatch):
    prompt = Prompt(prompt_id="p", prompt="caf\u00e9")
    stream = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", stream)
    assert jsonl.write(STANDARD_STREAM, [prompt]) == 1
    stream.buffer.seek(0)
    monkeypatch.setattr(sys, "stdin", stream)
    assert list(jsonl.read(STANDARD_STREAM, Prompt)) == [prompt]
