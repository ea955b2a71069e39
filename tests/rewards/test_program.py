"""`exec:PROGRAM`: a real program, and every way in which one can go wrong."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from expo_cli.errors import ExpoError
from expo_cli.registry import REWARDS, build
from expo_cli.rewards.protocol import Batch

# An example of such a program: how red an image is, times the words of its prompt.
REDNESS = """
import json, sys
from pathlib import Path
from PIL import Image

answers = []
for line in sys.stdin:
    question = json.loads(line)
    assert Path(question["image"]).is_absolute()
    red = Image.open(question["image"]).getpixel((0, 0))[0]
    score = red * len(question["prompt"].split())
    answers.append({"sample_id": question["sample_id"], "score": score})
for answer in reversed(answers):
    print(json.dumps(answer))
"""

BATCH = Batch(
    sample_ids=["a", "b", "c"],
    prompts=["one", "two words", "three « words »"],
    images=[Image.new("RGB", (4, 4), (value, 9, 9)) for value in (10, 20, 30)],
)


def judge(path):
    reward = build(REWARDS, f"exec:{path}")
    reward.load(torch.device("cpu"), torch.float32)
    return reward.judge(BATCH)


def test_a_program_scores_images_and_prompts_in_any_order(program):
    judgement = judge(program(REDNESS))
    assert judgement.raw == [10, 40, 120]
    assert (judgement.scale, judgement.embeddings) == (1, None)


def test_the_identity_is_the_program_itself(program):
    before = build(REWARDS, f"exec:{program(REDNESS)}").identity()
    assert build(REWARDS, f"exec:program={program(REDNESS)}").identity() == before
    assert build(REWARDS, f"exec:{program(REDNESS + '#')}").identity() != before


def test_images_are_gone_afterwards(program, tmp_path):
    log = tmp_path / "images"
    judge(
        program(f"import shutil, sys\nopen({str(log)!r}, 'w').write(sys.stdin.read())\n" + ANSWER)
    )
    assert log.read_text().count("\n") == 3
    assert not any(Path(line.split('"')[7]).exists() for line in log.read_text().splitlines())


ANSWER = 'for i in \'abc\': print(\'{"sample_id": "%s", "score": 1}\' % i)\n'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import sys; sys.exit('no CUDA here')", "exit code 1: no CUDA here"),
        ("raise SystemExit(3)", r"exit code 3: \(nothing on stderr\)"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
        ("x = {}['key']", "exit code 1: KeyError: 'key'"),
        ("pass", "no score for 3 of 3 samples, the first is a"),
        (ANSWER.replace("'abc'", "'ab'"), "no score for 1 of 3 samples, the first is c"),
        (ANSWER + "print('loading ...')", "line 4 .* is not a score .*'loading ...'"),
        (ANSWER.replace("'abc'", "'abcd'"), "line 4 .* 'd', which is not among its samples"),
        (ANSWER.replace("'abc'", "'abb'"), "line 3 .* scores b again"),
        (ANSWER.replace("1}", "NaN}"), "line 1 .* is not a score .*NaN"),
        (ANSWER.replace("1}", "1e999}"), "line 1 .* is not a score .*1e999"),
        (ANSWER.replace("1}", "null}"), r"line 1 .*Expected `float`, got `null`"),
        (ANSWER.replace("score", "value"), "missing required field `score`"),
        (
            "print(chr(0xe9))\nimport sys; sys.stdout.buffer.write(bytes([255, 10]))",
            "is not a score",
        ),
    ],
)
def test_a_program_that_goes_wrong_is_one_line(program, body, message):
    with pytest.raises(ExpoError, match=message) as caught:
        judge(program(body))
    assert "\n" not in str(caught.value)


def test_a_program_that_reads_nothing_is_no_broken_pipe(program):
    assert judge(program("import sys\nsys.stdin.close()\n" + ANSWER)).raw == [1, 1, 1]


def test_a_program_must_exist_and_be_executable(tmp_path):
    with pytest.raises(ExpoError, match="not an executable program$"):
        judge(tmp_path / "nothing")
    (tmp_path / "plain.py").write_text("")
    with pytest.raises(ExpoError, match="chmod"):
        judge(tmp_path / "plain.py")
