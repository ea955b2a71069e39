"""Lines of text files, whatever pieces they are read in."""

import io
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expo_cli.commands.flags import _table
from expo_cli.contracts import jsonl, texts
from expo_cli.contracts.records import ImageEntry
from expo_cli.errors import ContractError
from expo_cli.stages.preferences.layouts import HPDv2, ImageFolder
from expo_cli.stages.rollout.plan import read_negative_prompts, read_prompts
from expo_cli.stages.score.image_index import read_index


@given(
    st.text(st.sampled_from("ab\r\n"), max_size=40).map(str.encode),
    st.integers(1, 12),
    st.booleans(),
)
def test_lines_are_those_of_the_whole_file(tmp_path, data, bytes_at_once, marked):
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbf" * marked + data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "BYTES_AT_ONCE", bytes_at_once)
        found = list(texts.lines(path))
        assert texts.whole_text(path, "file") == plain(data).decode()
    assert [line for _, line in found] == data.splitlines(keepends=True)
    assert [number for number, _ in found] == list(range(1, len(found) + 1))


@given(st.lists(st.integers(0, 9), max_size=9), st.integers(1, 12), st.sampled_from("\n\r"))
def test_a_line_that_is_too_long_is_passed_over(tmp_path, lengths, bytes_at_once, end):
    path, end = tmp_path / "file", end.encode()
    path.write_bytes(b"".join(b"x" * length + end for length in lengths))
    with pytest.MonkeyPatch.context() as patch:
        # A line that lies within what is read at once is held anyway.
        patch.setattr(texts, "BYTES_AT_ONCE", min(bytes_at_once, 4))
        patch.setattr(texts, "LONGEST_LINE", 5)
        found = [line for _, line in texts.lines(path)]
    assert found == [b"x" * n + end if n + 1 <= 5 else None for n in lengths]


def test_standard_input_is_read_like_a_file(monkeypatch):
    stream = io.BytesIO(b"\xef\xbb\xbfa cat\ra dog")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream))
    assert list(texts.text_lines(texts.STANDARD_STREAM)) == [(1, "a cat\r"), (2, "a dog")]


RANKING = '{"prompt":"x","file_path":["1.jpg","2.jpg"],"human_preference":[1,0]}'
PAIR = '{"prompt":"x","winner_file_name":"1.jpg","loser_file_name":"2.jpg"}'
# Every reader of a user's text file that is not one of prompts, and two lines for it.
READERS = {
    "negative.txt": (lambda path: read_negative_prompts(str(path)), ["blurry", "dark"]),
    "prompts.jsonl": (
        lambda path: read_prompts(path, None),
        ['{"prompt_id":"a","prompt":"x"}', '{"prompt_id":"b","prompt":"x"}'],
    ),
    "index.jsonl": (
        lambda path: read_index(path.parent, path, 8).entries,
        ['{"image":"a.png","prompt":"x"}', '{"image":"b.png","prompt":"x"}'],
    ),
    "metadata.jsonl": (lambda path: list(ImageFolder().rankings(path)), [PAIR, PAIR]),
    "train.json": (lambda path: list(HPDv2("x").rankings(path)), [f"[{RANKING},", f"{RANKING}]"]),
    "expo.toml": (lambda path: _table(path, "train", {"seed": int}), ["[train]", "seed = 2"]),
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", READERS)
def test_marks_and_line_ends_make_no_difference(name, end, tmp_path):
    read, lines = READERS[name]
    path = tmp_path / name
    path.write_text("".join(f"{line}\n" for line in lines))
    expected = read(path)
    path.write_bytes(b"\xef\xbb\xbf" + "".join(f"{line}{end}" for line in lines).encode())
    assert read(path) == expected
    assert len(expected) == (1 if name == "expo.toml" else 2)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", READERS)
def test_utf_16_is_named(name, encoding, tmp_path):
    read, lines = READERS[name]
    path = tmp_path / name
    path.write_bytes("\n".join(lines).encode(encoding))
    with pytest.raises(ContractError, match=f"{name}:1: is UTF-16; convert it to UTF-8"):
        read(path)


def test_a_record_that_is_too_long_to_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "BYTES_AT_ONCE", 8)
    monkeypatch.setattr(texts, "LONGEST_LINE", 60)
    path = tmp_path / "index.jsonl"
    path.write_text(
        '{"image":"a.png","prompt":"x"}\n{"image":"b.png","prompt":"' + "x" * 60 + '"}\n'
    )
    with pytest.raises(ContractError, match=r"index.jsonl:2: is longer than"):
        list(jsonl.read(path, ImageEntry))


def plain(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
