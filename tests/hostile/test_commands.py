"""The whole command on hostile files: its exit code, one line on stderr, nothing on stdout."""

import io
import json
import signal
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from expo_cli.main import main
from tests.hostile.test_images import png
from tests.scored import write_scored
from tests.two_agents import main_and_explore


@pytest.fixture
def command(monkeypatch, capfd):
    """Run the command in this process; returns exit code, stdout and stderr."""
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["expo", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capfd.readouterr()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def parquet(columns: dict) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


PREP = ("prep-prompts", "IN", "--out", "OUT", "--quiet")
ROLLOUT = ("rollout", "IN", "--out", "OUT", "--policy", "embedded:emoji-sd", "--quiet")
IMPORT = ("make-pairs", "IN", "--vae", "embedded:emoji-sd", "--out", "OUT", "--quiet", "--layout")
TRAIN = ("train", "IN", "--init-from", "embedded:emoji-sd", "--out", "OUT", "--quiet")
PROMPT = b'{"prompt_id":"a","prompt":"a cat"}\n'
DEEP = b"[" * 100_000
PAIRS = {"caption": ["a"], "label_0": [1.0], "label_1": [0.0]}


@pytest.mark.parametrize(
    ("name", "data", "arguments", "code", "place"),
    [
        ("p.csv", b'prompt\n"a\n', PREP, 1, ":2: unexpected end of data"),
        ("p.csv", b"prompt\na\0b\x1b[2J,x\n", PREP, 1, ":2: 2 fields"),
        ("p.tsv", b"prompt\n\xff\n", PREP, 1, ":2: not UTF-8"),
        ("p.txt", b"a\n\xed\xa0\x80\n", PREP, 1, ":2: not UTF-8"),
        ("p.jsonl", b'{"prompt":"a"}\n{"prompt":' + DEEP + b"\n", PREP, 1, ":2: "),
        ("p.jsonl", b'{"prompt":"\\ud800"}\n', PREP, 1, ":1: "),
        ("p.jsonl", b'{"prompt":NaN}\n', PREP, 1, ":1: "),
        ("p.parquet", b"PAR1" + bytes(100) + b"PAR1", PREP, 1, ": not a complete parquet file"),
        ("p.parquet", parquet({"prompt": [b"\xff"]}), PREP, 1, ":1: 'prompt' must be text"),
        ("p.json", DEEP, (*PREP, "--layout", "hps-benchmark"), 1, ":1: "),
        ("p.txt", b"\n \n", PREP, 1, None),
        ("p.jsonl", PROMPT + b'{"prompt_id":"../b","prompt":"x"}\n', ROLLOUT, 1, ":2: prompt_id"),
        ("p.jsonl", PROMPT + PROMPT, ROLLOUT, 1, ":2: prompt_id a is already on line 1"),
        ("p.jsonl", PROMPT[:-9], ROLLOUT, 1, ":1: "),
        ("p.jsonl", b"", ROLLOUT, 1, ": no prompts"),
        ("p.jsonl", b"\xff\xfe" + PROMPT.decode().encode("utf-16-le"), ROLLOUT, 1, ":1: is UTF-16"),
        ("p.jsonl", PROMPT.replace(b"}", b',"num_tokens":1e400}'), ROLLOUT, 1, ":1: "),
        ("p.jsonl", PROMPT.replace(b"}", b',"k\xff":1}'), ROLLOUT, 1, ":1: "),
        ("x.parquet", parquet(PAIRS), (*IMPORT, "pick-a-pic"), 1, ": no column 'jpg_0'"),
        (
            "x.parquet",
            parquet(PAIRS | {"jpg_0": [png(10**6, 10**6)], "jpg_1": [b"x"]}),
            (*IMPORT, "pick-a-pic"),
            1,
            ":1: jpg_0: has too many pixels",
        ),
        (
            "metadata.jsonl",
            b'{"winner_file_name":"../a.png","loser_file_name":"b.png","prompt":"x"}\n',
            (*IMPORT, "imagefolder"),
            1,
            ":1: '../a.png' leaves the folder",
        ),
        ("t.json", b'[{"prompt":1e999}]', (*IMPORT, "hpdv2:images=."), 1, ":1: "),
        ("q.jsonl", b'{"pair_id":"q"}\n', TRAIN, 1, ":1: Object missing required field"),
        ("q.jsonl", b"\x80\x04\x95", TRAIN, 1, ":1: "),
        ("q.jsonl", b"\n", TRAIN, 1, ":1: empty line"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_input(name, data, arguments, code, place, command, tmp_path):
    path, out = tmp_path / name, tmp_path / "out" / "made"
    path.write_bytes(data)
    arguments = [{"IN": path, "OUT": out}.get(a, a) for a in arguments]
    found, stdout, stderr = command(*arguments)
    assert (found, stdout) == (code, "")
    assert stderr.startswith(f"expo: {path}{place}" if place else "expo: "), stderr[:300]
    assert stderr.count("\n") == 1
    assert stderr[:-1].isprintable()
    assert not out.exists()


@pytest.mark.parametrize(
    ("toml", "code", "what"),
    [
        ("[train]\nlearning_rat = 1\n", 2, "[train] has no key 'learning_rat'; did you mean"),
        ("[trian]\n", 2, "'trian' is not the table of a command"),
        ('[train]\nlearning_rate = "1"\n', 2, "[train] learning_rate: Expected `float`, got `str`"),
        ("[train]\nuse_lora = 1\n", 2, "[train] use_lora: Expected `bool`, got `int`"),
        ("[train]\nobjective = [1]\n", 2, "[train] objective: Expected `str`, got `array`"),
        ("[train]\nseed = 1979-05-27\n", 2, "[train] seed: Expected `int`, got `date`"),
        ("[train]\n[train.seed]\na = 1\n", 2, "[train] seed: Expected `int`, got `object`"),
        ("[train]\n\x1b]0;owned = 1\n", 1, ""),
        ('[train]\n"\\u001b]0;x" = 1\n', 2, "[train] has no key "),
        ("[train]\nseed = " + "[" * 50_000, 1, ""),
        ("[train]\nseed = " + "9" * 5000, 1, ""),
        ("\ufeff[trian]\n", 2, "'trian' is not the table of a command"),
    ],
)
def test_settings_of_a_file(toml, code, what, command, tmp_path):
    path = tmp_path / "expo.toml"
    path.write_text(toml)
    found, stdout, stderr = command(
        *("train", "p", "--out", tmp_path / "o", "--init-from", "x", "--config", path)
    )
    assert (found, stdout) == (code, "")
    assert stderr.startswith(f"expo: {path}: {what}")
    assert stderr.count("\n") == 1
    assert stderr[:-1].isprintable()


def test_an_index_of_images(command, tmp_path):
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png(10**6, 10**6))
    Image.new("CMYK", (2, 2)).save(tmp_path / "cmyk.jpg")
    judge = tmp_path / "judge"
    judge.write_text("#!/bin/sh\nexit 0\n")
    judge.chmod(0o755)
    for image, what in (
        ("bomb.png", "has too many pixels"),
        ("cmyk.jpg", "is CMYK"),
        ("/etc/passwd", "leaves the folder"),
        ("none.png", "no such image"),
        ("\x1b[2J", "no such image"),
    ):
        index = tmp_path / "index.jsonl"
        index.write_text(json.dumps({"image": image, "prompt": "\x1b]0;x\x07"}) + "\n")
        code, stdout, stderr = command(
            *("score", tmp_path, "--index", index, "--reward", f"exec:{judge}", "--quiet"),
            *("--out", tmp_path / "scores"),
        )
        assert (code, stdout) == (1, "")
        assert stderr.startswith(f"expo: {index}:1: ")
        assert what in stderr
        assert stderr.count("\n") == 1
        assert stderr[:-1].isprintable()


@pytest.mark.parametrize(
    ("name", "data", "place"),
    [
        ("run.json", b"{", "run.json: "),
        (
            "run.json",
            b'{"command":"rollout","plan":{"num_parts":1e15}}',
            ": its run.json has a bad",
        ),
        ("run.json", b'{"command":"rollout","plan":{}}', ": its run.json has no 'num_pa"),
        ("part-00000.jsonl", b"\n", "part-00000.jsonl:1: empty line"),
        ("scores/part-00000.r.jsonl", b'{"score":NaN}\n', "scores/part-00000.r.jsonl:1: "),
        ("scores/part-00000.r.safetensors", b"\x80\x02}", "part-00000.r.safetensors: is a pickle"),
        ("part-00000.safetensors", b"\xff" * 99, "part-00000.safetensors: not a complete"),
    ],
)
def test_a_damaged_rollout_is_not_evaluated(name, data, place, command, tmp_path):
    rollout = write_scored(
        tmp_path / "a", rewards={"r": lambda f, n, i: n}, num_prompts=2, embeddings=True
    )
    (rollout / name).write_bytes(data)
    code, stdout, stderr = command("evaluate", f"a={rollout}", "--out", tmp_path / "o", "--quiet")
    assert (code, stdout) == (1, "")
    assert stderr.startswith(f"expo: {rollout}")
    assert place in stderr
    assert stderr.count("\n") == 1


def test_damaged_rollouts_make_no_pairs(command, tmp_path):
    first, second = main_and_explore(tmp_path)
    path: Path = first / "part-00000.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    out = tmp_path / "pairs.jsonl"
    code, stdout, stderr = command("make-pairs", first, second, "--out", out, "--quiet")
    assert (code, stdout) == (1, "")
    assert stderr.startswith(f"expo: {path}:4: ")
    assert not out.exists()
