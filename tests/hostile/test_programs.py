"""`exec:` rewards that answer wrongly, too much or not at all: one line, and bounded memory."""

import os
import random
import resource
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from expo_cli.errors import ContractError, ExpoError
from expo_cli.registry import REWARDS, build
from expo_cli.rewards.protocol import Batch
from tests.hostile.damage import VALUES, changed, every, fault

IDS = ("a", "b", "c")
BATCH = Batch(
    sample_ids=IDS, prompts=["x", "y", "\x1b]0;z\x07"], images=[Image.new("RGB", (2, 2))] * 3
)
GOOD = "".join(f'{{"sample_id":"{i}","score":{n}}}\n' for n, i in enumerate(IDS)).encode()


def judge(program: Path):
    reward = build(REWARDS, f"exec:{program}")
    reward.load(torch.device("cpu"), torch.float32)
    return reward.judge(BATCH)


@pytest.fixture
def script(program):
    """Write an executable shell script of the given body; returns its path."""
    return partial(program, interpreter="/bin/sh")


def answers(tmp_path: Path, data: bytes):
    """What becomes of answers, without starting a program for each."""
    path = tmp_path / "answers"
    path.write_bytes(data)
    with path.open("r+b") as file:
        return build(REWARDS, "exec:judge")._scores(file, IDS)


def test_damaged_answers(tmp_path):
    def check(data: bytes) -> None:
        try:
            scores = answers(tmp_path, data)
        except ContractError as error:
            fault(error, "exec: judge: ")
        else:
            assert scores.keys() == set(IDS)
            assert all(isinstance(score, float) for score in scores.values())

    assert answers(tmp_path, GOOD) == {"a": 0, "b": 1, "c": 2}
    every(changed(GOOD, 600), check)
    for key in ("score", "sample_id", "more"):
        line = b'{"sample_id":"a","score":1,"more":2}'
        old = {"score": b"1", "sample_id": b'"a"', "more": b"2"}[key]
        every(
            [
                (
                    f"{key} {n}",
                    line.replace(
                        b'"%s":%s' % (key.encode(), old), b'"%s":%s' % (key.encode(), value)
                    )
                    + b"\n"
                    + GOOD[28:],
                )
                for n, value in enumerate(VALUES)
            ],
            check,
        )


def test_any_order_is_right(tmp_path):
    lines = GOOD.splitlines(keepends=True)
    for seed in range(6):
        random.Random(seed).shuffle(lines)
        assert answers(tmp_path, b"".join(lines)) == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("head -c 1 >/dev/null; exit 0", "no score for 3 of 3"),
        ("exec <&-; exec >&-; exit 0", "no score for 3 of 3"),
        ("kill -9 $$", "exit code -9"),
        ("cat", "is not a score"),
        ("yes | head -n 100000", "line 1 of its output is not a score"),
        ("head -c 3000000 /dev/zero | tr '\\0' x", "line 1 of its output is not a score"),
        ("printf '\\033]0;title\\007 fails' >&2; exit 3", "exit code 3: "),
        ("head -c 3000000 /dev/zero | tr '\\0' y >&2; exit 3", "exit code 3: y"),
        ("printf '\\377\\376\\n' >&2; exit 4", "exit code 4"),
    ],
)
def test_programs_that_go_wrong(script, body, message):
    with pytest.raises(ExpoError) as raised:
        judge(script(body))
    assert message in str(raised.value)
    fault(raised.value, "exec: ")


def test_a_gigabyte_on_standard_error_is_not_held_in_memory(script):
    path = script("head -c 1000000000 /dev/zero >&2\ncat <<'END'\n" + GOOD.decode() + "END")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert judge(path).raw == [0, 1, 2]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < (1 << 16 if sys.platform == "linux" else 1 << 26)


def test_a_grandchild_that_stays_does_not_hold_the_answer_back(script, tmp_path):
    path = script(f"sleep 60 & echo $! >{tmp_path / 'child'}\ncat <<'END'\n{GOOD.decode()}END")
    try:
        assert judge(path).raw == [0, 1, 2]
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
