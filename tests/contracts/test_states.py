import json
import shutil

import pytest

from expo_cli.contracts.states import (
    DIGESTS,
    STATE_FILES,
    check_state,
    saved_steps,
    seal_state,
    state_folder,
)
from expo_cli.errors import ExpoError


@pytest.fixture
def state(tmp_path):
    folder = state_folder(tmp_path, 12)
    folder.mkdir(parents=True)
    for name in STATE_FILES:
        (folder / name).write_text(f"the {name} of a state")
    seal_state(folder)
    return folder


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_state_that_was_not_touched(state, tmp_path):
    assert (state.name, saved_steps(tmp_path)) == ("step-00000012", [12])
    assert not check_state(state)


@pytest.mark.parametrize("name", STATE_FILES)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (flip_a_bit, "truncated or damaged"),
        (truncate, "truncated or damaged"),
        (lambda path: path.unlink(), "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_named(name, spoil, message, state):
    spoil(state / name)
    with pytest.raises(ExpoError, match=f"{name}: {message}"):
        check_state(state)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, "truncated"),
        (flip_a_bit, "damaged|malformed|invalid"),
        (lambda path: path.unlink(), f"{DIGESTS}: cannot be read"),
        (lambda path: path.write_text("{"), f"{DIGESTS}: Input data was truncated"),
        (lambda path: path.write_text("[1]"), f"{DIGESTS}: Expected `object`"),
        (lambda path: path.write_bytes(b'{"a":"\xff"}'), f"{DIGESTS}: "),
        (lambda path: path.write_text(json.dumps({})), f"{STATE_FILES[0]}: truncated or damaged"),
    ],
)
def test_broken_digests(spoil, message, state):
    spoil(state / DIGESTS)
    with pytest.raises(ExpoError, match=message):
        check_state(state)


def test_a_file_where_a_state_should_be(state):
    shutil.rmtree(state)
    state.touch()
    with pytest.raises(ExpoError, match="cannot be read"):
        check_state(state)
