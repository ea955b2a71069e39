"""Streams that are full, closed or read once, and numbers without sense: one line, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = line.replace("expo ", f"{sys.executable} -m expo_cli ")
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("expo prep-prompts a.txt --out - > /dev/full", 1),
        ("expo prep-prompts a.txt --out o.jsonl > /dev/full", 1),
        ("expo prep-prompts a.txt --out - >&-", 1),
        ("expo prep-prompts - --out o.jsonl <&-", 1),
        ("expo prep-prompts a.txt --out o.jsonl --seed -1", 2),
        (f"expo prep-prompts a.txt --out o.jsonl --seed {2**63}", 2),
        ("expo rollout a.txt --policy x --out r --num-images-per-prompt 1000000000", 2),
        ("expo rollout a.txt --policy x --out r --height 1000000", 2),
        ("expo evaluate a=x --out r --num-bootstrap 1", 2),
        ("expo train - --init-from x --out r --dry-run", 2),
    ],
)
def test_one_line_and_its_exit_code(line: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\n")
    ended = shell(line, tmp_path)
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == code
    assert last.startswith("expo: ")
    assert "Traceback" not in ended.stderr


def test_a_pipe_among_the_inputs_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\n")
    (tmp_path / "b.txt").write_text("a dog\na cow\n")
    ended = shell("expo prep-prompts a.txt <(cat b.txt) --layout txt --out o.jsonl", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 3
