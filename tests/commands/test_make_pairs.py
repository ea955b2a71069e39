import json
from pathlib import Path

import pytest

from tests.preferences import pick_a_pic_rows, write_parquet, write_pick_a_pic
from tests.two_agents import main_and_explore


@pytest.fixture
def rollouts(tmp_path) -> list[Path]:
    return main_and_explore(tmp_path)


def run(expo, tmp_path, *arguments):
    return expo("make-pairs", "it1/main", "it1/explore", *arguments, cwd=tmp_path)


def test_the_command_prints_the_path_and_says_what_was_dropped(rollouts, tmp_path, expo):
    done = run(expo, tmp_path, "--out", "pairs.jsonl")
    assert (done.returncode, done.stdout) == (0, "pairs.jsonl\n")
    assert "2 pairs from 3 prompts and 12 samples, dropped 1 ties" in done.stderr
    again = run(expo, tmp_path, "--out", "pairs.jsonl", "--json")
    assert json.loads(again.stdout)["counts"]["num_pairs"] == 2


def test_the_command_writes_pairs_to_stdout(rollouts, tmp_path, expo):
    done = run(expo, tmp_path, "--out", "-")
    run(expo, tmp_path, "--out", "pairs.jsonl")
    assert done.stdout == (tmp_path / "pairs.jsonl").read_text()


@pytest.mark.parametrize(
    ("remove", "arguments", "code", "message"),
    [
        ("it1/main/part-00001.jsonl", (), 1, "1 of 2 parts are missing (1); run the same `expo ro"),
        (
            "it1/main/part-00001.safetensors",
            (),
            1,
            "1 of 2 parts are missing (1); run the same `expo ro",
        ),
        (
            "it1/explore/scores/part-00000.pick.jsonl",
            (),
            1,
            "(0); run the same `expo score it1/explore --reward pick` again",
        ),
        ("it1/main/run.json", (), 1, "it1/main/run.json: missing"),
        (None, ("--min-margin", "100"), 1, "no pairs left from 3 prompts and 12 samples: dropped"),
        (None, ("--reward", "pikc"), 2, "no scores by 'pikc'; did you mean 'pick'?"),
        (None, ("--min-margin", "-1"), 2, "--min-margin must not be negative"),
        (None, ("--label-agreement", "0.4"), 2, "--label-agreement must be from 0.5 to 1, or 0"),
        (
            None,
            ("--label-agreement", "0.7", "--min-margin", "100"),
            1,
            "no pairs left from 3 prompts and 12 samples: dropped 2 pairs below min margin, 1 ties",
        ),
        (None, ("--pairing", "best-wurst"), 2, "did you mean 'best-worst'?"),
        (None, ("--combine", "z-scor"), 2, "did you mean 'z-score'?"),
        (None, ("--pairing", "top-bottom:k=0"), 2, "k must be positive"),
        (None, ("--out", "it1/main/pairs.jsonl"), 2, "a folder above all rollouts"),
        (None, ("--out", "-", "--json"), 2, "--json contradicts --out -"),
    ],
)
def test_one_line_for_every_error(rollouts, tmp_path, expo, remove, arguments, code, message):
    if remove:
        (tmp_path / remove).unlink()
    done = run(expo, tmp_path, "--out", "pairs.jsonl", "--quiet", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert message in done.stderr
    assert not (tmp_path / "pairs.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"sample_id": "cat-main-1-0", "prom',
            "part-00000.pick.jsonl:1: JSON is malformed",
        ),
        (
            '{"sample_id":"cat-main-1-0","prompt_id":"cat","reward":"pick","score":NaN,"raw":0}',
            "part-00000.pick.jsonl:1: ",
        ),
        (
            '{"sample_id":"cat-main-1-0","prompt_id":"cat","reward":"pick","score":null,"raw":0}',
            "part-00000.pick.jsonl:1: Expected `float`, got `null`",
        ),
    ],
)
def test_a_bad_line_of_scores_is_named(rollouts, tmp_path, expo, line, message):
    (tmp_path / "it1/main/scores/part-00000.pick.jsonl").write_text(line + "\n")
    done = run(expo, tmp_path, "--out", "pairs.jsonl", "--quiet")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr


def test_the_same_rollout_twice(rollouts, tmp_path, expo):
    done = expo("make-pairs", "it1/main", "it1/../it1/main", "--out", "pairs.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is given twice" in done.stderr


def test_a_rollout_without_scores(rollouts, tmp_path, expo):
    (rollouts[0] / "scores").rename(tmp_path / "elsewhere")
    done = expo("make-pairs", "it1/main", "--out", "pairs.jsonl", cwd=tmp_path)
    assert done.returncode == 1
    assert "run `expo score it1/main --reward NAME` first" in done.stderr


def test_from_images_to_a_checkpoint_and_out_again(expo, tmp_path, tiny_sd):
    """import -> train -> export -> import, by the installed command alone."""
    write_pick_a_pic(tmp_path / "train.parquet")
    importing = ("--layout", "pick-a-pic", "--vae", tiny_sd)

    def run(*arguments) -> str:
        done = expo(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
        return done.stdout

    made = run("make-pairs", "train.parquet", *importing, "--flip", "--out", "d/pairs.jsonl")
    assert made == "d/pairs.jsonl\n"
    training = ("--max-train-steps", "2", "--train-batch-size", "2", "--use-lora")
    run("train", "d/pairs.jsonl", "--init-from", tiny_sd, "--out", "checkpoint", *training)
    assert (tmp_path / "checkpoint/adapter_config.json").exists()
    made = run("make-pairs", "d/pairs.jsonl", "--export", "pick-a-pic", "--out", "export")
    assert made == "export\n"
    [exported] = (tmp_path / "export/data").iterdir()
    run("make-pairs", exported, *importing, "--out", "back/pairs.jsonl")
    there, back = (
        [json.loads(line) for line in (tmp_path / name / "pairs.jsonl").read_text().splitlines()]
        for name in ("d", "back")
    )
    for ours, theirs in zip(there, back, strict=True):
        assert theirs["prompt"] == ours["prompt"]
        for role in ("winner", "loser"):
            assert theirs[role]["sample_id"] == ours[role]["sample_id"]


NO_IMAGES = {"caption": "x", "image_0_url": "u", "label_0": 1.0, "label_1": 0.0}
TRUNCATED = {"jpg_1": b"\x89PNG\r\n\x1a\n", "image_1_uid": "bad"}


@pytest.mark.parametrize(
    ("row", "arguments", "code", "message"),
    [
        (NO_IMAGES, (), 1, "in.parquet: is a `_no_images` variant of Pick-a-Pic"),
        ({"label_1": 1.0}, (), 1, "in.parquet:1: label_0 and label_1 are 1.0 and 1.0"),
        (TRUNCATED, (), 1, "in.parquet:1: jpg_1: cannot be read as an image"),
        ({}, ("--reward", "pickscore"), 2, "--reward contradicts --layout"),
        ({}, ("--out", "-"), 2, "--out - contradicts --layout"),
        ({}, ("--shard", "2/2"), 2, "--shard '2/2' must be i/n"),
        ({}, ("--export", "pick-a-pic"), 2, "--layout contradicts --export"),
        ({}, ("--vae", "no/such/model/at/all"), 1, "no/such/model/at/all: no such model folder"),
    ],
)
def test_one_line_for_every_error_of_a_layout(
    expo, tmp_path, tiny_sd, row, arguments, code, message
):
    row = row if row is NO_IMAGES else pick_a_pic_rows()[0] | row
    write_parquet(tmp_path / "in.parquet", [row])
    done = expo(
        *("make-pairs", "in.parquet", "--layout", "pick-a-pic", "--vae", tiny_sd),
        *("--out", "d/pairs.jsonl", "--quiet", *arguments),
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert message in done.stderr
    assert not (tmp_path / "d/pairs.jsonl").exists()


def test_settings_of_images_need_images(rollouts, tmp_path, expo):
    done = run(expo, tmp_path, "--out", "pairs.jsonl", "--flip")
    assert (done.returncode, done.stderr) == (2, "expo: --flip needs --layout\n")
    done = run(expo, tmp_path, "--out", "pairs.jsonl", "--shard", "0/2")
    assert done.returncode == 2
    assert "--shard needs --layout or --export" in done.stderr
